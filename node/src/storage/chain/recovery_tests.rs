use std::{fs, path::Path, time::Duration};

use alloy_primitives::Bytes;
use axolotl_common::{
    Epoch, EpochRecord, Hash, Member, membership::RecordKind, recovery::StatedLock,
};
use axolotl_ledger::{Unlimited, block::encode_record};

use super::{recovery_testing::*, testing::*, *};

pub(super) fn options() -> StorageOptions {
    StorageOptions {
        checkpoint_blocks: u64::MAX,
        checkpoint_interval: Duration::from_secs(3_600),
        ..StorageOptions::default()
    }
}

/// A chain of four validators with three blocks.
pub(super) fn three_blocks() -> (tempfile::TempDir, Chain) {
    let dir = tempfile::tempdir().unwrap();
    let chain = open_four(dir.path(), options());
    grow_by(&chain, 3, &[1, 2, 3]);
    (dir, chain)
}

/// The block above the head that 1, 2 and 3 have locked, as bytes, with the lock.
pub(super) fn locked(
    chain: &Chain,
    requests: Vec<Bytes>,
    carries: Option<Epoch>,
) -> (Bytes, StatedLock) {
    let height = chain.head().header.number + 1;
    let block = built(chain, block_txs(height), requests);
    let lock = lock_on(chain, Hash(block.hash.0), carries);
    (block.bytes, lock)
}

pub(super) fn activated(outcome: Result<Activated, ActivateError>) -> Option<Arc<StoredBlock>> {
    match outcome {
        Ok(Activated::Now { adopted }) => adopted,
        other => panic!("not activated: {other:?}"),
    }
}

/// What everybody must agree on who stands on the same block in the same epoch.
pub(super) fn standing(chain: &Chain) -> impl PartialEq + std::fmt::Debug + use<> {
    let head = chain.head();
    let members: Vec<Member> = head.validators.members().to_vec();
    (
        (head.header.number, head.hash, head.validators.epoch()),
        members,
        head.previous_validators
            .as_ref()
            .map(|set| set.record_hash()),
        head.due.as_ref().map(|due| due.record.clone()),
        (head.last_builder, head.certificate.is_some()),
        (*chain.sets()).clone(),
        chain.newest_record(),
        dump(&*chain.state(head.height()).unwrap()),
    )
}

/// Opens the chain again, twice: by replay, and from a checkpoint of what that gave.
pub(super) fn reopened(dir: &Path, chain: Chain) -> Chain {
    let before = standing(&chain);
    drop(chain);
    let chain = open_four(dir, options());
    assert_eq!(standing(&chain), before, "by replay");
    chain.close().unwrap();
    drop(chain);
    let chain = open_four(dir, options());
    assert_eq!(standing(&chain), before, "from the checkpoint");
    chain
}

/// Files of a data directory, copied, as a crash would leave them.
fn copied(dir: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let (entry, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
            if entry.is_dir() {
                copy(&entry, &to.join(name));
            } else {
                fs::copy(&entry, to.join(name)).unwrap();
            }
        }
    }
    let copied = tempfile::tempdir().unwrap();
    copy(dir, copied.path());
    copied
}

