//! Beginning, replaying, starting and leaving a height.

use axolotl_common::{PublicKey, Round};

use super::{Current, Driver, Phase};
use crate::{
    amnesia::AmnesiaCheck,
    bodies::{Bodies, BodyState, ProposedIn},
    context::core::{Core, CoreInput},
    effect::Effect,
    input::{HeightStart, Now, TimerId, TimerKind},
    liveness::{AMNESIA_INTERVAL, timeout},
    log_record::{LogEntry, LogRecord},
    message::SignedVote,
    validators::Committee,
};

impl Driver {
    pub(super) fn first_height(
        &mut self,
        now: Now,
        start: HeightStart,
        mut records: Vec<LogRecord>,
    ) -> Result<(), String> {
        let place = (start.height, start.validators.epoch());
        for record in &records {
            match &record.entry {
                LogEntry::Vote(vote) => {
                    self.highest.note(vote);
                    self.note_own(vote);
                }
                LogEntry::Seal => self.sealed = self.sealed.max(Some(record.epoch)),
                _ => {}
            }
        }
        let me = self.signer.me();
        let own = records
            .iter()
            .filter_map(|record| match &record.entry {
                LogEntry::Vote(vote) if (vote.vote.height, vote.vote.epoch) == place => Some(*vote),
                _ => None,
            })
            .filter(|vote| vote.vote.validator == me)
            .max_by_key(|vote| vote.vote.position());
        self.amnesia = AmnesiaCheck::new(now, place, own);
        records.retain(|record| {
            (record.height, record.epoch) == place && record.entry != LogEntry::Seal
        });
        self.enter(now, start, records)
    }

    pub(super) fn begin(&mut self, now: Now, start: HeightStart) -> Result<(), String> {
        if let Some(current) = &mut self.current {
            let theirs = (start.height, start.validators.epoch());
            if theirs <= (current.start.height, current.committee.epoch()) {
                return Ok(());
            }
            // An abandoned height takes its evidence along.
            let evidence = current.core.take_evidence();
            self.out
                .extend(evidence.into_iter().map(Effect::Misbehaviour));
            if start.validators.epoch() != current.committee.epoch() {
                self.future.clear();
            }
        }
        self.abandon();
        if let Some(decided) = &start.last_certificate
            && decided.height.next() == start.height
            && self.height() < Some(start.height)
        {
            self.budget.decided(decided.round);
        }
        self.enter(now, start, Vec::new())
    }

    /// Gives up what is built and executed for the height.
    pub(super) fn abandon(&mut self) {
        self.cancel_check();
        if let Some(current) = &mut self.current
            && let Some(round) = current.build.take()
        {
            let height = current.start.height;
            self.out.push(Effect::CancelBuild { height, round });
        }
    }

    fn enter(
        &mut self,
        now: Now,
        start: HeightStart,
        records: Vec<LogRecord>,
    ) -> Result<(), String> {
        self.cancel_timers(|_| true);
        self.signer.next_height();
        self.highest
            .retain(&start.validators, start.previous_validators.as_deref());
        self.attendance.enter(now, start.height, &start.validators);
        let committee = Committee::new(&start, self.config.leader_term_blocks);
        let core = Core::new(start.height, committee.clone(), &self.signer, false);
        let height = start.height;
        self.current = Some(Current {
            bodies: Bodies::new(self.config.max_block_bytes),
            signed: std::collections::BTreeMap::new(),
            banned: std::collections::BTreeSet::new(),
            check: None,
            round: None,
            slowest: std::time::Duration::ZERO,
            stretch: std::time::Duration::ZERO,
            heard: std::collections::BTreeMap::new(),
            fed: std::collections::BTreeSet::new(),
            building: None,
            build: None,
            built: None,
            phase: Phase::Held(records),
            votes: false,
            start,
            committee,
            core,
        });
        let pause = timeout(&self.config.timing, TimerKind::Rebroadcast, Round(0));
        let action = self.ahead.begin(height, pause);
        self.act_ahead(action);
        self.release(now)
    }

    /// Lets a held height go on, when this node may sign or has nothing to sign.
    pub(super) fn release(&mut self, now: Now) -> Result<(), String> {
        if self.is_sealed() {
            self.close();
            return Ok(());
        }
        let me = self.signer.me();
        let (other_volume, unfit) = (self.other_volume().is_some(), self.is_unfit());
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let Phase::Held(records) = &mut current.phase else {
            return Ok(());
        };
        let member = current.committee.contains(&me) && !other_volume;
        let may_sign =
            member && !unfit && self.amnesia.may_sign(now, &me, &current.start.validators);
        if member && !may_sign && !unfit {
            // Asked once in an interval, not once more with every answer.
            let id = self.timer_id(TimerKind::Amnesia, Round(0));
            if !self.timers.contains(&id) {
                self.out.push(Effect::AskHighestVotes);
                self.set_timer(TimerKind::Amnesia, Round(0), AMNESIA_INTERVAL);
            }
            return Ok(());
        }
        let records = std::mem::take(records);
        current.phase = Phase::Idle;
        current.votes = may_sign;
        current.core = Core::new(
            current.start.height,
            current.committee.clone(),
            &self.signer,
            may_sign,
        );
        self.cancel_timer(TimerKind::Amnesia, Round(0));
        if !records.is_empty() {
            self.replay_records(records)?;
        }
        self.rest_or_start()
    }

