//! The pool itself: pure, without clock, locks or I/O.
//!
//! Each sender has a queue ordered by nonce. Its *executable* part is the run of nonces that begins
//! at the account's next one; what lies behind a gap is *queued*. Two indexes order the senders:
//!
//! - `heads`: the first executable transaction of each, by what it pays, best first; blocks are filled
//!   from here (see [`super::best`]).
//! - `tails`: the last transaction of each, queued ones first, then the cheapest first; room is made
//!   from here, so that a sender never loses a nonce in the middle.
//!
//! What a transaction pays is min(tip cap, fee cap - base fee), which may be negative, at the base
//! fee of the indexes. A block's base fee is close to that but may differ; as the price falls at most as
//! fast as the base fee rises, an order that is exact for the block is found with a slack of the
//! difference. The indexes are built anew when the base fee has moved by a quarter.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use alloy_primitives::{Address, B256, U256};
use axolotl_ledger::Tx;

use super::{
    interrupted::{InterruptReason, Interrupted, InterruptedSet, Standing},
    limits::{MempoolError, MempoolLimits, SenderState},
    queue::{HeadKey, Pooled, Queue, TailKey, price, size_of},
    recent::RecentHashes,
};

/// Most transactions that one newcomer may push out.
const MAX_EVICTIONS: usize = 256;
/// Senders whose account is looked at again with the next block; more are not noted.
const MAX_SUSPECTS: usize = 1_024;
/// Transactions at the top of the order that are looked at when a block was empty.
const CHECKED_WHEN_EMPTY: usize = 64;
/// Empty blocks that an executable transaction may see from the top of the order before it is given
/// up: something that no check here knows of keeps it out of every block, and it must not keep the
/// chain busy for ever.
const MAX_EMPTY_BLOCKS: u32 = 512;
/// A replacement must pay this many percent more.
const REPLACEMENT_PERCENT: u64 = 10;

/// What became of a transaction that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Whether it is executable now.
    pub executable: bool,
    /// The one that it replaced.
    pub replaced: Option<Tx>,
    /// Those that became executable, in the order of their nonces; itself first if it did.
    pub promoted: Vec<Tx>,
    /// Those that made room.
    pub evicted: Vec<Tx>,
}

/// How full the pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Transactions.
    pub count: usize,
    /// Those of them that are executable.
    pub executable: usize,
    /// About what they take in memory, bytes.
    pub bytes: usize,
    /// Senders.
    pub senders: usize,
}

