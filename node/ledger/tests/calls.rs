//! Calls and gas estimates.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use axolotl_ledger::{
    CallError, CallOutcome, CallRequest, StateOverride, StateOverrides, Unlimited, call,
    estimate_gas, state_root_from_scratch,
};
use serde_json::json;
use support::*;

const CAP: u64 = 50_000_000;
const STORER: Address = Address::repeat_byte(0x71);
const REVERTER: Address = Address::repeat_byte(0x72);
const LOOP: Address = Address::repeat_byte(0x73);
/// Returns the word at slot 0: PUSH0 SLOAD PUSH0 MSTORE PUSH1 32 PUSH0 RETURN
const READER: &[u8] = &[0x5f, 0x54, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3];

fn chain() -> TestChain {
    let code = |code: &[u8]| json!({ "balance": "0", "code": format!("0x{}", hex::encode(code)) });
    TestChain::new(&[
        (STORER, code(&storer())),
        (REVERTER, code(&reverter())),
        (LOOP, code(&[0x5b, 0x5f, 0x56])), // JUMPDEST PUSH0 JUMP
    ])
}

fn request(to: Address, input: Bytes) -> CallRequest {
    CallRequest {
        from: user(0).address(),
        to: Some(to),
        input,
        ..CallRequest::default()
    }
}

fn run(chain: &TestChain, request: &CallRequest) -> Result<CallOutcome, CallError> {
    call(
        &chain.spec,
        &chain.head,
        &chain.state,
        request,
        &StateOverrides::new(),
        CAP,
        &Unlimited,
    )
}

fn estimate(
    chain: &TestChain,
    request: &CallRequest,
) -> Result<Result<u64, CallOutcome>, CallError> {
    estimate_gas(
        &chain.spec,
        &chain.head,
        &chain.state,
        request,
        &StateOverrides::new(),
        CAP,
        &Unlimited,
    )
}