#[test]
fn a_record_without_an_adopted_block_takes_force_on_the_head() {
    let (dir, chain) = three_blocks();
    let mut heads = chain.subscribe();
    heads.mark_unchanged();
    let record = sign(&chain, two_survive(&chain, 5, None), &[1, 2, 5]);
    assert!(activated(chain.activate(&record, None)).is_none());
    assert!(heads.has_changed().unwrap(), "seen at the same height");
    let head = chain.head();
    assert_eq!(head.place(), (3, Epoch(5)));
    let before = head.previous_validators.as_ref().unwrap();
    assert_eq!((before.epoch(), before.len()), (Epoch(0), 4));
    assert_eq!(chain.newest_record().as_deref(), Some(&record));
    assert_eq!(
        chain.sets().keys().copied().collect::<Vec<_>>(),
        [Epoch(0), Epoch(5)]
    );
    assert!(matches!(
        chain.activate(&record, None),
        Ok(Activated::Before)
    ));

    let chain = reopened(dir.path(), chain);
    // The first block carries the record whatever its builder offers, and nothing else does.
    let first = built(&chain, block_txs(4), vec![Bytes::from_static(b"\xa1other")]);
    assert_eq!(first.block.record(), Some(record.clone()));
    let certificate = decided(&chain, &first, &[1, 2, 5]);
    chain.append(first, certificate).unwrap();
    chain.publish().unwrap();
    let head = chain.head();
    assert!(head.due.is_none() && head.previous_validators.is_none());
    assert_eq!(head.validators.epoch(), Epoch(5));
    grow_by(&chain, 6, &[1, 2, 5]);
    assert!(matches!(
        chain.activate(&record, None),
        Ok(Activated::Before)
    ));
    let chain = reopened(dir.path(), chain);
    let raw = chain.raw_blocks(Height(1), 10, 1 << 20).unwrap();
    let ahead: Vec<usize> = raw.iter().map(|raw| raw.records.len()).collect();
    assert_eq!(ahead, [0, 0, 0, 1, 0, 0]);
    assert_eq!(*raw[3].records[0], record);
}

#[test]
fn a_block_executed_before_the_record_is_not_appended_after_it() {
    let (_dir, chain) = three_blocks();
    let early = built(&chain, block_txs(4), Vec::new());
    let certificate = decided(&chain, &early, &[1, 2, 3]);
    let record = sign(&chain, two_survive(&chain, 5, None), &[1, 2, 5]);
    activated(chain.activate(&record, None));
    let refused = chain.append(early, certificate);
    assert!(
        matches!(refused, Err(StorageError::NotOnTip { .. })),
        "{refused:?}"
    );
}

#[test]
fn what_is_staged_is_durable_and_not_to_be_seen() {
    let (dir, chain) = three_blocks();
    let (block, lock) = locked(&chain, Vec::new(), None);
    let draft = two_survive(&chain, 5, Some(lock));
    assert!(chain.staged().is_none());
    let before = (standing(&chain), chain.inner.blocks.end());
    chain.stage(ballot(3), &draft, Some(&block)).unwrap();
    assert_eq!((standing(&chain), chain.inner.blocks.end()), before);
    assert!(chain.block(Height(4)).unwrap().is_none());
    let expected = Staged {
        ballot: ballot(3),
        draft: draft.clone(),
        block: Some(block.clone()),
    };
    assert_eq!(chain.staged().as_deref(), Some(&expected));
    let chain = reopened(dir.path(), chain);
    assert_eq!(chain.staged().as_deref(), Some(&expected));

    let lower = chain.stage(ballot(2), &draft, Some(&block));
    assert_eq!(lower, Err(StageError::Ballot(ballot(3))));
    // Another draft takes its place under an equal or a higher ballot.
    let other = two_survive(&chain, 6, None);
    for attempt in [3, 4] {
        chain.stage(ballot(attempt), &other, None).unwrap();
        let staged = chain.staged().unwrap();
        assert_eq!((staged.ballot, &staged.block), (ballot(attempt), &None));
        assert_eq!(staged.draft, other);
    }
    // A block decided meanwhile does not remove it; the next start of the chain keeps it too.
    grow_by(&chain, 4, &[1, 2, 3]);
    let chain = reopened(dir.path(), chain);
    assert_eq!(chain.staged().unwrap().draft, other);
}

