//! Types of the registry's HTTP contract, shared by the registry, the node and the tool.
//!
//! Unknown fields are ignored, unknown values refused. Times are RFC 3339 in UTC.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    crypto::{KeyPair, PublicKey, Signature, domain, sign_bytes},
    ids::{ChainRef, Epoch, Hash, Height, NodeId, Round, VolumeId},
    membership::SignedRecord,
};

/// Largest request body, bytes.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// RFC 9457 problem document: the body of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// URI reference that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short name of the kind.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong with this request, and what to do.
    pub detail: String,
}

/// What a node is to the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Votes.
    #[default]
    Validator,
    /// Syncing, to be put forward.
    Learner,
    /// Synced, not needed now.
    Standby,
    /// Follows and serves reads, never put forward.
    Observer,
}

/// How a node fares, as the registry sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Started, has not registered or reported yet.
    Starting,
    /// Behind the head.
    Syncing,
    /// Reports in time.
    Healthy,
    /// The registry does not hear it, its peers do.
    Unreachable,
    /// Gone.
    Failed,
    /// Its volume cannot be trusted to vote.
    Unfit,
    /// Sealed its epoch.
    Sealed,
    /// On its way out.
    Draining,
    /// Stopped on purpose.
    Stopped,
}

/// `POST /register`, signed by the node's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisterRequest {
    /// Wished label; unset: the registry assigns the next number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// Whether this node is to be first in the genesis.
    #[serde(default)]
    pub is_leader: bool,
    /// `validator` (may be put forward) or `observer`.
    #[serde(default)]
    pub role: Role,
    /// Data directory of the node.
    pub volume_id: VolumeId,
    /// Number of starts of this data directory.
    pub incarnation: u64,
    /// Hash of the genesis document that the node already follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genesis_hash: Option<Hash>,
    /// libp2p addresses where it can be dialled, without `/p2p/…`; at least one, at most eight.
    pub addresses: Vec<String>,
    /// Read-only HTTP of the node, as others reach it.
    pub http_url: String,
    /// JSON-RPC of the node, as others reach it.
    pub rpc_url: String,
    /// Version of the program.
    #[serde(default)]
    pub version: String,
}

/// Answer to `POST /register`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisterResponse {
    /// The label under which the node is known from now on.
    pub node_id: NodeId,
    /// What the node is to the network now.
    pub role: Role,
    /// The genesis document, once it is formed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub genesis: Option<serde_json::Value>,
    /// Nodes still missing for the genesis.
    #[serde(default)]
    pub waiting_for: usize,
    /// In words: "waiting for 2 more nodes", "welcome back".
    pub message: String,
    /// Key that signs orders and epoch records.
    pub authority_key: PublicKey,
    /// Heartbeats are expected this often.
    pub heartbeat_interval_ms: u64,
}

/// One node in `GET /discover`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiscoveredNode {
    /// Label.
    pub id: NodeId,
    /// libp2p peer id.
    pub peer_id: String,
    /// Host of the first address.
    pub address: String,
    /// libp2p port of the first address.
    pub port: u16,
    /// Full libp2p addresses, with `/p2p/…`.
    pub multiaddrs: Vec<String>,
    /// Role.
    pub role: Role,
    /// Whether it leads.
    pub is_leader: bool,
    /// Last height reported.
    pub height: Height,
}

/// `GET /discover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiscoverResponse {
    /// Healthy nodes of any role, by number.
    pub nodes: Vec<DiscoveredNode>,
    /// How many.
    pub count: usize,
    /// Hash of the genesis document, once formed.
    pub genesis_hash: Option<Hash>,
}

