//! Executions that are stopped before their end.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use std::{cell::Cell, time::Duration};

use alloy_primitives::{Address, Bytes, TxKind};
use axolotl_ledger::{
    CallError, CallRequest, ExecutedBlock, ExecutionError, Interruption, StateOverrides, TimeLimit,
    Tx, build_block, call, execute_block,
};
use serde_json::json;
use support::*;

const LOOP: Address = Address::repeat_byte(0x73);
const GAS: u64 = 10_000_000;

/// The time is over at one look, and only there.
struct AtLook(Cell<u32>);

impl TimeLimit for AtLook {
    fn left(&self) -> Option<Duration> {
        let look = self.0.get();
        self.0.set(look.saturating_sub(1));
        Some(match look {
            1 => Duration::ZERO,
            _ => Duration::MAX,
        })
    }
}

/// So much is left at every look.
struct Always(Duration);

impl TimeLimit for Always {
    fn left(&self) -> Option<Duration> {
        Some(self.0)
    }
}

fn chain() -> TestChain {
    // JUMPDEST PUSH0 JUMP
    TestChain::new(&[(LOOP, json!({ "balance": "0", "code": "0x5b5f56" }))])
}

fn build(chain: &TestChain, source: &mut Queue, limit: &dyn TimeLimit) -> ExecutedBlock {
    build_block(
        &chain.spec,
        &chain.head,
        chain.hash,
        &chain.state,
        &chain.roots,
        chain.governance(),
        chain.attributes(),
        source,
        limit,
    )
    .unwrap()
}

/// A transfer, something that takes all its gas, and another transfer.
fn three(chain: &mut TestChain, to: Address, input: Bytes) -> [Tx; 3] {
    let someone = TxKind::Call(Address::repeat_byte(1));
    [
        chain.tx(0, someone, 1, Bytes::new(), 21_000),
        chain.tx(1, TxKind::Call(to), 0, input, GAS),
        chain.tx(2, someone, 2, Bytes::new(), 21_000),
    ]
}

#[test]
fn what_is_interrupted_leaves_nothing_behind() {
    let mut chain = chain();
    let [first, endless, last] = three(&mut chain, LOOP, Bytes::new());
    let without = chain.build(&mut Queue::new(vec![first.clone(), last.clone()]));
    for look in [2, 3, 4, 10, 100, 1_000] {
        let mut source = Queue::new(vec![first.clone(), endless.clone(), last.clone()]);
        let built = build(&chain, &mut source, &AtLook(Cell::new(look)));
        assert_eq!(
            source.interrupted,
            [(endless.hash(), Interruption::Execution)],
            "at look {look}"
        );
        assert_same(&built, &without);
    }
    // With time enough it is in the block, and has used up its gas.
    let mut source = Queue::new(vec![first, endless, last]);
    let built = build(&chain, &mut source, &Always(Duration::MAX));
    assert!(source.interrupted.is_empty());
    assert_eq!(built.receipts[1].gas_used, GAS);
    let [ref ok, ref out_of_gas, ref after] = built.receipts[..] else {
        panic!("{:?}", built.receipts);
    };
    assert!(ok.success && !out_of_gas.success && after.success);
    assert_same(&built, &chain.execute(built.block.clone()).unwrap());
}

#[test]
fn a_check_that_is_interrupted_says_nothing_of_the_block() {
    let mut chain = chain();
    let txs = three(&mut chain, LOOP, Bytes::new());
    let built = chain.build(&mut Queue::new(txs.to_vec()));
    let check = |limit: &dyn TimeLimit| {
        execute_block(
            &chain.spec,
            &chain.head,
            chain.hash,
            &chain.state,
            &chain.roots,
            chain.governance(),
            built.block.clone(),
            limit,
        )
    };
    for look in [2, 5, 50, 500] {
        let interrupted = check(&AtLook(Cell::new(look)));
        assert!(
            matches!(interrupted, Err(ExecutionError::Interrupted)),
            "at look {look}: {interrupted:?}"
        );
    }
    assert_same(&built, &check(&Always(Duration::MAX)).unwrap());
}

/// A precompiled contract cannot be stopped, so it is not begun: 32 bytes to the power of as many.
#[test]
fn a_precompiled_contract_that_cannot_end_in_time_is_not_begun() {
    let mut chain = chain();
    let modexp = Address::with_last_byte(5);
    let mut input = vec![0; 96];
    for (place, length) in [(30, 4u8), (62, 4), (94, 4)] {
        input[place] = length; // 1,024 bytes each
    }
    input.extend([0xff; 3 * 1_024]);
    let [first, heavy, last] = three(&mut chain, modexp, input.clone().into());
    for (left, interrupted) in [(Duration::from_micros(10), true), (Duration::MAX, false)] {
        let mut source = Queue::new(vec![first.clone(), heavy.clone(), last.clone()]);
        let built = build(&chain, &mut source, &Always(left));
        assert_eq!(!source.interrupted.is_empty(), interrupted, "{left:?}");
        assert_eq!(built.receipts.len(), if interrupted { 2 } else { 3 });
    }
}

#[test]
fn a_call_ends_with_its_time() {
    let chain = chain();
    let request = CallRequest {
        to: Some(LOOP),
        ..CallRequest::default()
    };
    let ended = call(
        &chain.spec,
        &chain.head,
        &chain.state,
        &request,
        &StateOverrides::new(),
        GAS,
        &AtLook(Cell::new(100)),
    );
    assert!(matches!(ended, Err(CallError::Interrupted)), "{ended:?}");
}
