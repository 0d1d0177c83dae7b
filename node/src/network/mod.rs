//! The only user of libp2p: who is connected, and what they say.
//!
//! ```text
//!  Network (handle) --commands--> service (one task, owns the swarm) --events--> NetworkEvents
//!                                    |  behaviour: gossip, status, sync, tx, identify, kad, ping
//!                                    |  peers: allow list, addresses, dialling, life, scores
//! ```
//!
//! - Only peers on the allow list stay connected; others are cut at once. A peer is *connected* when
//!   the status exchange is done and a pong came within 5 s.
//! - Gossip has three topics per chain, `axolotl/<chain id>/<genesis>/consensus`, `…/tx` and `…/record`. Messages are
//!   unsigned (votes and blocks carry their own signatures) and go straight to every peer; they are
//!   passed on to others only after [`Network::accept`].
//! - `/axolotl/status/1` and `/axolotl/sync/1` are request and response; `/axolotl/tx/1` brings transactions to
//!   one peer. [`codec`] has the formats.
//! - Everything that a peer can make grow is bounded by a constant of [`limits`]. What a peer sends is
//!   checked for length, then for rate, then decoded. A fault costs points, and at 100 the connection.
//! - Where votes do not pass, [`vote_paths`] decides on steps from a repeated announcement to a restart of the swarm.
//! - The task never waits for the node: events are dropped and counted when their queue is full.
//!
//! Deviation from usual gossipsub: with few, known peers all of which are connected, the flood of own
//! messages does the work; the mesh is only there for partly connected networks.

use std::{sync::Arc, time::Duration};

use axolotl_common::crypto::random_bytes;
use futures::StreamExt;
use libp2p::{Multiaddr, multiaddr::Protocol, swarm::SwarmEvent};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

mod behaviour;
mod book;
pub mod codec;
mod events;
mod exchange;
mod guard;
mod handle;
mod identity;
pub mod limits;
mod metrics;
mod peers;
mod repair;
mod score;
mod service;
pub mod vote_paths;

pub use book::known_peers;
pub use codec::{PeerStatus, SyncBlock, WireError};
pub use events::NetworkEvents;
pub use handle::{
    BlocksReply, MessageToken, Network, NetworkConfig, NetworkError, NetworkEvent, PeerInfo,
    PublishError, RequestError, StatusSource,
};
pub use identity::is_address_of;
pub use score::Fault;

/// Listening is given up after this.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

impl Network {
    /// Starts the network and returns once it listens. Nobody is let in before
    /// [`Network::set_allowed`].
    ///
    /// The task ends after [`Network::shutdown`]; if it ends otherwise, the node must end too.
    ///
    /// # Errors
    /// When an address is wrong or cannot be listened on.
    pub async fn start(
        config: NetworkConfig,
        status: StatusSource,
        registry: &mut Registry,
    ) -> Result<(Self, NetworkEvents, JoinHandle<()>), NetworkError> {
        let key = config.key.public();
        let advertised = config
            .advertise
            .iter()
            .map(|text| {
                identity::address_of(&key, text).ok_or_else(|| NetworkError::Address(text.clone()))
            })
            .collect::<Result<Vec<Multiaddr>, _>>()?;
        let topics = behaviour::Topics::new(&config.chain);
        let make_swarm = {
            let (config, topics) = (config.clone(), topics.clone());
            let hide = !advertised.is_empty();
            move |metrics: &mut Registry| {
                behaviour::swarm(
                    identity::keypair(&config.key),
                    &config.chain,
                    &topics,
                    config.max_block_bytes,
                    &config.agent,
                    hide,
                    metrics,
                )
            }
        };
        let mut swarm = make_swarm(registry)?;
        for address in &advertised {
            swarm.add_external_address(address.clone());
        }
        let listen_error = |why: String| NetworkError::Listen {
            address: config.listen,
            why,
        };
        let mut address = Multiaddr::from(config.listen.ip());
        address.push(Protocol::Tcp(config.listen.port()));
        swarm
            .listen_on(address)
            .map_err(|error| listen_error(error.to_string()))?;
        let listening = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { address, .. } => return Ok(address),
                    SwarmEvent::ListenerClosed { reason, .. } => {
                        let why = reason.err().map_or("closed".to_owned(), |e| e.to_string());
                        return Err(listen_error(why));
                    }
                    SwarmEvent::ListenerError { error, .. } => {
                        return Err(listen_error(error.to_string()));
                    }
                    _ => {}
                }
            }
        };
        let first = timeout(LISTEN_TIMEOUT, listening)
            .await
            .map_err(|_| listen_error("no answer from the system".to_owned()))??;

        let mut listen = Multiaddr::from(config.listen.ip());
        let bound = first.iter().find_map(|part| match part {
            Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        listen.push(Protocol::Tcp(bound.unwrap_or(config.listen.port())));
        let metrics = metrics::Metrics::new(registry);
        let library_metrics = libp2p::metrics::Metrics::new(registry);
        let (commands, command_receiver) = mpsc::channel(limits::COMMAND_QUEUE);
        let (peers_sender, peers) = watch::channel(Arc::new(Vec::new()));
        let known = advertised.iter().chain([&first]);
        let known = known.map(|address| format!("{address}/p2p/{}", swarm.local_peer_id()));
        let (addresses_sender, addresses) = watch::channel(known.collect());
        let (events, event_receiver) = events::event_channel(metrics.clone());
        let shutdown = CancellationToken::new();
        let book = config.book.as_deref().map(book::Book::read);
        let now = std::time::Instant::now();
        let service = service::Service::new(service::Parts {
            swarm,
            // Its bytes are not counted: the library can register that counter once only.
            make_swarm: Box::new(move || make_swarm(&mut Registry::default())),
            listen,
            topics,
            chain: config.chain,
            max_consensus_bytes: behaviour::max_consensus_bytes(config.max_block_bytes),
            advertised,
            commands: command_receiver,
            own_commands: commands.downgrade(),
            events,
            peers: peers::Peers::new(
                key,
                now,
                u64::from_le_bytes(random_bytes()),
                book.unwrap_or_else(|| book::Book::new(Vec::new())),
            ),
            peers_sender,
            addresses_sender,
            book: config.book,
            status,
            metrics: metrics.clone(),
            library_metrics,
            shutdown: shutdown.clone(),
            first_address: first,
        });
        let task = tokio::spawn(service.run());
        let network = Self {
            key,
            commands,
            peers,
            addresses,
            max_consensus_bytes: behaviour::max_consensus_bytes(config.max_block_bytes),
            metrics,
            shutdown,
        };
        Ok((network, event_receiver, task))
    }
}

#[cfg(test)]
mod tests;
