//! The engine: performs what consensus decides.
//!
//! ```text
//! network ──message──▶ runner ──Input──▶ axolotl_consensus::Driver
//!    ▲                   │  ◀──Effect──┘
//!    └──── Broadcast ────┤
//!                        ├─ Append, Flush ─▶ consensus log (synced before anything is sent)
//!                        ├─ SetTimer ──────▶ timers
//!                        └─ Build, Check, Commit ─▶ worker thread ─▶ chain, pool
//! chain sync ───────────────── Apply ──────────────────▶ ┘
//! ```
//!
//! The runner lives on a thread of its own with a single-threaded runtime: it syncs the consensus
//! log itself, and no other task waits for that. The worker thread is the only writer of the chain.
//!
//! A planned record of the registry waits in the runner until a block carries it: [`records`]. What the
//! engine does when a quorum is lost: [`recovery`].
//!
//! Guarantees: effects are performed strictly in order; a failed write ends the process before
//! anything that depends on it leaves it; a height begins only after the block before it is durable.

mod records;
mod recovery;
mod runner;
mod timers;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::Bytes;
use axolotl_common::{
    Epoch, Hash, Height, KeyPair, PublicKey, Round, SignedRecord, VolumeId,
    membership::MAX_MEMBERS,
    recovery::SealNote,
    registry_api::{Order, ProposalFaultReport, RecoveryAnswer},
};
use axolotl_consensus::{HeightStart, ProposalFault, SignedVote};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::recovery::{Arrival, Arrivals, OrderAnswer, StatusBook, StatusFacts};
use self::{
    recovery::ORDER_PATIENCE,
    runner::Runner,
    worker::{JOB_QUEUE, Job, Worker},
};
pub(crate) use self::{
    recovery::follows_a_seal,
    worker::{base_fee_above, sender_state},
};
use crate::{
    chain_sync::ApplyError,
    mempool::Mempool,
    network::{MessageToken, Network, SyncBlock},
    storage::{Chain, ConsensusLog, DataDir},
};

/// Messages from peers that may wait for the engine; beyond that they are dropped and counted
/// (peers send votes again, and sync brings blocks).
const INBOX: usize = 4_096;
/// Answers of the worker that may wait for the engine: more than jobs can be under way, so that the
/// two never wait for each other.
const DONE_QUEUE: usize = 4 * JOB_QUEUE;

/// An order is given up when the engine has not looked at it for so long: it waits for blocks that
/// its disk lost, and the registry sends the order again.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);

/// Name of the small record in the data directory that says how the chain contradicts a record of the
/// authority: such a volume votes no more.
pub const CONFLICT_RECORD: &str = "conflict";

/// What reaches the engine from outside.
enum Inbound {
    /// A message of consensus, not yet authenticated.
    Message {
        from: PublicKey,
        bytes: Bytes,
        token: MessageToken,
    },
    /// A peer's answer to "what is the highest vote of mine that you hold?", and its word of a seal.
    HighestVote {
        from: PublicKey,
        vote: Option<SignedVote>,
        seal: Option<SealNote>,
    },
    /// An order about a recovery, answered with what became of it.
    Ordered {
        order: Box<Order>,
        reply: oneshot::Sender<OrderAnswer>,
    },
    /// A peer asks for a block that is not final.
    LockedWanted {
        block: Hash,
        reply: oneshot::Sender<Option<Bytes>>,
    },
    /// A planned record, by order of the registry; answered with what became of it.
    RecordOrdered {
        record: Box<SignedRecord>,
        reply: oneshot::Sender<Result<String, String>>,
    },
    /// A record from a peer, not looked at yet.
    RecordGossiped {
        from: PublicKey,
        bytes: Bytes,
        token: MessageToken,
    },
    /// A peer that may lack the record which waits, or the one in force.
    Connected(PublicKey),
}

/// How consensus fares.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    /// Height being decided.
    pub height: Height,
    /// Its round.
    pub round: Round,
    /// Epoch that governs it.
    pub epoch: Epoch,
    /// Whether this node is a member of the epoch.
    pub is_validator: bool,
    /// Whether it votes in it: a member whose volume the record names and whose amnesia check is
    /// through.
    pub voting: bool,
    /// Epoch of the planned record that waits for a block.
    pub pending: Option<Epoch>,
    /// Why this node must not vote with this volume.
    pub unfit: Option<String>,
    /// It is sealed in this epoch and all before it.
    pub sealed: Option<Epoch>,
    /// Validators that this process saw sign two things in one place; as many as a record may name.
    pub misbehaving: BTreeSet<PublicKey>,
    /// Proposals that this process could not vote for, by validator; as many as a record may name.
    pub faults: BTreeMap<PublicKey, ProposalFaults>,
    /// The least timeout of a step at this height, raised by slow executions; zero when none was.
    pub stretch: Duration,
    /// Since when there is work that no block has taken up.
    pub work_since: Option<Instant>,
    /// When votes last decided a block in this process.
    pub last_decided: Option<Instant>,
    /// Whether the amnesia check waits for what peers hold of this node's votes.
    pub asks_for_votes: bool,
    /// A height above ours that an authenticated message spoke of.
    pub behind: Option<Height>,
}

