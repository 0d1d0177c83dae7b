//! The model, exhausted configuration by configuration, and each rule broken on purpose.
//!
//! Each test prints what it went through. `AXOLOTL_MODEL_LARGE=1` takes the wider bounds, which are for
//! long runs: minutes to hours, and several gigabytes.

#![allow(
    clippy::unwrap_used,
    reason = "a test program; clippy knows test functions, but not what they call"
)]

use std::{collections::HashSet, env, time::Instant};

use axolotl_model::{
    Recovery, Step,
    bounds::{self, Bounds},
    properties::{
        AGREEMENT, BLOCK_LOGS_ARE_FINAL, HEALTHY_IS_NOT_SEALED, NO_LOWER_BASE, NOT_IN_VAIN,
        NOTHING_ABOVE_THE_BASE, ONE_RECORD_PER_NUMBER,
    },
    rules::Mutant,
    state::State,
};
use stateright::{Checker, HasDiscoveries, Model, Path, Representative};

/// Depths tried one after the other for a mutant, so that what is shown is short; after the last one
/// there is no limit.
const DEPTHS: [usize; 4] = [9, 13, 17, 22];

fn holds(bounds: Bounds) {
    let bounds = match env::var_os("AXOLOTL_MODEL_LARGE") {
        Some(_) => bounds.large(),
        None => bounds,
    };
    let started = Instant::now();
    let model = Recovery {
        bounds,
        mutant: Mutant::None,
    };
    let checker = model.checker().symmetry().spawn_dfs().join();
    println!(
        "{}: {} states, {} steps, depth {}, {:.1?}",
        bounds.name,
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    assert!(checker.is_done(), "{}: not exhausted", bounds.name);
    checker.assert_properties();
}

/// The shortest history found in which a broken rule breaks a property, and the states met until then.
fn broken(mutant: Mutant, bounds: Bounds) -> (Option<(&'static str, Vec<Step>)>, usize) {
    let model = Recovery { bounds, mutant };
    let mut states = 0;
    for depth in DEPTHS.into_iter().map(Some).chain([None]) {
        let mut builder = model
            .checker()
            .symmetry()
            .finish_when(HasDiscoveries::AnyFailures);
        if let Some(depth) = depth {
            builder = builder.target_max_depth(depth);
        }
        let checker = builder.spawn_dfs().join();
        states += checker.unique_state_count();
        let found = checker
            .discoveries()
            .into_iter()
            .filter(|(name, _)| model.property(name).expectation.discovery_is_failure())
            .min_by_key(|(_, path)| path.clone().into_actions().len());
        if let Some((name, path)) = found {
            return (Some((name, steps(path))), states);
        }
    }
    (None, states)
}

fn steps(path: Path<<Recovery as Model>::State, Step>) -> Vec<Step> {
    path.into_actions()
}

fn is_caught(mutant: Mutant, bounds: Bounds, property: &str) {
    let started = Instant::now();
    let (found, states) = broken(mutant, bounds);
    let Some((name, history)) = found else {
        panic!(
            "{mutant:?} breaks nothing in \"{}\": {states} states",
            bounds.name
        );
    };
    println!(
        "{mutant:?} in \"{}\" breaks \"{name}\" after {states} states, {:.1?}:",
        bounds.name,
        started.elapsed()
    );
    for step in &history {
        println!("    {step:?}");
    }
    assert_eq!(name, property, "caught, but not for its own reason");
}

#[test]
fn seal_and_adoption_keep_what_is_final() {
    holds(bounds::SEAL);
}

#[test]
fn one_member_may_lie_where_the_margin_covers_it() {
    holds(bounds::LIAR);
}

#[test]
fn ballots_and_staging_give_one_record_and_lose_no_block() {
    holds(bounds::STAGING);
}

#[test]
fn two_recoveries_in_a_row_agree() {
    holds(bounds::EPOCHS);
}

#[test]
fn a_planned_record_in_flight_forks_nothing() {
    holds(bounds::PLANNED);
}

#[test]
fn a_restored_registry_is_refused() {
    holds(bounds::RESTORED);
}

#[test]
fn of_two_copies_of_a_registry_one_recovers() {
    holds(bounds::CLONED);
}

#[test]
fn a_take_over_goes_on_with_what_may_be_signed() {
    holds(bounds::TAKE_OVER_OF_4);
}

#[test]
fn a_take_over_of_five_needs_four() {
    holds(bounds::TAKE_OVER_OF_5);
}

#[test]
fn a_take_over_that_starts_anew_asks_anew() {
    holds(bounds::TAKE_OVER_TWICE);
}

#[test]
fn a_take_over_asks_the_planned_epoch_too() {
    holds(bounds::TAKE_OVER_PLANNED);
}

#[test]
fn a_healthy_chain_is_not_sealed_and_nobody_seals_in_vain() {
    holds(bounds::VETO);
}

/// Every state reached without taking any together must have its representative among those that the
/// checker went through.
fn symmetry_hides_nothing(bounds: Bounds) {
    let model = Recovery {
        bounds,
        mutant: Mutant::None,
    };
    let mut all: HashSet<State> = model.init_states().into_iter().collect();
    let mut waiting: Vec<State> = all.iter().cloned().collect();
    while let Some(state) = waiting.pop() {
        for next in model.next_states(&state) {
            if all.insert(next.clone()) {
                waiting.push(next);
            }
        }
    }
    let representatives: HashSet<State> = all.iter().map(Representative::representative).collect();
    let checker = model.checker().symmetry().spawn_dfs().join();
    println!(
        "{}: {} states, {} representatives",
        bounds.name,
        all.len(),
        representatives.len()
    );
    assert_eq!(checker.unique_state_count(), representatives.len());
    assert!(representatives.len() * 4 < all.len());
}

#[test]
fn states_taken_together_have_the_same_future() {
    symmetry_hides_nothing(bounds::LIAR);
    symmetry_hides_nothing(bounds::RESTORED);
}

macro_rules! mutants {
    ($($test:ident: $mutant:ident, $bounds:ident, $property:ident;)*) => {
        $(
            #[test]
            fn $test() {
                is_caught(Mutant::$mutant, bounds::$bounds, $property);
            }
        )*
    };
}

mutants! {
    a_condition_weakened_by_one_is_caught: WeakCondition, SEAL, NOTHING_ABOVE_THE_BASE;
    a_liar_under_the_condition_of_crashes_is_caught: LiarsTrusted, LIAR, NOTHING_ABOVE_THE_BASE;
    a_leaking_seal_is_caught: LeakingSeal, SEAL, NOTHING_ABOVE_THE_BASE;
    a_seal_that_is_not_durable_is_caught: SealNotDurable, SEAL, NOTHING_ABOVE_THE_BASE;
    a_lock_that_is_not_durable_is_caught: LockNotDurable, SEAL, NOTHING_ABOVE_THE_BASE;
    the_lowest_round_adopted_is_caught: LowestRound, SEAL, AGREEMENT;
    a_wiped_volume_that_votes_is_caught: WipedVotes, SEAL, NOTHING_ABOVE_THE_BASE;
    a_wiped_volume_that_counts_is_caught: WipedCounts, SEAL, NOTHING_ABOVE_THE_BASE;
    a_statement_older_than_what_others_saw_is_caught: StaleStatement, SEAL, NOTHING_ABOVE_THE_BASE;
    a_check_that_does_not_ask_for_seals_is_caught: SealsNotAsked, SEAL, NOTHING_ABOVE_THE_BASE;
    locks_compared_across_epochs_are_caught: LocksAcrossEpochs, EPOCHS, AGREEMENT;
    a_planned_record_ignored_is_caught: PlannedIgnored, PLANNED, NOTHING_ABOVE_THE_BASE;
    a_record_before_its_staging_is_caught: RecordBeforeStaging, STAGING, NO_LOWER_BASE;
    a_staging_that_is_not_durable_is_caught: StagingNotDurable, STAGING, NO_LOWER_BASE;
    idle_members_that_count_for_the_new_quorum_are_caught: IdleMembersCount, STAGING, NO_LOWER_BASE;
    idle_members_that_count_in_the_dry_run_are_caught: IdleMembersCount, VETO, NOT_IN_VAIN;
    no_ballots_are_caught: NoBallots, STAGING, NO_LOWER_BASE;
    a_staged_block_in_the_block_log_is_caught: StagedInBlockLog, STAGING, BLOCK_LOGS_ARE_FINAL;
    a_record_that_leaves_before_it_is_durable_is_caught: RecordNotDurable, STAGING, ONE_RECORD_PER_NUMBER;
    an_old_ballot_signed_is_caught: OldBallotSigned, STAGING, NO_LOWER_BASE;
    acknowledgements_of_learners_alone_are_caught: AcksOfLearners, TAKE_OVER_OF_4, ONE_RECORD_PER_NUMBER;
    a_take_over_that_begins_anew_is_caught: TakeOverAnew, TAKE_OVER_OF_4, ONE_RECORD_PER_NUMBER;
    a_take_over_by_majority_is_caught: TakeOverByMajority, TAKE_OVER_OF_5, ONE_RECORD_PER_NUMBER;
    a_take_over_of_one_epoch_is_caught: TakeOverOfOneEpoch, TAKE_OVER_PLANNED, ONE_RECORD_PER_NUMBER;
    a_take_over_that_asks_once_is_caught: TakeOverOnce, TAKE_OVER_TWICE, ONE_RECORD_PER_NUMBER;
    starts_compared_by_counter_are_caught: CounterCompared, RESTORED, ONE_RECORD_PER_NUMBER;
    a_start_that_too_few_have_met_is_caught: UnmetStart, CLONED, ONE_RECORD_PER_NUMBER;
    a_node_without_veto_is_caught: NoVeto, VETO, HEALTHY_IS_NOT_SEALED;
}
