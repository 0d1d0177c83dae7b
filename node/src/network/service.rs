//! The task that owns the swarm.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Instant};

use axolotl_common::{ChainRef, PublicKey};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, gossipsub, identify, kad,
    metrics::Recorder,
    ping, request_response as rr,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    Fault, MessageToken, NetworkError, NetworkEvent, PeerInfo, PeerStatus, RequestError,
    StatusSource,
    behaviour::{Behaviour, BehaviourEvent, Topics, chain_label},
    codec::{SyncResponse, decode_transactions},
    events::EventSender,
    guard::GuardedEvent,
    handle::{Command, Verdict},
    identity::{is_loopback, peer_id, public_key},
    limits::{
        BOOK_INTERVAL, MAX_RECORD_MESSAGE_BYTES, MAX_TRANSACTIONS_MESSAGE_BYTES,
        MAX_TRANSACTIONS_PER_MESSAGE, TICK,
    },
    metrics::Metrics,
    peers::{Change, Peers, Traffic},
};

type Event = SwarmEvent<BehaviourEvent>;
pub(crate) type StatusReply = oneshot::Sender<Result<PeerStatus, RequestError>>;
pub(crate) type BlocksAnswer = oneshot::Sender<Result<SyncResponse, RequestError>>;

/// Makes a swarm that listens nowhere yet.
pub(crate) type MakeSwarm = Box<dyn Fn() -> Result<Swarm<Behaviour>, NetworkError> + Send>;

/// What a service is made of.
pub(crate) struct Parts {
    pub(crate) swarm: Swarm<Behaviour>,
    /// Makes another swarm of the same settings.
    pub(crate) make_swarm: MakeSwarm,
    /// What a swarm listens on; the port is never 0.
    pub(crate) listen: Multiaddr,
    pub(crate) topics: Topics,
    pub(crate) chain: ChainRef,
    pub(crate) max_consensus_bytes: usize,
    pub(crate) advertised: Vec<Multiaddr>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) own_commands: mpsc::WeakSender<Command>,
    pub(crate) events: EventSender,
    pub(crate) peers: Peers,
    pub(crate) peers_sender: watch::Sender<Arc<Vec<PeerInfo>>>,
    pub(crate) addresses_sender: watch::Sender<Vec<String>>,
    pub(crate) book: Option<PathBuf>,
    pub(crate) status: StatusSource,
    pub(crate) metrics: Metrics,
    pub(crate) library_metrics: libp2p::metrics::Metrics,
    pub(crate) shutdown: CancellationToken,
    pub(crate) first_address: Multiaddr,
}

