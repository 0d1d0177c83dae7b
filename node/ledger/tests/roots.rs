//! The cached state root is the one from scratch, whatever happens to the state.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use axolotl_ledger::{
    Account, Block, FlatState, MemoryState, Overlay, RootCache, StateDiff, Tx,
    state::{FIRST_KEY, LAST_KEY, account_key},
    state_root_from_scratch,
};
use proptest::prelude::*;
use serde_json::json;
use support::*;

/// A change of one account in a generated history.
#[derive(Clone, Debug)]
enum Change {
    Set {
        account: u8,
        nonce: u64,
        balance: u64,
    },
    Remove {
        account: u8,
    },
    Store {
        account: u8,
        slots: Vec<(u16, u8)>,
    },
    Fill {
        account: u8,
        slots: u16,
        value: u8,
    },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = prop_oneof![
        4 => (any::<u8>(), any::<u64>(), any::<u64>())
            .prop_map(|(account, nonce, balance)| Change::Set { account, nonce, balance }),
        2 => any::<u8>().prop_map(|account| Change::Remove { account }),
        3 => (0..4u8, prop::collection::vec((any::<u16>(), 0..3u8), 1..40))
            .prop_map(|(account, slots)| Change::Store { account, slots }),
        1 => (0..4u8, 1..6_000u16, 0..3u8)
            .prop_map(|(account, slots, value)| Change::Fill { account, slots, value }),
    ];
    prop::collection::vec(one, 0..12)
}

/// Keys that agree in up to seven nibbles, so that all shapes of nodes come up.
fn key(account: u8) -> B256 {
    let mut key = keccak256([account / 3]);
    key[2] = account % 3;
    key[3 + usize::from(account % 2)] ^= account;
    key
}

fn slot(number: u16) -> B256 {
    keccak256(number.to_be_bytes())
}

fn diff_of(state: &MemoryState, changes: &[Change]) -> StateDiff {
    let mut diff = StateDiff::default();
    for change in changes {
        match change {
            Change::Set {
                account,
                nonce,
                balance,
            } => {
                let key = key(*account);
                let before = Overlay::new(state, &diff).account(&key).unwrap();
                diff.accounts.insert(
                    key,
                    Some(Account {
                        nonce: *nonce,
                        balance: U256::from(*balance),
                        ..before.unwrap_or_default()
                    }),
                );
            }
            Change::Remove { account } => {
                let key = key(*account);
                diff.accounts.insert(key, None);
                let mut slots = BTreeMap::new();
                Overlay::new(state, &diff)
                    .storage_from(&key, FIRST_KEY, LAST_KEY, &mut |slot, _| {
                        slots.insert(slot, U256::ZERO);
                    })
                    .unwrap();
                if !slots.is_empty() {
                    diff.storage.entry(key).or_default().extend(slots);
                }
            }
            Change::Store { account, slots } => {
                let values = slots
                    .iter()
                    .map(|(n, value)| (slot(*n), U256::from(*value)));
                store(state, &mut diff, key(*account), values.collect());
            }
            Change::Fill {
                account,
                slots,
                value,
            } => {
                let values = (0..*slots).map(|n| (slot(n), U256::from(*value)));
                store(state, &mut diff, key(*account), values.collect());
            }
        }
    }
    diff
}

fn store(state: &MemoryState, diff: &mut StateDiff, key: B256, slots: BTreeMap<B256, U256>) {
    let before = Overlay::new(state, diff).account(&key).unwrap();
    diff.accounts.insert(
        key,
        Some(before.unwrap_or(Account {
            nonce: 1,
            ..Account::default()
        })),
    );
    diff.storage.entry(key).or_default().extend(slots);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_differences(history in prop::collection::vec(changes(), 1..8)) {
        let mut state = MemoryState::default();
        let mut cache = RootCache::build(&state).unwrap();
        for changes in history {
            let before = state.clone();
            let mut diff = diff_of(&state, &changes);
            let inverse = diff.inverse(&state).unwrap();
            // Computing changes nothing: a block that was not decided may come in between.
            cache.compute(&state, &mut diff.clone()).unwrap();
            let delta = cache.compute(&state, &mut diff).unwrap();
            let overlaid = state_root_from_scratch(&Overlay::new(&state, &diff)).unwrap();
            prop_assert_eq!(delta.root(), overlaid);
            cache.apply(delta);
            state.apply(&diff);
            prop_assert_eq!(cache.root(), state_root_from_scratch(&state).unwrap());
            prop_assert_eq!(cache.root(), RootCache::build(&state).unwrap().root());
            // The storage roots in the accounts are right as well.
            let mut taken_back = state.clone();
            taken_back.apply(&inverse);
            prop_assert_eq!(&taken_back, &before);
        }
    }
}

