//! Turns effects of consensus into deeds, and what happens into inputs.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::Bytes;
use axolotl_common::{Hash, Height, KeyPair, PublicKey, Round};
use axolotl_consensus::{
    Admission, BlockSummary, Config, Driver, Effect, Input, LogRecord, Message,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    EngineError, EngineParts, EngineStatus, Inbound, VoteBook, base_fee_above, next_start, since,
    timers::Timers,
    worker::{Done, Job},
};
use crate::{
    mempool::Mempool,
    network::{MessageToken, Network},
    storage::{Chain, ConsensusLog, Head},
};

/// A timer far enough away to stand for "none".
const IDLE: Duration = Duration::from_secs(3_600);

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
    votes: VoteBook,
    status: watch::Sender<EngineStatus>,
}

impl Runner {
    pub(super) fn new(
        parts: EngineParts,
        jobs: mpsc::Sender<Job>,
    ) -> Result<(Self, watch::Receiver<EngineStatus>), EngineError> {
        let spec = Arc::clone(parts.chain.spec());
        let axolotl = spec.genesis.axolotl();
        let key = parts.key.public();
        // A key that is no member's: the driver follows and signs nothing.
        let signing_key = if parts.unfit.is_some() {
            KeyPair::generate()
        } else {
            parts.key
        };
        let driver = Driver::new(Config {
            chain: spec.chain,
            key: signing_key,
            timing: axolotl.timing.clone(),
            leader_term_blocks: axolotl.leader_term_blocks,
            max_block_bytes: spec.max_block_bytes,
            incarnation: parts.incarnation,
            summary,
        });
        let next = next_start(&parts.chain);
        let (status, watched) = watch::channel(EngineStatus {
            height: next.height,
            round: Round(0),
            epoch: next.validators.epoch(),
            is_validator: next.validators.contains(&key),
            unfit: parts.unfit,
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
            votes: parts.votes,
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
        let records = self.read_log()?;
        let replayed = records.len();
        let effects = self
            .driver
            .replay(since(self.start), next_start(&self.chain), records);
        self.perform(effects).await?;
        self.tell_begin();
        tracing::info!(height = %self.height(), records = replayed, "consensus begins");
        let changed = self.mempool.changed();
        self.check_work().await?;
        loop {
            let wake = self.timers.next().unwrap_or(since(self.start) + IDLE);
            let wake = tokio::time::Instant::from_std(self.start + wake);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = answers.recv() => self.on_done(done).await?,
                () = tokio::time::sleep_until(wake) => self.on_timers().await?,
                Some(message) = inbound.recv() => self.on_inbound(message).await?,
                () = changed.notified() => self.check_work().await?,
            }
        }
        self.log
            .sync()
            .map_err(|error| EngineError(error.to_string()))
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
                    Some(_) => {}
                    None => return Ok(()),
                },
            }
        }
        Ok(())
    }

    /// The records of the height to decide, and of the one below, whose votes answer the amnesia
    /// checks of others.
    fn read_log(&self) -> Result<Vec<LogRecord>, EngineError> {
        let fail = |why: String| EngineError(format!("the consensus log cannot be read: {why}"));
        let next = next_start(&self.chain);
        let below = Height(next.height.0.saturating_sub(1));
        let mut records = Vec::new();
        for height in [below, next.height] {
            let of_height = self.log.records_of(next.validators.epoch(), height);
            for bytes in of_height.map_err(|e| fail(e.to_string()))? {
                records.push(LogRecord::decode(&bytes).map_err(|e| fail(e.to_string()))?);
            }
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
                block,
                verdict,
            } => {
                self.input(Input::Checked {
                    height,
                    block,
                    verdict,
                })
                .await
            }
            Done::Head { head, decided } => self.on_head(&head, decided).await,
            Done::Fatal(reason) => Err(EngineError(reason)),
        }
    }

    async fn on_head(&mut self, head: &Head, decided: bool) -> Result<(), EngineError> {
        tracing::debug!(
            height = head.header.number, hash = %head.hash, transactions_gas = head.header.gas_used, decided, "block is final"
        );
        // First what is left to do, then the next height: it would begin for what is done already.
        self.check_work().await?;
        if head.height() >= self.height() {
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
        self.note_round();
        Ok(())
    }

    fn note_round(&self) {
        let (round, asks) = (
            self.driver.round().unwrap_or_default(),
            self.driver.awaits_answers(),
        );
        self.status.send_if_modified(|status| {
            let moved = (status.round, status.asks_for_votes) != (round, asks);
            (status.round, status.asks_for_votes) = (round, asks);
            moved
        });
    }

    async fn on_inbound(&mut self, inbound: Inbound) -> Result<(), EngineError> {
        match inbound {
            Inbound::Message { from, bytes, token } => self.on_message(from, &bytes, token).await,
            Inbound::HighestVote { from, vote } => {
                self.input(Input::HighestVoteSeen { from, vote }).await
            }
        }
    }

    async fn on_message(
        &mut self,
        from: PublicKey,
        bytes: &[u8],
        token: MessageToken,
    ) -> Result<(), EngineError> {
        let message = match Message::decode(bytes, self.chain.spec().max_block_bytes) {
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
        self.input(Input::Message(message)).await
    }

    /// Tells consensus whether there is something to put into a block.
    async fn check_work(&mut self) -> Result<(), EngineError> {
        let work = self.mempool.has_executable(base_fee_above(&self.chain));
        if work == self.work {
            return Ok(());
        }
        self.work = work;
        self.status
            .send_modify(|status| status.work_since = work.then(Instant::now));
        self.input(Input::Work(work)).await
    }

    async fn job(&self, job: Job) -> Result<(), EngineError> {
        self.jobs
            .send(job)
            .await
            .map_err(|_| EngineError("the worker thread has ended".into()))
    }

    /// Performs effects strictly in order.
    async fn perform(&mut self, effects: Vec<Effect>) -> Result<(), EngineError> {
        let mut logged = false;
        for effect in effects {
            match effect {
                Effect::Append(record) => {
                    logged = true;
                    self.log
                        .append(record.epoch, record.height, &record.encode())
                        .map_err(|error| EngineError(error.to_string()))?;
                }
                Effect::Flush => self
                    .log
                    .sync()
                    .map_err(|error| EngineError(error.to_string()))?,
                Effect::Broadcast(message) => self.broadcast(&message),
                Effect::SetTimer { id, after } => self.timers.set(id, since(self.start) + after),
                Effect::CancelTimer(id) => self.timers.cancel(id),
                Effect::BuildBlock { height, round } => {
                    self.job(Job::Build { height, round }).await?;
                }
                Effect::CheckBlock {
                    height,
                    block,
                    bytes,
                    ..
                } => {
                    self.job(Job::Check {
                        height,
                        block,
                        bytes,
                    })
                    .await?;
                }
                Effect::Commit { certificate, bytes } => {
                    self.job(Job::Commit { certificate, bytes }).await?;
                }
                Effect::Behind { height_seen } => self.status.send_modify(|status| {
                    status.behind = status.behind.max(Some(height_seen));
                }),
                Effect::Misbehaviour(evidence) => {
                    tracing::error!(validator = %evidence.validator(), ?evidence, "a validator signed two things that contradict each other; remove it from the set");
                }
                Effect::AskHighestVotes => {
                    tracing::info!("asking the other validators for this node's last vote");
                }
                Effect::Unfit { vote } => {
                    tracing::error!(
                        ?vote,
                        "this node signed a vote that its log does not know: the log was rolled back, or its key is used twice. It votes no more; wipe its data directory and let it join anew"
                    );
                    self.status.send_modify(|status| {
                        status.unfit = Some("the log lacks a vote that this node signed".into());
                    });
                }
                Effect::Fatal(reason) => return Err(EngineError(reason)),
            }
        }
        if logged {
            self.note_votes();
        }
        self.note_round();
        Ok(())
    }

    /// Gossip is best effort: consensus sends its votes again.
    fn broadcast(&self, message: &Message) {
        if let Err(error) = self.network.publish_consensus(message.encode()) {
            tracing::warn!(%error, height = %message.height(), "a message of consensus was not sent");
        }
    }

    /// Keeps what the status exchange tells each validator about its own votes.
    fn note_votes(&self) {
        let head = self.chain.head();
        let known = head.validators.members().iter().filter_map(|member| {
            let vote = self.driver.highest_vote_of(&member.public_key)?;
            let bytes = borsh::to_vec(vote).expect("writing to a Vec does not fail");
            Some((member.public_key, Bytes::from(bytes)))
        });
        *self.votes.lock().unwrap_or_else(PoisonError::into_inner) = known.collect();
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
