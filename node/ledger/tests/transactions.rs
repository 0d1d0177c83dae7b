//! Transactions: what is taken, and in which words the rest is refused.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip7702, TxLegacy};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, Bytes, Signature, TxKind, U256, address, hex, keccak256};
use axolotl_common::ChainId;
use axolotl_ledger::{
    Rules, Transaction, TransactionError,
    transaction::{MAX_INITCODE_BYTES, MAX_TRANSACTION_BYTES},
};
use support::*;

const HERE: TxKind = TxKind::Call(Address::repeat_byte(0x11));

fn refused(raw: &[u8]) -> String {
    Transaction::decode(raw, ChainId(CHAIN))
        .expect_err("it was taken")
        .to_string()
}

#[test]
fn the_example_of_eip_155() {
    let raw = hex!(
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a0\
         28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb70330\
         4b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    );
    let tx = Transaction::decode(&raw, ChainId(1)).unwrap();
    assert_eq!(
        tx.sender(),
        address!("9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F")
    );
    assert_eq!(tx.nonce(), 9);
    assert_eq!(tx.gas_limit(), 21_000);
    assert_eq!(tx.value(), U256::from(10u64.pow(18)));
    assert_eq!(tx.max_fee_per_gas(), 20 * GWEI);
    assert_eq!(tx.hash(), keccak256(raw));
    assert_eq!(tx.hash(), *tx.envelope().tx_hash());
    assert_eq!(tx.raw()[..], raw);
    let wrong = Transaction::decode(&raw, ChainId(5)).unwrap_err();
    assert_eq!(wrong, TransactionError::WrongChain { have: 1, want: 5 });
    assert_eq!(
        wrong.to_string(),
        "invalid chain id for signer: have 1 want 5"
    );
}

#[test]
fn what_is_no_transaction_here_is_refused_in_geths_words() {
    let signer = user(0);
    let good = sign_1559(&signer, transfer(0, HERE));
    assert!(Transaction::decode(&good, ChainId(CHAIN)).is_ok());

    assert_eq!(refused(&[]), "typed transaction too short");
    for other_type in [0u8, 3, 5, 0x7f, 0x80, 0xbf] {
        let mut raw = good.clone();
        raw[0] = other_type;
        assert_eq!(
            refused(&raw),
            "transaction type not supported",
            "{other_type}"
        );
    }
    let unprotected = sign_legacy(
        &signer,
        TxLegacy {
            gas_price: GWEI,
            gas_limit: 21_000,
            to: HERE,
            ..TxLegacy::default()
        },
    );
    assert_eq!(
        refused(&unprotected),
        "only replay-protected (EIP-155) transactions allowed over RPC"
    );
    let long = sign_1559(
        &signer,
        TxEip1559 {
            input: vec![0; MAX_TRANSACTION_BYTES].into(),
            ..transfer(0, HERE)
        },
    );
    assert!(refused(&long).starts_with("oversized data: transaction size "));
    // A blob transaction in its network form carries its blobs of 128 KiB.
    assert_eq!(
        refused(&[&[3][..], &vec![0; MAX_TRANSACTION_BYTES]].concat()),
        "transaction type not supported"
    );
    let mut tail = good.clone();
    tail.push(0);
    assert!(!refused(&tail).is_empty());

    let tx = transfer(0, HERE);
    let zero = Signature::new(U256::ZERO, U256::ZERO, false);
    let raw = tx.clone().into_signed(zero).encoded_2718();
    assert_eq!(refused(&raw), "invalid sender");
    // The same signature with s on the other side of the order (EIP-2).
    let order = U256::from_be_bytes(hex!(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
    ));
    let signed = Transaction::decode(&good, ChainId(CHAIN)).unwrap();
    let s = signed.envelope().signature();
    let high = Signature::new(s.r(), order - s.s(), !s.v());
    let raw = tx.into_signed(high).encoded_2718();
    assert_eq!(refused(&raw), "invalid sender");
}

#[test]
fn an_encoding_that_is_not_canonical_is_refused() {
    let good = sign_1559(&user(0), transfer(0, HERE));
    // The length of the list in two bytes where one does.
    assert_eq!(good[1], 0xf8);
    let mut long = vec![good[0], 0xf9, 0];
    long.extend(&good[2..]);
    assert!(!refused(&long).is_empty());
}