/// Proposals of one validator that this process could not vote for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProposalFaults {
    /// Blocks that were not valid.
    pub invalid: u64,
    /// Blocks whose execution did not end within their round.
    pub not_in_time: u64,
}

impl EngineStatus {
    /// The faults as the status and the heartbeat report them.
    pub fn fault_reports(&self) -> Vec<ProposalFaultReport> {
        let report = |(validator, faults): (&PublicKey, &ProposalFaults)| ProposalFaultReport {
            validator: *validator,
            invalid: faults.invalid,
            not_in_time: faults.not_in_time,
        };
        self.faults.iter().map(report).collect()
    }

    fn note_fault(&mut self, proposer: PublicKey, fault: ProposalFault) {
        if self.faults.len() >= MAX_MEMBERS && !self.faults.contains_key(&proposer) {
            return;
        }
        let faults = self.faults.entry(proposer).or_default();
        match fault {
            ProposalFault::Invalid => faults.invalid += 1,
            ProposalFault::NotInTime => faults.not_in_time += 1,
        }
    }
}

/// What the engine is made of.
pub struct EngineParts {
    /// Key of this node.
    pub key: KeyPair,
    /// The chain.
    pub chain: Chain,
    /// The pool.
    pub mempool: Mempool,
    /// The consensus log.
    pub log: ConsensusLog,
    /// Why this node must not vote although it may be a member; it follows then.
    pub unfit: Option<String>,
    /// Data directory of this node.
    pub volume: VolumeId,
    /// The network.
    pub network: Network,
    /// Starts of the data directory.
    pub incarnation: u64,
    /// Where the engine keeps what the status exchange answers from.
    pub book: StatusBook,
    /// The data directory: keeps what was promised in a recovery.
    pub data: Arc<DataDir>,
}

/// Speaks to the engine.
#[derive(Clone)]
pub struct Engine {
    inbox: mpsc::Sender<Inbound>,
    jobs: mpsc::Sender<Job>,
    chain: Chain,
    book: StatusBook,
    status: watch::Receiver<EngineStatus>,
}

/// Why the engine ended.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

impl Engine {
    /// Starts runner and worker. The receiver answers when the engine ends: with `Ok` after
    /// `shutdown`, with the reason if it cannot go on.
    ///
    /// # Errors
    /// When the consensus log cannot be read or a thread cannot be started.
    pub fn start(
        parts: EngineParts,
        shutdown: CancellationToken,
    ) -> Result<(Self, oneshot::Receiver<Result<(), EngineError>>), EngineError> {
        let (inbox, inbound) = mpsc::channel(INBOX);
        let (jobs, job_queue) = mpsc::channel(JOB_QUEUE);
        let (done, answers) = mpsc::channel(DONE_QUEUE);
        let (ended, end) = oneshot::channel();
        let (chain, book) = (parts.chain.clone(), Arc::clone(&parts.book));
        let worker = Worker::new(
            parts.chain.clone(),
            parts.mempool.clone(),
            parts.key.public(),
            done,
        );
        let (runner, status) = Runner::new(parts, jobs.clone())?;
        spawn("worker", move || worker.run(job_queue))?;
        spawn("engine", move || {
            let outcome = match tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
            {
                Ok(runtime) => runtime.block_on(runner.run(inbound, answers, shutdown)),
                Err(error) => Err(EngineError(format!(
                    "the engine's runtime did not start: {error}"
                ))),
            };
            if ended.send(outcome).is_err() {
                tracing::debug!("nobody waits for the end of the engine");
            }
        })?;
        Ok((
            Self {
                inbox,
                jobs,
                chain,
                book,
                status,
            },
            end,
        ))
    }

    /// Hands over a message of consensus from a peer.
    ///
    /// # Errors
    /// Gives the token back when there is no room.
    pub fn deliver(
        &self,
        from: PublicKey,
        bytes: Bytes,
        token: MessageToken,
    ) -> Result<(), MessageToken> {
        let room = self.inbox.try_reserve();
        match room {
            Ok(permit) => {
                permit.send(Inbound::Message { from, bytes, token });
                Ok(())
            }
            Err(_) => Err(token),
        }
    }

