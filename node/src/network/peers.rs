//! What is known of each peer: who may connect, where it is, when to dial it, whether it lives. Pure:
//! `now` and the seed of the jitter are arguments, and the service performs what is returned.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axolotl_common::PublicKey;
use libp2p::{Multiaddr, swarm::ConnectionId};

use super::{
    PeerInfo, PeerStatus,
    book::{Book, BookPeer},
    identity::{address_of, is_unspecified, strip_peer},
    limits::{
        CONSENSUS_BYTES_PER_S, CONSENSUS_MESSAGES_PER_S, DIAL_BACKOFF_MAX, DIAL_BACKOFF_MIN,
        FLAT_DIALS, MAX_ADDRESSES_PER_PEER, MAX_ALLOWED_PEERS, MAX_BOOK_PEERS, MAX_DIALS_PER_TICK,
        PONG_FRESH, PONG_OVERDUE, RECORD_BYTES_PER_S, RECORD_MESSAGES_PER_S, REQUESTS_PER_S,
        STATUS_INTERVAL, STATUS_PATIENCE, TRANSACTION_BYTES_PER_S, TRANSACTION_MESSAGES_PER_S,
    },
    score::{Fault, Rate, Score},
};

/// What a rate is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    Consensus,
    Transactions,
    Records,
    Request,
}

/// Everything known of one peer.
struct Peer {
    allowed: bool,
    /// Addresses from the allow list: membership, registry.
    given: Vec<Multiaddr>,
    /// Addresses that the peer told us, the last book held, or Kademlia found.
    learned: Vec<Multiaddr>,
    /// The address under which it was last reached.
    good: Option<Multiaddr>,
    /// Open connections, and when each last gave a pong, or began.
    connections: Vec<(ConnectionId, Instant)>,
    last_connected_s: u64,
    rtt: Option<Duration>,
    last_pong: Option<Instant>,
    status: Option<(PeerStatus, Instant)>,
    status_due: Instant,
    status_open: bool,
    /// Whether its subscription to consensus gossip has come.
    subscribed: bool,
    /// Whether the node was told that it is connected.
    announced: bool,
    dialling: bool,
    backoff: Duration,
    /// Connections in a row that ended without a status.
    refusals: u32,
    dial_due: Instant,
    score: Score,
    consensus: [Rate; 2],
    transactions: [Rate; 2],
    records: [Rate; 2],
    requests: Rate,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            allowed: false,
            given: Vec::new(),
            learned: Vec::new(),
            good: None,
            connections: Vec::new(),
            last_connected_s: 0,
            rtt: None,
            last_pong: None,
            status: None,
            status_due: now,
            status_open: false,
            subscribed: false,
            announced: false,
            dialling: false,
            backoff: Duration::ZERO,
            refusals: 0,
            dial_due: now,
            score: Score::default(),
            consensus: [
                Rate::new(now, CONSENSUS_MESSAGES_PER_S),
                Rate::new(now, CONSENSUS_BYTES_PER_S),
            ],
            transactions: [
                Rate::new(now, TRANSACTION_MESSAGES_PER_S),
                Rate::new(now, TRANSACTION_BYTES_PER_S),
            ],
            records: [
                Rate::new(now, RECORD_MESSAGES_PER_S),
                Rate::new(now, RECORD_BYTES_PER_S),
            ],
            requests: Rate::new(now, REQUESTS_PER_S),
        }
    }

    fn addresses(&self) -> Vec<Multiaddr> {
        let mut all: Vec<Multiaddr> = Vec::new();
        for address in self.good.iter().chain(&self.given).chain(&self.learned) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    fn alive(&self, now: Instant) -> bool {
        let pong = self.last_pong.is_some_and(|at| now - at <= PONG_FRESH);
        !self.connections.is_empty() && self.status.is_some() && pong
    }
}

/// A change that the node is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Connected(PublicKey),
    Disconnected(PublicKey),
}

/// All peers.
pub(crate) struct Peers {
    own: PublicKey,
    map: BTreeMap<PublicKey, Peer>,
    jitter: u64,
    book_dirty: bool,
    /// Whether anything of [`PeerInfo`] changed since it was last asked for.
    changed: bool,
}

impl Peers {
    /// Begins with the peers of a book, none of which is allowed yet.
    pub(crate) fn new(own: PublicKey, now: Instant, seed: u64, book: Book) -> Self {
        let mut peers = Self {
            own,
            map: BTreeMap::new(),
            jitter: seed,
            book_dirty: false,
            changed: true,
        };
        for entry in book.into_peers() {
            if entry.public_key != own {
                let peer = peers
                    .map
                    .entry(entry.public_key)
                    .or_insert_with(|| Peer::new(now));
                peer.last_connected_s = entry.last_connected_s;
                peer.learned = parse(&entry.public_key, &entry.addresses);
            }
        }
        peers
    }