#[test]
fn an_adopted_block_is_final_by_its_record() {
    for given in [false, true] {
        let (dir, chain) = three_blocks();
        let (block, lock) = locked(&chain, Vec::new(), None);
        let draft = two_survive(&chain, 5, Some(lock));
        let record = sign(&chain, draft.clone(), &[1, 2, 6]);
        if given {
            let behind = chain.activate(&record, None);
            let (base, head) = (Height(4), Height(3));
            assert_eq!(behind.unwrap_err(), ActivateError::Behind { base, head });
        } else {
            chain.stage(ballot(1), &draft, Some(&block)).unwrap();
        }
        let adopted = activated(chain.activate(&record, given.then_some(&block[..]))).unwrap();
        assert_eq!(adopted.block.transactions, block_txs(4));
        let head = chain.head();
        assert_eq!((head.place(), &head.certificate), ((4, Epoch(5)), &None));
        assert_eq!(head.hash, adopted.hash);
        assert!(chain.staged().is_none());
        let stored = chain.block(Height(4)).unwrap().unwrap();
        let by_record = |proof: Option<BlockProof>| proof.and_then(|p| p.record().cloned());
        assert_eq!(by_record(stored.proof.clone()), Some(record.clone()));
        assert_eq!(stored.receipts.len(), 2);

        let chain = reopened(dir.path(), chain);
        let stored = chain.block(Height(4)).unwrap().unwrap();
        assert_eq!(by_record(stored.proof.clone()), Some(record.clone()));
        assert!(chain.staged().is_none());
        grow_by(&chain, 6, &[2, 5, 6]);
        assert_eq!(
            chain.block(Height(5)).unwrap().unwrap().block.record(),
            Some(record)
        );
        reopened(dir.path(), chain);
    }
}

#[test]
fn a_crash_after_any_durable_step_leaves_a_chain_that_goes_on() {
    let (dir, chain) = three_blocks();
    let (block, lock) = locked(&chain, Vec::new(), None);
    let draft = two_survive(&chain, 5, Some(lock));
    let record = sign(&chain, draft.clone(), &[1, 2, 6]);
    chain.stage(ballot(1), &draft, Some(&block)).unwrap();
    let staged = copied(dir.path());
    // The adopted block is logged and synced, with the record in it, and nothing more.
    let decoded = Block::decode(&block, CHAIN_ID.into(), &|_| None).unwrap();
    let executed = chain.execute(decoded, &Unlimited).unwrap();
    let proof = BlockProof::Record(Box::new(record.clone()));
    chain.inner.log(&executed, &proof).unwrap();
    let written = copied(dir.path());
    chain.inner.blocks.sync().unwrap();
    let logged = copied(dir.path());
    lock_records(&chain, &record);
    let stored = copied(dir.path());
    drop(chain);
    let done = open_four(staged.path(), options());
    assert_eq!(done.head().place(), (3, Epoch(0)), "only staged");
    activated(done.activate(&record, None));
    let uncleared = copied(staged.path());
    fs::copy(dir.path().join("staged"), uncleared.path().join("staged")).unwrap();
    let expected = standing(&done);
    for (what, dir) in [
        ("logged", &logged),
        ("in the store", &stored),
        ("not cleared", &uncleared),
    ] {
        let chain = open_four(dir.path(), options());
        assert_eq!(standing(&chain), expected, "{what}");
        assert!(chain.staged().is_none(), "{what}: cleared");
        assert!(
            !dir.path().join("staged").exists(),
            "{what}: cleared on disk"
        );
        assert!(
            matches!(chain.activate(&record, None), Ok(Activated::Before)),
            "{what}"
        );
        grow_by(&chain, 5, &[2, 5, 6]);
        reopened(dir.path(), chain);
    }
    // Of a block that was not synced the system may have written any part.
    let segment = written.path().join("blocks").join(format!("{:020}.log", 0));
    let whole = fs::read(&segment).unwrap();
    for cut in [1, block.len() / 2, block.len()] {
        fs::write(&segment, &whole[..whole.len() - cut]).unwrap();
        let chain = open_four(written.path(), options());
        assert_eq!(chain.head().place(), (3, Epoch(0)), "cut by {cut}");
        assert!(chain.staged().is_some(), "cut by {cut}: it is still staged");
    }
}

fn lock_records(chain: &Chain, record: &axolotl_common::SignedRecord) {
    let record = Arc::new(record.clone());
    lock(&chain.inner.records).put(&record).unwrap();
}

#[test]
fn a_record_in_the_store_alone_takes_force_at_the_next_start() {
    let (dir, chain) = three_blocks();
    let record = sign(&chain, two_survive(&chain, 5, None), &[1, 2, 5]);
    lock_records(&chain, &record);
    assert_eq!(chain.head().validators.epoch(), Epoch(0), "not visible yet");
    drop(chain);
    let chain = open_four(dir.path(), options());
    assert_eq!(chain.head().place(), (3, Epoch(5)));
    reopened(dir.path(), chain);
}

