//! What a seal shuts, what it leaves open, and what is said of what was held before.

mod bench;

use std::sync::Arc;

use axolotl_common::{
    CommitCertificate, VoteKind,
    recovery::{SealNote, Sets},
};

use self::bench::{
    Bench, EPOCH, HEIGHT, all_inputs, ballot, block, config, message, polka, proposal, signatures,
    signs, start, vote, vote_of,
};
use super::*;
use crate::test_support::{chain, key, set};

#[test]
fn nothing_reaches_a_sealed_core() {
    let benches: [fn() -> Bench; 4] = [
        || Bench::new(1),
        || Bench::new(1).answered(),
        Bench::locked,
        || {
            let mut running = Bench::new(1).answered();
            running.step(Input::Work(true));
            running
        },
    ];
    for (number, bench) in benches.iter().enumerate() {
        let mut open = bench();
        let came: usize = all_inputs()
            .into_iter()
            .filter(|input| signs(&open.step(input.clone())))
            .count();
        assert!(came > 0, "bench {number}: the inputs move an open core");

        let mut sealed = bench();
        sealed.seal(EPOCH.0);
        let (lock, round, log) = (
            sealed.driver.lock(),
            sealed.driver.round(),
            sealed.log.len(),
        );
        assert!(!sealed.driver.votes());
        for input in all_inputs() {
            let effects = sealed.step(input.clone());
            assert!(!signs(&effects), "bench {number}: {input:?}: {effects:?}");
        }
        assert_eq!(sealed.driver.lock(), lock, "bench {number}");
        assert_eq!(sealed.driver.round(), round, "bench {number}");
        assert_eq!(sealed.log.len(), log, "bench {number}");
        // Nor after a restart, whose replay has all of it in the log.
        let mut again = sealed.restarted(1, 5, &sealed.set);
        for input in all_inputs() {
            let effects = again.step(input.clone());
            assert!(
                !signs(&effects),
                "bench {number}, again: {input:?}: {effects:?}"
            );
        }
        assert_eq!(again.driver.lock(), lock, "bench {number}");
    }
}

#[test]
fn the_seal_is_durable_before_it_is_told() {
    let mut bench = Bench::locked();
    let effects = bench.seal(EPOCH.0);
    let told: Vec<_> = effects
        .iter()
        .filter(|effect| !matches!(effect, Effect::CancelTimer(_)))
        .collect();
    let seal = LogRecord {
        epoch: EPOCH,
        height: HEIGHT,
        entry: LogEntry::Seal,
    };
    let sealed = Effect::Sealed { epoch: EPOCH };
    assert_eq!(told, [&Effect::Append(seal), &Effect::Flush, &sealed]);
    // Again, and for an earlier epoch: it stands in the log already.
    assert_eq!(bench.seal(EPOCH.0), std::slice::from_ref(&sealed));
    assert_eq!(bench.seal(1), [sealed]);
    assert_eq!(bench.driver.sealed(), Some(EPOCH));
    // A later one is news.
    assert!(bench.seal(9).contains(&Effect::Sealed { epoch: Epoch(9) }));
    assert_eq!(
        bench.restarted(1, 5, &bench.set).driver.sealed(),
        Some(Epoch(9))
    );
}

