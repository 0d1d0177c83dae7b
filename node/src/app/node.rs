//! What can be asked about a running node.

use std::time::Instant;

use axolotl_common::{
    Hash, NodeId, PublicKey, VolumeId,
    registry_api::{NodeSelfStatus, VoteReport},
};

use crate::{
    admin::Readiness,
    chain_sync,
    engine::{self, Engine},
    mempool::Mempool,
    network::Network,
    storage::Chain,
};

/// Everything that can be asked about a running node.
pub(crate) struct Node {
    pub(super) label: NodeId,
    pub(super) volume_id: VolumeId,
    pub(super) incarnation: u64,
    pub(super) key: PublicKey,
    pub(super) chain: Chain,
    pub(super) mempool: Mempool,
    pub(super) network: Network,
    pub(super) engine: Engine,
    pub(super) sync: chain_sync::SyncHandle,
}

impl Node {
    /// The node as it is now.
    pub(crate) fn status(&self) -> NodeSelfStatus {
        let head = self.chain.head();
        let engine = self.engine.status().borrow().clone();
        let reachable = self.network.connected();
        let proposal_faults = engine.fault_reports();
        let spec = self.chain.spec();
        NodeSelfStatus {
            node_id: Some(self.label.clone()),
            public_key: self.key,
            peer_id: self.key.peer_id(),
            volume_id: self.volume_id,
            incarnation: self.incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            chain_id: Some(spec.chain.id.0),
            genesis_hash: Some(spec.chain.genesis),
            height: head.height(),
            head: Some(Hash(head.hash.0)),
            epoch: engine.epoch,
            round: engine.round,
            leader: head.last_builder,
            is_validator: engine.is_validator && engine.unfit.is_none(),
            voting: engine.voting,
            unfit: engine.unfit,
            sealed: engine.sealed,
            pending_epoch: engine.pending,
            proposal_faults,
            misbehaving: engine.misbehaving.into_iter().collect(),
            syncing: self.sync.status().borrow().syncing,
            peers: reachable.len(),
            reachable,
            tx_pool_size: self.mempool.len(),
            last_commit_age_ms: engine
                .last_decided
                .map(|at| at.elapsed().as_millis() as u64),
            votes: self.vote_reports(),
        }
    }

    /// What arrived of each other validator of the epoch in force.
    fn vote_reports(&self) -> Vec<VoteReport> {
        let ms = |at: Instant| at.elapsed().as_millis() as u64;
        let report = |arrival: &engine::Arrival| VoteReport {
            validator: arrival.validator,
            height: arrival.height,
            age_ms: ms(arrival.at),
            missing_ms: arrival.missing_since.map(ms),
        };
        let votes = self.engine.arrivals().votes;
        let others = votes.iter().filter(|arrival| arrival.validator != self.key);
        others.map(report).collect()
    }

    /// Highest head that a peer reported.
    pub(super) fn highest_known(&self) -> axolotl_common::Height {
        self.sync.status().borrow().target
    }

    /// Whether a transaction that is sent to this node now would come into a block.
    pub(super) fn readiness(&self) -> Readiness {
        let head = self.chain.head();
        let connected = self.network.connected();
        let validators = &head.validators;
        let votes = validators.contains(&self.key);
        let reached = connected
            .iter()
            .filter(|key| validators.contains(key))
            .count()
            + usize::from(votes);
        let sync = self.sync.status();
        if sync.borrow().syncing {
            let (height, target) = (head.height(), sync.borrow().target);
            Readiness::Starting(format!("fetching blocks: at {height} of {target}"))
        } else if reached < validators.quorum() {
            Readiness::Starting(format!(
                "{reached} of {} validators in reach, {} are needed",
                validators.len(),
                validators.quorum()
            ))
        } else {
            Readiness::Ready
        }
    }
}
