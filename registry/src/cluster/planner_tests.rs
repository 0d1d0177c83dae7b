//! The planner against a small world: nodes that crash, are stopped, fall silent and come back, a runtime
//! that fails, a chain that finalises records while its quorum votes. Whatever happens, the rules on
//! the page of `planner` hold, and when nothing fails any more the wanted state comes about.

#[path = "planner_tests/world.rs"]
mod world;

use axolotl_common::{NodeId, QuorumRule};
use proptest::prelude::*;

use self::world::{Life, World};
use super::super::{
    instance::Origin,
    planner::{Action, Plan, may_leave, plan},
    survey::{Condition, NEWS_PATIENCE, Stage},
};

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Crash(usize),
    Stop(usize),
    Silence(usize),
    Back(usize),
    Scale(usize),
    Break,
    Mend,
    Deafen,
    Hear,
    Wait(u8),
}

fn events(max: usize) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..12usize).prop_map(Event::Crash),
        3 => (0..12usize).prop_map(Event::Stop),
        2 => (0..12usize).prop_map(Event::Silence),
        3 => (0..12usize).prop_map(Event::Back),
        2 => (1..=max).prop_map(Event::Scale),
        1 => Just(Event::Break),
        2 => Just(Event::Mend),
        1 => Just(Event::Deafen),
        2 => Just(Event::Hear),
        8 => (1..120u8).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 1..40)
}

fn happen(world: &mut World, event: &Event) -> Result<(), TestCaseError> {
    let now = world.now;
    let numbers: Vec<u64> = world.nodes.keys().copied().collect();
    let pick = |place: &usize| numbers.get(place % numbers.len().max(1)).copied();
    let node = match event {
        Event::Crash(place) | Event::Stop(place) | Event::Silence(place) | Event::Back(place) => {
            pick(place).and_then(|number| world.nodes.get_mut(&number))
        }
        _ => None,
    };
    match (event, node) {
        (Event::Crash(_), Some(node)) if matches!(node.life, Life::Running { .. }) => {
            node.life = Life::Crashed { at: now };
            node.crashes += 1;
            world.failures += 1;
        }
        (Event::Stop(_), Some(node)) if matches!(node.life, Life::Running { .. }) => {
            node.life = Life::Stopped { at: now };
            world.last_stop = Some(now);
            world.failures += 1;
        }
        (Event::Silence(_), Some(node)) if matches!(node.life, Life::Running { .. }) => {
            node.life = Life::Silent { at: now };
            world.failures += 1;
        }
        (Event::Back(_), Some(node)) if !matches!(node.life, Life::Running { .. }) => {
            node.life = Life::Running { since: now };
        }
        (Event::Scale(target), _) => world.target = *target,
        (Event::Break, _) => world.broken = true,
        (Event::Mend, _) => world.broken = false,
        (Event::Deafen, _) => world.deaf = true,
        (Event::Hear, _) => world.deaf = false,
        (Event::Wait(steps), _) => {
            for _ in 0..*steps {
                world.pass()?;
                world.elapse();
            }
        }
        _ => {}
    }
    world.pass()
}

