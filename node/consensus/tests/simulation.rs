//! The simulator's tests. See `sim/mod.rs`.
//!
//! `AXOLOTL_SIM_SEED` replays one seed of a test and prints its trace; `AXOLOTL_SIM_SEEDS` sets the
//! number of seeds of each.

#![allow(
    clippy::unwrap_used,
    reason = "a harness outside of the test functions: what fails here is a failed test"
)]

mod executors;
mod liars;
mod quorum_loss;
mod sim;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sim::{
    byzantine::ActorKind,
    faults::{Change, Fault, Plan},
    random_setup, run, run_seeds,
    world::{Mutant, Setup},
};

#[test]
fn one_validator() {
    run_seeds(1, 0, 150);
}

#[test]
fn two_validators() {
    run_seeds(2, 0, 250);
}

#[test]
fn three_validators() {
    run_seeds(3, 0, 250);
}

#[test]
fn four_validators() {
    run_seeds(4, 0, 250);
}

#[test]
fn four_validators_one_liar() {
    run_seeds(4, 1, 280);
}

#[test]
fn seven_validators() {
    run_seeds(7, 0, 50);
}

#[test]
fn seven_validators_two_liars() {
    run_seeds(7, 2, 70);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for (seed, n, byzantine) in [(1, 1, 0), (2, 2, 0), (3, 3, 0), (4, 4, 1), (5, 7, 2)] {
        let trace = || match run(random_setup(seed, n, byzantine)) {
            Ok(outcome) => outcome.trace,
            Err((violation, _)) => panic!("seed {seed}: {violation:?}"),
        };
        assert_eq!(trace(), trace(), "seed {seed}, n = {n}");
    }
}

#[test]
fn nothing_goes_wrong_when_nothing_goes_wrong() {
    for n in [1, 2, 3, 4, 7] {
        let setup = Setup {
            plan: Plan::quiet(n),
            learners: 0,
            ..random_setup(1, n, 0)
        };
        match run(setup) {
            Ok(outcome) => {
                assert_eq!(
                    outcome.late_rounds, 0,
                    "n = {n}: a round failed for no reason"
                );
                assert!(outcome.height.0 >= 10, "n = {n}: only {}", outcome.height);
            }
            Err((violation, trace)) => panic!("n = {n}: {violation:?}\n{trace}"),
        }
    }
}

/// A restored backup of one of four validators. It counts as the one that may fail: the others go
/// on, and the amnesia check must find it out before it signs anything twice.
#[test]
fn a_rolled_back_volume_signs_nothing() {
    let mut found = 0;
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let node = rng.random_range(0..4);
        let mut plan = Plan::quiet(4);
        plan.heal_at = 5_000_000;
        plan.events = vec![
            (rng.random_range(200_000..2_000_000), Fault::Snapshot(node)),
            (
                rng.random_range(2_200_000..4_000_000),
                Fault::RollBack(node),
            ),
            (4_100_000, Fault::Restart(node)),
        ];
        let setup = Setup {
            plan,
            learners: 0,
            ..random_setup(seed, 4, 0)
        };
        match run(setup) {
            Ok(outcome) => found += usize::from(outcome.unfit.contains(&node)),
            Err((violation, trace)) => panic!("seed {seed}: {violation:?}\n{trace}"),
        }
    }
    assert!(found >= 55, "only {found} of 60 rollbacks were found out");
}

/// Runs a broken rule over seeds until the invariant that guards it breaks.
///
/// No rule is broken in the shipped code: the harness breaks it around the driver. That the same
/// seeds hold without the mutant is what the other tests show.
fn finds(mutant: Mutant, invariant: &str, setups: impl Iterator<Item = Setup>) {
    let mut tried = 0;
    for setup in setups {
        tried += 1;
        let seed = setup.seed;
        let mutated = Setup {
            mutant: Some(mutant),
            ..setup
        };
        if let Err((violation, _)) = run(mutated)
            && violation.invariant == invariant
        {
            println!("{mutant:?}: seed {seed} of {tried}: {}", violation.what);
            return;
        }
    }
    panic!("{mutant:?}: {tried} seeds, and {invariant} holds in all");
}

/// Every node prevotes for whatever is proposed, although its driver, locked on another block, voted
/// nil. Its votes then differ from its log, so that double signing is not what is looked for. The
/// scheduler lets node 6 decide alone and unheard while 1 and 2 stay without a lock; then 1 proposes. It takes seven nodes, because a node's own driver does not count its lie.
#[test]
fn an_ignored_lock_is_found() {
    let setups = (0..100).map(|seed| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let from = rng.random_range(500_000..1_500_000);
        let starve = Fault::Starve {
            decides: 6,
            unlocked: vec![1, 2],
        };
        let mut plan = Plan::quiet(7);
        plan.heal_at = 5_000_000;
        plan.events = vec![
            (from, starve),
            (from + 700_000, Fault::HealNetwork),
            (from + 700_000, Fault::CutOne(6)),
        ];
        Setup {
            plan,
            learners: 0,
            not_checked: &["double_sign"],
            ..random_setup(seed, 7, 0)
        }
    });
    // The schedule alone forks nothing.
    for setup in setups.clone().take(5) {
        assert!(run(setup).is_ok());
    }
    finds(Mutant::LockIgnored, "agreement", setups);
}

