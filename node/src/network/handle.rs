//! What the rest of the node sees of the network.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::Bytes;
use axolotl_common::{ChainRef, Hash, Height, KeyPair, PublicKey};
use libp2p::{Multiaddr, PeerId, gossipsub::MessageId, request_response::ResponseChannel};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Fault, PeerStatus, SyncBlock,
    codec::{SyncRequest, SyncResponse, encode_transactions, split_transactions},
    limits::{
        LOCKED_TIMEOUT, MAX_RECORD_MESSAGE_BYTES, MAX_SYNC_BLOCKS, MAX_TRANSACTIONS_MESSAGE_BYTES,
        MAX_TRANSACTIONS_PER_MESSAGE, SYNC_TIMEOUT,
    },
    metrics::Metrics,
};

/// Room that CBOR takes in a direct message with transactions, beyond what gossip takes.
const CBOR_ROOM_BYTES: usize = 16 << 10;

/// How the network is set up.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The node's key: validator key and peer id.
    pub key: KeyPair,
    /// The chain. Peers of another one are cut off.
    pub chain: ChainRef,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What others are told to dial, such as `/dns4/node1/tcp/50051`. Empty: the addresses that it
    /// listens on.
    pub advertise: Vec<String>,
    /// Largest block of the chain, bytes.
    pub max_block_bytes: usize,
    /// The peer book file; none: addresses are forgotten at the end.
    pub book: Option<PathBuf>,
    /// Name and version of the program, told to peers.
    pub agent: String,
}

/// Answers "what is your status?" for a given peer. Called in the network's task, so it must not
/// wait: it reads something that is kept up to date.
pub type StatusSource = Arc<dyn Fn(&PublicKey) -> PeerStatus + Send + Sync>;

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An address cannot be read.
    #[error("{0:?} is not a multiaddress such as /dns4/node1/tcp/50051")]
    Address(String),
    /// Listening failed.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// The library refused its settings.
    #[error("network setup: {0}")]
    Setup(String),
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Longer than peers accept.
    #[error("a message of {found} bytes; peers accept {max}")]
    TooLarge {
        /// Length.
        found: usize,
        /// Longest.
        max: usize,
    },
    /// The network is behind; the message was dropped and counted.
    #[error("the network's queue is full")]
    Busy,
    /// The network has ended.
    #[error("the network has ended")]
    Ended,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No connection to this peer.
    #[error("not connected")]
    NotConnected,
    /// Too many requests are open.
    #[error("too many requests are open")]
    Busy,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke, or the peer declined.
    #[error("no answer: {0}")]
    Declined(String),
    /// The answer was refused; the peer was charged for it.
    #[error("refused answer: {0}")]
    Fault(String),
    /// The network has ended.
    #[error("the network has ended")]
    Ended,
}

/// Names a gossip message until it is judged.
#[derive(Clone, Debug)]
pub struct MessageToken {
    pub(crate) id: MessageId,
    pub(crate) source: PeerId,
}

/// What the node thinks of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Ignore,
    Reject,
}

/// Where the answer to [`NetworkEvent::BlocksWanted`] goes. Dropped: the peer is told nothing and
/// asks elsewhere.
#[derive(Debug)]
pub struct BlocksReply {
    pub(crate) channel: ResponseChannel<SyncResponse>,
    pub(crate) commands: mpsc::Sender<Command>,
}

impl BlocksReply {
    /// Sends blocks, in order from the height that was asked for; none says that there are none.
    pub fn send(self, blocks: Vec<SyncBlock>) {
        let response = SyncResponse::from(blocks);
        // A full queue drops the answer; the peer's request then fails, and it asks again.
        let _ = self.commands.try_send(Command::Blocks {
            channel: self.channel,
            response,
        });
    }

    /// Sends a block that is not final, or says that there is none.
    pub fn send_locked(self, block: Option<Bytes>) {
        let _ = self.commands.try_send(Command::Blocks {
            channel: self.channel,
            response: SyncResponse::locked(block),
        });
    }
}