/// `POST /health`, signed by the node's key: a heartbeat with state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Heartbeat {
    /// Label; must be the label of the signing key.
    pub node_id: NodeId,
    /// Number of starts of the data directory.
    pub incarnation: u64,
    /// Grows with each heartbeat of one incarnation.
    pub seq: u64,
    /// Head.
    pub height: Height,
    /// Epoch that governs the next block.
    pub epoch: Epoch,
    /// Builder of the head block, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<PublicKey>,
    /// Transactions in the pool.
    pub tx_pool_size: usize,
    /// Connected peers.
    pub peers: usize,
    /// Keys of peers that answered a ping within 5 s.
    #[serde(default)]
    pub reachable: Vec<PublicKey>,
    /// Whether the node is behind and fetching blocks.
    #[serde(default)]
    pub syncing: bool,
    /// Age of the last block decided by votes, if one was decided since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit_age_ms: Option<u64>,
}

/// Answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthResponse {
    /// Label.
    pub node_id: NodeId,
    /// Whether the call counted as a heartbeat.
    pub counted: bool,
    /// State as the registry sees it.
    pub state: NodeState,
    /// Last heartbeat, RFC 3339.
    pub last_seen: String,
    /// The registry's newest epoch, so that a node learns that it missed a record.
    pub epoch: Epoch,
}

/// What runs a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RuntimeInfo {
    /// A child process.
    Process {
        /// Process id.
        pid: u32,
    },
    /// A container.
    Docker {
        /// Its name.
        container: String,
    },
}

/// One node in `GET /status`. The first eight fields keep the names that scripts of the original
/// system read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Label.
    pub id: NodeId,
    /// Host of the first address.
    pub address: String,
    /// libp2p port of the first address.
    pub port: u16,
    /// Whether it leads.
    pub is_leader: bool,
    /// Whether `state` is `healthy`.
    pub is_healthy: bool,
    /// Last heartbeat, RFC 3339.
    pub last_seen: String,
    /// Last height reported.
    pub height: Height,
    /// Transactions in its pool.
    pub tx_pool_size: usize,
    /// libp2p peer id.
    pub peer_id: String,
    /// libp2p addresses.
    pub addresses: Vec<String>,
    /// Read-only HTTP of the node, as other nodes reach it.
    pub http_url: String,
    /// JSON-RPC, as other nodes reach it.
    pub rpc_url: String,
    /// JSON-RPC, as the host reaches it.
    pub public_rpc_url: Option<String>,
    /// Role.
    pub role: Role,
    /// State.
    pub state: NodeState,
    /// Why the state is what it is, in words, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Connected peers.
    pub peers: usize,
    /// Starts of its data directory.
    pub incarnation: u64,
    /// Version of its program.
    pub version: String,
    /// Whether the registry starts and stops it.
    pub managed: bool,
    /// What runs it; `null` for a node started by hand.
    pub runtime: Option<RuntimeInfo>,
}

/// `GET /status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusResponse {
    /// Nodes that are neither stopped nor failed.
    pub total_nodes: usize,
    /// Nodes in state `healthy`.
    pub healthy_nodes: usize,
    /// Floor for scaling.
    pub min_nodes: usize,
    /// Ceiling for scaling.
    pub max_nodes: usize,
    /// Wanted number of voting members.
    pub target_nodes: usize,
    /// Whether healthy voters make a quorum.
    pub consensus_possible: bool,
    /// min_nodes / 2 + 1, as the original system computed it.
    pub scale_threshold: usize,
    /// Votes that finalise a block in the current epoch.
    pub quorum: usize,
    /// Newest epoch.
    pub epoch: Epoch,
    /// Highest height reported.
    pub height: Height,
    /// Label of the leader.
    pub leader: Option<NodeId>,
    /// A recovery under way, in words.
    pub recovery: Option<String>,
    /// `token` or `open`.
    pub registration: String,
    /// Hash of the genesis document, once formed.
    pub genesis_hash: Option<Hash>,
    /// Chain id, once the genesis is formed.
    pub chain_id: Option<u64>,
    /// While the genesis forms: how many nodes are awaited, in words with their names.
    pub forming: Option<String>,
    /// What stands in the way of the registry's work, in words; empty when nothing does.
    pub warnings: Vec<String>,
    /// Nodes by label.
    #[schema(value_type = BTreeMap<String, NodeStatus>)]
    pub nodes: BTreeMap<NodeId, NodeStatus>,
}

