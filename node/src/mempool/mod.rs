//! Transactions that wait for a block.
//!
//! [`pool`] is pure and holds all rules; [`best`] hands out transactions for a block; [`Mempool`] is
//! the handle that the rest of the node shares. Everything is bounded ([`MempoolLimits`]): when the
//! pool is full, a newcomer pushes out the last transactions of the senders that pay least, or is
//! refused. The pool is not on disk: after a restart it is filled again by the other nodes.

pub mod best;
pub mod limits;
#[cfg(test)]
mod model;
pub mod pool;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256};
use axolotl_ledger::{ChainSpec, Transaction, TransactionError, Tx};
use tokio::sync::{Notify, broadcast};

pub use best::BestTransactions;
pub use limits::{MempoolError, MempoolLimits, Origin, SenderState};
pub use pool::{Added, Pool, PoolStats, SenderContent};

use best::lock;

/// New transactions that a slow follower may be behind; beyond that it misses the oldest.
pub const NEW_TRANSACTIONS_CAPACITY: usize = 4_096;

/// The pool, shared. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Mempool {
    spec: Arc<ChainSpec>,
    pool: Arc<Mutex<Pool>>,
    new: broadcast::Sender<Tx>,
    changed: Arc<Notify>,
}

impl Mempool {
    /// An empty pool.
    pub fn new(spec: Arc<ChainSpec>, limits: MempoolLimits) -> Self {
        let pool = Pool::new(limits, spec.base_fee_floor);
        Self {
            spec,
            pool: Arc::new(Mutex::new(pool)),
            new: broadcast::Sender::new(NEW_TRANSACTIONS_CAPACITY),
            changed: Arc::new(Notify::new()),
        }
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
    /// falls.
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
        let added = lock(&self.pool).add(tx, sender)?;
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

    /// The transaction with this hash, if it is in the pool.
    pub fn get(&self, hash: &B256) -> Option<Tx> {
        lock(&self.pool).get(hash)
    }

    /// Whether the transaction is in the pool.
    pub fn contains(&self, hash: &B256) -> bool {
        lock(&self.pool).contains(hash)
    }

    /// Whether the transaction is in the pool or was in one of the last blocks: gossip that says
    /// nothing new is dropped by its hash, before its signature is looked at.
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
