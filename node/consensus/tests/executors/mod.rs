//! Validators that execute blocks at different speeds: see `sim/world/executors.rs` and the driver's
//! `checks`.

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    finds,
    sim::{
        faults::{Fault, Plan},
        losses::random_loss,
        random_setup, run, seeds,
        world::{Mutant, Outcome, Setup},
    },
};

const SECOND: u64 = 1_000_000;
/// What a block costs the fastest node: nothing much, or more than a timeout at its cap for one that is
/// twenty times slower.
const BLOCK_COSTS: [u64; 4] = [0, 2_000, 20_000, 100_000];
const TRANSACTION_COSTS: [u64; 4] = [0, 1_000, 10_000, 50_000];
/// A halted chain goes on within this time once a quorum is back, microseconds.
const BACK_WITHIN: u64 = 15 * SECOND;

fn run_or_panic(setup: Setup) -> Outcome {
    let (seed, n) = (setup.seed, setup.n);
    match run(setup) {
        Ok(outcome) => outcome,
        Err((violation, trace)) => {
            if std::env::var("AXOLOTL_SIM_SEED").is_ok() {
                println!("{trace}");
            }
            panic!(
                "n = {n}: {} broken: {}\nreplay with AXOLOTL_SIM_SEED={seed}",
                violation.invariant, violation.what
            );
        }
    }
}

/// Gives each node a speed from x1 to x20, and each block a cost.
fn with_speeds(mut setup: Setup) -> Setup {
    let mut rng = ChaCha8Rng::seed_from_u64(setup.seed ^ 0x5bee_d000);
    let nodes = setup.n + setup.learners;
    setup.plan.speeds = (0..nodes)
        .map(|_| *[1, 1, 1, 3, 8, 20].choose(&mut rng).unwrap())
        .collect();
    setup.plan.block_cost = *BLOCK_COSTS.choose(&mut rng).unwrap();
    setup.plan.transaction_cost = *TRANSACTION_COSTS.choose(&mut rng).unwrap();
    setup.plan.execution = 3_000;
    setup
}

fn speeds(n: usize, byzantine: usize, default: u64) {
    let (mut blocks, mut late, mut not_yet, mut runs) = (0, 0, 0, 0);
    for seed in seeds(default) {
        let outcome = run_or_panic(with_speeds(random_setup(seed, n, byzantine)));
        runs += 1;
        blocks += outcome.height.0;
        late += outcome.late_rounds;
        not_yet += outcome.tally.get("not yet").copied().unwrap_or_default();
    }
    println!(
        "n = {n}, {byzantine} byzantine, {runs} seeds with executors x1 to x20: {blocks} blocks, {late} of \
         them after round 0, {not_yet} executions not ended in time"
    );
}

#[test]
fn four_validators_of_different_speed() {
    speeds(4, 0, 150);
}

#[test]
fn four_validators_of_different_speed_one_liar() {
    speeds(4, 1, 150);
}

#[test]
fn seven_validators_of_different_speed_two_liars() {
    speeds(7, 2, 30);
}

/// Three of four are twenty times slower than the fourth: no quorum without a slow one that executes a
/// block of another.
fn three_slow(seed: u64) -> Setup {
    let mut plan = Plan::quiet(4);
    plan.speeds = vec![1, 20, 20, 20];
    plan.block_cost = 200_000;
    plan.transaction_every = 50_000;
    Setup {
        plan,
        learners: 0,
        ..random_setup(seed, 4, 0)
    }
}

/// An empty block takes the slow ones 4 s, which is more than any timeout of the genesis.
#[test]
fn blocks_slower_than_every_timeout_are_decided() {
    for seed in 0..10 {
        run_or_panic(three_slow(seed));
    }
    let setups = (0..3).map(three_slow);
    finds(Mutant::TimeoutCapped, "progress", setups);
}

/// One of three fast validators dies, often between its prevote and its precommit: the two others are
/// locked, and the slow one, whose vote is needed now, has not executed the block.
fn locked_and_slow(seed: u64) -> Setup {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let from = rng.random_range(500_000..1_500_000);
    let mut plan = Plan::quiet(4);
    plan.speeds = vec![1, 1, 1, 20];
    plan.block_cost = 40_000;
    plan.heal_at = 4 * SECOND;
    plan.events = vec![(from, Fault::CrashAfter(1, rng.random_range(0..15)))];
    Setup {
        plan,
        learners: 0,
        gone: vec![1],
        ..random_setup(seed, 4, 0)
    }
}

#[test]
fn a_locked_block_is_executed_to_its_end() {
    for seed in 0..30 {
        run_or_panic(locked_and_slow(seed));
    }
    finds(
        Mutant::BudgetOnPolka,
        "progress",
        (0..30).map(locked_and_slow),
    );
}

/// Two of four are away for three hours, in which the others go from round to round.
#[test]
fn a_chain_that_was_halted_for_hours_goes_on_within_seconds() {
    for seed in 0..2 {
        let mut plan = Plan::quiet(4);
        plan.heal_at = 3 * 3_600 * SECOND;
        plan.speeds = vec![1, 1, 20, 20];
        plan.block_cost = 20_000;
        plan.transaction_every = plan.heal_at;
        plan.events = vec![(SECOND, Fault::Crash(0)), (SECOND, Fault::Crash(2))];
        let outcome = run_or_panic(Setup {
            plan,
            learners: 0,
            traced: false,
            ..random_setup(seed, 4, 0)
        });
        let took = outcome.recovered_in.expect("a block");
        assert!(
            took < BACK_WITHIN,
            "seed {seed}: {} s until the first block",
            took / SECOND
        );
        println!("seed {seed}: {} ms until the first block", took / 1_000);
    }
}

/// Quorums are lost and recovered by registries while members, among them those under a seal and those
/// that stage a block, execute at different speeds.
#[test]
fn recoveries_with_executors_of_different_speed() {
    for seed in seeds(150) {
        run_or_panic(with_speeds(Setup {
            traced: false,
            ..random_loss(seed)
        }));
    }
}

#[test]
fn a_verdict_kept_across_epochs_is_found() {
    let setups = (0..300).map(|seed| with_speeds(random_loss(seed)));
    finds(Mutant::VerdictKeptAcrossEpochs, "prevote", setups);
}
