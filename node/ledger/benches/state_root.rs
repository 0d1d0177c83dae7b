//! How long the state root takes of a block that changes one slot in each of some contracts:
//! `cargo bench -p axolotl-ledger --bench state_root`.
//!
//! *cold*: nothing of the contracts was read since the start; *warm*: they were touched before.
#![allow(clippy::unwrap_used, missing_docs, reason = "as in tests")]

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::{B256, Bytes, U256, keccak256};
use axolotl_ledger::{
    Account, FlatState, MemoryState, Overlay, RootCache, StateDiff, StateError,
    state::storage_root_from_scratch,
};

/// Contracts that all have the same slots, so that ten of a million fit into memory.
struct Contracts {
    accounts: BTreeMap<B256, Account>,
    slots: Arc<Vec<(B256, U256)>>,
}

fn key(n: u64) -> B256 {
    keccak256(n.to_be_bytes())
}

impl Contracts {
    fn new(contracts: u64, slots: &Arc<Vec<(B256, U256)>>, storage_root: B256) -> Self {
        let account = Account {
            nonce: 1,
            storage_root,
            ..Account::default()
        };
        Self {
            accounts: (0..contracts).map(|n| (key(n), account)).collect(),
            slots: Arc::clone(slots),
        }
    }

    /// A change of one slot in each contract.
    fn touch(&self, slot: usize, value: u64) -> StateDiff {
        let slots = BTreeMap::from([(self.slots[slot].0, U256::from(value))]);
        StateDiff {
            accounts: self.accounts.iter().map(|(k, a)| (*k, Some(*a))).collect(),
            storage: self.accounts.keys().map(|k| (*k, slots.clone())).collect(),
            ..StateDiff::default()
        }
    }
}

impl FlatState for Contracts {
    fn account(&self, key: &B256) -> Result<Option<Account>, StateError> {
        Ok(self.accounts.get(key).copied())
    }

    fn storage(&self, _: &B256, slot: &B256) -> Result<U256, StateError> {
        let found = self.slots.binary_search_by_key(slot, |(key, _)| *key);
        Ok(found.map_or(U256::ZERO, |place| self.slots[place].1))
    }

    fn code(&self, _: &B256) -> Result<Option<Bytes>, StateError> {
        Ok(None)
    }

    fn accounts_from(
        &self,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, &Account),
    ) -> Result<(), StateError> {
        self.accounts.range(lo..=hi).for_each(|(k, a)| f(*k, a));
        Ok(())
    }

    fn storage_from(
        &self,
        _: &B256,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, U256),
    ) -> Result<(), StateError> {
        let from = self.slots.partition_point(|(key, _)| *key < lo);
        let slots = self.slots[from..].iter().take_while(|(key, _)| *key <= hi);
        slots.for_each(|(slot, value)| f(*slot, *value));
        Ok(())
    }

    fn slot_count(&self, _: &B256) -> Result<u64, StateError> {
        Ok(self.slots.len() as u64)
    }
}

/// Runs of which the median is printed.
const RUNS: usize = 11;

/// Prints the median time of `run` on what `start` makes.
fn median<T, R>(name: &str, mut start: impl FnMut() -> T, mut run: impl FnMut(T) -> R) {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let input = start();
            let began = Instant::now();
            let output = black_box(run(input));
            let took = began.elapsed();
            drop(output);
            took
        })
        .collect();
    times.sort_unstable();
    println!(
        "{name:<28} {:>10.3} ms",
        times[RUNS / 2].as_secs_f64() * 1e3
    );
}

fn main() {
    for slots in [1_000u64, 10_000, 100_000, 1_000_000] {
        let mut all: Vec<_> = (0..slots).map(|n| (key(n), U256::from(n + 1))).collect();
        all.sort_unstable();
        let all = Arc::new(all);
        let storage = MemoryState::from_diff(&StateDiff {
            storage: BTreeMap::from([(B256::ZERO, all.iter().copied().collect())]),
            ..StateDiff::default()
        });
        let root = storage_root_from_scratch(&storage, &B256::ZERO).unwrap();
        drop(storage);
        for contracts in [1, 5, 10] {
            let state = Contracts::new(contracts, &all, root);
            median(
                &format!("cold {contracts} x {slots}"),
                || (RootCache::build(&state).unwrap(), state.touch(0, 0)),
                |(cache, mut diff)| {
                    let root = cache.compute(&state, &mut diff).unwrap().root();
                    (root, cache)
                },
            );
            let mut cache = RootCache::build(&state).unwrap();
            let mut first = state.touch(0, 0);
            let delta = cache.compute(&state, &mut first).unwrap();
            cache.apply(delta);
            let before = Overlay::new(&state, &first);
            let diff = state.touch(slots as usize / 2, 0);
            median(
                &format!("warm {contracts} x {slots}"),
                || diff.clone(),
                |mut diff| cache.compute(&before, &mut diff).unwrap().root(),
            );
        }
    }
}