/// `POST /consensus-failure`: a node saw no commit although there is work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsensusFailure {
    /// Label of the reporter; absent when an operator asks for a probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// In words.
    pub reason: String,
    /// Epoch.
    #[serde(default)]
    pub epoch: Epoch,
    /// Height that does not come about.
    #[serde(default)]
    pub height: Height,
    /// Round reached.
    #[serde(default)]
    pub round: Round,
    /// Age of the last commit.
    #[serde(default)]
    pub last_commit_age_ms: u64,
    /// Keys of peers that answered a ping within 5 s.
    #[serde(default)]
    pub peers: Vec<PublicKey>,
}

/// What the registry does about a request that it took on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// In words.
    pub message: String,
}

/// An order of the registry to a node, on the node's control stream.
#[derive(
    Clone, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize, ToSchema,
)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Order {
    /// The nodes that may be let in, with their addresses (`…/p2p/…`).
    Peers {
        /// Every registered node.
        peers: Vec<PeerEntry>,
    },
    /// Shut down for good: the registry will not start it again.
    Stop {
        /// In words, for the log.
        reason: String,
    },
}

/// One entry of [`Order::Peers`].
#[derive(
    Clone, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize, ToSchema,
)]
pub struct PeerEntry {
    /// Key of the peer.
    pub public_key: PublicKey,
    /// Full libp2p addresses.
    pub multiaddrs: Vec<String>,
}

/// An order with its number and the authority's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedOrder {
    /// Chain: its id, 0 before the genesis is formed.
    pub chain_id: u64,
    /// Addressee.
    pub to: PublicKey,
    /// Durable and increasing; a node takes no order whose number is not above the last one's.
    pub number: u64,
    /// The order.
    pub order: Order,
    /// The authority's signature.
    pub signature: Signature,
}

impl SignedOrder {
    fn order_sign_bytes(chain_id: u64, to: &PublicKey, number: u64, order: &Order) -> Vec<u8> {
        sign_bytes(domain::ORDER, &(chain_id, to, number, order))
    }

    /// Signs an order.
    pub fn new(
        authority: &KeyPair,
        chain_id: u64,
        to: PublicKey,
        number: u64,
        order: Order,
    ) -> Self {
        let signature = authority.sign(&Self::order_sign_bytes(chain_id, &to, number, &order));
        Self {
            chain_id,
            to,
            number,
            order,
            signature,
        }
    }

    /// Whether it is the authority's.
    pub fn verify(&self, authority: &PublicKey) -> bool {
        let bytes = Self::order_sign_bytes(self.chain_id, &self.to, self.number, &self.order);
        authority.verify(&bytes, &self.signature)
    }
}

/// `POST /control/answers`, signed by the node's key: what became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControlAnswer {
    /// Label; must be the label of the signing key.
    pub node_id: NodeId,
    /// Number of the order.
    pub number: u64,
    /// Whether the node did as it was told.
    pub done: bool,
    /// In words, where there is something to say.
    #[serde(default)]
    pub detail: String,
}

/// What kind of thing happened, in `GET /events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The registry started.
    Started,
    /// A node announced itself.
    Registered,
    /// A node reports in time.
    Healthy,
    /// A node is no longer heard.
    Unhealthy,
    /// The registry started a node for the first time.
    Spawned,
    /// A node's process or container ended.
    Exited,
    /// The registry started a node again.
    Restarted,
    /// A node was stopped on purpose.
    Stopped,
    /// The genesis was formed.
    Genesis,
    /// Another node leads.
    Leader,
    /// A node saw no commit although there is work.
    Failure,
    /// Something stands in the way of the registry's work.
    Warning,
}

