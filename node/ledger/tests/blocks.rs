//! Blocks: built, encoded, executed, refused.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use alloy_consensus::{Header, TxEip1559, TxEip2930, TxEip7702, TxLegacy};
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, TxKind, U256, keccak256};
use alloy_rlp::Encodable;
use axolotl_common::{ChainId, PublicKey};
use axolotl_ledger::{
    Block, BlockAttributes, ExecutionError, FlatState, InvalidBlock, block::beneficiary_of,
    state::account_key, state_root_from_scratch,
};
use serde_json::json;
use support::*;

const HERE: TxKind = TxKind::Call(Address::repeat_byte(0x11));

fn balance(chain: &TestChain, address: Address) -> U256 {
    let account = chain.state.account(&account_key(&address)).unwrap();
    account.map(|account| account.balance).unwrap_or_default()
}

#[test]
fn all_types_of_transactions_are_executed() {
    let contract = Address::repeat_byte(0x77);
    let code = hex::encode(storer());
    let mut chain = TestChain::new(&[(
        contract,
        json!({ "balance": "0", "code": format!("0x{code}") }),
    )]);
    let price = 2 * GWEI;
    let legacy = decode(&sign_legacy(
        &user(0),
        TxLegacy {
            chain_id: Some(CHAIN),
            gas_price: price,
            gas_limit: 21_000,
            to: HERE,
            value: U256::from(5),
            ..TxLegacy::default()
        },
    ));
    let listed = decode(&sign_2930(
        &user(1),
        TxEip2930 {
            chain_id: CHAIN,
            gas_price: price,
            gas_limit: 100_000,
            to: TxKind::Call(contract),
            input: store_input(1, 2),
            access_list: AccessList(vec![AccessListItem {
                address: contract,
                storage_keys: vec![B256::with_last_byte(1)],
            }]),
            ..TxEip2930::default()
        },
    ));
    let dynamic = chain.tx(2, TxKind::Create, 0, deploy(&storer()), 200_000);
    let delegating = decode(&sign_7702(
        &user(3),
        TxEip7702 {
            chain_id: CHAIN,
            gas_limit: 200_000,
            max_fee_per_gas: price,
            max_priority_fee_per_gas: GWEI,
            to: user(4).address(),
            input: store_input(9, 9),
            authorization_list: vec![authorize(&user(4), contract, 0)],
            ..TxEip7702::default()
        },
    ));
    let built = chain.add(vec![legacy, listed, dynamic, delegating]);
    let receipts = &built.receipts;
    assert!(receipts.iter().all(|r| r.success), "{receipts:#?}");
    assert_eq!(receipts[0].gas_used, 21_000);
    assert_eq!(receipts[0].effective_gas_price, price);
    assert_eq!(receipts[1].logs.len(), 1);
    assert_eq!(
        receipts[2].contract_address,
        Some(user(2).address().create(0))
    );
    // The delegated code ran with the storage of user 4.
    assert_eq!(receipts[3].logs[0].address, user(4).address());
    let key = account_key(&user(4).address());
    let slot = keccak256(B256::with_last_byte(9));
    assert_eq!(chain.state.storage(&key, &slot).unwrap(), U256::from(9));
    assert_eq!(balance(&chain, Address::repeat_byte(0x11)), U256::from(5));
    let last = receipts.last().unwrap();
    assert_eq!(last.cumulative_gas_used, built.block.header.gas_used);
    // The builder earns the tips: the rest of what was paid is burnt.
    let base = u128::from(built.block.header.base_fee_per_gas.unwrap());
    let earned: u128 = receipts
        .iter()
        .map(|r| u128::from(r.gas_used) * (r.effective_gas_price - base))
        .sum();
    assert_eq!(
        balance(&chain, beneficiary_of(&builder())),
        U256::from(earned)
    );
    assert_eq!(
        chain.roots.root(),
        state_root_from_scratch(&chain.state).unwrap()
    );
}

