//! The one writer of the chain: builds, checks and commits blocks on a thread of its own.
//!
//! Consensus and sync both extend the chain. They do so as jobs of this thread, one after the
//! other, so that a block is always executed on top of the block before it. Answers go back to the
//! engine, which never waits for an execution.

mod foreign;
mod limits;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256, keccak256};
use axolotl_common::{
    CommitCertificate, EpochRecord, Hash, Height, PublicKey, Round, SignedRecord, recovery::Ballot,
};
use axolotl_consensus::Verdict;
use axolotl_ledger::{
    Block, BlockAttributes, ExecutedBlock, ExecutionError, FlatState, TimeLimit, Tx, Unlimited,
    next_base_fee, read_header,
};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::limits::{BuildLimit, Timed};
pub(super) use self::limits::{CheckLimit, Control};
use crate::{
    chain_sync::ApplyError,
    mempool::{InterruptReason, Mempool, SenderState},
    network::SyncBlock,
    storage::{ActivateError, Activated, Chain, Head, StageError, StorageError},
};

/// Jobs that may wait for the thread. The engine waits for room beyond that: it has at most a
/// handful under way.
pub(super) const JOB_QUEUE: usize = 64;
/// Executed blocks kept for later rounds and the commit of one height; honest rounds need one or two.
const EXECUTED_MAX: usize = 8;
/// Attempts of a transaction whose storage is read meanwhile, each of which reads some 100,000 slots.
const READ_ATTEMPTS_MAX: u32 = 64;
/// Transactions with such attempts that are remembered; the first by hash gives way.
const READ_ATTEMPTS_REMEMBERED: usize = 1_024;
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
        /// Time that executing its transactions may take.
        budget: Duration,
        /// The planned record that waits for a block; left out if no block may carry it any more.
        record: Option<Bytes>,
        /// Cancels it.
        control: Arc<Control>,
    },
    /// Execute a proposed block as for a prevote.
    Check {
        /// Height of the block.
        height: Height,
        /// Round that it was asked for.
        round: Round,
        /// Its hash.
        block: Hash,
        /// Its encoding.
        bytes: Bytes,
        /// How long it may take.
        limit: CheckLimit,
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
    /// A block was executed, or not to its end.
    Checked {
        /// Height of the block.
        height: Height,
        /// Round that it was asked for.
        round: Round,
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
    /// Blocks executed on top of `basis`, by hash.
    executed: BTreeMap<B256, ExecutedBlock>,
    /// What the executed blocks stand on: the block below, and the record of the epoch that governs, for
    /// both decide whether a block is valid.
    basis: Option<Basis>,
    /// Blocks of this height that were built here with a heavy transaction.
    heavy: BTreeMap<B256, B256>,
    /// Attempts of transactions whose storage was not read yet.
    reading: BTreeMap<B256, u32>,
}

/// What a block is executed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    parent: B256,
    record: Hash,
}

/// Why the thread gives up.
struct Fatal(String);

/// Why a block was not executed.
enum Refusal {
    /// The block is at fault.
    Invalid(String),
    /// The state could not be read.
    State(String),
    /// It was not executed to its end, or it is early by this node's clock.
    NotYet,
}

impl From<ExecutionError> for Refusal {
    fn from(error: ExecutionError) -> Self {
        match error {
            ExecutionError::Interrupted => Self::NotYet,
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
            basis: None,
            heavy: BTreeMap::new(),
            reading: BTreeMap::new(),
        }
    }

    /// Works until the queue is closed or something fatal happened.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            let outcome = match job {
                Job::Build {
                    height,
                    round,
                    budget,
                    record,
                    control,
                } => self.build((height, round), budget, record, &control),
                Job::Check {
                    height,
                    round,
                    block,
                    bytes,
                    limit,
                } => self.check((height, round), block, &bytes, &limit),
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

    fn build(
        &mut self,
        (height, round): (Height, Round),
        budget: Duration,
        record: Option<Bytes>,
        control: &Control,
    ) -> Result<(), Fatal> {
        if self.next_height() != height || control.is_cancelled() {
            return Ok(());
        }
        self.rebase();
        let tip = self.chain.tip();
        let base_fee = base_fee_above(&self.chain);
        let attributes = BlockAttributes {
            timestamp: unix_now_s().max(tip.header.timestamp),
            builder: self.key,
            requests: record.into_iter().map(Into::into).collect(),
        };
        let limit = BuildLimit::new(control, budget);
        let most = axolotl_consensus::build_budget(&self.chain.spec().genesis.axolotl().timing);
        let pool = self.mempool.best(base_fee);
        let mut source = Timed::new(pool, &self.mempool, &limit, (budget, most));
        let built = match self.chain.build(attributes, &mut source, &limit) {
            Ok(built) => built,
            Err(ExecutionError::State(error)) => return Err(Fatal(error.to_string())),
            Err(ExecutionError::Interrupted) => return Ok(()), // cancelled
            Err(error) => return Err(Fatal(format!("a block of our own is invalid: {error}"))),
        };
        let (heavy, unread) = (source.heavy, std::mem::take(&mut source.unread));
        for hash in unread {
            self.note_reading(hash);
        }
        let (block, bytes) = (Hash(built.hash.0), built.bytes.clone().0);
        let included = |hash: &B256| built.block.transactions.iter().any(|tx| tx.hash() == *hash);
        if let Some(heavy) = heavy.filter(included) {
            self.heavy.insert(built.hash, heavy);
        }
        self.keep(built);
        self.answer(Done::Built {
            height,
            round,
            block,
            bytes,
        });
        Ok(())
    }

