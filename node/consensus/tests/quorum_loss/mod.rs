//! Quorums that are lost: the real driver with its seal, the real checks, the real machine of the registry.
//! See `sim/losses.rs` for what goes wrong.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::sim::{
    losses::{cut_off_registry, random_loss, sealed_then_down, two_registries_hear_all},
    run, seeds,
    world::{Mutant, Setup, Tally},
};

/// Seeds of the random histories.
const HISTORIES: u64 = 2_000;
/// Seeds of a registry that is cut off from a chain that is well.
const CUT_OFF: u64 = 60;

/// Runs the seeds on all cores and adds up what happened; a failure prints its seed, and the whole
/// trace if it is the only one.
fn run_all(default: u64, setup: impl Fn(u64) -> Setup + Sync) -> (usize, Tally) {
    let seeds = seeds(default);
    let next = AtomicUsize::new(0);
    let whole = Mutex::new(Tally::new());
    let failed = Mutex::new(BTreeMap::new());
    let traced = seeds.len() == 1;
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            match run(Setup {
                traced,
                ..setup(*seed)
            }) {
                Ok(outcome) => {
                    let mut whole = whole.lock().unwrap();
                    for (what, times) in outcome.tally {
                        *whole.entry(what).or_default() += times;
                    }
                }
                Err(failure) => {
                    failed.lock().unwrap().insert(*seed, failure);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    if let Some((seed, (violation, trace))) = failed.first_key_value() {
        if seeds.len() == 1 {
            println!("{trace}");
        }
        panic!(
            "{} of {} seeds fail ({:?}); {} broken: {}\nreplay with AXOLOTL_SIM_SEED={seed}",
            failed.len(),
            seeds.len(),
            failed.keys().take(20).collect::<Vec<_>>(),
            violation.invariant,
            violation.what
        );
    }
    (seeds.len(), whole.into_inner().unwrap())
}

/// What must happen in so many histories, so that they test something.
const MUST_HAPPEN: [&str; 16] = [
    "adopted block in a record",
    "adopted block in force",
    "forced record",
    "given up and healed",
    "loss accepted",
    "lost seal found out",
    "planned record",
    "power lost between two deeds",
    "record after a take-over",
    "recovery record",
    "take-over",
    "too few",
    "volume rolled back",
    "volume wiped",
    "zombie after the record",
    "zombie between seal and record",
];

/// The writes of a registry in a recovery with the fewest survivors of four: intent, sealing, two statements,
/// record. Something must have happened before and after each.
const WRITES: usize = 5;

#[test]
fn lost_quorums_recover_without_a_fork() {
    let (runs, tally) = run_all(HISTORIES, random_loss);
    println!("{runs} seeds: {tally:#?}");
    if (runs as u64) < HISTORIES {
        return;
    }
    let mut wanted: Vec<String> = MUST_HAPPEN.map(str::to_owned).into();
    for write in 1..=WRITES {
        for what in ["registry dies", "second loss"] {
            wanted.extend(["before", "after"].map(|when| format!("{what} {when} write {write}")));
        }
    }
    for n in 2..=10 {
        wanted.extend((0..n).map(|s| format!("{s} of {n} stay")));
    }
    wanted.retain(|what| !tally.contains_key(what));
    assert!(wanted.is_empty(), "no run with: {wanted:?}");
}

#[test]
fn a_registry_that_is_cut_off_seals_nothing() {
    let (runs, tally) = run_all(CUT_OFF, cut_off_registry);
    println!("{runs} seeds: {tally:?}");
    assert!(!tally.contains_key("seal"), "{tally:?}");
}

#[test]
fn a_history_has_one_trace() {
    for seed in 0..6 {
        let setup = || Setup {
            traced: true,
            ..random_loss(seed)
        };
        let trace = || match run(setup()) {
            Ok(outcome) => outcome.trace,
            Err((violation, _)) => panic!("seed {seed}: {violation:?}"),
        };
        assert!(trace() == trace(), "seed {seed}");
    }
}

/// Runs a broken rule until the invariant that guards it breaks.
fn finds(mutant: Mutant, invariant: &str, tries: u64, setup: impl Fn(u64) -> Setup) {
    crate::finds(mutant, invariant, (0..tries).map(setup));
}

/// The same seeds hold without the mutant.
fn holds(tries: u64, setup: impl Fn(u64) -> Setup) {
    for seed in 0..tries {
        if let Err((violation, _)) = run(setup(seed)) {
            panic!("seed {seed}: {violation:?}");
        }
    }
}

#[test]
fn a_seal_that_is_not_durable_is_found() {
    holds(5, sealed_then_down);
    finds(Mutant::SealNotDurable, "seals", 20, sealed_then_down);
}

#[test]
fn a_seal_without_a_look_is_found() {
    finds(Mutant::VetoIgnored, "healthy", CUT_OFF, cut_off_registry);
}

#[test]
fn a_lock_of_the_lowest_round_is_found() {
    finds(Mutant::LowestRoundAdopted, "agreement", 200, random_loss);
}

#[test]
fn a_forgotten_promise_is_found() {
    holds(5, two_registries_hear_all);
    finds(Mutant::FenceIgnored, "records", 20, two_registries_hear_all);
}
