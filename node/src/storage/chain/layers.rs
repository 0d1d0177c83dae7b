//! The state at the tip and at the blocks before it.
//!
//! From top to bottom: what the blocks since the last checkpoint changed (`active`), what a running
//! checkpoint is writing (`frozen`), and the last checkpoint (`base`). The state at an earlier block
//! is the state at the tip seen through the reverse differences of the blocks in between, nearest
//! to that block first.
//!
//! The lock is held for the lookup in memory only; the store below is read through an immutable
//! view taken under it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use alloy_primitives::{B256, Bytes, U256};
use axolotl_ledger::{Account, FlatState, StateDiff, StateError, Tx};

use crate::storage::state_store::{Base, Pending, StateStore, StoreError, diff_bytes};

/// What took one block back.
#[derive(Debug)]
struct Reverse {
    diff: StateDiff,
    bytes: usize,
}

#[derive(Debug)]
struct Inner {
    tip: u64,
    /// Blocks in `active`.
    count: u64,
    active: Pending,
    frozen: Option<Arc<Pending>>,
    base: Arc<Base>,
    /// Of the newest blocks, the tip's last.
    history: VecDeque<Reverse>,
    history_bytes: usize,
}

impl Inner {
    /// Reverse differences of the blocks above `height`, nearest to it first.
    fn reverse(
        &self,
        height: u64,
    ) -> Result<impl DoubleEndedIterator<Item = &StateDiff>, StateError> {
        let above = self.tip.checked_sub(height);
        let above = above.and_then(|n| usize::try_from(n).ok());
        match above {
            Some(above) if above <= self.history.len() => {
                let skip = self.history.len() - above;
                Ok(self.history.iter().skip(skip).map(|reverse| &reverse.diff))
            }
            _ => Err(StateError(format!(
                "the state at block {height} is not kept any more"
            ))),
        }
    }

    fn layers(&self) -> impl Iterator<Item = &Pending> {
        std::iter::once(&self.active).chain(self.frozen.as_deref())
    }
}

/// How much lies over the last checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub(super) blocks: u64,
    pub(super) bytes: usize,
    pub(super) history_blocks: usize,
    pub(super) history_bytes: usize,
}

/// Bounds of the history.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryBounds {
    pub(super) blocks: usize,
    pub(super) bytes: usize,
}

/// State and indexes over the store.
#[derive(Debug)]
pub(super) struct Layers {
    pub(super) store: StateStore,
    inner: RwLock<Inner>,
    bounds: HistoryBounds,
}

