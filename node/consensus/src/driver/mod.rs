//! The driver: one node's part in deciding one height after another.

mod admission;
mod checks;
#[cfg(test)]
mod epoch_tests;
mod heights;
mod messages;
#[cfg(test)]
mod seal_tests;
mod sealing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axolotl_common::{Epoch, Hash, Height, PublicKey, Round, VolumeId};
use bytes::Bytes;

use self::checks::Check;
pub use self::{admission::Admission, sealing::StatedHead};
use crate::{
    amnesia::{AmnesiaCheck, Fitness, HighestVotes},
    attendance::{Attendance, LastSigned, LastVote},
    bodies::{Bodies, BodyState},
    budget::BuildBudget,
    context::core::{Core, CoreEvent, CoreInput},
    effect::Effect,
    future::FutureMessages,
    input::{Config, HeightStart, Input, Now, TimerId, TimerKind},
    liveness::{Ahead, AheadAction, timeout},
    log_record::{LogEntry, LogRecord},
    message::{Message, Payload, PolkaCertificate, SignedProposal, SignedVote},
    signatures::Signer,
    validators::Committee,
};

/// The block that this node precommitted to at the height being decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Epoch of the lock; rounds of different epochs do not compare.
    pub epoch: Epoch,
    /// Height.
    pub height: Height,
    /// Round of the precommit.
    pub round: Round,
    /// Hash of the block.
    pub block: Hash,
    /// A quorum's prevotes for it.
    pub proof: Option<PolkaCertificate>,
    /// The encoded block.
    pub bytes: Option<Bytes>,
}

/// How far a height has come.
#[derive(Debug)]
enum Phase {
    /// The amnesia check is not through; the records wait for their replay.
    Held(Vec<LogRecord>),
    /// Nothing asks for a block.
    Idle,
    /// Rounds are under way.
    Running,
    /// Decided; waits for the next height.
    Decided,
    /// The epoch is sealed: the core takes nothing any more. What was locked before is handed over.
    Sealed(Option<Box<Lock>>),
}

/// The height being decided.
struct Current {
    start: HeightStart,
    committee: Committee,
    core: Core,
    phase: Phase,
    /// Whether this node signs at this height.
    votes: bool,
    bodies: Bodies,
    /// Hashes that the proposer of a round signed, the first one first.
    signed: BTreeMap<Round, Vec<Hash>>,
    /// Proposers that signed two blocks of one round: only blocks that a quorum stands behind are
    /// executed for them.
    banned: BTreeSet<PublicKey>,
    /// Execution under way.
    check: Option<Check>,
    /// Round as of the last review of the executions.
    round: Option<Round>,
    /// Longest execution that ended in this round.
    slowest: Duration,
    /// No timeout of a round is shorter: see [`checks`].
    stretch: Duration,
    /// Validators by the highest round of this height in which they were heard.
    heard: BTreeMap<PublicKey, Round>,
    /// Proposals that the core has, by what it tells apart.
    fed: BTreeSet<(Round, Hash, Option<Round>)>,
    /// Own proposals wait for a block of this round.
    building: Option<Round>,
    /// A block is being built, asked for in this round.
    build: Option<Round>,
    /// A block that was built and not proposed: if its round was over, it waits for the next turn of
    /// this node.
    built: Option<(Hash, Bytes)>,
}

/// The state machine. See the page of the crate.
pub struct Driver {
    config: Config,
    signer: Signer,
    current: Option<Current>,
    future: FutureMessages,
    amnesia: AmnesiaCheck,
    highest: HighestVotes,
    /// Whose votes arrive.
    attendance: Attendance,
    /// The last vote that this node signed, as far back as its log goes.
    last_vote: Option<SignedVote>,
    /// This epoch and all before it are sealed, durably.
    sealed: Option<Epoch>,
    /// The log lacks a seal of this epoch.
    lost_seal: Option<Epoch>,
    ahead: Ahead,
    timers: BTreeSet<TimerId>,
    work: bool,
    budget: BuildBudget,
    /// When the present input came.
    now: Now,
    copies: u32,
    /// When the certificate of the last block was last shown to a latecomer.
    last_answer: Option<Now>,
    /// When a message of an unknown epoch last made us ask for a sync.
    last_epoch_sync: Option<Now>,
    /// During a replay: records that the log holds already.
    logged: Option<BTreeSet<Vec<u8>>>,
    dead: bool,
    out: Vec<Effect>,
}

