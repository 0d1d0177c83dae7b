//! The service's side of repairs: what is done when votes do not pass between this node and a validator.
//! When, [`super::vote_paths`] decides.

use std::time::Instant;

use axolotl_common::PublicKey;

use super::{RequestError, identity::peer_id, service::Service};

impl Service {
    pub(super) fn announce(&mut self, peer: &PublicKey) {
        if self.is_connected(peer) {
            self.parts.metrics.repair("announce");
            self.behaviour().gossip.announce(peer_id(peer));
        }
    }

    pub(super) fn reconnect(&mut self, peer: &PublicKey) {
        self.parts.metrics.repair("reconnect");
        self.parts.peers.dial_soon(peer);
        // An error means that there is no connection: it is dialled anyway.
        let _ = self.parts.swarm.disconnect_peer_id(peer_id(peer));
    }

    /// Another swarm takes the place of this one. If none can be made, or it cannot listen, this one goes on.
    pub(super) fn restart(&mut self) {
        let mut swarm = match (self.parts.make_swarm)() {
            Ok(swarm) => swarm,
            Err(error) => {
                tracing::error!(%error, "the network is not restarted");
                return;
            }
        };
        self.parts.metrics.repair("restart");
        for address in &self.parts.advertised {
            swarm.add_external_address(address.clone());
        }
        // The old one goes first: both listen on one port.
        drop(std::mem::replace(&mut self.parts.swarm, swarm));
        self.listening.clear();
        let listen = self.parts.listen.clone();
        if let Err(error) = self.parts.swarm.listen_on(listen) {
            tracing::error!(%error, "the restarted network does not listen; it dials others, and is restarted again");
        }
        let restarts = || RequestError::Declined("the network is restarted".to_owned());
        for (_, (_, reply)) in self.statuses.drain() {
            if let Some(reply) = reply {
                // An error means that nobody waits any more.
                let _ = reply.send(Err(restarts()));
            }
        }
        for (_, (_, reply)) in self.blocks.drain() {
            let _ = reply.send(Err(restarts()));
        }
        self.transactions = 0;
        let now = Instant::now();
        self.parts.peers.all_disconnected(now);
        self.announce_changes(now);
        for key in self.parts.peers.all_admitted(now) {
            self.behaviour().allowed.allow_peer(peer_id(&key));
        }
        self.dial_due(now);
    }
}
