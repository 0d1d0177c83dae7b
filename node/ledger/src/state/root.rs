//! The state root, with what makes the next one cheap.
//!
//! [`RootCache`] holds the upper nodes of the account trie, and those of the storage tries that were
//! used lately. It stands for the state of the last decided block: [`RootCache::compute`] gives a
//! [`RootDelta`], which [`RootCache::apply`] takes when the block is decided. What is cached never
//! changes a root, only the time that it takes.
//!
//! The storage trie of an account that is not cached is read whole, once, *as it is before the
//! block*, and kept whatever becomes of the block: a block that is dropped and built again does not
//! read it again. Such a reading can be stopped and taken up again ([`RootCache::prepare`]), and
//! [`RootCache::estimate`] says beforehand what a root costs.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::{B256, U256};
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, Nibbles};

use super::{
    Account, FIRST_KEY, FlatState, LAST_KEY, RootCost, RootEstimate, StateDiff, StateError,
    storage_tries::{Cached, StorageTries},
    trie::{Change, Hasher, Node, TrieBuild, Value},
};

/// Most bytes that nodes of storage tries take: enough for 2 to 20 million slots
/// of contracts in use, depending on how full their buckets are.
pub const MAX_CACHE_BYTES: usize = 64 << 20;
/// The part of it that the tries in one [`RootDelta`] may take beside the cache: a quarter. A block
/// that touches more of what is not cached is computed all the same, but less of it is remembered.
const DELTA_SHARE: usize = 4;
/// More than nodes of a storage trie take a slot, at any size of the trie.
const SLOT_BYTES: u64 = 64;
/// Where tries end that do not fit into a delta.
const DELTA_BUCKET: u32 = 4_096;

/// What a block changes in a [`RootCache`]; nothing, until it is applied.
#[derive(Clone, Debug)]
pub struct RootDelta {
    before: B256,
    after: B256,
    accounts: Node<Account>,
    storage: BTreeMap<B256, Node<U256>>,
}

impl RootDelta {
    /// The state root after the block.
    pub fn root(&self) -> B256 {
        self.after
    }
}

/// The state root of the last decided block, with the trie nodes that make the next one cheap.
#[derive(Debug)]
pub struct RootCache {
    root: B256,
    accounts: Node<Account>,
    /// Locked for looking up and putting in only, never while a state is read.
    storage: Mutex<StorageTries>,
    max_delta_bytes: usize,
}

