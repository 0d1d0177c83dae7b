//! The service's side of requests and responses: status, sync, direct transactions.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alloy_primitives::Bytes;
use axolotl_common::{Hash, PublicKey};
use libp2p::{PeerId, request_response as rr};

use super::{
    BlocksReply, Fault, NetworkEvent, PeerStatus, RequestError,
    behaviour::chain_label,
    codec::{
        Incoming, SyncRequest, SyncResponse, TransactionsRequest, TransactionsResponse, WireBytes,
        WireStatus,
    },
    identity::{peer_id, public_key},
    limits::{MAX_OPEN_REQUESTS, MAX_SYNC_BLOCKS},
    peers::Traffic,
    service::{BlocksAnswer, Service, StatusReply},
};

impl Service {
    pub(super) fn request_blocks(
        &mut self,
        peer: PublicKey,
        request: SyncRequest,
        reply: BlocksAnswer,
    ) {
        let refused = if !self.is_connected(&peer) {
            Some(RequestError::NotConnected)
        } else if self.blocks.len() >= MAX_OPEN_REQUESTS {
            Some(RequestError::Busy)
        } else {
            None
        };
        if let Some(error) = refused {
            // An error means that nobody waits any more; so with all replies here.
            let _ = reply.send(Err(error));
            return;
        }
        let id = self
            .behaviour()
            .sync
            .send_request(&peer_id(&peer), Incoming::Good(request));
        self.blocks.insert(id, (peer, reply));
    }

    pub(super) fn request_status(&mut self, peer: PublicKey, reply: Option<StatusReply>) {
        let refused = if !self.is_connected(&peer) {
            Some(RequestError::NotConnected)
        } else if self.statuses.len() >= MAX_OPEN_REQUESTS {
            Some(RequestError::Busy)
        } else {
            None
        };
        if let Some(error) = refused {
            self.parts.peers.status_closed(Instant::now(), &peer);
            if let Some(reply) = reply {
                let _ = reply.send(Err(error));
            }
            return;
        }
        let status = WireStatus::from((self.parts.status)(&peer));
        let id = self
            .behaviour()
            .status
            .send_request(&peer_id(&peer), Incoming::Good(status));
        self.statuses.insert(id, (peer, reply));
    }

    pub(super) fn send_transactions(&mut self, to: PublicKey, batch: Vec<Bytes>) {
        if !self.is_connected(&to) || self.transactions >= MAX_OPEN_REQUESTS {
            self.parts.metrics.dropped("transactions_out");
            return;
        }
        let transactions = batch.into_iter().map(WireBytes).collect();
        let request = TransactionsRequest { transactions };
        self.behaviour()
            .transactions
            .send_request(&peer_id(&to), Incoming::Good(request));
        self.transactions += 1;
    }

    /// A status of a peer, whoever began the exchange.
    fn take_status(
        &mut self,
        now: Instant,
        peer: PublicKey,
        wire: WireStatus,
    ) -> Result<PeerStatus, RequestError> {
        let status = PeerStatus::try_from(wire).map_err(|error| {
            self.charge(&peer, Fault::Garbage);
            RequestError::Fault(error.to_string())
        })?;
        if status.chain != self.parts.chain {
            self.charge(&peer, Fault::WrongChain);
            let why = format!("it is of the chain {}", chain_label(&status.chain));
            return Err(RequestError::Fault(why));
        }
        let now_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        self.parts.peers.status(now, now_s, &peer, status.clone());
        self.announce_changes(now);
        self.parts.events.offer(NetworkEvent::StatusOf {
            peer,
            status: status.clone(),
        });
        Ok(status)
    }

    pub(super) fn on_status(
        &mut self,
        now: Instant,
        event: rr::Event<Incoming<WireStatus>, WireStatus>,
    ) {
        match event {
            rr::Event::Message { peer, message, .. } => match message {
                rr::Message::Request {
                    request, channel, ..
                } => {
                    let Some((from, request)) = self.admit_request(now, &peer, request) else {
                        return;
                    };
                    // The answer goes first: a peer of another chain shall learn why it is cut.
                    let own = WireStatus::from((self.parts.status)(&from));
                    let _ = self.behaviour().status.send_response(channel, own);
                    let _ = self.take_status(now, from, request);
                }
                rr::Message::Response {
                    request_id,
                    response,
                } => {
                    if let Some((from, reply)) = self.statuses.remove(&request_id) {
                        self.parts.peers.status_closed(now, &from);
                        let status = self.take_status(now, from, response);
                        if let Some(reply) = reply {
                            let _ = reply.send(status);
                        }
                    }
                }
            },
            rr::Event::OutboundFailure {
                request_id, error, ..
            } => {
                if let Some((from, reply)) = self.statuses.remove(&request_id) {
                    self.parts.peers.status_closed(now, &from);
                    let error = self.failed(&from, error);
                    if let Some(reply) = reply {
                        let _ = reply.send(Err(error));
                    }
                }
            }
            // The peer gave up, or was declined.
            rr::Event::InboundFailure { .. } | rr::Event::ResponseSent { .. } => {}
        }
    }

