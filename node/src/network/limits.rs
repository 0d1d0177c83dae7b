//! Every bound of the network, in one place. What happens at a bound is said beside it.

use std::time::Duration;

use axolotl_common::limits::{MAX_MAX_BLOCK_BYTES, MAX_RECORDS_AHEAD_BYTES, RLP_HEAD_BYTES};
pub use axolotl_common::{limits::MAX_PROOF_BYTES, membership::MAX_RECORD_BYTES};
use axolotl_consensus::message::MAX_MESSAGE_OVERHEAD;

/// Room in a consensus message beside the block: signatures, certificates and an epoch record of
/// up to 1 MiB, which lies outside the block limit.
pub const MAX_CONSENSUS_OVERHEAD_BYTES: usize = (1 << 20) + (128 << 10);
/// Longest gossip message with transactions, and longest direct one. Senders split; a longer one
/// from a peer is a fault.
pub const MAX_TRANSACTIONS_MESSAGE_BYTES: usize = 512 << 10;
/// Most transactions in one message. Senders split; more from a peer is a fault.
pub const MAX_TRANSACTIONS_PER_MESSAGE: usize = 4_096;
/// Longest gossip message with a record. A longer one from a peer is a fault.
pub const MAX_RECORD_MESSAGE_BYTES: usize = MAX_RECORD_BYTES + 64;
/// Gossip frames may be this much longer than the longest message: such a message is read, found
/// too long by us and charged to its sender, while a still longer one only ends the stream.
pub const GOSSIP_FRAME_SLACK_BYTES: usize = 256 << 10;
/// Most gossip messages in one frame.
pub const MAX_MESSAGES_PER_FRAME: usize = 64;
/// Gossip frames that wait for one peer; the newest is dropped when full.
pub const GOSSIP_QUEUE_PER_PEER: usize = 2_048;
/// A gossip message that could not be sent to a peer for so long is dropped for that peer.
pub const GOSSIP_SEND_TIMEOUT: Duration = Duration::from_secs(4);
/// Gossip heartbeat: mesh upkeep and lazy repair.
pub const GOSSIP_HEARTBEAT: Duration = Duration::from_millis(500);
/// Bytes that were seen are not passed on, nor sent again, for so long.
pub const GOSSIP_DUPLICATE_TIME: Duration = Duration::from_secs(5);

/// Largest request of `/axolotl/sync/1`.
pub const MAX_SYNC_REQUEST_BYTES: usize = 256;
/// Most blocks that one sync request may ask for.
pub const MAX_SYNC_BLOCKS: usize = 512;
/// Block bytes that an answer is filled up to; the first block is sent whatever its size.
pub const SYNC_ANSWER_TARGET_BYTES: usize = 2 << 20;
/// Largest answer of `/axolotl/sync/1`: the largest block of any chain with the record that it carries,
/// the record that is its proof, and the records ahead of it.
pub const MAX_SYNC_RESPONSE_BYTES: usize = 13 << 20;
/// Most records ahead of one block.
pub const MAX_SYNC_RECORDS: usize = 64;

/// Room for the CBOR around one block and its records.
const SYNC_FRAME_BYTES: usize = 16 << 10;
/// Largest block of any chain, with the record that it carries.
const MAX_ANY_BLOCK_BYTES: usize = MAX_MAX_BLOCK_BYTES as usize + MAX_RECORD_BYTES + RLP_HEAD_BYTES;
const _: () = assert!(
    MAX_CONSENSUS_OVERHEAD_BYTES >= MAX_RECORD_BYTES + RLP_HEAD_BYTES + MAX_MESSAGE_OVERHEAD,
    "a proposal of the largest block can be gossiped"
);
const _: () = assert!(
    MAX_SYNC_RESPONSE_BYTES
        >= MAX_ANY_BLOCK_BYTES + MAX_PROOF_BYTES + MAX_RECORDS_AHEAD_BYTES + SYNC_FRAME_BYTES,
    "the largest block can be synced, with its proof and the records ahead of it"
);
/// A sync request fails after this.
pub const SYNC_TIMEOUT: Duration = Duration::from_secs(8);
/// A request for a block that is not final fails after this: another holder is asked then.
pub const LOCKED_TIMEOUT: Duration = Duration::from_secs(2);
/// The stream of a sync request ends after this, on both sides. Longer than [`SYNC_TIMEOUT`]: an
/// asker must not take the other side's giving up for its declining.
pub const SYNC_STREAM_TIMEOUT: Duration = Duration::from_secs(12);
/// Sync requests of one peer served or awaited at a time; more are refused.
pub const MAX_SYNC_STREAMS: usize = 8;

/// Largest message of `/axolotl/status/1`, either way.
pub const MAX_STATUS_BYTES: usize = 4 << 10;
/// Longest version text in a status.
pub const MAX_VERSION_LEN: usize = 64;
/// Largest vote in a status.
pub const MAX_VOTE_BYTES: usize = 1 << 10;
/// Largest word of a seal in a status.
pub const MAX_SEAL_BYTES: usize = 128;
/// A status request fails after this.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(3);
/// The status of a peer is exchanged this often.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// The accepting side of a connection waits so long for the dialling side's status before it asks.
pub const STATUS_PATIENCE: Duration = Duration::from_millis(300);
/// Status requests of one peer at a time; more are refused.
pub const MAX_STATUS_STREAMS: usize = 8;

