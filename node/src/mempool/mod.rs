//! Transactions that wait for a block.
//!
//! [`pool`] is pure and holds all rules; [`best`] hands out transactions for a block; [`Mempool`] is
//! the handle that the rest of the node shares. Everything is bounded ([`MempoolLimits`]): when the
//! pool is full, a newcomer pushes out the last transactions of the senders that pay least, or is
//! refused.
//!
//! What enters the pool is appended to a [`journal`], from which it comes back after the end of the
//! process. A transaction whose execution does not end in time gets one more attempt, alone and last,
//! and is then set aside: [`interrupted`].

pub mod best;
pub mod counters;
pub mod interrupted;
#[cfg(test)]
mod interrupted_tests;
pub mod journal;
pub mod limits;
#[cfg(test)]
mod model;
pub mod pool;
mod queue;
mod recent;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256};
use axolotl_ledger::{ChainSpec, Transaction, TransactionError, Tx};
use tokio::sync::{Notify, broadcast};

pub use best::BestTransactions;
pub use counters::PoolCounters;
pub use interrupted::{InterruptReason, Interrupted, Interruption, Standing};
pub use journal::{JournalFailure, JournalOptions, Recovered};
pub use limits::{MempoolError, MempoolLimits, Origin, SenderState};
pub use pool::{Added, Pool, PoolStats, SenderContent};

use best::lock;
use journal::Journal;

/// New transactions that a slow follower may be behind; beyond that it misses the oldest.
pub const NEW_TRANSACTIONS_CAPACITY: usize = 4_096;

/// The pool, shared. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Mempool {
    spec: Arc<ChainSpec>,
    pool: Arc<Mutex<Pool>>,
    new: broadcast::Sender<Tx>,
    changed: Arc<Notify>,
    counters: PoolCounters,
    journal: Option<Journal>,
}

impl Mempool {
    /// An empty pool without a journal.
    pub fn new(spec: Arc<ChainSpec>, limits: MempoolLimits) -> Self {
        let pool = Pool::new(limits, spec.base_fee_floor);
        Self {
            spec,
            pool: Arc::new(Mutex::new(pool)),
            new: broadcast::Sender::new(NEW_TRANSACTIONS_CAPACITY),
            changed: Arc::new(Notify::new()),
            counters: PoolCounters::default(),
            journal: None,
        }
    }

    /// An empty pool with the journal at `path`, and what that holds. It is the caller's to
    /// [`add`](Self::add) the transactions again, as [`Origin::Returned`], and to say with
    /// [`set_waiting`](Self::set_waiting) what is left to be added: the journal keeps that.
    pub fn open(
        spec: Arc<ChainSpec>,
        limits: MempoolLimits,
        path: &Path,
        options: JournalOptions,
    ) -> (Self, Recovered) {
        let mut mempool = Self::new(Arc::clone(&spec), limits);
        let (journal, recovered) = Journal::open(
            path,
            options,
            spec.chain.id,
            &limits,
            &mempool.pool,
            &mempool.counters,
        );
        mempool.journal = Some(journal);
        (mempool, recovered)
    }

