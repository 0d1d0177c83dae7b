//! Sync across epochs that began without their predecessor's votes.

use std::path::Path;

use alloy_primitives::Bytes as AlloyBytes;
use axolotl_common::{Epoch, Hash, Height, KeyPair, recovery::StatedLock};
use tokio::sync::{mpsc, oneshot};

use super::super::{Done, Worker};
use super::*;
use crate::{
    mempool::{Mempool, MempoolLimits},
    storage::{
        Chain, StorageOptions,
        chain::{recovery_testing::*, testing::*},
    },
};

/// A chain on which epoch 0 decided 3 blocks and was lost; epoch 5 began above block 3, was lost without
/// any block, and succeeded by 7, which decided up to block 6 and was lost while a block was locked; 9
/// adopted that as block 7, and the chain goes on to 9.
fn eventful(dir: &Path) -> Chain {
    let chain = open_four(dir, StorageOptions::default());
    grow_by(&chain, 3, &[1, 2, 3]);
    let first = sign(&chain, two_survive(&chain, 5, None), &[1, 2, 5]);
    chain.activate(&first, None).unwrap();
    let in_force = |chain: &Chain| chain.head().validators.record_hash();
    let again = draft(&chain, 7, in_force(&chain), &[1, 5], &[1, 5, 3, 4], None);
    chain
        .activate(&sign(&chain, again, &[1, 5, 3]), None)
        .unwrap();
    grow_by(&chain, 6, &[1, 5, 3]);
    let (block, lock) = locked(&chain);
    let last = draft(
        &chain,
        9,
        in_force(&chain),
        &[1, 5],
        &[1, 5, 7, 8],
        Some(lock),
    );
    chain
        .activate(&sign(&chain, last, &[1, 5, 8]), Some(&block))
        .unwrap();
    grow_by(&chain, 9, &[1, 7, 8]);
    chain
}

/// A block above the head, and a lock of members 1, 5 and 3 on it.
fn locked(chain: &Chain) -> (AlloyBytes, StatedLock) {
    let height = chain.head().header.number + 1;
    let block = built(chain, block_txs(height), Vec::new());
    let mut lock = lock_on(chain, Hash(block.hash.0), None);
    let vote = axolotl_common::certificate::vote_sign_bytes(
        &chain.spec().chain,
        lock.proof.epoch,
        lock.proof.height,
        lock.proof.round,
        axolotl_common::VoteKind::Prevote,
        Some(lock.proof.block),
    );
    lock.proof.signatures = [1, 5, 3]
        .map(|seed| (key(seed).public(), key(seed).sign(&vote)))
        .to_vec();
    (block.bytes, lock)
}

fn sync_blocks(chain: &Chain, from: u64) -> Vec<SyncBlock> {
    let raw = chain.raw_blocks(Height(from), 100, 1 << 30).unwrap();
    raw.into_iter()
        .map(|raw| SyncBlock {
            records: raw
                .records
                .iter()
                .map(|record| (**record).clone())
                .collect(),
            block: raw.block,
            proof: raw.proof,
        })
        .collect()
}

fn joiner(dir: &Path) -> (Worker, mpsc::Receiver<Done>) {
    let chain = open_four(dir, StorageOptions::default());
    let mempool = Mempool::new(chain.spec().clone(), MempoolLimits::default());
    let (done, answers) = mpsc::channel(64);
    (Worker::new(chain, mempool, key(9).public(), done), answers)
}

fn apply(worker: &mut Worker, blocks: &[SyncBlock]) -> Result<Height, ApplyError> {
    let (reply, answer) = oneshot::channel();
    assert!(
        worker.apply(blocks, reply).is_ok(),
        "nothing of this is fatal"
    );
    answer.blocking_recv().unwrap()
}

#[test]
fn a_joiner_crosses_epochs_that_began_with_a_recovery() {
    let dir = tempfile::tempdir().unwrap();
    let chain = eventful(&dir.path().join("chain"));
    let blocks = sync_blocks(&chain, 1);
    assert_eq!(
        blocks.iter().map(|b| b.records.len()).collect::<Vec<_>>(),
        [0, 0, 0, 2, 0, 0, 0, 1, 0]
    );
    assert!(blocks[6].proof.record().is_some());
    // All at once, one by one, and cut in two at every height, with a restart in between.
    for cut in 0..=blocks.len() {
        let place = dir.path().join(format!("joiner{cut}"));
        let (mut worker, _answers) = joiner(&place);
        assert_eq!(apply(&mut worker, &blocks[..cut]), Ok(Height(cut as u64)));
        drop(worker);
        let (mut worker, mut answers) = joiner(&place);
        if cut == 0 {
            for block in &blocks {
                apply(&mut worker, std::slice::from_ref(block)).unwrap();
            }
        }
        assert_eq!(apply(&mut worker, &blocks[cut..]), Ok(Height(9)));
        let (own, other) = (worker.chain.head(), chain.head());
        assert_eq!((own.hash, own.validators.epoch()), (other.hash, Epoch(9)));
        assert_eq!(worker.chain.sets(), chain.sets());
        assert_eq!(worker.chain.newest_record(), chain.newest_record());
        assert_eq!(sync_blocks(&worker.chain, 1), blocks, "and serves the same");
        let heads = std::iter::from_fn(|| answers.try_recv().ok());
        let last = heads.filter_map(|done| match done {
            Done::Head { head, decided } => Some((head.height(), decided)),
            _ => None,
        });
        if cut < blocks.len() {
            assert_eq!(last.last(), Some((Height(9), false)));
        }
    }
}