/// A direct message with transactions fails after this.
pub const TRANSACTIONS_TIMEOUT: Duration = Duration::from_secs(5);
/// Direct transaction messages of one peer at a time; more are refused.
pub const MAX_TRANSACTIONS_STREAMS: usize = 32;
/// Outbound requests of all kinds that may be open; more are refused with [`Busy`].
///
/// [`Busy`]: super::RequestError::Busy
pub const MAX_OPEN_REQUESTS: usize = 1_024;

/// Interval of pings.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A ping without an answer for so long has failed.
pub const PING_TIMEOUT: Duration = Duration::from_secs(4);
/// A connection without a pong for so long is closed. libp2p's ping by itself reports the second failure only, and
/// gives the stream of the second ping 10 s to open: up to 18 s, in which half of what is sent to a peer that came
/// back goes into its dead connection.
pub const PONG_OVERDUE: Duration = Duration::from_secs(5);
const _: () =
    assert!(PONG_OVERDUE.as_millis() >= PING_INTERVAL.as_millis() + PING_TIMEOUT.as_millis());
/// A peer counts as connected while its last pong is at most so old.
pub const PONG_FRESH: Duration = Duration::from_secs(5);

/// The service looks at its timers this often.
pub const TICK: Duration = Duration::from_millis(100);
/// A peer that closes connections before it tells its status has most likely not heard of this node
/// yet: so many times the pause before the next dial does not grow.
pub const FLAT_DIALS: u32 = 25;
/// First pause before a peer is dialled again.
pub const DIAL_BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause before a peer is dialled again.
pub const DIAL_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Dials begun in one tick; the others wait for the next.
pub const MAX_DIALS_PER_TICK: usize = 16;

/// Peers on the allow list; further ones are left out with a warning.
pub const MAX_ALLOWED_PEERS: usize = 1_024;
/// Addresses kept of one peer from one source; further ones are left out.
pub const MAX_ADDRESSES_PER_PEER: usize = 8;
/// Longest address in its binary form; longer ones are left out.
pub const MAX_ADDRESS_BYTES: usize = 256;
/// Peers in the peer book; those not met for longest are left out.
pub const MAX_BOOK_PEERS: usize = 256;
/// Largest peer book file that is read.
pub const MAX_BOOK_BYTES: u64 = 1 << 20;
/// The peer book is written at most this often.
pub const BOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Connections of one peer; more are refused. Both sides may dial at once, and a dead connection
/// may linger until its ping times out.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 4;
/// Established connections; more are refused.
pub const MAX_CONNECTIONS: u32 = 512;
/// Inbound connections in their handshake; more are refused.
pub const MAX_PENDING_INCOMING: u32 = 64;
/// Dials under way; more are refused.
pub const MAX_PENDING_OUTGOING: u32 = 64;
/// Streams of one connection that are being negotiated; more are refused.
pub const MAX_NEGOTIATING_STREAMS: usize = 64;

/// Commands that wait for the service; a full queue refuses (publish) or makes the caller wait.
pub const COMMAND_QUEUE: usize = 4_096;
/// Events that wait for the node; when full, events are dropped and counted.
pub const EVENT_QUEUE: usize = 8_192;
/// Bytes of consensus messages that wait for the node; beyond, they are dropped and counted.
pub const MAX_QUEUED_CONSENSUS_BYTES: usize = 48 << 20;
/// Bytes of transactions that wait for the node; beyond, they are dropped and counted. They may
/// also fill only half of the queue, so that they never displace consensus messages.
pub const MAX_QUEUED_TRANSACTION_BYTES: usize = 8 << 20;

/// Bytes of records that wait for the node; beyond, they are dropped and counted.
pub const MAX_QUEUED_RECORD_BYTES: usize = 4 << 20;

/// Points at which a peer is cut off. See [`super::Fault`].
pub const BAN_SCORE: u32 = 100;
/// Points that are forgiven per second.
pub const SCORE_DECAY_PER_S: f64 = 1.0;
/// First time for which a peer is cut off; doubles with each further one.
pub const BAN_MIN: Duration = Duration::from_secs(10);
/// Longest time for which a peer is cut off.
pub const BAN_MAX: Duration = Duration::from_secs(600);
/// Rounds of doubling are forgotten after so long without a ban.
pub const BAN_MEMORY: Duration = Duration::from_secs(3_600);

/// Consensus messages that one peer may bring per second, and twice as many at once.
pub const CONSENSUS_MESSAGES_PER_S: f64 = 5_000.0;
/// Bytes of consensus messages that one peer may bring per second, and twice as many at once.
pub const CONSENSUS_BYTES_PER_S: f64 = 64.0 * 1024.0 * 1024.0;
/// Messages with transactions that one peer may bring per second, and twice as many at once.
pub const TRANSACTION_MESSAGES_PER_S: f64 = 2_000.0;
/// Bytes of transactions that one peer may bring per second, and twice as many at once.
pub const TRANSACTION_BYTES_PER_S: f64 = 16.0 * 1024.0 * 1024.0;
/// Messages with a record that one peer may bring per second, and twice as many at once. Each costs
/// a check of a signature.
pub const RECORD_MESSAGES_PER_S: f64 = 20.0;
/// Bytes of records that one peer may bring per second, and twice as many at once.
pub const RECORD_BYTES_PER_S: f64 = 2.0 * 1024.0 * 1024.0;
/// Sync and status requests that one peer may send per second, and twice as many at once.
pub const REQUESTS_PER_S: f64 = 200.0;
