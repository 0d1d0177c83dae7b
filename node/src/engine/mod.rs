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
//! Guarantees: effects are performed strictly in order; a failed write ends the process before
//! anything that depends on it leaves it; a height begins only after the block before it is durable.

mod runner;
mod timers;
mod worker;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use alloy_primitives::Bytes;
use axolotl_common::{Epoch, Height, KeyPair, PublicKey, Round};
use axolotl_consensus::{HeightStart, SignedVote};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::worker::{base_fee_above, sender_state};
use self::{
    runner::Runner,
    worker::{JOB_QUEUE, Job, Worker},
};
use crate::{
    chain_sync::ApplyError,
    mempool::Mempool,
    network::{MessageToken, Network, SyncBlock},
    storage::{Chain, ConsensusLog},
};

/// Messages from peers that may wait for the engine; beyond that they are dropped and counted
/// (peers send votes again, and sync brings blocks).
const INBOX: usize = 4_096;
/// Answers of the worker that may wait for the engine: more than jobs can be under way, so that the
/// two never wait for each other.
const DONE_QUEUE: usize = 4 * JOB_QUEUE;

/// What reaches the engine from outside.
enum Inbound {
    /// A message of consensus, not yet authenticated.
    Message {
        from: PublicKey,
        bytes: Bytes,
        token: MessageToken,
    },
    /// A peer's answer to "what is the highest vote of mine that you hold?".
    HighestVote {
        from: PublicKey,
        vote: Option<SignedVote>,
    },
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
    /// Whether this node votes.
    pub is_validator: bool,
    /// Why this node must not vote although it is a member.
    pub unfit: Option<String>,
    /// Since when there is work that no block has taken up.
    pub work_since: Option<Instant>,
    /// When votes last decided a block in this process.
    pub last_decided: Option<Instant>,
    /// Whether the amnesia check waits for what peers hold of this node's votes.
    pub asks_for_votes: bool,
    /// A height above ours that an authenticated message spoke of.
    pub behind: Option<Height>,
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
    /// The network.
    pub network: Network,
    /// Starts of the data directory.
    pub incarnation: u64,
    /// Where the engine keeps what the status exchange answers from.
    pub votes: VoteBook,
}

/// Highest vote of each validator in the durable log of this node, borsh; read by the status
/// exchange.
pub type VoteBook = Arc<Mutex<BTreeMap<PublicKey, Bytes>>>;

/// Speaks to the engine.
#[derive(Clone)]
pub struct Engine {
    inbox: mpsc::Sender<Inbound>,
    jobs: mpsc::Sender<Job>,
    chain: Chain,
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
        let chain = parts.chain.clone();
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

    /// Hands over what a peer knows of this node's highest vote. Statuses come every second, so one
    /// that finds no room is not missed.
    pub fn highest_vote_seen(&self, from: PublicKey, vote: Option<SignedVote>) {
        if self.status.borrow().asks_for_votes {
            drop(self.inbox.try_send(Inbound::HighestVote { from, vote }));
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
        previous_validators: None,
        last_certificate: head.certificate.clone(),
    }
}
