//! How long a block may be built or checked.
//!
//! The runner keeps a [`Control`] of each build and check that it asks for, and cancels it when it is of
//! no use any more: the thread looks at it between any two expensive steps of the EVM, so that commits
//! never wait behind an execution.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use axolotl_ledger::{Interruption, TimeLimit, TransactionError, Tx, TxSource};

use crate::mempool::{BestTransactions, InterruptReason, Mempool};

/// Share of a block's time that a transaction gets at its first attempt: one that does not end in it
/// leaves as much for others.
const FIRST_ATTEMPT_SHARE: u32 = 2;
/// A heavy transaction, which comes alone and last, gets so many times the time of a block.
const ALONE_TIMES: u32 = 2;
/// Once transactions that were interrupted have used up their share of a block, the rest of it is for
/// those that cannot take long: at the slowest rate known (10 gas in a microsecond) 30 ms.
const SMALL_GAS: u64 = 300_000;

/// The runner's hold on a build or check.
#[derive(Debug, Default)]
pub(in crate::engine) struct Control {
    cancelled: AtomicBool,
    unlimited: AtomicBool,
}

impl Control {
    /// It is of no use any more.
    pub(in crate::engine) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// It is to be executed to its end.
    pub(in crate::engine) fn lift(&self) {
        self.unlimited.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// The limit of a check. Without one it can still be cancelled.
#[derive(Clone, Debug)]
pub(in crate::engine) struct CheckLimit {
    pub(in crate::engine) control: Arc<Control>,
    pub(in crate::engine) deadline: Option<Instant>,
}

impl CheckLimit {
    /// Whether only the proposer stands behind the block.
    pub(super) fn is_limited(&self) -> bool {
        self.deadline.is_some() && !self.control.unlimited.load(Ordering::Relaxed)
    }
}

impl TimeLimit for CheckLimit {
    fn left(&self) -> Option<Duration> {
        if self.control.is_cancelled() {
            return Some(Duration::ZERO);
        }
        match self.deadline.filter(|_| self.is_limited()) {
            Some(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
            // Not `None`: it would not look at the control any more.
            None => Some(Duration::MAX),
        }
    }
}

/// The limit of a build: that of the block, and within it that of each transaction.
#[derive(Debug)]
pub(super) struct BuildLimit<'a> {
    control: &'a Control,
    block: Cell<Instant>,
    /// `None` before the first transaction: what a block must hold takes the time that it takes.
    transaction: Cell<Option<Instant>>,
}

impl<'a> BuildLimit<'a> {
    pub(super) fn new(control: &'a Control, budget: Duration) -> Self {
        Self {
            control,
            block: Cell::new(Instant::now() + budget),
            transaction: Cell::new(None),
        }
    }
}

impl TimeLimit for BuildLimit<'_> {
    fn left(&self) -> Option<Duration> {
        if self.control.is_cancelled() {
            return Some(Duration::ZERO);
        }
        Some(match self.transaction.get() {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        })
    }

    fn reserve(&self, time: Duration) {
        let block = self.block.get();
        self.block.set(block.checked_sub(time).unwrap_or(block));
    }
}

/// Hands out transactions until the time of the block is over, and remembers what did not end in its
/// own.
pub(super) struct Timed<'a> {
    inner: BestTransactions,
    mempool: &'a Mempool,
    limit: &'a BuildLimit<'a>,
    budget: Duration,
    /// Whether the budget is large enough for a last attempt.
    takes_heavy: bool,
    began: Instant,
    /// Time that the transaction handed out last was given.
    slice: Duration,
    /// Time of transactions that were interrupted.
    lost: Duration,
    /// The heavy transaction that was handed out.
    pub(super) heavy: Option<B256>,
    /// Transactions whose storage could not be read in time.
    pub(super) unread: Vec<B256>,
}

impl<'a> Timed<'a> {
    /// `most` is the largest budget that a block may have.
    pub(super) fn new(
        inner: BestTransactions,
        mempool: &'a Mempool,
        limit: &'a BuildLimit<'a>,
        (budget, most): (Duration, Duration),
    ) -> Self {
        Self {
            inner,
            mempool,
            limit,
            budget,
            takes_heavy: budget >= most,
            began: Instant::now(),
            slice: Duration::ZERO,
            lost: Duration::ZERO,
            heavy: None,
            unread: Vec::new(),
        }
    }

    fn first_attempt(&self) -> Duration {
        self.budget / FIRST_ATTEMPT_SHARE
    }
}

impl TxSource for Timed<'_> {
    fn next(&mut self) -> Option<Tx> {
        loop {
            let now = Instant::now();
            let left = self.limit.block.get().saturating_duration_since(now);
            if left.is_zero() || self.limit.control.is_cancelled() {
                return None;
            }
            let tx = self.inner.next()?;
            let hash = tx.hash();
            self.began = now;
            if self.mempool.is_heavy(&hash) {
                if !self.takes_heavy {
                    return None;
                }
                self.slice = self.budget * ALONE_TIMES;
                let alone = now + self.slice;
                self.limit.block.set(alone);
                self.limit.transaction.set(Some(alone));
                self.heavy = Some(hash);
                return Some(tx);
            }
            if self.lost >= self.first_attempt() && tx.gas_limit() > SMALL_GAS {
                self.inner
                    .skip_sender(&tx, "the block is full: time for heavy transactions");
                continue;
            }
            self.slice = left.min(self.first_attempt());
            self.limit.transaction.set(Some(now + self.slice));
            return Some(tx);
        }
    }

    fn skip_sender(&mut self, tx: &Tx, why: &str) {
        self.inner.skip_sender(tx, why);
    }

    fn discard(&mut self, tx: &Tx, why: &TransactionError) {
        self.inner.discard(tx, why);
    }

    fn interrupted(&mut self, tx: &Tx, why: Interruption) {
        self.lost += self.began.elapsed();
        self.inner.interrupted(tx, why);
        if self.limit.control.is_cancelled() {
            return;
        }
        let hash = tx.hash();
        match why {
            Interruption::State => {
                if self.heavy.is_none() {
                    self.mempool.mark_heavy(&hash);
                }
                self.unread.push(hash);
            }
            // What came when little time was left had no fair attempt, nor had one in a small block. An
            // attempt counts by the time that it was given, not by what it used: a precompiled contract that
            // cannot end in it is not begun.
            Interruption::Execution if !self.takes_heavy || self.slice < self.first_attempt() => {}
            Interruption::Execution => {
                let limit = self.slice;
                let reason = InterruptReason::ExecutionTime { limit };
                self.mempool.interrupted(&hash, reason);
            }
        }
    }
}