impl EventKind {
    /// The kind as it stands in JSON, in the `event:` line of the stream and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Registered => "registered",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Spawned => "spawned",
            Self::Exited => "exited",
            Self::Restarted => "restarted",
            Self::Stopped => "stopped",
            Self::Genesis => "genesis",
            Self::Leader => "leader",
            Self::Failure => "failure",
            Self::Warning => "warning",
        }
    }
}

/// One event of `GET /events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows with each event, also over restarts of the registry; gaps are allowed.
    pub id: u64,
    /// When, RFC 3339.
    pub time: String,
    /// Kind.
    pub kind: EventKind,
    /// The node it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// In words.
    pub message: String,
}

/// `GET /membership`: every epoch record, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MembershipResponse {
    /// Chain id, once the genesis is formed.
    pub chain_id: Option<u64>,
    /// Hash of the genesis document, once formed.
    pub genesis_hash: Option<Hash>,
    /// Key that signs the records.
    pub authority_key: PublicKey,
    /// Newest epoch, if there is one.
    pub epoch: Option<Epoch>,
    /// Votes that finalise a block in the newest epoch.
    pub quorum: usize,
    /// Signed records, newest first.
    pub records: Vec<SignedRecord>,
}

/// Values of [`Problem::kind`] that programs act on.
pub mod problem {
    /// The registry does not know the calling key: register (again).
    pub const UNKNOWN_NODE: &str = "/problems/unknown-node";
    /// A key that the registry does not know needs the join token.
    pub const JOIN_TOKEN: &str = "/problems/join-token";
    /// The clocks differ too much.
    pub const CLOCK: &str = "/problems/clock";
    /// The caller's request was seen before, or is older than one that was.
    pub const REPLAY: &str = "/problems/replay";
    /// The caller belongs to another chain than the registry's.
    pub const OTHER_CHAIN: &str = "/problems/other-chain";
    /// The registry's store is empty although a chain exists.
    pub const STORE_LOST: &str = "/problems/store-lost";
    /// The wished label belongs to a living node.
    pub const LABEL_TAKEN: &str = "/problems/label-taken";
    /// The genesis is not formed yet.
    pub const FORMING: &str = "/problems/forming";
}

/// `GET /status` of a node's own HTTP port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeSelfStatus {
    /// Label, once assigned.
    pub node_id: Option<NodeId>,
    /// Key.
    pub public_key: PublicKey,
    /// libp2p peer id.
    pub peer_id: String,
    /// Data directory.
    pub volume_id: VolumeId,
    /// Starts of the data directory.
    pub incarnation: u64,
    /// Version of the program.
    pub version: String,
    /// Chain, once the genesis is known.
    pub chain_id: Option<u64>,
    /// Hash of the genesis document.
    pub genesis_hash: Option<Hash>,
    /// Head.
    pub height: Height,
    /// Hash of the head block.
    pub head: Option<Hash>,
    /// Epoch that governs the next block.
    pub epoch: Epoch,
    /// Round of the height being decided.
    pub round: Round,
    /// Builder of the head block.
    pub leader: Option<PublicKey>,
    /// Whether this node votes in the epoch.
    pub is_validator: bool,
    /// Whether it is fetching blocks.
    pub syncing: bool,
    /// Connected peers.
    pub peers: usize,
    /// Keys of peers that answered a ping within 5 s.
    pub reachable: Vec<PublicKey>,
    /// Transactions in the pool.
    pub tx_pool_size: usize,
    /// Age of the last block decided by votes, if one was since the start.
    pub last_commit_age_ms: Option<u64>,
}

/// Names one chain in a status answer.
impl NodeSelfStatus {
    /// Chain id and genesis hash, once known.
    pub fn chain(&self) -> Option<ChainRef> {
        Some(ChainRef {
            id: self.chain_id?.into(),
            genesis: self.genesis_hash?,
        })
    }
}
