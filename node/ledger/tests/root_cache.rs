//! What the cache of roots reads and keeps: roots are right whatever fits into it, estimates are
//! never below what is read, and what was read once is not read again.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use alloy_primitives::{B256, Bytes, U256, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use axolotl_ledger::{
    Account, FlatState, MemoryState, RootCache, StateDiff, StateError,
    state::{FIRST_KEY, LAST_KEY, MAX_CACHE_BYTES, RootCost},
    state_root_from_scratch,
};
use proptest::prelude::*;

/// A state that counts what is read of it.
#[derive(Default)]
struct Counted {
    state: MemoryState,
    slots: AtomicU64,
    accounts: AtomicU64,
}

impl Counted {
    /// What was read since the last call.
    fn reads(&self) -> RootCost {
        RootCost {
            slots: self.slots.swap(0, Ordering::Relaxed),
            accounts: self.accounts.swap(0, Ordering::Relaxed),
        }
    }
}

impl FlatState for Counted {
    fn account(&self, key: &B256) -> Result<Option<Account>, StateError> {
        self.state.account(key)
    }

    fn storage(&self, account: &B256, slot: &B256) -> Result<U256, StateError> {
        self.state.storage(account, slot)
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, StateError> {
        self.state.code(hash)
    }

    fn accounts_from(
        &self,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, &Account),
    ) -> Result<(), StateError> {
        self.state.accounts_from(lo, hi, &mut |key, account| {
            self.accounts.fetch_add(1, Ordering::Relaxed);
            f(key, account);
        })
    }

    fn storage_from(
        &self,
        account: &B256,
        lo: B256,
        hi: B256,
        f: &mut dyn FnMut(B256, U256),
    ) -> Result<(), StateError> {
        self.state
            .storage_from(account, lo, hi, &mut |slot, value| {
                self.slots.fetch_add(1, Ordering::Relaxed);
                f(slot, value);
            })
    }

    fn slot_count(&self, account: &B256) -> Result<u64, StateError> {
        self.state.slot_count(account)
    }
}

/// A chain of states with a cache of its own, each step of which is checked.
struct World {
    state: Counted,
    cache: RootCache,
    bound: usize,
}

impl World {
    fn new(bound: usize) -> Self {
        let state = Counted::default();
        let cache = RootCache::with_bound(&state, bound).unwrap();
        Self {
            state,
            cache,
            bound,
        }
    }

    /// Computes a block that is dropped.
    fn drop_block(&self, mut diff: StateDiff) -> RootCost {
        self.state.reads();
        self.cache.compute(&self.state, &mut diff).unwrap();
        self.state.reads()
    }

    /// Applies a block and gives what it read.
    fn block(&mut self, mut diff: StateDiff) -> RootCost {
        let estimate = self.cache.estimate(&self.state, &diff).unwrap();
        self.state.reads();
        let delta = self.cache.compute(&self.state, &mut diff).unwrap();
        let read = self.state.reads();
        // Where nearly nothing fits, what was read may have to be read once more.
        let most = if self.bound == MAX_CACHE_BYTES {
            estimate.slots
        } else {
            2 * estimate.slots
        };
        assert!(
            read.slots <= most && read.accounts <= estimate.accounts,
            "{read:?} read, {estimate:?} estimated"
        );
        let root = delta.root();
        self.cache.apply(delta);
        self.state.state.apply(&diff);
        assert_eq!(root, state_root_from_scratch(&self.state.state).unwrap());
        assert_eq!(root, self.cache.root());
        let (_, bytes) = self.cache.usage();
        assert!(bytes <= self.bound, "{bytes} of {} bytes", self.bound);
        read
    }

    /// A difference that sets these slots of contracts that exist or are created.
    fn set(&self, changes: &[(B256, BTreeMap<B256, U256>)]) -> StateDiff {
        let mut diff = StateDiff::default();
        for (key, slots) in changes {
            let new = Account {
                nonce: 1,
                ..Account::default()
            };
            let before = self.state.account(key).unwrap().unwrap_or(new);
            diff.accounts.insert(*key, Some(before));
            diff.storage.entry(*key).or_default().extend(slots);
        }
        diff
    }