#[test]
fn a_growing_contract_and_a_shrinking_one() {
    let mut state = MemoryState::default();
    let mut cache = RootCache::build(&state).unwrap();
    let steps = [10u16, 40, 60, 130, 1_000, 3_000, 20_000, 40_000];
    let check = |state: &mut MemoryState, cache: &mut RootCache, mut diff: StateDiff| {
        let delta = cache.compute(state, &mut diff).unwrap();
        cache.apply(delta);
        state.apply(&diff);
        assert_eq!(cache.root(), state_root_from_scratch(state).unwrap());
    };
    let mut from = 0;
    for to in steps {
        let slots = (from..to).map(|n| (slot(n), U256::from(1))).collect();
        let mut diff = StateDiff::default();
        store(&state, &mut diff, key(0), slots);
        check(&mut state, &mut cache, diff);
        from = to;
    }
    for n in [0u16, 39_999, 17] {
        let mut diff = StateDiff::default();
        store(
            &state,
            &mut diff,
            key(0),
            BTreeMap::from([(slot(n), U256::ZERO)]),
        );
        check(&mut state, &mut cache, diff);
    }
    let all = (0..40_000).map(|n| (slot(n), U256::ZERO)).collect();
    let mut diff = StateDiff::default();
    store(&state, &mut diff, key(0), all);
    check(&mut state, &mut cache, diff);
    assert_eq!(
        state.account(&key(0)).unwrap().unwrap().storage_root,
        alloy_trie::EMPTY_ROOT_HASH
    );
}

#[test]
fn storage_without_an_account_is_an_error() {
    let state = MemoryState::default();
    let cache = RootCache::build(&state).unwrap();
    let mut diff = StateDiff::default();
    diff.storage
        .insert(key(1), BTreeMap::from([(slot(1), U256::from(1))]));
    assert!(cache.compute(&state, &mut diff).is_err());
}

