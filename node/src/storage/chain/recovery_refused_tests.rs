//! Records and drafts that have no place on a chain.

use axolotl_common::{Epoch, EpochRecord, Hash, membership::RecordKind};

use super::{recovery_testing::*, recovery_tests::*, testing::*, *};

/// Decides a block without transactions.
fn append_empty(chain: &Chain) {
    let block = built(chain, Vec::new(), Vec::new());
    let certificate = decided(chain, &block, &[1, 2, 3]);
    chain.append(block, certificate).unwrap();
    chain.publish().unwrap();
}

#[test]
fn a_chain_against_the_base_is_a_conflict() {
    let (_dir, chain) = three_blocks();
    let base_two = {
        let (_other_dir, other) = three_blocks();
        let record = sign(&other, two_survive(&other, 5, None), &[1, 2, 5]);
        drop(other);
        record
    };
    let (_, lock) = locked(&chain, Vec::new(), None);
    let adopting = sign(&chain, two_survive(&chain, 5, Some(lock)), &[1, 2, 5]);
    // Blocks above the base ...
    grow_by(&chain, 4, &[1, 2, 3]);
    let before = standing(&chain);
    let conflict = chain.activate(&base_two, None).unwrap_err();
    assert!(
        matches!(&conflict, ActivateError::Conflict(why) if why.contains("above it")),
        "{conflict}"
    );
    let staged = chain.stage(ballot(1), &base_two.record, None).unwrap_err();
    assert!(matches!(staged, StageError::Conflict(_)), "{staged}");
    // ... and another block at the base.
    let (_dir, forked) = three_blocks();
    append_empty(&forked);
    let conflict = forked.activate(&adopting, None).unwrap_err();
    assert!(
        matches!(&conflict, ActivateError::Conflict(why) if why.contains("fork")),
        "{conflict}"
    );
    append_empty(&forked);
    let conflict = forked.activate(&adopting, None).unwrap_err();
    assert!(
        matches!(&conflict, ActivateError::Conflict(why) if why.contains("fork")),
        "{conflict}"
    );
    assert_eq!(standing(&chain), before);
}

#[test]
fn a_base_above_the_head_waits_for_sync() {
    let (_dir, chain) = three_blocks();
    let dir = tempfile::tempdir().unwrap();
    let young = open_four(dir.path(), options());
    grow_by(&young, 1, &[1, 2, 3]);
    let (block, lock) = locked(&chain, Vec::new(), None);
    for (record, base) in [
        (sign(&chain, two_survive(&chain, 5, None), &[1, 2, 5]), 3),
        (
            sign(&chain, two_survive(&chain, 5, Some(lock)), &[1, 2, 5]),
            4,
        ),
    ] {
        let (base, head) = (Height(base), Height(1));
        let behind = young.activate(&record, Some(&block)).unwrap_err();
        assert_eq!(behind, ActivateError::Behind { base, head });
        let staged = young.stage(ballot(1), &record.record, Some(&block));
        assert_eq!(staged, Err(StageError::Behind { base, head }));
    }
    assert!(young.staged().is_none() && young.newest_record().is_none());
}

type Change = fn(&mut EpochRecord);

#[test]
fn a_record_that_does_not_follow_is_refused() {
    let (dir, chain) = three_blocks();
    let good = || two_survive(&chain, 5, None);
    let before = standing(&chain);
    let (spec, enough) = (&chain.spec().chain, [1, 2, 5]);
    let forged = good().sign(spec, &key(7));
    let mut changed = sign(&chain, good(), &enough);
    changed.record.number = Epoch(6);
    let planned = EpochRecord {
        kind: RecordKind::Planned,
        ..good()
    };
    let bare = EpochRecord {
        handover: None,
        ..good()
    };
    for false_one in [
        forged,
        changed,
        sign(&chain, planned, &enough),
        sign(&chain, bare, &enough),
    ] {
        let refused = chain.activate(&false_one, None).unwrap_err();
        assert!(matches!(refused, ActivateError::False(_)), "{refused}");
    }
    let changes: [(&str, Change); 8] = [
        ("a number that is not above", |r| r.number = Epoch(0)),
        ("another predecessor", |r| r.succeeds = Hash([1; 32])),
        ("an expiry", |r| r.expiry_height = Some(Height(9))),
        ("a member twice", |r| r.members[3] = r.members[2].clone()),
        ("a volume twice", |r| {
            r.members[3].volume_id = r.members[2].volume_id;
        }),
        ("a member that has not sealed", |r| r.members[2] = member(3)),
        ("too few survivors", |r| {
            r.handover.as_mut().unwrap().statements.pop();
        }),
        ("adopted, but nothing was locked", |r| {
            r.handover.as_mut().unwrap().adopted = true;
        }),
    ];
    for (what, change) in changes {
        let mut record = good();
        change(&mut record);
        let staged = chain.stage(ballot(1), &record, None).unwrap_err();
        assert!(matches!(staged, StageError::Draft(_)), "{what}: {staged}");
        let refused = chain
            .activate(&sign(&chain, record, &enough), None)
            .unwrap_err();
        assert!(
            matches!(refused, ActivateError::Void(_)),
            "{what}: {refused}"
        );
    }
    for by in [&[1, 2][..], &[1, 5, 6], &[]] {
        let refused = chain.activate(&sign(&chain, good(), by), None).unwrap_err();
        assert!(
            matches!(refused, ActivateError::Void(_)),
            "{by:?}: {refused}"
        );
    }
    assert_eq!(standing(&chain), before);
    assert!(chain.staged().is_none());
    reopened(dir.path(), chain);
}

#[test]
fn an_adopted_block_must_be_the_one_and_must_execute() {
    let (_dir, chain) = three_blocks();
    let (block, lock) = locked(&chain, Vec::new(), None);
    let record = sign(&chain, two_survive(&chain, 5, Some(lock)), &[1, 2, 5]);
    let other = built(&chain, Vec::new(), Vec::new()).bytes;
    let bad_state = {
        let decoded = Block::decode(&block, CHAIN_ID.into(), &|_| None).unwrap();
        let mut header = decoded.header.clone();
        header.state_root = B256::repeat_byte(7);
        Block::new(header, decoded.transactions, Vec::new())
    };
    let lock = lock_on(&chain, Hash(bad_state.hash().0), None);
    let unsound = sign(&chain, two_survive(&chain, 5, Some(lock)), &[1, 2, 5]);
    for (record, bytes) in [
        (&record, &other[..]),
        (&record, b"garbage"),
        (&record, &block[..block.len() - 1]),
        (&unsound, &bad_state.encode()[..]),
    ] {
        let refused = chain.activate(record, Some(bytes)).unwrap_err();
        assert!(matches!(refused, ActivateError::Block(_)), "{refused}");
        let staged = chain
            .stage(ballot(1), &record.record, Some(bytes))
            .unwrap_err();
        assert!(matches!(staged, StageError::Block(_)), "{staged}");
    }
    assert_eq!(chain.head().place(), (3, Epoch(0)));
    activated(chain.activate(&record, Some(&block)));
}
