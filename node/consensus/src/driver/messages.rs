//! Messages, blocks and verdicts on their way into the core.

use axolotl_common::{Hash, Height, Round};
use bytes::Bytes;

use super::{Admission, Driver, Phase, checks::MAX_SIGNED_PER_ROUND};
use crate::{
    bodies::{BodyState, ProposedIn},
    context::core::CoreInput,
    effect::Effect,
    epoch::Standing,
    input::{Now, TimerKind},
    liveness::timeout,
    log_record::LogEntry,
    message::{Message, Payload, SignedProposal, SignedVote},
};

impl Driver {
    pub(super) fn receive(&mut self, now: Now, message: Message) -> Result<(), String> {
        let (standing, admission) = self.classify(&message);
        let (Some(standing), Admission::Accept) = (standing, admission) else {
            return Ok(());
        };
        let authentic = !matches!(standing, Standing::LowerEpoch | Standing::NewerEpoch);
        if authentic {
            if let Payload::Vote(vote) = &message.payload {
                self.highest.note(vote);
                self.attendance.note(now, vote);
            }
            self.note_heard(standing, &message);
            if message.author() == Some(&self.signer.me()) {
                return self.own_message(standing, &message);
            }
        }
        match standing {
            Standing::LowerEpoch | Standing::Past => self.answer_latecomer(now),
            Standing::NewerEpoch => self.newer_epoch(now, message.height()),
            Standing::Future => {
                self.note_ahead(message.height());
                if !matches!(message.payload, Payload::Decided(_)) && !self.is_sealed() {
                    self.future.push(message);
                }
            }
            Standing::FarFuture => self.note_ahead(message.height()),
            Standing::Current if self.is_sealed() => {
                if let Payload::Decided(certificate) = &message.payload {
                    self.note_ahead(certificate.height.next());
                }
            }
            Standing::Current if self.is_held() => {
                if let Payload::Decided(certificate) = &message.payload {
                    self.note_ahead(certificate.height.next());
                } else {
                    self.future.push(message);
                }
            }
            Standing::Current => return self.receive_current(message),
        }
        Ok(())
    }

    /// A message of the present height, authenticated, the height not held.
    pub(super) fn receive_current(&mut self, message: Message) -> Result<(), String> {
        // What was kept for later was judged by the set of an earlier height.
        if self.classify(&message) != (Some(Standing::Current), Admission::Accept) {
            return Ok(());
        }
        let decided = self
            .current
            .as_ref()
            .is_some_and(|current| matches!(current.phase, Phase::Decided));
        if decided {
            return Ok(());
        }
        if let Payload::Decided(certificate) = &message.payload {
            self.note_ahead(certificate.height.next());
            return Ok(());
        }
        self.start_if_idle()?;
        match message.payload {
            Payload::Vote(vote) => self.feed(CoreInput::Entry(LogEntry::Vote(vote))),
            Payload::Proposal { proposal, block } => self.proposed(proposal, block),
            Payload::Polka(polka) => self.feed(CoreInput::Entry(LogEntry::Polka(polka))),
            Payload::Round(certificate) => self.feed(CoreInput::RoundCertificate(certificate)),
            Payload::Decided(_) => Ok(()),
        }
    }

    fn proposed(&mut self, signed: SignedProposal, bytes: Bytes) -> Result<(), String> {
        let proposal = signed.proposal;
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let known = current.signed.entry(proposal.round).or_default();
        if !known.contains(&proposal.block) {
            if known.len() < MAX_SIGNED_PER_ROUND {
                known.push(proposal.block);
            }
            if known.len() > 1 {
                current.banned.insert(proposal.proposer);
            }
        }
        let id = (proposal.round, proposal.block, proposal.valid_round);
        if current.fed.insert(id) {
            self.feed(CoreInput::Entry(LogEntry::Proposal(signed)))?;
        }
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let known = current.bodies.get(&proposal.block).map(|body| body.state);
        let proposed = ProposedIn {
            round: proposal.round,
            valid_round: proposal.valid_round,
            proposer: proposal.proposer,
            told: false,
        };
        if known.is_none() {
            let held = current.core.held_blocks();
            let state = BodyState::Unchecked;
            current.bodies.insert(proposal.block, bytes, state, &held);
        }
        if let Some(body) = current.bodies.get_mut(&proposal.block) {
            body.propose(proposed);
        }
        match known {
            Some(BodyState::Valid) => self.tell_verdicts(proposal.block, true)?,
            Some(BodyState::Invalid) => self.tell_verdicts(proposal.block, false)?,
            None | Some(BodyState::Unchecked | BodyState::Checking) => {}
        }
        Ok(())
    }