/// What a user does in a generated block.
#[derive(Clone, Debug)]
enum Act {
    Transfer {
        from: u64,
        to: u8,
        value: u64,
    },
    Deploy {
        from: u64,
        kind: u8,
    },
    Store {
        from: u64,
        contract: u8,
        slot: u8,
        value: u8,
    },
    Kill {
        from: u64,
        contract: u8,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let user = 0..USERS;
    let one = prop_oneof![
        (user.clone(), any::<u8>(), 0..1_000u64).prop_map(|(from, to, value)| Act::Transfer {
            from,
            to,
            value
        }),
        (user.clone(), 0..4u8).prop_map(|(from, kind)| Act::Deploy { from, kind }),
        (user.clone(), 0..3u8, any::<u8>(), 0..3u8).prop_map(|(from, contract, slot, value)| {
            Act::Store {
                from,
                contract,
                slot,
                value,
            }
        }),
        (user, 0..3u8).prop_map(|(from, contract)| Act::Kill { from, contract }),
    ];
    prop::collection::vec(one, 0..20)
}

fn contract(i: u8) -> Address {
    Address::repeat_byte(0x70 + i)
}

fn act(chain: &mut TestChain, act: &Act) -> Tx {
    match act {
        Act::Transfer { from, to, value } => {
            let to = TxKind::Call(Address::with_last_byte(*to | 0x80));
            chain.tx(*from, to, *value, Bytes::new(), 50_000)
        }
        Act::Deploy { from, kind } => {
            let code = match kind {
                0 => deploy(&storer()),
                1 => suicidal().into(), // destroyed while it is created
                2 => deploy(&suicidal()),
                _ => Bytes::from_static(&[0xfe]),
            };
            chain.tx(*from, TxKind::Create, 3, code, 300_000)
        }
        Act::Store {
            from,
            contract: i,
            slot,
            value,
        } => {
            let input = store_input((*slot).into(), (*value).into());
            chain.tx(*from, TxKind::Call(contract(*i)), 0, input, 100_000)
        }
        Act::Kill { from, contract: i } => chain.tx(
            *from,
            TxKind::Call(contract(10 + *i)),
            1,
            Bytes::new(),
            100_000,
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_transactions(blocks in prop::collection::vec(acts(), 1..6)) {
        let code = |code: Vec<u8>| json!({ "balance": "9", "code": format!("0x{}", hex::encode(code)) });
        let mut accounts = Vec::new();
        for i in 0..3 {
            accounts.push((contract(i), code(storer())));
            accounts.push((contract(10 + i), code(suicidal())));
        }
        let mut chain = TestChain::new(&accounts);
        for acts in blocks {
            let txs = acts.iter().map(|a| act(&mut chain, a)).collect();
            let built = chain.add(txs);
            let scratch = state_root_from_scratch(&chain.state).unwrap();
            prop_assert_eq!(built.block.header.state_root, scratch);
            prop_assert_eq!(chain.roots.root(), scratch);
            prop_assert_eq!(built.receipts.len(), acts.len());
        }
    }
}

#[test]
fn a_contract_that_dies_at_birth_leaves_nothing() {
    let mut chain = TestChain::new(&[]);
    // Stores 1 under 1 and then destroys itself, all in its creation.
    let born_dead = Bytes::from_static(&[0x60, 1, 0x60, 1, 0x55, 0x33, 0xff]);
    let tx = chain.tx(0, TxKind::Create, 5, born_dead, 200_000);
    let address = tx.sender().create(0);
    let built = chain.add(vec![tx]);
    assert!(built.receipts[0].success);
    assert_eq!(chain.state.account(&account_key(&address)).unwrap(), None);
    assert!(!built.diff.accounts.contains_key(&account_key(&address)));
    assert!(!built.diff.storage.contains_key(&account_key(&address)));
}

#[test]
fn a_contract_may_be_born_again_where_another_died() {
    // CALLDATACOPY of the whole input, CREATE2 of it with the value that came along and salt 0.
    let factory = Address::repeat_byte(0x55);
    let code = json!({ "balance": "0", "code": "0x365f5f375f365f34f5" });
    let mut chain = TestChain::new(&[(factory, code)]);
    // Stores 7 under its value; destroys itself when that is 1, else its code is STOP.
    let init = Bytes::from_static(&[
        0x60, 7, 0x34, 0x55, 0x34, 0x60, 1, 0x14, 0x60, 15, 0x57, 0x60, 1, 0x5f, 0xf3, 0x5b, 0x33,
        0xff,
    ]);
    let address = factory.create2(B256::ZERO, keccak256(&init));
    let dies = chain.tx(0, TxKind::Call(factory), 1, init.clone(), 300_000);
    let lives = chain.tx(1, TxKind::Call(factory), 2, init, 300_000);
    let built = chain.add(vec![dies, lives]);
    assert!(built.receipts.iter().all(|receipt| receipt.success));
    let key = account_key(&address);
    assert!(chain.state.account(&key).unwrap().unwrap().has_code());
    let stored = |n| {
        chain
            .state
            .storage(&key, &keccak256(B256::with_last_byte(n)))
            .unwrap()
    };
    assert_eq!((stored(1), stored(2)), (U256::ZERO, U256::from(7)));
    assert_eq!(
        chain.roots.root(),
        state_root_from_scratch(&chain.state).unwrap()
    );
}

#[test]
fn a_contract_of_an_earlier_transaction_outlives_its_selfdestruct() {
    let mut chain = TestChain::new(&[]);
    let create = chain.tx(0, TxKind::Create, 5, deploy(&suicidal()), 200_000);
    let address = create.sender().create(0);
    let kill = chain.tx(1, TxKind::Call(address), 0, Bytes::new(), 100_000);
    chain.add(vec![create, kill]);
    let account = chain
        .state
        .account(&account_key(&address))
        .unwrap()
        .unwrap();
    assert!(account.has_code());
    assert_eq!(account.balance, U256::ZERO);
}

#[test]
fn an_empty_account_of_the_genesis_goes_when_it_is_touched() {
    let empty = Address::repeat_byte(0xee);
    let mut chain = TestChain::new(&[(empty, json!({ "balance": "0" }))]);
    let key = account_key(&empty);
    assert!(chain.state.account(&key).unwrap().is_some());
    let touch = chain.tx(0, TxKind::Call(empty), 0, Bytes::new(), 50_000);
    let built = chain.add(vec![touch]);
    assert_eq!(built.diff.accounts.get(&key), Some(&None));
    assert_eq!(chain.state.account(&key).unwrap(), None);
    assert_eq!(
        chain.roots.root(),
        state_root_from_scratch(&chain.state).unwrap()
    );
}

#[test]
#[should_panic(expected = "the delta belongs to another state")]
fn a_delta_is_applied_on_its_own_state_only() {
    let mut chain = TestChain::new(&[]);
    let one = chain.build(&mut Queue::default());
    let other = one.clone();
    assert_eq!(
        Block::decode(&one.bytes, chain.spec.chain.id, &|_| None).unwrap(),
        one.block
    );
    chain.apply(one);
    chain.apply(other);
}
