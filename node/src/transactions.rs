//! The ways of a transaction between the pool, the peers and the leader.
//!
//! - One sent to this node goes to everybody, in batches.
//! - One from a peer is decoded and its sender recovered on the blocking pool, then pooled.
//! - One of ours that two blocks passed by is sent straight to the leader and to the one after it:
//!   a leader that never hears of a transaction would otherwise stay leader of empty blocks.
//! - A peer that connects is given what the pool holds.
//! - What the pool's journal kept over the end of the process is admitted again ([`Readmission`]), and
//!   gossiped again once this node has caught up.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::{B256, Bytes, keccak256};
use axolotl_common::PublicKey;
use axolotl_ledger::{Transaction, Tx};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    engine::{base_fee_above, sender_state},
    mempool::{Mempool, MempoolError, Origin, Recovered},
    network::{Fault, MessageToken, Network, PublishError},
    storage::Chain,
};

/// Transactions of our own that wait to be gossiped; beyond that they are not.
const OUTBOX: usize = 8_192;
/// Batches from peers that may wait to be decoded; beyond that they are dropped: other peers and
/// the sender's own node hold them.
const INBOX: usize = 1_024;
/// Batches decoded at once.
const DECODERS: usize = 2;
/// Transactions that one batch gathers.
const BATCH_COUNT_MAX: usize = 512;
/// How long a batch may wait for more.
const BATCH_DELAY: Duration = Duration::from_millis(2);
/// Transactions of our own that are watched until they are in a block; beyond that the oldest is
/// left to gossip alone.
const WATCHED_MAX: usize = 4_096;
/// Blocks after which a watched transaction is sent straight to the leader.
const PATIENCE_BLOCKS: u64 = 2;
/// Time after which the same happens when no block comes at all.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often watched transactions are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Most transactions given to a peer that connects. Twice a second's worth of a busy chain; the rest
/// reaches it by gossip, or by the leader's blocks.
const GREETING_MAX: usize = 4_096;
/// How often a transaction of the journal that the head does not allow is tried once the node has caught
/// up, and the pause between: blocks of which this node has not heard when it believes to have caught up
/// are there long before the end of it.
const READMISSION_ATTEMPTS: u32 = 15;
/// See [`READMISSION_ATTEMPTS`].
const READMISSION_INTERVAL: Duration = Duration::from_secs(1);

/// Transactions that arrived from a peer.
struct Arrived {
    from: PublicKey,
    batch: Vec<Bytes>,
    token: Option<MessageToken>,
}

/// Hands transactions in; cheap to clone.
#[derive(Clone)]
pub struct Transactions {
    chain: Chain,
    mempool: Mempool,
    outbox: mpsc::Sender<Tx>,
    inbox: mpsc::Sender<Arrived>,
    network: Network,
}

/// Takes transactions from both sides.
pub struct TransactionTasks {
    handle: Transactions,
    outbox: mpsc::Receiver<Tx>,
    inbox: mpsc::Receiver<Arrived>,
}

/// A handle, and the tasks behind it.
pub fn new(chain: Chain, mempool: Mempool, network: Network) -> (Transactions, TransactionTasks) {
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let (inbox, incoming) = mpsc::channel(INBOX);
    let handle = Transactions {
        chain,
        mempool,
        outbox,
        inbox,
        network,
    };
    (
        handle.clone(),
        TransactionTasks {
            handle,
            outbox: outgoing,
            inbox: incoming,
        },
    )
}

impl Transactions {
    /// Gossips a transaction of a client that is in the pool. When more wait than can, it stays in
    /// the pool and goes out with a block of this node's own.
    pub fn announce(&self, tx: Tx) {
        if self.outbox.try_send(tx).is_err() {
            tracing::warn!(
                "more transactions come in than can be gossiped; some wait for a block of this node's own"
            );
        }
    }

    /// Takes a batch from a peer: by gossip with its token, or sent directly.
    pub fn arrived(&self, from: PublicKey, batch: Vec<Bytes>, token: Option<MessageToken>) {
        if self.inbox.try_send(Arrived { from, batch, token }).is_err() {
            tracing::debug!(%from, "transactions dropped: too many wait to be decoded");
        }
    }