#[test]
fn lost_records_come_back_from_the_blocks() {
    for adopts in [false, true] {
        let (dir, chain) = three_blocks();
        let (block, lock) = locked(&chain, Vec::new(), None);
        let draft = two_survive(&chain, 5, adopts.then_some(lock));
        let record = sign(&chain, draft, &[1, 2, 6]);
        activated(chain.activate(&record, Some(&block)));
        grow_by(&chain, 6, &[1, 2, 6]);
        let before = standing(&chain);
        drop(chain);
        let file = dir.path().join("epochs").join(format!("{:020}", 5));
        for damage in [true, false] {
            if damage {
                let mut bytes = fs::read(&file).unwrap();
                bytes[40] ^= 1;
                fs::write(&file, bytes).unwrap();
            } else {
                fs::remove_file(&file).unwrap();
            }
            let chain = open_four(dir.path(), options());
            assert_eq!(standing(&chain), before);
            assert!(file.exists());
        }
        // The state store is derived as ever.
        open_four(dir.path(), options()).close().unwrap();
        fs::remove_file(dir.path().join("state.redb")).unwrap();
        assert_eq!(standing(&open_four(dir.path(), options())), before);
    }
}

#[test]
fn a_damaged_staging_record_ends_the_process() {
    let (dir, chain) = three_blocks();
    chain
        .stage(ballot(1), &two_survive(&chain, 5, None), None)
        .unwrap();
    drop(chain);
    let file = dir.path().join("staged");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let (spec, diff) = spec_of(1_000, &[1, 2, 3, 4]);
    let error = Chain::open(dir.path(), spec, diff, options(), &mut |_| {}).unwrap_err();
    assert!(
        error.is_fatal() && error.to_string().contains("acknowledged"),
        "{error}"
    );
}

/// A planned record of 2, 3, 4 and 5 as epoch 2, as a request.
fn planned_request(chain: &Chain) -> (Hash, Bytes) {
    let record = EpochRecord {
        number: Epoch(2),
        kind: RecordKind::Planned,
        succeeds: chain.head().validators.record_hash(),
        members: [2, 3, 4, 5].map(member).to_vec(),
        base_height: chain.head().height(),
        expiry_height: None,
        handover: None,
    };
    let chain = &chain.spec().chain;
    let hash = record.hash(chain);
    (hash, encode_record(&record.sign(chain, &authority())))
}

#[test]
fn the_planned_record_of_an_adopted_block_is_the_one_that_is_succeeded() {
    let (dir, chain) = three_blocks();
    let (planned, request) = planned_request(&chain);
    let (block, lock) = locked(&chain, vec![request], Some(Epoch(2)));
    let of = |lock: &StatedLock, succeeds: Hash, number: u64| {
        draft(
            &chain,
            number,
            succeeds,
            &[2, 3],
            &[2, 3, 5, 6],
            Some(lock.clone()),
        )
    };
    // 5 is an old member now, and has not sealed.
    let mut unsealed = of(&lock, planned, 5);
    let good = {
        let mut draft = of(&lock, planned, 5);
        draft.members = [2, 3, 6, 7].map(member).to_vec();
        draft
    };
    unsealed.members = [2, 3, 5, 6].map(member).to_vec();
    let silent = StatedLock {
        carries: None,
        ..lock.clone()
    };
    let old = chain.head().validators.record_hash();
    let stage = |draft: &EpochRecord| chain.stage(ballot(1), draft, Some(&block));
    for wrong in [
        unsealed,
        of(&lock, old, 5),
        of(&lock, planned, 2),
        of(&lock, planned, 1),
    ] {
        let refused = stage(&wrong);
        assert!(matches!(refused, Err(StageError::Draft(_))), "{refused:?}");
    }
    for wrong in [of(&silent, old, 5), of(&silent, planned, 5)] {
        let refused = stage(&wrong);
        assert!(matches!(refused, Err(StageError::Block(_))), "{refused:?}");
    }
    stage(&good).unwrap();
    let record = sign(&chain, good, &[2, 3, 6]);
    activated(chain.activate(&record, None));
    let head = chain.head();
    assert_eq!(head.place(), (4, Epoch(5)));
    assert_eq!(
        head.previous_validators.as_ref().unwrap().record_hash(),
        planned
    );
    let epochs: Vec<_> = chain.sets().keys().map(|epoch| epoch.0).collect();
    assert_eq!(epochs, [0, 2, 5]);
    let chain = reopened(dir.path(), chain);
    grow_by(&chain, 6, &[2, 3, 6]);
    reopened(dir.path(), chain);
}

