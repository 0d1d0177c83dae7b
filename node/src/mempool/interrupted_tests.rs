use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256};
use axolotl_ledger::{Tx, TxSource};

use super::{
    interrupted::{INTERRUPTED_MAX, InterruptedSet},
    tests::{BASE_FEE, drain, mempool, rich, tx},
    *,
};
use crate::storage::chain::testing::{GWEI, signer};

const REASON: InterruptReason = InterruptReason::ExecutionTime {
    limit: Duration::from_millis(150),
};

fn pool_with(txs: &[Tx]) -> Mempool {
    let pool = mempool(MempoolLimits::default());
    for tx in txs {
        add(&pool, tx).unwrap();
    }
    pool
}

fn add(pool: &Mempool, tx: &Tx) -> Result<Added, MempoolError> {
    pool.add(Arc::clone(tx), Origin::Local, rich(0), BASE_FEE)
}

fn hashes(txs: &[Tx]) -> Vec<B256> {
    txs.iter().map(|tx| tx.hash()).collect()
}

#[test]
fn heavy_transactions_come_last_and_one_in_a_block() {
    let offer = |from: u8, nonce, tip: u128| tx(from, nonce, 90 * GWEI, tip * GWEI);
    // Two heavy ones that pay most, one of them with a successor; others behind and before them.
    let heavy = [offer(0, 0, 50), offer(1, 1, 60)];
    let others = [
        offer(0, 1, 40),
        offer(1, 0, 3),
        offer(2, 0, 2),
        offer(3, 0, 1),
    ];
    let pool = pool_with(&[&heavy[..], &others[..]].concat());
    for tx in &heavy {
        assert!(pool.mark_heavy(&tx.hash()));
    }
    let expected = [&others[1], &others[2], &others[3], &heavy[0]];
    let expected: Vec<B256> = expected.map(|tx| tx.hash()).to_vec();
    // In the order in which they come up: sender 1 has its heavy one behind another.
    assert_eq!(hashes(&drain(pool.best(BASE_FEE))), expected);
    assert_eq!(
        hashes(&drain(pool.best(BASE_FEE))),
        expected,
        "twice the same"
    );

    // What follows the refusal of a heavy one is the end, too.
    let mut best = pool.best(BASE_FEE);
    let mut last = None;
    while let Some(tx) = best.next() {
        last = Some(tx);
    }
    best.skip_sender(&last.unwrap(), "it does not fit");
    assert!(best.next().is_none());

    // With a heavy one alone there is still something to be done.
    let alone = pool_with(&heavy[..1]);
    alone.mark_heavy(&heavy[0].hash());
    assert!(alone.has_executable(BASE_FEE));
    assert_eq!(hashes(&drain(alone.best(BASE_FEE))), hashes(&heavy[..1]));
}

#[test]
fn the_second_interruption_sets_aside() {
    let own: Vec<Tx> = (0..3).map(|nonce| tx(0, nonce, 9 * GWEI, GWEI)).collect();
    let pool = pool_with(&own);
    let victim = own[1].hash();
    assert_eq!(pool.interrupted(&B256::ZERO, REASON), None);
    let first = pool.interrupted(&victim, REASON);
    assert_eq!(first, Some(Interruption::MarkedHeavy));
    assert!(pool.contains(&victim) && pool.is_heavy(&victim));
    let second = pool.interrupted(&victim, REASON);
    assert_eq!(second, Some(Interruption::SetAside));
    assert!(!pool.contains(&victim) && !pool.is_heavy(&victim));
    assert_eq!(pool.interrupted(&victim, REASON), None);
    let counted = pool.counters();
    assert_eq!(
        (counted.marked_heavy.get(), counted.set_aside.get()),
        (1, 1)
    );

    // Gossip does not bring it back, and a client gets the reason.
    assert!(pool.knows(&victim));
    let refused = add(&pool, &own[1]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "transaction set aside by this node: its execution did not end within 150 ms; it may still be \
         included by another validator until its nonce is used"
    );
    assert!(!refused.is_senders_fault() && !refused.may_pass());
    // What is behind it is queued, not lost.
    let content = pool.content();
    assert_eq!(hashes(&content[0].pending), hashes(&own[..1]));
    assert_eq!(hashes(&content[0].queued), hashes(&own[2..]));
    // Another transaction with its nonce is as welcome as any.
    let instead = tx(0, 1, 8 * GWEI, GWEI);
    let added = add(&pool, &instead).unwrap();
    assert_eq!(hashes(&added.promoted), [instead.hash(), own[2].hash()]);
}

