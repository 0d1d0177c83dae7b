//! One history each: every number of survivors, and a crash at every durable step.

use axolotl_common::{
    Epoch, Hash, Height, QuorumRule, membership::RecordKind, recovery::fewest_survivors,
    registry_api::RecoverRequest,
};

use super::world::World;
use crate::cluster::recovery::{Recovery, Refused, Trust};

/// A world that has been whole for a while, and lost all but `s` validators; learners come up.
fn lost(n: u8, s: u8) -> World {
    let mut world = World::new(n);
    for _ in 0..30 {
        world.tick();
    }
    assert_eq!(world.writes, 0, "nothing is done while all live");
    for seed in s + 1..=n {
        world.turn(seed, false);
        world.turn(seed + n, true);
    }
    world
}

#[test]
fn every_number_of_survivors() {
    for n in 2..=10 {
        for s in 0..=n {
            let mut world = lost(n, s);
            let set = world.set();
            let safe = usize::from(s) >= fewest_survivors(&set);
            let lives = usize::from(s) >= set.quorum();
            let recovered = world.until(120, |world| world.in_force > Epoch(0));
            assert_eq!(recovered, safe && !lives, "n = {n}, s = {s}");
            let sealed = world.nodes.values().any(|node| node.sealed.is_some());
            assert_eq!(sealed, recovered, "n = {n}, s = {s}");
            if recovered {
                assert_eq!(world.set().len(), usize::from(n), "never smaller");
            }
        }
    }
}

#[test]
fn a_crash_before_and_after_each_durable_step() {
    let mut whole = lost(4, 2);
    assert!(whole.until(120, |world| world.in_force > Epoch(0)));
    assert!(whole.writes >= 4, "{}", whole.writes);
    for at in 1..=whole.writes {
        for before in [true, false] {
            let mut world = lost(4, 2);
            world.crash = Some((at, before));
            let recovered = world.until(200, |world| world.in_force > Epoch(0));
            assert_eq!(world.crashes, 1);
            // A start that no quorum met goes on only with an intent in its store.
            let opened = at > 1 || !before;
            assert_eq!(recovered, opened, "write {at}, before it: {before}");
            assert_eq!(world.records.len(), usize::from(recovered));
        }
    }
}

#[test]
fn a_loss_at_each_step_waits_for_the_member_and_goes_on() {
    for at in 1..6 {
        let mut world = lost(4, 2);
        assert!(world.until(120, |world| world.writes >= at));
        world.turn(2, false);
        world.until(100, |world| world.in_force > Epoch(0));
        world.turn(2, true);
        assert!(
            world.until(200, |world| world.in_force > Epoch(0)),
            "loss after write {at}: {:?}",
            world.registry.shown()
        );
        assert_eq!(world.records.len(), 1);
    }
}

#[test]
fn who_met_the_registry_as_a_learner_counts_as_a_validator() {
    let mut world = lost(4, 2);
    assert!(world.until(120, |world| world.in_force > Epoch(0)));
    let first = world.in_force;
    // Only the two that joined are left of the four.
    for seed in [1, 2] {
        world.turn(seed, false);
        world.turn(seed + 4, true);
    }
    assert!(
        world.until(120, |world| world.in_force > first),
        "{:?}",
        world.registry.shown()
    );
}

#[test]
fn a_quorum_that_comes_back_is_left_alone_or_healed() {
    // Before the seal nothing happened.
    let mut world = lost(4, 2);
    assert!(world.until(120, |world| world.memory.ledger.intent.is_some()));
    world.turn(3, true);
    assert!(world.until(20, |world| world.memory.ledger.intent.is_none()));
    assert!(world.nodes.values().all(|node| node.sealed.is_none()));
    // With one sealed, three others are a quorum: a planned record heals the one.
    let mut world = lost(4, 2);
    assert!(world.until(120, |world| {
        world.memory.ledger.intent.is_some_and(|i| i.sealing)
    }));
    for seed in [5, 6, 7, 8] {
        world.turn(seed, false);
    }
    world.turn(3, true);
    world.turn(4, true);
    let one = world.nodes.get_mut(&2).unwrap();
    one.sealed = None;
    world.memory.statements.clear();
    world.restart(77);
    assert!(world.until(120, |world| world.in_force > Epoch(0)));
    assert!(
        world.records.is_empty(),
        "no recovery record: {:?}",
        world.records
    );
}

