use std::time::Duration;

use axolotl_ledger::Tx;

use super::*;
use crate::{
    mempool::{InterruptReason, MempoolLimits},
    storage::{
        StorageOptions,
        chain::testing::{Call, append, open, signer},
    },
};

fn call(from: u8, nonce: u64) -> Call {
    Call::transfer(from, nonce, signer(0).address(), 1)
}

#[test]
fn the_journal_is_admitted_by_the_rules_of_the_next_block() {
    let directory = tempfile::tempdir().unwrap();
    let chain = open(directory.path(), StorageOptions::default());
    append(&chain, vec![call(0, 0).sign()], Vec::new());
    chain.publish().unwrap();
    let mempool = Mempool::new(Arc::clone(chain.spec()), MempoolLimits::default());

    let [mined, ahead, good, heavy] =
        [call(0, 0), call(1, 1), call(2, 0), call(3, 0)].map(Call::sign);
    // Nobody has funded account 20, and the floor of fees is above 1 wei.
    let unfunded = call(20, 0).sign();
    let cheap = Call {
        fee_cap: 1,
        tip: 1,
        ..call(4, 0)
    }
    .sign();
    let replaced = call(5, 0).sign();
    let dearer = Call {
        fee_cap: 200_000_000_000,
        tip: 2_000_000_000,
        ..call(5, 0)
    }
    .sign();
    let aside = call(6, 0).sign();
    let sender = sender_state(
        &*chain.state(chain.head().height()).unwrap(),
        aside.sender(),
    );
    mempool
        .add(Arc::clone(&aside), Origin::Peer, sender, 0)
        .unwrap();
    let limit = Duration::from_millis(150);
    assert!(mempool.set_aside(&aside.hash(), InterruptReason::ExecutionTime { limit }));

    let kept = [
        &mined, &ahead, &good, &heavy, &unfunded, &cheap, &replaced, &dearer, &aside,
    ];
    let recovered = Recovered {
        transactions: kept.map(Arc::clone).to_vec(),
        ..Recovered::default()
    };
    let mut readmission = Readmission::begin(&chain, &mempool, recovered);
    let in_pool = |tx: &Tx| mempool.contains(&tx.hash());
    assert!(in_pool(&good) && in_pool(&heavy) && in_pool(&dearer) && in_pool(&ahead));
    assert!(!in_pool(&mined) && !in_pool(&cheap) && !in_pool(&replaced) && !in_pool(&aside));
    let content = mempool.content();
    let queued: Vec<B256> = content
        .iter()
        .flat_map(|s| &s.queued)
        .map(|tx| tx.hash())
        .collect();
    assert_eq!(queued, [ahead.hash()], "behind a gap it waits");
    assert_eq!(readmission.refused, 3);
    assert_eq!(readmission.later, [Arc::clone(&unfunded)]);

    // The blocks that this node missed bring the account its balance.
    let funds = Call {
        value: 1_000_000_000_000_000_000,
        to: unfunded.sender(),
        ..call(0, 1)
    };
    append(&chain, vec![funds.sign()], Vec::new());
    chain.publish().unwrap();
    readmission.admit(&chain, &mempool);
    assert!(in_pool(&unfunded) && readmission.later.is_empty());
}
