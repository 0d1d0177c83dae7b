//! The rules of Osaka, by the vectors of each EIP, and the switch to them by the time of a block.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use alloy_consensus::{Header, TxEip1559};
use alloy_primitives::{Address, Bytes, TxKind, U256, address, hex};
use axolotl_ledger::{
    Block, BlockAttributes, CallOutcome, CallRequest, ExecutionError, InvalidBlock, Rules,
    StateOverride, StateOverrides, TransactionError, Unlimited, call, estimate_gas,
};
use support::*;

const HERE: Address = Address::repeat_byte(0x11);
const CAP: u64 = 16_777_216;
const CALL_GAS: u64 = 50_000_000;
const P256: Address = address!("0000000000000000000000000000000000000100");

/// A chain that follows the rules of Osaka from a time on.
fn chain(osaka_time: Option<u64>) -> TestChain {
    let mut document = genesis(&[]);
    match osaka_time {
        Some(time) => document["config"]["osakaTime"] = time.into(),
        None => drop(
            document["config"]
                .as_object_mut()
                .unwrap()
                .remove("osakaTime"),
        ),
    }
    TestChain::of(document)
}

/// Runs code with an input at the rules of a chain.
fn run(chain: &TestChain, code: &[u8], input: &[u8]) -> CallOutcome {
    let request = CallRequest {
        from: user(0).address(),
        to: Some(HERE),
        input: Bytes::copy_from_slice(input),
        ..CallRequest::default()
    };
    let pretended = StateOverride {
        code: Some(Bytes::copy_from_slice(code)),
        ..StateOverride::default()
    };
    let overrides = StateOverrides::from([(HERE, pretended)]);
    call(
        &chain.spec,
        &chain.head,
        &chain.state,
        &request,
        &overrides,
        CALL_GAS,
        &Unlimited,
    )
    .unwrap()
}

fn output(outcome: CallOutcome) -> Bytes {
    match outcome {
        CallOutcome::Success { output, .. } => output,
        other => panic!("{other:?}"),
    }
}

/// Calls a precompile, and returns whether it succeeded and what it cost.
fn precompile(chain: &TestChain, address: u16, input: &[u8]) -> (bool, u64) {
    let [high, low] = address.to_be_bytes();
    let code = [
        0x36, 0x5f, 0x5f, 0x37, // copy the input to memory
        0x5a, // gas before
        0x5f, 0x5f, 0x36, 0x5f, 0x61, high, low, 0x5a, 0xfa, // STATICCALL with all gas
        0x5a, // gas after
        0x90, 0x5f, 0x52, // store the success
        0x90, 0x03, 0x60, 0x20, 0x52, // store the difference
        0x60, 0x40, 0x5f, 0xf3, // return both
    ];
    // PUSH0 three times, CALLDATASIZE and twice GAS 2 each, PUSH2 3, the call of a warm account 100.
    const AROUND: u64 = 6 * 2 + 3 + 100;
    let words = output(run(chain, &code, input));
    let word = |i: usize| U256::from_be_slice(&words[32 * i..32 * i + 32]);
    (!word(0).is_zero(), word(1).to::<u64>() - AROUND)
}

