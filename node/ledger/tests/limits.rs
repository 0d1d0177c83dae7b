//! The bytes of logs in a block are bounded, for builder and checker alike, and receipts never take more
//! than the limits of the genesis reckon with.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use alloy_consensus::{TxEip1559, TxType};
use alloy_primitives::{Address, B256, Bytes, Log, TxKind, U256};
use alloy_rlp::Encodable;
use axolotl_common::limits::{LOG_OVERHEAD_BYTES, RECEIPT_BYTES};
use axolotl_ledger::{
    Block, ExecutionError, InvalidBlock, Receipt, Rules, TransactionError, receipts::log_bytes,
};
use serde_json::json;
use support::*;

const LOGGER: Address = Address::repeat_byte(0x77);
/// Logs so many times, so many bytes of memory each.
const LOGGER_CODE: &[u8] = &[
    0x60, 0x20, 0x35, // count
    0x5b, 0x80, 0x15, 0x60, 0x14, 0x57, // until it is zero
    0x5f, 0x35, 0x5f, 0xa0, // LOG0 of the first word's bytes
    0x60, 0x01, 0x90, 0x03, 0x60, 0x03, 0x56, // one less
    0x5b, 0x00,
];
const LIMIT: u64 = 2 << 20;
/// With the address of the log it counts 64 KiB.
const DATA: u64 = (64 << 10) - 20;

fn chain(max_log_bytes: Option<u64>, osaka: bool) -> TestChain {
    let code = json!({ "balance": "0", "code": format!("0x{}", hex::encode(LOGGER_CODE)) });
    let mut document = genesis(&[(LOGGER, code)]);
    document["gasLimit"] = json!(100_000_000);
    document["axolotl"]["maxLogBytes"] = json!(max_log_bytes);
    if !osaka {
        document["config"]
            .as_object_mut()
            .unwrap()
            .remove("osakaTime");
    }
    TestChain::of(document)
}

/// A transaction of a user that logs `count` times `bytes` bytes.
fn logs(from: u64, count: u64, bytes: u64, gas_limit: u64) -> axolotl_ledger::Tx {
    let mut input = U256::from(bytes).to_be_bytes_vec();
    input.extend(U256::from(count).to_be_bytes_vec());
    decode(&sign_1559(
        &user(from),
        TxEip1559 {
            gas_limit,
            input: input.into(),
            ..transfer(0, TxKind::Call(LOGGER))
        },
    ))
}

const GAS: u64 = 10_000_000;