    /// Hands over what a peer knows of this node's highest vote and of its seal. Statuses come every
    /// second, so one that finds no room is not missed.
    pub fn highest_vote_seen(
        &self,
        from: PublicKey,
        vote: Option<SignedVote>,
        seal: Option<SealNote>,
    ) {
        let news = {
            let status = self.status.borrow();
            status.asks_for_votes || seal.is_some_and(|seal| status.sealed < Some(seal.epoch))
        };
        if news {
            drop(
                self.inbox
                    .try_send(Inbound::HighestVote { from, vote, seal }),
            );
        }
    }

    /// Carries out an order about a recovery, or puts a recovery record into force.
    pub async fn obey(&self, order: Order) -> OrderAnswer {
        let failed = |why: &str| OrderAnswer {
            outcome: Err(why.to_owned()),
            recovery: Box::new(RecoveryAnswer::default()),
        };
        let (reply, answer) = oneshot::channel();
        let order = Box::new(order);
        let busy = "the engine is busy; send the order again";
        if self
            .inbox
            .try_send(Inbound::Ordered { order, reply })
            .is_err()
        {
            return failed(busy);
        }
        match tokio::time::timeout(ORDER_PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => failed("the node is stopping"),
            Err(_) => failed(busy),
        }
    }

    /// The block of this hash, which is not final: the one that this node is locked on or has staged.
    pub async fn locked_block(&self, block: Hash) -> Option<Bytes> {
        let (reply, answer) = oneshot::channel();
        let wanted = Inbound::LockedWanted { block, reply };
        self.inbox.try_send(wanted).ok()?;
        answer.await.ok()?
    }

    /// Keeps a planned record until a block carries it. Says what became of it.
    ///
    /// # Errors
    /// Says why no block may carry it.
    pub async fn order_record(&self, record: SignedRecord) -> Result<String, String> {
        let (reply, answer) = oneshot::channel();
        let order = Inbound::RecordOrdered {
            record: Box::new(record),
            reply,
        };
        let busy = || "the engine is busy; send the record again".to_owned();
        self.inbox.try_send(order).map_err(|_| busy())?;
        match tokio::time::timeout(RECORD_PATIENCE, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("the node is stopping".into()),
            Err(_) => Err(busy()),
        }
    }

    /// Hands over a record that a peer gossiped.
    ///
    /// # Errors
    /// Gives the token back when there is no room.
    pub fn deliver_record(
        &self,
        from: PublicKey,
        bytes: Bytes,
        token: MessageToken,
    ) -> Result<(), MessageToken> {
        match self.inbox.try_reserve() {
            Ok(permit) => {
                permit.send(Inbound::RecordGossiped { from, bytes, token });
                Ok(())
            }
            Err(_) => Err(token),
        }
    }

    /// A peer connected, which may lack the record that waits or the one in force. Without room it hears
    /// of it with the next repetition.
    pub fn peer_connected(&self, peer: PublicKey) {
        if self.status.borrow().pending.is_some() || self.chain.newest_record().is_some() {
            drop(self.inbox.try_send(Inbound::Connected(peer)));
        }
    }

    /// Verifies, executes and stores blocks from sync; answers with the new height of the head.
    /// Blocks the thread, which must not be one of a runtime's own.
    ///
    /// # Errors
    /// When a block is not what a quorum decided, or the engine is shutting down.
    pub fn apply(&self, blocks: Vec<SyncBlock>) -> Result<Height, ApplyError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || ApplyError {
            tip: self.chain.tip().height(),
            peer_fault: false,
            why: "the engine has stopped".into(),
        };
        self.jobs
            .blocking_send(Job::Apply { blocks, reply })
            .map_err(|_| stopped())?;
        answer.blocking_recv().map_err(|_| stopped())?
    }

    /// Whose votes arrive at this node.
    pub fn arrivals(&self) -> Arrivals {
        let facts = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        facts.arrivals.clone()
    }

    /// How consensus fares, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<EngineStatus> {
        self.status.clone()
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .map_err(|error| EngineError(format!("the {name} thread did not start: {error}")))
}

/// Monotonic time since `start`, as consensus wants it.
fn since(start: Instant) -> Duration {
    start.elapsed()
}

/// Where consensus goes on: above the head.
fn next_start(chain: &Chain) -> HeightStart {
    let head = chain.head();
    HeightStart {
        height: head.height().next(),
        validators: Arc::clone(&head.validators),
        last_builder: head.last_builder,
        previous_validators: head.previous_validators.clone(),
        last_certificate: head.certificate.clone(),
    }
}
