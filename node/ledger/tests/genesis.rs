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
use axolotl_ledger::{
    ChainSpec, FieldFault, FlatState, ForkFault, MemoryState, RootCache, Rules, state::account_key,
};
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
    assert_eq!(header.gas_limit, 36_000_000);
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

/// Sets fields by path; `null` takes a field out.
fn genesis_with(changes: &[(&str, Value)]) -> Value {
    let mut document = dev_genesis(&axolotl(), GENESIS_TIME);
    for (path, value) in changes {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = document.pointer_mut(parent).unwrap();
        let fields = parent.as_object_mut().unwrap();
        match value {
            Value::Null => drop(fields.remove(name)),
            value => drop(fields.insert(name.to_owned(), value.clone())),
        }
    }
    document
}

#[test]
fn the_fork_schedule_is_read_as_geth_writes_it() {
    let spec_of = |document| {
        let document = GenesisDocument::from_value(document).unwrap();
        ChainSpec::from_document(document).unwrap().0
    };
    let none = Value::Null;
    let later = GENESIS_TIME + 100;
    let table = [
        // changes, time of Osaka
        (vec![], Some(0)),
        (vec![("/config/osakaTime", later.into())], Some(later)),
        (
            vec![
                ("/config/pragueTime", GENESIS_TIME.into()),
                ("/config/osakaTime", GENESIS_TIME.into()),
            ],
            Some(GENESIS_TIME),
        ),
        // Without it Prague holds for ever, with bounded logs or without.
        (vec![("/config/osakaTime", none.clone())], None),
        (
            vec![
                ("/config/osakaTime", none.clone()),
                ("/axolotl/maxLogBytes", none.clone()),
            ],
            None,
        ),
        // Documents of earlier releases say what they like about older forks.
        (
            vec![
                (
                    "/config",
                    json!({ "chainId": CHAIN, "londonBlock": 5, "pragueTime": u64::MAX }),
                ),
                ("/axolotl/maxLogBytes", none.clone()),
            ],
            None,
        ),
        (
            vec![(
                "/config",
                json!({
                    "chainId": CHAIN, "osakaTime": 0, "daoForkBlock": 9, "mergeNetsplitBlock": 9,
                    "amsterdamTime": null, "enableVerkleAtGenesis": false,
                    "depositContractAddress": "0x00", "clique": { "period": 5 },
                }),
            )],
            Some(0),
        ),
    ];
    for (changes, osaka) in table {
        let spec = spec_of(genesis_with(&changes));
        assert_eq!(spec.osaka_time, osaka, "{changes:?}");
        let (before, at) = (osaka.map(|t| t.checked_sub(1)), osaka);
        if let Some(Some(before)) = before {
            assert_eq!(spec.rules_at(before), Rules::Prague);
        }
        let expected = osaka.map_or(Rules::Prague, |_| Rules::Osaka);
        assert_eq!(spec.rules_at(at.unwrap_or(u64::MAX)), expected);
        assert_eq!(spec.rules_at(u64::MAX), expected);
    }
}

