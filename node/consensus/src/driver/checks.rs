//! Which block is executed for this node's vote, and for how long.
//!
//! One block at a time. A block that only its proposer stands behind has the time of its round: when
//! the round is over its execution is cancelled, and a proposer that signs two blocks of one round is
//! not served any more. A block that a quorum stands behind, by prevotes or precommits, comes first, is
//! executed to its end however long that takes, and is not judged by this node's clock.
//!
//! What was not executed in time is neither valid nor invalid ([`Verdict::NotYet`]): nothing is logged
//! and nothing remembered of it, and the vote for nil comes from the timeout.
//!
//! An execution that did not fit into its round makes the following ones longer, if a quorum took part
//! in it: no timeout is shorter than twice that execution, until the height is decided. A chain that
//! stands still for want of a quorum keeps its short timeouts.

use std::time::Duration;

use axolotl_common::{Hash, PublicKey, Round};

use super::{Current, Driver, Phase};
use crate::{
    bodies::BodyState,
    effect::{Effect, ProposalFault},
    input::{Now, TimerKind, Verdict},
    liveness::timeout,
    log_record::LogEntry,
};

/// Blocks that a proposer may sign in one round and have passed on: the second one is the proof that
/// it contradicts itself, and more prove nothing new.
pub(super) const MAX_SIGNED_PER_ROUND: usize = 2;
/// Proposals of rounds further ahead are not taken: others are there with votes, which come first.
pub(super) const MAX_ROUNDS_AHEAD: u32 = 64;

/// The block that is being executed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    block: Hash,
    /// Round in which it was begun.
    round: Round,
    since: Now,
    /// A quorum stands behind it: it is executed to its end.
    backed: bool,
}

impl Driver {
    /// Brings the execution in line with the round and with what is known: cancels what is of no use
    /// any more, and begins what is.
    pub(super) fn review_checks(&mut self) {
        if self.logged.is_some() {
            return; // a replay executes nothing
        }
        let now = self.now;
        let me = self.signer.me();
        let Some(current) = &mut self.current else {
            return;
        };
        if !matches!(current.phase, Phase::Running) {
            return;
        }
        let Some(round) = current.core.round() else {
            return;
        };
        if current.round != Some(round) {
            let before = current.round.unwrap_or_default();
            let least = timeout(&self.config.timing, TimerKind::Propose, before);
            current.leave_round(now, &me, least);
            current.round = Some(round);
        }
        if let Some(check) = &mut current.check {
            if !check.backed && current.core.is_backed(&check.block) {
                check.backed = true;
                self.out.push(Effect::LiftCheckLimit {
                    height: current.start.height,
                    block: check.block,
                });
            }
            if check.backed || check.round == round {
                return;
            }
            let body = current.bodies.get(&check.block);
            if let Some(proposer) = body.and_then(|body| body.first_proposer()) {
                let fault = ProposalFault::NotInTime;
                self.out.push(Effect::ProposalFault { proposer, fault });
            }
        }
        self.cancel_check();
        self.begin_check(round);
    }

    fn begin_check(&mut self, round: Round) {
        let Some(current) = &mut self.current else {
            return;
        };
        let Some((block, backed)) = current.next_check(round) else {
            return;
        };
        let Some(body) = current.bodies.get_mut(&block) else {
            return;
        };
        body.state = BodyState::Checking;
        let bytes = body.bytes.clone();
        let Some(summary) = (self.config.summary)(&bytes) else {
            return;
        };
        current.check = Some(Check {
            block,
            round,
            since: self.now,
            backed,
        });
        // The round cannot be over sooner than its timeouts; a cancellation comes when it is.
        let limit = [TimerKind::Propose, TimerKind::Prevote, TimerKind::Precommit]
            .map(|kind| timeout(&self.config.timing, kind, round).max(current.stretch))
            .iter()
            .sum();
        self.out.push(Effect::CheckBlock {
            height: current.start.height,
            round,
            block,
            bytes,
            builder: summary.builder,
            limit: (!backed).then_some(limit),
        });
    }

    /// Gives up the execution under way, if there is one.
    pub(super) fn cancel_check(&mut self) {
        let Some(current) = &mut self.current else {
            return;
        };
        let Some(check) = current.check.take() else {
            return;
        };
        let height = current.start.height;
        if let Some(body) = current.bodies.get_mut(&check.block) {
            body.state = BodyState::Unchecked;
        }
        self.out.push(Effect::CancelCheck {
            height,
            block: check.block,
        });
    }

    pub(super) fn checked(
        &mut self,
        round: Round,
        block: Hash,
        verdict: &Verdict,
    ) -> Result<(), String> {
        let now = self.now;
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let height = current.start.height;
        let this = |check: &Check| (check.block, check.round) == (block, round);
        if !current.check.as_ref().is_some_and(this) {
            return Ok(()); // cancelled, or of another height
        }
        let Some(check) = current.check.take() else {
            return Ok(());
        };
        let took = now.saturating_sub(check.since);
        current.slowest = current.slowest.max(took);
        let Some(body) = current.bodies.get_mut(&block) else {
            self.review_checks();
            return Ok(());
        };
        let valid = match verdict {
            Verdict::Valid => {
                body.state = BodyState::Valid;
                let bytes = body.bytes.clone();
                self.append(LogEntry::Block { block, bytes });
                true
            }
            Verdict::Invalid(reason) => {
                tracing::warn!(%height, %block, reason, "a proposed block is invalid; voting nil");
                body.state = BodyState::Invalid;
                if let Some(proposer) = body.first_proposer() {
                    let fault = ProposalFault::Invalid;
                    self.out.push(Effect::ProposalFault { proposer, fault });
                }
                false
            }
            Verdict::NotYet => {
                body.state = BodyState::Unchecked;
                body.tried = Some(round);
                self.review_checks();
                return Ok(());
            }
        };
        self.tell_verdicts(block, valid)?;
        self.review_checks();
        Ok(())
    }
}

impl Current {
    /// The next block to execute, and whether a quorum stands behind it.
    fn next_check(&self, round: Round) -> Option<(Hash, bool)> {
        let waiting = || self.bodies.unchecked();
        if let Some((block, _)) = waiting().find(|(block, _)| self.core.is_backed(block)) {
            return Some((*block, true));
        }
        let first = self.signed.get(&round)?.first()?;
        let proposer = self.committee.proposer(round);
        waiting()
            .find(|(block, body)| *block == first && body.tried != Some(round))
            .filter(|_| !self.banned.contains(proposer))
            .map(|(block, _)| (*block, false))
    }

    /// The round is over: if a quorum took part in it and a block was executed in it, the next ones get
    /// twice the time that this took, and at most twice the timeout so far: an execution that was
    /// cancelled has lasted for the whole round, which is three timeouts.
    fn leave_round(&mut self, now: Now, me: &PublicKey, timeout: Duration) {
        let running = self
            .check
            .as_ref()
            .map_or(Duration::ZERO, |check| now.saturating_sub(check.since));
        let executed = running.max(std::mem::take(&mut self.slowest));
        let Some(over) = self.round else {
            return;
        };
        let heard = self
            .heard
            .iter()
            .filter(|(key, round)| **round >= over && *key != me)
            .count();
        if heard + usize::from(self.votes) >= self.committee.quorum() {
            let longest = 2 * self.stretch.max(timeout);
            self.stretch = self.stretch.max((2 * executed).min(longest));
        }
    }
}