impl RootCache {
    /// Reads all accounts of a state. Their storage roots are believed until their storage is read.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn build(state: &dyn FlatState) -> Result<Self, StateError> {
        Self::with_bound(state, MAX_CACHE_BYTES)
    }

    /// The same with another bound than [`MAX_CACHE_BYTES`].
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn with_bound(state: &dyn FlatState, max_bytes: usize) -> Result<Self, StateError> {
        let accounts: Node<Account> = TrieBuild::read_all(
            |leaf| {
                state.accounts_from(FIRST_KEY, LAST_KEY, &mut |key, account| {
                    leaf(key, *account);
                })
            },
            &mut Hasher::default(),
        )?;
        let max_delta_bytes = max_bytes / DELTA_SHARE;
        Ok(Self {
            root: accounts.root(),
            accounts,
            storage: Mutex::new(StorageTries::new(max_bytes - max_delta_bytes)),
            max_delta_bytes,
        })
    }

    /// The state root.
    pub fn root(&self) -> B256 {
        self.root
    }

    /// Storage tries that are cached, and the bytes that they take.
    pub fn usage(&self) -> (usize, usize) {
        let tries = self.tries();
        (tries.len(), tries.bytes())
    }

    /// Finds the root after `diff` on top of `base`, the state that this cache stands for, and
    /// fills in the storage roots of the accounts in `diff`. The root here does not change before the
    /// delta is applied.
    ///
    /// # Errors
    /// When `base` cannot be read or is damaged, or `diff` gives storage to an account that does not
    /// exist.
    pub fn compute(
        &self,
        base: &dyn FlatState,
        diff: &mut StateDiff,
    ) -> Result<RootDelta, StateError> {
        let mut hasher = Hasher::default();
        let mut storage = BTreeMap::new();
        let mut bytes = 0;
        for (key, slots) in &diff.storage {
            let before = base.account(key)?;
            let Some(after) = diff.accounts.get(key).copied().unwrap_or(before) else {
                if diff.accounts.contains_key(key) {
                    continue;
                }
                return Err(StateError(format!("no account {key}, but storage of it")));
            };
            let root = before.unwrap_or_default().storage_root;
            let (trie, read) = self.storage_trie(base, key, root, &mut hasher)?;
            hasher.take_made();
            let value = |value: &U256| (!value.is_zero()).then_some(*value);
            let changes: Vec<Change<U256>> =
                slots.iter().map(|(slot, v)| (*slot, value(v))).collect();
            let mut scan = |lo, hi, leaves: &mut Vec<_>| {
                base.storage_from(key, lo, hi, &mut |slot, value| leaves.push((slot, value)))
            };
            let mut trie = trie.update(0, &changes, &mut scan, &mut hasher)?;
            bytes += hasher.take_made() + read;
            if bytes > self.max_delta_bytes {
                trie = trie.pruned(DELTA_BUCKET);
            }
            storage.insert(*key, (after, trie));
        }
        let mut tries = BTreeMap::new();
        for (key, (account, trie)) in storage {
            let storage_root = trie.root();
            let account = Account {
                storage_root,
                ..account
            };
            diff.accounts.insert(key, Some(account));
            tries.insert(key, trie);
        }
        let gone = diff.accounts.iter().filter(|(_, after)| after.is_none());
        tries.extend(gone.map(|(key, _)| (*key, Node::Empty)));
        let changes: Vec<Change<Account>> = diff.accounts.iter().map(|(k, v)| (*k, *v)).collect();
        let mut scan = |lo, hi, leaves: &mut Vec<_>| {
            base.accounts_from(lo, hi, &mut |key, account| leaves.push((key, *account)))
        };
        let accounts = self.accounts.update(0, &changes, &mut scan, &mut hasher)?;
        Ok(RootDelta {
            before: self.root,
            after: accounts.root(),
            accounts,
            storage: tries,
        })
    }

    /// The storage trie of an account before a block, and the bytes of it that were read just now.
    fn storage_trie(
        &self,
        base: &dyn FlatState,
        account: &B256,
        root: B256,
        hasher: &mut Hasher,
    ) -> Result<(Node<U256>, usize), StateError> {
        if root == EMPTY_ROOT_HASH {
            return Ok((Node::Empty, 0));
        }
        if let Some(trie) = self.tries().trie(account, root) {
            return Ok((trie, 0));
        }
        let slots = base.slot_count(account)?;
        if slots <= U256::SPLIT as u64 {
            return Ok((Node::unread(root, slots), 0));
        }
        let read = self.read_storage(base, account, (root, slots), &mut || true, hasher)?;
        let trie = read.unwrap_or_else(|| Node::unread(root, slots));
        let bytes = trie.heap();
        Ok((trie, bytes))
    }

    /// Reads the storage trie of an account range by range, as long as it is said to go on. `None`
    /// when it is not read to its end; the next time goes on where this one stopped.
    fn read_storage(
        &self,
        base: &dyn FlatState,
        account: &B256,
        (root, slots): (B256, u64),
        go_on: &mut dyn FnMut() -> bool,
        hasher: &mut Hasher,
    ) -> Result<Option<Node<U256>>, StateError> {
        let part = self.tries().take_part(account, root);
        let mut build = part.unwrap_or_else(|| TrieBuild::new(slots, self.max_delta_bytes));
        let mut leaves = Vec::new();
        while !build.is_done() {
            if !go_on() {
                self.tries().put_part(*account, root, build);
                return Ok(None);
            }
            let (lo, hi) = build.range();
            leaves.clear();
            base.storage_from(account, lo, hi, &mut |slot, value| {
                leaves.push((slot, value));
            })?;
            build.put(&leaves, hasher);
        }
        let trie = build.finish(hasher);
        if trie.root() != root {
            return Err(StateError(format!(
                "storage of account {account}: its root is {}, the account says {root}; the state is damaged",
                trie.root()
            )));
        }
        self.tries().put(*account, trie.clone());
        Ok(Some(trie))
    }

    /// Reads the storage trie of an account into the cache unless it is there, in steps of about a
    /// millisecond, as long as `go_on` says so. `base` is the state that this cache stands for.
    /// Returns whether it is there: a block that changes this storage is cheap then. What was read
    /// is kept otherwise, and the next call goes on from there.
    ///
    /// # Errors
    /// When `base` cannot be read or is damaged.
    pub fn prepare(
        &self,
        base: &dyn FlatState,
        account: &B256,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, StateError> {
        let root = base.account(account)?.unwrap_or_default().storage_root;
        if root == EMPTY_ROOT_HASH || self.tries().trie(account, root).is_some() {
            return Ok(true);
        }
        let slots = base.slot_count(account)?;
        if slots <= U256::SPLIT as u64 {
            return Ok(true);
        }
        let known = (root, slots);
        let read = self.read_storage(base, account, known, go_on, &mut Hasher::default())?;
        Ok(read.is_some())
    }

    /// What [`RootCache::compute`] of this difference costs. `base` is the state that this cache
    /// stands for.
    ///
    /// # Errors
    /// When `base` cannot be read.
    pub fn estimate(&self, base: &dyn FlatState, diff: &StateDiff) -> Result<RootCost, StateError> {
        let mut estimate = self.start_estimate(base);
        estimate.diff(diff)?;
        Ok(estimate.cost())
    }

    /// Begins an estimate that grows with a block. `base` is the state that this cache stands for.
    pub fn start_estimate<'a>(&'a self, base: &'a dyn FlatState) -> RootEstimate<'a> {
        RootEstimate::new(self, base)
    }

    pub(super) fn account_bucket(&self, account: &B256) -> (B256, u32) {
        self.accounts.bucket(account)
    }

    /// Whether a trie of so many slots, read whole, is kept down to its smallest buckets.
    pub(super) fn keeps_buckets(&self, slots: u64) -> bool {
        slots.saturating_mul(SLOT_BYTES) <= self.max_delta_bytes as u64
    }

    pub(super) fn cached_storage(&self, account: &B256) -> Cached {
        self.tries().peek(account)
    }

    fn tries(&self) -> MutexGuard<'_, StorageTries> {
        self.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what [`RootCache::compute`] gave for this very cache.
    ///
    /// # Panics
    /// When the delta was computed for another state: storing a block on top of the wrong parent
    /// would ruin the state.
    pub fn apply(&mut self, delta: RootDelta) {
        assert_eq!(
            delta.before, self.root,
            "the delta belongs to another state"
        );
        self.root = delta.after;
        self.accounts = delta.accounts;
        let tries = self.storage.get_mut();
        let tries = tries.unwrap_or_else(PoisonError::into_inner);
        for (key, trie) in delta.storage {
            tries.put(key, trie);
        }
    }
}

