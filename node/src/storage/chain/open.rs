//! Opening a chain: checkpoint, block log, replay.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use alloy_primitives::B256;
use axolotl_common::{Hash, Height, recovery::Sets};
use axolotl_ledger::{
    Block, ChainSpec, ExecutionError, RootCache, StateDiff, Transaction, Tx, Unlimited,
};
use tokio::sync::watch;

use super::{
    Inner, Replay, StorageError, StorageOptions, StoredBlock, Tip,
    cache::BlockCache,
    checkpoint::Checkpointer,
    epochs::{set_of, stands_alone},
    layers::{HistoryBounds, Layers, StateAt},
    lock,
    records::{RecordStore, Staging},
    write::damaged,
};
use crate::storage::{
    block_log::{BLOCK_LOG_OPTIONS, BlockLog, BlockLogError, BlockRecord, raw_transactions},
    files::{At, create_private_dir},
    schema::Checkpoint,
    state_store::{Base, Pending, StateStore, StoreError},
};

/// Why opening ended.
enum Failure {
    /// The state store is of no use, but can be built again from the block log.
    Rebuild(String),
    Final(StorageError),
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Final(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_damage() {
            Self::Rebuild(error.to_string())
        } else {
            Self::Final(error.into())
        }
    }
}

pub(super) fn open(
    dir: &Path,
    spec: Arc<ChainSpec>,
    genesis_diff: StateDiff,
    options: StorageOptions,
    progress: &mut dyn FnMut(Replay),
) -> Result<Inner, StorageError> {
    create_private_dir(dir).map_err(|e| StorageError::Fatal(e.to_string()))?;
    let path = dir.join("state.redb");
    let why = match try_open(dir, &path, &spec, &genesis_diff, options, progress) {
        Ok(inner) => return Ok(inner),
        Err(Failure::Final(error)) => return Err(error),
        Err(Failure::Rebuild(why)) => why,
    };
    tracing::warn!(
        reason = why,
        "the state store is of no use; it is built again from the block log"
    );
    fs::remove_file(&path)
        .at("remove", &path)
        .map_err(|e| StorageError::Fatal(e.to_string()))?;
    match try_open(dir, &path, &spec, &genesis_diff, options, progress) {
        Ok(inner) => Ok(inner),
        Err(Failure::Final(error)) => Err(error),
        Err(Failure::Rebuild(why)) => Err(StorageError::Fatal(format!(
            "the state store was built again and is still of no use: {why}"
        ))),
    }
}

fn try_open(
    dir: &Path,
    path: &Path,
    spec: &Arc<ChainSpec>,
    genesis_diff: &StateDiff,
    options: StorageOptions,
    progress: &mut dyn FnMut(Replay),
) -> Result<Inner, Failure> {
    let store = StateStore::open(path, options.store_cache_bytes)?;
    let (checkpoint, base) = first_checkpoint(&store, spec, genesis_diff)?;
    let genesis = spec.genesis_hash_block();
    if checkpoint.genesis != genesis {
        return Err(Failure::Final(StorageError::OtherChain {
            found: checkpoint.genesis.to_string(),
            expected: genesis.to_string(),
        }));
    }
    let height = Height(checkpoint.height());
    let (blocks, report) = BlockLog::open(
        &dir.join("blocks"),
        BLOCK_LOG_OPTIONS,
        height,
        checkpoint.log_position,
    )
    .map_err(StorageError::from)?;
    if let Some(cut) = &report.cut {
        tracing::warn!(
            path = %cut.path.display(), position = cut.position, bytes = cut.bytes,
            "the block log ended in a record that was not written to its end; it was cut"
        );
    }
    for stretch in &report.damage {
        tracing::error!(
            path = %stretch.path.display(), position = stretch.position, bytes = stretch.bytes,
            "the block log is damaged; what is missing is fetched from the peers"
        );
    }
    for (first, last) in &report.missing {
        tracing::error!(%first, %last, "these blocks are not readable in the block log");
    }
    if blocks.end() < checkpoint.log_position || blocks.top() < height {
        return Err(Failure::Rebuild(format!(
            "it stands at block {height}, but the block log ends before that"
        )));
    }

    let bounds = HistoryBounds {
        blocks: options.history_blocks,
        bytes: options.history_bytes,
    };
    let layers = Arc::new(Layers::new(store, base, height.0, bounds));
    let state = StateAt {
        layers: Arc::clone(&layers),
        height: height.0,
    };
    let roots =
        RootCache::build(&state).map_err(|e| Failure::Final(StorageError::Fatal(e.to_string())))?;
    if roots.root() != checkpoint.header.state_root {
        return Err(Failure::Rebuild(format!(
            "its state root at block {height} is {}, the block says {}",
            roots.root(),
            checkpoint.header.state_root
        )));
    }
    let tip = tip_of(&checkpoint, &blocks)?;
    let inner = Inner {
        spec: Arc::clone(spec),
        options,
        layers,
        logged: (blocks.top(), checkpoint.log_position),
        blocks: Arc::new(blocks),
        roots: RwLock::new(roots),
        head: watch::Sender::new(Arc::clone(&tip.head)),
        tip: RwLock::new(tip),
        cache: Mutex::new(BlockCache::new(options.block_cache_bytes)),
        checkpointer: Mutex::new(Checkpointer::new(height.0)),
        records: Mutex::new(RecordStore::open(&dir.join("epochs"))?),
        staging: Mutex::new(Staging::open(&dir.join("staged"))?),
        failed: OnceLock::new(),
        genesis: Arc::new(genesis_block(spec)),
    };
    replay(&inner, progress)?;
    drop_staged(&inner)?;
    Ok(inner)
}

