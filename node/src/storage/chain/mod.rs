//! The chain on disk and in memory: what the rest of the node uses of the storage.
//!
//! A decided block is executed, then [`Chain::append`] applies it and writes it to the block log, and
//! [`Chain::publish`] syncs the log once and only then makes it visible: *durable before visible*.
//! Between the two the chain has a *tip* above its *head*; sync appends a batch of blocks and
//! publishes once.
//!
//! State at the tip is the last checkpoint with the blocks since then laid over it in memory. A
//! checkpoint is written on a thread of its own, and holds only blocks that are durable. At open the
//! blocks after it are executed again. The state of the last blocks is kept by reverse differences,
//! bounded in number and bytes; they are not on disk, so after a restart history begins at the
//! checkpoint.
//!
//! A damaged block after the checkpoint ends the replay: the head stands before it, the block log
//! says how high it reaches ([`Chain::logged_height`]), and the node fetches what is missing from its
//! peers and must not vote until it stands at that height again. A damaged block before the
//! checkpoint is noticed when it is read, and replaced by [`Chain::repair`].
//!
//! | lock | guards | held |
//! |---|---|---|
//! | `roots` | the tip does not move | read: while a block is built or executed; write: by append |
//! | `layers` | state over the checkpoint | for lookups, and for laying a block over it |
//! | `tip`, `cache` | what their names say | for a copy |
//! | `records`, `staging` | recovery records and drafts, in memory and on disk | for reading or writing a file |
//!
//! Epochs that begin with a planned record follow from the blocks. Recovery and forced records stand
//! between blocks and are kept in a store of their own: see [`recovery`].

mod cache;
mod checkpoint;
mod epochs;
mod error;
mod layers;
mod open;
mod records;
mod recovery;
#[cfg(test)]
mod recovery_refused_tests;
#[cfg(test)]
pub(crate) mod recovery_testing;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod types;
mod write;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
};

use alloy_primitives::B256;
use axolotl_common::{BlockProof, CommitCertificate, Height};
use axolotl_ledger::{
    Block, BlockAttributes, ChainSpec, ExecutedBlock, ExecutionError, FlatState, RootCache,
    StateDiff, TimeLimit, TxSource, build_block,
};
use tokio::sync::watch;

pub use epochs::KNOWN_EPOCHS;
pub use error::{StateUnavailable, StorageError};
pub use recovery::{ActivateError, Activated, StageError, Staged};
pub use types::{ChainStats, Head, RawBlock, Replay, StorageOptions, StoredBlock};

use self::{
    cache::BlockCache,
    checkpoint::Checkpointer,
    epochs::Tip,
    layers::Layers,
    records::{RecordStore, Staging},
};
use super::block_log::BlockLog;

