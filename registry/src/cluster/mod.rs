//! The pure part of the registry: who may register under which label, who is alive, which
//! validators make the genesis, what to start again and when.
//!
//! There is no clock, no randomness and no input or output in here: `now` is an argument, and what
//! is to become durable is handed back to the caller, who writes it down and then applies it.

pub mod chain;
pub mod forming;
mod heartbeats;
pub mod instance;
pub mod liveness;
pub mod planner;
pub mod rate;
pub mod recovery;
pub mod registration;
pub mod restart;
pub mod state;
pub mod survey;
pub mod surveyor;
pub mod view;
pub mod votes;

use std::time::Duration;

use axolotl_common::registry_api::{MAX_LISTED_PEERS, MAX_PEER_ADDRESS_BYTES, MAX_PEER_ADDRESSES};

/// Time since the start of this process, on the monotonic clock.
pub type Now = Duration;

/// Most nodes that the registry keeps on record, superseded ones included.
pub const MAX_NODES_KNOWN: usize = 1_024;
/// Largest number in a label `node<number>`.
pub const MAX_NODE_NUMBER: u64 = 1_000_000;
/// Most libp2p addresses of one node.
pub const MAX_ADDRESSES: usize = 8;
/// Longest address or URL, bytes.
pub const MAX_ADDRESS_LEN: usize = 256;
/// Bytes that `/p2p/` and a peer id add to an address.
const PEER_ID_BYTES: usize = 57;
// The list of peers that nodes are sent is complete: they leave nothing out of it.
const _: () = assert!(MAX_NODES_KNOWN <= MAX_LISTED_PEERS);
const _: () = assert!(MAX_ADDRESSES <= MAX_PEER_ADDRESSES);
const _: () = assert!(MAX_ADDRESS_LEN + PEER_ID_BYTES <= MAX_PEER_ADDRESS_BYTES);
/// Longest version text, bytes.
pub const MAX_VERSION_LEN: usize = 64;
/// Most peers listed in one heartbeat or report; more are refused.
pub const MAX_REPORTED_PEERS: usize = 256;
/// Longest free text in a request, bytes.
pub const MAX_TEXT_LEN: usize = 1_024;

/// What was heard within the interval of heartbeats and this time is news.
const SILENCE_SLACK: Duration = Duration::from_secs(2);

/// Settings that the rules depend on.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Floor for scaling.
    pub min_nodes: usize,
    /// Ceiling for scaling.
    pub max_nodes: usize,
    /// Wanted number of voting members.
    pub target_nodes: usize,
    /// Nodes that must register before the genesis is built.
    pub genesis_nodes: usize,
    /// Heartbeats are asked for this often.
    pub heartbeat_interval: Duration,
    /// A node that is silent for this long is no longer healthy.
    pub unhealthy_after: Duration,
    /// Nothing is started for the genesis before this time, when others start its nodes; zero when the
    /// registry does.
    pub genesis_timeout: Duration,
    /// How long a peer's word that it reaches a node counts.
    pub peer_word: Duration,
    /// How far the survivors of a lost quorum are trusted.
    pub trust: recovery::Trust,
    /// Whether keys that are not known register without the join token.
    pub open_registration: bool,
}

impl Rules {
    /// Whether what was heard at a time is no older than a heartbeat, with some slack.
    pub fn is_news(&self, at: Now, now: Now) -> bool {
        now.saturating_sub(at) < self.heartbeat_interval + SILENCE_SLACK
    }
}