    pub(super) fn tell_verdicts(&mut self, block: Hash, valid: bool) -> Result<(), String> {
        let verdicts = self
            .current
            .as_mut()
            .and_then(|current| current.bodies.get_mut(&block))
            .map(|body| body.verdicts(block, valid))
            .unwrap_or_default();
        for verdict in verdicts {
            self.feed(CoreInput::Entry(LogEntry::Verdict(verdict)))?;
        }
        Ok(())
    }

    pub(super) fn built(
        &mut self,
        height: Height,
        round: Round,
        block: Hash,
        bytes: Bytes,
    ) -> Result<(), String> {
        let me = self.signer.me();
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if current.start.height != height || current.build != Some(round) {
            return Ok(());
        }
        current.build = None;
        let summary = (self.config.summary)(&bytes);
        let fits = bytes.len() <= self.config.max_block_bytes
            && summary.is_some_and(|s| (s.hash, s.height, s.builder) == (block, height, me));
        if fits {
            current.built = Some((block, bytes));
        } else {
            tracing::error!(%height, %round, %block, "the block built here is not fit to be proposed");
        }
        Ok(())
    }

    /// Proposes the block that was built, if this round is this node's and waits for it. A block that
    /// came too late for its round stays for the next one: a node that builds slowly would else never
    /// propose.
    pub(super) fn propose_built(&mut self) -> Result<(), String> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let Some(round) = current.building else {
            return Ok(());
        };
        if current.core.round() != Some(round) || !current.core.awaits_proposal() {
            current.building = None;
            return Ok(());
        }
        let Some((block, bytes)) = current.built.take() else {
            return Ok(());
        };
        current.building = None;
        let held = current.core.held_blocks();
        current
            .bodies
            .insert(block, bytes.clone(), BodyState::Valid, &held);
        self.append(LogEntry::Block { block, bytes });
        self.feed(CoreInput::Propose { round, block })
    }

    /// Keeps the highest round of the height being decided in which each validator was heard.
    fn note_heard(&mut self, standing: Standing, message: &Message) {
        let (Some(current), Some(author)) = (&mut self.current, message.author()) else {
            return;
        };
        if standing == Standing::Current {
            let heard = current.heard.entry(*author).or_default();
            *heard = (*heard).max(message.round());
        }
    }

    fn note_ahead(&mut self, seen: Height) {
        let Some(height) = self.height() else {
            return;
        };
        let pause = timeout(&self.config.timing, TimerKind::Rebroadcast, Round(0));
        let action = self.ahead.note(seen, height, pause);
        self.act_ahead(action);
    }

    /// Messages of an unknown epoch cannot be authenticated, so they do nothing but ask for a sync,
    /// at most once in a while.
    fn newer_epoch(&mut self, now: Now, height_seen: Height) {
        let pause = timeout(&self.config.timing, TimerKind::Rebroadcast, Round(0));
        let due = self
            .last_epoch_sync
            .is_none_or(|last| now.saturating_sub(last) >= pause);
        if due {
            self.last_epoch_sync = Some(now);
            self.out.push(Effect::Behind { height_seen });
        }
    }

    /// Someone still votes on a height that is decided: show the certificate, at most once in a
    /// while.
    fn answer_latecomer(&mut self, now: Now) {
        let pause = timeout(&self.config.timing, TimerKind::Rebroadcast, Round(0));
        let due = self
            .last_answer
            .is_none_or(|last| now.saturating_sub(last) >= pause / 2);
        let certificate = self
            .current
            .as_ref()
            .and_then(|current| current.start.last_certificate.clone());
        if due && let Some(certificate) = certificate {
            self.last_answer = Some(now);
            self.broadcast(Payload::Decided(certificate));
        }
    }

    /// A message with our own good signature. The core has what we sent; what we do not know of shows
    /// that the log was rolled back or that the key is in use elsewhere.
    fn own_message(&mut self, standing: Standing, message: &Message) -> Result<(), String> {
        let Payload::Vote(vote) = &message.payload else {
            return Ok(());
        };
        let unknown = match standing {
            Standing::Future | Standing::FarFuture => true,
            Standing::Current if self.is_held() => self.amnesia.is_above_log(vote),
            // Its guard knows what it signed since it began this height, and its log the rest.
            Standing::Current if self.is_sealed() => {
                self.amnesia.is_above_log(vote) && !self.signer.signed_vote(&vote.vote)
            }
            Standing::Current => !self.signer.signed_vote(&vote.vote),
            _ => false,
        };
        if unknown {
            self.found_unfit(*vote)
        } else {
            Ok(())
        }
    }

    /// The log was rolled back or the key is in use elsewhere: follow from here on, sign nothing.
    fn found_unfit(&mut self, vote: SignedVote) -> Result<(), String> {
        if self.is_unfit() {
            return Ok(());
        }
        self.amnesia.set_unfit();
        self.out.push(Effect::Unfit { vote });
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        current.core.silence();
        current.building = None;
        Ok(())
    }
}