/// The chain. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Chain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: Arc<ChainSpec>,
    options: StorageOptions,
    layers: Arc<Layers>,
    blocks: Arc<BlockLog>,
    roots: RwLock<RootCache>,
    tip: RwLock<Tip>,
    head: watch::Sender<Arc<Head>>,
    cache: Mutex<BlockCache>,
    checkpointer: Mutex<Checkpointer>,
    records: Mutex<RecordStore>,
    staging: Mutex<Staging>,
    /// Why nothing may be written any more.
    failed: OnceLock<String>,
    genesis: Arc<StoredBlock>,
    /// How high the block log reached when it was opened, and where its scan began.
    logged: (Height, u64),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Chain {
    /// Opens or creates the chain in a data directory, and executes the blocks after the last
    /// checkpoint again.
    ///
    /// # Errors
    /// See [`StorageError`]. A damaged block is none: the head then stands before it.
    pub fn open(
        dir: &Path,
        spec: Arc<ChainSpec>,
        genesis_diff: StateDiff,
        options: StorageOptions,
        progress: &mut dyn FnMut(Replay),
    ) -> Result<Self, StorageError> {
        open::open(dir, spec, genesis_diff, options, progress).map(|inner| Self {
            inner: Arc::new(inner),
        })
    }

    /// What all nodes of the chain agree on.
    pub fn spec(&self) -> &Arc<ChainSpec> {
        &self.inner.spec
    }

    /// The last block that is durable and visible.
    pub fn head(&self) -> Arc<Head> {
        Arc::clone(&self.inner.head.borrow())
    }

    /// Follows the head.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Head>> {
        self.inner.head.subscribe()
    }

    /// The last block that is applied, perhaps not durable yet.
    pub fn tip(&self) -> Arc<Head> {
        self.inner.tip().head
    }

    /// How high the block log reached when it was opened. Above the head when a block in between
    /// was damaged: the node must not vote before its head is there again.
    pub fn logged_height(&self) -> Height {
        self.inner.logged.0
    }

    /// Builds a block on top of the tip.
    ///
    /// # Errors
    /// See [`build_block`].
    pub fn build(
        &self,
        attributes: BlockAttributes,
        txs: &mut dyn TxSource,
        limit: &dyn TimeLimit,
    ) -> Result<ExecutedBlock, ExecutionError> {
        let roots = self
            .inner
            .roots
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let tip = self.tip();
        let state = self.inner.state_at(tip.header.number);
        build_block(
            &self.inner.spec,
            &tip.header,
            tip.hash,
            &state,
            &roots,
            tip.governance(),
            attributes,
            txs,
            limit,
        )
    }

    /// Executes a block on top of the tip and checks all that follows from it.
    ///
    /// # Errors
    /// See [`execute_block`].
    pub fn execute(
        &self,
        block: Block,
        limit: &dyn TimeLimit,
    ) -> Result<ExecutedBlock, ExecutionError> {
        let roots = self
            .inner
            .roots
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        self.inner.execute(&roots, block, limit)
    }

    /// Applies a block that was built or executed on the tip, and writes it to the block log. It is
    /// neither durable nor visible before [`Chain::publish`].
    ///
    /// # Errors
    /// [`StorageError::NotOnTip`] changes nothing; [`StorageError::Fatal`] is final.
    pub fn append(
        &self,
        block: ExecutedBlock,
        certificate: CommitCertificate,
    ) -> Result<(), StorageError> {
        self.inner.check()?;
        let result = self.inner.append(block, certificate.into());
        self.inner.keep_failure(result)
    }

    /// Makes everything appended so far durable with one sync, then visible.
    ///
    /// # Errors
    /// Every error is final: the process must end.
    pub fn publish(&self) -> Result<(), StorageError> {
        self.inner.check()?;
        let result = self.inner.publish();
        self.inner.keep_failure(result)
    }

    /// A block at or below the head.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when its record is.
    pub fn block(&self, height: Height) -> Result<Option<Arc<StoredBlock>>, StorageError> {
        if height == Height(0) {
            return Ok(Some(Arc::clone(&self.inner.genesis)));
        }
        if height > self.head().height() {
            return Ok(None);
        }
        if let Some(block) = lock(&self.inner.cache).get(height.0) {
            return Ok(Some(block));
        }
        let Some(record) = self.inner.blocks.read(height)? else {
            return Ok(None);
        };
        let block = Arc::new(open::decode(&self.inner.spec, &record)?);
        lock(&self.inner.cache).insert(Arc::clone(&block));
        Ok(Some(block))
    }

    /// Height of the block with this hash.
    ///
    /// # Errors
    /// When the store fails.
    pub fn height_of(&self, hash: &B256) -> Result<Option<Height>, StorageError> {
        if *hash == self.inner.genesis.hash {
            return Ok(Some(Height(0)));
        }
        let height = self.inner.layers.block(hash)?.map(Height);
        Ok(height.filter(|height| *height <= self.head().height()))
    }

    /// Height and index of the transaction with this hash.
    ///
    /// # Errors
    /// When the store fails.
    pub fn transaction(&self, hash: &B256) -> Result<Option<(Height, usize)>, StorageError> {
        let place = self.inner.layers.transaction(hash)?;
        Ok(place
            .map(|(height, index)| (Height(height), index as usize))
            .filter(|(height, _)| *height <= self.head().height()))
    }

    /// The state after a block. It can be read until the block is further below the tip than the
    /// history reaches.
    ///
    /// # Errors
    /// When the block is above the head, or too old.
    pub fn state(&self, height: Height) -> Result<Arc<dyn FlatState>, StateUnavailable> {
        let head = self.head().height();
        if height > head {
            return Err(StateUnavailable::Future { height, head });
        }
        let oldest = Height(self.inner.layers.oldest());
        if height < oldest {
            return Err(StateUnavailable::Pruned {
                height,
                oldest,
                head,
            });
        }
        Ok(Arc::new(self.inner.state_at(height.0)))
    }

    /// Blocks from a height on as they lie in the log, with the records that took force between them,
    /// for a peer that is behind: at most so many, and no more bytes, but one at least.
    ///
    /// # Errors
    /// When the first is damaged or the log fails. A damaged block further on ends the answer.
    pub fn raw_blocks(
        &self,
        from: Height,
        max_count: usize,
        max_bytes: usize,
    ) -> Result<Vec<RawBlock>, StorageError> {
        let head = self.head().height();
        let (mut blocks, mut bytes): (Vec<RawBlock>, _) = (Vec::new(), 0);
        let mut height = from.max(Height(1));
        while height <= head && blocks.len() < max_count {
            let raw = match self.inner.raw_block(height) {
                Ok(Some(raw)) => raw,
                Ok(None) => break,
                Err(error) if blocks.is_empty() || error.is_fatal() => return Err(error),
                Err(_) => break,
            };
            bytes += raw.size();
            if bytes > max_bytes && !blocks.is_empty() {
                break;
            }
            blocks.push(raw);
            height = height.next();
        }
        Ok(blocks)
    }

    /// Replaces the damaged record of a block at or below the head by the same block from a peer.
    /// The caller has verified the proof. The receipts stay lost.
    ///
    /// # Errors
    /// [`StorageError::Repair`] when this is not that block of this chain.
    pub fn repair(
        &self,
        height: Height,
        bytes: &[u8],
        proof: &BlockProof,
    ) -> Result<(), StorageError> {
        self.inner.check()?;
        let result = self.inner.repair(height, bytes, proof);
        self.inner.keep_failure(result)
    }

    /// Writes a checkpoint of everything published, so that the next start replays nothing.
    ///
    /// # Errors
    /// When it cannot be written; nothing is lost then but time at the next start.
    pub fn close(&self) -> Result<(), StorageError> {
        self.inner.check()?;
        let result = self.inner.close();
        self.inner.keep_failure(result)
    }

    /// What the chain takes.
    pub fn stats(&self) -> ChainStats {
        let size = self.inner.layers.size();
        let (cached_blocks, cached_bytes) = lock(&self.inner.cache).usage();
        ChainStats {
            head: self.head().header.number,
            checkpoint: lock(&self.inner.checkpointer).height(),
            overlay_blocks: size.blocks,
            overlay_bytes: size.bytes,
            history_blocks: size.history_blocks,
            history_bytes: size.history_bytes,
            cached_blocks,
            cached_bytes,
            block_log_bytes: self.inner.blocks.total_bytes(),
        }
    }
}