    pub(super) fn on_sync(
        &mut self,
        now: Instant,
        event: rr::Event<Incoming<SyncRequest>, SyncResponse>,
    ) {
        match event {
            rr::Event::Message { peer, message, .. } => match message {
                rr::Message::Request {
                    request, channel, ..
                } => {
                    let (Some((from, request)), Some(commands)) = (
                        self.admit_request(now, &peer, request),
                        self.parts.own_commands.upgrade(),
                    ) else {
                        return;
                    };
                    if request.count as usize > MAX_SYNC_BLOCKS {
                        self.charge(&from, Fault::Oversized);
                        return;
                    }
                    let reply = BlocksReply { channel, commands };
                    self.parts.events.offer(match request.locked {
                        Some(block) => NetworkEvent::LockedWanted {
                            block: Hash(block.into_array()),
                            reply,
                        },
                        None => NetworkEvent::BlocksWanted {
                            from,
                            first: request.from,
                            count: request.count,
                            reply,
                        },
                    });
                }
                rr::Message::Response {
                    request_id,
                    response,
                } => {
                    if let Some((_, reply)) = self.blocks.remove(&request_id) {
                        let _ = reply.send(Ok(response));
                    }
                }
            },
            rr::Event::OutboundFailure {
                request_id, error, ..
            } => {
                if let Some((from, reply)) = self.blocks.remove(&request_id) {
                    let error = self.failed(&from, error);
                    let _ = reply.send(Err(error));
                }
            }
            // The peer gave up, or was declined.
            rr::Event::InboundFailure { .. } | rr::Event::ResponseSent { .. } => {}
        }
    }

    pub(super) fn on_transactions(
        &mut self,
        now: Instant,
        event: rr::Event<Incoming<TransactionsRequest>, TransactionsResponse>,
    ) {
        match event {
            rr::Event::Message { peer, message, .. } => match message {
                rr::Message::Request {
                    request, channel, ..
                } => {
                    let Some((from, request)) = self.admit_request(now, &peer, request) else {
                        return;
                    };
                    let transactions: Vec<Bytes> =
                        request.transactions.into_iter().map(|tx| tx.0).collect();
                    let bytes = transactions.iter().map(|tx| tx.len()).sum();
                    let peers = &mut self.parts.peers;
                    if !peers.allowance(now, &from, Traffic::Transactions, bytes) {
                        self.parts.metrics.dropped("rate");
                        self.charge(&from, Fault::Flood);
                        return;
                    }
                    let count = transactions.len() as u32;
                    let offered = self.parts.events.offer(NetworkEvent::Transactions {
                        from,
                        transactions,
                        token: None,
                    });
                    let taken = if offered { count } else { 0 };
                    let response = TransactionsResponse { taken };
                    let _ = self
                        .behaviour()
                        .transactions
                        .send_response(channel, response);
                }
                rr::Message::Response { .. } => {
                    self.transactions = self.transactions.saturating_sub(1);
                }
            },
            rr::Event::OutboundFailure { peer, error, .. } => {
                self.transactions = self.transactions.saturating_sub(1);
                if let Some(key) = public_key(&peer) {
                    self.failed(&key, error);
                }
            }
            // The peer gave up, or was declined.
            rr::Event::InboundFailure { .. } | rr::Event::ResponseSent { .. } => {}
        }
    }

    /// Who asks what, unless it cannot be read or it asks too often.
    fn admit_request<T>(
        &mut self,
        now: Instant,
        peer: &PeerId,
        request: Incoming<T>,
    ) -> Option<(PublicKey, T)> {
        let key = public_key(peer)?;
        let request = match request {
            Incoming::Good(request) => request,
            Incoming::Bad(why) => {
                tracing::debug!(peer = %key, why, "malformed request");
                self.charge(&key, Fault::Garbage);
                return None;
            }
        };
        if self.parts.peers.allowance(now, &key, Traffic::Request, 0) {
            return Some((key, request));
        }
        self.parts.metrics.dropped("rate");
        self.charge(&key, Fault::Flood);
        None
    }

    fn failed(&mut self, peer: &PublicKey, failure: rr::OutboundFailure) -> RequestError {
        match failure {
            rr::OutboundFailure::Timeout => {
                self.charge(peer, Fault::Unanswered);
                RequestError::Timeout
            }
            rr::OutboundFailure::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                self.charge(peer, Fault::Garbage);
                RequestError::Fault(error.to_string())
            }
            rr::OutboundFailure::DialFailure => RequestError::NotConnected,
            failure => RequestError::Declined(failure.to_string()),
        }
    }
}