#[test]
fn only_certificates_move_a_sealed_node_on() {
    let mut bench = Bench::locked();
    bench.seal(EPOCH.0);
    let certificate = CommitCertificate {
        epoch: EPOCH,
        height: HEIGHT,
        round: Round(0),
        block: block(1).0,
        signatures: signatures(VoteKind::Precommit, block(1).0),
    };
    // Others are said to be ahead: a reason to sync.
    let effects = bench.step(message(Payload::Decided(certificate)));
    let patience = |effect: &Effect| matches!(effect, Effect::SetTimer { id, .. } if id.kind == TimerKind::Behind);
    assert!(effects.iter().any(patience), "{effects:?}");
    let behind = Input::Timer(TimerId {
        height: HEIGHT,
        round: Round(0),
        kind: TimerKind::Behind,
    });
    let effects = bench.step(behind);
    assert!(
        effects.contains(&Effect::Behind {
            height_seen: Height(6)
        }),
        "{effects:?}"
    );
    // The block came by sync. The next height is as sealed as the last.
    let set = Arc::clone(&bench.set);
    let effects = bench.step(Input::Begin(start(6, &set)));
    assert_eq!(bench.driver.height(), Some(Height(6)));
    assert_eq!(bench.driver.lock(), None);
    assert!(!signs(&effects) && !bench.driver.votes(), "{effects:?}");
    for input in [
        Input::Work(true),
        message(Payload::Vote(vote_of(
            2,
            Height(6),
            VoteKind::Prevote,
            None,
        ))),
        message(Payload::Vote(vote_of(
            3,
            Height(6),
            VoteKind::Prevote,
            None,
        ))),
    ] {
        let effects = bench.step(input.clone());
        assert!(!signs(&effects), "{input:?}: {effects:?}");
    }
    assert_eq!(bench.driver.round(), None);
    // And after a restart, though the seal was written at another height.
    let mut again = bench.restarted(1, 9, &set);
    assert_eq!(again.driver.sealed(), Some(EPOCH));
    let effects = again.step(Input::Work(true));
    assert!(!signs(&effects) && !again.driver.votes(), "{effects:?}");
}

#[test]
fn an_epoch_above_the_seal_is_voted_on() {
    for restart in [false, true] {
        let mut bench = Bench::locked();
        bench.seal(EPOCH.0);
        let new = Arc::new(set(4, &[1, 2, 5, 6]));
        if restart {
            bench = bench.restarted(1, 6, &new);
            assert!(bench.driver.awaits_answers());
            for from in [2, 5] {
                let from = key(from).public();
                bench.step(Input::HighestVoteSeen { from, vote: None });
            }
        } else {
            bench.step(Input::Begin(start(6, &new)));
        }
        assert!(bench.driver.votes(), "restart {restart}");
        assert!(!bench.driver.is_unfit());
        bench.step(Input::Work(true));
        assert_eq!(bench.driver.round(), Some(Round(0)), "restart {restart}");
        // Until it is sealed as well.
        bench.seal(4);
        assert!(!bench.driver.votes(), "restart {restart}");
    }
}

#[test]
fn a_learner_that_sealed_stays_silent_when_it_becomes_a_member() {
    let mut bench = Bench::new(9);
    bench.seal(4);
    let effects = bench.step(message(Payload::Vote(vote_of(
        2,
        HEIGHT,
        VoteKind::Prevote,
        None,
    ))));
    assert!(
        !signs(&effects) && bench.driver.round().is_none(),
        "{effects:?}"
    );
    let (planned, later) = (
        Arc::new(set(4, &[1, 2, 3, 9])),
        Arc::new(set(5, &[1, 2, 3, 9])),
    );
    for (epoch, height, restart) in [
        (&planned, 6, false),
        (&planned, 6, true),
        (&later, 7, false),
    ] {
        if restart {
            bench = bench.restarted(9, height, epoch);
        } else {
            bench.step(Input::Begin(start(height, epoch)));
        }
        for from in [1, 2] {
            let from = key(from).public();
            bench.step(Input::HighestVoteSeen { from, vote: None });
        }
        bench.step(Input::Work(true));
        assert!(bench.driver.is_validator());
        let above = epoch.epoch() > Epoch(4);
        assert_eq!(bench.driver.votes(), above, "epoch {}", epoch.epoch());
        assert_eq!(bench.driver.round().is_some(), above);
    }
}

