//! The one writer of the chain: builds, checks and commits blocks on a thread of its own.
//!
//! Consensus and sync both extend the chain. They do so as jobs of this thread, one after the
//! other, so that a block is always executed on top of the block before it. Answers go back to the
//! engine, which never waits for an execution.

mod foreign;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256, keccak256};
use axolotl_common::{
    CommitCertificate, EpochRecord, Hash, Height, PublicKey, Round, SignedRecord, recovery::Ballot,
};
use axolotl_consensus::Verdict;
use axolotl_ledger::{
    Block, BlockAttributes, ExecutedBlock, ExecutionError, FlatState, TransactionError, Tx,
    TxSource, next_base_fee,
};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    chain_sync::ApplyError,
    mempool::{Mempool, SenderState},
    network::SyncBlock,
    storage::{ActivateError, Activated, Chain, Head, StageError, StorageError},
};

/// Jobs that may wait for the thread. The engine waits for room beyond that: it has at most a
/// handful under way.
pub(super) const JOB_QUEUE: usize = 64;
/// Time that filling a block may take: beyond it the block is closed as it is, so that validators
/// have time to execute it within a round.
const BUILD_TIME_MAX: Duration = Duration::from_millis(150);
/// Executed blocks kept for the commit of one height; honest rounds need one or two.
const EXECUTED_MAX: usize = 8;
/// How far ahead of the local clock the time stamp of a proposed block may be, seconds.
const CLOCK_AHEAD_MAX_S: u64 = 15;

/// What the thread is asked to do.
pub(super) enum Job {
    /// Build a block on top of the head.
    Build {
        /// Height of the block.
        height: Height,
        /// Round that it is for.
        round: Round,
        /// The planned record that waits for a block; left out if no block may carry it any more.
        record: Option<Bytes>,
    },
    /// Execute a proposed block as for a prevote.
    Check {
        /// Height of the block.
        height: Height,
        /// Its hash.
        block: Hash,
        /// Its encoding.
        bytes: Bytes,
    },
    /// Store a decided block.
    Commit {
        /// Proof that it is final.
        certificate: CommitCertificate,
        /// Its encoding.
        bytes: Bytes,
    },
    /// Execute and store blocks from sync, whose proofs the thread verifies.
    Apply {
        /// Consecutive blocks.
        blocks: Vec<SyncBlock>,
        /// The new height of the head, or why not.
        reply: oneshot::Sender<Result<Height, ApplyError>>,
    },
    /// Put a recovery or forced record into force; a conflict ends the process.
    Activate {
        /// The record.
        record: Box<SignedRecord>,
        /// The encoded block that it adopts, if somebody gave it; else the staged one is used.
        block: Option<Bytes>,
        /// What became of it. The new head comes before, as [`Done::Head`].
        reply: oneshot::Sender<Result<Activated, ActivateError>>,
    },
    /// Keep a draft with the block that it adopts.
    Stage {
        /// The ballot of the order.
        ballot: Ballot,
        /// The draft.
        draft: Box<EpochRecord>,
        /// The encoded block that it adopts, if the chain does not hold it.
        block: Option<Bytes>,
        /// Whether it is staged, durably.
        reply: oneshot::Sender<Result<(), StageError>>,
    },
}

/// What came of a job.
pub(super) enum Done {
    /// A block was built.
    Built {
        /// Height of the block.
        height: Height,
        /// Round that it is for.
        round: Round,
        /// Its hash.
        block: Hash,
        /// Its encoding.
        bytes: Bytes,
    },
    /// A block was executed.
    Checked {
        /// Height of the block.
        height: Height,
        /// Its hash.
        block: Hash,
        /// What came out.
        verdict: Verdict,
    },
    /// The head moved, or another epoch governs what comes after it; `decided` says whether by votes of
    /// this process (else by sync or by a record).
    Head {
        /// The new head.
        head: Arc<Head>,
        /// By votes?
        decided: bool,
    },
    /// The chain contradicts a record of the authority; [`Done::Fatal`] follows.
    Conflict(String),
    /// The process cannot go on.
    Fatal(String),
}

/// State of the thread.
pub(super) struct Worker {
    pub(super) chain: Chain,
    pub(super) mempool: Mempool,
    pub(super) key: PublicKey,
    pub(super) done: mpsc::Sender<Done>,
    /// Blocks executed on top of the tip, by hash.
    executed: BTreeMap<B256, ExecutedBlock>,
}