#[test]
fn what_is_set_aside_is_forgotten_with_its_nonce() {
    let own: Vec<Tx> = (0..3).map(|nonce| tx(0, nonce, 9 * GWEI, GWEI)).collect();
    let by_block = pool_with(&own);
    by_block.set_aside(&own[1].hash(), REASON);
    by_block.on_block(&own[..1], &|_| rich(1), BASE_FEE);
    assert!(by_block.knows(&own[1].hash()));
    let another = tx(0, 1, 8 * GWEI, GWEI);
    by_block.on_block(&[another], &|_| rich(2), BASE_FEE);
    assert!(!by_block.knows(&own[1].hash()));
    let late = add(&by_block, &own[1]).unwrap_err();
    assert!(matches!(late, MempoolError::NonceTooLow { .. }), "{late}");

    // Of an account that has nothing else in the pool.
    let by_state = pool_with(&own[..1]);
    by_state.set_aside(&own[0].hash(), REASON);
    assert!(by_state.is_empty() && by_state.knows(&own[0].hash()));
    let late = by_state.add(Arc::clone(&own[0]), Origin::Local, rich(1), BASE_FEE);
    assert!(matches!(late, Err(MempoolError::NonceTooLow { .. })));
    assert!(!by_state.knows(&own[0].hash()));
}

#[test]
fn a_heavy_one_that_was_pushed_out_is_heavy_when_it_comes_back() {
    let pool = mempool(MempoolLimits {
        max_count: 1,
        ..MempoolLimits::default()
    });
    let cheap = tx(0, 0, 9 * GWEI, GWEI);
    let dear = tx(1, 0, 9 * GWEI, 2 * GWEI);
    add(&pool, &cheap).unwrap();
    pool.mark_heavy(&cheap.hash());
    assert_eq!(hashes(&add(&pool, &dear).unwrap().evicted), [cheap.hash()]);
    pool.on_block(&[dear], &|_| rich(1), BASE_FEE);
    add(&pool, &cheap).unwrap();
    assert!(pool.is_heavy(&cheap.hash()));
}

#[test]
fn the_oldest_interruption_is_forgotten_first() {
    let mut set = InterruptedSet::default();
    let noted = |i: usize| Interrupted {
        hash: B256::left_padding_from(&i.to_be_bytes()),
        sender: signer((i % 3) as u8).address(),
        nonce: (i % 7) as u64,
        standing: Standing::SetAside(REASON),
    };
    for i in 0..INTERRUPTED_MAX {
        set.insert(noted(i));
    }
    // Noted again, it is the newest.
    set.insert(noted(0));
    assert_eq!(set.len(), INTERRUPTED_MAX);
    set.insert(noted(INTERRUPTED_MAX));
    assert_eq!(set.len(), INTERRUPTED_MAX);
    assert!(set.set_aside(&noted(0).hash).is_some());
    assert!(set.set_aside(&noted(1).hash).is_none());
    assert_eq!(set.iter().next(), Some(noted(2)));
    set.nonces_used(signer(0).address(), 7);
    assert!(set.iter().all(|noted| noted.sender != signer(0).address()));
    set.nonces_used(Address::ZERO, u64::MAX);
    for sender in 1..3 {
        set.nonces_used(signer(sender).address(), u64::MAX);
    }
    assert_eq!(set.len(), 0);
}