#[test]
fn forks_that_would_be_ignored_are_refused_by_name() {
    let none = Value::Null;
    let table: Vec<(&str, Value, ForkFault)> = vec![
        ("amsterdamTime", 0.into(), ForkFault::Unknown),
        ("bpo1Time", 0.into(), ForkFault::Unknown),
        ("bpo5Time", u64::MAX.into(), ForkFault::Unknown),
        ("verkleTime", 0.into(), ForkFault::Unknown),
        ("osakatime", 0.into(), ForkFault::Unknown),
        ("someBlock", "x".into(), ForkFault::Unknown),
        ("enableVerkleAtGenesis", true.into(), ForkFault::Unknown),
        ("osakaTime", json!(-1), ForkFault::NotANumber),
        ("osakaTime", json!(1.5), ForkFault::NotANumber),
        ("osakaTime", "".into(), ForkFault::NotANumber),
        ("osakaTime", "0x0".into(), ForkFault::NotANumber),
        ("osakaTime", true.into(), ForkFault::NotANumber),
        ("pragueTime", "soon".into(), ForkFault::NotANumber),
        (
            "londonBlock",
            1.into(),
            ForkFault::AfterGenesis { found: 1, limit: 0 },
        ),
        (
            "pragueTime",
            (GENESIS_TIME + 1).into(),
            ForkFault::AfterGenesis {
                found: GENESIS_TIME + 1,
                limit: GENESIS_TIME,
            },
        ),
    ];
    let why = |document| {
        let document = GenesisDocument::from_value(document).unwrap();
        let mut faults = ChainSpec::from_document(document)
            .expect_err("it was taken")
            .0;
        assert_eq!(faults.len(), 1, "{faults:?}");
        let fault = faults.remove(0);
        match fault.why {
            FieldFault::Fork(why) => (fault.field, why),
            other => panic!("{other:?}"),
        }
    };
    for (name, value, fault) in table {
        let document = genesis_with(&[(&format!("/config/{name}"), value.clone())]);
        assert_eq!(why(document), (format!("config.{name}"), fault), "{value}");
    }
    let order = genesis_with(&[
        ("/config/pragueTime", 7.into()),
        ("/config/osakaTime", 6.into()),
    ]);
    let fault = ForkFault::Order {
        found: 6,
        earlier: "config.pragueTime",
        limit: 7,
    };
    assert_eq!(why(order), ("config.osakaTime".into(), fault));
    // A release that does not know Osaka would take this document, and follow other rules.
    let old = genesis_with(&[("/axolotl/maxLogBytes", none)]);
    assert_eq!(
        why(old),
        ("config.osakaTime".into(), ForkFault::NeedsLogLimit)
    );
}

#[test]
fn limits_that_permit_a_block_that_cannot_be_stored_are_refused() {
    let old = |gas: u64| {
        genesis_with(&[
            ("/gasLimit", format!("{gas:#x}").into()),
            ("/config/osakaTime", Value::Null),
            ("/axolotl/maxLogBytes", Value::Null),
        ])
    };
    for gas in [300_000_000, 503_314_967] {
        assert!(
            ChainSpec::from_document(GenesisDocument::from_value(old(gas)).unwrap()).is_ok(),
            "{gas}"
        );
    }
    for gas in [503_314_968, 530_000_000, i64::MAX as u64] {
        let document = GenesisDocument::from_value(old(gas)).unwrap();
        let error = ChainSpec::from_document(document).expect_err("it was taken");
        let [fault] = &error.0[..] else {
            panic!("{error}");
        };
        assert_eq!(fault.field, "gasLimit");
        let FieldFault::Limits(unstorable) = &fault.why else {
            panic!("{fault:?}");
        };
        assert_eq!(unstorable.gas_limit_max, Some(503_314_967));
        assert_eq!(unstorable.needed.logs, gas / 8);
    }
    let document = GenesisDocument::from_value(old(530_000_000)).unwrap();
    assert_eq!(
        ChainSpec::from_document(document)
            .expect_err("it was taken")
            .to_string(),
        "genesis field `gasLimit`: a block could be decided that no node can store: block 2097152 + epoch record \
         1048585 + proof 1048640 + logs 66250000 (530000000 gas / 8) + receipts and senders 96 + prefix 21 = 70444494 \
         bytes > 67108864 bytes of a record of the block log; lower gasLimit to 503314967 or less, or bound the logs \
         with axolotl.maxLogBytes (such as 8388608)"
    );
    // With bounded logs the same gas limit is slow, but can be stored.
    let bounded = genesis_with(&[("/gasLimit", "530000000".into())]);
    assert!(ChainSpec::from_document(GenesisDocument::from_value(bounded).unwrap()).is_ok());
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