/// Why the thread gives up.
struct Fatal(String);

/// Why a block was not executed.
enum Refusal {
    /// The block is at fault.
    Invalid(String),
    /// The state could not be read.
    State(String),
}

impl From<ExecutionError> for Refusal {
    fn from(error: ExecutionError) -> Self {
        match error {
            ExecutionError::State(error) => Self::State(error.to_string()),
            error => Self::Invalid(error.to_string()),
        }
    }
}

impl From<StorageError> for Fatal {
    fn from(error: StorageError) -> Self {
        Self(error.to_string())
    }
}

impl Worker {
    /// A worker for this chain.
    pub(super) fn new(
        chain: Chain,
        mempool: Mempool,
        key: PublicKey,
        done: mpsc::Sender<Done>,
    ) -> Self {
        Self {
            chain,
            mempool,
            key,
            done,
            executed: BTreeMap::new(),
        }
    }

    /// Works until the queue is closed or something fatal happened.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            let outcome = match job {
                Job::Build {
                    height,
                    round,
                    record,
                } => self.build(height, round, record),
                Job::Check {
                    height,
                    block,
                    bytes,
                } => self.check(height, block, &bytes),
                Job::Commit { certificate, bytes } => self.commit(certificate, &bytes),
                Job::Apply { blocks, reply } => self.apply(&blocks, reply),
                Job::Activate {
                    record,
                    block,
                    reply,
                } => self.on_record(&record, block.as_deref(), reply),
                Job::Stage {
                    ballot,
                    draft,
                    block,
                    reply,
                } => self.stage(ballot, &draft, block.as_deref(), reply),
            };
            if let Err(Fatal(reason)) = outcome {
                self.answer(Done::Fatal(reason));
                return;
            }
        }
    }

    /// An answer that nobody takes any more is of no use to anybody: the engine is shutting down.
    fn answer(&self, done: Done) {
        if self.done.blocking_send(done).is_err() {
            tracing::debug!("the engine has stopped");
        }
    }

    fn next_height(&self) -> Height {
        self.chain.tip().height().next()
    }

    fn build(&mut self, height: Height, round: Round, record: Option<Bytes>) -> Result<(), Fatal> {
        if self.next_height() != height {
            return Ok(());
        }
        let tip = self.chain.tip();
        let base_fee = base_fee_above(&self.chain);
        let attributes = BlockAttributes {
            timestamp: unix_now_s().max(tip.header.timestamp),
            builder: self.key,
            requests: record.into_iter().map(Into::into).collect(),
        };
        let mut source = Closing {
            inner: self.mempool.best(base_fee),
            closes: Instant::now() + BUILD_TIME_MAX,
        };
        let built = match self.chain.build(attributes, &mut source) {
            Ok(built) => built,
            Err(ExecutionError::State(error)) => return Err(Fatal(error.to_string())),
            Err(error) => return Err(Fatal(format!("a block of our own is invalid: {error}"))),
        };
        let (block, bytes) = (Hash(built.hash.0), built.bytes.clone().0);
        self.keep(built);
        self.answer(Done::Built {
            height,
            round,
            block,
            bytes,
        });
        Ok(())
    }

    fn check(&mut self, height: Height, block: Hash, bytes: &[u8]) -> Result<(), Fatal> {
        if self.next_height() != height {
            return Ok(());
        }
        let verdict = match self.execute(bytes, Some(unix_now_s() + CLOCK_AHEAD_MAX_S)) {
            Ok(executed) if executed.hash.0 != block.0 => {
                Verdict::Invalid("hash and bytes differ".into())
            }
            Ok(executed) => {
                self.keep(executed);
                Verdict::Valid
            }
            Err(Refusal::State(error)) => return Err(Fatal(error)),
            Err(Refusal::Invalid(reason)) => Verdict::Invalid(reason),
        };
        if let Verdict::Invalid(reason) = &verdict {
            tracing::warn!(%height, %block, %reason, "a proposed block is invalid; voting nil");
        }
        self.answer(Done::Checked {
            height,
            block,
            verdict,
        });
        Ok(())
    }

    fn keep(&mut self, executed: ExecutedBlock) {
        if self.executed.len() >= EXECUTED_MAX {
            self.executed.pop_first();
        }
        self.executed.insert(executed.hash, executed);
    }

    /// Decodes and executes a block on top of the tip. `latest` bounds its time stamp.
    fn execute(&self, bytes: &[u8], latest: Option<u64>) -> Result<ExecutedBlock, Refusal> {
        let lookup = |hash: &B256| self.mempool.get(hash);
        let block = Block::decode(bytes, self.chain.spec().chain.id, &lookup)
            .map_err(|error| Refusal::Invalid(error.to_string()))?;
        if let Some(latest) = latest.filter(|latest| block.header.timestamp > *latest) {
            return Err(Refusal::Invalid(format!(
                "its time stamp {} is more than {CLOCK_AHEAD_MAX_S} s ahead of this node's clock, which allows up to {latest}",
                block.header.timestamp
            )));
        }
        Ok(self.chain.execute(block)?)
    }

    fn commit(&mut self, certificate: CommitCertificate, bytes: &[u8]) -> Result<(), Fatal> {
        if certificate.height != self.next_height() {
            // Sync was first; the chain holds one block per height, and it must be this one.
            let stored = self.chain.block(certificate.height)?;
            return match stored {
                Some(stored) if stored.hash.0 == certificate.block.0 => Ok(()),
                _ => Err(Fatal(format!(
                    "block {} was decided at height {}, where the chain holds another or none",
                    certificate.block, certificate.height
                ))),
            };
        }
        let in_force = self.chain.tip().validators.epoch();
        if certificate.epoch != in_force {
            let why = format!(
                "block {} of height {} was decided by epoch {}, but a record has put epoch {in_force} \
                 into force there: one of the two is a fork",
                certificate.block, certificate.height, certificate.epoch
            );
            self.answer(Done::Conflict(why.clone()));
            return Err(Fatal(why));
        }
        let executed = match self.executed.remove(&B256::from(certificate.block.0)) {
            Some(executed) => executed,
            None => match self.execute(bytes, None) {
                Ok(executed) if executed.hash.0 == certificate.block.0 => executed,
                Ok(executed) => {
                    return Err(Fatal(format!(
                        "decided {} but executed {}",
                        certificate.block, executed.hash
                    )));
                }
                Err(Refusal::Invalid(reason) | Refusal::State(reason)) => {
                    return Err(Fatal(format!(
                        "the decided block {} cannot be executed: {reason}",
                        certificate.block
                    )));
                }
            },
        };
        let transactions = executed.block.transactions.clone();
        self.chain.append(executed, certificate)?;
        self.executed.clear();
        self.publish(&transactions, true)
    }

    /// Makes what was appended durable and visible, and tells everybody.
    fn publish(&mut self, mined: &[Tx], decided: bool) -> Result<(), Fatal> {
        self.chain.publish()?;
        let head = self.chain.head();
        let state = self
            .chain
            .state(head.height())
            .map_err(|error| Fatal(error.to_string()))?;
        self.mempool.on_block(
            mined,
            &|address| sender_state(&*state, address),
            base_fee_above(&self.chain),
        );
        self.answer(Done::Head { head, decided });
        Ok(())
    }
}