    /// Checks a transaction against the chain and the rules of the next block, which is built now.
    ///
    /// # Errors
    /// Why no block at these rules can hold it.
    pub fn check(&self, tx: &Transaction) -> Result<(), TransactionError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        tx.check_static(&self.spec, self.spec.rules_at(now))
    }

    /// Takes a transaction. `sender` is its sender's account at the head, `base_fee` that of the
    /// next block. A transaction whose fee cap is below it is taken too, and waits until the fee
    /// falls. It is on its way to the journal when this returns, and there after
    /// [`flush`](Self::flush).
    ///
    /// # Errors
    /// Why it was not taken, in geth's words.
    pub fn add(
        &self,
        tx: Tx,
        origin: Origin,
        sender: SenderState,
        base_fee: u64,
    ) -> Result<Added, MempoolError> {
        if self.contains(&tx.hash()) {
            return Err(MempoolError::AlreadyKnown);
        }
        self.check(&tx)?;
        let (fee_cap, floor) = (tx.max_fee_per_gas(), self.spec.base_fee_floor);
        if fee_cap < floor.into() {
            return Err(MempoolError::Underpriced { fee_cap, floor });
        }
        if origin == Origin::Local
            && let Some(journal) = &self.journal
        {
            journal.check()?;
        }
        let added = lock(&self.pool).add(Arc::clone(&tx), sender)?;
        if origin != Origin::Returned
            && let Some(journal) = &self.journal
        {
            journal.push_transaction(&tx);
        }
        if !added.promoted.is_empty() {
            if origin != Origin::Returned {
                for tx in &added.promoted {
                    // Without a follower there is nobody to tell.
                    let _ = self.new.send(Arc::clone(tx));
                }
            }
            if added
                .promoted
                .iter()
                .any(|tx| tx.effective_tip(base_fee).is_some())
            {
                self.changed.notify_one();
            }
        }
        Ok(added)
    }

    /// Waits until everything that the pool has taken so far is in the journal. Blocks; a client is
    /// given a hash only after this.
    ///
    /// # Errors
    /// When that is not so: the pool holds it, and nothing else does.
    pub fn flush(&self) -> Result<(), JournalFailure> {
        self.journal.as_ref().map_or(Ok(()), Journal::flush)
    }

    /// Of what the journal held, these transactions are not in the pool yet; the others may leave the
    /// journal with the pool.
    pub fn set_waiting(&self, left: Vec<Tx>) {
        if let Some(journal) = &self.journal {
            journal.set_waiting(left);
        }
    }

    /// The builder of a block found that the execution of a transaction does not end in its time. After
    /// the first time it is handed out last, and alone; after the second it is set aside. `None` when
    /// it is not in the pool.
    pub fn interrupted(&self, hash: &B256, reason: InterruptReason) -> Option<Interruption> {
        let heavy = lock(&self.pool).is_heavy(hash);
        if heavy {
            self.set_aside(hash, reason)
                .then_some(Interruption::SetAside)
        } else {
            self.mark_heavy(hash).then_some(Interruption::MarkedHeavy)
        }
    }

    /// From now on [`best`](Self::best) hands this transaction out last, and alone. Returns whether it
    /// is in the pool.
    pub fn mark_heavy(&self, hash: &B256) -> bool {
        let Some(noted) = lock(&self.pool).mark_heavy(hash) else {
            return false;
        };
        tracing::info!(%hash, sender = %noted.sender, nonce = noted.nonce, "a transaction did not end in time; it is tried once more, alone and last");
        self.counters.marked_heavy.inc();
        if let Some(journal) = &self.journal {
            journal.push_interrupted(noted);
        }
        true
    }

    /// Takes a transaction out of the pool, and keeps it out until its nonce is used or it is forgotten
    /// ([`interrupted::INTERRUPTED_MAX`]). Those behind it are queued. Returns whether it was there.
    pub fn set_aside(&self, hash: &B256, reason: InterruptReason) -> bool {
        let Some(noted) = lock(&self.pool).set_aside(hash, reason) else {
            return false;
        };
        tracing::warn!(%hash, sender = %noted.sender, nonce = noted.nonce, code = reason.code(), %reason, "a transaction is set aside by this node; it may still be included by another validator until its nonce is used");
        self.counters.set_aside.inc();
        if let Some(journal) = &self.journal {
            journal.push_interrupted(noted);
        }
        true
    }

    /// Whether a transaction is handed out last, and alone.
    pub fn is_heavy(&self, hash: &B256) -> bool {
        lock(&self.pool).is_heavy(hash)
    }

    /// What the pool counts.
    pub fn counters(&self) -> &PoolCounters {
        &self.counters
    }

    /// The transaction with this hash, if it is in the pool.
    pub fn get(&self, hash: &B256) -> Option<Tx> {
        lock(&self.pool).get(hash)
    }

    /// Whether the transaction is in the pool.
    pub fn contains(&self, hash: &B256) -> bool {
        lock(&self.pool).contains(hash)
    }

    /// Whether the transaction is in the pool, was in one of the last blocks, or is set aside: gossip
    /// that says nothing new is dropped by its hash, before its signature is looked at.
    pub fn knows(&self, hash: &B256) -> bool {
        lock(&self.pool).knows(hash)
    }

    /// The nonce after the executable transactions of an account, if it has any.
    pub fn pending_nonce(&self, sender: &Address) -> Option<u64> {
        lock(&self.pool).pending_nonce(sender)
    }

    /// Transactions for a block with this base fee, best first.
    pub fn best(&self, base_fee: u64) -> BestTransactions {
        BestTransactions::new(Arc::clone(&self.pool), base_fee)
    }

    /// Whether a block with this base fee could hold anything.
    pub fn has_executable(&self, base_fee: u64) -> bool {
        lock(&self.pool).has_executable(base_fee)
    }

    /// Follows a block: see [`Pool::on_block`].
    pub fn on_block(&self, txs: &[Tx], state: &dyn Fn(Address) -> SenderState, base_fee: u64) {
        lock(&self.pool).on_block(txs, state, base_fee);
    }

    /// Everything in the pool, by sender.
    pub fn content(&self) -> Vec<SenderContent> {
        lock(&self.pool).content()
    }

    /// Transactions in the pool.
    pub fn len(&self) -> usize {
        lock(&self.pool).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        lock(&self.pool).is_empty()
    }

    /// How full the pool is.
    pub fn stats(&self) -> PoolStats {
        lock(&self.pool).stats()
    }

    /// Follows transactions as they become executable. Bounded by [`NEW_TRANSACTIONS_CAPACITY`].
    pub fn subscribe_new(&self) -> broadcast::Receiver<Tx> {
        self.new.subscribe()
    }

    /// Told when something became executable; keeps one permit, so it is for one listener.
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }
}