    /// Gives a peer that connected what the pool holds: what a block can take first, then what is
    /// behind a gap.
    pub fn greet(&self, peer: PublicKey) {
        let senders = self.mempool.content();
        let pending = senders.iter().flat_map(|sender| &sender.pending);
        let queued = senders.iter().flat_map(|sender| &sender.queued);
        let raws: Vec<Bytes> = pending
            .chain(queued)
            .take(GREETING_MAX)
            .map(|tx| tx.raw().clone())
            .collect();
        sent(self.network.send_transactions(peer, &raws));
    }

    fn pool(&self, tx: Tx) {
        if let Err(error) = self.mempool.check(&tx) {
            tracing::trace!(%error, "a transaction of a peer is not valid");
            return;
        }
        let Ok(state) = self.chain.state(self.chain.head().height()) else {
            return;
        };
        let sender = sender_state(&*state, tx.sender());
        if let Err(error) = self
            .mempool
            .add(tx, Origin::Peer, sender, base_fee_above(&self.chain))
        {
            tracing::trace!(%error, "a transaction of a peer was not pooled");
        }
    }

    /// Decodes and pools a batch. Returns whether every transaction was well-formed.
    fn take(&self, batch: &[Bytes]) -> bool {
        let mut well_formed = true;
        for raw in batch {
            if self.mempool.knows(&keccak256(raw)) {
                continue;
            }
            match Transaction::decode(raw, self.chain.spec().chain.id) {
                Ok(tx) => self.pool(Arc::new(tx)),
                Err(error) => {
                    tracing::debug!(%error, "a transaction of a peer does not decode");
                    well_formed = false;
                }
            }
        }
        well_formed
    }
}

/// Gossip is best effort: what was not sent now is sent to the leader later.
fn sent(outcome: Result<(), PublishError>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "transactions were not sent");
    }
}

/// A transaction of ours on its way into a block.
struct Watched {
    tx: Tx,
    height: u64,
    since: Instant,
}

impl TransactionTasks {
    /// Works until every handle is gone. `caught_up` comes about when this node holds the newest blocks
    /// and reaches a quorum.
    pub async fn run(self, readmission: Readmission, caught_up: impl Future<Output = ()>) {
        let Self {
            handle,
            outbox,
            inbox,
        } = self;
        let readmitted = async {
            caught_up.await;
            readmission.finish(&handle).await;
        };
        tokio::join!(
            send(handle.clone(), outbox),
            receive(handle.clone(), inbox),
            readmitted
        );
    }
}

/// What the journal kept, on its way back into the pool.
///
/// It is judged by the rules of the next block: at the head that this node had when it ended, before
/// any peer is there, so that the first peer that connects is given it; and what that head did not allow
/// (a balance that came with a block of the meantime, say) once more when the node has caught up.
/// Until then the journal keeps it.
#[derive(Debug, Default)]
pub struct Readmission {
    /// Those that are in the pool again.
    admitted: Vec<Tx>,
    /// Those that a newer head may allow.
    later: Vec<Tx>,
    /// Those that no block can take any more; most of them are in one.
    refused: usize,
}

impl Readmission {
    /// Admits what the head allows.
    pub fn begin(chain: &Chain, mempool: &Mempool, recovered: Recovered) -> Self {
        let Recovered {
            transactions,
            interrupted,
            damaged,
            torn_bytes,
            surplus,
        } = recovered;
        if damaged + surplus > 0 || torn_bytes > 0 {
            tracing::warn!(
                damaged,
                torn_bytes,
                surplus,
                "the journal of accepted transactions was not whole; what could be read is admitted again"
            );
        }
        let found = transactions.len();
        let mut readmission = Self {
            later: transactions,
            ..Self::default()
        };
        readmission.admit(chain, mempool);
        if found + interrupted.len() > 0 {
            tracing::info!(
                found,
                pooled = readmission.admitted.len(),
                later = readmission.later.len(),
                refused = readmission.refused,
                interrupted = interrupted.len(),
                "transactions of the journal are admitted again"
            );
        }
        mempool.set_waiting(readmission.later.clone());
        readmission
    }

    fn admit(&mut self, chain: &Chain, mempool: &Mempool) {
        let Ok(state) = chain.state(chain.head().height()) else {
            return;
        };
        let base_fee = base_fee_above(chain);
        for tx in std::mem::take(&mut self.later) {
            let sender = sender_state(&*state, tx.sender());
            match mempool.add(Arc::clone(&tx), Origin::Returned, sender, base_fee) {
                Ok(_) | Err(MempoolError::AlreadyKnown) => self.admitted.push(tx),
                Err(error) if error.may_pass() => self.later.push(tx),
                Err(error) => {
                    tracing::debug!(hash = %tx.hash(), %error, "a transaction of the journal is not admitted again");
                    self.refused += 1;
                }
            }
        }
    }

