//! The rules of recovery as functions, each beside the mutants that break it.
//!
//! The model calls nothing else when it decides whether a node or the registry may take a step, so a
//! mutant is one rule changed in one place.

use axolotl_common::QuorumRule;

use crate::state::{Lock, Value};

/// One rule, broken on purpose. `None` is the design as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Nothing is broken.
    None,
    /// `s + q > n` weakened by one.
    WeakCondition,
    /// The condition of crashes where a member may lie.
    LiarsTrusted,
    /// A sealed node still precommits.
    LeakingSeal,
    /// The seal is answered before it is on disk, and forgotten in a crash.
    SealNotDurable,
    /// A precommit leaves before its lock is on disk.
    LockNotDurable,
    /// The lock of the lowest round is adopted.
    LowestRound,
    /// The rounds of locks of different epochs are compared with each other.
    LocksAcrossEpochs,
    /// Only the epoch in force must be sealed, whatever record the adopted block carries.
    PlannedIgnored,
    /// A member whose volume was wiped votes on in the old epoch.
    WipedVotes,
    /// A member whose volume was wiped seals, and counts as a survivor.
    WipedCounts,
    /// The check of a restarted member asks the others for its votes only, not for its seals.
    SealsNotAsked,
    /// A statement older than what others saw of its author counts.
    StaleStatement,
    /// The record is signed before anybody has acknowledged the draft.
    RecordBeforeStaging,
    /// The staging record is not on disk before it is acknowledged.
    StagingNotDurable,
    /// Members of the new set that have acknowledged nothing count for its quorum, and unsealed old
    /// members count as live in the dry run.
    IdleMembersCount,
    /// A quorum of the new set is enough, however few of the old members are in it.
    AcksOfLearners,
    /// Nodes take orders of a ballot below one that they have answered.
    NoBallots,
    /// What is staged goes into the block log at once, and stays there.
    StagedInBlockLog,
    /// A process whose store is under a newer ballot signs what was acknowledged under its own.
    OldBallotSigned,
    /// The record leaves the registry before it is on disk.
    RecordNotDurable,
    /// A take-over at `2s > n`.
    TakeOverByMajority,
    /// A take-over that does not go on with what was staged before.
    TakeOverAnew,
    /// A take-over that needs no quorum of a planned epoch in flight.
    TakeOverOfOneEpoch,
    /// A take-over that was let go on once, and after its restart needs as few members as any recovery.
    TakeOverOnce,
    /// Starts of the registry are compared by their counter, not by the list of starts.
    CounterCompared,
    /// A start that fewer than a quorum of members have met recovers.
    UnmetStart,
    /// No veto: a node seals although it reaches a quorum of unsealed members.
    NoVeto,
}

/// Votes that finalise a block, or acknowledge a draft, among `n`.
pub const fn quorum(n: usize) -> usize {
    QuorumRule::Byzantine.quorum(n)
}

/// Fewest members that share one with every quorum: `n - q + 1`.
pub const fn fewest_survivors(n: usize) -> usize {
    n - quorum(n) + 1
}

/// Whether `s` sealed members of `n` know of everything that their epoch ever finalises, though `liars`
/// of them may lie: `s + q > n + liars`.
pub const fn condition_holds(mutant: Mutant, s: usize, n: usize, liars: usize) -> bool {
    match mutant {
        Mutant::WeakCondition => s + quorum(n) >= n + liars,
        Mutant::LiarsTrusted => s + quorum(n) > n,
        _ => s + quorum(n) > n + liars,
    }
}

/// Whether the core of `epoch` still takes input on a node that sealed `sealed` epochs (1 is epoch 0
/// alone, 2 both).
pub fn core_is_open(mutant: Mutant, sealed: u8, epoch: u8) -> bool {
    sealed <= epoch || mutant == Mutant::LeakingSeal
}

/// Whether a node does not seal, for a chain that is alive: it reaches `unsealed` members of `n` that
/// are not sealed, itself included.
pub fn seal_is_vetoed(mutant: Mutant, unsealed: usize, n: usize) -> bool {
    unsealed >= quorum(n) && mutant != Mutant::NoVeto
}

/// Whether the dry run lets anybody seal: the condition holds for the members reached, and they reach
/// the new set's quorum together with the synced learners.
pub fn dry_run_passes(
    mutant: Mutant,
    reached: usize,
    unreached: usize,
    learners: usize,
    n: usize,
) -> bool {
    let idle = match mutant {
        Mutant::IdleMembersCount => unreached,
        _ => 0,
    };
    condition_holds(mutant, reached, n, 0) && reached + learners + idle >= quorum(n)
}