impl Driver {
    /// A driver that waits for its first height; see [`Self::replay`].
    pub fn new(config: Config) -> Self {
        let signer = Signer::new(config.chain, config.key.clone());
        Self {
            signer,
            current: None,
            future: FutureMessages::default(),
            amnesia: AmnesiaCheck::new(Now::ZERO, (Height(0), Epoch(0)), None),
            highest: HighestVotes::default(),
            attendance: Attendance::new(config.key.public()),
            last_vote: None,
            sealed: None,
            lost_seal: None,
            ahead: Ahead::default(),
            timers: BTreeSet::new(),
            work: false,
            budget: BuildBudget::new(&config.timing),
            now: Now::ZERO,
            copies: 0,
            last_answer: None,
            last_epoch_sync: None,
            logged: None,
            dead: false,
            out: Vec::new(),
            config,
        }
    }

    /// The first call after the start of the process: `start` is the height above the chain's head,
    /// `records` what the consensus log holds, in its order. Records of other heights and epochs are
    /// only looked through for votes to answer others' amnesia checks with.
    pub fn replay(&mut self, now: Now, start: HeightStart, records: Vec<LogRecord>) -> Vec<Effect> {
        self.now = now;
        let result = self.first_height(now, start, records);
        self.attendance.note_own(now, self.last_vote.as_ref());
        self.finish(result)
    }

