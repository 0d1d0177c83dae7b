use std::time::Instant;

use alloy_primitives::{Address, U256};
use axolotl_ledger::{Tx, TxSource};

use super::*;
use crate::storage::chain::testing::{Call, GWEI, signer, spec};

pub(super) const BASE_FEE: u64 = GWEI as u64;
pub(super) const TO: Address = Address::repeat_byte(9);

pub(super) fn rich(nonce: u64) -> SenderState {
    SenderState {
        nonce,
        balance: U256::from(u128::MAX),
    }
}

pub(super) fn tx(from: u8, nonce: u64, fee_cap: u128, tip: u128) -> Tx {
    Call {
        fee_cap,
        tip,
        ..Call::transfer(from, nonce, TO, 1)
    }
    .sign()
}

fn limits(max_count: usize) -> MempoolLimits {
    MempoolLimits {
        max_count,
        max_bytes: 1 << 20,
        max_per_sender: 8,
        max_nonce_gap: 10,
    }
}

pub(super) fn mempool(limits: MempoolLimits) -> Mempool {
    Mempool::new(spec(1_000).0, limits)
}

fn add(pool: &Mempool, tx: &Tx) -> Result<Added, MempoolError> {
    pool.add(Arc::clone(tx), Origin::Peer, rich(0), BASE_FEE)
}

pub(super) fn drain(mut best: BestTransactions) -> Vec<Tx> {
    std::iter::from_fn(move || best.next()).collect()
}

fn places(txs: &[Tx]) -> Vec<(Address, u64)> {
    txs.iter().map(|tx| (tx.sender(), tx.nonce())).collect()
}

#[test]
fn refusals_speak_geths_words() {
    let pool = mempool(limits(100));
    let known = tx(0, 5, 10 * GWEI, GWEI);
    pool.add(Arc::clone(&known), Origin::Local, rich(5), BASE_FEE)
        .unwrap();
    let poor = |balance: u128| SenderState {
        nonce: 5,
        balance: U256::from(balance),
    };
    let blob = Call {
        gas: 20_000,
        ..Call::transfer(1, 5, TO, 1)
    };
    let cases = [
        (known, rich(5), "already known"),
        (
            tx(0, 4, 10 * GWEI, GWEI),
            rich(5),
            "nonce too low: next nonce 5, tx nonce 4",
        ),
        (
            tx(1, 4, 10 * GWEI, GWEI),
            rich(5),
            "nonce too low: next nonce 5, tx nonce 4",
        ),
        (
            tx(0, 16, 10 * GWEI, GWEI),
            rich(5),
            "nonce too high: next nonce 5, tx nonce 16",
        ),
        (
            tx(0, 5, 10 * GWEI, 2 * GWEI),
            rich(5),
            "replacement transaction underpriced",
        ),
        (
            tx(1, 5, GWEI, GWEI),
            poor(99),
            "insufficient funds for gas * price + value: balance 99, tx cost 21000000000001, overshot 20999999999902",
        ),
        (tx(1, 5, GWEI - 1, 0), rich(5), "transaction underpriced"),
        (
            tx(1, 5, GWEI, 2 * GWEI),
            rich(5),
            "max priority fee per gas higher than max fee per gas",
        ),
        (blob.sign(), rich(5), "intrinsic gas too low"),
    ];
    for (tx, state, words) in cases {
        let error = pool
            .add(tx, Origin::Local, state, BASE_FEE)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(words), "{error:?}, expected {words:?}");
    }
    // Enough for one, not for two.
    let two = [tx(2, 5, GWEI, GWEI), tx(2, 6, GWEI, GWEI)];
    let balance = 30_000 * GWEI;
    pool.add(Arc::clone(&two[0]), Origin::Local, poor(balance), BASE_FEE)
        .unwrap();
    let error = pool
        .add(Arc::clone(&two[1]), Origin::Local, poor(balance), BASE_FEE)
        .unwrap_err();
    assert!(
        error.to_string().contains("queued cost 21000000000001"),
        "{error}"
    );
    for nonce in 6..13 {
        pool.add(tx(0, nonce, GWEI, GWEI), Origin::Local, rich(5), BASE_FEE)
            .unwrap();
    }
    let error = pool
        .add(tx(0, 13, GWEI, GWEI), Origin::Local, rich(5), BASE_FEE)
        .unwrap_err();
    assert!(
        error.to_string().starts_with("account limit exceeded"),
        "{error}"
    );
}

