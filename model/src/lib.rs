//! A model of recovery: what happens to a chain of validators when a quorum of them is lost for good, in
//! every order in which it can happen, within bounds.
//!
//! Nothing here runs in a node. The model says which rules keep the chain one chain and that each is
//! needed; node and registry implement those rules, and the simulator drives the implementation.
//!
//! # What is modelled
//!
//! * **Voting** is reduced to what recovery depends on. In each round of an epoch one block at most can
//!   have a quorum of prevotes; a member locks and precommits it unless it went to the next round, and
//!   a member that is locked helps no other block to a quorum there. Precommits never vanish: whoever
//!   collected them may complete a certificate at any time, so a block counts as final from the moment
//!   when a quorum has *sent* precommits for it.
//! * **Reach** is the scheduler's: a step that a node does not take is a message that did not arrive. A
//!   member cut off from the survivors votes on before and after the record (a zombie). One that comes back
//!   and learns of the record falls silent; it can do no more harm than one that does not, so old
//!   members learn of a record only where its set names them.
//! * **Disk and memory** are told apart where a crash makes a difference. With the rules as they are it
//!   makes none, so crashes need no bound. A wiped volume loses all, a rolled back one its votes
//!   and its seal.
//! * **The registry** keeps ballots and records on disk; a crash loses the draft in hand and the
//!   acknowledgements, and opens the next ballot. Orders of the old ballot go on arriving.
//! * **Statements** are what the node was when it made them, and stay usable. A draft may use any set of
//!   them that fulfils the condition, for the others may have been lost.
//! * **Heights** are two: the one after the last block that all have, and, where a planned record is in
//!   flight, the next.
//!
//! # Bounds
//!
//! One world with everything in it would never end. [`bounds`] cuts it into twelve, each exhausted alone:
//! four members (five where a take-over is about majorities), two rounds, two blocks, two ballots and two
//! recoveries, each in the worlds where the rule in question can fail. Interchangeable nodes and blocks are
//! taken together. `AXOLOTL_MODEL_LARGE=1` widens each world for long runs.
//!
//! | World | Voting | Recovery | Besides |
//! |---|---|---|---|
//! | [`SEAL`](bounds::SEAL) | 2 rounds, 2 blocks | 1, signed at once | 2 wiped or rolled back volumes |
//! | [`LIAR`](bounds::LIAR) | 2 rounds, 2 blocks | 1, signed at once | one member precommits everything and lies about its lock |
//! | [`STAGING`](bounds::STAGING) | 1 round, 1 block | 2; the first by draft, staging, record, with 2 ballots | registry and nodes crash anywhere |
//! | [`EPOCHS`](bounds::EPOCHS) | 2 rounds, then 1 in the new epoch; 2 blocks | 2, signed at once | members with a lock of the old epoch in the new one |
//! | [`PLANNED`](bounds::PLANNED) | 1 round in each of two epochs, 2 blocks | 1, signed at once | a block that carries a planned record, two heights |
//! | [`RESTORED`](bounds::RESTORED) | none | 1, staged | a registry on an older copy of the store |
//! | [`CLONED`](bounds::CLONED) | none | 1, staged | a registry on a copy of the store as it is |
//! | [`TAKE_OVER_OF_4`](bounds::TAKE_OVER_OF_4) | none | 1, staged, 2 ballots | a take-over beside the first registry |
//! | [`TAKE_OVER_OF_5`](bounds::TAKE_OVER_OF_5) | none | 1, staged, 1 ballot | the same, n = 5 |
//! | [`TAKE_OVER_TWICE`](bounds::TAKE_OVER_TWICE) | none | 1, staged, 1 ballot, 2 of the take-over | the registry that takes over starts once more |
//! | [`TAKE_OVER_PLANNED`](bounds::TAKE_OVER_PLANNED) | all have precommitted the block with the planned record | 1, staged, 1 ballot | a take-over beside the first registry |
//! | [`VETO`](bounds::VETO) | none | dry run and seal | nodes are cut off and come back |
//!
//! Where a world has two recoveries the old epoch is silent after its record ([`SEAL`](bounds::SEAL)
//! exhausts that it may go on), and the second recovery is signed at once.
//!
//! Not modelled: time (the veto is a count of who is reached), more than one planned record (the one by which
//! an attempt is given up for a quorum of unsealed members is in flight like any other), forced records,
//! a second take-over, transfer of blocks (a block that somebody holds can be fetched), and the messages of the amnesia check: what a rolled back
//! volume lost is taken to have been seen by those whom it asks, or it counts as a liar.
//!
//! # Properties
//!
//! [`properties`] names what must hold, and for each world what must be possible in it, so that none is
//! empty. [`rules::Mutant`] breaks each rule on purpose; the tests show for each that a property fails, and
//! which, with the shortest history found.
//!
//! # What the model taught
//!
//! Each of these is a rule in [`rules`] with its mutant. A plain reading of the design lacks it.
//!
//! 1. **Enough old members acknowledge** ([`rules::may_sign`], `AcksOfLearners`). A quorum of the new set
//!    may consist of one old member and learners. Members A, B, C, D; A and B seal; B and two learners
//!    stage and acknowledge; the record is signed, and its registry is lost. A take-over reaches A, C
//!    and D, a quorum of the old set: it meets the seal of A, but no draft, makes its own, and signs
//!    the same number again. So a record also needs the acknowledgements of `n - q + 1` members of the set that
//!    it succeeds: every quorum of that set then holds one that has staged it, as in Flexible Paxos.
//!    The price: whoever of the fewest survivors fails between seal and record must come back.
//! 2. **Enough members have met the start** ([`rules::start_is_enrolled`], `UnmetStart`). The list of
//!    starts refuses a copy of the store only at nodes that have met a start which the copy lacks. A
//!    registry restarts and meets A and B only; a copy of its store from before meets C and D only; both
//!    lists hold the start before, both recover with two survivors, and both sign the same number. So
//!    a start recovers with fewer than a quorum only after a quorum of members has met it, none of them
//!    having answered a ballot that its store does not know; a start that finds in its store a
//!    recovery opened by such a start goes on with it. What remains of the assumption about the one
//!    store is a copy made while a recovery was open.
//! 3. **The record is written only under the newest ballot of the store**
//!    ([`rules::may_sign_under`], `OldBallotSigned`). Once per number is not enough. A process that lost its
//!    store for a while has the acknowledgements of ballot 1; its successor stages another draft under ballot
//!    2, which replaces what was staged; the first then writes its record, the only one of that number,
//!    for a block that nobody holds any more.
//! 4. **The check of a restarted member asks for its seals too** ([`rules::volume_votes`],
//!    `SealsNotAsked`). Asking for the highest vote does not see a rollback that took the seal alone. A member
//!    that never voted at this height seals and says so, is rolled back to before that, and passes a check of votes:
//!    it precommits with those that nobody reaches, above the base of the record that its statement
//!    allowed. Whoever answers the check says also what statement of the member it knows of.
//! 5. **Rounds of two epochs at one height meet in a member that sealed unheard** ([`rules::adopted`],
//!    `LocksAcrossEpochs`). If a member's statement was lost and it is in the new set all the same, its
//!    old lock is harmless, but only because locks carry their epoch.
//!
//! Two rules were found by reading what was built, and entered here with their mutants:
//!
//! 6. **A take-over asks the planned epoch too** ([`rules::take_over_asks_planned_epoch`], `TakeOverOfOneEpoch`).
//!    A planned record swaps A for E, its block is in flight. B and E seal, stage and acknowledge a draft that
//!    succeeds the planned epoch, and it is signed. A, C and D are a quorum of the epoch before and know
//!    nothing of it: a take-over that asks them alone signs the number again.
//! 7. **Each start of a take-over asks anew** ([`rules::may_take_over`], `TakeOverOnce`). What was staged is known
//!    to the quorum that answered, not to the store. A take-over hears A, B and C, of which A has staged the
//!    draft of the first registry; its process ends before it has made that draft its own. The next start,
//!    content with B and C, makes another one.
//!
//! One rule was found beside the model, which takes it as given: **a statement does not wait for the amnesia
//! check**, which wants the answers of `n - q + 1` others. With the fewest survivors there are only `n - q`, and one
//! that restarts could never state anything again. The comparison of statements is its check.

pub mod bounds;
mod drafts;
mod effects;
pub mod properties;
pub mod rules;
pub mod state;
mod steps;

pub use drafts::Recovery;
pub use steps::Step;
