//! The genesis document: what it means, and how its faults are named.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_trie::{
    EMPTY_ROOT_HASH, KECCAK_EMPTY, TrieAccount,
    root::{state_root_unhashed, storage_root_unhashed},
};
use axolotl_common::genesis::{DEV_ACCOUNTS, GenesisDocument, dev_genesis};
use axolotl_ledger::{ChainSpec, FlatState, MemoryState, RootCache, state::account_key};
use serde_json::{Value, json};
use support::*;

fn faults(document: Value) -> Vec<String> {
    let document = GenesisDocument::from_value(document).unwrap();
    let error = ChainSpec::from_document(document).expect_err("it was taken");
    error.0.into_iter().map(|fault| fault.field).collect()
}

/// The history contract as EIP-2935 gives it, not as our constant does.
fn history() -> (Address, TrieAccount) {
    let code = hex::decode(
        "3373fffffffffffffffffffffffffffffffffffffffe14604657602036036042575f35600143038111604257\
         611fff81430311604257611fff9006545f5260205ff35b5f5ffd5b5f35611fff60014303065500",
    )
    .unwrap();
    let account = TrieAccount {
        nonce: 1,
        balance: U256::ZERO,
        storage_root: EMPTY_ROOT_HASH,
        code_hash: keccak256(code),
    };
    (
        "0x0000F90827F1C53a10cb7A02335B175320002935"
            .parse()
            .unwrap(),
        account,
    )
}

#[test]
fn the_development_genesis_has_the_root_that_alloy_computes() {
    let document = GenesisDocument::from_value(dev_genesis(&axolotl(), GENESIS_TIME)).unwrap();
    let hash = document.hash();
    let (spec, diff) = ChainSpec::from_document(document).unwrap();
    let mut accounts: BTreeMap<Address, TrieAccount> = DEV_ACCOUNTS
        .iter()
        .map(|address| {
            let account = TrieAccount {
                nonce: 0,
                balance: U256::from(10_000) * U256::from(10u64.pow(18)),
                storage_root: EMPTY_ROOT_HASH,
                code_hash: KECCAK_EMPTY,
            };
            (address.parse().unwrap(), account)
        })
        .collect();
    accounts.extend([history()]);
    let header = &spec.genesis_block.header;
    assert_eq!(header.state_root, state_root_unhashed(accounts));
    let cache = RootCache::build(&MemoryState::from_diff(&diff)).unwrap();
    assert_eq!(header.state_root, cache.root());
    assert_eq!(header.extra_data[..], hash.0);
    assert_eq!(header.number, 0);
    assert_eq!(header.timestamp, GENESIS_TIME);
    assert_eq!(header.gas_limit, 300_000_000);
    assert_eq!(header.base_fee_per_gas, Some(1_000_000_000));
    assert_eq!(spec.genesis_hash_block(), header.hash_slow());
    assert_eq!(spec.chain_id(), CHAIN);
}

#[test]
fn alloc_is_read_as_geth_reads_it() {
    let address = "00000000000000000000000000000000000000aA";
    let mut document = dev_genesis(&axolotl(), GENESIS_TIME);
    document["alloc"] = json!({
        address: {
            "balance": "12345678901234567890123",
            "nonce": "0x1",
            "code": "0x6000",
            "storage": { "0x01": "0x02", "03": "00", "0x0000000000000000000000000000000000000000000000000000000000000004": "0xff" },
        },
        "0x00000000000000000000000000000000000000bb": { "balance": "0xA" },
        "0x00000000000000000000000000000000000000cc": { "balance": 7 },
    });
    document["timestamp"] = "1800000001".into();
    document["gasLimit"] = "30000000".into();
    document["baseFeePerGas"] = "0x77359400".into();
    document["coinbase"] = "0x00000000000000000000000000000000000000dd".into();
    document["extraData"] = "0x1234".into();
    document["difficulty"] = "0x1".into();
    let (spec, diff) =
        ChainSpec::from_document(GenesisDocument::from_value(document).unwrap()).unwrap();
    let header = &spec.genesis_block.header;
    assert_eq!(header.timestamp, 1_800_000_001);
    assert_eq!(header.gas_limit, 30_000_000);
    assert_eq!(header.base_fee_per_gas, Some(2_000_000_000));
    assert_eq!(header.beneficiary, Address::with_last_byte(0xdd));
    assert!(header.difficulty.is_zero());
    let plain = |balance: u64| TrieAccount {
        nonce: 0,
        balance: U256::from(balance),
        storage_root: EMPTY_ROOT_HASH,
        code_hash: KECCAK_EMPTY,
    };
    let code = Bytes::from_static(&[0x60, 0]);
    let contract = TrieAccount {
        nonce: 1,
        balance: "12345678901234567890123".parse().unwrap(),
        storage_root: storage_root_unhashed([
            (B256::with_last_byte(1), U256::from(2)),
            (B256::with_last_byte(4), U256::from(255)),
        ]),
        code_hash: keccak256(&code),
    };
    let accounts = [
        (Address::with_last_byte(0xaa), contract),
        (Address::with_last_byte(0xbb), plain(10)),
        (Address::with_last_byte(0xcc), plain(7)),
        history(),
    ];
    assert_eq!(header.state_root, state_root_unhashed(accounts));
    let state = MemoryState::from_diff(&diff);
    assert_eq!(state.code(&keccak256(&code)).unwrap(), Some(code));
    let key = account_key(&Address::with_last_byte(0xaa));
    let slot = keccak256(B256::with_last_byte(4));
    assert_eq!(state.storage(&key, &slot).unwrap(), U256::from(255));
}