/// The value of a slot in its trie.
fn slot_value(value: U256) -> Vec<u8> {
    alloy_rlp::encode_fixed_size(&value).to_vec()
}

/// The state root by alloy-trie alone, from every account and every slot.
///
/// # Errors
/// When the state cannot be read.
pub fn state_root_from_scratch(state: &dyn FlatState) -> Result<B256, StateError> {
    let mut accounts = Vec::new();
    state.accounts_from(FIRST_KEY, LAST_KEY, &mut |key, account| {
        accounts.push((key, *account));
    })?;
    let mut builder = HashBuilder::default();
    for (key, mut account) in accounts {
        account.storage_root = storage_root_from_scratch(state, &key)?;
        builder.add_leaf(Nibbles::unpack(key), &account.trie_value());
    }
    Ok(builder.root())
}

/// The root of an account's storage by alloy-trie alone, from every slot.
///
/// # Errors
/// When the state cannot be read.
pub fn storage_root_from_scratch(
    state: &dyn FlatState,
    account: &B256,
) -> Result<B256, StateError> {
    let mut builder = HashBuilder::default();
    state.storage_from(account, FIRST_KEY, LAST_KEY, &mut |key, value| {
        builder.add_leaf(Nibbles::unpack(key), &slot_value(value));
    })?;
    Ok(builder.root())
}
