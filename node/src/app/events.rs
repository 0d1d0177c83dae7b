//! Hands what peers do to whoever deals with it, and keeps readiness true.

use std::sync::Arc;

use anyhow::bail;
use axolotl_common::{Height, recovery::SealNote};
use axolotl_consensus::SignedVote;
use borsh::BorshDeserialize;
use tokio::sync::{Semaphore, watch};

use super::Node;
use crate::{
    admin::Readiness,
    chain_sync::{Applier, ApplyError, BlockSource, SyncHandle},
    engine::Engine,
    network::{Network, NetworkEvent, NetworkEvents, SyncBlock},
    storage::Chain,
    transactions::Transactions,
};

/// Everything that deals with events.
pub(super) struct Dispatch {
    pub(super) engine: Engine,
    pub(super) transactions: Transactions,
    pub(super) sync: SyncHandle,
    pub(super) network: Network,
    /// Bounds the answers to peers who want a block that is not final.
    pub(super) serving: Arc<Semaphore>,
}

/// Peers that are given a block that is not final at a time; further ones ask elsewhere.
pub(super) const LOCKED_SERVED_MAX: usize = 4;

impl Dispatch {
    /// Works until the network ends.
    pub(super) async fn run(self, mut events: NetworkEvents) -> anyhow::Result<()> {
        while let Some(event) = events.recv().await {
            self.hand_over(event);
        }
        bail!("the network ended")
    }

    /// Never waits: who cannot take an event now does without it.
    fn hand_over(&self, event: NetworkEvent) {
        match event {
            NetworkEvent::Consensus { from, bytes, token } => {
                if let Err(token) = self.engine.deliver(from, bytes, token) {
                    tracing::warn!(%from, "a message of consensus was dropped: the engine does not keep up");
                    self.network.ignore(token);
                }
            }
            NetworkEvent::Transactions {
                from,
                transactions,
                token,
            } => {
                self.transactions.arrived(from, transactions, token);
            }
            NetworkEvent::Record { from, bytes, token } => {
                if let Err(token) = self.engine.deliver_record(from, bytes, token) {
                    tracing::debug!(%from, "a record was dropped: the engine does not keep up");
                    self.network.ignore(token);
                }
            }
            NetworkEvent::StatusOf { peer, status } => {
                let vote = status.highest_vote_of_you.as_ref();
                let vote = vote.and_then(|bytes| SignedVote::try_from_slice(bytes).ok());
                let seal = status.seal_of_you.as_ref();
                let seal = seal.and_then(|bytes| SealNote::try_from_slice(bytes).ok());
                self.engine.highest_vote_seen(peer, vote, seal);
                self.sync.peer_height(peer, status.height);
            }
            NetworkEvent::BlocksWanted {
                first,
                count,
                reply,
                ..
            } => self.sync.serve(first, count, reply),
            NetworkEvent::LockedWanted { block, reply } => {
                // Without room the peer is told nothing, and asks elsewhere.
                if let Ok(permit) = Arc::clone(&self.serving).try_acquire_owned() {
                    let engine = self.engine.clone();
                    drop(tokio::spawn(async move {
                        reply.send_locked(engine.locked_block(block).await);
                        drop(permit);
                    }));
                }
            }
            NetworkEvent::Connected(peer) => {
                self.engine.peer_connected(peer);
                self.transactions.greet(peer);
            }
            NetworkEvent::Disconnected(peer) => self.sync.peer_gone(peer),
        }
    }
}

/// What sync reads and writes the chain through: the engine's worker is its only writer.
pub(super) struct SyncedChain {
    pub(super) chain: Chain,
    pub(super) engine: Engine,
}

impl Applier for SyncedChain {
    fn tip_height(&self) -> Height {
        self.chain.tip().height()
    }

    fn apply(&self, blocks: Vec<SyncBlock>) -> Result<Height, ApplyError> {
        self.engine.apply(blocks)
    }
}

impl BlockSource for SyncedChain {
    fn blocks(&self, first: Height, count: usize, max_bytes: usize) -> Vec<SyncBlock> {
        match self.chain.raw_blocks(first, count, max_bytes) {
            Ok(blocks) => blocks
                .into_iter()
                .map(|raw| SyncBlock {
                    records: raw
                        .records
                        .iter()
                        .map(|record| (**record).clone())
                        .collect(),
                    block: raw.block,
                    proof: raw.proof,
                })
                .collect(),
            Err(error) => {
                tracing::warn!(%first, %error, "blocks that a peer asked for cannot be read");
                Vec::new()
            }
        }
    }
}

/// Tells sync where consensus is: each new head, and heights that messages spoke of.
pub(super) async fn follow(chain: Chain, engine: Engine, sync: SyncHandle) -> anyhow::Result<()> {
    let (mut heads, mut status) = (chain.subscribe(), engine.status());
    loop {
        tokio::select! {
            changed = heads.changed() => {
                changed?;
                sync.committed(heads.borrow_and_update().height());
            }
            changed = status.changed() => {
                changed?;
                if let Some(behind) = status.borrow_and_update().behind {
                    sync.behind(behind);
                }
            }
        }
    }
}

/// How often readiness is looked at.
const INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

/// Ready: level with the peers, and in a position to take a transaction: as a validator with a
/// quorum in reach, else with a peer to pass it on to.
pub(super) async fn readiness(
    node: Arc<Node>,
    readiness: watch::Sender<Readiness>,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        let now = node.readiness();
        readiness.send_if_modified(|before| {
            let changed = *before != now && *before != Readiness::Stopping;
            if changed {
                *before = now;
            }
            changed
        });
    }
}