#[test]
fn a_node_that_has_the_base_by_votes_takes_the_record_on_top() {
    // Block 4 carries a planned record or not; this node saw its certificate, the survivors their lock.
    for planned in [false, true] {
        let (dir, chain) = three_blocks();
        let (hash, request) = planned_request(&chain);
        let carried = planned.then_some(request).into_iter().collect();
        let (block, lock) = locked(&chain, carried, planned.then_some(Epoch(2)));
        let old = chain.head().validators.record_hash();
        let succeeds = if planned { hash } else { old };
        let draft = draft(&chain, 5, succeeds, &[2, 3], &[2, 3, 6, 7], Some(lock));
        let record = sign(&chain, draft, &[2, 3, 6]);
        let decoded = Block::decode(&block, CHAIN_ID.into(), &|_| None).unwrap();
        let executed = chain.execute(decoded, &Unlimited).unwrap();
        let certificate = decided(&chain, &executed, &[1, 2, 3]);
        chain.append(executed, certificate).unwrap();
        assert!(activated(chain.activate(&record, None)).is_none());
        assert!(chain.head().certificate.is_some(), "its proof stays");
        assert_eq!(chain.head().place(), (4, Epoch(5)));
        let before = chain.head().previous_validators.clone().unwrap();
        assert_eq!(before.record_hash(), succeeds);
        reopened(dir.path(), chain);
    }
}

#[test]
fn two_recoveries_without_a_block_between_them() {
    let (dir, chain) = three_blocks();
    let first = sign(&chain, two_survive(&chain, 5, None), &[1, 2, 5]);
    activated(chain.activate(&first, None));
    let succeeds = chain.head().validators.record_hash();
    let again = draft(&chain, 7, succeeds, &[1, 5], &[1, 5, 7, 8], None);
    let second = sign(&chain, again, &[1, 5, 7]);
    activated(chain.activate(&second, None));
    let chain = reopened(dir.path(), chain);
    assert_eq!(
        chain.head().previous_validators.as_ref().unwrap().epoch(),
        Epoch(5)
    );
    let block = built(&chain, Vec::new(), Vec::new());
    assert_eq!(
        block.block.record().as_ref(),
        Some(&second),
        "and not the first"
    );
    grow_by(&chain, 4, &[1, 5, 7]);
    let chain = reopened(dir.path(), chain);
    let raw = chain.raw_blocks(Height(4), 1, 1 << 20).unwrap().remove(0);
    let ahead: Vec<_> = raw
        .records
        .iter()
        .map(|record| (**record).clone())
        .collect();
    assert_eq!(ahead, [first, second]);
}

#[test]
fn a_forced_record_rests_on_the_authority_alone() {
    let (dir, chain) = three_blocks();
    let mut record = two_survive(&chain, 5, None);
    record.kind = RecordKind::Forced;
    record.handover.as_mut().unwrap().statements.clear();
    record.members = vec![member(1)];
    let forced = sign(&chain, record.clone(), &[]);
    record.succeeds = Hash([1; 32]);
    let refused = chain
        .activate(&sign(&chain, record, &[]), None)
        .unwrap_err();
    assert!(matches!(refused, ActivateError::Void(_)), "{refused}");
    activated(chain.activate(&forced, None));
    let chain = reopened(dir.path(), chain);
    grow_by(&chain, 5, &[1]);
    assert_eq!(
        chain.block(Height(4)).unwrap().unwrap().block.record(),
        Some(forced)
    );
    reopened(dir.path(), chain);
}