/// What peers did.
#[derive(Debug)]
pub enum NetworkEvent {
    /// A consensus message by gossip. It goes on to further peers only once it is accepted.
    Consensus {
        /// The peer that passed it on; its author stands inside.
        from: PublicKey,
        /// The message, not yet looked at.
        bytes: Bytes,
        /// For [`Network::accept`], [`Network::ignore`] or [`Network::reject`].
        token: MessageToken,
    },
    /// A planned epoch record by gossip. It goes on to further peers only once it is accepted.
    Record {
        /// The peer that passed it on.
        from: PublicKey,
        /// The message, not yet looked at.
        bytes: Bytes,
        /// For [`Network::accept`], [`Network::ignore`] or [`Network::reject`].
        token: MessageToken,
    },
    /// Transactions, EIP-2718 encoded, not yet looked at.
    Transactions {
        /// The peer that passed them on.
        from: PublicKey,
        /// The transactions.
        transactions: Vec<Bytes>,
        /// Present when they came by gossip; absent when they were sent to us alone.
        token: Option<MessageToken>,
    },
    /// A peer's status, at connect and then about every second.
    StatusOf {
        /// The peer.
        peer: PublicKey,
        /// Its status.
        status: PeerStatus,
    },
    /// A peer asks for blocks.
    BlocksWanted {
        /// The peer.
        from: PublicKey,
        /// First height.
        first: Height,
        /// How many at most; at most [`MAX_SYNC_BLOCKS`].
        count: u32,
        /// Where to answer.
        reply: BlocksReply,
    },
    /// A peer asks for a block that is not final: one that this node is locked on, or has staged.
    LockedWanted {
        /// Hash of the block.
        block: Hash,
        /// Where to answer, with [`BlocksReply::send_locked`].
        reply: BlocksReply,
    },
    /// The peer exchanged its status and answered a ping.
    Connected(PublicKey),
    /// The peer is gone, or has not answered a ping for 5 s.
    Disconnected(PublicKey),
}

/// One peer as others are shown it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerInfo {
    /// Its key.
    pub key: PublicKey,
    /// Where it can be dialled, best first.
    pub addresses: Vec<String>,
    /// Whether the status exchange is done and a pong came within 5 s.
    pub connected: bool,
    /// Whether its subscription has come, so that consensus gossip reaches it. That may be a moment
    /// after it is connected.
    pub subscribed: bool,
    /// Whether it is cut off for its faults.
    pub banned: bool,
    /// Round trip of the last ping.
    pub rtt: Option<Duration>,
    /// When the last pong came.
    pub last_pong: Option<Instant>,
    /// Its last status.
    pub status: Option<PeerStatus>,
    /// When that came.
    pub status_at: Option<Instant>,
}

/// What the service is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    PublishConsensus(Vec<u8>),
    PublishTransactions(Vec<u8>),
    PublishRecord(Vec<u8>),
    SendTransactions(PublicKey, Vec<Bytes>),
    Judge(MessageToken, Verdict),
    RequestBlocks {
        peer: PublicKey,
        request: SyncRequest,
        reply: oneshot::Sender<Result<SyncResponse, RequestError>>,
    },
    RequestStatus {
        peer: PublicKey,
        reply: oneshot::Sender<Result<PeerStatus, RequestError>>,
    },
    AskStatuses,
    Blocks {
        channel: ResponseChannel<SyncResponse>,
        response: SyncResponse,
    },
    SetAllowed(BTreeMap<PublicKey, Vec<String>>),
    Dial(Multiaddr),
    Report(PublicKey, Fault),
    Announce(PublicKey),
    Reconnect(PublicKey),
    Restart,
}

/// The network. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Network {
    pub(crate) key: PublicKey,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) peers: watch::Receiver<Arc<Vec<PeerInfo>>>,
    pub(crate) addresses: watch::Receiver<Vec<String>>,
    pub(crate) max_consensus_bytes: usize,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: CancellationToken,
}

impl Network {
    /// The node's own key.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// Gossips a consensus message. Never waits. The same bytes are sent once in 5 s only: a resend
    /// must differ.
    ///
    /// # Errors
    /// When it is too long, or the network is behind or has ended.
    pub fn publish_consensus(&self, bytes: Vec<u8>) -> Result<(), PublishError> {
        if bytes.len() > self.max_consensus_bytes {
            return Err(PublishError::TooLarge {
                found: bytes.len(),
                max: self.max_consensus_bytes,
            });
        }
        self.offer(Command::PublishConsensus(bytes), "consensus_out")
    }

