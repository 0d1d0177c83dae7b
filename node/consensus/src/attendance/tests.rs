use axolotl_common::{Hash, Round, Signature, VoteKind};

use super::*;
use crate::{
    message::Vote,
    test_support::{key, set},
};

fn ms(ms: u64) -> Now {
    Duration::from_millis(ms)
}

fn vote(validator: u8, height: u64, block: Option<u8>) -> SignedVote {
    SignedVote {
        vote: Vote {
            epoch: Epoch(0),
            height: Height(height),
            round: Round(0),
            kind: VoteKind::Precommit,
            block: block.map(|block| Hash([block; 32])),
            validator: key(validator).public(),
        },
        signature: Signature([0; 64]),
    }
}

/// Validator 1 of four, at height 10 since 0 ms.
fn attendance() -> Attendance {
    let mut attendance = Attendance::new(key(1).public());
    attendance.enter(ms(0), Height(10), &set(0, &[1, 2, 3, 4]));
    attendance
}

fn of(attendance: &Attendance, validator: u8) -> LastVote {
    let key = key(validator).public();
    let mut votes = attendance.last_votes();
    *votes.find(|vote| vote.validator == key).unwrap()
}

#[test]
fn before_the_first_vote_nobody_is_missing() {
    let attendance = attendance();
    for validator in 1..=4 {
        let last = of(&attendance, validator);
        assert_eq!((last.height, last.at), (Height(9), ms(0)));
        assert_eq!((last.missing_since, last.unanswered_since), (None, None));
    }
    assert_eq!(attendance.last_signed(), None);
}

#[test]
fn a_vote_counts_for_nil_or_a_block_and_until_two_heights_later_or_a_second() {
    // (present height, left the vote's height how long ago, height of the vote, counts)
    let table = [
        (10, 0, 10, true),
        (10, 0, 11, true),
        (12, 60_000, 10, true),
        (13, 60_000, 10, false),
        (13, 1_001, 10, false),
        (13, 1_000, 10, true),
        (40, 900, 10, true),
        // Nothing is known of the heights before this node began.
        (13, 10, 9, false),
    ];
    for (present, ago, height, counts) in table {
        for block in [None, Some(7)] {
            let mut attendance = attendance();
            let left = ms(5_000);
            for height in 11..=present {
                attendance.enter(left, Height(height), &set(0, &[1, 2, 3, 4]));
            }
            let now = left + ms(ago);
            attendance.note(now, &vote(2, height, block));
            let expected = if counts { now } else { ms(0) };
            assert_eq!(
                of(&attendance, 2).at,
                expected,
                "{height} at {present}, {ago} ms"
            );
        }
    }
}

#[test]
fn who_is_behind_the_others_is_missing_until_it_has_caught_up() {
    let mut attendance = attendance();
    let missing = |attendance: &Attendance| {
        [2, 3, 4].map(|validator| of(attendance, validator).missing_since)
    };
    attendance.note(ms(100), &vote(2, 10, Some(1)));
    assert_eq!(missing(&attendance), [None, Some(ms(100)), Some(ms(100))]);
    attendance.note(ms(120), &vote(3, 10, None));
    assert_eq!(missing(&attendance), [None, None, Some(ms(100))]);
    attendance.enter(ms(140), Height(11), &set(0, &[1, 2, 3, 4]));
    attendance.note(ms(150), &vote(2, 11, Some(1)));
    // The first moment counts, not the last.
    assert_eq!(missing(&attendance), [None, Some(ms(150)), Some(ms(100))]);
    // Still behind, but it votes: counted from now on.
    attendance.note(ms(400), &vote(4, 10, Some(1)));
    assert_eq!(missing(&attendance), [None, Some(ms(150)), Some(ms(400))]);
    attendance.note(ms(500), &vote(4, 11, Some(1)));
    attendance.note(ms(500), &vote(3, 11, Some(1)));
    assert_eq!(missing(&attendance), [None, None, None]);
    // A late one takes nothing back.
    attendance.note(ms(600), &vote(4, 10, Some(1)));
    assert_eq!(of(&attendance, 4).height, Height(11));
    assert_eq!(missing(&attendance), [None, None, None]);
}

#[test]
fn votes_for_heights_far_ahead_make_nobody_missing() {
    let mut attendance = attendance();
    for validator in 3..=4 {
        attendance.note(ms(50), &vote(validator, 10, Some(1)));
    }
    attendance.note(ms(100), &vote(2, u64::MAX >> 1, Some(1)));
    assert_eq!(of(&attendance, 2).height, Height(10));
    for validator in 3..=4 {
        assert_eq!(of(&attendance, validator).missing_since, None);
    }
}

#[test]
fn own_votes_show_who_answers_and_make_nobody_missing() {
    let mut attendance = attendance();
    let own = vote(1, 10, Some(1));
    attendance.note_own(ms(100), None);
    attendance.note_own(ms(200), Some(&own));
    attendance.note_own(ms(300), Some(&own));
    // Sent back by a peer.
    attendance.note(ms(350), &vote(1, 10, Some(1)));
    let signed = LastSigned {
        epoch: Epoch(0),
        height: Height(10),
        at: ms(200),
    };
    assert_eq!(attendance.last_signed(), Some(signed));
    for validator in 2..=4 {
        let last = of(&attendance, validator);
        assert_eq!(last.unanswered_since, Some(ms(200)));
        assert_eq!(last.missing_since, None);
    }
    attendance.note(ms(400), &vote(2, 10, None));
    assert_eq!(of(&attendance, 2).unanswered_since, None);
    assert_eq!(of(&attendance, 3).unanswered_since, Some(ms(200)));
}

#[test]
fn a_new_epoch_keeps_who_stays_and_begins_with_who_comes() {
    let mut attendance = attendance();
    attendance.note(ms(100), &vote(2, 10, Some(1)));
    attendance.enter(ms(200), Height(11), &set(1, &[1, 2, 4, 5]));
    let known: Vec<PublicKey> = attendance.last_votes().map(|v| v.validator).collect();
    assert_eq!(known.len(), 4);
    assert!(!known.contains(&key(3).public()));
    assert_eq!(of(&attendance, 2).at, ms(100));
    assert_eq!(of(&attendance, 4).missing_since, Some(ms(100)));
    let newcomer = of(&attendance, 5);
    assert_eq!((newcomer.height, newcomer.at), (Height(10), ms(200)));
    assert_eq!(newcomer.missing_since, None);
    // Nobody knows the voter, and nothing is kept of it.
    attendance.note(ms(300), &vote(3, 11, Some(1)));
    assert_eq!(attendance.last_votes().count(), 4);
    assert_eq!(of(&attendance, 5).missing_since, None);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut attendance = attendance();
    for height in 11..10_000 {
        attendance.enter(ms(height), Height(height), &set(0, &[1, 2, 3, 4]));
    }
    assert_eq!(attendance.left.len(), MAX_HEIGHTS_LEFT);
    assert_eq!(attendance.votes.len(), 4);
}