/// What fell silent speaks, and an operator starts what the quorum lacks.
fn operate(world: &mut World) {
    let set = world.set.clone();
    for (number, node) in &mut world.nodes {
        let lacking = set.contains(number) && matches!(node.life, Life::Stopped { .. });
        if matches!(node.life, Life::Silent { .. }) || lacking {
            node.life = Life::Running { since: world.now };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold_and_it_heals(
        n in 1..=7u64,
        given in any::<bool>(),
        history in events(10),
    ) {
        let mut world = World::new(n, 10, given);
        for event in &history {
            happen(&mut world, event)?;
        }
        // All faults end.
        (world.broken, world.deaf) = (false, false);
        for node in world.nodes.values_mut() {
            node.crashes = 0;
        }
        operate(&mut world);
        // Members that are gone for good are replaced while a quorum lives; beyond that it takes recovery.
        let set = world.set.clone();
        let present = set.iter().filter(|number| world.nodes.contains_key(number)).count();
        prop_assume!(present >= QuorumRule::Byzantine.quorum(set.len()));
        let mut quiet = 0;
        for _ in 0..2_000 {
            world.pass()?;
            world.elapse();
            // A record in flight may have named one that was stopped meanwhile.
            operate(&mut world);
            quiet = if world.is_whole() { quiet + 1 } else { 0 };
            if quiet > 100 {
                break;
            }
        }
        prop_assert!(world.is_whole(), "after {history:?}: set {:?}, target {}, {:?}, {:?}",
            world.set, world.target, world.nodes, plan(&world.survey(), world.now));
        let own = world.nodes.iter().filter(|(number, node)| {
            node.origin == Origin::Registry && !world.set.contains(number)
        });
        prop_assert_eq!(own.count(), 0, "left over: {:?}, set {:?}", world.nodes, world.set);
    }

    #[test]
    fn one_failure_is_given_one_replacement(n in 4..=9u64, victim in 0..9usize, how in 0..3u8) {
        let mut world = World::new(n, 10, true);
        let event = match how {
            0 => Event::Stop(victim % n as usize),
            1 => Event::Silence(victim % n as usize),
            // Three crashes: the first two are only started again.
            _ => Event::Crash(victim % n as usize),
        };
        for _ in 0..if how == 2 { 3 } else { 1 } {
            happen(&mut world, &event)?;
            happen(&mut world, &Event::Wait(8))?;
        }
        happen(&mut world, &Event::Wait(200))?;
        prop_assert_eq!(world.spawned, 1, "{:?}", world.nodes);
        prop_assert!(world.is_whole(), "{:?}", world.nodes);
        prop_assert!(world.set.contains(&(n + 1)));
    }
}

#[test]
fn everything_stopped_spawns_nothing() {
    let mut world = World::new(4, 10, true);
    for place in 0..4 {
        happen(&mut world, &Event::Stop(place)).unwrap();
        happen(&mut world, &Event::Wait(4)).unwrap();
    }
    happen(&mut world, &Event::Wait(200)).unwrap();
    assert_eq!(world.spawned, 0, "{:?}", world.nodes);
}

#[test]
fn a_standby_that_is_there_is_used_before_another_is_spawned() {
    let mut world = World::new(4, 10, true);
    happen(&mut world, &Event::Stop(1)).unwrap();
    happen(&mut world, &Event::Wait(40)).unwrap();
    assert_eq!((world.spawned, world.set.contains(&5)), (1, true));
    // node2 comes back and waits.
    happen(&mut world, &Event::Back(1)).unwrap();
    happen(&mut world, &Event::Wait(200)).unwrap();
    assert!(world.nodes.contains_key(&2), "it is the compose file's");
    happen(&mut world, &Event::Stop(2)).unwrap();
    happen(&mut world, &Event::Wait(40)).unwrap();
    assert_eq!(
        (world.spawned, world.set.contains(&2)),
        (1, true),
        "{:?}",
        world.set
    );
}

#[test]
fn a_lost_quorum_signs_nothing_and_readies_replacements() {
    let mut world = World::new(4, 10, true);
    happen(&mut world, &Event::Stop(1)).unwrap();
    happen(&mut world, &Event::Stop(2)).unwrap();
    happen(&mut world, &Event::Wait(100)).unwrap();
    assert_eq!((world.spawned, world.pending.is_none()), (2, true));
    let lines = plan(&world.survey(), world.now).lines;
    assert!(
        lines.iter().any(|line| line
            .contains("2 of 4 present validators vote, as heard lately; 3 must")
            || line.contains("would vote")),
        "{lines:?}"
    );
    // One of them comes back: the quorum of the old epoch gives its seat away.
    happen(&mut world, &Event::Back(1)).unwrap();
    happen(&mut world, &Event::Wait(100)).unwrap();
    assert!(world.is_whole(), "{:?}", world.set);
}

#[test]
fn no_change_is_signed_on_old_news() {
    let mut world = World::new(4, 10, true);
    happen(&mut world, &Event::Stop(3)).unwrap();
    while !matches!(world.survey().candidates.first(), Some(one) if one.stage == Stage::Ready) {
        world.pass().unwrap();
        world.elapse();
    }
    let proposes = |plan: &Plan| {
        let of_change = |action: &Action| matches!(action, Action::Propose { .. });
        plan.actions.iter().any(of_change)
    };
    // node3 may be silent as well: it is not known yet.
    let mut survey = world.survey();
    let planned = plan(&survey, world.now);
    assert!(proposes(&planned), "{planned:?}");
    survey.seats[2].lately = false;
    let planned = plan(&survey, world.now);
    assert!(!proposes(&planned), "{planned:?}");
    let words = "2 of 4 present validators vote, as heard lately; 3 must finalise the change";
    assert!(
        planned.lines.iter().any(|line| line.contains(words)),
        "{planned:?}"
    );
    assert_eq!(planned.next, Some(world.now + NEWS_PATIENCE));
}

#[test]
fn nothing_is_removed_before_a_recovered_epoch_has_a_block() {
    let world = World::new(4, 10, true);
    let mut survey = world.survey();
    let place = survey.places.first_mut().unwrap();
    (place.origin, place.member) = (Origin::Registry, false);
    place.removing = Some("silent".to_owned());
    for keeps_volumes in [true, false] {
        survey.keeps_volumes = keeps_volumes;
        let plan = plan(&survey, world.now);
        let removes = |action: &Action| matches!(action, Action::Remove { .. });
        assert_eq!(plan.actions.iter().any(removes), !keeps_volumes, "{plan:?}");
        assert!(!keeps_volumes || plan.next.is_some(), "it is looked again");
    }
}

#[test]
fn scaling_goes_one_by_one_and_keeps_the_leader() {
    let mut world = World::new(4, 10, true);
    for target in [5, 7, 4] {
        happen(&mut world, &Event::Scale(target)).unwrap();
        happen(&mut world, &Event::Wait(240)).unwrap();
        happen(&mut world, &Event::Wait(240)).unwrap();
        assert!(world.is_whole(), "{target}: {:?}", world.set);
        assert!(world.set.contains(&1), "{:?}", world.set);
    }
    assert_eq!((world.raised, world.spawned), (3, 3));
    assert_eq!(
        world.nodes.keys().copied().collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
}

#[test]
fn a_raise_waits_until_nobody_is_failed() {
    let mut world = World::new(4, 10, true);
    world.broken = true;
    happen(&mut world, &Event::Stop(1)).unwrap();
    happen(&mut world, &Event::Scale(6)).unwrap();
    happen(&mut world, &Event::Wait(40)).unwrap();
    let planned = plan(&world.survey(), world.now);
    assert!(
        planned
            .lines
            .iter()
            .any(|line| line.contains("once nobody is failed")),
        "{planned:?}"
    );
    assert_eq!((world.set.len(), world.spawned), (4, 1));
    world.broken = false;
    happen(&mut world, &Event::Wait(120)).unwrap();
    assert!(world.is_whole(), "{:?}", world.set);
}

#[test]
fn leaving_is_refused_with_the_numbers() {
    let world = World::new(4, 10, true);
    let mut survey = world.survey();
    assert_eq!(may_leave(&survey, &NodeId::numbered(2)), Ok(()));
    survey.runs_nodes = false;
    survey.rules.min_nodes = 4;
    let why = may_leave(&survey, &NodeId::numbered(2)).unwrap_err();
    assert!(why.contains("3 validators would be left"), "{why}");
    survey.rules.min_nodes = 2;
    assert_eq!(may_leave(&survey, &NodeId::numbered(2)), Ok(()));
    for seat in &mut survey.seats[2..] {
        seat.condition = Condition::Waiting {
            why: "silent".into(),
            until: None,
        };
    }
    let why = may_leave(&survey, &NodeId::numbered(2)).unwrap_err();
    assert!(why.contains("2 of 4 validators vote, 3 must"), "{why}");
}