    fn rest_or_start(&mut self) -> Result<(), String> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        let height = current.start.height;
        if matches!(current.phase, Phase::Idle) {
            if self.work {
                self.start_if_idle()?;
            } else {
                let kind = TimerKind::EmptyBlock;
                let after = timeout(&self.config.timing, kind, Round(0));
                self.set_timer(kind, Round(0), after);
            }
        }
        for message in self.future.take(height) {
            self.receive_current(message)?;
        }
        Ok(())
    }

    pub(super) fn start_if_idle(&mut self) -> Result<(), String> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if !matches!(current.phase, Phase::Idle) {
            return Ok(());
        }
        current.phase = Phase::Running;
        self.cancel_timer(TimerKind::EmptyBlock, Round(0));
        self.feed(CoreInput::Start)
    }

    /// Feeds the log of this height to the fresh core.
    fn replay_records(&mut self, records: Vec<LogRecord>) -> Result<(), String> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let me = self.signer.me();
        self.logged = Some(records.iter().map(LogRecord::encode).collect());
        let entries: Vec<LogEntry> = records.into_iter().map(|record| record.entry).collect();
        for entry in &entries {
            let consistent = match entry {
                LogEntry::Vote(vote) if vote.vote.validator == me => {
                    self.signer.restore_vote(&vote.vote)
                }
                LogEntry::Proposal(proposal) if proposal.proposal.proposer == me => {
                    self.signer.restore_proposal(&proposal.proposal)
                }
                LogEntry::Block { block, bytes } => {
                    let held = current.core.held_blocks();
                    let bytes = bytes.clone();
                    current
                        .bodies
                        .insert(*block, bytes, BodyState::Valid, &held);
                    true
                }
                _ => true,
            };
            if !consistent {
                return Err("the consensus log holds two contradicting votes of this node".into());
            }
        }
        for entry in &entries {
            match entry {
                LogEntry::Proposal(proposal) => {
                    let p = proposal.proposal;
                    current.fed.insert((p.round, p.block, p.valid_round));
                    let signed = current.signed.entry(p.round).or_default();
                    if !signed.contains(&p.block) {
                        signed.push(p.block);
                    }
                }
                LogEntry::Verdict(verdict) => {
                    if let Some(body) = current.bodies.get_mut(&verdict.block) {
                        body.propose(ProposedIn {
                            round: verdict.round,
                            valid_round: verdict.valid_round,
                            proposer: verdict.proposer,
                            told: true,
                        });
                    }
                }
                _ => {}
            }
        }
        current.phase = Phase::Running;
        current.core.begin_replay(&entries);
        self.feed(CoreInput::Start)?;
        for entry in entries {
            let decided = self
                .current
                .as_ref()
                .is_some_and(|current| matches!(current.phase, Phase::Decided));
            if decided {
                break;
            }
            self.feed(CoreInput::Entry(entry))?;
        }
        self.logged = None;
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        current.core.end_replay();
        // A block that the core asked for meanwhile is built now, if it still waits for one.
        if let Some(round) = current.building.take()
            && current.core.round() == Some(round)
            && current.core.awaits_proposal()
        {
            self.build(round);
        }
        Ok(())
    }

    pub(super) fn elapsed(&mut self, now: Now, id: TimerId) -> Result<(), String> {
        if self.height() != Some(id.height) || !self.timers.remove(&id) {
            return Ok(());
        }
        match id.kind {
            TimerKind::EmptyBlock => self.start_if_idle(),
            TimerKind::Amnesia => self.release(now),
            TimerKind::Behind => {
                let pause = timeout(&self.config.timing, TimerKind::Rebroadcast, Round(0));
                let action = self.ahead.elapsed(id.height, pause);
                self.act_ahead(action);
                Ok(())
            }
            kind @ (TimerKind::Propose
            | TimerKind::Prevote
            | TimerKind::Precommit
            | TimerKind::Rebroadcast) => self.feed(CoreInput::Timer {
                kind,
                round: id.round,
            }),
        }
    }

    pub(super) fn highest_vote_seen(
        &mut self,
        now: Now,
        from: PublicKey,
        vote: Option<SignedVote>,
    ) -> Result<(), String> {
        let me = self.signer.me();
        if from == me {
            return Ok(());
        }
        if let Some(vote) = &vote
            && (vote.vote.validator != me || !self.signer.verify_vote(vote))
        {
            tracing::warn!(%from, "answer to the amnesia check with a vote that is not ours");
            return Ok(());
        }
        if self.amnesia.answer(from, vote.as_ref())
            && let Some(vote) = vote
        {
            self.out.push(Effect::Unfit { vote });
        }
        self.release(now)
    }
}