/// The task's state.
pub(crate) struct Service {
    pub(super) parts: Parts,
    pub(super) listening: Vec<Multiaddr>,
    /// Status requests that we sent; someone may wait for the answer.
    pub(super) statuses: HashMap<rr::OutboundRequestId, (PublicKey, Option<StatusReply>)>,
    pub(super) blocks: HashMap<rr::OutboundRequestId, (PublicKey, BlocksAnswer)>,
    pub(super) transactions: usize,
    banned: Vec<PublicKey>,
    book_written: Instant,
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            listening: vec![parts.first_address.clone()],
            parts,
            statuses: HashMap::new(),
            blocks: HashMap::new(),
            transactions: 0,
            banned: Vec::new(),
            book_written: Instant::now(),
        }
    }

    /// Runs until [`super::Network::shutdown`], or until no handle is left.
    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shutdown = self.parts.shutdown.clone();
        loop {
            // Fair on purpose: a burst of commands must not keep arrived messages waiting, nor the
            // other way round.
            tokio::select! {
                () = shutdown.cancelled() => break,
                command = self.parts.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                event = self.parts.swarm.select_next_some() => self.on_event(event),
                _ = tick.tick() => self.on_tick(Instant::now()),
            }
            self.publish_peers();
        }
        if let Some(path) = &self.parts.book
            && let Err(error) = self.parts.peers.book().write(path)
        {
            tracing::warn!(path = %path.display(), %error, "the peer book was not written");
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::PublishConsensus(bytes) => {
                let topic = self.parts.topics.consensus.hash();
                self.publish(topic, bytes, "consensus");
            }
            Command::PublishTransactions(bytes) => {
                let topic = self.parts.topics.transactions.hash();
                self.publish(topic, bytes, "transactions");
            }
            Command::PublishRecord(bytes) => {
                let topic = self.parts.topics.records.hash();
                self.publish(topic, bytes, "records");
            }
            Command::SendTransactions(to, batch) => self.send_transactions(to, batch),
            Command::Judge(token, verdict) => self.judge(&token, verdict),
            Command::RequestBlocks {
                peer,
                request,
                reply,
            } => self.request_blocks(peer, request, reply),
            Command::RequestStatus { peer, reply } => self.request_status(peer, Some(reply)),
            Command::AskStatuses => {
                let now = Instant::now();
                self.parts.peers.ask_all(now);
                self.ask_due_statuses(now);
            }
            Command::Blocks { channel, response } => {
                // An error means that the peer no longer waits.
                let _ = self.behaviour().sync.send_response(channel, response);
            }
            Command::SetAllowed(list) => self.set_allowed(&list),
            Command::Dial(address) => self.dial(DialOpts::from(address), None),
            Command::Report(peer, fault) => self.charge(&peer, fault),
            Command::Announce(peer) => self.announce(&peer),
            Command::Reconnect(peer) => self.reconnect(&peer),
            Command::Restart => self.restart(),
        }
    }

    pub(super) fn behaviour(&mut self) -> &mut Behaviour {
        self.parts.swarm.behaviour_mut()
    }

    fn publish(&mut self, topic: gossipsub::TopicHash, bytes: Vec<u8>, kind: &'static str) {
        use gossipsub::PublishError::{AllQueuesFull, Duplicate, NoPeersSubscribedToTopic};
        match self.behaviour().gossip.inner.publish(topic, bytes) {
            Ok(_) => self.parts.metrics.published(kind),
            // Alone, or not yet connected: senders repeat what matters.
            Err(NoPeersSubscribedToTopic) => self.parts.metrics.published("no_peers"),
            Err(Duplicate) => self.parts.metrics.published("duplicate"),
            Err(error) => {
                let all_full = matches!(error, AllQueuesFull(_));
                self.parts
                    .metrics
                    .published(if all_full { "queues_full" } else { "error" });
                tracing::warn!(%error, kind, "a gossip message was not sent");
            }
        }
    }

    fn judge(&mut self, token: &MessageToken, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => gossipsub::MessageAcceptance::Accept,
            Verdict::Ignore => gossipsub::MessageAcceptance::Ignore,
            Verdict::Reject => gossipsub::MessageAcceptance::Reject,
        };
        // `false`: judged too late to be passed on.
        self.behaviour()
            .gossip
            .inner
            .report_message_validation_result(&token.id, &token.source, acceptance);
        if verdict == Verdict::Reject
            && let Some(key) = public_key(&token.source)
        {
            self.charge(&key, Fault::InvalidMessage);
        }
    }

    pub(super) fn is_connected(&self, key: &PublicKey) -> bool {
        self.parts.swarm.is_connected(&peer_id(key))
    }

    fn set_allowed(&mut self, list: &std::collections::BTreeMap<PublicKey, Vec<String>>) {
        let now = Instant::now();
        let (added, removed) = self.parts.peers.set_allowed(now, list);
        for key in removed {
            let peer = peer_id(&key);
            self.behaviour().allowed.disallow_peer(peer);
            self.behaviour().kad.remove_peer(&peer);
            self.banned.retain(|banned| *banned != key);
        }
        for key in added {
            if self.parts.peers.admitted(now, &key) {
                self.behaviour().allowed.allow_peer(peer_id(&key));
            } else {
                self.banned.push(key);
            }
        }
        self.dial_due(now);
    }

    fn dial(&mut self, options: DialOpts, key: Option<&PublicKey>) {
        self.parts.metrics.dials.inc();
        if let Err(error) = self.parts.swarm.dial(options) {
            tracing::debug!(%error, "not dialled");
            if let Some(key) = key {
                self.parts.peers.dial_failed(Instant::now(), key);
            }
        }
    }

    pub(super) fn dial_due(&mut self, now: Instant) {
        for (key, addresses) in self.parts.peers.dials(now) {
            let options = DialOpts::peer_id(peer_id(&key))
                .addresses(addresses)
                // Not "disconnected", too: a dead connection may still be closing.
                .condition(PeerCondition::NotDialing)
                .build();
            self.dial(options, Some(&key));
        }
    }

    fn on_tick(&mut self, now: Instant) {
        let peers = &self.parts.peers;
        let back: Vec<_> = self
            .banned
            .iter()
            .filter(|key| peers.admitted(now, key))
            .copied()
            .collect();
        self.banned.retain(|key| !back.contains(key));
        for key in back {
            self.behaviour().allowed.allow_peer(peer_id(&key));
        }
        for connection in self.parts.peers.take_overdue(now) {
            tracing::debug!(%connection, "no pong; the connection is closed");
            self.parts.swarm.close_connection(connection);
        }
        self.dial_due(now);
        self.ask_due_statuses(now);
        self.announce_changes(now);
        if now - self.book_written >= BOOK_INTERVAL
            && let Some(path) = &self.parts.book
            && let Some(book) = self.parts.peers.take_book()
        {
            self.book_written = now;
            let path = path.clone();
            // Lost at a crash at worst: the book is written again with the next change.
            drop(tokio::task::spawn_blocking(move || {
                if let Err(error) = book.write(&path) {
                    tracing::warn!(path = %path.display(), %error, "the peer book was not written");
                }
            }));
        }
    }

    fn ask_due_statuses(&mut self, now: Instant) {
        for peer in self.parts.peers.statuses(now) {
            self.request_status(peer, None);
        }
    }

    pub(super) fn announce_changes(&mut self, now: Instant) {
        for change in self.parts.peers.changes(now) {
            match change {
                Change::Connected(key) => {
                    tracing::info!(peer = %key, "peer connected");
                    self.parts.metrics.peers.inc();
                    self.parts.events.offer(NetworkEvent::Connected(key));
                }
                Change::Disconnected(key) => {
                    tracing::info!(peer = %key, "peer disconnected");
                    self.parts.metrics.peers.dec();
                    self.parts.events.offer(NetworkEvent::Disconnected(key));
                }
            }
        }
    }

    pub(super) fn charge(&mut self, key: &PublicKey, fault: Fault) {
        self.parts.metrics.fault(fault.label());
        let ban = self.parts.peers.charge(Instant::now(), key, fault);
        tracing::debug!(peer = %key, fault = fault.label(), "fault of a peer");
        if let Some(length) = ban {
            self.parts.metrics.bans.inc();
            tracing::warn!(
                peer = %key,
                fault = fault.label(),
                for_s = length.as_secs(),
                "peer cut off for its faults; look at its log, or take it from the membership"
            );
            self.behaviour().allowed.disallow_peer(peer_id(key));
            if !self.banned.contains(key) {
                self.banned.push(*key);
            }
        }
    }

    fn publish_peers(&mut self) {
        if let Some(infos) = self.parts.peers.take_infos(Instant::now()) {
            self.parts.peers_sender.send_replace(Arc::new(infos));
        }
    }

    fn publish_addresses(&self) {
        let own = *self.parts.swarm.local_peer_id();
        let all = self.parts.advertised.iter().chain(&self.listening);
        let all = all.map(|address| format!("{address}/p2p/{own}")).collect();
        self.parts.addresses_sender.send_replace(all);
    }

    fn on_event(&mut self, event: Event) {
        self.parts.library_metrics.record(&event);
        let now = Instant::now();
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(now, event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                if let Some(key) = public_key(&peer_id) {
                    let dialled = endpoint
                        .is_dialer()
                        .then(|| endpoint.get_remote_address().clone());
                    self.parts
                        .peers
                        .connected(now, &key, connection_id, dialled);
                    self.ask_due_statuses(now);
                }
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                if let Some(key) = public_key(&peer_id) {
                    tracing::debug!(peer = %key, ?cause, "connection closed");
                    self.parts.peers.disconnected(now, &key, connection_id);
                    self.announce_changes(now);
                }
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => {
                if let Some(key) = public_key(&peer) {
                    tracing::debug!(peer = %key, %error, "dial failed");
                    self.parts.peers.dial_failed(now, &key);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                if !self.listening.contains(&address) {
                    self.listening.push(address);
                }
                self.publish_addresses();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.retain(|other| *other != address);
                self.publish_addresses();
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                tracing::error!(
                    ?reason,
                    "the listener closed; nobody can connect to this node"
                );
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "an inbound connection failed");
            }
            _ => {}
        }
    }

    fn on_behaviour(&mut self, now: Instant, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(GuardedEvent::Inner(event)) => self.on_gossip(now, event),
            BehaviourEvent::Gossip(GuardedEvent::Reopened(peer)) => {
                if let Some(key) = public_key(&peer) {
                    self.charge(&key, Fault::StreamReset);
                }
            }
            BehaviourEvent::Status(event) => self.on_status(now, event),
            BehaviourEvent::Sync(event) => self.on_sync(now, event),
            BehaviourEvent::Transactions(event) => self.on_transactions(now, event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Ping(event) => self.on_ping(now, event),
            BehaviourEvent::Allowed(event) => match event {},
            BehaviourEvent::Limits(event) => match event {},
        }
    }

    fn subscribed(&mut self, peer: &PeerId, topic: &gossipsub::TopicHash, subscribed: bool) {
        if *topic == self.parts.topics.consensus.hash()
            && let Some(key) = public_key(peer)
        {
            self.parts.peers.subscribed(&key, subscribed);
        }
    }

    fn on_gossip(&mut self, now: Instant, event: gossipsub::Event) {
        self.parts.library_metrics.record(&event);
        let (source, id, message) = match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => (propagation_source, message_id, message),
            gossipsub::Event::Subscribed { peer_id, topic } => {
                return self.subscribed(&peer_id, &topic, true);
            }
            gossipsub::Event::Unsubscribed { peer_id, topic } => {
                return self.subscribed(&peer_id, &topic, false);
            }
            gossipsub::Event::SlowPeer {
                peer_id,
                failed_messages,
            } => {
                self.parts.metrics.dropped("slow_peer");
                tracing::debug!(peer = %peer_id, ?failed_messages, "a peer does not take messages in time");
                return;
            }
            _ => return,
        };
        let Some(from) = public_key(&source) else {
            return;
        };
        let token = MessageToken { id, source };
        let length = message.data.len();
        let consensus = message.topic == self.parts.topics.consensus.hash();
        let record = message.topic == self.parts.topics.records.hash();
        let (max, traffic) = if consensus {
            (self.parts.max_consensus_bytes, Traffic::Consensus)
        } else if record {
            (MAX_RECORD_MESSAGE_BYTES, Traffic::Records)
        } else {
            (MAX_TRANSACTIONS_MESSAGE_BYTES, Traffic::Transactions)
        };
        let fault = if length > max {
            Some(Fault::Oversized)
        } else if !self.parts.peers.allowance(now, &from, traffic, length) {
            self.parts.metrics.dropped("rate");
            Some(Fault::Flood)
        } else {
            None
        };
        if let Some(fault) = fault {
            self.judge(&token, Verdict::Ignore);
            self.charge(&from, fault);
            return;
        }
        if consensus {
            self.parts.events.offer(NetworkEvent::Consensus {
                from,
                bytes: message.data.into(),
                token,
            });
            return;
        }
        if record {
            let event = NetworkEvent::Record {
                from,
                bytes: message.data.into(),
                token: token.clone(),
            };
            if !self.parts.events.offer(event) {
                self.judge(&token, Verdict::Ignore);
            }
            return;
        }
        let decoded = decode_transactions(
            &message.data,
            MAX_TRANSACTIONS_MESSAGE_BYTES,
            MAX_TRANSACTIONS_PER_MESSAGE,
        );
        match decoded {
            Ok(transactions) => {
                self.parts.events.offer(NetworkEvent::Transactions {
                    from,
                    transactions,
                    token: Some(token),
                });
            }
            Err(error) => {
                tracing::debug!(peer = %from, %error, "malformed transactions");
                self.judge(&token, Verdict::Ignore);
                self.charge(&from, Fault::Garbage);
            }
        }
    }

    fn on_identify(&mut self, event: identify::Event) {
        self.parts.library_metrics.record(&event);
        let identify::Event::Received { peer_id, info, .. } = event else {
            return;
        };
        let Some(key) = public_key(&peer_id) else {
            return;
        };
        if info.protocol_version != chain_label(&self.parts.chain) {
            self.charge(&key, Fault::WrongChain);
            return;
        }
        // A loopback address means something only between nodes of one machine.
        let near = self.listening.iter().all(is_loopback);
        let addresses: Vec<_> = info
            .listen_addrs
            .into_iter()
            .filter(|address| near || !is_loopback(address))
            .take(super::limits::MAX_ADDRESSES_PER_PEER)
            .collect();
        if self.parts.peers.admitted(Instant::now(), &key) {
            for address in &addresses {
                self.behaviour().kad.add_address(&peer_id, address.clone());
            }
        }
        self.parts.peers.learn(&key, addresses.into_iter());
    }

    fn on_kad(&mut self, event: kad::Event) {
        self.parts.library_metrics.record(&event);
        let kad::Event::RoutablePeer { peer, address } = event else {
            return;
        };
        if let Some(key) = public_key(&peer) {
            self.parts.peers.find(&key, address);
        }
    }

    fn on_ping(&mut self, now: Instant, event: ping::Event) {
        self.parts.library_metrics.record(&event);
        match event.result {
            Ok(rtt) => {
                if let Some(key) = public_key(&event.peer) {
                    self.parts.peers.pong(now, &key, event.connection, rtt);
                    self.announce_changes(now);
                }
            }
            Err(error) => {
                tracing::debug!(peer = %event.peer, %error, "no pong; the connection is closed");
                self.parts.swarm.close_connection(event.connection);
            }
        }
    }
}
