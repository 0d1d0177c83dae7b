//! What the world does for a driver.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axolotl_common::{PublicKey, Round, VoteKind, genesis::Timing};
use axolotl_consensus::{
    Admission, Effect, Input, LogEntry, Message, MessageKind, TimerKind, message::Payload,
};
use rand::Rng;

use super::{Event, Mutant, World};
use crate::sim::{
    byzantine::Cast,
    invariants::Violation,
    ledger::Block,
    net::{Micros, Script},
};

/// The limit that the mutant "every signed block executed" puts on each.
const EVERY_LIMIT: Duration = Duration::from_secs(1);

/// Copies that a liar may make of one message, each with a number of its own.
const COPIES_MAX: u64 = 64;

impl World {
    pub(super) fn step(&mut self, node: usize, input: Input) -> Result<(), Violation> {
        let now = self.clock(node);
        let Some(running) = self.nodes[node].running.as_mut() else {
            return Ok(());
        };
        let effects = running.driver.step(now, input);
        self.note_missing(node);
        self.perform(node, effects)
    }

    pub(super) fn perform(&mut self, node: usize, effects: Vec<Effect>) -> Result<(), Violation> {
        for effect in effects {
            if !self.survives(node) {
                return Ok(());
            }
            self.perform_one(node, effect)?;
        }
        Ok(())
    }