/// The simulated disk takes no notice of a flush: a crash may take any record with it.
#[test]
fn a_log_that_is_not_flushed_is_found() {
    let setups = (0..500).map(|seed| random_setup(seed, 4, 0));
    finds(Mutant::LogNotFlushed, "double_sign", setups);
}

/// One of four validators takes a new set one height late: its votes there are worth nothing, and two
/// sets govern one height. Nothing else goes wrong.
#[test]
fn a_set_that_is_taken_late_is_found() {
    let setups = || {
        (0..20).map(|seed| {
            let mut plan = Plan::quiet(5);
            let change = Change::ALL[seed as usize % 4];
            plan.events = vec![(700_000, Fault::NewEpoch(change))];
            Setup {
                plan,
                learners: 1,
                ..random_setup(seed, 4, 0)
            }
        })
    };
    for setup in setups() {
        let seed = setup.seed;
        match run(setup) {
            Ok(outcome) => assert!(outcome.epochs > 0, "seed {seed}: nothing changed"),
            Err((violation, trace)) => panic!("seed {seed}: {violation:?}\n{trace}"),
        }
    }
    finds(Mutant::SetTakenLate(2), "one_set", setups());
}

/// Changes one after the other, each as soon as the registry wants: swaps, growth, shrinking, the
/// leader out, records that expire.
#[test]
fn many_changes_in_a_row() {
    for seed in 0..15 {
        let mut plan = Plan::quiet(7);
        plan.heal_at = 6_000_000;
        plan.events = (0..10)
            .map(|i| {
                let change = Change::ALL[(seed as usize + i) % Change::ALL.len()];
                (300_000 + 500_000 * i as u64, Fault::NewEpoch(change))
            })
            .collect();
        let setup = Setup {
            plan,
            learners: 3,
            ..random_setup(seed, 4, 0)
        };
        match run(setup) {
            Ok(outcome) => assert!(outcome.epochs >= 5, "seed {seed}: {}", outcome.epochs),
            Err((violation, trace)) => panic!("seed {seed}: {violation:?}\n{trace}"),
        }
    }
}

/// Seven validators get the majority rule, whose quorum is 4 where the byzantine one is 5. Two liars
/// are within what seven must bear, and nothing else goes wrong. Certificates break at once; looked
/// for is the fork.
#[test]
fn a_quorum_minus_one_is_found() {
    let setups = (0..100).map(|seed| {
        let mut plan = Plan::quiet(7);
        plan.actors = [
            (0, ActorKind::EquivocatingProposer),
            (1, ActorKind::EquivocatingVoter),
        ]
        .into();
        Setup {
            plan,
            learners: 0,
            ..random_setup(seed, 7, 0)
        }
    });
    for setup in setups.clone().take(5) {
        assert!(run(setup).is_ok(), "the liars alone fork something");
    }
    let setups = setups.map(|setup| Setup {
        not_checked: &["certificates"],
        ..setup
    });
    finds(Mutant::QuorumMinusOne, "agreement", setups);
}

/// What makes a validator count as one whose votes do not arrive.
const SILENT: std::time::Duration = std::time::Duration::from_secs(8);

/// Twenty seconds in which one of `n` validators is far away, or cannot be heard.
fn twenty_seconds(
    seed: u64,
    n: usize,
    fault: Fault,
    transaction_every: u64,
) -> sim::world::Outcome {
    let mut plan = Plan::quiet(n);
    plan.heal_at = 20_000_000;
    plan.transaction_every = transaction_every;
    plan.events = vec![(500_000, fault)];
    let setup = Setup {
        plan,
        learners: 0,
        traced: false,
        ..random_setup(seed, n, 0)
    };
    match run(setup) {
        Ok(outcome) => outcome,
        Err((violation, _)) => panic!("seed {seed}: {violation:?}"),
    }
}

/// No certificate ever holds its signature, and nobody takes it for silent: under load and idle, at up to
/// twice the time that light takes to the other side of the globe.
#[test]
fn a_far_validator_is_never_taken_for_silent() {
    for seed in 0..2 {
        for (n, one_way, transaction_every) in [
            (4, 60_000, 50_000),
            (4, 250_000, 50_000),
            (4, 250_000, 20_000_000),
            (7, 200_000, 300_000),
        ] {
            let far = n - 1;
            let outcome = twenty_seconds(seed, n, Fault::Far(far, one_way), transaction_every);
            assert!(outcome.height.0 > 5, "{}", outcome.height);
            for ((node, other), longest) in &outcome.missing {
                assert!(
                    *longest < SILENT / 2,
                    "seed {seed}, n = {n}, {one_way} us: {node} missed {other} for {longest:?}"
                );
            }
        }
    }
}

#[test]
fn a_validator_whose_votes_are_lost_is_found_silent_by_all_others_and_nobody_else_is() {
    for seed in 0..2 {
        for (n, transaction_every) in [(4, 50_000), (4, 20_000_000), (7, 300_000)] {
            let lost = n - 1;
            let outcome = twenty_seconds(seed, n, Fault::Voiceless(lost), transaction_every);
            for node in 0..lost {
                let longest = outcome.missing.get(&(node, lost)).copied();
                assert!(
                    longest >= Some(SILENT),
                    "seed {seed}, n = {n}: {node} missed {lost} for {longest:?}"
                );
            }
            for ((node, other), longest) in &outcome.missing {
                assert!(
                    *other == lost || *longest < SILENT,
                    "seed {seed}, n = {n}: {node} missed {other} for {longest:?}"
                );
            }
        }
    }
}