type Spoil = fn(&mut SyncBlock);

#[test]
fn a_false_record_on_the_way_costs_its_giver_only() {
    let dir = tempfile::tempdir().unwrap();
    let chain = eventful(&dir.path().join("chain"));
    let blocks = sync_blocks(&chain, 1);
    // (what, height of the block, change, height that is reached)
    let table: [(&str, usize, Spoil, u64); 8] = [
        ("no records ahead", 4, |b| b.records.clear(), 3),
        ("one record left out", 4, |b| drop(b.records.remove(0)), 3),
        ("in the wrong order", 4, |b| b.records.reverse(), 3),
        (
            "too few acknowledgements",
            4,
            |b| b.records[0].acknowledgements.truncate(2),
            3,
        ),
        (
            "signed by somebody",
            4,
            |b| b.records[0].signature = KeyPair::from_seed(&[9; 32]).sign(b"x"),
            3,
        ),
        (
            "another adopted block",
            7,
            |b| b.block = vec![0xc0; 9].into(),
            6,
        ),
        (
            "a record that adopts nothing",
            7,
            |b| {
                let mut record = b.proof.record().unwrap().clone();
                record.record.handover = None;
                b.proof = BlockProof::Record(Box::new(record));
            },
            6,
        ),
        (
            "a record in the place of a certificate",
            5,
            |b| {
                let mut record = (b.records.first().cloned()).unwrap_or_else(|| {
                    let open = tempfile::tempdir().unwrap();
                    let chain = open_four(open.path(), StorageOptions::default());
                    sign(&chain, two_survive(&chain, 5, None), &[1, 2, 5])
                });
                record.record.base_height = Height(5);
                b.proof = BlockProof::Record(Box::new(record));
            },
            4,
        ),
    ];
    for (i, (what, height, spoil, reached)) in table.into_iter().enumerate() {
        let (mut worker, _answers) = joiner(&dir.path().join(format!("joiner{i}")));
        let mut spoilt = blocks.clone();
        spoil(&mut spoilt[height - 1]);
        let refused = apply(&mut worker, &spoilt).unwrap_err();
        assert!(refused.peer_fault, "{what}: {refused}");
        assert_eq!(refused.tip, Height(reached), "{what}");
        assert_eq!(
            apply(&mut worker, &blocks),
            Ok(Height(9)),
            "{what}: an honest peer goes on"
        );
        assert_eq!(worker.chain.head().hash, chain.head().hash, "{what}");
    }
}

#[test]
fn a_record_is_taken_and_told_as_a_new_head() {
    let dir = tempfile::tempdir().unwrap();
    let (mut worker, mut answers) = joiner(dir.path());
    grow_by(&worker.chain, 3, &[1, 2, 3]);
    let record = sign(
        &worker.chain,
        two_survive(&worker.chain, 5, None),
        &[1, 2, 5],
    );
    for known in [false, true] {
        let (reply, mut answer) = oneshot::channel();
        assert!(worker.on_record(&record, None, reply).is_ok());
        let outcome = answer.try_recv().unwrap().unwrap();
        assert_eq!(matches!(outcome, Activated::Before), known);
        match answers.try_recv() {
            Ok(Done::Head { head, decided }) => {
                assert!(!known && !decided);
                assert_eq!(
                    (head.height(), head.validators.epoch()),
                    (Height(3), Epoch(5))
                );
            }
            Ok(_) => panic!("another answer"),
            Err(_) => assert!(known),
        }
    }
    // A block of the epoch that was lost, decided after all, is a fork.
    let other = tempfile::tempdir().unwrap();
    let old = open_four(other.path(), StorageOptions::default());
    grow_by(&old, 3, &[1, 2, 3]);
    let block = built(&old, block_txs(4), Vec::new());
    let certificate = decided(&old, &block, &[1, 2, 3]);
    let fatal = worker.commit(certificate, &block.bytes).err().unwrap();
    assert!(fatal.0.contains("fork"), "{}", fatal.0);
    // So is a record whose base lies below what is final here.
    grow_by(&old, 4, &[1, 2, 3]);
    let mut against = worker_of(old);
    let (reply, _answer) = oneshot::channel();
    let fatal = against.on_record(&record, None, reply).err().unwrap();
    assert!(fatal.0.contains("keep this data directory"), "{}", fatal.0);
}

fn worker_of(chain: Chain) -> Worker {
    let mempool = Mempool::new(chain.spec().clone(), MempoolLimits::default());
    Worker::new(chain, mempool, key(9).public(), mpsc::channel(64).0)
}

#[test]
fn a_draft_is_staged_by_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let (mut worker, _answers) = joiner(dir.path());
    grow_by(&worker.chain, 3, &[1, 2, 3]);
    let draft = two_survive(&worker.chain, 5, None);
    for (attempt, expected) in [(2, true), (1, false)] {
        let (reply, mut answer) = oneshot::channel();
        assert!(worker.stage(ballot(attempt), &draft, None, reply).is_ok());
        assert_eq!(
            answer.try_recv().unwrap().is_ok(),
            expected,
            "attempt {attempt}"
        );
    }
    assert_eq!(worker.chain.staged().unwrap().ballot, ballot(2));
}