/// Whether a member votes, given what happened to its volume: wiped, it has another volume than the
/// record names; rolled back, the others hold votes or a seal of it that its disk lacks.
pub fn volume_votes(mutant: Mutant, wiped: bool, votes_lost: bool, seal_lost: bool) -> bool {
    (!wiped || mutant == Mutant::WipedVotes)
        && !votes_lost
        && (!seal_lost || mutant == Mutant::SealsNotAsked)
}

/// Whether a member with that volume answers a seal request.
pub fn volume_seals(mutant: Mutant, wiped: bool) -> bool {
    !wiped || mutant == Mutant::WipedCounts
}

/// Whether a statement is used, given that others saw votes of its author that it does not own to.
pub fn statement_counts(mutant: Mutant, stale: bool) -> bool {
    !stale || mutant == Mutant::StaleStatement
}

/// The lock that is adopted for a height of `epoch`.
///
/// Rounds mean something only inside one epoch: locks of another are passed over.
pub fn adopted(mutant: Mutant, epoch: u8, locks: impl Iterator<Item = Lock>) -> Option<Value> {
    let comparable =
        locks.filter(|lock| lock.epoch == epoch || mutant == Mutant::LocksAcrossEpochs);
    let chosen = match mutant {
        Mutant::LowestRound => comparable.min_by_key(|lock| lock.round),
        _ => comparable.max_by_key(|lock| lock.round),
    };
    chosen.map(|lock| lock.value)
}

/// Whether the members of a planned record in flight must be sealed as well.
pub fn planned_epoch_is_sealed_too(mutant: Mutant) -> bool {
    mutant != Mutant::PlannedIgnored
}

/// Whether a node takes an order of `ballot` after it has answered `promised`.
pub fn takes_order(mutant: Mutant, promised: u8, ballot: u8) -> bool {
    ballot >= promised || mutant == Mutant::NoBallots
}

/// Who has acknowledged a draft.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Members of the new set that have.
    pub new_members: usize,
    /// Members of the new set that have not.
    pub idle_members: usize,
    /// Members of the old set that have.
    pub old_members: usize,
}

/// Whether the record may be signed: a quorum of the new set holds the draft, so a loss in the new
/// epoch leaves one that does, and so do enough old members that every take-over meets one of them.
pub fn may_sign(mutant: Mutant, by: Acknowledged, n: usize) -> bool {
    let live = match mutant {
        Mutant::RecordBeforeStaging => return true,
        Mutant::IdleMembersCount => by.new_members + by.idle_members,
        _ => by.new_members,
    };
    let old = by.old_members >= fewest_survivors(n) || mutant == Mutant::AcksOfLearners;
    live >= quorum(n) && old
}

/// Whether a draft of `ballot` may be signed when the store's newest ballot is `current`: the two are
/// compared in the transaction that writes the record.
pub fn may_sign_under(mutant: Mutant, current: u8, ballot: u8) -> bool {
    ballot == current || mutant == Mutant::OldBallotSigned
}

/// Whether `s` members are enough for a registry that does not know what was ordered before it.
///
/// It is asked for each epoch that may have a draft, of those that answered this start. `earlier` is who
/// answered an earlier start of the same take-over, and this one not yet.
pub fn may_take_over(mutant: Mutant, s: usize, earlier: usize, n: usize) -> bool {
    match mutant {
        Mutant::TakeOverByMajority => 2 * s > n,
        Mutant::TakeOverOnce => s + earlier >= quorum(n),
        _ => s >= quorum(n),
    }
}

/// Whether a take-over asks a planned epoch in flight for a quorum of its own.
pub fn take_over_asks_planned_epoch(mutant: Mutant) -> bool {
    mutant != Mutant::TakeOverOfOneEpoch
}

/// Whether a node that has met a start accepts another one, whose list of starts holds the one met or
/// not, and whose counter is higher or not.
pub fn accepts_start(mutant: Mutant, list_holds_it: bool, counter_is_higher: bool) -> bool {
    match mutant {
        Mutant::CounterCompared => counter_is_higher,
        _ => list_holds_it,
    }
}

/// Whether a start of the registry may recover with fewer than a quorum: a quorum of members has met
/// it, and none of those has answered a ballot that its store does not know.
pub fn start_is_enrolled(mutant: Mutant, met: usize, foreign_ballots: bool, n: usize) -> bool {
    mutant == Mutant::UnmetStart || (met >= quorum(n) && !foreign_ballots)
}