/// An answer may be lost on its way: who is not known to have met this start is told once more.
#[test]
fn a_lost_answer_is_asked_for_again() {
    let mut world = World::new(4);
    world.registry = Recovery::new(world.memory.clone());
    for _ in 0..30 {
        world.tick();
    }
    for (seed, up) in [(3, false), (4, false), (7, true), (8, true)] {
        world.turn(seed, up);
    }
    let recovered = world.until(120, |world| world.in_force > Epoch(0));
    assert!(recovered, "{:?}", world.registry.shown());
}

#[test]
fn a_report_is_shown_until_the_block_comes() {
    let mut world = World::new(4);
    // All are at height 9.
    for (height, shown) in [(9, false), (10, true), (9, true)] {
        world.registry.report(Height(height), world.now);
        world.tick();
        assert_eq!(world.registry.shown().is_some(), shown, "height {height}");
    }
    world.registry.report(Height(10), world.now);
    for _ in 0..80 {
        world.tick();
    }
    assert_eq!(world.registry.shown(), None);
    assert_eq!(world.writes, 0);
}

#[test]
fn a_copy_of_the_store_does_nothing() {
    let mut world = lost(4, 2);
    let copy = world.memory.clone();
    world.restart(8);
    world.tick();
    world.memory = copy;
    world.restart(9);
    assert!(!world.until(120, |world| world.memory.ledger.intent.is_some()));
    let shown = world.registry.shown().expect("it says why");
    assert!(shown.summary.contains("refused"), "{shown:?}");
    let word = RecoverRequest {
        take_over: true,
        ..RecoverRequest::default()
    };
    let refused = world.recover(&word);
    assert!(
        matches!(refused, Err(Refused::TooFewAnswer { have: 2, .. })),
        "{refused:?}"
    );
}

#[test]
fn an_operator_may_accept_a_loss_and_only_then() {
    let word = |epoch| RecoverRequest {
        epoch: Epoch(epoch),
        accept_data_loss: true,
        take_over: false,
    };
    let mut world = lost(4, 2);
    world.tick();
    assert!(matches!(
        world.recover(&word(0)),
        Err(Refused::ConditionHolds { .. })
    ));
    let mut world = lost(4, 3);
    world.tick();
    assert!(matches!(
        world.recover(&word(0)),
        Err(Refused::QuorumLives { .. })
    ));
    let mut world = lost(4, 1);
    world.tick();
    assert!(matches!(
        world.recover(&word(3)),
        Err(Refused::Epoch { .. })
    ));
    assert_eq!(
        world.recover(&RecoverRequest::default()),
        Err(Refused::OneThing)
    );
    assert_eq!(world.recover(&word(0)), Ok(()));
    assert!(
        world.until(120, |world| world.in_force > Epoch(0)),
        "{:?}",
        world.registry.shown()
    );
}

#[test]
fn trust_in_liars_takes_more() {
    let never: Vec<usize> = (1..=10)
        .filter(|n| Trust::Byzantine.never_at(QuorumRule::Byzantine, *n))
        .collect();
    assert_eq!(never, [1, 4, 7, 10]);
}

#[test]
fn the_block_of_the_latest_lock_is_adopted() {
    let (early, late) = (Hash([1; 32]), Hash([2; 32]));
    let mut world = lost(4, 2);
    world.lock(1, 0, early);
    world.lock(2, 1, late);
    assert!(world.until(120, |world| world.in_force > Epoch(0)));
    let record = &world.records[&Epoch(1)].record;
    let handover = record.handover.as_ref().unwrap();
    assert_eq!((record.base_height, handover.base), (Height(1), late));
    assert!(handover.adopted);
}

