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
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
};

use alloy_primitives::{Address, B256, U256};
use axolotl_ledger::Tx;

use super::limits::{MempoolError, MempoolLimits, SenderState};

/// About what a transaction takes in the pool beside twice its bytes.
pub const TX_OVERHEAD_BYTES: usize = 900;
/// Hashes of mined transactions that are remembered; the oldest is forgotten first.
pub const RECENTLY_MINED: usize = 16_384;
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

/// What a transaction pays at a base fee; negative when its fee cap is below.
fn price(tx: &Tx, base_fee: u64) -> i128 {
    let cap = i128::try_from(tx.max_fee_per_gas()).unwrap_or(i128::MAX);
    let tip = i128::try_from(tx.max_priority_fee_per_gas()).unwrap_or(i128::MAX);
    tip.min(cap - i128::from(base_fee))
}

/// About what a transaction takes in memory.
pub(super) fn size_of(tx: &Tx) -> usize {
    TX_OVERHEAD_BYTES + 2 * tx.raw().len()
}

/// Place of a sender among those with something executable: ascending is best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HeadKey {
    pub(super) price: Reverse<i128>,
    pub(super) seq: u64,
    pub(super) sender: Address,
}

/// Place of a sender's last transaction: ascending is first to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TailKey {
    executable: bool,
    price: i128,
    seq: Reverse<u64>,
    sender: Address,
}

#[derive(Clone, Debug)]
struct Pooled {
    tx: Tx,
    /// Order of arrival.
    seq: u64,
    empty_blocks: u32,
}

#[derive(Debug, Default)]
struct Queue {
    state: SenderState,
    txs: BTreeMap<u64, Pooled>,
    /// Most that all of them can cost.
    cost: U256,
    /// First nonce that is not executable.
    ready: u64,
    head: Option<HeadKey>,
    tail: Option<TailKey>,
}

impl Queue {
    fn advance_ready(&mut self) {
        self.ready = self.ready.max(self.state.nonce);
        while self.txs.contains_key(&self.ready) {
            self.ready += 1;
        }
    }
}

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

/// Hashes in the order of their arrival, the oldest forgotten first.
#[derive(Debug, Default)]
struct RecentHashes {
    order: VecDeque<B256>,
    known: HashSet<B256>,
}

impl RecentHashes {
    fn insert(&mut self, hash: B256) {
        if self.known.insert(hash) {
            self.order.push_back(hash);
            if self.order.len() > RECENTLY_MINED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }
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

    /// Whether the transaction is in the pool, or was in one of the last blocks.
    pub fn knows(&self, hash: &B256) -> bool {
        self.contains(hash) || self.mined.known.contains(hash)
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
        if nonce < next || self.mined.known.contains(&hash) {
            return Err(MempoolError::NonceTooLow { next, nonce });
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
    ) -> impl Iterator<Item = (HeadKey, Tx)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.heads
            .range((from, Unbounded))
            .take(count)
            .filter_map(|key| {
                let queue = self.senders.get(&key.sender)?;
                Some((*key, queue.txs.get(&queue.state.nonce)?.tx.clone()))
            })
    }

    /// The executable transaction of a sender at a nonce, with its order of arrival.
    pub(super) fn executable_at(&self, sender: &Address, nonce: u64) -> Option<(Tx, u64)> {
        let queue = self.senders.get(sender)?;
        let pooled = queue.txs.get(&nonce).filter(|_| nonce < queue.ready)?;
        Some((pooled.tx.clone(), pooled.seq))
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
