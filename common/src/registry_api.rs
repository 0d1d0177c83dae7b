//! Types of the registry's HTTP contract, shared by the registry, the node and the tool.
//!
//! Unknown fields are ignored, unknown values refused. Times are RFC 3339 in UTC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::{
    orders::{
        ControlAnswer, MAX_LISTED_PEERS, MAX_ORDER_NUMBER, MAX_PEER_ADDRESS_BYTES,
        MAX_PEER_ADDRESSES, MAX_PEERS_ORDER_BYTES, Order, PeerEntry, RecoveryAnswer, SignedOrder,
        StagedDraft, Survey, control_path,
    },
    problem::{Problem, refuse_process},
    recovery::{RecoverRequest, RecoveryPhase, RecoveryStatus},
    votes::{
        ProposalFaultReport, ProposalFaults, SILENT_AFTER, SILENT_HEIGHTS, Symptom, SymptomCode,
        VoteReport,
    },
};
use crate::{
    crypto::PublicKey,
    ids::{ChainRef, Epoch, Hash, Height, NodeId, ProcessId, Round, VolumeId},
    membership::{MAX_DRAFT_BYTES, MAX_RECORD_BYTES, SignedRecord},
};

mod orders;
pub mod problem;
mod recovery;
mod votes;

/// Largest request body, bytes.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// Largest answer to an order, 6 MiB. It may hold the largest record and the largest draft, and a
/// statement or a survey (44 KiB in borsh) besides. JSON takes less than three times as many bytes:
/// hexadecimal doubles them, and names and quotes are up to half as long as short fields.
pub const MAX_ANSWER_BYTES: usize = 3 * (MAX_RECORD_BYTES + MAX_DRAFT_BYTES) + (192 << 10);

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
    /// This run of the program.
    pub process: ProcessId,
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
    /// Whether it votes in `epoch`: a member whose amnesia check is through.
    #[serde(default)]
    pub voting: bool,
    /// Why it must never vote with this volume, if it must not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// It is sealed in this epoch and all before it: it votes there no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Epoch>,
    /// What it has received of each validator of `epoch`; at most as many as a record may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<VoteReport>,
    /// Proposals that it could not vote for; at most as many validators as a record may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proposal_faults: Vec<ProposalFaultReport>,
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
    /// The registry's newest epoch in force, so that a node learns that it missed a record.
    pub epoch: Epoch,
    /// What the node is to the network now.
    #[serde(default)]
    pub role: Role,
    /// The next heartbeat is expected within this time. Shorter while the registry waits for a
    /// learner to be level; 0: at the node's own pace.
    #[serde(default)]
    pub heartbeat_interval_ms: u64,
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
    /// Whether it votes in the epoch in force: by its own account, and the others receive its votes.
    pub voting: bool,
    /// What is wrong with it although it reports in time, with a code that does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symptom: Option<Symptom>,
    /// Proposals of it that other validators could not vote for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal_faults: Option<ProposalFaults>,
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
    /// A lost quorum, and what is done about it.
    pub recovery: Option<RecoveryStatus>,
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
    /// What the registry is about and what it waits for, each with its reason; empty at rest.
    pub plan: Vec<String>,
    /// The newest decisions, newest first.
    pub decisions: Vec<Event>,
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
    /// The registry removed a node with its data.
    Removed,
    /// The genesis was formed.
    Genesis,
    /// A change of the validators was signed, took force, or was refused.
    Epoch,
    /// The registry decided to do something, or not to.
    Decision,
    /// Another node leads.
    Leader,
    /// A node saw no commit although there is work.
    Failure,
    /// A step of a recovery after a quorum was lost.
    Recovery,
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
            Self::Removed => "removed",
            Self::Genesis => "genesis",
            Self::Epoch => "epoch",
            Self::Decision => "decision",
            Self::Leader => "leader",
            Self::Failure => "failure",
            Self::Recovery => "recovery",
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
    /// Newest epoch in force, if there is one.
    pub epoch: Option<Epoch>,
    /// Votes that finalise a block in the newest epoch in force.
    pub quorum: usize,
    /// A signed record that no block carries yet; one at most.
    pub pending: Option<Epoch>,
    /// A lost quorum, and what is done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStatus>,
    /// Signed records, newest first; the pending one among them.
    pub records: Vec<SignedRecord>,
}

/// `POST /scale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScaleRequest {
    /// Wanted number of voting nodes, from `min_nodes` to `max_nodes`.
    #[schema(minimum = 1, maximum = 128)]
    pub target_nodes: usize,
}

/// Answer to `POST /scale`, and to draining or deleting a node: it was taken on, not done yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanResponse {
    /// In words: what is done, or what it waits for.
    pub message: String,
    /// Wanted number of voting nodes.
    pub target_nodes: usize,
    /// Voting nodes of the epoch in force.
    pub voting_nodes: usize,
    /// What is under way, each with its reason.
    pub plan: Vec<String>,
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
    /// Whether this node is a validator of the epoch.
    pub is_validator: bool,
    /// Whether it votes in it: its volume is the one that the epoch names, and its amnesia check is
    /// through.
    #[serde(default)]
    pub voting: bool,
    /// Why it must never vote with this volume, if it must not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// It is sealed in this epoch and all before it: it votes there no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Epoch>,
    /// Epoch of the planned record that waits for a block, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_epoch: Option<Epoch>,
    /// Validators that this process saw sign two things in one place; the authority's key, if it signed two
    /// records of one number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub misbehaving: Vec<PublicKey>,
    /// Proposals that this process could not vote for, by validator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proposal_faults: Vec<ProposalFaultReport>,
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
    /// What it has received of each other validator of the epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<VoteReport>,
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