impl Layers {
    pub(super) fn new(store: StateStore, base: Base, tip: u64, bounds: HistoryBounds) -> Self {
        let inner = Inner {
            tip,
            count: 0,
            active: Pending::default(),
            frozen: None,
            base: Arc::new(base),
            history: VecDeque::new(),
            history_bytes: 0,
        };
        Self {
            store,
            inner: RwLock::new(inner),
            bounds,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Oldest height whose state is there.
    pub(super) fn oldest(&self) -> u64 {
        let inner = self.read();
        inner.tip - inner.history.len() as u64
    }

    pub(super) fn size(&self) -> Size {
        let inner = self.read();
        Size {
            blocks: inner.count,
            bytes: inner.active.bytes,
            history_blocks: inner.history.len(),
            history_bytes: inner.history_bytes,
        }
    }

    /// Applies the block above the tip; `reverse` takes it back.
    pub(super) fn apply(&self, hash: B256, txs: &[Tx], diff: StateDiff, reverse: StateDiff) {
        let bytes = diff_bytes(&reverse);
        let mut dropped = Vec::new();
        let mut inner = self.write();
        inner.tip += 1;
        inner.count += 1;
        let tip = inner.tip;
        inner.active.add(diff);
        inner.active.index(hash, tip, txs);
        inner.history.push_back(Reverse {
            diff: reverse,
            bytes,
        });
        inner.history_bytes += bytes;
        while inner.history.len() > self.bounds.blocks
            || (inner.history_bytes > self.bounds.bytes && inner.history.len() > 1)
        {
            if let Some(old) = inner.history.pop_front() {
                inner.history_bytes -= old.bytes;
                dropped.push(old);
            }
        }
        drop(inner);
        drop(dropped);
    }

    /// Takes what a checkpoint of the tip has to write. `None` when there is nothing, or when a
    /// checkpoint is being written.
    pub(super) fn freeze(&self) -> Option<Arc<Pending>> {
        let mut inner = self.write();
        if inner.frozen.is_some() || inner.count == 0 {
            return None;
        }
        let frozen = Arc::new(std::mem::take(&mut inner.active));
        inner.count = 0;
        inner.frozen = Some(Arc::clone(&frozen));
        Some(frozen)
    }

    /// The checkpoint was written: `base` takes the place of what was frozen.
    pub(super) fn thaw(&self, base: Base) {
        let mut inner = self.write();
        let old = (
            inner.frozen.take(),
            std::mem::replace(&mut inner.base, Arc::new(base)),
        );
        drop(inner);
        drop(old);
    }

    pub(super) fn transaction(&self, hash: &B256) -> Result<Option<(u64, u32)>, StoreError> {
        let inner = self.read();
        if let Some(found) = inner
            .layers()
            .find_map(|layer| layer.transactions.get(hash))
        {
            return Ok(Some(*found));
        }
        let base = Arc::clone(&inner.base);
        drop(inner);
        base.transaction(hash)
    }

    pub(super) fn block(&self, hash: &B256) -> Result<Option<u64>, StoreError> {
        let inner = self.read();
        if let Some(found) = inner.layers().find_map(|layer| layer.blocks.get(hash)) {
            return Ok(Some(*found));
        }
        let base = Arc::clone(&inner.base);
        drop(inner);
        base.block(hash)
    }
}

fn failed(error: StoreError) -> StateError {
    StateError(error.to_string())
}

/// The state at one height.
#[derive(Clone, Debug)]
pub(super) struct StateAt {
    pub(super) layers: Arc<Layers>,
    pub(super) height: u64,
}

impl FlatState for StateAt {
    fn account(&self, key: &B256) -> Result<Option<Account>, StateError> {
        let inner = self.layers.read();
        for diff in inner.reverse(self.height)? {
            if let Some(account) = diff.accounts.get(key) {
                return Ok(*account);
            }
        }
        for layer in inner.layers() {
            if let Some(account) = layer.diff.accounts.get(key) {
                return Ok(*account);
            }
        }
        let base = Arc::clone(&inner.base);
        drop(inner);
        base.account(key).map_err(failed)
    }

    fn storage(&self, account: &B256, slot: &B256) -> Result<U256, StateError> {
        let inner = self.layers.read();
        let look = |diff: &StateDiff| diff.storage.get(account).and_then(|s| s.get(slot)).copied();
        for diff in inner.reverse(self.height)? {
            if let Some(value) = look(diff) {
                return Ok(value);
            }
        }
        for layer in inner.layers() {
            if let Some(value) = look(&layer.diff) {
                return Ok(value);
            }
        }
        let base = Arc::clone(&inner.base);
        drop(inner);
        base.slot(account, slot).map_err(failed)
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, StateError> {
        // Code is never removed, so newer code does no harm.
        let inner = self.layers.read();
        for layer in inner.layers() {
            if let Some(code) = layer.diff.code.get(hash) {
                return Ok(Some(code.clone()));
            }
        }
        let base = Arc::clone(&inner.base);
        drop(inner);
        base.code(hash).map_err(failed)
    }

    fn accounts_from(
        &self,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, &Account),
    ) -> Result<(), StateError> {
        if lo > hi {
            return Ok(());
        }
        let inner = self.layers.read();
        let mut changes: BTreeMap<&B256, &Option<Account>> = BTreeMap::new();
        for layer in inner.frozen.as_deref().into_iter().chain([&inner.active]) {
            changes.extend(layer.diff.accounts.range(lo..=hi));
        }
        for diff in inner.reverse(self.height)?.rev() {
            changes.extend(diff.accounts.range(lo..=hi));
        }
        let changes: Vec<(B256, Option<Account>)> = changes
            .into_iter()
            .map(|(key, account)| (*key, *account))
            .collect();
        let base = Arc::clone(&inner.base);
        drop(inner);
        merge(
            &changes,
            |each| base.accounts(&lo, &hi, each).map_err(failed),
            &mut |key, account| f(key, &account),
        )
    }

    fn storage_from(
        &self,
        account: &B256,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, U256),
    ) -> Result<(), StateError> {
        if lo > hi {
            return Ok(());
        }
        let inner = self.layers.read();
        let mut changes: BTreeMap<&B256, &U256> = BTreeMap::new();
        for layer in inner.frozen.as_deref().into_iter().chain([&inner.active]) {
            if let Some(slots) = layer.diff.storage.get(account) {
                changes.extend(slots.range(lo..=hi));
            }
        }
        for diff in inner.reverse(self.height)?.rev() {
            if let Some(slots) = diff.storage.get(account) {
                changes.extend(slots.range(lo..=hi));
            }
        }
        let changes: Vec<(B256, Option<U256>)> = changes
            .into_iter()
            .map(|(slot, value)| (*slot, (!value.is_zero()).then_some(*value)))
            .collect();
        let base = Arc::clone(&inner.base);
        drop(inner);
        merge(
            &changes,
            |each| base.slots(account, &lo, &hi, each).map_err(failed),
            f,
        )
    }

    fn slot_count(&self, account: &B256) -> Result<u64, StateError> {
        let inner = self.layers.read();
        let changed = |diff: &StateDiff| diff.storage.get(account).map_or(0, BTreeMap::len);
        let reverse: usize = inner.reverse(self.height)?.map(changed).sum();
        let layers: usize = inner.layers().map(|layer| changed(&layer.diff)).sum();
        let base = Arc::clone(&inner.base);
        drop(inner);
        let stored = base.slot_count(account).map_err(failed)?;
        // Each change counts as a slot more: never too few.
        Ok(stored + (reverse + layers) as u64)
    }
}

/// Emits what `scan` yields with `changes` laid over it; both ascend.
fn merge<V: Copy>(
    changes: &[(B256, Option<V>)],
    scan: impl FnOnce(&mut dyn FnMut(B256, V)) -> Result<(), StateError>,
    emit: &mut dyn FnMut(B256, V),
) -> Result<(), StateError> {
    let mut above = changes.iter().peekable();
    scan(&mut |key, below| {
        while let Some((changed, value)) = above.next_if(|(changed, _)| *changed < key) {
            if let Some(value) = value {
                emit(*changed, *value);
            }
        }
        match above.next_if(|(changed, _)| *changed == key) {
            Some((_, Some(value))) => emit(key, *value),
            Some((_, None)) => {}
            None => emit(key, below),
        }
    })?;
    for (changed, value) in above {
        if let Some(value) = value {
            emit(*changed, *value);
        }
    }
    Ok(())
}
