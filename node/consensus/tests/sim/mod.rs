//! A seeded simulator that runs the real driver.
//!
//! Everything that can differ between two runs comes from one seed: the faults, the network, the
//! liars, the clocks. Each run has a time of faults, then all of them are lifted and every
//! honest node must add blocks again. A failure prints the seed that replays it.

pub(crate) mod byzantine;
pub(crate) mod disk;
pub(crate) mod faults;
pub(crate) mod invariants;
pub(crate) mod ledger;
pub(crate) mod losses;
pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod registry;
pub(crate) mod staging;
pub(crate) mod task;
pub(crate) mod world;

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use self::{
    faults::Plan,
    invariants::Violation,
    world::{Outcome, Setup, World},
};

/// A run of `n` validators, `byzantine` of them liars, with everything else drawn from the seed.
pub(crate) fn random_setup(seed: u64, n: usize, byzantine: usize) -> Setup {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x00a1_0107);
    let learners = *[0, 0, 1, 1, 2, 3].choose(&mut rng).unwrap();
    let plan = Plan::random(&mut rng, n, n + learners, byzantine);
    Setup {
        seed,
        n,
        learners,
        plan,
        mutant: None,
        not_checked: &[],
        term: if rng.random_bool(0.3) { 5 } else { 1_000 },
        loss: None,
        gone: Vec::new(),
        traced: true,
    }
}

pub(crate) fn run(setup: Setup) -> Result<Outcome, (Violation, String)> {
    World::new(setup).run()
}

/// Seeds of one test: `AXOLOTL_SIM_SEED` runs that one only, `AXOLOTL_SIM_SEEDS` sets how many.
pub(crate) fn seeds(default: u64) -> Vec<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    match number("AXOLOTL_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("AXOLOTL_SIM_SEEDS").unwrap_or(default)).collect(),
    }
}

/// Runs the seeds of a test; a failure prints the seed, and the whole trace if it is the only one.
pub(crate) fn run_seeds(n: usize, byzantine: usize, default: u64) {
    let seeds = seeds(default);
    let (mut blocks, mut late, mut caught, mut changed) = (0, 0, 0, 0);
    for seed in &seeds {
        match run(random_setup(*seed, n, byzantine)) {
            Ok(outcome) => {
                blocks += outcome.height.0;
                late += outcome.late_rounds;
                caught += outcome.misbehaviours;
                changed += usize::from(outcome.epochs > 0);
            }
            Err((violation, trace)) => {
                if seeds.len() == 1 {
                    println!("{trace}");
                }
                panic!(
                    "n = {n}, {byzantine} byzantine: {} broken: {}\n\
                     replay with AXOLOTL_SIM_SEED={seed}",
                    violation.invariant, violation.what
                );
            }
        }
    }
    println!(
        "n = {n}, {byzantine} byzantine, {} seeds: {blocks} blocks, {late} of them after round 0, \
         {caught} misbehaviours seen, validators changed in {changed} runs",
        seeds.len()
    );
    // One run says nothing; over many the changes must come about, not only be tried.
    assert!(
        seeds.len() < 50 || 4 * changed >= seeds.len(),
        "the validators changed in {changed} of {} runs only",
        seeds.len()
    );
}
