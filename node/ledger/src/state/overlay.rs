//! A state with a difference on top.

use std::collections::BTreeMap;

use alloy_primitives::{B256, Bytes, U256};

use super::{Account, FlatState, StateDiff, StateError};

/// The state after a difference that is not applied: `base` seen through `diff`.
#[derive(Clone, Copy)]
pub struct Overlay<'a> {
    base: &'a dyn FlatState,
    diff: &'a StateDiff,
}

impl<'a> Overlay<'a> {
    /// Lays a difference over a state.
    pub fn new(base: &'a dyn FlatState, diff: &'a StateDiff) -> Self {
        Self { base, diff }
    }
}

/// Merges two ascending sequences of keys: `scan` yields what is below, `changes` what lies over
/// it. A change hides the entry below; `emit` gets one whenever `T` says that there is something.
fn merge<V: Copy, T: Copy>(
    changes: &BTreeMap<B256, T>,
    (lo, hi): (B256, B256),
    present: impl Fn(T) -> Option<V>,
    scan: impl FnOnce(&mut dyn FnMut(B256, V)) -> Result<(), StateError>,
    emit: &mut dyn FnMut(B256, V),
) -> Result<(), StateError> {
    if lo > hi {
        return Ok(());
    }
    let mut above = changes.range(lo..=hi).peekable();
    scan(&mut |key, below| {
        while let Some((changed, value)) = above.next_if(|(changed, _)| **changed < key) {
            if let Some(value) = present(*value) {
                emit(*changed, value);
            }
        }
        match above.next_if(|(changed, _)| **changed == key) {
            Some((_, value)) => {
                if let Some(value) = present(*value) {
                    emit(key, value);
                }
            }
            None => emit(key, below),
        }
    })?;
    for (changed, value) in above {
        if let Some(value) = present(*value) {
            emit(*changed, value);
        }
    }
    Ok(())
}

impl FlatState for Overlay<'_> {
    fn account(&self, key: &B256) -> Result<Option<Account>, StateError> {
        match self.diff.accounts.get(key) {
            Some(account) => Ok(*account),
            None => self.base.account(key),
        }
    }

    fn storage(&self, account: &B256, slot: &B256) -> Result<U256, StateError> {
        let changed = self.diff.storage.get(account).and_then(|s| s.get(slot));
        match changed {
            Some(value) => Ok(*value),
            None => self.base.storage(account, slot),
        }
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, StateError> {
        match self.diff.code.get(hash) {
            Some(code) => Ok(Some(code.clone())),
            None => self.base.code(hash),
        }
    }

    fn accounts_from(
        &self,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, &Account),
    ) -> Result<(), StateError> {
        merge(
            &self.diff.accounts,
            (lo, hi),
            |account| account,
            |each| {
                self.base
                    .accounts_from(lo, hi, &mut |key, account| each(key, *account))
            },
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
        match self.diff.storage.get(account) {
            None => self.base.storage_from(account, lo, hi, f),
            Some(changes) => merge(
                changes,
                (lo, hi),
                |value: U256| (!value.is_zero()).then_some(value),
                |each| self.base.storage_from(account, lo, hi, each),
                f,
            ),
        }
    }

    fn slot_count(&self, account: &B256) -> Result<u64, StateError> {
        let changed = self.diff.storage.get(account).map_or(0, BTreeMap::len);
        Ok(self.base.slot_count(account)? + changed as u64)
    }
}