    /// Takes one input. After [`Effect::Fatal`] nothing comes any more.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Effect> {
        if self.dead {
            return Vec::new();
        }
        self.now = now;
        let result = match input {
            Input::Begin(start) => self.begin(now, start),
            Input::Message(message) => self.receive(now, message),
            Input::Timer(id) => self.elapsed(now, id),
            Input::Built {
                height,
                round,
                block,
                bytes,
            } => self.built(height, round, block, bytes),
            Input::Checked {
                height,
                round,
                block,
                verdict,
            } if self.height() == Some(height) => self.checked(round, block, &verdict),
            Input::Checked { .. } => Ok(()),
            Input::Work(work) => {
                self.work = work;
                if work { self.start_if_idle() } else { Ok(()) }
            }
            Input::HighestVoteSeen { from, vote } => self.highest_vote_seen(now, from, vote),
            Input::SealSeen(note) => self.seal_seen(now, &note),
        };
        let result = result.and_then(|()| self.propose_built());
        self.review_checks();
        self.attendance.note_own(now, self.last_vote.as_ref());
        self.finish(result)
    }

    /// Height being decided.
    pub fn height(&self) -> Option<Height> {
        self.current.as_ref().map(|current| current.start.height)
    }

    /// Epoch that governs it.
    pub fn epoch(&self) -> Option<Epoch> {
        self.current.as_ref().map(|c| c.committee.epoch())
    }

    /// Round under way, if one is.
    pub fn round(&self) -> Option<Round> {
        self.current
            .as_ref()
            .and_then(|current| current.core.round())
    }

    /// The least timeout of a step at this height, raised by slow executions; zero when none was.
    pub fn stretch(&self) -> Duration {
        self.current
            .as_ref()
            .map_or(Duration::ZERO, |current| current.stretch)
    }

    /// Who proposes in the present round.
    pub fn proposer(&self) -> Option<PublicKey> {
        let current = self.current.as_ref()?;
        let round = current.core.round().unwrap_or_default();
        Some(*current.committee.proposer(round))
    }

    /// Whether this node is a validator of the height being decided.
    pub fn is_validator(&self) -> bool {
        let me = self.signer.me();
        self.current
            .as_ref()
            .is_some_and(|current| current.committee.contains(&me))
    }

    /// Whether this node signs at the height being decided: a validator with the volume that the
    /// epoch's record names, whose amnesia check is through.
    pub fn votes(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.votes)
    }

    /// The volume that the record of the epoch names for this node, when it is another than this
    /// one: nothing is signed in that epoch.
    pub fn other_volume(&self) -> Option<VolumeId> {
        let current = self.current.as_ref()?;
        let member = current.start.validators.member(&self.signer.me())?;
        Some(member.volume_id).filter(|named| *named != self.config.volume)
    }

    /// Whether the amnesia check found that this node signed what its log does not know: a vote, or a
    /// seal of the epoch that governs the present height.
    pub fn is_unfit(&self) -> bool {
        *self.amnesia.fitness() == Fitness::Unfit || self.lost_this_seal()
    }

    /// Whether this node waits for answers to [`Effect::AskHighestVotes`].
    pub fn awaits_answers(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| matches!(current.phase, Phase::Held(_)))
    }

    /// The lock, if this node precommitted to a block at the height being decided.
    pub fn lock(&self) -> Option<Lock> {
        let current = self.current.as_ref()?;
        match &current.phase {
            Phase::Sealed(lock) => return lock.as_deref().cloned(),
            // The core knows nothing yet; the log does.
            Phase::Held(records) => return sealing::lock_in(records, &self.signer.me(), current),
            _ => {}
        }
        let mut lock = current.core.lock()?;
        if let Some(proof) = &mut lock.proof {
            // As it is read from the log.
            proof.signatures.sort_unstable_by_key(|(key, _)| *key);
        }
        Some(Lock {
            epoch: current.committee.epoch(),
            height: current.start.height,
            round: lock.round,
            block: lock.block,
            proof: lock.proof,
            bytes: current.bodies.get(&lock.block).map(|b| b.bytes.clone()),
        })
    }

    /// The highest vote of a validator that this node has taken in: the answer to its amnesia check.
    /// Given at any time, also before this node's own check is through.
    pub fn highest_vote_of(&self, key: &PublicKey) -> Option<&SignedVote> {
        self.highest.of(key)
    }

    /// What arrived of each validator of the epoch in force, this node's own among them.
    pub fn last_votes(&self) -> impl Iterator<Item = &LastVote> {
        self.attendance.last_votes()
    }

    /// The last vote that this node signed, as far back as its log goes.
    pub fn last_signed(&self) -> Option<LastSigned> {
        self.attendance.last_signed()
    }

    fn finish(&mut self, result: Result<(), String>) -> Vec<Effect> {
        self.logged = None;
        let effects = std::mem::take(&mut self.out);
        match result {
            Ok(()) => durable_first(effects),
            Err(reason) => {
                self.dead = true;
                vec![Effect::Fatal(reason)]
            }
        }
    }

    /// Feeds the core and turns its events into effects.
    fn feed(&mut self, input: CoreInput) -> Result<(), String> {
        // The one way into the core: nothing passes once the epoch is sealed.
        if self.is_sealed() {
            return Ok(());
        }
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let events = current.core.apply(input, &mut self.signer)?;
        for event in events {
            self.event(event);
        }
        Ok(())
    }

    fn event(&mut self, event: CoreEvent) {
        match event {
            CoreEvent::Append(entry) => self.append(entry),
            CoreEvent::PublishVote(vote) => self.broadcast(Payload::Vote(vote)),
            CoreEvent::PublishProposal(proposal) => self.publish_proposal(proposal),
            CoreEvent::PublishPolka(certificate) => self.broadcast(Payload::Polka(certificate)),
            CoreEvent::PublishRound(certificate) => self.broadcast(Payload::Round(certificate)),
            CoreEvent::SetTimer(kind, round) => {
                let after = self.step_timeout(kind, round);
                self.set_timer(kind, round, after);
            }
            CoreEvent::CancelTimer(kind, round) => self.cancel_timer(kind, round),
            CoreEvent::CancelTimers => self.cancel_step_timers(),
            CoreEvent::BuildBlock(round) => self.build(round),
            CoreEvent::Decided(certificate) => self.decided(certificate),
            CoreEvent::Misbehaviour(evidence) => self.out.push(Effect::Misbehaviour(evidence)),
        }
    }

    /// How long a timer of the core runs in a round.
    fn step_timeout(&self, kind: TimerKind, round: Round) -> Duration {
        let after = timeout(&self.config.timing, kind, round);
        match (kind, &self.current) {
            (TimerKind::Propose | TimerKind::Prevote | TimerKind::Precommit, Some(current)) => {
                after.max(current.stretch)
            }
            _ => after,
        }
    }

    fn append(&mut self, entry: LogEntry) {
        if self.current.is_none() {
            return;
        }
        if let LogEntry::Vote(vote) = &entry {
            self.highest.note(vote);
            self.note_own(vote);
        }
        let Some(current) = &self.current else {
            return;
        };
        let record = LogRecord {
            epoch: current.committee.epoch(),
            height: current.start.height,
            entry,
        };
        let known = |logged: &BTreeSet<Vec<u8>>| logged.contains(&record.encode());
        if !self.logged.as_ref().is_some_and(known) {
            self.out.push(Effect::Append(record));
        }
    }

    fn broadcast(&mut self, payload: Payload) {
        // Copies differ within one start by the counter, and between starts by the incarnation.
        self.copies = self.copies.wrapping_add(1);
        let copy = (self.config.incarnation << 32) | u64::from(self.copies);
        self.out.push(Effect::Broadcast(Message { copy, payload }));
    }

    fn publish_proposal(&mut self, proposal: SignedProposal) {
        let block = proposal.proposal.block;
        let bytes = self
            .current
            .as_ref()
            .and_then(|current| current.bodies.get(&block))
            .map(|body| body.bytes.clone());
        match bytes {
            Some(block) => self.broadcast(Payload::Proposal { proposal, block }),
            None => tracing::warn!(%block, "the bytes of a proposal are gone; it is not sent"),
        }
    }

    fn build(&mut self, round: Round) {
        let Some(current) = &mut self.current else {
            return;
        };
        let height = current.start.height;
        current.building = Some(round);
        let is_under_way = current.build.is_some() || current.built.is_some();
        if self.logged.is_none() && !is_under_way {
            current.build = Some(round);
            self.out.push(Effect::BuildBlock {
                height,
                round,
                budget: self.budget.in_round(round),
            });
        }
    }

    fn decided(&mut self, certificate: axolotl_common::CommitCertificate) {
        let Some(current) = &mut self.current else {
            return;
        };
        current.phase = Phase::Decided;
        current.building = None;
        // What is decided is stored at once: it waits for no build and no check.
        self.abandon();
        let Some(current) = &self.current else {
            return;
        };
        let body = current.bodies.get(&certificate.block);
        match body.filter(|body| body.state == BodyState::Valid) {
            Some(body) => {
                let bytes = body.bytes.clone();
                self.out.push(Effect::Commit { certificate, bytes });
            }
            // Dropped for want of room: others have it.
            None => self.out.push(Effect::Behind {
                height_seen: certificate.height.next(),
            }),
        }
        self.cancel_step_timers();
    }

    fn timer_id(&self, kind: TimerKind, round: Round) -> TimerId {
        TimerId {
            height: self.height().unwrap_or_default(),
            round,
            kind,
        }
    }

    fn set_timer(&mut self, kind: TimerKind, round: Round, after: std::time::Duration) {
        let id = self.timer_id(kind, round);
        self.timers.insert(id);
        self.out.push(Effect::SetTimer { id, after });
    }

    fn cancel_timer(&mut self, kind: TimerKind, round: Round) {
        let id = self.timer_id(kind, round);
        if self.timers.remove(&id) {
            self.out.push(Effect::CancelTimer(id));
        }
    }

    /// Forgets the timers of the core.
    fn cancel_step_timers(&mut self) {
        self.cancel_timers(|kind| {
            !matches!(
                kind,
                TimerKind::Behind | TimerKind::Amnesia | TimerKind::EmptyBlock
            )
        });
    }

    fn cancel_timers(&mut self, which: impl Fn(TimerKind) -> bool) {
        let gone: Vec<_> = self
            .timers
            .iter()
            .copied()
            .filter(|id| which(id.kind))
            .collect();
        for id in gone {
            self.timers.remove(&id);
            self.out.push(Effect::CancelTimer(id));
        }
    }

    fn act_ahead(&mut self, action: AheadAction) {
        match action {
            AheadAction::Wait => {}
            AheadAction::Patience(after) => self.set_timer(TimerKind::Behind, Round(0), after),
            AheadAction::Sync(height_seen, pause) => {
                self.out.push(Effect::Behind { height_seen });
                self.set_timer(TimerKind::Behind, Round(0), pause);
            }
        }
    }
}

/// Records first, then what needs no durability, then one flush, then what does.
fn durable_first(effects: Vec<Effect>) -> Vec<Effect> {
    let mut groups: BTreeMap<u8, Vec<Effect>> = BTreeMap::new();
    for effect in effects {
        let group = match effect {
            Effect::Append(_) => 0,
            Effect::Broadcast(_) | Effect::Commit { .. } | Effect::Sealed { .. } => 2,
            _ => 1,
        };
        groups.entry(group).or_default().push(effect);
    }
    if groups.contains_key(&0) && groups.contains_key(&2) {
        groups.entry(1).or_default().push(Effect::Flush);
    }
    groups.into_values().flatten().collect()
}
