use axolotl_common::{
    EpochRecord, KeyPair, Member, NodeId, QuorumRule, VolumeId, membership::RecordKind,
};

use super::*;
use crate::storage::chain::testing::{authority, spec};

/// Epoch 0 in force, block 10 to be decided.
fn place() -> (Arc<ChainSpec>, Standing) {
    let (spec, _) = spec(1_000);
    let genesis = spec.genesis.epoch();
    let set = ValidatorSet::new(&spec.chain, &genesis, QuorumRule::Byzantine);
    let standing = Standing {
        validators: Arc::new(set),
        height: Height(10),
    };
    (spec, standing)
}

fn record(standing: &Standing, number: u64, expiry: Option<u64>) -> EpochRecord {
    EpochRecord {
        number: Epoch(number),
        kind: RecordKind::Planned,
        succeeds: standing.validators.record_hash(),
        members: vec![Member {
            node_id: NodeId::numbered(5),
            public_key: KeyPair::from_seed(&[5; 32]).public(),
            volume_id: VolumeId([5; 16]),
        }],
        base_height: Height(9),
        expiry_height: expiry.map(Height),
        handover: None,
    }
}

#[test]
fn only_what_a_block_may_carry_is_kept() {
    let (spec, standing) = place();
    let signed = |record: EpochRecord| record.sign(&spec.chain, &authority());
    let good = record(&standing, 3, Some(20));
    let foreign = KeyPair::from_seed(&[8; 32]);
    let elsewhere = EpochRecord {
        succeeds: axolotl_common::Hash([1; 32]),
        ..good.clone()
    };
    let forced = EpochRecord {
        kind: RecordKind::Forced,
        ..good.clone()
    };
    // (what, record, false?, a word of the reason)
    let table = [
        (
            "forged",
            good.clone().sign(&spec.chain, &foreign),
            true,
            "not signed by the authority",
        ),
        (
            "of another epoch",
            signed(elsewhere),
            false,
            "record succeeds",
        ),
        ("forced", signed(forced), false, "only planned"),
        (
            "expired",
            signed(record(&standing, 3, Some(10))),
            false,
            "expired at height 10",
        ),
        (
            "not newer than the epoch",
            signed(record(&standing, 0, None)),
            false,
            "does not come after",
        ),
    ];
    for (what, record, is_false, word) in table {
        let mut pending = PendingRecord::default();
        let error = pending.offer(&spec, &standing, &record).unwrap_err();
        assert_eq!(
            matches!(error, RecordError::False(_)),
            is_false,
            "{what}: {error:?}"
        );
        assert!(error.to_string().contains(word), "{what}: {error}");
        assert_eq!(pending.request(), None, "{what}");
    }
    let mut pending = PendingRecord::default();
    let good = signed(good);
    assert_eq!(pending.offer(&spec, &standing, &good), Ok(Taken::New));
    assert_eq!(pending.offer(&spec, &standing, &good), Ok(Taken::Known));
    assert_eq!(pending.request(), Some(&encode_record(&good)));
}

#[test]
fn a_newer_record_takes_the_place_of_an_older_one_and_not_the_other_way() {
    let (spec, standing) = place();
    let signed = |number| record(&standing, number, None).sign(&spec.chain, &authority());
    let mut pending = PendingRecord::default();
    assert_eq!(pending.offer(&spec, &standing, &signed(2)), Ok(Taken::New));
    assert_eq!(pending.offer(&spec, &standing, &signed(4)), Ok(Taken::New));
    let error = pending.offer(&spec, &standing, &signed(3)).unwrap_err();
    assert!(error.to_string().contains("epoch 4 waits"), "{error}");
    assert_eq!(pending.epoch(), Some(Epoch(4)));
}

#[test]
fn a_record_is_forgotten_when_it_is_in_force_superseded_or_expired() {
    let (spec, standing) = place();
    let mine = record(&standing, 3, Some(12));
    let other = record(&standing, 2, None);
    let set = |record| {
        Arc::new(ValidatorSet::new(
            &spec.chain,
            record,
            QuorumRule::Byzantine,
        ))
    };
    let at = |validators: &Arc<ValidatorSet>, height| Standing {
        validators: Arc::clone(validators),
        height: Height(height),
    };
    let same = Arc::clone(&standing.validators);
    let table = [
        (at(&same, 11), None),
        (at(&same, 12), Some("expired at height 12")),
        (at(&set(&mine), 11), Some("it is in force")),
        (at(&set(&other), 11), Some("record succeeds")),
    ];
    let signed = mine.clone().sign(&spec.chain, &authority());
    for (later, expected) in table {
        let mut pending = PendingRecord::default();
        assert_eq!(pending.offer(&spec, &standing, &signed), Ok(Taken::New));
        let why = pending.on_head(&spec, &later);
        match expected {
            None => assert_eq!(why, None),
            Some(word) => assert!(why.as_ref().is_some_and(|w| w.contains(word)), "{why:?}"),
        }
        assert_eq!(pending.request().is_some(), expected.is_none());
    }
    // Told once more by a registry that has not heard yet.
    let mut pending = PendingRecord::default();
    let in_force = at(&set(&mine), 11);
    assert_eq!(pending.offer(&spec, &in_force, &signed), Ok(Taken::InForce));
    assert_eq!(pending.request(), None);
}

#[test]
fn a_message_carries_a_record_and_garbage_none() {
    let request = Bytes::from_static(b"request");
    let (one, two) = (encode_message(1, &request), encode_message(2, &request));
    assert_ne!(one, two, "a copy must differ to be passed on again");
    assert_eq!(decode_message(&one), Some(request.clone()));
    assert_eq!(decode_message(&two), Some(request));
    assert_eq!(decode_message(&one[..one.len() - 1]), None);
    assert_eq!(decode_message(&[one, vec![0]].concat()), None);
    assert_eq!(decode_message(&[]), None);
}