    /// A difference that removes an account with all its slots.
    fn remove(&self, key: B256) -> StateDiff {
        let mut slots = BTreeMap::new();
        self.state
            .storage_from(&key, FIRST_KEY, LAST_KEY, &mut |slot, _| {
                slots.insert(slot, U256::ZERO);
            })
            .unwrap();
        StateDiff {
            accounts: BTreeMap::from([(key, None)]),
            storage: BTreeMap::from([(key, slots)]),
            ..StateDiff::default()
        }
    }
}

fn contract(n: u64) -> B256 {
    keccak256(n.to_be_bytes())
}

/// Slots with consecutive numbers.
fn slots(numbers: std::ops::Range<u64>, value: u64) -> BTreeMap<B256, U256> {
    numbers
        .map(|n| {
            (
                keccak256(U256::from(n).to_be_bytes::<32>()),
                U256::from(value),
            )
        })
        .collect()
}

/// Slots whose keys agree in their first `shared` nibbles, an even number.
fn agreeing(shared: usize, numbers: std::ops::Range<u64>, value: u64) -> BTreeMap<B256, U256> {
    let mut slots = slots(numbers, value);
    let agree = |mut key: B256| {
        key[..shared / 2].fill(0xab);
        key
    };
    slots = slots.into_iter().map(|(key, v)| (agree(key), v)).collect();
    slots
}