#[test]
fn a_block_holds_logs_up_to_the_limit_and_no_byte_more() {
    let chain = chain(Some(LIMIT), true);
    let half = logs(0, 16, DATA, GAS);
    let too_much = logs(1, 17, DATA, GAS);
    let rest = logs(2, 16, DATA, GAS);
    let one_log = logs(3, 1, 0, GAS);
    let reverts = logs(4, 4, DATA, 1_000_000);
    let none = logs(5, 0, 0, GAS);
    let mut queue = Queue::new(vec![
        half.clone(),
        too_much.clone(),
        rest.clone(),
        one_log.clone(),
        reverts.clone(),
        none.clone(),
    ]);
    let built = chain.build(&mut queue);
    assert_eq!(
        built.block.transactions,
        [half.clone(), rest.clone(), reverts, none]
    );
    let full = "the block is full: logs".to_owned();
    assert_eq!(
        queue.skipped,
        [(too_much.hash(), full.clone()), (one_log.hash(), full)]
    );
    assert_eq!(queue.discarded, [], "in a block of their own they fit");
    let logged: u64 = built.receipts.iter().map(|r| log_bytes(&r.logs)).sum();
    assert_eq!(logged, LIMIT);
    assert!(!built.receipts[2].success);
    let executed = chain.execute(built.block.clone()).unwrap();
    assert_same(&built, &executed);

    // A block with one log more, and everything else right.
    let mut larger = self::chain(Some(2 * LIMIT), true);
    let built = larger.add(vec![half, rest, one_log]);
    let header = on_top_of(&chain, &built.block.header);
    let over = Block::new(header, built.block.transactions, Vec::new());
    match chain.execute(over) {
        Err(ExecutionError::Invalid(InvalidBlock::LogsTooLong { index, size, limit })) => {
            assert_eq!((index, size, limit), (2, LIMIT + 20, LIMIT));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_logs_more_than_any_block_may_hold_is_discarded() {
    // Under the rules of Osaka nobody can: 16,777,216 gas pay for less than 2 MiB of logs.
    let osaka = chain(Some(LIMIT), true);
    let mut queue = Queue::new(vec![logs(0, 31, DATA, 16_777_216)]);
    let built = osaka.build(&mut queue);
    assert!(built.receipts[0].success && queue.skipped.is_empty());

    let prague = chain(Some(LIMIT), false);
    let hopeless = logs(0, 33, DATA, 40_000_000);
    assert_eq!(hopeless.check_static(&prague.spec, Rules::Prague), Ok(()));
    let next = logs(1, 32, DATA, 40_000_000);
    let mut queue = Queue::new(vec![hopeless.clone(), next.clone()]);
    let built = prague.build(&mut queue);
    assert_eq!(built.block.transactions, [next]);
    let why = TransactionError::LogsTooLong {
        bytes: 33 << 16,
        limit: LIMIT,
    };
    assert_eq!(
        why.to_string(),
        "logs exceed block limit: 2162688 bytes, limit 2097152"
    );
    assert_eq!(queue.discarded, [(hopeless.hash(), why)]);
    // It left no trace: the block is the same without it.
    let alone = prague.build(&mut Queue::new(built.block.transactions.clone()));
    assert_same(&built, &alone);
}

#[test]
fn chains_of_earlier_releases_have_no_such_limit() {
    let mut chain = chain(None, false);
    assert_eq!(chain.spec.max_log_bytes, None);
    let built = chain.add(vec![logs(0, 80, 64 << 10, 60_000_000)]);
    assert!(log_bytes(&built.receipts[0].logs) > 5 << 20);
}

#[test]
fn what_is_longer_than_a_block_may_be_is_refused_before_it_waits_for_one() {
    let mut document = genesis(&[]);
    document["axolotl"]["maxBlockBytes"] = (64 << 10).into();
    let small = TestChain::of(document);
    let with = |bytes: usize| {
        decode(&sign_1559(
            &user(0),
            TxEip1559 {
                input: Bytes::from(vec![0; bytes]),
                gas_limit: GAS,
                ..transfer(0, TxKind::Call(LOGGER))
            },
        ))
    };
    let room = small.spec.max_transactions_bytes();
    let around = with(60 << 10).encoded_len() - (60 << 10);
    let fits = with(room - around);
    assert_eq!(fits.encoded_len(), room);
    assert_eq!(fits.check_static(&small.spec, Rules::Osaka), Ok(()));
    assert_eq!(small.build(&mut Queue::new(vec![fits])).receipts.len(), 1);
    assert_eq!(
        with(room - around + 1).check_static(&small.spec, Rules::Osaka),
        Err(TransactionError::Oversized {
            size: room + 1,
            limit: room
        })
    );
}

#[test]
fn receipts_take_no_more_than_the_limits_reckon_with() {
    let largest = Receipt {
        tx_type: TxType::Eip7702,
        success: true,
        gas_used: u64::MAX,
        cumulative_gas_used: u64::MAX,
        logs: Vec::new(),
        contract_address: Some(Address::repeat_byte(0xff)),
        effective_gas_price: u128::MAX,
    };
    // Length and sender stand beside it in the block log, and the heads of its lists may be 5 long.
    let head_growth = 4 + 4;
    let taken = largest.encode().len() + 4 + 20 + head_growth;
    assert!(taken as u64 <= RECEIPT_BYTES, "{taken}");
    for topics in 0..=4 {
        for bytes in [0, 1, 55, 56, 255, 256, 65_535, 65_536, 1 << 24] {
            let log = Log::new_unchecked(
                LOGGER,
                vec![B256::repeat_byte(0xff); topics],
                vec![0xff; bytes].into(),
            );
            let counted = log_bytes(std::slice::from_ref(&log));
            assert_eq!(counted, (20 + 32 * topics + bytes) as u64);
            let encoded = log.length() as u64;
            assert!(
                encoded <= counted + LOG_OVERHEAD_BYTES,
                "{topics} topics, {bytes} bytes"
            );
            // No log takes more than an eighth of its gas.
            let gas = 375 + 375 * topics as u64 + 8 * bytes as u64;
            assert!(encoded <= gas / 8, "{topics} topics, {bytes} bytes");
        }
    }
}
