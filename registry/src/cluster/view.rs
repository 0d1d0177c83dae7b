//! What is shown: the answers to `/status`, `/discover` and `/membership`, and the peers of an
//! order.

use std::collections::BTreeMap;

use axolotl_common::{
    Height, NodeId, PublicKey,
    registry_api::{
        DiscoverResponse, DiscoveredNode, Event, MembershipResponse, NodeState, NodeStatus,
        PeerEntry, ProposalFaultReport, ProposalFaults, RecoveryStatus, Role, StatusResponse,
    },
};

use super::{
    Now, forming,
    instance::Managed,
    liveness::Verdict,
    registration::parse_address,
    state::{Node, NodeRecord, State},
};

/// A wall-clock time as RFC 3339 in UTC.
pub fn rfc3339(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// What `/status` says beside how the nodes fare.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What stands in the way.
    pub warnings: Vec<String>,
    /// What is under way.
    pub plan: Vec<String>,
    /// Newest decisions, newest first.
    pub decisions: Vec<Event>,
    /// A lost quorum, and what is done about it.
    pub recovery: Option<RecoveryStatus>,
}

fn first_address(record: &NodeRecord) -> (String, u16) {
    record
        .addresses
        .first()
        .and_then(|address| parse_address(address))
        .unwrap_or_default()
}

impl State {
    fn node_status(&self, node: &Node, mut verdict: Verdict, now: Now) -> NodeStatus {
        let record = &node.record;
        let silence = self.silences.get(&record.public_key);
        let symptom = silence.map(|silence| silence.symptom(now));
        let beat = node.live.beat.as_ref().map(|(_, beat)| beat);
        // It reports in time, and must not be counted on all the same.
        if let Some(why) = beat.and_then(|beat| beat.unfit.as_ref())
            && verdict.state == NodeState::Healthy
        {
            verdict.state = NodeState::Unfit;
            verdict.detail = Some(why.clone());
        }
        let managed = self.managed_of(record);
        let running = managed.filter(|managed| managed.running.is_some());
        let (address, port) = first_address(record);
        NodeStatus {
            id: record.label.clone(),
            address,
            port,
            is_leader: self.leader.as_ref() == Some(&record.label),
            is_healthy: verdict.state == NodeState::Healthy,
            last_seen: rfc3339(node.live.heard_ms),
            height: beat.map(|beat| beat.height).unwrap_or_default(),
            tx_pool_size: beat.map(|beat| beat.tx_pool_size).unwrap_or_default(),
            peer_id: record.public_key.peer_id(),
            addresses: record.addresses.clone(),
            http_url: record.http_url.clone(),
            rpc_url: record.rpc_url.clone(),
            public_rpc_url: managed.and_then(public_rpc_url),
            role: self.role(record),
            state: verdict.state,
            detail: verdict.detail,
            voting: beat.is_some_and(|beat| beat.voting)
                && verdict.state == NodeState::Healthy
                && symptom.is_none(),
            symptom,
            proposal_faults: self.proposal_faults(&record.public_key),
            peers: beat.map(|beat| beat.peers).unwrap_or_default(),
            incarnation: record.incarnation,
            version: record.version.clone(),
            managed: managed.is_some(),
            runtime: running.and_then(instance_info),
        }
    }

    /// What the other validators of the epoch last reported of a node's proposals.
    fn proposal_faults(&self, key: &PublicKey) -> Option<ProposalFaults> {
        let members = self.chain.as_ref()?.validators.members().iter();
        let others = members.filter(|member| member.public_key != *key);
        let mut shown = ProposalFaults {
            invalid: 0,
            not_in_time: 0,
            reporters: Vec::new(),
        };
        for node in others.filter_map(|member| self.by_key(&member.public_key)) {
            let Some((_, beat)) = &node.live.beat else {
                continue;
            };
            let mut reports = beat.proposal_faults.iter();
            let about = |report: &&ProposalFaultReport| {
                report.validator == *key && (report.invalid, report.not_in_time) != (0, 0)
            };
            if let Some(report) = reports.find(about) {
                shown.invalid = shown.invalid.max(report.invalid);
                shown.not_in_time = shown.not_in_time.max(report.not_in_time);
                shown.reporters.push(node.record.label.clone());
            }
        }
        (!shown.reporters.is_empty()).then_some(shown)
    }

    fn unregistered_status(&self, managed: &Managed, verdict: Verdict) -> NodeStatus {
        NodeStatus {
            id: managed.record.label.clone(),
            address: String::new(),
            port: 0,
            is_leader: false,
            is_healthy: false,
            last_seen: rfc3339(0),
            height: Height(0),
            tx_pool_size: 0,
            peer_id: String::new(),
            addresses: Vec::new(),
            http_url: String::new(),
            rpc_url: String::new(),
            public_rpc_url: None,
            role: if self.chain.is_some() {
                Role::Learner
            } else {
                Role::Validator
            },
            state: verdict.state,
            detail: verdict.detail,
            voting: false,
            symptom: None,
            proposal_faults: None,
            peers: 0,
            incarnation: 0,
            version: String::new(),
            managed: true,
            runtime: managed.running.and_then(|_| instance_info(managed)),
        }
    }