/// What happens to a contract in a generated block.
#[derive(Clone, Debug)]
enum Change {
    /// Sets a run of slots.
    Run { from: u64, count: u64, value: u64 },
    /// Sets slots whose keys agree in their first nibbles.
    Agreeing {
        shared: usize,
        count: u64,
        value: u64,
    },
    /// Removes the account; the block may create it again.
    Remove { again: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    // Around every threshold: a leaf, joined, split, two ranges, coarse.
    let count = prop_oneof![
        1..4u64,
        6..12u64,
        28..40u64,
        500..600u64,
        1_020..1_100u64,
        4_090..4_200u64,
    ];
    prop_oneof![
        4 => (0..5_000u64, count.clone(), 0..3u64)
            .prop_map(|(from, count, value)| Change::Run { from, count, value }),
        1 => (1..5usize, 1..80u64, 0..3u64)
            .prop_map(|(half, count, value)| Change::Agreeing { shared: 2 * half, count, value }),
        1 => prop_oneof![Just(0), count].prop_map(|again| Change::Remove { again }),
    ]
}

fn blocks() -> impl Strategy<Value = Vec<Vec<(u64, Change)>>> {
    let block = prop::collection::vec((0..4u64, change()), 1..5);
    prop::collection::vec(block, 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn roots_are_right_whatever_fits(
        blocks in blocks(),
        bound in prop_oneof![Just(0), 1_000..4_000usize, 4_000..60_000usize, Just(MAX_CACHE_BYTES)],
        dropped in any::<u8>(),
    ) {
        let mut world = World::new(bound);
        for (number, changes) in blocks.into_iter().enumerate() {
            let mut diff = StateDiff::default();
            for (n, change) in changes {
                let key = contract(n);
                if diff.accounts.contains_key(&key) {
                    continue;
                }
                let next = match change {
                    Change::Run { from, count, value } => {
                        world.set(&[(key, slots(from..from + count, value))])
                    }
                    Change::Agreeing { shared, count, value } => {
                        world.set(&[(key, agreeing(shared, 0..count, value))])
                    }
                    Change::Remove { again: 0 } => world.remove(key),
                    Change::Remove { again } => {
                        let mut diff = world.remove(key);
                        diff.accounts.insert(key, Some(Account { nonce: 7, ..Account::default() }));
                        diff.storage.entry(key).or_default().extend(slots(0..again, 9));
                        diff
                    }
                };
                diff.accounts.extend(next.accounts);
                diff.storage.extend(next.storage);
            }
            if dropped >> (number % 8) & 1 == 1 {
                world.drop_block(diff.clone());
            }
            world.block(diff);
        }
    }
}

#[test]
fn a_trie_is_read_once_whatever_becomes_of_the_block() {
    let mut world = World::new(MAX_CACHE_BYTES);
    world.block(world.set(&[(contract(0), slots(0..20_000, 1))]));
    // As after a start.
    world.cache = RootCache::build(&world.state).unwrap();
    let touch = world.set(&[(contract(0), slots(5..6, 2))]);
    let first = world.drop_block(touch.clone());
    assert!((20_000..20_064).contains(&first.slots), "{first:?}");
    assert!(world.drop_block(touch.clone()).slots <= 32);
    assert!(world.block(touch).slots <= 32);
    assert!(
        world
            .block(world.set(&[(contract(0), slots(19_999..20_001, 3))]))
            .slots
            <= 64
    );
}

#[test]
fn ten_large_contracts_stay_cheap_block_after_block() {
    let mut world = World::new(MAX_CACHE_BYTES);
    for n in 0..10 {
        world.block(world.set(&[(contract(n), slots(0..10_000, 1))]));
    }
    for value in 2..6 {
        let touched: Vec<_> = (0..10)
            .map(|n| (contract(n), slots(value..value + 1, 9)))
            .collect();
        let read = world.block(world.set(&touched));
        assert!(read.slots <= 10 * 32, "{read:?}");
    }
    let (tries, bytes) = world.cache.usage();
    assert_eq!(tries, 10);
    assert!(bytes < 100_000 * 30, "{bytes}");
}

#[test]
fn what_does_not_fit_keeps_its_upper_nodes() {
    // Room for the upper nodes of all, and for all nodes of none.
    let mut world = World::new(40_000);
    for n in 0..4 {
        world.block(world.set(&[(contract(n), slots(0..10_000, 1))]));
    }
    let (tries, _) = world.cache.usage();
    assert_eq!(tries, 4);
    for n in 0..4 {
        let read = world.block(world.set(&[(contract(n), slots(7..8, 2 + n))]));
        assert!(read.slots <= 10_000 / 16 * 2, "{read:?}");
    }
}

#[test]
fn reading_can_stop_and_goes_on_where_it_stopped() {
    let mut world = World::new(MAX_CACHE_BYTES);
    world.block(world.set(&[
        (contract(0), slots(0..20_000, 1)),
        (contract(1), slots(0..9, 1)),
    ]));
    world.cache = RootCache::build(&world.state).unwrap();
    let touch = world.set(&[(contract(0), slots(0..1, 2))]);
    let cost = |world: &World| world.cache.estimate(&world.state, &touch).unwrap().slots;
    assert!((20_000..20_100).contains(&cost(&world)));
    world.state.reads();
    let (mut read, mut rounds) = (0, 0);
    loop {
        let mut steps = 0;
        let done = world.cache.prepare(&world.state, &contract(0), &mut || {
            steps += 1;
            steps <= 3
        });
        let now = world.state.reads().slots;
        read += now;
        if done.unwrap() {
            break;
        }
        rounds += 1;
        assert!(now > 0 && cost(&world) < 20_100 - read / 2);
        // Blocks that touch others go by.
        world.block(world.set(&[(contract(1), slots(0..1, rounds))]));
        world.state.reads();
    }
    assert_eq!(read, 20_000);
    assert!(rounds > 1);
    assert!(cost(&world) <= 40, "{}", cost(&world));
    assert!(world.block(touch.clone()).slots <= 32);
    // Nothing to do for what is small or has no storage.
    for n in [0, 1, 2] {
        assert!(
            world
                .cache
                .prepare(&world.state, &contract(n), &mut || false)
                .unwrap()
        );
    }
}

#[test]
fn a_block_that_touches_it_ends_a_reading() {
    let mut world = World::new(MAX_CACHE_BYTES);
    world.block(world.set(&[(contract(0), slots(0..20_000, 1))]));
    world.cache = RootCache::build(&world.state).unwrap();
    let mut once = true;
    let begun = world.cache.prepare(&world.state, &contract(0), &mut || {
        std::mem::take(&mut once)
    });
    assert!(!begun.unwrap());
    world.block(world.set(&[(contract(0), slots(0..200, 2))]));
    assert!(
        world
            .cache
            .prepare(&world.state, &contract(0), &mut || false)
            .unwrap()
    );
    // Begun and then gone with the account.
    world.cache = RootCache::build(&world.state).unwrap();
    let mut once = true;
    let begun = world.cache.prepare(&world.state, &contract(0), &mut || {
        std::mem::take(&mut once)
    });
    assert!(!begun.unwrap());
    world.block(world.remove(contract(0)));
    world.block(world.set(&[(contract(0), slots(0..3_000, 5))]));
    world.block(world.set(&[(contract(0), slots(0..2, 6))]));
}

#[test]
fn keys_that_agree_are_no_cliff() {
    let mut world = World::new(MAX_CACHE_BYTES);
    let mut all = agreeing(8, 0..2_000, 1);
    all.extend(slots(0..300, 1));
    world.block(world.set(&[(contract(0), all)]));
    let read = world.block(world.set(&[(contract(0), agreeing(8, 0..1, 2))]));
    assert!(read.slots <= 32, "{read:?}");
}

#[test]
fn a_prefix_that_loses_its_keys_collapses() {
    let mut world = World::new(MAX_CACHE_BYTES);
    let contract = contract(0);
    world.block(world.set(&[(contract, agreeing(6, 0..100, 1))]));
    world.block(world.set(&[(contract, slots(0..100, 1))]));
    // To one key, to two that agree, to none, and back.
    world.block(world.set(&[(contract, agreeing(6, 1..100, 0))]));
    world.block(world.set(&[(contract, slots(0..100, 0))]));
    world.block(world.set(&[(contract, agreeing(6, 1..2, 3))]));
    world.block(world.set(&[(contract, agreeing(6, 0..2, 0))]));
    let account = world.state.account(&contract).unwrap().unwrap();
    assert_eq!(account.storage_root, EMPTY_ROOT_HASH);
    assert_eq!(world.cache.usage().0, 0);
    world.block(world.set(&[(contract, agreeing(6, 0..100, 1))]));
}

#[test]
fn storage_that_is_not_what_its_account_says_is_an_error() {
    let mut world = World::new(MAX_CACHE_BYTES);
    world.block(world.set(&[(contract(0), slots(0..100, 1))]));
    world.cache = RootCache::build(&world.state).unwrap();
    let damage = StateDiff {
        storage: BTreeMap::from([(contract(0), slots(3..4, 99))]),
        ..StateDiff::default()
    };
    world.state.state.apply(&damage);
    let mut touch = world.set(&[(contract(0), slots(50..51, 2))]);
    let error = world.cache.compute(&world.state, &mut touch).unwrap_err();
    assert!(error.0.contains("the state is damaged"), "{error}");
}

#[test]
fn an_estimate_grows_change_by_change() {
    let mut world = World::new(MAX_CACHE_BYTES);
    world.block(world.set(&[
        (contract(0), slots(0..5_000, 1)),
        (contract(1), slots(0..20, 1)),
    ]));
    world.cache = RootCache::build(&world.state).unwrap();
    let mut estimate = world.cache.start_estimate(&world.state);
    assert_eq!(estimate.cost(), RootCost::default());
    assert_eq!(estimate.cost().time(), std::time::Duration::ZERO);
    estimate.account(&contract(1));
    let account = estimate.cost();
    assert!(account.accounts > 0 && account.slots == 0);
    let mut last = account.slots;
    for (contract, least) in [(contract(1), 20), (contract(0), 5_000), (contract(7), 1)] {
        for (slot, _) in slots(0..2, 0) {
            estimate.slot(&contract, &slot).unwrap();
        }
        let now = estimate.cost().slots;
        assert!(now >= last + least, "{now} after {last}, {least} expected");
        last = now;
    }
    let once = estimate.cost();
    for (slot, _) in slots(0..2, 0) {
        estimate.slot(&contract(0), &slot).unwrap();
    }
    assert_eq!(estimate.cost(), once);
    assert!(once.time() > std::time::Duration::ZERO);
}