    /// Gossips a planned epoch record. Never waits. The same bytes are sent once in 5 s only: a
    /// resend must differ.
    ///
    /// # Errors
    /// When it is too long, or the network is behind or has ended.
    pub fn publish_record(&self, bytes: Vec<u8>) -> Result<(), PublishError> {
        if bytes.len() > MAX_RECORD_MESSAGE_BYTES {
            return Err(PublishError::TooLarge {
                found: bytes.len(),
                max: MAX_RECORD_MESSAGE_BYTES,
            });
        }
        self.offer(Command::PublishRecord(bytes), "record_out")
    }

    /// Asks every connected peer for its status now rather than with the next turn; the answers come
    /// as [`NetworkEvent::StatusOf`]. Never waits.
    pub fn ask_statuses(&self) {
        // Without room the next turn brings them.
        let _ = self.offer(Command::AskStatuses, "statuses");
    }

    /// Gossips transactions, in as few messages as fit. Never waits. A transaction longer than
    /// 512 KiB is left out.
    ///
    /// # Errors
    /// When the network is behind or has ended; some may have been taken then.
    pub fn publish_transactions(&self, transactions: &[Bytes]) -> Result<(), PublishError> {
        let messages = encode_transactions(
            transactions,
            MAX_TRANSACTIONS_MESSAGE_BYTES,
            MAX_TRANSACTIONS_PER_MESSAGE,
        );
        for message in messages {
            self.offer(Command::PublishTransactions(message), "transactions_out")?;
        }
        Ok(())
    }

    /// Sends transactions to one peer, such as the proposer, best effort. Never waits.
    ///
    /// # Errors
    /// When the network is behind or has ended; some may have been taken then.
    pub fn send_transactions(
        &self,
        to: PublicKey,
        transactions: &[Bytes],
    ) -> Result<(), PublishError> {
        let batches = split_transactions(
            transactions,
            MAX_TRANSACTIONS_MESSAGE_BYTES - CBOR_ROOM_BYTES,
            MAX_TRANSACTIONS_PER_MESSAGE,
        );
        for batch in batches {
            let batch = batch.into_iter().cloned().collect();
            self.offer(Command::SendTransactions(to, batch), "transactions_out")?;
        }
        Ok(())
    }

    /// The message is good: it goes on to further peers.
    pub fn accept(&self, token: MessageToken) {
        let _ = self.offer(Command::Judge(token, Verdict::Accept), "verdict");
    }

    /// The message is of no use, through nobody's fault (too old, of an unknown epoch): it goes no
    /// further.
    pub fn ignore(&self, token: MessageToken) {
        let _ = self.offer(Command::Judge(token, Verdict::Ignore), "verdict");
    }

    /// The message is wrong: it goes no further, and whoever passed it on is charged.
    pub fn reject(&self, token: MessageToken) {
        let _ = self.offer(Command::Judge(token, Verdict::Reject), "verdict");
    }

    /// Asks a peer for up to `count` blocks from `from` on. They are in the order of the answer, no
    /// more than asked for, and otherwise unchecked.
    ///
    /// # Errors
    /// Says why there is no answer; a peer's fault has been charged to it.
    pub async fn request_blocks(
        &self,
        peer: PublicKey,
        from: Height,
        count: u32,
    ) -> Result<Vec<SyncBlock>, RequestError> {
        let count = count.min(MAX_SYNC_BLOCKS as u32);
        let request = SyncRequest::blocks(from, count);
        let response = self.request_sync(peer, request, SYNC_TIMEOUT).await?;
        let blocks = Vec::<SyncBlock>::try_from(response).map_err(|error| {
            self.report(peer, Fault::Garbage);
            RequestError::Fault(error.to_string())
        })?;
        if blocks.len() > count as usize {
            self.report(peer, Fault::Oversized);
            let why = format!("{} blocks, asked for {count}", blocks.len());
            return Err(RequestError::Fault(why));
        }
        Ok(blocks)
    }

    /// Asks a peer for a block that is not final; `None` when it has none of that hash. The bytes are
    /// unchecked.
    ///
    /// # Errors
    /// Says why there is no answer; a peer's fault has been charged to it.
    pub async fn request_locked(
        &self,
        peer: PublicKey,
        block: Hash,
    ) -> Result<Option<Bytes>, RequestError> {
        let request = SyncRequest::locked(block);
        let response = self.request_sync(peer, request, LOCKED_TIMEOUT).await?;
        response.into_locked().map_err(|error| {
            self.report(peer, Fault::Oversized);
            RequestError::Fault(error.to_string())
        })
    }