#[test]
fn the_header_is_that_of_prague() {
    let mut chain = TestChain::new(&[]);
    let tx = chain.tx(0, HERE, 1, Bytes::new(), 21_000);
    let built = chain.add(vec![tx]);
    let h = &built.block.header;
    assert_eq!(h.base_fee_per_gas, Some(1_000_000_000));
    assert_eq!(h.extra_data[..], builder().0);
    assert_eq!(
        h.beneficiary,
        Address::from_slice(&keccak256(builder().0)[12..])
    );
    let mut seed = h.parent_hash.to_vec();
    seed.extend(1u64.to_be_bytes());
    assert_eq!(h.mix_hash, keccak256(seed));
    assert_eq!(
        h.requests_hash,
        Some(alloy_eips::eip7685::EMPTY_REQUESTS_HASH)
    );
    // The list of fields as the execution specification gives it, hashed by hand.
    let mut fields = Vec::new();
    let f: [&dyn Encodable; 21] = [
        &h.parent_hash,
        &h.ommers_hash,
        &h.beneficiary,
        &h.state_root,
        &h.transactions_root,
        &h.receipts_root,
        &h.logs_bloom,
        &U256::ZERO,
        &1u64,
        &h.gas_limit,
        &21_000u64,
        &GENESIS_TIME,
        &h.extra_data,
        &h.mix_hash,
        &[0u8; 8],
        &1_000_000_000u64,
        &alloy_trie::EMPTY_ROOT_HASH,
        &0u64,
        &0u64,
        &B256::ZERO,
        &alloy_eips::eip7685::EMPTY_REQUESTS_HASH,
    ];
    f.iter().for_each(|field| field.encode(&mut fields));
    let mut list = Vec::new();
    alloy_rlp::Header {
        list: true,
        payload_length: fields.len(),
    }
    .encode(&mut list);
    list.extend(fields);
    assert_eq!(built.hash, keccak256(list));
}

#[test]
fn the_hash_of_the_first_block_of_mainnet() {
    let header = Header {
        state_root: "0xd7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544"
            .parse()
            .unwrap(),
        difficulty: U256::from(0x4_0000_0000u64),
        gas_limit: 5000,
        extra_data: "0x11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa"
            .parse()
            .unwrap(),
        nonce: B64::from(0x42u64),
        ..Header::default()
    };
    let block = Block::new(header, Vec::new(), Vec::new());
    let expected = "0xd4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3";
    assert_eq!(block.hash().to_string(), expected);
}

