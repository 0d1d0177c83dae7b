//! Effects of consensus, performed strictly in order.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::Bytes;
use axolotl_common::{Height, PublicKey, Round, membership::MAX_MEMBERS};
use axolotl_consensus::{Effect, LastVote, LogEntry, Message};

use super::Runner;
use crate::engine::{
    Arrival, EngineError, StatusFacts, since,
    worker::{CheckLimit, Job},
};

impl Runner {
    pub(super) async fn job(&self, job: Job) -> Result<(), EngineError> {
        self.jobs
            .send(job)
            .await
            .map_err(|_| EngineError("the worker thread has ended".into()))
    }

    /// Performs effects strictly in order.
    pub(super) async fn perform(&mut self, effects: Vec<Effect>) -> Result<(), EngineError> {
        let mut logged = false;
        for effect in effects {
            match effect {
                Effect::Append(record) => {
                    logged = true;
                    let (epoch, height) = (record.epoch, record.height);
                    let appended = match record.entry {
                        LogEntry::Seal => self.log.append_kept(epoch, height, &record.encode()),
                        _ => self.log.append(epoch, height, &record.encode()),
                    };
                    appended.map_err(|error| EngineError(error.to_string()))?;
                }
                Effect::Flush => self
                    .log
                    .sync()
                    .map_err(|error| EngineError(error.to_string()))?,
                Effect::Broadcast(message) => self.broadcast(&message),
                Effect::SetTimer { id, after } => self.timers.set(id, since(self.start) + after),
                Effect::CancelTimer(id) => self.timers.cancel(id),
                Effect::BuildBlock {
                    height,
                    round,
                    budget,
                } => {
                    let record = self.record.request().cloned().map(Into::into);
                    let control = Arc::default();
                    self.build = Some(((height, round), Arc::clone(&control)));
                    self.job(Job::Build {
                        height,
                        round,
                        budget,
                        record,
                        control,
                    })
                    .await?;
                }
                Effect::CancelBuild { height, round } => {
                    let this = |build: &mut ((Height, Round), _)| build.0 == (height, round);
                    if let Some((_, control)) = self.build.take_if(this) {
                        control.cancel();
                    }
                }
                Effect::CheckBlock {
                    height,
                    round,
                    block,
                    bytes,
                    limit,
                    ..
                } => {
                    let control = Arc::default();
                    self.check = Some((block, Arc::clone(&control)));
                    let limit = CheckLimit {
                        control,
                        deadline: limit.map(|limit| Instant::now() + limit),
                    };
                    self.job(Job::Check {
                        height,
                        round,
                        block,
                        bytes,
                        limit,
                    })
                    .await?;
                }
                Effect::LiftCheckLimit { block, .. } => {
                    if let Some((_, control)) = self.check.as_ref().filter(|c| c.0 == block) {
                        control.lift();
                    }
                }
                Effect::CancelCheck { block, .. } => {
                    if let Some((_, control)) = self.check.take_if(|check| check.0 == block) {
                        control.cancel();
                    }
                }
                Effect::ProposalFault { proposer, fault } => {
                    tracing::warn!(
                        %proposer, fault = fault.code(),
                        "a validator proposed a block that this node could not vote for"
                    );
                    self.status.send_modify(|status| {
                        status.note_fault(proposer, fault);
                    });
                }
                Effect::Commit { certificate, bytes } => {
                    self.job(Job::Commit { certificate, bytes }).await?;
                }
                Effect::Behind { height_seen } => self.status.send_modify(|status| {
                    status.behind = status.behind.max(Some(height_seen));
                }),
                Effect::Misbehaviour(evidence) => {
                    self.note_misbehaviour(*evidence.validator());
                    tracing::error!(validator = %evidence.validator(), ?evidence, "a validator signed two things that contradict each other; remove it from the set");
                }
                Effect::AskHighestVotes => {
                    tracing::info!("asking the other validators for this node's last vote");
                    // The answers count only while the status says that they are waited for.
                    self.note_round();
                    self.network.ask_statuses();
                }
                Effect::Unfit { vote } => {
                    tracing::error!(
                        ?vote,
                        "this node signed a vote that its log does not know: the log was rolled back, or its key is used twice. It votes no more; wipe its data directory and let it join anew"
                    );
                }
                Effect::Sealed { epoch } => {
                    self.status
                        .send_modify(|status| status.sealed = Some(epoch));
                    self.facts(|facts| facts.sealed = Some(epoch));
                }
                Effect::SealLost { epoch } => {
                    tracing::error!(
                        %epoch,
                        "this node has sealed an epoch and its log does not know: the log was rolled back. It votes no more up to that epoch, and is no survivor of it"
                    );
                }
                Effect::Fatal(reason) => return Err(EngineError(reason)),
            }
        }
        if logged {
            self.note_votes();
        }
        self.note_arrivals();
        self.note_round();
        Ok(())
    }

    /// Gossip is best effort: consensus sends its votes again.
    fn broadcast(&self, message: &Message) {
        if let Err(error) = self.network.publish_consensus(message.encode()) {
            tracing::warn!(%error, height = %message.height(), "a message of consensus was not sent");
        }
    }

    /// Keeps who signed two things in one place, for whoever asks.
    pub(super) fn note_misbehaviour(&self, key: PublicKey) {
        self.status.send_if_modified(|status| {
            let room = status.misbehaving.len() < MAX_MEMBERS;
            room && status.misbehaving.insert(key)
        });
    }

    /// Keeps what the status exchange tells each validator about its own votes.
    fn note_votes(&self) {
        let head = self.chain.head();
        // A validator of the epoch before may still be at the block that ended it.
        let before = head.previous_validators.iter();
        let sets = std::iter::once(&head.validators).chain(before);
        let members = sets.flat_map(|set| set.members());
        let known = members.filter_map(|member| {
            let vote = self.driver.highest_vote_of(&member.public_key)?;
            let bytes = borsh::to_vec(vote).expect("writing to a Vec does not fail");
            Some((member.public_key, Bytes::from(bytes)))
        });
        self.facts(|facts| facts.votes = known.collect());
    }

    /// Keeps what the status exchange tells one validator, whose vote may have come too late to be logged: it
    /// shows that its votes arrive.
    pub(super) fn note_vote_of(&self, validator: &PublicKey) {
        let Some(vote) = self.driver.highest_vote_of(validator) else {
            return;
        };
        let bytes = borsh::to_vec(vote).expect("writing to a Vec does not fail");
        self.facts(|facts| facts.votes.insert(*validator, bytes.into()));
    }

    /// Keeps whose votes arrive.
    fn note_arrivals(&self) {
        let on_clock = |at: Duration| self.start + at;
        let arrival = |last: &LastVote| Arrival {
            validator: last.validator,
            height: last.height,
            at: on_clock(last.at),
            missing_since: last.missing_since.map(on_clock),
            unanswered_since: last.unanswered_since.map(on_clock),
        };
        let signed = self.driver.last_signed();
        let signed = signed.map(|last| ((last.epoch, last.height), on_clock(last.at)));
        self.facts(|facts| {
            facts.arrivals.votes.clear();
            let votes = self.driver.last_votes().map(arrival);
            facts.arrivals.votes.extend(votes);
            facts.arrivals.signed = signed;
        });
    }

    /// Changes what the status exchange answers from.
    pub(super) fn facts<T>(&self, change: impl FnOnce(&mut StatusFacts) -> T) {
        drop(change(
            &mut self.book.lock().unwrap_or_else(PoisonError::into_inner),
        ));
    }
}
