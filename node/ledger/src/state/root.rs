//! The state root, with what makes the next one cheap.
//!
//! [`RootCache`] holds the upper nodes of the account trie, and those of the storage tries of
//! contracts with many slots that were used lately. It stands for the state of the last decided
//! block: [`RootCache::compute`] changes nothing and gives a [`RootDelta`], which
//! [`RootCache::apply`] takes when the block is decided. What is cached never changes a root, only
//! the time that it takes.

use std::collections::BTreeMap;

use alloy_primitives::{B256, U256};
use alloy_trie::{HashBuilder, Nibbles};

use super::{
    Account, FIRST_KEY, FlatState, LAST_KEY, Overlay, StateDiff, StateError,
    trie::{BucketTrie, Leaf, MAX_DEPTH, TrieDelta, depth_for, root_of},
};

/// Storage tries of up to this many slots are read whole each time.
const SMALL_STORAGE: usize = 48;
/// A storage trie is rebuilt with smaller buckets when one of them holds more leaves than this.
const FULL_BUCKET: usize = 64;
/// Most nodes kept of storage tries, all together: 40 bytes each. The least recently used trie goes
/// first.
const MAX_STORAGE_NODES: usize = 200_000;

/// What a block changes in a [`RootCache`]; nothing, until it is applied.
#[derive(Clone, Debug)]
pub struct RootDelta {
    before: B256,
    after: B256,
    accounts: TrieDelta,
    storage: BTreeMap<B256, StorageDelta>,
}

impl RootDelta {
    /// The state root after the block.
    pub fn root(&self) -> B256 {
        self.after
    }
}

/// What becomes of one storage trie in the cache.
#[derive(Clone, Debug)]
enum StorageDelta {
    /// Some nodes change.
    Update(TrieDelta),
    /// It was not cached, or its buckets were too large.
    Replace(BucketTrie),
    /// It is small now, or gone with its account.
    Forget,
}

/// A cached storage trie.
#[derive(Clone, Debug)]
struct StorageTrie {
    trie: BucketTrie,
    /// Number of the delta that touched it last.
    used: u64,
}

/// The state root of the last decided block, with the trie nodes that make the next one cheap.
#[derive(Clone, Debug)]
pub struct RootCache {
    root: B256,
    accounts: BucketTrie,
    storage: BTreeMap<B256, StorageTrie>,
    /// Deltas applied.
    applied: u64,
}

impl RootCache {
    /// Reads all accounts of a state. Their storage roots are believed.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn build(state: &dyn FlatState) -> Result<Self, StateError> {
        let accounts = BucketTrie::build(MAX_DEPTH, |leaf| {
            state.accounts_from(FIRST_KEY, LAST_KEY, &mut |key, account| {
                leaf(key, account.trie_value());
            })
        })?;
        Ok(Self {
            root: accounts.root(),
            accounts,
            storage: BTreeMap::new(),
            applied: 0,
        })
    }

    /// The state root.
    pub fn root(&self) -> B256 {
        self.root
    }

    /// Finds the root after `diff` on top of `base`, the state that this cache stands for, and
    /// fills in the storage roots of the accounts in `diff`. Nothing changes here until the delta
    /// is applied.
    ///
    /// # Errors
    /// When `base` cannot be read, or `diff` gives storage to an account that does not exist.
    pub fn compute(
        &self,
        base: &dyn FlatState,
        diff: &mut StateDiff,
    ) -> Result<RootDelta, StateError> {
        let mut storage = BTreeMap::new();
        let mut changed = Vec::new();
        let after = Overlay::new(base, diff);
        for (key, slots) in &diff.storage {
            match after.account(key)? {
                Some(account) => {
                    let (root, delta) = self.storage_root(&after, key, slots)?;
                    storage.extend(delta.map(|delta| (*key, delta)));
                    changed.push((
                        *key,
                        Account {
                            storage_root: root,
                            ..account
                        },
                    ));
                }
                None if diff.accounts.contains_key(key) => {
                    storage.insert(*key, StorageDelta::Forget);
                }
                None => return Err(StateError(format!("no account {key}, but storage of it"))),
            }
        }
        for (key, account) in changed {
            diff.accounts.insert(key, Some(account));
        }
        let changes = diff
            .accounts
            .iter()
            .map(|(key, account)| (*key, account.as_ref().map(Account::trie_value)))
            .collect();
        let after = Overlay::new(base, diff);
        let accounts = self.accounts.update(&changes, &|lo, hi| {
            let mut leaves = Vec::new();
            after.accounts_from(lo, hi, &mut |key, account| {
                leaves.push((key, account.trie_value()));
            })?;
            Ok(leaves)
        })?;
        Ok(RootDelta {
            before: self.root,
            after: self.accounts.root_after(&accounts),
            accounts,
            storage,
        })
    }

    /// The root of one account's storage after a block, and what to remember of it.
    fn storage_root(
        &self,
        after: &Overlay<'_>,
        account: &B256,
        slots: &BTreeMap<B256, U256>,
    ) -> Result<(B256, Option<StorageDelta>), StateError> {
        let cached = self.storage.get(account);
        if let Some(StorageTrie { trie, .. }) = cached {
            let value = |value: &U256| (!value.is_zero()).then(|| slot_value(*value));
            let changes = slots.iter().map(|(key, v)| (*key, value(v))).collect();
            let delta = trie.update(&changes, &|lo, hi| {
                let mut leaves = Vec::new();
                after.storage_from(account, lo, hi, &mut |key, value| {
                    leaves.push((key, slot_value(value)));
                })?;
                Ok(leaves)
            })?;
            if delta.fullest <= FULL_BUCKET || trie.depth() == MAX_DEPTH {
                return Ok((trie.root_after(&delta), Some(StorageDelta::Update(delta))));
            }
        }
        let (mut count, mut leaves) = (0, Vec::<Leaf>::new());
        after.storage_from(account, FIRST_KEY, LAST_KEY, &mut |key, value| {
            count += 1;
            if count <= SMALL_STORAGE {
                leaves.push((key, slot_value(value)));
            }
        })?;
        if count <= SMALL_STORAGE {
            return Ok((root_of(leaves), cached.map(|_| StorageDelta::Forget)));
        }
        let trie = BucketTrie::build(depth_for(count), |leaf| {
            after.storage_from(account, FIRST_KEY, LAST_KEY, &mut |key, value| {
                leaf(key, slot_value(value));
            })
        })?;
        Ok((trie.root(), Some(StorageDelta::Replace(trie))))
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
        self.applied += 1;
        self.root = delta.after;
        self.accounts.apply(delta.accounts);
        for (key, change) in delta.storage {
            let used = self.applied;
            match change {
                StorageDelta::Update(change) => {
                    if let Some(storage) = self.storage.get_mut(&key) {
                        storage.trie.apply(change);
                        storage.used = used;
                    }
                }
                StorageDelta::Replace(trie) => {
                    self.storage.insert(key, StorageTrie { trie, used });
                }
                StorageDelta::Forget => {
                    self.storage.remove(&key);
                }
            }
        }
        self.evict();
    }

    fn evict(&mut self) {
        let mut nodes: usize = self.storage.values().map(|s| s.trie.nodes()).sum();
        while nodes > MAX_STORAGE_NODES {
            let oldest = self.storage.iter().min_by_key(|(_, s)| s.used);
            let Some(key) = oldest.map(|(key, _)| *key) else {
                return;
            };
            if let Some(gone) = self.storage.remove(&key) {
                nodes -= gone.trie.nodes();
            }
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