    /// Counts the attempts of a transaction whose storage is being read.
    fn note_reading(&mut self, hash: B256) {
        let attempts = self.reading.entry(hash).or_default();
        *attempts += 1;
        if *attempts >= READ_ATTEMPTS_MAX {
            self.reading.remove(&hash);
            self.mempool.set_aside(&hash, InterruptReason::StateSize);
        }
        if self.reading.len() > READ_ATTEMPTS_REMEMBERED {
            self.reading.pop_first();
        }
    }

    fn check(
        &mut self,
        (height, round): (Height, Round),
        block: Hash,
        bytes: &[u8],
        limit: &CheckLimit,
    ) -> Result<(), Fatal> {
        if self.next_height() != height || limit.control.is_cancelled() {
            return Ok(());
        }
        self.rebase();
        let known = self.executed.get(&B256::from(block.0));
        let verdict = if known.is_some_and(|known| known.bytes[..] == *bytes) {
            Verdict::Valid
        } else {
            match self.execute(bytes, limit) {
                Ok(executed) if executed.hash.0 != block.0 => {
                    Verdict::Invalid("hash and bytes differ".into())
                }
                Ok(executed) => {
                    self.keep(executed);
                    Verdict::Valid
                }
                Err(Refusal::State(error)) => return Err(Fatal(error)),
                Err(Refusal::Invalid(reason)) => Verdict::Invalid(reason),
                Err(Refusal::NotYet) => Verdict::NotYet,
            }
        };
        self.answer(Done::Checked {
            height,
            round,
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

    /// Forgets the blocks that were executed on something else than what the next one stands on.
    fn rebase(&mut self) {
        let tip = self.chain.tip();
        let basis = Some(Basis {
            parent: tip.hash,
            record: tip.validators.record_hash(),
        });
        if self.basis != basis {
            self.basis = basis;
            self.executed.clear();
            self.heavy.clear();
        }
    }

    /// Executes a proposed block on top of the tip. One that only its proposer stands behind must not be
    /// early by this node's clock.
    fn execute(&self, bytes: &[u8], limit: &CheckLimit) -> Result<ExecutedBlock, Refusal> {
        let latest = unix_now_s() + CLOCK_AHEAD_MAX_S;
        let header = read_header(bytes).map_err(|error| Refusal::Invalid(error.to_string()))?;
        if limit.is_limited() && header.timestamp > latest {
            tracing::warn!(
                height = header.number,
                timestamp = header.timestamp,
                latest,
                "a proposed block is more than {CLOCK_AHEAD_MAX_S} s ahead of this node's clock; not voting for it now: check the clocks"
            );
            return Err(Refusal::NotYet);
        }
        self.execute_with(bytes, limit)
    }

    /// Executes a block on top of the tip.
    fn execute_with(&self, bytes: &[u8], limit: &dyn TimeLimit) -> Result<ExecutedBlock, Refusal> {
        let lookup = |hash: &B256| self.mempool.get(hash);
        let block = Block::decode(bytes, self.chain.spec().chain.id, &lookup)
            .map_err(|error| Refusal::Invalid(error.to_string()))?;
        Ok(self.chain.execute(block, limit)?)
    }

    /// The executed form of a block that is final: as it was executed for a vote, or executed now.
    fn finalised(&mut self, block: &B256, bytes: &[u8]) -> Result<ExecutedBlock, Refusal> {
        self.rebase();
        match self.executed.remove(block) {
            Some(executed) => Ok(executed),
            None => self.execute_with(bytes, &Unlimited),
        }
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
        let executed = match self.finalised(&B256::from(certificate.block.0), bytes) {
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
            Err(Refusal::NotYet) => {
                return Err(Fatal("an execution without a limit was interrupted".into()));
            }
        };
        self.blame_heavy(&executed.hash);
        let transactions = executed.block.transactions.clone();
        self.chain.append(executed, certificate)?;
        self.publish(&transactions, true)
    }

    /// Heavy transactions of blocks that this node built and that were not decided had their last
    /// attempt: the others may not have executed them in time.
    fn blame_heavy(&mut self, decided: &B256) {
        for (block, transaction) in std::mem::take(&mut self.heavy) {
            if block != *decided {
                let reason = InterruptReason::BlockNotDecided;
                self.mempool.interrupted(&transaction, reason);
            }
        }
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