#[test]
fn clz_counts_leading_zeros() {
    // The example of EIP-7939's test: PUSH1 1 CLZ PUSH0 MSTORE PUSH1 32 PUSH0 RETURN, with PUSH1 0.
    let one = hex!("60011e60005260206000f3");
    assert_eq!(
        U256::from_be_slice(&output(run(&chain(Some(0)), &one, &[]))),
        U256::from(255)
    );
    match run(&chain(None), &one, &[]) {
        CallOutcome::Halt { reason, .. } => {
            assert!(reason.starts_with("invalid opcode"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let chain = chain(Some(0));
    let of = |opcode: u8, x: U256| {
        let code = [0x5f, 0x35, opcode, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3];
        run(&chain, &code, &x.to_be_bytes::<32>())
    };
    let table = [
        (U256::ZERO, 256),
        (U256::MAX, 0),
        (U256::from(1) << 255, 0),
        (U256::from(1) << 254, 1),
        (U256::MAX >> 1, 1),
        (U256::from(1), 255),
    ];
    for (x, zeros) in table {
        let counted = U256::from_be_slice(&output(of(0x1e, x)));
        assert_eq!(counted, U256::from(zeros), "{x}");
    }
    // It costs 5 gas, two more than NOT.
    let gas = |opcode| match run(&chain, &[0x60, 1, opcode, 0], &[]) {
        CallOutcome::Success { gas_used, .. } => gas_used,
        other => panic!("{other:?}"),
    };
    assert_eq!((gas(0x1e), gas(0x19)), (21_008, 21_006));
}

#[test]
fn p256_signatures_are_verified_at_0x100() {
    // message hash, r, s, x, y: the first vector of EIP-7951
    let good = hex!(
        "4cee90eb86eaa050036147a12d49004b6b9c72bd725d39d4785011fe190f0b4d"
        "a73bd4903f0ce3b639bbbf6e8e80d16931ff4bcf5993d58468e8fb19086e8cac"
        "36dbcd03009df8c59286b162af3bd7fcc0450c9aa81be5d10d312af6c66b1d60"
        "4aebd3099c618202fcfe16ae7770b0c49ab5eadf74b754204a3bb6060e44eff3"
        "7618b065f9832de4ca6ca971a7a1adc826d0f7c00181a5fb2ddf79ae00b4e10e"
    );
    let osaka = chain(Some(0));
    let verify = |chain: &TestChain, input: &[u8]| {
        let request = CallRequest {
            from: user(0).address(),
            to: Some(P256),
            input: Bytes::copy_from_slice(input),
            ..CallRequest::default()
        };
        let none = StateOverrides::new();
        output(
            call(
                &chain.spec,
                &chain.head,
                &chain.state,
                &request,
                &none,
                CALL_GAS,
                &Unlimited,
            )
            .unwrap(),
        )
    };
    let mut one = [0; 32];
    one[31] = 1;
    assert_eq!(verify(&osaka, &good)[..], one);
    assert_eq!(precompile(&osaka, 0x100, &good), (true, 6_900));
    // What is wrong is no failure but an empty answer, at the same price.
    let mut wrong = good;
    wrong[0] ^= 1;
    for input in [&wrong[..], &good[..159], &[&good[..], &[0]].concat(), &[]] {
        assert_eq!(verify(&osaka, input)[..], [0u8; 0]);
        assert_eq!(precompile(&osaka, 0x100, input), (true, 6_900));
    }
    // Under Prague there is nothing at that address.
    assert_eq!(verify(&chain(None), &good)[..], [0u8; 0]);
}

/// Input of MODEXP: operands of these lengths, the exponent as given.
fn modexp(base: usize, exponent: &[u8], modulus: usize) -> Vec<u8> {
    let mut input = Vec::new();
    for length in [base, exponent.len(), modulus] {
        input.extend(U256::from(length).to_be_bytes::<32>());
    }
    input.extend(vec![0xff; base]);
    input.extend(exponent);
    input.extend(vec![0xff; modulus]);
    input
}

#[test]
fn modexp_costs_what_eip_7883_says() {
    let (prague, osaka) = (chain(None), chain(Some(0)));
    // The sizes of EIP-7883's cases nagydani 1 to 5: square, qube, pow 0x10001.
    let table: [(usize, &[u8], u64, u64); 16] = [
        (64, &[2], 200, 500),
        (64, &[3], 200, 500),
        (64, &[1, 0, 1], 341, 2_048),
        (128, &[2], 200, 512),
        (128, &[3], 200, 512),
        (128, &[1, 0, 1], 1_365, 8_192),
        (256, &[2], 341, 2_048),
        (256, &[3], 341, 2_048),
        (256, &[1, 0, 1], 5_461, 32_768),
        (512, &[2], 1_365, 8_192),
        (512, &[3], 1_365, 8_192),
        (512, &[1, 0, 1], 21_845, 131_072),
        (1_024, &[2], 5_461, 32_768),
        (1_024, &[3], 5_461, 32_768),
        (1_024, &[1, 0, 1], 87_381, 524_288),
        // 32 bytes and less: 16 for each bit of the exponent
        (32, &[0xff; 32], 1_360, 4_080),
    ];
    for (length, exponent, before, after) in table {
        let input = modexp(length, exponent, length);
        let case = format!("{length} bytes, exponent {}", hex::encode(exponent));
        assert_eq!(precompile(&prague, 5, &input), (true, before), "{case}");
        assert_eq!(precompile(&osaka, 5, &input), (true, after), "{case}");
    }
}

#[test]
fn modexp_takes_no_operand_above_1024_bytes() {
    let (prague, osaka) = (chain(None), chain(Some(0)));
    let exponent = vec![0; 1_025];
    for (input, taken) in [
        (modexp(1_024, &[1], 1_024), true),
        (modexp(1, &exponent[..1_024], 1), true),
        (modexp(1_025, &[1], 1), false),
        (modexp(1, &exponent, 1), false),
        (modexp(1, &[1], 1_025), false),
        // Nothing but the lengths, and a modulus of none.
        (modexp(0, &exponent, 0), false),
    ] {
        assert!(precompile(&prague, 5, &input).0);
        assert_eq!(precompile(&osaka, 5, &input).0, taken);
    }
}

fn with_gas(gas_limit: u64) -> axolotl_ledger::Tx {
    decode(&sign_1559(
        &user(0),
        TxEip1559 {
            gas_limit,
            ..transfer(0, TxKind::Call(HERE))
        },
    ))
}

#[test]
fn a_transaction_asks_for_16_777_216_gas_at_most() {
    let above = TransactionError::GasLimitTooHigh {
        cap: CAP,
        tx: CAP + 1,
    };
    assert_eq!(
        above.to_string(),
        "transaction gas limit too high (cap: 16777216, tx: 16777217)"
    );
    let osaka = chain(Some(0));
    let check = |gas, rules| with_gas(gas).check_static(&osaka.spec, rules);
    assert_eq!(check(CAP, Rules::Osaka), Ok(()));
    assert_eq!(check(CAP + 1, Rules::Osaka), Err(above.clone()));
    assert_eq!(check(CAP + 1, Rules::Prague), Ok(()));
    // The cap comes before the block's limit, as in geth.
    let far = check(u64::MAX / 2, Rules::Osaka).unwrap_err();
    assert!(
        matches!(far, TransactionError::GasLimitTooHigh { .. }),
        "{far}"
    );

    let built = osaka.build(&mut Queue::new(vec![with_gas(CAP)]));
    assert_eq!(built.receipts.len(), 1);
    let mut queue = Queue::new(vec![with_gas(CAP + 1)]);
    assert!(osaka.build(&mut queue).receipts.is_empty());
    assert_eq!(queue.discarded, [(with_gas(CAP + 1).hash(), above)]);

    // A call is not bound by the cap, an estimate is: it says what a transaction needs.
    let request = CallRequest {
        from: user(0).address(),
        to: Some(HERE),
        gas: Some(CAP + 1),
        ..CallRequest::default()
    };
    assert!(matches!(
        call(
            &osaka.spec,
            &osaka.head,
            &osaka.state,
            &request,
            &StateOverrides::new(),
            CALL_GAS,
            &Unlimited,
        ),
        Ok(CallOutcome::Success { .. })
    ));
    // JUMPDEST, then back to it: all gas is used, whatever there is.
    let endless = StateOverride {
        code: Some(Bytes::from_static(&[0x5b, 0x5f, 0x56])),
        ..StateOverride::default()
    };
    let overrides = StateOverrides::from([(HERE, endless)]);
    let error = estimate_gas(
        &osaka.spec,
        &osaka.head,
        &osaka.state,
        &request,
        &overrides,
        CALL_GAS,
        &Unlimited,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("gas required exceeds allowance ({CAP})")
    );
}

#[test]
fn a_block_follows_the_rules_of_its_own_time_stamp() {
    let switch = GENESIS_TIME + 10;
    let chain = chain(Some(switch));
    let at = |timestamp| BlockAttributes {
        timestamp,
        ..chain.attributes()
    };
    let large = with_gas(CAP + 1);
    let mut queue = Queue::new(vec![large.clone()]);
    let before = chain.build_with(at(switch - 1), &mut queue).unwrap();
    assert_eq!(before.block.transactions, std::slice::from_ref(&large));
    chain.execute(before.block.clone()).unwrap();
    let mut queue = Queue::new(vec![large.clone()]);
    let after = chain.build_with(at(switch), &mut queue).unwrap();
    assert!(after.block.transactions.is_empty());
    assert_eq!(queue.discarded.len(), 1);
    // The same block with a time stamp of Osaka is invalid, by its transaction.
    let header = Header {
        timestamp: switch,
        ..before.block.header.clone()
    };
    let late = Block::new(header, before.block.transactions.clone(), Vec::new());
    match chain.execute(late) {
        Err(ExecutionError::Invalid(InvalidBlock::Transaction { index: 0, why, .. })) => {
            assert!(
                matches!(*why, TransactionError::GasLimitTooHigh { .. }),
                "{why}"
            );
        }
        other => panic!("{other:?}"),
    }
    // Calls follow the block that they run on.
    let clz = hex!("60011e60005260206000f3");
    let mut head = chain.head.clone();
    for (timestamp, known) in [(switch - 1, false), (switch, true)] {
        head.timestamp = timestamp;
        let pretended = StateOverride {
            code: Some(Bytes::copy_from_slice(&clz)),
            ..StateOverride::default()
        };
        let request = CallRequest {
            to: Some(HERE),
            ..CallRequest::default()
        };
        let overrides = StateOverrides::from([(HERE, pretended)]);
        let outcome = call(
            &chain.spec,
            &head,
            &chain.state,
            &request,
            &overrides,
            CALL_GAS,
            &Unlimited,
        )
        .unwrap();
        assert_eq!(matches!(outcome, CallOutcome::Success { .. }), known);
    }
}
