//! Transactions for a block, best first.
//!
//! Between senders the effective tip decides, then the order of arrival; within a sender the nonce.
//! Nothing is copied beforehand: senders are taken from the pool's index as the block fills, so a
//! block costs what it holds, however large the pool is.
//!
//! A heavy transaction ([`super::interrupted`]) is handed out when there is nothing else, and nothing
//! comes after it: one attempt in a block, and nobody waits behind it. What its sender has behind it
//! waits with it.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::Address;
use axolotl_ledger::{Interruption, TransactionError, Tx, TxSource};

use super::{
    pool::Pool,
    queue::{HeadKey, Pooled},
};

/// Senders taken from the index at once.
const BATCH: usize = 32;

/// The best transaction of a sender that was not handed out yet.
#[derive(Debug)]
struct Candidate {
    tip: u128,
    seq: Reverse<u64>,
    tx: Tx,
    heavy: bool,
}

impl Candidate {
    /// `None` when it cannot pay this base fee.
    fn new(pool: &Pool, pooled: &Pooled, base_fee: u64) -> Option<Self> {
        Some(Self {
            tip: pooled.tx.effective_tip(base_fee)?,
            seq: Reverse(pooled.seq),
            tx: Arc::clone(&pooled.tx),
            heavy: pool.is_heavy(&pooled.tx.hash()),
        })
    }

    fn key(&self) -> (u128, Reverse<u64>, Address) {
        (self.tip, self.seq, self.tx.sender())
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Hands out executable transactions, best first. What arrives while it is in use may or may not be
/// handed out.
#[derive(Debug)]
pub struct BestTransactions {
    pool: Arc<Mutex<Pool>>,
    base_fee: u64,
    candidates: BinaryHeap<Candidate>,
    /// Senders that were taken from the index.
    taken: BTreeSet<Address>,
    cursor: Option<HeadKey>,
    generation: u64,
    /// No sender that is still in the index pays more than this.
    bound: i128,
    exhausted: bool,
    /// Handed out last: its successor is looked up when the next one is asked for.
    last: Option<Tx>,
    skipped: BTreeSet<Address>,
    /// The best heavy transaction so far.
    heavy: Option<Tx>,
    /// A heavy transaction was handed out: the end.
    finished: bool,
}

impl BestTransactions {
    pub(super) fn new(pool: Arc<Mutex<Pool>>, base_fee: u64) -> Self {
        Self {
            pool,
            base_fee,
            candidates: BinaryHeap::new(),
            taken: BTreeSet::new(),
            cursor: None,
            generation: 0,
            bound: i128::MAX,
            exhausted: false,
            last: None,
            skipped: BTreeSet::new(),
            heavy: None,
            finished: false,
        }
    }

    #[cfg(test)]
    pub(super) fn senders_taken(&self) -> usize {
        self.taken.len()
    }

    fn pull(&mut self) {
        let pool = Arc::clone(&self.pool);
        let pool = lock(&pool);
        if self.generation != pool.generation() {
            // The index has another order now; senders taken before are passed over.
            self.generation = pool.generation();
            self.cursor = None;
        }
        let slack = pool.slack(self.base_fee);
        let mut count = 0;
        for (key, pooled) in pool.heads_after(self.cursor, BATCH) {
            count += 1;
            self.cursor = Some(key);
            self.bound = key.price.0.saturating_add(slack);
            if let Some(candidate) = Candidate::new(&pool, pooled, self.base_fee)
                && self.taken.insert(key.sender)
            {
                self.candidates.push(candidate);
            }
        }
        self.exhausted = count < BATCH || self.bound < 0;
    }

    fn push_successor(&mut self, tx: &Tx) {
        let pool = lock(&self.pool);
        let next = pool.executable_at(&tx.sender(), tx.nonce().saturating_add(1));
        let next = next.and_then(|pooled| Candidate::new(&pool, pooled, self.base_fee));
        drop(pool);
        self.candidates.extend(next);
    }
}

impl TxSource for BestTransactions {
    fn next(&mut self) -> Option<Tx> {
        if self.finished {
            return None;
        }
        if let Some(last) = self.last.take() {
            self.push_successor(&last);
        }
        loop {
            while !self.exhausted
                && self
                    .candidates
                    .peek()
                    .is_none_or(|best| i128::try_from(best.tip).unwrap_or(i128::MAX) < self.bound)
            {
                self.pull();
            }
            let Some(Candidate { tx, heavy, .. }) = self.candidates.pop() else {
                self.finished = true;
                return self.heavy.take();
            };
            if self.skipped.contains(&tx.sender()) {
                continue;
            }
            if heavy {
                self.heavy.get_or_insert(tx);
                continue;
            }
            self.last = Some(Arc::clone(&tx));
            return Some(tx);
        }
    }

    fn skip_sender(&mut self, tx: &Tx, why: &str) {
        tracing::debug!(hash = %tx.hash(), sender = %tx.sender(), why, "left out of the block");
        self.last.take_if(|last| last.sender() == tx.sender());
        self.skipped.insert(tx.sender());
        lock(&self.pool).suspect(tx.sender());
    }

    fn discard(&mut self, tx: &Tx, why: &TransactionError) {
        tracing::info!(hash = %tx.hash(), sender = %tx.sender(), %why, "dropped from the pool: no block can hold it");
        self.last.take_if(|last| last.sender() == tx.sender());
        self.skipped.insert(tx.sender());
        lock(&self.pool).remove(&tx.hash());
    }

    /// Leaves the sender out for this block; what becomes of the transaction is for whoever set the limit.
    fn interrupted(&mut self, tx: &Tx, _why: Interruption) {
        self.last.take_if(|last| last.sender() == tx.sender());
        self.skipped.insert(tx.sender());
    }
}

pub(super) fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}