    /// Whether the node still runs: between any two of its deeds the power may be lost.
    pub(super) fn survives(&mut self, node: usize) -> bool {
        let Some(running) = self.nodes[node].running.as_mut() else {
            return false;
        };
        match running.crash_in.as_mut() {
            Some(0) => {
                self.crash(node);
                self.count("power lost between two deeds");
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.nodes[node].running.is_some()
    }

    pub(super) fn perform_one(&mut self, node: usize, effect: Effect) -> Result<(), Violation> {
        let boot = self.nodes[node].boot;
        match effect {
            Effect::Append(record)
                if record.entry == LogEntry::Seal
                    && self.setup.mutant == Some(Mutant::SealNotDurable) => {}
            Effect::Append(record) => {
                self.check_verdict(node, &record.entry)?;
                self.nodes[node].disk.append(&record.encode());
            }
            Effect::Flush => self.nodes[node].disk.flush(),
            Effect::Broadcast(message) => self.broadcast(node, message)?,
            Effect::SetTimer { id, after } => {
                let after = after.div_f64(self.nodes[node].drift);
                let after = match (self.setup.mutant, id.kind) {
                    (
                        Some(Mutant::TimeoutCapped),
                        TimerKind::Propose | TimerKind::Prevote | TimerKind::Precommit,
                    ) => after.min(Duration::from_millis(Timing::default().max_timeout_ms)),
                    _ => after,
                };
                self.number += 1;
                let number = self.number;
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.timers.insert(id, number);
                }
                let after = Micros::try_from(after.as_micros()).unwrap();
                self.after(
                    after,
                    Event::Timer {
                        node,
                        boot,
                        id,
                        number,
                    },
                );
            }
            Effect::CancelTimer(id) => {
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.timers.remove(&id);
                }
            }
            Effect::BuildBlock {
                height,
                round,
                budget,
            } => self.order_build(node, height, round, budget)?,
            Effect::CancelBuild { height, round } => self.cancel_build(node, height, round),
            Effect::CheckBlock {
                height,
                round,
                block,
                bytes,
                limit,
                ..
            } => self.order_check(node, (height, round, block), bytes, limit)?,
            Effect::LiftCheckLimit { block, .. } => self.lift_limit(node, block),
            Effect::CancelCheck { block, .. } => self.cancel_check(node, block),
            Effect::ProposalFault { proposer, fault } => {
                self.log(format_args!("{node} finds {proposer} {}", fault.code()));
                *self
                    .tally
                    .entry(format!("proposal {}", fault.code()))
                    .or_default() += 1;
                self.note_shown(node, &proposer, fault.code());
            }
            Effect::Commit { certificate, bytes } => {
                self.log(format_args!(
                    "{node} decides {} in round {}",
                    certificate.height, certificate.round
                ));
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.storing = true;
                }
                let delay = self.rng.random_range(200..5_000);
                self.after(
                    delay,
                    Event::Written {
                        node,
                        boot,
                        certificate,
                        bytes,
                    },
                );
            }
            Effect::Behind { height_seen } => self.sync(node, height_seen),
            Effect::Misbehaviour(evidence) => {
                self.log(format_args!("{node} caught {}", evidence.validator()));
                self.misbehaviours += 1;
                self.note_shown(node, evidence.validator(), "equivocates");
                let honest = self
                    .nodes
                    .iter()
                    .filter(|n| n.is_honest() && self.setup.mutant.is_none());
                let accused = honest
                    .map(|n| (n.number, n.key.public()))
                    .find(|(_, key)| key == evidence.validator());
                if let Some((accused, _)) = accused {
                    return Err(Violation {
                        invariant: "double_sign",
                        what: format!("honest node {accused} is accused: {evidence:?}"),
                    });
                }
            }
            Effect::AskHighestVotes => {
                for other in (0..self.nodes.len()).filter(|other| *other != node) {
                    self.send_own(node, other, |from, to| Event::VotesAsked { from, to });
                }
            }
            Effect::Unfit { vote } => {
                self.log(format_args!("{node} is unfit: {:?}", vote.vote.position()));
                self.unfit.insert(node);
                let intact = !self.nodes[node].has_forgotten() && self.setup.mutant.is_none();
                if intact && self.nodes[node].is_honest() {
                    return Err(Violation {
                        invariant: "fitness",
                        what: format!(
                            "node {node} lost nothing and is found unfit by {:?}",
                            vote.vote
                        ),
                    });
                }
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.unfit = true;
                }
            }
            Effect::Sealed { epoch } => self.sealed(node, epoch)?,
            Effect::SealLost { epoch } => self.seal_lost(node, epoch)?,
            // Its own contradictions stand in the log of a liar, and it stops over them.
            Effect::Fatal(_) if !self.nodes[node].is_honest() => self.crash(node),
            Effect::Fatal(reason) => {
                return Err(Violation {
                    invariant: "fatal",
                    what: format!("node {node}: {reason}"),
                });
            }
        }
        Ok(())
    }

    /// An honest node found a validator at fault.
    fn note_shown(&mut self, by: usize, key: &PublicKey, what: &'static str) {
        let accused = self.nodes.iter().find(|node| node.key.public() == *key);
        let Some(accused) = accused.map(|node| node.number) else {
            return;
        };
        if self.nodes[by].is_honest() {
            let found = self.shown.entry(accused).or_default();
            found.entry(what).or_default().insert(by);
        }
    }

    /// The mutant that executes whatever a proposer signed.
    pub(super) fn execute_every(
        &mut self,
        node: usize,
        message: &Message,
        judgement: Admission,
    ) -> Result<(), Violation> {
        let Payload::Proposal { proposal, block } = &message.payload else {
            return Ok(());
        };
        if self.setup.mutant != Some(Mutant::EverySignedBlockExecuted)
            || judgement != Admission::Accept
        {
            return Ok(());
        }
        let proposal = proposal.proposal;
        let place = (proposal.height, proposal.round, proposal.block);
        self.order_check(node, place, block.clone(), Some(EVERY_LIMIT))
    }

    pub(super) fn broadcast(&mut self, node: usize, message: Message) -> Result<(), Violation> {
        self.log(format_args!(
            "{node} sends {} {}/{}/{}",
            message.kind(),
            message.epoch(),
            message.height(),
            message.round()
        ));
        let peers: BTreeSet<_> = (0..self.nodes.len())
            .filter(|other| *other != node)
            .collect();
        self.check_wiped(node, &message)?;
        self.check_prevote(node, &message)?;
        // A rollback that nobody notices counts as a liar's doing.
        let unnoticed = self.setup.loss.is_some() && self.nodes[node].has_forgotten();
        if self.nodes[node].is_honest() && !unnoticed {
            self.invariants.sent(node, &message)?;
        }
        let mut actor = self.nodes[node].actor.take();
        let outgoing = match actor.as_mut() {
            Some(actor) => {
                let key = self.nodes[node].key.clone();
                let liars = self
                    .nodes
                    .iter()
                    .filter(|n| !n.is_honest() && n.number != node);
                let mut cast = Cast {
                    key: &key,
                    liars: liars.map(|n| n.number).collect(),
                    peers,
                    copy: (1 << 63) | self.number,
                    rng: &mut self.rng,
                };
                self.number += COPIES_MAX;
                actor.says(&mut cast, message)
            }
            None => vec![(peers, message)],
        };
        self.nodes[node].actor = actor;
        for (receivers, message) in outgoing {
            let bytes: Arc<[u8]> = message.encode().into();
            for to in receivers {
                self.send_bytes(node, to, (message.kind(), message.round()), &bytes);
            }
        }
        Ok(())
    }

    /// What an honest node prevotes for is valid on its chain as it is now, under the epoch that governs
    /// it now.
    fn check_prevote(&mut self, node: usize, message: &Message) -> Result<(), Violation> {
        match &message.payload {
            Payload::Proposal { proposal, block } => {
                if let Some(decoded) = Block::decode(block) {
                    self.proposed.insert(proposal.proposal.block, decoded);
                }
            }
            Payload::Vote(vote) if vote.vote.kind == VoteKind::Prevote => {
                let chain = &self.nodes[node].disk.chain;
                let current = vote.vote.height == chain.height().next()
                    && vote.vote.epoch == chain.set.epoch();
                let block = vote.vote.block.and_then(|block| self.proposed.get(&block));
                if let Some(block) = block
                    && current
                    && vote.vote.validator == self.nodes[node].key.public()
                    && self.nodes[node].is_honest()
                    && let Err(why) = chain.check(block)
                {
                    return Err(Violation {
                        invariant: "prevote",
                        what: format!("node {node} prevotes for a block that is not valid: {why}"),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The log says of a block what its execution said, and nothing of one that was not executed to its
    /// end.
    fn check_verdict(&mut self, node: usize, entry: &LogEntry) -> Result<(), Violation> {
        let (LogEntry::Verdict(verdict), Some(running)) = (entry, &self.nodes[node].running) else {
            return Ok(());
        };
        let known = running.executor.verdicts.get(&verdict.block);
        // What the log of an earlier start says is not executed again.
        if known.is_some_and(|known| *known != verdict.valid)
            || (known.is_none() && !running.restarted)
        {
            return Err(Violation {
                invariant: "verdict",
                what: format!("node {node} logs {verdict:?}, its execution said {known:?}"),
            });
        }
        Ok(())
    }

    pub(super) fn send_bytes(
        &mut self,
        from: usize,
        to: usize,
        (kind, round): (MessageKind, Round),
        bytes: &Arc<[u8]>,
    ) {
        if !self.net.admits(from, to, kind, round) {
            return;
        }
        for copy in self.net.route(&mut self.rng, from, to) {
            let mut bytes = Arc::clone(bytes);
            if copy.corrupt {
                let mut broken = bytes.to_vec();
                let at = self.rng.random_range(0..broken.len());
                broken[at] ^= 1 << self.rng.random_range(0..8);
                bytes = broken.into();
            }
            self.after(
                copy.delay,
                Event::Deliver {
                    from,
                    to,
                    bytes,
                    duplicate: copy.duplicate,
                },
            );
        }
    }

    /// A request or an answer of another protocol, over the same network.
    pub(super) fn send_own(
        &mut self,
        from: usize,
        to: usize,
        event: impl FnOnce(usize, usize) -> Event,
    ) {
        let first = self.net.route(&mut self.rng, from, to).first().copied();
        let told = |script: &Script| script.decides != from;
        let told = self.net.script.as_ref().is_none_or(told);
        if let Some(copy) = first.filter(|_| told) {
            self.after(copy.delay, event(from, to));
        }
    }
}