#[test]
fn static_rules_in_geths_words() {
    let chain = TestChain::new(&[]);
    let check = |tx: TxEip1559| {
        let tx = decode(&sign_1559(&user(0), tx));
        tx.check_static(&chain.spec, Rules::Prague)
            .map_err(|e| e.to_string())
    };
    let sender = user(0).address();
    assert_eq!(check(transfer(0, HERE)), Ok(()));
    let cases = [
        (
            TxEip1559 {
                gas_limit: 20_999,
                ..transfer(0, HERE)
            },
            "intrinsic gas too low: have 20999, want 21000".to_owned(),
        ),
        (
            TxEip1559 {
                gas_limit: 36_000_001,
                ..transfer(0, HERE)
            },
            "exceeds block gas limit".to_owned(),
        ),
        (
            TxEip1559 {
                max_priority_fee_per_gas: 4 * GWEI,
                ..transfer(0, HERE)
            },
            format!(
                "max priority fee per gas higher than max fee per gas: address {sender}, \
                 maxPriorityFeePerGas: 4000000000, maxFeePerGas: 3000000000"
            ),
        ),
        (
            TxEip1559 {
                value: U256::MAX,
                ..transfer(0, HERE)
            },
            format!(
                "insufficient funds for gas * price + value: address {sender} required balance exceeds 256 bits"
            ),
        ),
        (
            transfer(u64::MAX, HERE),
            format!("nonce has max value: address {sender}, nonce: {}", u64::MAX),
        ),
        (
            TxEip1559 {
                gas_limit: 10_000_000,
                input: vec![1; MAX_INITCODE_BYTES + 1].into(),
                ..transfer(0, TxKind::Create)
            },
            "max initcode size exceeded: code size 49153, limit 49152".to_owned(),
        ),
        (
            // 1,000 bytes that are not zero: 16 gas each by the old rule, 40 at the floor (EIP-7623).
            TxEip1559 {
                gas_limit: 37_000,
                input: vec![1; 1_000].into(),
                ..transfer(0, HERE)
            },
            "insufficient gas for floor data gas cost: have 37000, want 61000".to_owned(),
        ),
    ];
    for (tx, words) in cases {
        assert_eq!(check(tx), Err(words));
    }
    let nothing_set = decode(&sign_7702(
        &user(0),
        TxEip7702 {
            chain_id: CHAIN,
            gas_limit: 100_000,
            ..TxEip7702::default()
        },
    ));
    assert_eq!(
        nothing_set
            .check_static(&chain.spec, Rules::Osaka)
            .unwrap_err()
            .to_string(),
        format!("EIP-7702 transaction with empty auth list (sender {sender})")
    );
}

/// What passes the static check and pays its fee is not refused for its gas by the EVM, and the
/// other way round.
#[test]
fn intrinsic_gas_is_that_of_execution() {
    let mut chain = TestChain::new(&[]);
    let inputs: [(TxKind, Bytes); 4] = [
        (HERE, Bytes::new()),
        (HERE, vec![0; 100].into()),
        (HERE, vec![7; 100].into()),
        (TxKind::Create, deploy(&storer())),
    ];
    for (to, input) in inputs {
        let with = |gas_limit, nonce| {
            decode(&sign_1559(
                &user(0),
                TxEip1559 {
                    gas_limit,
                    input: input.clone(),
                    ..transfer(nonce, to)
                },
            ))
        };
        let mut least = 21_000;
        while let Err(error) = with(least, 0).check_static(&chain.spec, Rules::Osaka) {
            least = match error {
                TransactionError::IntrinsicGas { want, .. }
                | TransactionError::FloorDataGas { want, .. } => want,
                other => panic!("{other}"),
            };
        }
        let below = with(least - 1, chain.nonces[0]);
        let mut queue = Queue::new(vec![below]);
        let empty = chain.build(&mut queue);
        assert!(empty.receipts.is_empty());
        let why = &queue.skipped[0].1;
        assert!(
            why.contains("gas too low") || why.contains("floor data gas"),
            "{why}"
        );
        let nonce = chain.nonce(0);
        chain.add(vec![with(least, nonce)]);
    }
}

#[test]
fn fees() {
    let tx = decode(&sign_1559(
        &user(0),
        TxEip1559 {
            value: U256::from(5),
            ..transfer(0, HERE)
        },
    ));
    assert_eq!(tx.max_cost(), U256::from(21_000 * 3 * GWEI + 5));
    let gwei = GWEI as u64;
    assert_eq!(tx.effective_tip(gwei), Some(GWEI / 2));
    assert_eq!(tx.effective_tip(3 * gwei - 1), Some(1));
    assert_eq!(tx.effective_tip(3 * gwei), Some(0));
    assert_eq!(tx.effective_tip(3 * gwei + 1), None);
    assert_eq!(tx.effective_gas_price(gwei), GWEI + GWEI / 2);
    let legacy = decode(&sign_legacy(
        &user(0),
        TxLegacy {
            chain_id: Some(CHAIN),
            gas_price: 5 * GWEI,
            gas_limit: 21_000,
            to: HERE,
            ..TxLegacy::default()
        },
    ));
    assert_eq!(legacy.effective_tip(gwei), Some(4 * GWEI));
    assert_eq!(legacy.effective_gas_price(gwei), 5 * GWEI);
}