#[test]
fn a_call_changes_nothing() {
    let chain = chain();
    let before = state_root_from_scratch(&chain.state).unwrap();
    match run(&chain, &request(STORER, store_input(1, 2))).unwrap() {
        CallOutcome::Success { logs, gas_used, .. } => {
            assert_eq!(logs.len(), 1);
            assert!(gas_used > 43_000, "{gas_used}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(state_root_from_scratch(&chain.state).unwrap(), before);
}

#[test]
fn reverts_and_failures() {
    let chain = chain();
    match run(&chain, &request(REVERTER, Bytes::new())).unwrap() {
        CallOutcome::Revert { output, .. } => {
            assert_eq!(output[..4], hex::decode("08c379a0").unwrap());
            assert_eq!(output[68..70], *b"no");
        }
        other => panic!("{other:?}"),
    }
    match run(&chain, &request(LOOP, Bytes::new())).unwrap() {
        CallOutcome::Halt { reason, gas_used } => {
            assert_eq!((reason.as_str(), gas_used), ("out of gas", CAP));
        }
        other => panic!("{other:?}"),
    }
    let poor = CallRequest {
        from: Address::repeat_byte(9),
        value: U256::from(1),
        ..request(STORER, Bytes::new())
    };
    let error = run(&chain, &poor).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "err: insufficient funds for gas * price + value: address {} have 0 want 1 (supplied gas {CAP})",
            poor.from
        )
    );
    let little = CallRequest {
        gas: Some(20_000),
        ..request(STORER, Bytes::new())
    };
    assert_eq!(
        run(&chain, &little).unwrap_err().to_string(),
        "err: intrinsic gas too low: have 20000, want 21000 (supplied gas 20000)"
    );
    let both = CallRequest {
        gas_price: Some(1),
        max_fee_per_gas: Some(1),
        ..request(STORER, Bytes::new())
    };
    assert!(
        run(&chain, &both)
            .unwrap_err()
            .to_string()
            .starts_with("both gasPrice and ")
    );
    let low = CallRequest {
        max_fee_per_gas: Some(5),
        ..request(STORER, Bytes::new())
    };
    let error = run(&chain, &low).unwrap_err().to_string();
    assert!(
        error.contains("max fee per gas less than block base fee"),
        "{error}"
    );
}

#[test]
fn an_account_with_code_may_call() {
    let chain = chain();
    let from_contract = CallRequest {
        from: REVERTER,
        ..request(STORER, store_input(1, 1))
    };
    assert!(matches!(
        run(&chain, &from_contract),
        Ok(CallOutcome::Success { .. })
    ));
}

#[test]
fn overrides_are_seen_by_the_call_alone() {
    let chain = chain();
    let mut overrides = StateOverrides::new();
    let with_slot = BTreeMap::from([(B256::ZERO, B256::with_last_byte(42))]);
    let pretended = StateOverride {
        code: Some(Bytes::from_static(READER)),
        state_diff: Some(with_slot.clone()),
        ..StateOverride::default()
    };
    overrides.insert(STORER, pretended.clone());
    let mut poor = request(STORER, Bytes::new());
    poor.from = Address::repeat_byte(9);
    poor.value = U256::from(5);
    overrides.insert(
        poor.from,
        StateOverride {
            balance: Some(U256::from(5)),
            ..StateOverride::default()
        },
    );
    let outcome = call(
        &chain.spec,
        &chain.head,
        &chain.state,
        &poor,
        &overrides,
        CAP,
        &Unlimited,
    )
    .unwrap();
    match outcome {
        CallOutcome::Success { output, .. } => assert_eq!(output[31], 42),
        other => panic!("{other:?}"),
    }
    overrides.insert(
        STORER,
        StateOverride {
            state: Some(with_slot),
            ..pretended
        },
    );
    let error = call(
        &chain.spec,
        &chain.head,
        &chain.state,
        &poor,
        &overrides,
        CAP,
        &Unlimited,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("both 'state' and 'stateDiff'"),
        "{error}"
    );
}

#[test]
fn a_whole_state_hides_what_is_stored() {
    let mut chain = chain();
    let input = store_input(0, 7);
    let tx = chain.tx(0, TxKind::Call(STORER), 0, input, 100_000);
    chain.add(vec![tx]);
    let read = |state| {
        let pretended = StateOverride {
            code: Some(Bytes::from_static(READER)),
            state,
            ..StateOverride::default()
        };
        let overrides = StateOverrides::from([(STORER, pretended)]);
        let request = request(STORER, Bytes::new());
        match call(
            &chain.spec,
            &chain.head,
            &chain.state,
            &request,
            &overrides,
            CAP,
            &Unlimited,
        )
        .unwrap()
        {
            CallOutcome::Success { output, .. } => output[31],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(None), 7);
    assert_eq!(read(Some(BTreeMap::new())), 0);
}

/// With what is estimated a transaction succeeds, and with much less it does not.
#[test]
fn estimates_are_enough_and_not_much_more() {
    let mut chain = chain();
    let plain = request(Address::repeat_byte(5), Bytes::new());
    assert_eq!(estimate(&chain, &plain).unwrap(), Ok(21_000));
    let cases = [
        (Some(STORER), store_input(1, 2)),
        (Some(STORER), store_input(1, 0)),
        (None, deploy(&storer())),
        (Some(LOOP.create(5)), vec![1; 1_000].into()),
    ];
    for (to, input) in cases {
        let request = CallRequest {
            to,
            ..request(STORER, input.clone())
        };
        let gas = estimate(&chain, &request).unwrap().unwrap();
        let kind = to.map_or(TxKind::Create, TxKind::Call);
        let nonce = chain.nonces[0];
        let tx = chain.tx(0, kind, 0, input.clone(), gas);
        let built = chain.build(&mut Queue::new(vec![tx]));
        assert!(built.receipts[0].success, "{to:?} with {gas}");
        chain.nonces[0] = nonce;
        let tx = chain.tx(0, kind, 0, input, gas * 98 / 100);
        let less = chain.build(&mut Queue::new(vec![tx]));
        let failed = less.receipts.first().is_none_or(|receipt| !receipt.success);
        assert!(failed, "{to:?} with less than {gas}");
        chain.nonces[0] = nonce;
        chain.nonces[0] += 1;
        chain.apply(built);
    }
}

#[test]
fn estimates_of_what_cannot_succeed() {
    let chain = chain();
    match estimate(&chain, &request(REVERTER, Bytes::new())).unwrap() {
        Err(CallOutcome::Revert { output, .. }) => assert_eq!(output.len(), 100),
        other => panic!("{other:?}"),
    }
    let forever = estimate(&chain, &request(LOOP, Bytes::new())).unwrap_err();
    assert_eq!(
        forever.to_string(),
        "gas required exceeds allowance (16777216)"
    );
    let poor = CallRequest {
        from: Address::repeat_byte(9),
        gas_price: Some(2 * GWEI),
        ..request(STORER, store_input(1, 1))
    };
    let error = estimate(&chain, &poor).unwrap_err();
    assert_eq!(error.to_string(), "gas required exceeds allowance (0)");
    let gives = CallRequest {
        value: U256::from(1),
        ..poor
    };
    let error = estimate(&chain, &gives).unwrap_err();
    assert_eq!(error.to_string(), "insufficient funds for transfer");
}
