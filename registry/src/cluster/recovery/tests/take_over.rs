//! A store that was restored from a copy, or whose registry is lost: what a take-over may do, and must not.

use axolotl_common::{Epoch, EpochRecord, membership::RecordKind, registry_api::RecoverRequest};

use super::world::World;
use crate::cluster::recovery::Refused;

const TAKE_OVER: RecoverRequest = RecoverRequest {
    epoch: Epoch(0),
    accept_data_loss: false,
    take_over: true,
};
const ACCEPT: RecoverRequest = RecoverRequest {
    epoch: Epoch(0),
    accept_data_loss: true,
    take_over: false,
};

/// 1 and 2 of four survive, and have staged a draft together with the learners 5 and 6; whether it was
/// signed is known to nobody here: the registry is lost, and its store is put back from a copy that was
/// made before. 3 and 4 are back.
fn restored() -> (World, EpochRecord) {
    let mut world = World::new(4);
    for _ in 0..30 {
        world.tick();
    }
    let copy = world.memory.clone();
    for (seed, up) in [(3, false), (4, false), (5, true), (6, true)] {
        world.turn(seed, up);
    }
    assert!(world.until(120, |world| world.nodes[&1].staged.is_some()));
    assert!(world.records.is_empty());
    let draft = (*world.nodes[&1].staged.clone().unwrap().draft).clone();
    for (seed, up) in [(1, false), (5, false), (6, false), (3, true), (4, true)] {
        world.turn(seed, up);
    }
    world.restore(copy, 9);
    (world, draft)
}

fn recovered(world: &World) -> bool {
    world.in_force > Epoch(0)
}

#[test]
fn it_does_nothing_by_itself() {
    let (mut world, _) = restored();
    let before = world.writes;
    assert!(!world.until(120, |world| world.writes > before));
    let shown = world.registry.shown().expect("it says why");
    assert!(
        shown.summary.contains("which this store does not know"),
        "{shown:?}"
    );
}

#[test]
fn a_restart_in_the_middle_asks_a_quorum_again() {
    let (mut world, draft) = restored();
    world.tick();
    assert_eq!(world.recover(&TAKE_OVER), Ok(()));
    world.crash = Some((world.writes + 1, false));
    world.tick();
    assert!(world.crashes == 1 && world.memory.ledger.intent.is_some_and(|i| i.sealing));
    // 2, the only one that knows of the draft, is gone: the others could make another one of this number.
    world.turn(2, false);
    for seed in [7, 8] {
        world.turn(seed, true);
    }
    world.restart(10);
    assert!(!world.until(200, recovered));
    let shown = world.registry.shown().expect("it says why");
    assert!(shown.summary.contains("3 must"), "{shown:?}");
    for seed in [1, 2, 5] {
        world.turn(seed, true);
    }
    assert!(world.until(200, recovered), "{:?}", world.registry.shown());
    assert_eq!(world.records[&Epoch(1)].record, draft);
}

#[test]
fn a_quorum_of_the_planned_epoch_must_answer_too() {
    let mut world = World::new(4);
    for _ in 0..30 {
        world.tick();
    }
    world.plan(&[1, 2, 3, 5]);
    let copy = world.memory.clone();
    for (seed, up) in [(3, false), (4, false), (6, true), (7, true)] {
        world.turn(seed, up);
    }
    assert!(world.until(120, |world| world.nodes[&1].staged.is_some()));
    for (seed, up) in [(1, false), (6, false), (3, true), (4, true)] {
        world.turn(seed, up);
    }
    world.restore(copy, 9);
    world.tick();
    // Three of the four in force, and two of the four planned.
    let refused = world.recover(&TAKE_OVER);
    assert!(
        matches!(
            refused,
            Err(Refused::TooFewAnswer {
                have: 2,
                needed: 3,
                ..
            })
        ),
        "{refused:?}"
    );
    world.turn(5, true);
    world.tick();
    assert_eq!(world.recover(&TAKE_OVER), Ok(()));
}

#[test]
fn a_draft_that_cannot_be_carried_out_gives_way_to_a_loss_of_data() {
    let (mut world, _) = restored();
    for seed in [7, 8] {
        world.turn(seed, true);
    }
    world.tick();
    assert_eq!(world.recover(&TAKE_OVER), Ok(()));
    assert!(
        !world.until(100, recovered),
        "1, 5 and 6 would have to stage it"
    );
    assert_eq!(world.recover(&ACCEPT), Ok(()));
    assert!(world.until(200, recovered), "{:?}", world.registry.shown());
    assert_eq!(world.records[&Epoch(1)].record.kind, RecordKind::Forced);
}

#[test]
fn a_quorum_that_lives_ends_it() {
    let (mut world, _) = restored();
    world.tick();
    assert_eq!(world.recover(&TAKE_OVER), Ok(()));
    // 1 comes back from an older state of the world: it never sealed, and three are a quorum.
    let one = world.nodes.get_mut(&1).unwrap();
    (one.sealed, one.staged) = (None, None);
    let two = world.nodes.get_mut(&2).unwrap();
    two.staged = None;
    world.turn(1, true);
    assert!(world.until(200, recovered), "{:?}", world.registry.shown());
    assert!(world.records.is_empty(), "no recovery record");
}
