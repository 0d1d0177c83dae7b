//! Transactions for a block, best first.
//!
//! Between senders the effective tip decides, then the order of arrival; within a sender the nonce.
//! Nothing is copied beforehand: senders are taken from the pool's index as the block fills, so a
//! block costs what it holds, however large the pool is.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::Address;
use axolotl_ledger::{TransactionError, Tx, TxSource};

use super::pool::{HeadKey, Pool};

/// Senders taken from the index at once.
const BATCH: usize = 32;

/// The best transaction of a sender that was not handed out yet.
#[derive(Debug)]
struct Candidate {
    tip: u128,
    seq: Reverse<u64>,
    tx: Tx,
}

impl Candidate {
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
        for (key, tx) in pool.heads_after(self.cursor, BATCH) {
            count += 1;
            self.cursor = Some(key);
            self.bound = key.price.0.saturating_add(slack);
            if let Some(tip) = tx.effective_tip(self.base_fee)
                && self.taken.insert(key.sender)
            {
                self.candidates.push(Candidate {
                    tip,
                    seq: Reverse(key.seq),
                    tx,
                });
            }
        }
        self.exhausted = count < BATCH || self.bound < 0;
    }

    fn push_successor(&mut self, tx: &Tx) {
        let next = lock(&self.pool).executable_at(&tx.sender(), tx.nonce().saturating_add(1));
        if let Some((tx, seq)) = next
            && let Some(tip) = tx.effective_tip(self.base_fee)
        {
            self.candidates.push(Candidate {
                tip,
                seq: Reverse(seq),
                tx,
            });
        }
    }
}

impl TxSource for BestTransactions {
    fn next(&mut self) -> Option<Tx> {
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
            let best = self.candidates.pop()?.tx;
            if !self.skipped.contains(&best.sender()) {
                self.last = Some(Arc::clone(&best));
                return Some(best);
            }
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
}

pub(super) fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}
