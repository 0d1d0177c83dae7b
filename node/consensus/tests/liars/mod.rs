//! Proposers that lie, one of four validators: the others go on, at a bounded cost, and the liar is found.
//! See `sim/byzantine` and the driver's `checks`.
//!
//! That no node executes more than one block of a round that only its proposer stands behind, and no
//! bytes that are not the signed block, is checked in every run of the simulator.

use std::collections::BTreeSet;

use crate::{
    finds,
    sim::{
        byzantine::ActorKind,
        faults::Plan,
        random_setup, run,
        world::{Mutant, Outcome, Setup},
    },
};

const SECOND: u64 = 1_000_000;
const SEEDS: u64 = 8;
/// The turn passes on every few blocks, so that each validator leads now and then.
const TERM: u64 = 3;
/// Blocks that four validators decide at least in [`LASTS`] with a liar among them.
const BLOCKS: u64 = 20;
const LASTS: u64 = 15 * SECOND;

/// One of four lies, and nothing else goes wrong.
fn one_liar(seed: u64, kind: ActorKind) -> Setup {
    let mut plan = Plan::quiet(4);
    plan.heal_at = LASTS;
    plan.actors = [(liar(seed), kind)].into();
    Setup {
        plan,
        learners: 0,
        term: TERM,
        ..random_setup(seed, 4, 0)
    }
}

fn liar(seed: u64) -> usize {
    usize::try_from(seed % 4).unwrap()
}

/// Runs the seeds; the liar is found at `fault` by every honest node, nobody else is found at anything.
fn four_go_on(kind: ActorKind, fault: Option<&'static str>, look: impl Fn(&Outcome)) {
    for seed in 0..SEEDS {
        let outcome = match run(one_liar(seed, kind)) {
            Ok(outcome) => outcome,
            Err((violation, trace)) => panic!("{kind:?}, seed {seed}: {violation:?}\n{trace}"),
        };
        let liar = liar(seed);
        assert!(
            outcome.height.0 >= BLOCKS,
            "{kind:?}, seed {seed}: {} blocks",
            outcome.height
        );
        let accused: Vec<_> = outcome.shown.keys().copied().collect();
        let expected: Vec<_> = fault.map(|_| liar).into_iter().collect();
        assert_eq!(accused, expected, "{kind:?}, seed {seed}");
        if let Some(fault) = fault {
            let honest: BTreeSet<_> = (0..4).filter(|node| *node != liar).collect();
            let by = outcome.shown[&liar].get(fault);
            assert_eq!(by, Some(&honest), "{kind:?}, seed {seed}: {fault}");
        }
        look(&outcome);
    }
}

fn count(outcome: &Outcome, what: &str) -> usize {
    outcome.tally.get(what).copied().unwrap_or_default()
}

#[test]
fn slow_bodies_cost_their_round_and_are_shown() {
    four_go_on(ActorKind::SlowBodies, Some("not_in_time"), |_| {});
    let setups = (0..SEEDS).map(|seed| one_liar(seed, ActorKind::SlowBodies));
    finds(Mutant::ChecksWithoutEnd, "progress", setups);
}

#[test]
fn of_many_bodies_in_a_round_one_is_executed() {
    four_go_on(ActorKind::ManyBodies, Some("equivocates"), |_| {});
    let setups = (0..SEEDS).map(|seed| one_liar(seed, ActorKind::ManyBodies));
    finds(Mutant::EverySignedBlockExecuted, "executions", setups);
}

#[test]
fn swapped_bodies_are_rejected_and_blamed_on_no_proposer() {
    four_go_on(ActorKind::SwappedBodies, None, |outcome| {
        assert!(count(outcome, "rejected: block is not the proposed one") > 0);
    });
}

#[test]
fn withheld_bodies_cost_their_round() {
    four_go_on(ActorKind::WithholdingBodies, None, |outcome| {
        assert!(count(outcome, "rejected: block is malformed") > 0);
    });
}

#[test]
fn wrong_headers_are_found_invalid() {
    four_go_on(ActorKind::WrongHeaders, Some("invalid"), |_| {});
}
