//! What changes the chain: blocks are applied, logged, published, repaired.

use std::sync::{Arc, PoisonError};

use alloy_primitives::Bytes;
use axolotl_common::{BlockProof, Hash, Height, limits::MAX_RECORDS_AHEAD_BYTES};
use axolotl_ledger::{Block, ExecutedBlock, ExecutionError, RootCache, TimeLimit, execute_block};

use super::{Inner, RawBlock, StorageError, StoredBlock, epochs::Tip, layers::StateAt, lock};
use crate::storage::block_log::{BlockRecord, NewBlock};

impl Inner {
    pub(super) fn tip(&self) -> Tip {
        self.tip
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn state_at(&self, height: u64) -> StateAt {
        StateAt {
            layers: Arc::clone(&self.layers),
            height,
        }
    }

    pub(super) fn check(&self) -> Result<(), StorageError> {
        match self.failed.get() {
            Some(why) => Err(StorageError::Fatal(why.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn keep_failure<T>(
        &self,
        result: Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if let Err(error) = &result {
            self.note_failure(error);
        }
        result
    }

    pub(super) fn note_failure(&self, error: &StorageError) {
        if let StorageError::Fatal(why) = error {
            // The first reason is the one that counts.
            let _ = self.failed.set(why.clone());
        }
    }

    pub(super) fn execute(
        &self,
        roots: &RootCache,
        block: Block,
        limit: &dyn TimeLimit,
    ) -> Result<ExecutedBlock, ExecutionError> {
        let tip = self.tip().head;
        let state = self.state_at(tip.header.number);
        execute_block(
            &self.spec,
            &tip.header,
            tip.hash,
            &state,
            roots,
            tip.governance(),
            block,
            limit,
        )
    }

    /// Applies a block that was executed on the tip, and writes it to the log.
    pub(super) fn append(
        &self,
        executed: ExecutedBlock,
        proof: BlockProof,
    ) -> Result<(), StorageError> {
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        let tip = self.tip().head;
        let header = &executed.block.header;
        if header.parent_hash != tip.hash || header.number != tip.header.number + 1 {
            return Err(StorageError::NotOnTip {
                height: Height(header.number),
                tip: tip.height(),
            });
        }
        // Executed before the record took force: it stands under another epoch.
        if let Some(due) = &tip.due
            && executed.block.record().map(|signed| signed.record.number) != Some(due.record.number)
        {
            return Err(StorageError::NotOnTip {
                height: Height(header.number),
                tip: tip.height(),
            });
        }
        self.log(&executed, &proof)?;
        self.apply(&mut roots, executed, proof)
    }

    /// Writes an executed block to the log.
    pub(super) fn log(
        &self,
        executed: &ExecutedBlock,
        proof: &BlockProof,
    ) -> Result<(), StorageError> {
        let transactions = executed.block.transactions.iter();
        let senders: Vec<_> = transactions.map(|tx| tx.sender()).collect();
        Ok(self.blocks.append(&NewBlock {
            height: Height(executed.block.header.number),
            block: &executed.bytes,
            proof,
            receipts: Some(&executed.receipts),
            senders: &senders,
        })?)
    }

    /// Applies a block that is in the log, and puts the record into force that adopts it.
    pub(super) fn apply(
        &self,
        roots: &mut RootCache,
        executed: ExecutedBlock,
        proof: BlockProof,
    ) -> Result<(), StorageError> {
        let tip = self.tip();
        let before = self.state_at(tip.head.header.number);
        let reverse = executed
            .diff
            .inverse(&before)
            .map_err(|e| StorageError::Fatal(e.to_string()))?;
        let ExecutedBlock {
            block,
            hash,
            receipts,
            diff,
            roots: delta,
            ..
        } = executed;
        self.layers.apply(hash, &block.transactions, diff, reverse);
        roots.apply(delta);
        let next = tip.above(&self.spec, &block, hash, &proof);
        lock(&self.cache).insert(Arc::new(StoredBlock {
            block,
            hash,
            receipts,
            proof: Some(proof),
            receipts_lost: false,
        }));
        self.set_tip(next);
        Ok(())
    }

    pub(super) fn set_tip(&self, tip: Tip) {
        *self.tip.write().unwrap_or_else(PoisonError::into_inner) = tip;
    }

    pub(super) fn publish(&self) -> Result<(), StorageError> {
        let tip = self.tip().head;
        self.blocks.sync()?;
        self.head.send_if_modified(|head| {
            let newer = tip.place() > head.place();
            if newer {
                *head = tip;
            }
            newer
        });
        self.checkpoint_if_due()
    }

    pub(super) fn raw_block(&self, height: Height) -> Result<Option<RawBlock>, StorageError> {
        let Some(record) = self.blocks.read(height)? else {
            return Ok(None);
        };
        let proof = record.proof().map_err(|why| damaged(&record, why))?;
        Ok(Some(RawBlock {
            records: lock(&self.records).at(Height(height.0 - 1), MAX_RECORDS_AHEAD_BYTES)?,
            block: Bytes::copy_from_slice(record.block()),
            proof,
        }))
    }

    pub(super) fn repair(
        &self,
        height: Height,
        bytes: &[u8],
        proof: &BlockProof,
    ) -> Result<(), StorageError> {
        let refused = |why: String| StorageError::Repair { height, why };
        let block = Block::decode(bytes, self.spec.chain.id, &|_| None)
            .map_err(|e| refused(e.to_string()))?;
        let hash = block.hash();
        if block.header.number != height.0 || self.layers.block(&hash)? != Some(height.0) {
            return Err(refused(format!("its hash is {hash}")));
        }
        if proof.block() != Some(Hash(hash.0)) || proof.height() != height {
            return Err(refused("the proof is of another block".into()));
        }
        // The header commits to the transactions and to the requests.
        let header = &block.header;
        if block.transactions_root() != header.transactions_root
            || header.requests_hash != Some(axolotl_ledger::block::requests_hash(&block.requests))
        {
            return Err(refused("its body is not that of its header".into()));
        }
        // Keeps the tip where it is, so that a checkpoint does not fall between record and index.
        let _roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        self.blocks.append(&NewBlock {
            height,
            block: bytes,
            proof,
            receipts: None,
            senders: &[],
        })?;
        self.blocks.sync()?;
        lock(&self.cache).remove(height.0);
        Ok(())
    }
}

pub(super) fn damaged(record: &BlockRecord, why: String) -> StorageError {
    StorageError::Damaged {
        height: record.height(),
        position: 0,
        why: format!("block {}: {why}", record.height()),
    }
}