/// The last checkpoint; makes the one of block 0 in a new store.
fn first_checkpoint(
    store: &StateStore,
    spec: &ChainSpec,
    genesis_diff: &StateDiff,
) -> Result<(Checkpoint, Base), Failure> {
    if let (Some(checkpoint), base) = store.base()? {
        return Ok((checkpoint, base));
    }
    let hash = spec.genesis_hash_block();
    let mut pending = Pending::default();
    pending.add(genesis_diff.clone());
    pending.index(hash, 0, &[]);
    let set = set_of(spec, &spec.genesis.epoch());
    let checkpoint = Checkpoint {
        genesis: hash,
        hash,
        header: spec.genesis_block.header.clone(),
        log_position: 0,
        sets: Sets::from([(set.epoch(), set)]),
        begins: false,
        due: None,
    };
    store.commit(&pending, &checkpoint)?;
    Ok((checkpoint, store.base()?.1))
}

fn genesis_block(spec: &ChainSpec) -> StoredBlock {
    StoredBlock {
        block: spec.genesis_block.clone(),
        hash: spec.genesis_hash_block(),
        receipts: Vec::new(),
        proof: None,
        receipts_lost: false,
    }
}

fn tip_of(checkpoint: &Checkpoint, blocks: &BlockLog) -> Result<Tip, StorageError> {
    let proof = match blocks.read(Height(checkpoint.height())) {
        Ok(record) => record.and_then(|record| record.proof().ok()),
        Err(BlockLogError::Damaged { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Tip::at(checkpoint, proof)
}

/// Executes the blocks after the checkpoint again, up to the first that cannot be read.
fn replay(inner: &Inner, progress: &mut dyn FnMut(Replay)) -> Result<(), StorageError> {
    let first = inner.tip().head.height().next();
    let total = inner.logged.0.0.saturating_sub(first.0 - 1);
    let mut height = first;
    take_up_records(inner)?;
    while height <= inner.logged.0 {
        progress(Replay {
            done: height.0 - first.0,
            total,
        });
        let stored = match inner.blocks.read(height).map_err(StorageError::from) {
            Ok(Some(record)) => decode(&inner.spec, &record),
            Ok(None) => break,
            Err(error) => Err(error),
        };
        let stored = match stored {
            Ok(stored) => stored,
            Err(error @ StorageError::Damaged { .. }) => {
                tracing::error!(
                    %height, %error, logged = %inner.logged.0,
                    "the replay ends before this block; it is fetched from the peers, and the node \
                     does not vote before it stands where it stood"
                );
                break;
            }
            Err(error) => return Err(error),
        };
        let failed = |why: String| StorageError::Replay { height, why };
        restore_record(inner, &stored.block)?;
        let mut roots = inner.roots.write().unwrap_or_else(PoisonError::into_inner);
        let executed =
            inner
                .execute(&roots, stored.block, &Unlimited)
                .map_err(|error| match error {
                    ExecutionError::State(error) => StorageError::Fatal(error.to_string()),
                    ExecutionError::Invalid(why) => failed(why.to_string()),
                    interrupted @ ExecutionError::Interrupted => {
                        StorageError::Fatal(interrupted.to_string())
                    }
                })?;
        if executed.hash != stored.hash {
            return Err(failed(format!("it gives block {}", executed.hash)));
        }
        let proof = stored
            .proof
            .ok_or_else(|| failed("it has no proof".into()))?;
        if let Some(signed) = proof.record() {
            lock(&inner.records).put_if_absent(signed)?;
        }
        inner.apply(&mut roots, executed, proof)?;
        drop(roots);
        // Nothing here is written: the log was synced when it was opened.
        take_up_records(inner)?;
        let size = inner.layers.size();
        if size.bytes >= inner.options.overlay_bytes
            || size.blocks >= inner.options.checkpoint_blocks
        {
            inner.checkpoint_now()?;
        }
        height = height.next();
    }
    progress(Replay {
        done: height.0 - first.0,
        total,
    });
    Ok(())
}

/// Puts the stored records into force that stand on the tip, and shows the tip.
fn take_up_records(inner: &Inner) -> Result<(), StorageError> {
    let mut tip = inner.tip();
    for signed in lock(&inner.records).at(tip.head.height(), usize::MAX)? {
        if tip.awaits(&signed.record) {
            tip = tip.under(&inner.spec, signed);
        }
    }
    inner.head.send_replace(Arc::clone(&tip.head));
    inner.set_tip(tip);
    Ok(())
}

/// Takes a record that the store has lost from the first block of its epoch, which carries it.
fn restore_record(inner: &Inner, block: &Block) -> Result<(), StorageError> {
    let tip = inner.tip();
    match block.record() {
        Some(signed) if stands_alone(signed.record.kind) && tip.awaits(&signed.record) => {
            lock(&inner.records).put_if_absent(&signed)?;
            inner.set_tip(tip.under(&inner.spec, Arc::new(signed)));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Removes what was staged for an epoch that is in force or was passed over.
fn drop_staged(inner: &Inner) -> Result<(), StorageError> {
    let in_force = inner.tip().head.validators.epoch();
    let mut staging = lock(&inner.staging);
    match staging.get() {
        Some(staged) if staged.draft.number <= in_force => staging.clear(),
        _ => Ok(()),
    }
}

/// Decodes a record; the stored senders spare the recovery of each signature.
pub(super) fn decode(spec: &ChainSpec, record: &BlockRecord) -> Result<StoredBlock, StorageError> {
    let failed = |why: String| damaged(record, why);
    let senders = record.senders();
    let mut known: Vec<(B256, Tx)> = Vec::with_capacity(senders.len());
    if !senders.is_empty() {
        let raw = raw_transactions(record.block()).map_err(|e| failed(e.to_string()))?;
        if raw.len() != senders.len() {
            return Err(failed("it names another number of senders".into()));
        }
        for (raw, sender) in raw.into_iter().zip(senders) {
            let tx = Transaction::from_stored(raw, sender).map_err(|e| failed(e.to_string()))?;
            known.push((tx.hash(), Arc::new(tx)));
        }
        known.sort_unstable_by_key(|(hash, _)| *hash);
    }
    let lookup = |hash: &B256| {
        let found = known.binary_search_by_key(hash, |(hash, _)| *hash).ok()?;
        known.get(found).map(|(_, tx)| Arc::clone(tx))
    };
    let block =
        Block::decode(record.block(), spec.chain.id, &lookup).map_err(|e| failed(e.to_string()))?;
    let receipts = record.receipts().map_err(failed)?;
    let proof = record.proof().map_err(failed)?;
    let hash = block.hash();
    if block.header.number != record.height().0 || proof.block() != Some(Hash(hash.0)) {
        return Err(failed(
            "block, proof and record do not belong together".into(),
        ));
    }
    Ok(StoredBlock {
        receipts_lost: receipts.is_none() && !block.transactions.is_empty(),
        block,
        hash,
        receipts: receipts.unwrap_or_default(),
        proof: Some(proof),
    })
}