#[test]
fn a_replacement_pays_ten_percent_more_twice() {
    let table = [
        // fee cap, tip, taken: the old one pays 1,000 and 100
        (1_100, 110, true),
        (1_100, 109, false),
        (1_099, 110, false),
        (2_000, 100, false),
        (1_000, 200, false),
        (3_000, 3_000, true),
    ];
    for (fee_cap, tip, taken) in table {
        let pool = mempool(limits(100));
        let old = tx(0, 0, 1_000 * GWEI, 100 * GWEI);
        add(&pool, &old).unwrap();
        add(&pool, &tx(0, 1, 1_000 * GWEI, 100 * GWEI)).unwrap();
        let new = tx(0, 0, fee_cap * GWEI, tip * GWEI);
        match add(&pool, &new) {
            Ok(added) => {
                assert!(taken && added.executable, "{fee_cap} {tip}");
                assert_eq!(added.replaced, Some(old));
                assert_eq!(added.promoted, [new]);
            }
            Err(error) => {
                assert!(!taken, "{fee_cap} {tip}: {error}");
                assert!(pool.contains(&old.hash()));
            }
        }
        assert_eq!((pool.len(), pool.stats().executable), (2, 2));
    }
}

#[test]
fn a_gap_is_no_work_until_it_is_filled() {
    let pool = mempool(limits(100));
    let mut new = pool.subscribe_new();
    for nonce in [2, 1, 4] {
        let added = add(&pool, &tx(0, nonce, 9 * GWEI, GWEI)).unwrap();
        assert!(!added.executable && added.promoted.is_empty());
    }
    assert!(!pool.has_executable(BASE_FEE));
    assert_eq!(pool.pending_nonce(&signer(0).address()), None);
    assert!(new.try_recv().is_err());
    let added = add(&pool, &tx(0, 0, 9 * GWEI, GWEI)).unwrap();
    assert_eq!(
        added
            .promoted
            .iter()
            .map(|tx| tx.nonce())
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(new.try_recv().unwrap().nonce(), 0);
    assert!(pool.has_executable(BASE_FEE));
    assert!(pool.has_executable(9 * BASE_FEE));
    assert!(!pool.has_executable(9 * BASE_FEE + 1));
    assert_eq!(pool.pending_nonce(&signer(0).address()), Some(3));
    assert_eq!(drain(pool.best(BASE_FEE)).len(), 3);
    let content = pool.content();
    assert_eq!((content[0].pending.len(), content[0].queued.len()), (3, 1));
}

#[test]
fn the_cheapest_last_ones_make_room() {
    let pool = mempool(limits(4));
    let cheap = [tx(0, 0, 9 * GWEI, GWEI), tx(0, 1, 9 * GWEI, GWEI)];
    let dear = tx(1, 0, 9 * GWEI, 5 * GWEI);
    let gapped = tx(2, 3, 9 * GWEI, 8 * GWEI);
    for tx in [&cheap[0], &cheap[1], &dear, &gapped] {
        add(&pool, tx).unwrap();
    }
    // What is queued goes first, however much it pays, but only for something executable.
    assert_eq!(
        add(&pool, &tx(3, 5, 9 * GWEI, GWEI)),
        Err(MempoolError::Full)
    );
    let added = add(&pool, &tx(3, 0, 9 * GWEI, GWEI)).unwrap();
    assert_eq!(added.evicted, [gapped]);
    // Then the newest of the cheapest.
    assert_eq!(
        add(&pool, &tx(4, 0, 9 * GWEI, GWEI)),
        Err(MempoolError::Full)
    );
    let added = add(&pool, &tx(4, 0, 9 * GWEI, 2 * GWEI)).unwrap();
    assert_eq!(places(&added.evicted), [(signer(3).address(), 0)]);
    let added = add(&pool, &tx(5, 0, 9 * GWEI, 2 * GWEI)).unwrap();
    assert_eq!(places(&added.evicted), [(signer(0).address(), 1)]);
    // A sender's own last one never goes for one of its later nonces.
    assert_eq!(
        add(&pool, &tx(0, 1, 9 * GWEI, 2 * GWEI)),
        Err(MempoolError::Full)
    );
    assert_eq!(pool.len(), 4);
}

#[test]
fn a_large_one_that_does_not_fit_changes_nothing() {
    let mut bounds = limits(100);
    bounds.max_bytes = 10_000;
    let pool = mempool(bounds);
    for from in 0..6 {
        add(&pool, &tx(from, 0, 9 * GWEI, u128::from(from + 1) * GWEI)).unwrap();
    }
    let before = (pool.content(), pool.stats());
    let large = |tip: u128| {
        let call = Call {
            input: vec![1; 3_000],
            gas: 1_000_000,
            tip,
            fee_cap: 9 * GWEI,
            ..Call::transfer(9, 0, TO, 1)
        };
        call.sign()
    };
    assert_eq!(add(&pool, &large(3 * GWEI)).err(), Some(MempoolError::Full));
    assert_eq!((pool.content(), pool.stats()), before);
    let added = add(&pool, &large(7 * GWEI)).unwrap();
    assert!(added.evicted.len() > 2, "{:?}", added.evicted.len());
    assert!(pool.stats().bytes <= 10_000);
}

#[test]
fn a_block_takes_its_transactions_out() {
    let pool = mempool(limits(100));
    let own: Vec<Tx> = (0..4).map(|nonce| tx(0, nonce, 9 * GWEI, GWEI)).collect();
    own.iter().for_each(|tx| drop(add(&pool, tx).unwrap()));
    add(&pool, &tx(1, 0, 9 * GWEI, GWEI)).unwrap();
    // The block holds nonce 0, and another nonce 1 than ours.
    let mined = [Arc::clone(&own[0]), tx(0, 1, 8 * GWEI, GWEI)];
    pool.on_block(&mined, &|_| rich(2), BASE_FEE);
    assert_eq!(pool.len(), 3);
    assert!(pool.knows(&own[0].hash()) && pool.knows(&mined[1].hash()));
    assert!(!pool.knows(&own[1].hash()) && !pool.contains(&mined[1].hash()));
    // A straggler of gossip that was checked against an older state.
    let late = add(&pool, &mined[1]).unwrap_err();
    assert!(matches!(late, MempoolError::NonceTooLow { .. }), "{late}");
    assert_eq!(drain(pool.best(BASE_FEE)).len(), 3);
    // The account was emptied: what it cannot pay goes.
    let poor = SenderState {
        nonce: 3,
        balance: U256::ZERO,
    };
    pool.on_block(&[Arc::clone(&own[2])], &|_| poor, BASE_FEE);
    assert_eq!(
        places(&drain(pool.best(BASE_FEE))),
        [(signer(1).address(), 0)]
    );
}

#[test]
fn a_block_is_filled_by_price_and_nonce() {
    let pool = mempool(limits(100));
    let offers = [
        // sender, nonce, fee cap, tip
        (0, 0, 20, 1),
        (0, 1, 20, 9),
        (1, 0, 20, 5),
        (1, 1, 20, 2),
        (2, 0, 6, 5),
        (3, 0, 20, 5),
        (4, 1, 20, 9),
    ];
    for (from, nonce, fee_cap, tip) in offers {
        add(&pool, &tx(from, nonce, fee_cap * GWEI, tip * GWEI)).unwrap();
    }
    let order = |base_fee: u64| -> Vec<(u8, u64)> {
        places(&drain(pool.best(base_fee * BASE_FEE)))
            .into_iter()
            .map(|(sender, nonce)| {
                let i = (0..8).find(|i| signer(*i).address() == sender).unwrap();
                (i, nonce)
            })
            .collect()
    };
    assert_eq!(order(1), [(1, 0), (2, 0), (3, 0), (1, 1), (0, 0), (0, 1)]);
    assert_eq!(order(5), [(1, 0), (3, 0), (1, 1), (0, 0), (0, 1), (2, 0)]);
    assert_eq!(order(7), [(1, 0), (3, 0), (1, 1), (0, 0), (0, 1)]);
    assert_eq!(order(21), []);

    let mut best = pool.best(BASE_FEE);
    let first = best.next().unwrap();
    best.skip_sender(&first, "it does not fit");
    assert!(drain(best).iter().all(|tx| tx.sender() != first.sender()));
}

#[test]
fn filling_a_block_looks_at_few_senders() {
    let pool = mempool(MempoolLimits::default());
    for from in 0..250 {
        add(
            &pool,
            &tx(from, 0, 9 * GWEI, u128::from(from % 7 + 1) * GWEI),
        )
        .unwrap();
    }
    let mut best = pool.best(BASE_FEE);
    best.next().unwrap();
    assert!(best.senders_taken() <= 64, "{}", best.senders_taken());
    assert_eq!(drain(best).len(), 249);
}

#[test]
fn what_no_block_takes_is_given_up() {
    let pool = mempool(limits(100));
    add(&pool, &tx(0, 0, 9 * GWEI, GWEI)).unwrap();
    let mut blocks = 0;
    while pool.has_executable(BASE_FEE) {
        pool.on_block(&[], &|_| rich(0), BASE_FEE);
        blocks += 1;
        assert!(blocks < 1_000);
    }
    assert!(blocks > 500 && pool.is_empty(), "{blocks}");
    // One that went stale unnoticed goes with the first empty block.
    add(&pool, &tx(1, 0, 9 * GWEI, GWEI)).unwrap();
    pool.on_block(&[], &|_| rich(1), BASE_FEE);
    assert!(pool.is_empty());
}

#[test]
fn what_no_block_can_hold_is_dropped_at_once() {
    let pool = mempool(limits(100));
    let hopeless = tx(0, 0, 9 * GWEI, 2 * GWEI);
    for tx in [
        &hopeless,
        &tx(0, 1, 9 * GWEI, GWEI),
        &tx(1, 0, 9 * GWEI, GWEI),
    ] {
        add(&pool, tx).unwrap();
    }
    let mut best = pool.best(BASE_FEE);
    assert_eq!(best.next(), Some(Arc::clone(&hopeless)));
    let why = TransactionError::LogsTooLong { bytes: 2, limit: 1 };
    best.discard(&hopeless, &why);
    // Its successor waits for another one of its nonce; other senders go on.
    assert_eq!(places(&drain(best)), [(signer(1).address(), 0)]);
    assert!(!pool.contains(&hopeless.hash()));
    assert_eq!((pool.len(), pool.stats().executable), (2, 1));
    add(&pool, &tx(0, 0, 9 * GWEI, 3 * GWEI)).unwrap();
    assert_eq!(pool.stats().executable, 3);
}

#[test]
fn returned_transactions_are_not_announced() {
    let pool = mempool(limits(100));
    let mut new = pool.subscribe_new();
    let tx = tx(0, 0, 9 * GWEI, GWEI);
    pool.add(Arc::clone(&tx), Origin::Returned, rich(0), BASE_FEE)
        .unwrap();
    assert!(new.try_recv().is_err());
    assert_eq!(pool.get(&tx.hash()), Some(tx));
}

#[test]
fn adding_is_fast() {
    let txs: Vec<Tx> = (0..40u8)
        .flat_map(|from| (0..50).map(move |nonce| tx(from, nonce, 9 * GWEI, GWEI)))
        .collect();
    let pool = mempool(MempoolLimits::default());
    let begun = Instant::now();
    txs.iter().for_each(|tx| drop(add(&pool, tx).unwrap()));
    let added = txs.len() as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    assert_eq!(drain(pool.best(BASE_FEE)).len(), 2_000);
    let taken = txs.len() as f64 / begun.elapsed().as_secs_f64();
    eprintln!("{added:.0} added/s, {taken:.0} handed out/s");
    // Far below what it does: something quadratic.
    assert!(added > 500.0 && taken > 500.0, "{added:.0} {taken:.0}");
}
