//! A state in memory.

use std::collections::BTreeMap;

use alloy_primitives::{B256, Bytes, U256};

use super::{Account, FlatState, StateDiff, StateError};

/// A state that is held in memory whole: for tests, and for small states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    accounts: BTreeMap<B256, Account>,
    storage: BTreeMap<B256, BTreeMap<B256, U256>>,
    code: BTreeMap<B256, Bytes>,
}

impl MemoryState {
    /// The state that a difference makes of nothing.
    pub fn from_diff(diff: &StateDiff) -> Self {
        let mut state = Self::default();
        state.apply(diff);
        state
    }

    /// Applies a difference.
    pub fn apply(&mut self, diff: &StateDiff) {
        for (key, account) in &diff.accounts {
            match account {
                Some(account) => self.accounts.insert(*key, *account),
                None => self.accounts.remove(key),
            };
        }
        for (account, slots) in &diff.storage {
            let storage = self.storage.entry(*account).or_default();
            for (slot, value) in slots {
                if value.is_zero() {
                    storage.remove(slot);
                } else {
                    storage.insert(*slot, *value);
                }
            }
            if storage.is_empty() {
                self.storage.remove(account);
            }
        }
        for (hash, code) in &diff.code {
            self.code.insert(*hash, code.clone());
        }
    }
}

impl FlatState for MemoryState {
    fn account(&self, key: &B256) -> Result<Option<Account>, StateError> {
        Ok(self.accounts.get(key).copied())
    }

    fn storage(&self, account: &B256, slot: &B256) -> Result<U256, StateError> {
        let slots = self.storage.get(account);
        Ok(slots.and_then(|s| s.get(slot)).copied().unwrap_or_default())
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, StateError> {
        Ok(self.code.get(hash).cloned())
    }

    fn accounts_from(
        &self,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, &Account),
    ) -> Result<(), StateError> {
        for (key, account) in self.accounts.range(lo..=hi) {
            f(*key, account);
        }
        Ok(())
    }

    fn storage_from(
        &self,
        account: &B256,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, U256),
    ) -> Result<(), StateError> {
        if let Some(slots) = self.storage.get(account) {
            for (slot, value) in slots.range(lo..=hi) {
                f(*slot, *value);
            }
        }
        Ok(())
    }

    fn slot_count(&self, account: &B256) -> Result<u64, StateError> {
        Ok(self.storage.get(account).map_or(0, BTreeMap::len) as u64)
    }
}