/// Base fee of the block above the head, wei.
pub(crate) fn base_fee_above(chain: &Chain) -> u64 {
    next_base_fee(&chain.head().header, chain.spec().base_fee_floor)
}

/// Hands out transactions until a moment in time.
struct Closing<S> {
    inner: S,
    closes: Instant,
}

impl<S: TxSource> TxSource for Closing<S> {
    fn next(&mut self) -> Option<Tx> {
        if Instant::now() < self.closes {
            self.inner.next()
        } else {
            None
        }
    }

    fn skip_sender(&mut self, tx: &Tx, why: &str) {
        self.inner.skip_sender(tx, why);
    }

    fn discard(&mut self, tx: &Tx, why: &TransactionError) {
        self.inner.discard(tx, why);
    }
}

/// Nonce and balance of an account, as the pool wants them. An account that cannot be read is
/// treated as empty; the failing store ends the process elsewhere.
pub(crate) fn sender_state(state: &dyn FlatState, address: Address) -> SenderState {
    match state.account(&keccak256(address)) {
        Ok(account) => account.map_or_else(SenderState::default, |a| SenderState {
            nonce: a.nonce,
            balance: a.balance,
        }),
        Err(error) => {
            tracing::error!(%error, "the state could not be read");
            SenderState::default()
        }
    }
}

fn unix_now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