#[test]
fn all_faults_are_named_at_once() {
    let mut document = dev_genesis(&axolotl(), GENESIS_TIME);
    let account = "0x00000000000000000000000000000000000000aa";
    document["gasLimit"] = "12x".into();
    document["timestamp"] = json!(-1);
    document["baseFeePerGas"] = "1".into();
    document["number"] = "0x1".into();
    document["coinbase"] = "0x12".into();
    document["alloc"] = json!({
        account: { "nonce": "0x1", "code": "6000", "storage": { "0xzz": "0x1" } },
        "nobody": { "balance": "1" },
        "00000000000000000000000000000000000000AA": { "balance": "1" },
        "0x00000000000000000000000000000000000000bb": { "balance": "1", "storage": { "0x1": "0x1" } },
        "0x00000000000000000000000000000000000000cc": 5,
        "0x00000000000000000000000000000000000000dd": { "balance": "0x1_0" },
        "0x0000F90827F1C53a10cb7A02335B175320002935": { "balance": "0", "code": "0x00" },
    });
    let mut named = faults(document);
    named.sort();
    let mut expected = vec![
        "alloc.0x0000F90827F1C53a10cb7A02335B175320002935.code".to_owned(),
        format!("alloc.{account}"),
        "alloc.0x00000000000000000000000000000000000000bb.storage".into(),
        "alloc.0x00000000000000000000000000000000000000cc".into(),
        "alloc.0x00000000000000000000000000000000000000dd.balance".into(),
        "alloc.nobody".into(),
        "baseFeePerGas".into(),
        "coinbase".into(),
        "gasLimit".into(),
        "number".into(),
        "timestamp".into(),
    ];
    expected.sort();
    assert_eq!(named, expected);

    let mut document = dev_genesis(&axolotl(), GENESIS_TIME);
    document["alloc"] =
        json!({ account: { "nonce": "0x1", "code": "6000", "storage": { "0xzz": "0x1" } } });
    let mut named = faults(document);
    named.sort();
    assert_eq!(
        named,
        [
            format!("alloc.{account}.balance"),
            format!("alloc.{account}.code"),
            format!("alloc.{account}.storage.0xzz"),
        ]
    );
}

#[test]
fn what_must_be_there() {
    for field in ["gasLimit", "alloc"] {
        let mut document = dev_genesis(&axolotl(), GENESIS_TIME);
        document.as_object_mut().unwrap().remove(field);
        assert_eq!(faults(document), [field]);
    }
    let mut document = dev_genesis(&axolotl(), GENESIS_TIME);
    let most = format!("{:#x}", U256::MAX);
    document["alloc"] = json!({
        "0x00000000000000000000000000000000000000aa": { "balance": most },
        "0x00000000000000000000000000000000000000bb": { "balance": "1" },
    });
    assert_eq!(
        faults(document),
        ["alloc.0x00000000000000000000000000000000000000bb"]
    );
    for limit in ["0", "4999", "0x8000000000000000"] {
        let mut document = dev_genesis(&axolotl(), GENESIS_TIME);
        document["gasLimit"] = limit.into();
        assert_eq!(faults(document), ["gasLimit"]);
    }
}