    /// `GET /status`.
    pub fn status(&self, now: Now, told: Told) -> StatusResponse {
        let mut nodes = BTreeMap::new();
        for (label, verdict) in self.verdicts(now) {
            let status = match (self.nodes.get(&label), self.managed.get(&label)) {
                (Some(node), _) => self.node_status(node, verdict, now),
                (None, Some(managed)) => self.unregistered_status(managed, verdict),
                (None, None) => continue,
            };
            nodes.insert(label, status);
        }
        let present =
            |node: &&NodeStatus| !matches!(node.state, NodeState::Stopped | NodeState::Failed);
        let healthy_voters = self.healthy_voters(&nodes);
        let validators = self.chain.as_ref().map(|chain| &chain.validators);
        let quorum = validators.map_or_else(
            || axolotl_common::QuorumRule::default().quorum(self.rules.genesis_nodes),
            |set| set.quorum(),
        );
        StatusResponse {
            total_nodes: nodes.values().filter(present).count(),
            healthy_nodes: nodes.values().filter(|node| node.is_healthy).count(),
            min_nodes: self.rules.min_nodes,
            max_nodes: self.rules.max_nodes,
            target_nodes: self.target,
            consensus_possible: validators.is_some() && healthy_voters >= quorum,
            scale_threshold: self.rules.min_nodes / 2 + 1,
            quorum,
            epoch: validators.map(|set| set.epoch()).unwrap_or_default(),
            height: nodes
                .values()
                .map(|node| node.height)
                .max()
                .unwrap_or_default(),
            leader: self.leader.clone(),
            recovery: told.recovery,
            registration: if self.rules.open_registration {
                "open".to_owned()
            } else {
                "token".to_owned()
            },
            genesis_hash: self.chain.as_ref().map(|chain| chain.document.hash()),
            chain_id: self.chain.as_ref().map(|chain| chain.document.chain().id.0),
            forming: forming::awaited(self),
            warnings: told.warnings,
            plan: told.plan,
            decisions: told.decisions,
            nodes,
        }
    }

    /// Validators of the newest epoch that are healthy, and whose votes arrive.
    fn healthy_voters(&self, nodes: &BTreeMap<NodeId, NodeStatus>) -> usize {
        let Some(chain) = &self.chain else { return 0 };
        let healthy = |key: &PublicKey| {
            let label = self.keys.get(key);
            label
                .and_then(|label| nodes.get(label))
                .is_some_and(|node| node.is_healthy && node.symptom.is_none())
        };
        let members = chain.validators.members().iter();
        members.filter(|m| healthy(&m.public_key)).count()
    }

    /// Nodes that are heard, by number.
    fn heard_nodes(&self, now: Now) -> Vec<&Node> {
        let verdicts = self.verdicts(now);
        let mut heard: Vec<&Node> = self
            .nodes
            .iter()
            .filter(|(label, node)| {
                let state = verdicts.get(*label).map(|verdict| verdict.state);
                match state {
                    Some(NodeState::Healthy | NodeState::Syncing) => true,
                    Some(NodeState::Starting) => node.live.heard.is_some(),
                    _ => false,
                }
            })
            .map(|(_, node)| node)
            .collect();
        heard.sort_by_key(|node| node.record.number);
        heard
    }

    /// `GET /discover`.
    pub fn discover(&self, now: Now) -> DiscoverResponse {
        let nodes: Vec<DiscoveredNode> = self
            .heard_nodes(now)
            .into_iter()
            .map(|node| {
                let (address, port) = first_address(&node.record);
                let beat = node.live.beat.as_ref();
                DiscoveredNode {
                    id: node.record.label.clone(),
                    peer_id: node.record.public_key.peer_id(),
                    address,
                    port,
                    multiaddrs: node.record.multiaddrs(),
                    role: self.role(&node.record),
                    is_leader: self.leader.as_ref() == Some(&node.record.label),
                    height: beat.map(|(_, beat)| beat.height).unwrap_or_default(),
                }
            })
            .collect();
        DiscoverResponse {
            count: nodes.len(),
            nodes,
            genesis_hash: self.chain.as_ref().map(|chain| chain.document.hash()),
        }
    }

    /// `GET /membership`.
    pub fn membership(
        &self,
        authority_key: PublicKey,
        recovery: Option<RecoveryStatus>,
    ) -> MembershipResponse {
        let chain = self.chain.as_ref();
        MembershipResponse {
            chain_id: chain.map(|chain| chain.document.chain().id.0),
            genesis_hash: chain.map(|chain| chain.document.hash()),
            authority_key,
            epoch: chain.map(|chain| chain.validators.epoch()),
            quorum: chain
                .map(|chain| chain.validators.quorum())
                .unwrap_or_default(),
            pending: chain.and_then(|chain| Some(chain.pending.as_ref()?.record.number)),
            recovery,
            records: chain
                .map(|chain| chain.records.values().rev().cloned().collect())
                .unwrap_or_default(),
        }
    }

    /// Every registered node whose place no other key took, by number: who may be let in.
    pub fn peers(&self) -> Vec<PeerEntry> {
        let mut records: Vec<&NodeRecord> = self
            .nodes
            .values()
            .map(|node| &node.record)
            .filter(|record| record.superseded_by.is_none())
            .collect();
        records.sort_by_key(|record| record.number);
        let entry = |record: &NodeRecord| PeerEntry {
            public_key: record.public_key,
            multiaddrs: record.multiaddrs(),
        };
        records.into_iter().map(entry).collect()
    }
}

fn instance_info(managed: &Managed) -> Option<axolotl_common::registry_api::RuntimeInfo> {
    managed
        .record
        .instance
        .as_ref()
        .map(|instance| instance.info.clone())
}

fn public_rpc_url(managed: &Managed) -> Option<String> {
    managed.record.instance.as_ref()?.public_rpc_url.clone()
}