    /// Replaces the allow list. Returns who is new on it, and who is no longer.
    pub(crate) fn set_allowed(
        &mut self,
        now: Instant,
        list: &BTreeMap<PublicKey, Vec<String>>,
    ) -> (Vec<PublicKey>, Vec<PublicKey>) {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        if list.len() > MAX_ALLOWED_PEERS {
            tracing::warn!(
                listed = list.len(),
                max = MAX_ALLOWED_PEERS,
                "the allow list is too long; the rest is left out"
            );
        }
        let list: BTreeMap<_, _> = list
            .iter()
            .filter(|(key, _)| **key != self.own)
            .take(MAX_ALLOWED_PEERS)
            .collect();
        for (key, peer) in &mut self.map {
            if peer.allowed && !list.contains_key(key) {
                peer.allowed = false;
                removed.push(*key);
            }
        }
        for (key, addresses) in list {
            let peer = self.map.entry(*key).or_insert_with(|| Peer::new(now));
            let given = parse(key, addresses);
            if !peer.allowed || peer.given != given {
                // New hope: dial at once.
                peer.dial_due = now;
                peer.backoff = Duration::ZERO;
                peer.refusals = 0;
                self.book_dirty = true;
            }
            peer.given = given;
            if !peer.allowed {
                peer.allowed = true;
                added.push(*key);
            }
        }
        // Whoever is not let in is remembered for its address, while there is room.
        let room = self.map.len() <= MAX_ALLOWED_PEERS + MAX_BOOK_PEERS;
        self.map.retain(|_, peer| {
            peer.allowed || !peer.connections.is_empty() || (room && peer.last_connected_s > 0)
        });
        self.changed = true;
        (added, removed)
    }

    /// Whether the peer may connect now.
    pub(crate) fn admitted(&self, now: Instant, key: &PublicKey) -> bool {
        self.map
            .get(key)
            .is_some_and(|peer| peer.allowed && !peer.score.banned(now))
    }

    /// Addresses that a peer told of itself, or that were found for it. They replace earlier ones.
    pub(crate) fn learn(&mut self, key: &PublicKey, addresses: impl Iterator<Item = Multiaddr>) {
        if let Some(peer) = self.map.get_mut(key).filter(|peer| peer.allowed) {
            let addresses: Vec<_> = addresses
                .filter_map(|address| strip_peer(key, address))
                .filter(|address| !is_unspecified(address))
                .take(MAX_ADDRESSES_PER_PEER)
                .collect();
            if !addresses.is_empty() && peer.learned != addresses {
                peer.learned = addresses;
                self.book_dirty = true;
                self.changed = true;
            }
        }
    }

    /// An address that somebody else told of a peer: kept only while the peer told none itself.
    pub(crate) fn find(&mut self, key: &PublicKey, address: Multiaddr) {
        let unknown = self
            .map
            .get(key)
            .is_some_and(|peer| peer.learned.is_empty());
        if unknown {
            self.learn(key, std::iter::once(address));
        }
    }

    /// Peers to dial now, with their addresses.
    pub(crate) fn dials(&mut self, now: Instant) -> Vec<(PublicKey, Vec<Multiaddr>)> {
        let mut dials = Vec::new();
        for (key, peer) in &mut self.map {
            let due = peer.allowed
                && !peer.dialling
                && peer.connections.is_empty()
                && peer.dial_due <= now
                && !peer.score.banned(now);
            if due && dials.len() < MAX_DIALS_PER_TICK {
                let addresses = peer.addresses();
                if !addresses.is_empty() {
                    peer.dialling = true;
                    dials.push((*key, addresses));
                }
            }
        }
        dials
    }

    /// A dial failed, or was not begun.
    pub(crate) fn dial_failed(&mut self, now: Instant, key: &PublicKey) {
        let jitter = self.next_jitter();
        if let Some(peer) = self.map.get_mut(key) {
            peer.dialling = false;
            back_off(peer, now, jitter);
        }
    }

    /// A connection stands. `address` is where we reached it, when it was we who dialled.
    pub(crate) fn connected(
        &mut self,
        now: Instant,
        key: &PublicKey,
        id: ConnectionId,
        address: Option<Multiaddr>,
    ) {
        let peer = self.map.entry(*key).or_insert_with(|| Peer::new(now));
        if peer.connections.is_empty() && !peer.status_open {
            let patience = if address.is_some() {
                Duration::ZERO
            } else {
                STATUS_PATIENCE
            };
            peer.status_due = now + patience;
        }
        peer.connections.push((id, now));
        peer.dialling = false;
        if let Some(address) = address.and_then(|address| strip_peer(key, address)) {
            peer.good = Some(address);
        }
        self.changed = true;
    }