#[test]
fn a_statement_says_what_the_log_holds() {
    let mut bench = Bench::locked();
    bench.step(vote(4, VoteKind::Precommit, None));
    let statement = bench.statement();
    let sets: Sets = [(EPOCH, (*bench.set).clone())].into();
    assert_eq!(statement.check(&chain(), &sets), Ok(()));
    assert_eq!(statement.author, key(1).public());
    assert_eq!(statement.volume, VolumeId([1; 16]));
    assert_eq!((statement.sealed, statement.ballot), (EPOCH, ballot()));
    assert_eq!((statement.head, statement.governing), (Height(4), EPOCH));
    let lock = statement.lock.clone().unwrap();
    let (hash, bytes) = block(1);
    assert_eq!((lock.block(), lock.round()), (hash, Round(0)));
    assert_eq!(lock.carries, Some(Epoch(1)), "as the block says");
    let last = statement.last_vote.unwrap().vote;
    assert_eq!((last.kind, last.block), (VoteKind::Precommit, Some(hash)));
    let seen: Vec<_> = statement
        .seen
        .iter()
        .map(|v| (v.vote.validator, v.vote.kind))
        .collect();
    let mut expected = vec![
        (key(2).public(), VoteKind::Prevote),
        (key(3).public(), VoteKind::Prevote),
        (key(4).public(), VoteKind::Precommit),
    ];
    expected.sort();
    assert_eq!(seen, expected);

    // Sealed, restarted before and after the seal, with the amnesia check under way or not: the same.
    assert_eq!(bench.restarted(1, 5, &bench.set).statement(), statement);
    assert_eq!(
        bench.restarted(1, 5, &bench.set).answered().statement(),
        statement
    );
    bench.seal(EPOCH.0);
    assert_eq!(bench.statement(), statement);
    let again = bench.restarted(1, 5, &bench.set);
    assert_eq!(again.statement(), statement);
    let lock = again.driver.lock().unwrap();
    assert_eq!(
        lock.bytes,
        Some(bytes),
        "the block is there after the restart"
    );
    assert!(lock.proof.unwrap().verify(&chain(), &bench.set).is_ok());
}

#[test]
fn a_proof_that_came_as_a_whole_is_stated_too() {
    let mut bench = Bench::new(1).answered();
    bench.step(proposal(1));
    bench.checked(1);
    bench.step(message(Payload::Polka(polka())));
    let statement = bench.statement();
    assert_eq!(statement.lock.as_ref().unwrap().block(), block(1).0);
    assert_eq!(bench.restarted(1, 5, &bench.set).statement(), statement);
    bench.seal(EPOCH.0);
    assert_eq!(bench.restarted(1, 5, &bench.set).statement(), statement);
}

#[test]
fn who_has_not_precommitted_states_no_lock() {
    // A prevote is none, a follower's view of others' prevotes is none.
    let mut prevoted = Bench::new(1).answered();
    prevoted.step(proposal(1));
    prevoted.checked(1);
    let mut learner = Bench::new(9);
    learner.step(proposal(1));
    learner.checked(1);
    for voter in [2, 3, 4] {
        learner.step(vote(voter, VoteKind::Prevote, Some(block(1).0)));
    }
    for (bench, voted) in [(&mut prevoted, true), (&mut learner, false)] {
        for sealed in [false, true] {
            if sealed {
                bench.seal(EPOCH.0);
            }
            let statement = bench.statement();
            assert_eq!(statement.lock, None);
            assert_eq!(statement.last_vote.is_some(), voted);
        }
    }
    // A lock of another height than the next is none of this statement's business.
    let bench = Bench::locked();
    let head = StatedHead {
        height: HEIGHT,
        hash: block(1).0,
        certificate: None,
        governing: EPOCH,
    };
    let statement = bench.driver.statement(EPOCH, ballot(), head, |_| None);
    assert_eq!(statement.unwrap().lock, None);
}

#[test]
fn a_log_that_lost_the_proof_or_the_block_states_nothing() {
    let bench = Bench::locked();
    for (lost, keep) in [
        (
            "the block of the lock is missing",
            (|entry| !matches!(entry, LogEntry::Block { .. })) as fn(&LogEntry) -> bool,
        ),
        ("the proof of the lock is missing", |entry| {
            let prevote = |v: &SignedVote| v.vote.kind == VoteKind::Prevote;
            !matches!(entry, LogEntry::Vote(v) if prevote(v) && v.vote.validator != key(1).public())
        }),
    ] {
        let log = bench.log.iter().filter(|record| keep(&record.entry));
        let damaged = Bench {
            driver: Driver::new(config(1)),
            log: log.cloned().collect(),
            set: Arc::clone(&bench.set),
        };
        let again = damaged.restarted(1, 5, &bench.set);
        assert_eq!(again.try_statement(), Err(lost));
    }
}