/// One sender's part of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderContent {
    /// The sender.
    pub sender: Address,
    /// Executable transactions by nonce.
    pub pending: Vec<Tx>,
    /// Transactions behind a gap, by nonce.
    pub queued: Vec<Tx>,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    limits: MempoolLimits,
    /// Base fee that the indexes are ordered by.
    base_fee: u64,
    /// Counts how often the indexes were built anew.
    generation: u64,
    seq: u64,
    bytes: usize,
    executable: usize,
    by_hash: HashMap<B256, (Address, u64)>,
    senders: BTreeMap<Address, Queue>,
    heads: BTreeSet<HeadKey>,
    tails: BTreeSet<TailKey>,
    mined: RecentHashes,
    interrupted: InterruptedSet,
    suspects: BTreeSet<Address>,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: MempoolLimits, base_fee: u64) -> Self {
        Self {
            limits,
            base_fee,
            generation: 0,
            seq: 0,
            bytes: 0,
            executable: 0,
            by_hash: HashMap::new(),
            senders: BTreeMap::new(),
            heads: BTreeSet::new(),
            tails: BTreeSet::new(),
            mined: RecentHashes::default(),
            interrupted: InterruptedSet::default(),
            suspects: BTreeSet::new(),
        }
    }

    /// Transactions in the pool.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Whether the transaction is in the pool.
    pub fn contains(&self, hash: &B256) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// Whether the transaction is in the pool, was in one of the last blocks, or is set aside.
    pub fn knows(&self, hash: &B256) -> bool {
        self.contains(hash)
            || self.mined.contains(hash)
            || self.interrupted.set_aside(hash).is_some()
    }

    /// The transaction with this hash.
    pub fn get(&self, hash: &B256) -> Option<Tx> {
        let (sender, nonce) = self.by_hash.get(hash)?;
        self.at(sender, *nonce)
    }

    fn at(&self, sender: &Address, nonce: u64) -> Option<Tx> {
        let pooled = self.senders.get(sender)?.txs.get(&nonce)?;
        Some(pooled.tx.clone())
    }

    /// The nonce after the sender's executable transactions, if it has any.
    pub fn pending_nonce(&self, sender: &Address) -> Option<u64> {
        let queue = self.senders.get(sender)?;
        (queue.ready > queue.state.nonce).then_some(queue.ready)
    }

    /// How full the pool is.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            count: self.len(),
            executable: self.executable,
            bytes: self.bytes,
            senders: self.senders.len(),
        }
    }

    /// Everything in the pool, by sender.
    pub fn content(&self) -> Vec<SenderContent> {
        self.senders
            .iter()
            .map(|(sender, queue)| {
                let part = |range: &dyn Fn(u64) -> bool| {
                    let chosen = queue.txs.iter().filter(|(nonce, _)| range(**nonce));
                    chosen.map(|(_, pooled)| pooled.tx.clone()).collect()
                };
                SenderContent {
                    sender: *sender,
                    pending: part(&|nonce| nonce < queue.ready),
                    queued: part(&|nonce| nonce >= queue.ready),
                }
            })
            .collect()
    }

    /// Takes a transaction; `state` is its sender's account at the head.
    ///
    /// # Errors
    /// The first reason against it; the pool is then as it was, but for what the state made stale.
    pub fn add(&mut self, tx: Tx, state: SenderState) -> Result<Added, MempoolError> {
        let (sender, nonce, hash) = (tx.sender(), tx.nonce(), tx.hash());
        if self.contains(&hash) {
            return Err(MempoolError::AlreadyKnown);
        }
        if self
            .senders
            .get(&sender)
            .is_some_and(|q| q.state.nonce <= state.nonce)
        {
            self.refresh(&sender, state);
        }
        let known = self.senders.get(&sender);
        let state = known.map_or(state, |queue| queue.state);
        let next = state.nonce;
        if nonce < next || self.mined.contains(&hash) {
            self.interrupted.nonces_used(sender, next);
            return Err(MempoolError::NonceTooLow { next, nonce });
        }
        if let Some(reason) = self.interrupted.set_aside(&hash) {
            return Err(MempoolError::SetAside(reason));
        }
        let gap = self.limits.max_nonce_gap;
        if nonce - next > gap {
            return Err(MempoolError::NonceTooHigh { next, nonce, gap });
        }
        let (balance, cost) = (state.balance, tx.max_cost());
        if cost > balance {
            return Err(MempoolError::InsufficientFunds { balance, cost });
        }
        let old = known.and_then(|queue| queue.txs.get(&nonce));
        if old.is_some_and(|old| !replaces(&tx, &old.tx)) {
            return Err(MempoolError::ReplacementUnderpriced);
        }
        let old_cost = old.map_or(U256::ZERO, |old| old.tx.max_cost());
        let queued = known.map_or(U256::ZERO, |q| q.cost.saturating_sub(old_cost));
        if queued.saturating_add(cost) > balance {
            return Err(MempoolError::Overdraft {
                balance,
                queued,
                cost,
            });
        }
        let count = known.map_or(0, |queue| queue.txs.len());
        if old.is_none() && count >= self.limits.max_per_sender {
            return Err(MempoolError::SenderLimit(count));
        }
        let before = known.map_or(next, |queue| queue.ready);
        let replaced = self.take(&sender, nonce, false);
        self.seq += 1;
        let pooled = Pooled {
            tx: tx.clone(),
            seq: self.seq,
            empty_blocks: 0,
        };
        self.put(pooled, state);
        let evicted = match self.make_room(&tx) {
            Some(evicted) => evicted,
            None => {
                self.take(&sender, nonce, replaced.is_none());
                if let Some(old) = replaced {
                    self.put(old, state);
                }
                return Err(MempoolError::Full);
            }
        };
        let queue = self.senders.get(&sender);
        let ready = queue.map_or(0, |queue| queue.ready);
        let mut promoted = Vec::new();
        if replaced.is_some() && nonce < before {
            promoted.push(tx);
        } else if let Some(queue) = queue {
            let run = queue.txs.range(before.min(ready)..ready);
            promoted.extend(run.map(|(_, pooled)| pooled.tx.clone()));
        }
        Ok(Added {
            executable: nonce < ready,
            replaced: replaced.map(|pooled| pooled.tx),
            promoted,
            evicted,
        })
    }

    /// Pushes out what pays less than the newcomer, which is in its place already, until the bounds
    /// hold. `None` when that does not do; nothing is pushed out then.
    fn make_room(&mut self, new: &Tx) -> Option<Vec<Tx>> {
        let ready = self.senders.get(&new.sender()).map_or(0, |q| q.ready);
        let worth = (new.nonce() < ready, price(new, self.base_fee));
        let mut out: Vec<(Pooled, SenderState)> = Vec::new();
        while self.len() > self.limits.max_count || self.bytes > self.limits.max_bytes {
            let victim = self.tails.first().copied().filter(|victim| {
                victim.sender != new.sender()
                    && (victim.executable, victim.price) < worth
                    && out.len() < MAX_EVICTIONS
            });
            let taken = victim.and_then(|victim| {
                let queue = self.senders.get(&victim.sender)?;
                let (state, nonce) = (queue.state, *queue.txs.last_key_value()?.0);
                Some((self.take(&victim.sender, nonce, true)?, state))
            });
            match taken {
                Some(taken) => out.push(taken),
                None => {
                    for (pooled, state) in out.into_iter().rev() {
                        self.put(pooled, state);
                    }
                    return None;
                }
            }
        }
        Some(out.into_iter().map(|(pooled, _)| pooled.tx).collect())
    }

    /// Puts a transaction into its place, which is free.
    fn put(&mut self, pooled: Pooled, state: SenderState) {
        let (sender, nonce) = (pooled.tx.sender(), pooled.tx.nonce());
        self.by_hash.insert(pooled.tx.hash(), (sender, nonce));
        self.bytes += size_of(&pooled.tx);
        let queue = self.senders.entry(sender).or_insert_with(|| Queue {
            state,
            ready: state.nonce,
            ..Queue::default()
        });
        queue.cost = queue.cost.saturating_add(pooled.tx.max_cost());
        queue.txs.insert(nonce, pooled);
        self.reindex(&sender);
    }

    /// Takes a transaction out. What lies behind it is queued then. An empty queue goes if `drop`.
    fn take(&mut self, sender: &Address, nonce: u64, drop: bool) -> Option<Pooled> {
        let queue = self.senders.get_mut(sender)?;
        let pooled = queue.txs.remove(&nonce)?;
        let ready = queue.ready;
        if nonce < ready {
            queue.ready = nonce.max(queue.state.nonce);
            self.executable -= (ready - queue.ready) as usize;
        }
        queue.cost = queue.cost.saturating_sub(pooled.tx.max_cost());
        self.bytes -= size_of(&pooled.tx);
        self.by_hash.remove(&pooled.tx.hash());
        if drop || !queue.txs.is_empty() {
            self.reindex(sender);
        }
        Some(pooled)
    }

    /// Takes a transaction out that no block can hold. Those behind it wait for another one of its nonce.
    pub(super) fn remove(&mut self, hash: &B256) -> Option<Tx> {
        let (sender, nonce) = *self.by_hash.get(hash)?;
        self.take(&sender, nonce, true).map(|pooled| pooled.tx)
    }

    /// Brings `ready` and the two indexes up to date with a queue; an empty one goes.
    fn reindex(&mut self, sender: &Address) {
        let Some(queue) = self.senders.get_mut(sender) else {
            return;
        };
        let before = queue.ready;
        queue.advance_ready();
        self.executable += (queue.ready - before) as usize;
        let head = queue.txs.get(&queue.state.nonce).map(|pooled| HeadKey {
            price: Reverse(price(&pooled.tx, self.base_fee)),
            seq: pooled.seq,
            sender: *sender,
        });
        let tail = queue.txs.last_key_value().map(|(nonce, pooled)| TailKey {
            executable: *nonce < queue.ready,
            price: price(&pooled.tx, self.base_fee),
            seq: Reverse(pooled.seq),
            sender: *sender,
        });
        if queue.head != head {
            queue.head.take().map(|old| self.heads.remove(&old));
            self.heads.extend(head);
            queue.head = head;
        }
        if queue.tail != tail {
            queue.tail.take().map(|old| self.tails.remove(&old));
            self.tails.extend(tail);
            queue.tail = tail;
        }
        if queue.txs.is_empty() {
            self.senders.remove(sender);
        }
    }

    /// Takes over an account's new state: drops what is stale or cannot be paid any more.
    fn refresh(&mut self, sender: &Address, state: SenderState) {
        self.interrupted.nonces_used(*sender, state.nonce);
        let Some(queue) = self.senders.get_mut(sender) else {
            return;
        };
        if queue.state == state {
            return;
        }
        // Nonces below the account's leave the executable run; those above it may be queued again.
        let before = queue.ready - queue.state.nonce;
        queue.state = state;
        queue.ready = state.nonce;
        self.executable -= before as usize;
        let gone: Vec<u64> = queue
            .txs
            .iter()
            .filter(|(nonce, pooled)| **nonce < state.nonce || pooled.tx.max_cost() > state.balance)
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in gone {
            if let Some(pooled) = queue.txs.remove(&nonce) {
                queue.cost = queue.cost.saturating_sub(pooled.tx.max_cost());
                self.bytes -= size_of(&pooled.tx);
                self.by_hash.remove(&pooled.tx.hash());
            }
        }
        self.reindex(sender);
    }

    /// Follows a block: its transactions go, and what it made stale. `state` reads accounts at the
    /// new head, `base_fee` is that of the next block.
    pub fn on_block(&mut self, txs: &[Tx], state: &dyn Fn(Address) -> SenderState, base_fee: u64) {
        let mut touched = std::mem::take(&mut self.suspects);
        for tx in txs {
            self.mined.insert(tx.hash());
            self.interrupted
                .nonces_used(tx.sender(), tx.nonce().saturating_add(1));
            touched.insert(tx.sender());
        }
        let stuck: Vec<HeadKey> = if txs.is_empty() {
            let payable = self.heads.iter().take_while(|head| head.price.0 >= 0);
            payable.take(CHECKED_WHEN_EMPTY).copied().collect()
        } else {
            Vec::new()
        };
        touched.extend(stuck.iter().map(|head| head.sender));
        for sender in touched {
            if self.senders.contains_key(&sender) {
                self.refresh(&sender, state(sender));
            }
        }
        for head in stuck {
            let Some(queue) = self.senders.get_mut(&head.sender) else {
                continue;
            };
            let nonce = queue.state.nonce;
            let given_up = queue.txs.get_mut(&nonce).is_some_and(|pooled| {
                pooled.empty_blocks += 1;
                pooled.empty_blocks > MAX_EMPTY_BLOCKS
            });
            if given_up {
                self.take(&head.sender, nonce, true);
            }
        }
        if base_fee.abs_diff(self.base_fee) > self.base_fee / 4 {
            self.rekey(base_fee);
        }
    }

    /// Lets a pooled transaction be handed out last, and alone. `None` when it is not in the pool.
    pub fn mark_heavy(&mut self, hash: &B256) -> Option<Interrupted> {
        self.note(hash, Standing::Heavy)
    }

    /// Takes a transaction out of the pool and keeps it out. Those behind it are queued. `None` when
    /// it is not in the pool.
    pub fn set_aside(&mut self, hash: &B256, reason: InterruptReason) -> Option<Interrupted> {
        let noted = self.note(hash, Standing::SetAside(reason))?;
        self.take(&noted.sender, noted.nonce, true);
        Some(noted)
    }

    fn note(&mut self, hash: &B256, standing: Standing) -> Option<Interrupted> {
        let (sender, nonce) = *self.by_hash.get(hash)?;
        let noted = Interrupted {
            hash: *hash,
            sender,
            nonce,
            standing,
        };
        self.interrupted.insert(noted);
        Some(noted)
    }

    /// Remembers an interruption of an earlier run; what it is about may come later.
    pub fn restore_interrupted(&mut self, noted: Interrupted) {
        self.interrupted.insert(noted);
    }

    /// Whether a transaction is to be handed out last, and alone.
    pub fn is_heavy(&self, hash: &B256) -> bool {
        self.interrupted.is_heavy(hash)
    }

    /// The interruptions that are remembered, the oldest first.
    pub fn interrupted(&self) -> Vec<Interrupted> {
        self.interrupted.iter().collect()
    }

    /// How many interruptions are remembered.
    pub fn interrupted_count(&self) -> usize {
        self.interrupted.len()
    }

    /// All transactions in the order of their arrival.
    pub fn by_arrival(&self) -> Vec<Tx> {
        let queues = self.senders.values().flat_map(|queue| queue.txs.values());
        let mut all: Vec<(u64, &Tx)> = queues.map(|pooled| (pooled.seq, &pooled.tx)).collect();
        all.sort_unstable_by_key(|(seq, _)| *seq);
        all.into_iter().map(|(_, tx)| tx.clone()).collect()
    }

    fn rekey(&mut self, base_fee: u64) {
        self.base_fee = base_fee;
        self.generation += 1;
        let senders: Vec<Address> = self.senders.keys().copied().collect();
        for sender in &senders {
            self.reindex(sender);
        }
    }

    /// Notes that a sender's transaction was refused by execution: its account is looked at again
    /// with the next block.
    pub(super) fn suspect(&mut self, sender: Address) {
        if self.suspects.len() < MAX_SUSPECTS {
            self.suspects.insert(sender);
        }
    }

    /// How much more than in the index a transaction may pay at this base fee.
    pub(super) fn slack(&self, base_fee: u64) -> i128 {
        i128::from(self.base_fee.saturating_sub(base_fee))
    }

    /// Which order the head keys are of.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Heads behind `after` in the index, at most `count`.
    pub(super) fn heads_after(
        &self,
        after: Option<HeadKey>,
        count: usize,
    ) -> impl Iterator<Item = (HeadKey, &Pooled)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.heads
            .range((from, Unbounded))
            .take(count)
            .filter_map(|key| {
                let queue = self.senders.get(&key.sender)?;
                Some((*key, queue.txs.get(&queue.state.nonce)?))
            })
    }

    /// The executable transaction of a sender at a nonce.
    pub(super) fn executable_at(&self, sender: &Address, nonce: u64) -> Option<&Pooled> {
        let queue = self.senders.get(sender)?;
        queue.txs.get(&nonce).filter(|_| nonce < queue.ready)
    }

    /// Whether a block with this base fee could hold anything.
    pub fn has_executable(&self, base_fee: u64) -> bool {
        let slack = self.slack(base_fee);
        self.heads
            .iter()
            .take_while(|head| head.price.0.saturating_add(slack) >= 0)
            .any(|head| {
                self.senders
                    .get(&head.sender)
                    .and_then(|queue| queue.txs.get(&queue.state.nonce))
                    .is_some_and(|pooled| pooled.tx.effective_tip(base_fee).is_some())
            })
    }
}

/// Whether `new` pays enough more than `old`, in fee cap and in tip.
fn replaces(new: &Tx, old: &Tx) -> bool {
    let more = |new: u128, old: u128| {
        let (new, old) = (U256::from(new), U256::from(old));
        let percent = U256::from(100 + REPLACEMENT_PERCENT);
        new > old && new * U256::from(100) >= old * percent
    };
    more(new.max_fee_per_gas(), old.max_fee_per_gas())
        && more(
            new.max_priority_fee_per_gas(),
            old.max_priority_fee_per_gas(),
        )
}
