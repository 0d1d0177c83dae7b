//! Watches whether votes pass between this node and the other validators, and has the network repaired where
//! they do not. What is done when, [`crate::network::vote_paths`] decides.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axolotl_common::{PublicKey, crypto::random_bytes};
use axolotl_consensus::SignedVote;
use borsh::BorshDeserialize;

use super::Node;
use crate::{
    engine::Arrival,
    network::{
        PeerInfo,
        vote_paths::{Place, Seen, Step, View, VotePaths},
    },
};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(500);
/// A validator whose head is so many blocks below this node's is catching up, and does not vote.
const BEHIND_BLOCKS: u64 = 5;

/// Works until the node ends.
pub(super) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    let mut paths = VotePaths::new(u64::from_le_bytes(random_bytes()));
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for step in paths.step(Instant::now(), &view(&node)) {
            perform(&node, step);
        }
    }
}

fn perform(node: &Node, step: Step) {
    match step {
        Step::Announce(peer) => {
            tracing::warn!(%peer, "votes do not pass between this node and a connected validator; the subscriptions are announced to it again");
            node.network.announce(peer);
        }
        Step::Reconnect(peer) => {
            tracing::warn!(%peer, "votes still do not pass between this node and a connected validator; it is dialled anew");
            node.network.reconnect(peer);
        }
        Step::Restart => {
            tracing::warn!(
                "votes pass between this node and too few validators to make a quorum; its network is restarted. Look at the machine's network if that does not help"
            );
            node.network.restart();
        }
    }
}

fn view(node: &Node) -> View {
    let head = node.chain.head();
    let (validators, arrivals) = (&head.validators, node.engine.arrivals());
    let peers = node.network.peers();
    let voting = node.engine.status().borrow().voting;
    let others = validators.members().iter().map(|member| member.public_key);
    let others = others.filter(|key| *key != node.key).map(|key| {
        let peer = peers.iter().find(|peer| peer.key == key);
        let arrival = arrivals.votes.iter();
        let arrival = arrival.clone().find(|arrival| arrival.validator == key);
        let status = peer.and_then(|peer| peer.status.as_ref());
        // One of another epoch cannot check this node's votes, nor this node its.
        let status = status.filter(|status| status.epoch == validators.epoch());
        let votes = status.is_some_and(|status| {
            let sealed = status.sealed.is_some_and(|sealed| sealed >= status.epoch);
            let level = status.height.0 + BEHIND_BLOCKS >= head.height().0;
            !status.unfit && !sealed && level
        });
        Seen {
            key,
            connected: peer.is_some_and(|peer| peer.connected),
            missing_since: arrival.filter(|_| votes).and_then(missing_since),
            holds: status.and_then(|_| held_by(peer?, &node.key)),
        }
    });
    View {
        signed: arrivals.signed.filter(|_| voting),
        quorum: validators.quorum(),
        others: others.collect(),
    }
}

fn missing_since(arrival: &Arrival) -> Option<Instant> {
    let signs = [arrival.missing_since, arrival.unanswered_since];
    signs.into_iter().flatten().min()
}

/// When a peer's status came, and the highest vote of this node that it holds. What is no vote of this node says
/// nothing about its votes.
fn held_by(peer: &PeerInfo, own: &PublicKey) -> Option<(Instant, Option<Place>)> {
    let (status, at) = (peer.status.as_ref()?, peer.status_at?);
    let vote = match &status.highest_vote_of_you {
        Some(bytes) => Some(SignedVote::try_from_slice(bytes).ok()?.vote),
        None => None,
    };
    match vote {
        Some(vote) if vote.validator != *own => None,
        vote => Some((at, vote.map(|vote| (vote.epoch, vote.height)))),
    }
}