    async fn request_sync(
        &self,
        peer: PublicKey,
        request: SyncRequest,
        patience: Duration,
    ) -> Result<SyncResponse, RequestError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::RequestBlocks {
            peer,
            request,
            reply,
        };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| RequestError::Ended)?;
        let response = timeout(patience, answer).await.map_err(|_| {
            self.report(peer, Fault::Unanswered);
            RequestError::Timeout
        })?;
        response.map_err(|_| RequestError::Ended)?
    }

    /// Exchanges the status with a peer now.
    ///
    /// # Errors
    /// Says why there is no answer; a peer's fault has been charged to it.
    pub async fn request_status(&self, peer: PublicKey) -> Result<PeerStatus, RequestError> {
        let (reply, answer) = oneshot::channel();
        let sent = self
            .commands
            .send(Command::RequestStatus { peer, reply })
            .await;
        sent.map_err(|_| RequestError::Ended)?;
        answer.await.map_err(|_| RequestError::Ended)?
    }

    /// Replaces the allow list: members and registered nodes with their addresses. Others are cut at
    /// once. The node's own key may be in it. An empty list of addresses leaves what the peer book
    /// and the peers themselves know.
    pub async fn set_allowed(&self, peers: BTreeMap<PublicKey, Vec<String>>) {
        // An error means that the network has ended; its task handle says so.
        let _ = self.commands.send(Command::SetAllowed(peers)).await;
    }

    /// Dials an address, with or without `/p2p/…`. Whoever answers must be on the allow list.
    ///
    /// # Errors
    /// When the text is no address.
    pub async fn dial(&self, address: &str) -> Result<(), NetworkError> {
        let parsed = address
            .parse()
            .map_err(|_| NetworkError::Address(address.to_owned()))?;
        let _ = self.commands.send(Command::Dial(parsed)).await;
        Ok(())
    }

    /// Charges a peer for a fault that was found elsewhere.
    pub fn report(&self, peer: PublicKey, fault: Fault) {
        let _ = self.offer(Command::Report(peer, fault), "report");
    }

    /// Tells a peer this node's subscriptions to gossip again. Never waits.
    pub fn announce(&self, peer: PublicKey) {
        let _ = self.offer(Command::Announce(peer), "repair");
    }

    /// Closes all connections to a peer and dials it again, at the addresses that its names have now. Never waits.
    pub fn reconnect(&self, peer: PublicKey) {
        let _ = self.offer(Command::Reconnect(peer), "repair");
    }

    /// Closes everything, listens again and dials all peers, with nothing left of what gossip knew. Never waits.
    pub fn restart(&self) {
        let _ = self.offer(Command::Restart, "repair");
    }

    /// Peers that are let in or connected, by key.
    pub fn peers(&self) -> Arc<Vec<PeerInfo>> {
        self.peers.borrow().clone()
    }

    /// [`Network::peers`] as they change.
    pub fn watch_peers(&self) -> watch::Receiver<Arc<Vec<PeerInfo>>> {
        self.peers.clone()
    }

    /// Keys of connected peers.
    pub fn connected(&self) -> Vec<PublicKey> {
        let peers = self.peers();
        let connected = peers.iter().filter(|peer| peer.connected);
        connected.map(|peer| peer.key).collect()
    }

    /// Addresses that the node listens on and advertises, with `/p2p/…`.
    pub fn local_addresses(&self) -> Vec<String> {
        self.addresses.borrow().clone()
    }

    /// Consensus messages that were dropped since the start because the node did not take them in
    /// time.
    pub fn consensus_dropped(&self) -> u64 {
        self.metrics.dropped_so_far("consensus")
    }

    /// Ends the network: connections are closed, the peer book is written.
    pub fn shutdown(&self) {
        self.shutdown.cancel();
    }

    fn offer(&self, command: Command, kind: &'static str) -> Result<(), PublishError> {
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => {
                    self.metrics.dropped(kind);
                    PublishError::Busy
                }
                mpsc::error::TrySendError::Closed(_) => PublishError::Ended,
            })
    }
}
