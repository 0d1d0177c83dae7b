//! Turns effects of consensus into deeds, and what happens into inputs.

mod effects;
mod orders;
mod planned;
mod recovery;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use axolotl_common::{Hash, Height, KeyPair, PublicKey, Round};
use axolotl_consensus::{
    Admission, BlockSummary, Config, Driver, Input, LogRecord, Message, message::Payload,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::recovery::Task;
use super::{
    EngineError, EngineParts, EngineStatus, Inbound, StatusBook, base_fee_above, next_start,
    records::PendingRecord,
    recovery::promises::Kept,
    since,
    timers::Timers,
    worker::{Control, Done, Job},
};
use crate::{
    mempool::Mempool,
    network::{MessageToken, Network},
    storage::{Chain, ConsensusLog, DataDir, Head},
};

/// A timer far enough away to stand for "none".
const IDLE: Duration = Duration::from_secs(3_600);
/// The first look whether somebody lacks the record in force.
const RECOVERY_LOOK: Duration = Duration::from_secs(1);
/// The engine's loop and all it owns.
pub(super) struct Runner {
    driver: Driver,
    log: ConsensusLog,
    network: Network,
    chain: Chain,
    mempool: Mempool,
    jobs: mpsc::Sender<Job>,
    timers: Timers,
    start: Instant,
    key: PublicKey,
    work: bool,
    /// The build and the check under way, to cancel them by.
    build: Option<((Height, Round), Arc<Control>)>,
    check: Option<(Hash, Arc<Control>)>,
    record: PendingRecord,
    /// When the record that waits is told again.
    record_due: Duration,
    /// Why this volume must not vote, whatever the epoch.
    unfit: Option<String>,
    /// Signs statements and acknowledgements.
    identity: KeyPair,
    data: Arc<DataDir>,
    /// What was promised to registries.
    promises: Kept,
    /// Staging a draft or putting a record into force: one at most.
    tasks: JoinSet<Task>,
    /// When it is looked again whether somebody lacks the record in force.
    recovery_due: Duration,
    book: StatusBook,
    status: watch::Sender<EngineStatus>,
}

impl Runner {
    pub(super) fn new(
        parts: EngineParts,
        jobs: mpsc::Sender<Job>,
    ) -> Result<(Self, watch::Receiver<EngineStatus>), EngineError> {
        let spec = Arc::clone(parts.chain.spec());
        let axolotl = spec.genesis.axolotl();
        let (identity, key) = (parts.key.clone(), parts.key.public());
        let promises = Kept::open(&parts.data).map_err(|error| EngineError(error.to_string()))?;
        // A key that is no member's: the driver follows and signs nothing.
        let signing_key = if parts.unfit.is_some() {
            KeyPair::generate()
        } else {
            parts.key
        };
        let driver = Driver::new(Config {
            chain: spec.chain,
            key: signing_key,
            volume: parts.volume,
            timing: axolotl.timing.clone(),
            leader_term_blocks: axolotl.leader_term_blocks,
            max_block_bytes: spec.max_encoded_bytes(),
            incarnation: parts.incarnation,
            summary,
        });
        let next = next_start(&parts.chain);
        let (status, watched) = watch::channel(EngineStatus {
            height: next.height,
            round: Round(0),
            epoch: next.validators.epoch(),
            is_validator: next.validators.contains(&key),
            voting: false,
            pending: None,
            unfit: parts.unfit.clone(),
            sealed: None,
            misbehaving: BTreeSet::new(),
            faults: BTreeMap::new(),
            stretch: Duration::ZERO,
            asks_for_votes: false,
            work_since: None,
            last_decided: None,
            behind: None,
        });
        let runner = Self {
            driver,
            log: parts.log,
            network: parts.network,
            chain: parts.chain,
            mempool: parts.mempool,
            jobs,
            timers: Timers::default(),
            start: Instant::now(),
            key,
            work: false,
            build: None,
            check: None,
            record: PendingRecord::default(),
            record_due: IDLE,
            unfit: parts.unfit,
            identity,
            data: parts.data,
            promises,
            tasks: JoinSet::new(),
            recovery_due: RECOVERY_LOOK,
            book: parts.book,
            status,
        };
        Ok((runner, watched))
    }

    /// Replays the log, then works until shutdown.
    pub(super) async fn run(
        mut self,
        mut inbound: mpsc::Receiver<Inbound>,
        mut answers: mpsc::Receiver<Done>,
        shutdown: CancellationToken,
    ) -> Result<(), EngineError> {
        self.regain(&mut answers, &shutdown).await?;
        self.replay().await?;
        let changed = self.mempool.changed();
        self.check_work().await?;
        loop {
            let wake = self.timers.next().unwrap_or(since(self.start) + IDLE);
            let wake = match self.record.request() {
                Some(_) => wake.min(self.record_due),
                None => wake,
            };
            let wake = wake.min(self.recovery_due);
            let wake = tokio::time::Instant::from_std(self.start + wake);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = answers.recv() => self.on_done(done).await?,
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(task) => self.on_task(task),
                    Err(error) => return Err(EngineError(format!("a task of the engine: {error}"))),
                },
                () = tokio::time::sleep_until(wake) => self.on_timers().await?,
                Some(message) = inbound.recv() => self.on_inbound(message).await?,
                () = changed.notified() => self.check_work().await?,
            }
        }
        self.log
            .sync()
            .map_err(|error| EngineError(error.to_string()))
    }

    /// Feeds the log to consensus.
    async fn replay(&mut self) -> Result<(), EngineError> {
        let records = self.read_log()?;
        let replayed = records.len();
        let effects = self
            .driver
            .replay(since(self.start), next_start(&self.chain), records);
        self.perform(effects).await?;
        self.tell_begin();
        self.note_seals();
        let sealed = self.driver.sealed();
        self.status.send_modify(|status| status.sealed = sealed);
        self.facts(|facts| facts.sealed = sealed);
        tracing::info!(height = %self.height(), records = replayed, ?sealed, "consensus begins");
        Ok(())
    }

    /// Waits until sync has brought back the blocks that a damaged block log lost: this node voted
    /// above them, and consensus must not begin below its own votes.
    async fn regain(
        &mut self,
        answers: &mut mpsc::Receiver<Done>,
        shutdown: &CancellationToken,
    ) -> Result<(), EngineError> {
        let lost = self.chain.logged_height();
        while self.chain.head().height() < lost {
            tracing::warn!(head = %self.chain.head().height(), %lost, "blocks were damaged on disk; fetching them from peers before voting");
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                done = answers.recv() => match done {
                    Some(Done::Fatal(reason)) => return Err(EngineError(reason)),
                    Some(Done::Conflict(why)) => return Err(self.conflict(&why)),
                    Some(_) => {}
                    None => return Ok(()),
                },
            }
        }
        Ok(())
    }

    /// The records of the height to decide, of the one below, whose votes answer the amnesia checks of
    /// others, and the last seal.
    fn read_log(&self) -> Result<Vec<LogRecord>, EngineError> {
        let fail = |why: String| EngineError(format!("the consensus log cannot be read: {why}"));
        let next = next_start(&self.chain);
        let epoch = next.validators.epoch();
        let epoch_below = next.previous_validators.map_or(epoch, |set| set.epoch());
        let below = Height(next.height.0.saturating_sub(1));
        let mut records = Vec::new();
        for (epoch, height) in [(epoch_below, below), (epoch, next.height)] {
            let of_height = self.log.records_of(epoch, height);
            for bytes in of_height.map_err(|e| fail(e.to_string()))? {
                records.push(LogRecord::decode(&bytes).map_err(|e| fail(e.to_string()))?);
            }
        }
        if let Some(seal) = self.log.kept() {
            records.push(LogRecord::decode(&seal.bytes).map_err(|e| fail(e.to_string()))?);
        }
        Ok(records)
    }

    fn height(&self) -> Height {
        self.driver.height().unwrap_or_default()
    }

    async fn input(&mut self, input: Input) -> Result<(), EngineError> {
        let effects = self.driver.step(since(self.start), input);
        self.perform(effects).await
    }

    async fn on_done(&mut self, done: Done) -> Result<(), EngineError> {
        match done {
            Done::Built {
                height,
                round,
                block,
                bytes,
            } => {
                self.input(Input::Built {
                    height,
                    round,
                    block,
                    bytes,
                })
                .await
            }
            Done::Checked {
                height,
                round,
                block,
                verdict,
            } => {
                self.input(Input::Checked {
                    height,
                    round,
                    block,
                    verdict,
                })
                .await
            }
            Done::Head { head, decided } => self.on_head(&head, decided).await,
            Done::Conflict(why) => Err(self.conflict(&why)),
            Done::Fatal(reason) => Err(EngineError(reason)),
        }
    }

    async fn on_head(&mut self, head: &Head, decided: bool) -> Result<(), EngineError> {
        tracing::debug!(
            height = head.header.number, hash = %head.hash, transactions_gas = head.header.gas_used, decided, "block is final"
        );
        self.review_record();
        // First what is left to do, then the next height: it would begin for what is done already.
        self.check_work().await?;
        let governs = self.driver.epoch() != Some(head.validators.epoch());
        if head.height() >= self.height() || governs {
            self.status.send_modify(|status| {
                status.work_since = self.work.then(Instant::now);
                if decided {
                    status.last_decided = Some(Instant::now());
                }
            });
            self.input(Input::Begin(next_start(&self.chain))).await?;
            self.tell_begin();
        }
        Ok(())
    }

    fn tell_begin(&self) {
        let next = next_start(&self.chain);
        let (height, epoch) = (next.height, next.validators.epoch());
        let is_validator = next.validators.contains(&self.key);
        if self.status.borrow().epoch != epoch {
            tracing::info!(%epoch, %height, validators = next.validators.len(), quorum = next.validators.quorum(), is_validator, "a new epoch governs");
        }
        self.note_round();
        self.status.send_modify(|status| {
            status.height = height;
            status.round = Round(0);
            status.epoch = epoch;
            status.is_validator = is_validator;
            status.behind = status.behind.filter(|behind| *behind > height);
        });
    }

    async fn on_timers(&mut self) -> Result<(), EngineError> {
        while let Some(timer) = self.timers.pop_due(since(self.start)) {
            self.input(Input::Timer(timer)).await?;
        }
        if self.record_due <= since(self.start) {
            self.tell_record();
        }
        if self.recovery_due <= since(self.start) {
            self.greet_with_recovery();
        }
        self.note_round();
        Ok(())
    }

    fn note_round(&self) {
        let (round, asks) = (
            self.driver.round().unwrap_or_default(),
            self.driver.awaits_answers(),
        );
        let unfit = self.unfit();
        let is_unfit = unfit.is_some();
        let voting = self.driver.votes() && !is_unfit;
        self.status.send_if_modified(|status| {
            let moved = (status.round, status.asks_for_votes, status.voting)
                != (round, asks, voting)
                || status.unfit != unfit;
            (status.round, status.asks_for_votes, status.voting) = (round, asks, voting);
            status.unfit = unfit;
            status.stretch = self.driver.stretch();
            moved
        });
        self.facts(|facts| facts.unfit = is_unfit);
    }

    /// Why this node must not vote.
    fn unfit(&self) -> Option<String> {
        if self.unfit.is_some() {
            return self.unfit.clone();
        }
        if let Some(lost) = self.driver.lost_seal().filter(|_| self.driver.is_unfit()) {
            return Some(format!(
                "the log lacks the seal of epoch {lost} that this node told of"
            ));
        }
        if self.driver.is_unfit() {
            return Some("the log lacks a vote that this node signed".into());
        }
        let named = self.driver.other_volume()?;
        Some(format!(
            "the epoch names volume {named} for this key, and this is another one"
        ))
    }

    async fn on_inbound(&mut self, inbound: Inbound) -> Result<(), EngineError> {
        match inbound {
            Inbound::Message { from, bytes, token } => self.on_message(from, &bytes, token).await,
            Inbound::HighestVote { from, vote, seal } => {
                if let Some(seal) = seal {
                    self.input(Input::SealSeen(seal)).await?;
                }
                self.input(Input::HighestVoteSeen { from, vote }).await
            }
            Inbound::Ordered { order, reply } => self.on_order(*order, reply).await,
            Inbound::LockedWanted { block, reply } => {
                self.on_locked_wanted(block, reply);
                Ok(())
            }
            Inbound::RecordOrdered { record, reply } => {
                let answer = self.on_record_order(&record).await?;
                if reply.send(answer).is_err() {
                    tracing::debug!("nobody waits for what became of a record");
                }
                Ok(())
            }
            Inbound::RecordGossiped { from, bytes, token } => {
                self.on_record_gossip(from, &bytes, token).await
            }
            Inbound::Connected(peer) => {
                tracing::debug!(%peer, "a peer connected that may lack a record");
                self.greet_with_record();
                Ok(())
            }
        }
    }

    async fn on_message(
        &mut self,
        from: PublicKey,
        bytes: &[u8],
        token: MessageToken,
    ) -> Result<(), EngineError> {
        let message = match Message::decode(bytes, self.chain.spec().max_encoded_bytes()) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%from, %error, "a message of consensus does not decode");
                self.network.reject(token);
                return Ok(());
            }
        };
        match self.driver.judge(&message) {
            Admission::Accept => self.network.accept(token),
            Admission::Ignore(reason) => {
                tracing::trace!(%from, reason, "a message of consensus goes no further");
                self.network.ignore(token);
            }
            Admission::Reject(reason) => {
                tracing::debug!(%from, reason, "a message of consensus is wrong");
                self.network.reject(token);
                return Ok(());
            }
        }
        let voter = match &message.payload {
            Payload::Vote(vote) => Some(vote.vote.validator),
            _ => None,
        };
        self.input(Input::Message(message)).await?;
        if let Some(voter) = voter {
            self.note_vote_of(&voter);
        }
        Ok(())
    }

    /// Tells consensus whether there is something to put into a block.
    async fn check_work(&mut self) -> Result<(), EngineError> {
        let work = self.record.request().is_some()
            || self.chain.head().due.is_some()
            || self.mempool.has_executable(base_fee_above(&self.chain));
        if work == self.work {
            return Ok(());
        }
        self.work = work;
        self.status
            .send_modify(|status| status.work_since = work.then(Instant::now));
        self.input(Input::Work(work)).await
    }
}

/// What consensus must know of an encoded block, without executing it.
fn summary(bytes: &[u8]) -> Option<BlockSummary> {
    let header = axolotl_ledger::read_header(bytes).ok()?;
    Some(BlockSummary {
        hash: Hash(header.hash_slow().0),
        height: Height(header.number),
        builder: axolotl_ledger::block::builder_of(&header)?,
    })
}