    /// Gossips what is in the pool again, and goes on trying what the head did not allow.
    async fn finish(mut self, handle: &Transactions) {
        for attempt in 0..READMISSION_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(READMISSION_INTERVAL).await;
            }
            if !self.later.is_empty() {
                let again = handle.clone();
                let tried = tokio::task::spawn_blocking(move || {
                    self.admit(&again.chain, &again.mempool);
                    again.mempool.set_waiting(self.later.clone());
                    self
                });
                match tried.await {
                    Ok(tried) => self = tried,
                    Err(_) => return,
                }
            }
            for tx in self.admitted.drain(..) {
                if handle.mempool.contains(&tx.hash()) && handle.outbox.send(tx).await.is_err() {
                    return;
                }
            }
            if self.later.is_empty() {
                return;
            }
        }
        for tx in &self.later {
            tracing::warn!(
                hash = %tx.hash(), sender = %tx.sender(), nonce = tx.nonce(),
                "a transaction of the journal is given up: its account cannot pay for it, or the pool is full"
            );
        }
        handle.mempool.set_waiting(Vec::new());
    }
}

/// Decodes batches from peers, a few at once.
async fn receive(handle: Transactions, mut inbox: mpsc::Receiver<Arrived>) {
    let decoders = Arc::new(Semaphore::new(DECODERS));
    while let Some(arrived) = inbox.recv().await {
        let Ok(permit) = Arc::clone(&decoders).acquire_owned().await else {
            return;
        };
        let handle = handle.clone();
        tokio::task::spawn_blocking(move || {
            let well_formed = handle.take(&arrived.batch);
            match (well_formed, arrived.token) {
                (true, Some(token)) => handle.network.accept(token),
                (false, Some(token)) => handle.network.reject(token),
                (_, None) => {}
            }
            if !well_formed {
                handle.network.report(arrived.from, Fault::InvalidMessage);
            }
            drop(permit);
        });
    }
}

/// Gossips transactions of our own in batches and watches what becomes of them.
async fn send(handle: Transactions, mut outbox: mpsc::Receiver<Tx>) {
    let mut watched: BTreeMap<B256, Watched> = BTreeMap::new();
    let mut look = tokio::time::interval(WATCH_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            count = outbox.recv_many(&mut waiting, BATCH_COUNT_MAX) => {
                if count == 0 {
                    return;
                }
                if count > 1 {
                    // Under load a little patience makes far fewer messages.
                    tokio::time::sleep(BATCH_DELAY).await;
                    while waiting.len() < BATCH_COUNT_MAX
                        && let Ok(tx) = outbox.try_recv()
                    {
                        waiting.push(tx);
                    }
                }
                let height = handle.chain.head().header.number;
                let raws: Vec<Bytes> = waiting.iter().map(|tx| tx.raw().clone()).collect();
                sent(handle.network.publish_transactions(&raws));
                for tx in waiting.drain(..) {
                    if watched.len() < WATCHED_MAX {
                        watched.insert(tx.hash(), Watched { tx, height, since: Instant::now() });
                    }
                }
            }
            _ = look.tick() => remind(&handle, &mut watched),
        }
    }
}

/// Forgets what is in a block or left the pool; sends what waited too long to the leader and the
/// one after it, again and again until it is gone.
fn remind(handle: &Transactions, watched: &mut BTreeMap<B256, Watched>) {
    watched.retain(|hash, _| handle.mempool.contains(hash));
    let head = handle.chain.head();
    let late: Vec<Bytes> = watched
        .values_mut()
        .filter(|w| {
            head.header.number >= w.height + PATIENCE_BLOCKS || w.since.elapsed() >= PATIENCE
        })
        .map(|w| {
            (w.height, w.since) = (head.header.number, Instant::now());
            w.tx.raw().clone()
        })
        .collect();
    if late.is_empty() {
        return;
    }
    let members = head.validators.members();
    let leader = head
        .last_builder
        .and_then(|key| head.validators.position(&key))
        .unwrap_or(0);
    for place in [leader, (leader + 1) % members.len()] {
        sent(
            handle
                .network
                .send_transactions(members[place].public_key, &late),
        );
    }
}

#[cfg(test)]
mod tests;