#[test]
fn trust_says_how_many_must_survive() {
    for (s, by_itself) in [(2, false), (3, true)] {
        let mut world = lost(5, s);
        world.trust = Trust::Byzantine;
        let recovered = world.until(120, |world| world.in_force > Epoch(0));
        assert_eq!(recovered, by_itself, "s = {s}");
        if by_itself {
            continue;
        }
        let sealed = world.nodes.values().any(|node| node.sealed.is_some());
        assert!(!sealed, "nobody seals before an operator's word");
        let word = RecoverRequest {
            accept_data_loss: true,
            ..RecoverRequest::default()
        };
        assert_eq!(world.recover(&word), Ok(()));
        assert!(world.until(120, |world| world.in_force > Epoch(0)));
        // The survivors are enough if they do not lie: nothing is lost by it.
        assert_eq!(world.records[&Epoch(1)].record.kind, RecordKind::Recovery);
    }
}

#[test]
fn a_cloned_store_that_too_few_have_met_does_nothing() {
    let mut world = lost(4, 2);
    let original = world.memory.clone();
    world.restart(9);
    assert!(!world.until(120, |world| world.memory.ledger.intent.is_some()));
    let shown = world.registry.shown().expect("it says why");
    assert!(shown.summary.contains("only 2 of 4"), "{shown:?}");
    // The survivors obey the original no more either: an operator has to say which one lives.
    world.swap(&original);
    assert!(!world.until(120, |world| world.memory.ledger.intent.is_some()));
    let shown = world.registry.shown().expect("it says why");
    assert!(shown.summary.contains("refused"), "{shown:?}");
}

#[test]
fn a_take_over_goes_on_with_what_was_staged() {
    let word = RecoverRequest {
        take_over: true,
        ..RecoverRequest::default()
    };
    // Lost before anything is staged, and after the record is signed and in no one's hands.
    for writes in [3, 5] {
        let mut world = World::new(4);
        let copy = world.memory.clone();
        world.restart(8);
        for _ in 0..30 {
            world.tick();
        }
        for seed in [3, 4] {
            world.turn(seed, false);
            world.turn(seed + 4, true);
        }
        world.crash = Some((writes, false));
        assert!(world.until(120, |world| world.crashes == 1));
        let ballot = world.memory.ledger.newest();
        world.forget_records();
        world.swap(&copy);
        world.restart(9);
        assert!(!world.until(40, |world| world.in_force > Epoch(0)));
        world.turn(3, true);
        for _ in 0..4 {
            world.tick();
        }
        assert_eq!(world.recover(&word), Ok(()));
        assert!(
            world.until(120, |world| world.in_force > Epoch(0)),
            "{:?}",
            world.registry.shown()
        );
        let handover = world.records[&Epoch(1)].record.handover.clone().unwrap();
        assert_eq!(
            Some(handover.ballot) == ballot,
            writes == 5,
            "the same draft"
        );
    }
}

#[test]
fn a_ballot_that_came_after_a_take_over_was_allowed_is_said() {
    let word = RecoverRequest {
        take_over: true,
        ..RecoverRequest::default()
    };
    let mut world = World::new(4);
    let copy = world.memory.clone();
    world.restart(8);
    for _ in 0..30 {
        world.tick();
    }
    for seed in [3, 4] {
        world.turn(seed, false);
    }
    world.turn(7, true);
    world.turn(8, true);
    assert!(world.until(120, |world| world.writes >= 3));
    world.swap(&copy);
    world.restart(9);
    world.turn(3, true);
    world.tick();
    // The first registry is started again, unseen, and answered.
    let mut other = world.memory.starts[0];
    (other.counter, other.id.0) = (3, [255; 16]);
    world.promise(1, other);
    assert_eq!(world.recover(&word), Ok(()));
    world.until(10, |world| world.in_force > Epoch(0));
    let shown = world.registry.shown().expect("it says why");
    assert!(shown.summary.contains("of another registry"), "{shown:?}");
    // The word is given again, now that it is known.
    assert_eq!(world.recover(&word), Ok(()));
    assert!(world.until(120, |world| world.in_force > Epoch(0)));
}

#[test]
fn the_number_of_a_record_is_above_every_sealed_epoch() {
    let mut world = lost(4, 2);
    // It sealed a planned epoch whose record went with another store.
    world.nodes.get_mut(&1).unwrap().sealed = Some(Epoch(5));
    assert!(world.until(120, |world| world.in_force > Epoch(0)));
    assert_eq!(world.in_force, Epoch(6));
}