/// A member's own word that it is sealed.
fn note(author: u8, epoch: u64) -> SealNote {
    let bench = Bench::new(author);
    let mut statement = bench.statement();
    statement.sealed = Epoch(epoch);
    statement.sign(&chain(), &key(author)).seal_note()
}

#[test]
fn a_member_whose_seal_is_known_to_others_only_votes_no_more() {
    for answered in [false, true] {
        let mut bench = Bench::new(1);
        if answered {
            bench = bench.answered();
            bench.step(Input::Work(true));
        }
        // Nobody else can say so in its name.
        for forged in [
            note(2, 3),
            SealNote {
                epoch: Epoch(7),
                ..note(1, 3)
            },
        ] {
            assert!(bench.step(Input::SealSeen(forged)).is_empty());
        }
        assert!(!bench.driver.is_unfit());
        let effects = bench.step(Input::SealSeen(note(1, 3)));
        assert!(
            effects.contains(&Effect::SealLost { epoch: EPOCH }),
            "{effects:?}"
        );
        assert!(bench.driver.is_unfit() && !bench.driver.votes());
        assert_eq!(bench.driver.sealed(), None);
        bench = bench.answered();
        bench.step(proposal(1));
        let mut effects = bench.checked(1);
        for voter in [2, 3, 4] {
            effects.extend(bench.step(vote(voter, VoteKind::Prevote, Some(block(1).0))));
        }
        let sends = |effect: &Effect| matches!(effect, Effect::Broadcast(_));
        assert!(!effects.iter().any(sends), "{effects:?}");
        assert!(
            bench.step(Input::SealSeen(note(1, 3))).is_empty(),
            "told once"
        );
        // The seal says nothing of a later epoch.
        let later = Arc::new(set(4, &[1, 2, 3, 5]));
        bench.step(Input::Begin(start(6, &later)));
        assert!(!bench.driver.is_unfit());
        assert!(bench.driver.votes(), "answered {answered}");
    }
}

#[test]
fn a_member_that_knows_its_seal_is_fit() {
    let mut bench = Bench::new(1).answered();
    bench.seal(EPOCH.0);
    assert!(bench.step(Input::SealSeen(note(1, 3))).is_empty());
    assert!(!bench.driver.is_unfit());
    // A seal of a later epoch than the one in the log was lost.
    let effects = bench.step(Input::SealSeen(note(1, 4)));
    assert!(effects.contains(&Effect::SealLost { epoch: Epoch(4) }));
    assert!(bench.driver.is_unfit());
}

#[test]
fn a_vote_of_its_own_that_it_did_not_sign_is_noticed_by_a_sealed_member() {
    let mut bench = Bench::locked();
    bench.seal(EPOCH.0);
    let own = bench
        .driver
        .statement(
            EPOCH,
            ballot(),
            StatedHead {
                height: Height(4),
                hash: Hash([4; 32]),
                certificate: None,
                governing: EPOCH,
            },
            |_| None,
        )
        .unwrap()
        .last_vote
        .unwrap();
    let echo = bench.step(message(Payload::Vote(own)));
    assert!(
        !echo.iter().any(|e| matches!(e, Effect::Unfit { .. })),
        "{echo:?}"
    );
    let foreign = vote_of(1, HEIGHT, VoteKind::Precommit, None);
    for mut bench in [bench.restarted(1, 5, &bench.set), bench] {
        let effects = bench.step(message(Payload::Vote(foreign)));
        assert!(
            effects.contains(&Effect::Unfit { vote: foreign }),
            "{effects:?}"
        );
        assert!(bench.driver.is_unfit());
    }
}
