//! What the state root after a block will cost, before it is computed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use alloy_primitives::{B256, U256};
use alloy_trie::EMPTY_ROOT_HASH;

use super::{
    FlatState, RootCache, StateDiff, StateError,
    storage_tries::Cached,
    trie::{Node, Value},
};

/// Leaves, accounts or slots, that are read and hashed in a second. One core of the reference machine
/// reads and hashes 1.4 million from pages in memory (docs/benchmarks.md); less than half of that,
/// because a machine may be slower, and busy.
pub const LEAVES_PER_SECOND: u64 = 600_000;
/// What hashing the path from a changed leaf to the root takes, in leaves.
const PATH: u64 = 2;

/// What a state root costs: leaves that are read and hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootCost {
    /// Storage slots.
    pub slots: u64,
    /// Accounts.
    pub accounts: u64,
}

impl RootCost {
    /// About how long that takes.
    pub fn time(&self) -> Duration {
        let leaves = self.slots.saturating_add(self.accounts);
        let micros = leaves.saturating_mul(1_000_000) / LEAVES_PER_SECOND;
        Duration::from_micros(micros)
    }
}

/// What is known of one account's storage.
#[derive(Debug)]
struct Touched {
    trie: Node<U256>,
    /// Its slots are read whole first, and have been counted.
    whole: bool,
    /// First keys of the buckets that were counted.
    buckets: BTreeSet<B256>,
}

/// Adds up what the state root of a block costs while the block is built, change by change.
pub struct RootEstimate<'a> {
    cache: &'a RootCache,
    state: &'a dyn FlatState,
    cost: RootCost,
    accounts: BTreeSet<B256>,
    storage: BTreeMap<B256, Touched>,
}

impl fmt::Debug for RootEstimate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootEstimate")
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

impl<'a> RootEstimate<'a> {
    pub(super) fn new(cache: &'a RootCache, state: &'a dyn FlatState) -> Self {
        Self {
            cache,
            state,
            cost: RootCost::default(),
            accounts: BTreeSet::new(),
            storage: BTreeMap::new(),
        }
    }

    /// What the changes so far cost.
    pub fn cost(&self) -> RootCost {
        self.cost
    }

    /// An account is changed.
    pub fn account(&mut self, account: &B256) {
        let (bucket, leaves) = self.cache.account_bucket(account);
        if self.accounts.insert(bucket) {
            self.cost.accounts += u64::from(leaves) + PATH;
        }
    }

    /// A slot is changed, and so its account.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn slot(&mut self, account: &B256, slot: &B256) -> Result<(), StateError> {
        if !self.storage.contains_key(account) {
            self.account(account);
            let touched = self.open(account)?;
            self.storage.insert(*account, touched);
        }
        let Some(touched) = self.storage.get_mut(account) else {
            return Ok(());
        };
        let (bucket, leaves) = touched.trie.bucket(slot);
        let counted = if touched.whole {
            // Once the trie is there, a change reads one bucket of it.
            touched.buckets.insert(*slot).then_some(U256::SPLIT as u64)
        } else {
            touched.buckets.insert(bucket).then_some(leaves.into())
        };
        if let Some(leaves) = counted {
            self.cost.slots += leaves + PATH;
        }
        Ok(())
    }

    fn open(&mut self, account: &B256) -> Result<Touched, StateError> {
        let mut touched = Touched {
            trie: Node::Empty,
            whole: false,
            buckets: BTreeSet::new(),
        };
        let before = self.state.account(account)?.unwrap_or_default();
        if before.storage_root == EMPTY_ROOT_HASH {
            return Ok(touched);
        }
        match self.cache.cached_storage(account) {
            Cached::Trie(trie) => touched.trie = trie,
            known => {
                let slots = self.state.slot_count(account)?;
                if slots <= U256::SPLIT as u64 {
                    touched.trie = Node::unread(before.storage_root, slots);
                    return Ok(touched);
                }
                touched.whole = true;
                self.cost.slots += match known {
                    Cached::Part(done, all) => slots - slots / all as u64 * done as u64,
                    _ => slots,
                };
                if !self.cache.keeps_buckets(slots) {
                    // Then a change reads a large bucket again: at worst, all changes read all of it.
                    self.cost.slots += slots;
                }
            }
        }
        Ok(touched)
    }

    /// All changes of a difference.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn diff(&mut self, diff: &StateDiff) -> Result<(), StateError> {
        diff.accounts.keys().for_each(|key| self.account(key));
        for (account, slots) in &diff.storage {
            for slot in slots.keys() {
                self.slot(account, slot)?;
            }
        }
        Ok(())
    }
}