#[test]
fn a_changed_header_is_refused() {
    let mut chain = TestChain::new(&[]);
    let tx = chain.tx(0, TxKind::Create, 0, deploy(&storer()), 200_000);
    let built = chain.build(&mut Queue::new(vec![tx]));
    chain.execute(built.block.clone()).unwrap();
    let other = B256::repeat_byte(9);
    type Change = Box<dyn Fn(&mut Header)>;
    let changes: Vec<(&str, Change)> = vec![
        ("parentHash", Box::new(move |h| h.parent_hash = other)),
        ("sha3Uncles", Box::new(move |h| h.ommers_hash = other)),
        ("miner", Box::new(|h| h.beneficiary = Address::ZERO)),
        ("stateRoot", Box::new(move |h| h.state_root = other)),
        (
            "transactionsRoot",
            Box::new(move |h| h.transactions_root = other),
        ),
        ("receiptsRoot", Box::new(move |h| h.receipts_root = other)),
        (
            "logsBloom",
            Box::new(|h| h.logs_bloom = Bloom::repeat_byte(1)),
        ),
        ("difficulty", Box::new(|h| h.difficulty = U256::from(1))),
        ("number", Box::new(|h| h.number += 1)),
        ("gasLimit", Box::new(|h| h.gas_limit += 1)),
        ("gasUsed", Box::new(|h| h.gas_used += 1)),
        ("timestamp", Box::new(|h| h.timestamp -= 1)),
        (
            "miner",
            Box::new(|h| h.extra_data = member(2).public_key.0.into()),
        ),
        (
            "extraData",
            Box::new(|h| h.extra_data = Bytes::from_static(b"short")),
        ),
        ("mixHash", Box::new(move |h| h.mix_hash = other)),
        ("nonce", Box::new(|h| h.nonce = B64::from(1u64))),
        ("baseFeePerGas", Box::new(|h| h.base_fee_per_gas = Some(7))),
        ("baseFeePerGas", Box::new(|h| h.base_fee_per_gas = None)),
        (
            "withdrawalsRoot",
            Box::new(move |h| h.withdrawals_root = Some(other)),
        ),
        ("blobGasUsed", Box::new(|h| h.blob_gas_used = Some(1))),
        ("excessBlobGas", Box::new(|h| h.excess_blob_gas = Some(1))),
        (
            "parentBeaconBlockRoot",
            Box::new(move |h| h.parent_beacon_block_root = Some(other)),
        ),
        (
            "requestsHash",
            Box::new(move |h| h.requests_hash = Some(other)),
        ),
        ("requestsHash", Box::new(|h| h.requests_hash = None)),
        (
            "hash",
            Box::new(move |h| h.block_access_list_hash = Some(other)),
        ),
        ("hash", Box::new(|h| h.slot_number = Some(1))),
    ];
    for (name, change) in changes {
        let mut header = built.block.header.clone();
        change(&mut header);
        let block = Block::new(header, built.block.transactions.clone(), Vec::new());
        match chain.execute(block) {
            Err(ExecutionError::Invalid(InvalidBlock::Header { field, .. })) => {
                assert_eq!(field, name);
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    // A later time is another block, but a valid one: the state does not see it.
    let mut header = built.block.header.clone();
    header.timestamp += 1;
    let later = Block::new(header, built.block.transactions.clone(), Vec::new());
    chain.execute(later).unwrap();
    // The transactions are bound by their root.
    let without = Block::new(built.block.header.clone(), Vec::new(), Vec::new());
    let error = chain.execute(without).unwrap_err().to_string();
    assert!(
        error.contains("transactionsRoot") || error.contains("gasUsed"),
        "{error}"
    );
}

#[test]
fn timestamps_may_stand_but_not_fall() {
    let chain = TestChain::new(&[]);
    let earlier = BlockAttributes {
        timestamp: GENESIS_TIME - 1,
        ..chain.attributes()
    };
    let error = chain
        .build_with(earlier, &mut Queue::default())
        .unwrap_err();
    assert!(error.to_string().contains("timestamp"), "{error}");
}

#[test]
fn an_invalid_transaction_makes_a_block_invalid() {
    let mut chain = TestChain::new(&[]);
    let one = chain.tx(0, HERE, 1, Bytes::new(), 21_000);
    let two = chain.tx(0, HERE, 2, Bytes::new(), 21_000);
    let built = chain.build(&mut Queue::new(vec![one.clone(), two.clone()]));
    let draft = Block::new(Header::default(), vec![two, one], Vec::new());
    let mut header = built.block.header.clone();
    header.transactions_root = draft.transactions_root();
    let swapped = Block::new(header, draft.transactions, Vec::new());
    let error = chain.execute(swapped).unwrap_err().to_string();
    assert!(
        error.contains("transaction 0") && error.contains("nonce too high"),
        "{error}"
    );
}

#[test]
fn who_does_not_fit_is_skipped_with_all_that_follows() {
    let mut chain = TestChain::new(&[]);
    let rich = chain.tx(0, HERE, 1, Bytes::new(), 21_000);
    let gap = decode(&sign_1559(&user(1), transfer(5, HERE)));
    let after_gap = decode(&sign_1559(&user(1), transfer(0, HERE)));
    let cheap = decode(&sign_1559(
        &user(2),
        TxEip1559 {
            max_fee_per_gas: 1,
            max_priority_fee_per_gas: 1,
            ..transfer(0, HERE)
        },
    ));
    let broke = decode(&sign_1559(&user(1_000), transfer(0, HERE)));
    let large = decode(&sign_1559(
        &user(3),
        TxEip1559 {
            gas_limit: chain.spec.gas_limit,
            ..transfer(0, HERE)
        },
    ));
    let mut queue = Queue::new(vec![
        rich.clone(),
        gap.clone(),
        after_gap,
        cheap.clone(),
        broke.clone(),
        large.clone(),
    ]);
    let built = chain.build(&mut queue);
    assert_eq!(built.block.transactions, [rich]);
    let why = |tx: &axolotl_ledger::Tx| {
        let skipped = queue.skipped.iter().find(|(hash, _)| *hash == tx.hash());
        skipped.map(|(_, why)| why.clone()).unwrap_or_default()
    };
    assert_eq!(queue.skipped.len(), 4, "{:?}", queue.skipped);
    assert!(why(&gap).starts_with("nonce too high: address 0x"));
    assert!(why(&cheap).starts_with("max fee per gas less than block base fee: address 0x"));
    assert!(why(&broke).starts_with("insufficient funds for gas * price + value: address 0x"));
    assert_eq!(why(&large), "the block is full: gas");
}

#[test]
fn a_block_holds_no_more_bytes_than_allowed() {
    let mut document = genesis(&[]);
    document["axolotl"]["maxBlockBytes"] = (64 << 10).into();
    let mut chain = TestChain::of(document);
    let data = Bytes::from(vec![0; 20 << 10]);
    let txs: Vec<_> = (0..6)
        .map(|i| chain.tx(i, HERE, 0, data.clone(), 1_000_000))
        .collect();
    let mut queue = Queue::new(txs.clone());
    let built = chain.build(&mut queue);
    assert_eq!(built.block.transactions.len(), 3);
    assert_eq!(queue.skipped.len(), 3);
    assert!(built.bytes.len() <= 64 << 10);
    chain.execute(built.block.clone()).unwrap();
    // One more, and everything else right.
    let mut large = TestChain::of({
        let mut document = genesis(&[]);
        document["axolotl"]["maxBlockBytes"] = (128 << 10).into();
        document
    });
    let built = large.add(txs);
    let header = on_top_of(&chain, &built.block.header);
    let long = Block::new(header, built.block.transactions.clone(), Vec::new());
    match chain.execute(long) {
        Err(ExecutionError::Invalid(InvalidBlock::TooLong { size, limit })) => {
            assert_eq!(limit, 64 << 10);
            assert!(size > limit);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn known_transactions_are_not_decoded_again() {
    let mut chain = TestChain::new(&[]);
    let tx = chain.tx(0, HERE, 1, Bytes::new(), 21_000);
    let built = chain.build(&mut Queue::new(vec![tx.clone()]));
    let known = tx.clone();
    let decoded = Block::decode(&built.bytes, ChainId(CHAIN), &|hash| {
        (*hash == known.hash()).then(|| known.clone())
    })
    .unwrap();
    assert!(std::sync::Arc::ptr_eq(&decoded.transactions[0], &tx));
    assert_eq!(decoded.builder(), builder());
    assert_eq!(Block::default().builder(), PublicKey([0; 32]));
    assert!(Block::decode(&built.bytes, ChainId(1), &|_| None).is_err());
}

#[test]
fn blockhash_answers_for_256_blocks() {
    // Stores BLOCKHASH(first word of the input) under slot 0: PUSH0 CALLDATALOAD BLOCKHASH PUSH0 SSTORE
    let contract = Address::repeat_byte(0x77);
    let mut chain = TestChain::new(&[(
        contract,
        json!({ "balance": "0", "code": "0x5f35405f5500" }),
    )]);
    let mut hashes = vec![chain.hash];
    for _ in 0..300 {
        let built = chain.build(&mut Queue::default());
        chain.apply(built);
        hashes.push(chain.hash);
    }
    let key = account_key(&contract);
    let slot = keccak256(B256::ZERO);
    for (number, known) in [
        (300u64, true),
        (299, true),
        (45, true),
        (44, false),
        (301, false),
    ] {
        let asked = U256::from(number).to_be_bytes_vec().into();
        let tx = chain.tx(0, TxKind::Call(contract), 0, asked, 100_000);
        let built = chain.build(&mut Queue::new(vec![tx]));
        let after = axolotl_ledger::Overlay::new(&chain.state, &built.diff);
        let expected = if known {
            hashes[number as usize]
        } else {
            B256::ZERO
        };
        assert_eq!(
            B256::from(after.storage(&key, &slot).unwrap()),
            expected,
            "{number}"
        );
        chain.nonces[0] = 0;
    }
}