    /// A connection is gone.
    pub(crate) fn disconnected(&mut self, now: Instant, key: &PublicKey, id: ConnectionId) {
        let jitter = self.next_jitter();
        let known = |(other, _): &(ConnectionId, Instant)| *other == id;
        if let Some(peer) = self
            .map
            .get_mut(key)
            .filter(|peer| peer.connections.iter().any(known))
        {
            peer.connections.retain(|(other, _)| *other != id);
            if peer.connections.is_empty() {
                if peer.status.is_none() && peer.refusals < FLAT_DIALS {
                    peer.refusals += 1;
                    peer.backoff = Duration::ZERO;
                }
                peer.rtt = None;
                peer.last_pong = None;
                peer.status = None;
                peer.subscribed = false;
                back_off(peer, now, jitter);
            }
            self.changed = true;
        }
    }

    /// Connections that have not given a pong for too long. They count as gone from now on: a dead one may take
    /// minutes to be closed.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> Vec<ConnectionId> {
        let overdue = |at: &Instant| now.saturating_duration_since(*at) >= PONG_OVERDUE;
        let all = self.map.iter();
        let dead: Vec<(PublicKey, ConnectionId)> = all
            .flat_map(|(key, peer)| peer.connections.iter().map(move |open| (key, open)))
            .filter(|(_, (_, at))| overdue(at))
            .map(|(key, (id, _))| (*key, *id))
            .collect();
        for (key, id) in &dead {
            self.disconnected(now, key, *id);
        }
        dead.into_iter().map(|(_, id)| id).collect()
    }

    /// Every connection is gone, and every dial with it: all are dialled at once.
    pub(crate) fn all_disconnected(&mut self, now: Instant) {
        let open = |(key, peer): (&PublicKey, &Peer)| {
            let connections = peer.connections.iter();
            connections.map(|(id, _)| (*key, *id)).collect::<Vec<_>>()
        };
        let open: Vec<_> = self.map.iter().flat_map(open).collect();
        for (key, id) in open {
            self.disconnected(now, &key, id);
        }
        for peer in self.map.values_mut() {
            peer.dialling = false;
            peer.status_open = false;
            peer.backoff = Duration::ZERO;
            peer.refusals = 0;
            peer.dial_due = now;
        }
    }

    /// The connections of a peer are about to be closed by this node: it is dialled at once.
    pub(crate) fn dial_soon(&mut self, key: &PublicKey) {
        if let Some(peer) = self.map.get_mut(key) {
            peer.backoff = Duration::ZERO;
        }
    }

    /// Peers that may connect now.
    pub(crate) fn all_admitted(&self, now: Instant) -> Vec<PublicKey> {
        let keys = self.map.keys();
        keys.filter(|key| self.admitted(now, key))
            .copied()
            .collect()
    }

    /// A ping was answered.
    pub(crate) fn pong(
        &mut self,
        now: Instant,
        key: &PublicKey,
        connection: ConnectionId,
        rtt: Duration,
    ) {
        if let Some(peer) = self.map.get_mut(key) {
            for (id, at) in &mut peer.connections {
                if *id == connection {
                    *at = now;
                }
            }
            peer.rtt = Some(rtt);
            peer.last_pong = Some(now);
            self.changed = true;
        }
    }

    /// A peer subscribed to consensus gossip, or no longer is.
    pub(crate) fn subscribed(&mut self, key: &PublicKey, subscribed: bool) {
        if let Some(peer) = self.map.get_mut(key) {
            peer.subscribed = subscribed;
            self.changed = true;
        }
    }

    /// Peers with whom the status is to be exchanged now.
    pub(crate) fn statuses(&mut self, now: Instant) -> Vec<PublicKey> {
        let mut due = Vec::new();
        for (key, peer) in &mut self.map {
            if !peer.connections.is_empty() && !peer.status_open && peer.status_due <= now {
                peer.status_open = true;
                due.push(*key);
            }
        }
        due
    }

    /// Brings the next status exchange with everybody forward.
    pub(crate) fn ask_all(&mut self, now: Instant) {
        for peer in self.map.values_mut() {
            peer.status_due = peer.status_due.min(now);
        }
    }

    /// A status exchange that we began is over; without a status the next try comes soon.
    pub(crate) fn status_closed(&mut self, now: Instant, key: &PublicKey) {
        if let Some(peer) = self.map.get_mut(key) {
            peer.status_open = false;
            peer.status_due = peer.status_due.max(now + STATUS_PATIENCE);
        }
    }

    /// A status came, as an answer or as a question.
    pub(crate) fn status(&mut self, now: Instant, now_s: u64, key: &PublicKey, status: PeerStatus) {
        if let Some(peer) = self.map.get_mut(key) {
            if peer.connections.is_empty() {
                return;
            }
            peer.status = Some((status, now));
            peer.status_due = now + STATUS_INTERVAL;
            peer.backoff = Duration::ZERO;
            peer.refusals = 0;
            self.book_dirty |= peer.last_connected_s == 0;
            peer.last_connected_s = now_s;
            self.changed = true;
        }
    }

    /// Which peers came to life or ceased to since the last call.
    pub(crate) fn changes(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, peer) in &mut self.map {
            let alive = peer.alive(now);
            if alive != peer.announced {
                peer.announced = alive;
                self.changed = true;
                changes.push(if alive {
                    Change::Connected(*key)
                } else {
                    Change::Disconnected(*key)
                });
            }
        }
        changes
    }

    /// Takes from the peer's allowance; `false` means that it sends too much.
    pub(crate) fn allowance(
        &mut self,
        now: Instant,
        key: &PublicKey,
        traffic: Traffic,
        bytes: usize,
    ) -> bool {
        self.map.get_mut(key).is_none_or(|peer| match traffic {
            Traffic::Consensus => take(&mut peer.consensus, now, bytes),
            Traffic::Transactions => take(&mut peer.transactions, now, bytes),
            Traffic::Records => take(&mut peer.records, now, bytes),
            Traffic::Request => peer.requests.take(now, 1.0),
        })
    }

    /// Charges a fault. Returns for how long the peer is to be cut off, if it now is.
    pub(crate) fn charge(
        &mut self,
        now: Instant,
        key: &PublicKey,
        fault: Fault,
    ) -> Option<Duration> {
        let peer = self.map.get_mut(key)?;
        let ban = peer.score.charge(now, fault)?;
        peer.dial_due = now + ban;
        self.changed = true;
        Some(ban)
    }

    /// What others are shown, when it changed since the last call.
    pub(crate) fn take_infos(&mut self, now: Instant) -> Option<Vec<PeerInfo>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let shown = self
            .map
            .iter()
            .filter(|(_, peer)| peer.allowed || !peer.connections.is_empty());
        let info = |(key, peer): (&PublicKey, &Peer)| PeerInfo {
            key: *key,
            addresses: peer.addresses().iter().map(Multiaddr::to_string).collect(),
            connected: peer.announced,
            subscribed: peer.subscribed,
            banned: peer.score.banned(now),
            rtt: peer.rtt,
            last_pong: peer.last_pong,
            status: peer.status.as_ref().map(|(status, _)| status.clone()),
            status_at: peer.status.as_ref().map(|(_, at)| *at),
        };
        Some(shown.map(info).collect())
    }

    /// The book, when it changed since the last call.
    pub(crate) fn take_book(&mut self) -> Option<Book> {
        if !std::mem::take(&mut self.book_dirty) {
            return None;
        }
        Some(self.book())
    }

    /// The book as it is.
    pub(crate) fn book(&self) -> Book {
        let entry = |(key, peer): (&PublicKey, &Peer)| BookPeer {
            public_key: *key,
            addresses: peer
                .addresses()
                .iter()
                .take(MAX_ADDRESSES_PER_PEER)
                .map(Multiaddr::to_string)
                .collect(),
            last_connected_s: peer.last_connected_s,
        };
        let listed = self.map.iter().filter(|(_, peer)| peer.allowed);
        Book::new(listed.map(entry).collect())
    }

    fn next_jitter(&mut self) -> u64 {
        // splitmix64
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn take(rates: &mut [Rate; 2], now: Instant, bytes: usize) -> bool {
    let [messages, volume] = rates;
    messages.take(now, 1.0) && volume.take(now, bytes as f64)
}

fn back_off(peer: &mut Peer, now: Instant, jitter: u64) {
    let pause = (peer.backoff * 2).clamp(DIAL_BACKOFF_MIN, DIAL_BACKOFF_MAX);
    peer.backoff = pause;
    // Up to a quarter more, so that two nodes do not dial each other in step.
    let extra = pause.mul_f64((jitter % 1_000) as f64 / 4_000.0);
    peer.dial_due = peer.dial_due.max(now + pause + extra);
}

fn parse(key: &PublicKey, addresses: &[String]) -> Vec<Multiaddr> {
    let parsed = addresses.iter().filter_map(|text| {
        let address = address_of(key, text);
        if address.is_none() {
            tracing::warn!(peer = %key, address = text, "not a usable address of this peer; left out");
        }
        address
    });
    parsed.take(MAX_ADDRESSES_PER_PEER).collect()
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
