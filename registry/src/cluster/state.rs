//! What the registry knows: nodes that registered, instances that it started, the chain.

use std::collections::{BTreeMap, VecDeque};

use axolotl_common::{
    Height, Member, NodeId, ProcessId, PublicKey, VolumeId,
    registry_api::{HealthResponse, Heartbeat, NodeState, Order, Role},
};
use serde::{Deserialize, Serialize};

use super::{
    Now, Rules,
    chain::Chain,
    instance::Managed,
    liveness::{self, Facts, RuntimeFact, Verdict},
    rate::Bucket,
    registration::Refusal,
    restart::Backoff,
    votes::Silence,
};

/// A node that the registry waits for is asked for heartbeats this often.
const AWAITED_INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

/// A registered node: the durable part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Label.
    pub label: NodeId,
    /// Place in the order of nodes; for `node<k>` it is k.
    pub number: u64,
    /// Identity.
    pub public_key: PublicKey,
    /// Data directory.
    pub volume_id: VolumeId,
    /// Starts of the data directory.
    pub incarnation: u64,
    /// The run of the program that registered last.
    pub process: ProcessId,
    /// Counter of the registration that was written down last.
    pub counter: u64,
    /// Whether it asked to be first in the genesis.
    pub is_leader: bool,
    /// Whether it is never to be put forward.
    pub observer: bool,
    /// libp2p addresses without `/p2p/…`.
    pub addresses: Vec<String>,
    /// Read-only HTTP.
    pub http_url: String,
    /// JSON-RPC.
    pub rpc_url: String,
    /// Version of its program.
    pub version: String,
    /// Wall clock of the registration, milliseconds since 1970.
    pub registered_ms: u64,
    /// The label of the key that took its place, if one did.
    pub superseded_by: Option<NodeId>,
    /// The label under which the runtime runs it, where that is another one: its data was wiped.
    pub runs_as: Option<NodeId>,
    /// The operator wants it out of the validators, and then stopped.
    #[serde(default)]
    pub leaving: Option<Leaving>,
}

/// How a node leaves by the operator's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// It is stopped, its data is kept.
    Drain,
    /// It is stopped and forgotten, with its data if a registry made it.
    Delete,
}

impl NodeRecord {
    /// A member of the genesis that has not registered with this store yet. `place` is its place in
    /// the list, from 1, for labels without a number.
    pub fn of_member(member: &Member, place: u64) -> Self {
        Self {
            label: member.node_id.clone(),
            number: member.node_id.number().unwrap_or(place),
            public_key: member.public_key,
            volume_id: member.volume_id,
            incarnation: 0,
            process: ProcessId([0; 16]),
            counter: 0,
            is_leader: false,
            observer: false,
            addresses: Vec::new(),
            http_url: String::new(),
            rpc_url: String::new(),
            version: String::new(),
            registered_ms: 0,
            superseded_by: None,
            runs_as: None,
            leaving: None,
        }
    }

    /// Full libp2p addresses, with `/p2p/…`.
    pub fn multiaddrs(&self) -> Vec<String> {
        let peer_id = self.public_key.peer_id();
        let full = |address: &String| format!("{address}/p2p/{peer_id}");
        self.addresses.iter().map(full).collect()
    }
}

/// A registered node: the part that is lost with the process.
#[derive(Clone, Debug)]
pub struct Live {
    /// Last registration or heartbeat.
    pub heard: Option<Now>,
    /// The same by the wall clock, milliseconds since 1970.
    pub heard_ms: u64,
    /// Highest request counter of this incarnation.
    pub counter: u64,
    /// Last heartbeat and when it came.
    pub beat: Option<(Now, Heartbeat)>,
    /// Requests that it may still make.
    pub bucket: Bucket,
    /// Requests that other processes with its key may still make, to be refused.
    pub refusals: Bucket,
    /// Number of its newest control stream; 0 when none is open.
    pub stream: u64,
    /// Number of the last order that it answered.
    pub answered: Option<u64>,
    /// Since when its heartbeats say that it is level.
    pub level_since: Option<Now>,
    /// Orders beyond those that bring it level, to be sent once; see [`MAX_ORDERS`].
    pub orders: VecDeque<Order>,
}

/// Most orders that wait for one node; the oldest goes first, since the rules ask again.
pub const MAX_ORDERS: usize = 8;

/// A registered node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Durable part.
    pub record: NodeRecord,
    /// The rest.
    pub live: Live,
}

/// Everything that the registry knows.
#[derive(Clone, Debug)]
pub struct State {
    /// Settings.
    pub rules: Rules,
    /// Registered nodes by label.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Labels by key.
    pub keys: BTreeMap<PublicKey, NodeId>,
    /// Nodes that the registry starts and stops, by label.
    pub managed: BTreeMap<NodeId, Managed>,
    /// The chain, once formed.
    pub chain: Option<Chain>,
    /// Hash of a genesis that a node showed although this store has none.
    pub foreign: Option<axolotl_common::Hash>,
    /// The recovery under way, in words.
    pub recovering: Option<String>,
    /// Label of the leader.
    pub leader: Option<NodeId>,
    /// Whether everything managed is being stopped.
    pub shutdown: bool,
    /// State of each node as it was told last.
    pub announced: BTreeMap<NodeId, NodeState>,
    /// Requests that all unknown keys together may still make.
    pub unknown: Bucket,
    /// Wanted number of voting nodes: the setting, or what an operator asked for since.
    pub target: usize,
    /// Highest number ever given to a node, living or not.
    pub highest_number: u64,
    /// Whether the registry starts and stops nodes.
    pub runs_nodes: bool,
    /// Until when somebody is thought to be at work with the nodes.
    pub hands_off_until: Option<Now>,
    /// Since when a candidate is not needed.
    pub surplus: BTreeMap<NodeId, Now>,
    /// Members whose votes do not arrive, by what the others report.
    pub silences: BTreeMap<PublicKey, Silence>,
    /// Added nodes in a row that were of no use: they ran, and never joined.
    pub spawns: Backoff,
}

fn is_of_recovery(order: &Order) -> bool {
    matches!(
        order,
        Order::Survey { .. } | Order::Seal { .. } | Order::Stage { .. }
    )
}

impl State {
    /// An empty state.
    pub fn new(rules: Rules) -> Self {
        Self {
            target: rules.target_nodes,
            highest_number: 0,
            runs_nodes: false,
            hands_off_until: None,
            surplus: BTreeMap::new(),
            silences: BTreeMap::new(),
            spawns: Backoff::default(),
            rules,
            nodes: BTreeMap::new(),
            keys: BTreeMap::new(),
            managed: BTreeMap::new(),
            chain: None,
            foreign: None,
            recovering: None,
            leader: None,
            shutdown: false,
            announced: BTreeMap::new(),
            unknown: Bucket::new(super::rate::UNKNOWN_PER_SECOND, super::rate::UNKNOWN_BURST),
        }
    }

    /// Highest number that was ever in use.
    pub fn max_number(&self) -> u64 {
        let nodes = self.nodes.values().map(|node| node.record.number);
        let managed = self.managed.values().map(|managed| managed.record.number);
        let present = nodes.chain(managed).max().unwrap_or(0);
        present.max(self.highest_number)
    }

    /// The node with this key.
    pub fn by_key(&self, key: &PublicKey) -> Option<&Node> {
        self.nodes.get(self.keys.get(key)?)
    }

    /// The node with this key.
    pub fn by_key_mut(&mut self, key: &PublicKey) -> Option<&mut Node> {
        self.nodes.get_mut(self.keys.get(key)?)
    }

    /// Puts a record that is durable now in its place. `heard` is when it was registered; `None`
    /// when it was read from the store.
    pub fn apply_record(&mut self, record: NodeRecord, heard: Option<Now>) {
        self.keys.insert(record.public_key, record.label.clone());
        match self.nodes.get_mut(&record.label) {
            Some(node) => {
                if node.record.incarnation != record.incarnation {
                    node.live.beat = None;
                    node.live.level_since = None;
                    node.live.counter = record.counter;
                }
                node.live.counter = node.live.counter.max(record.counter);
                if heard.is_some() {
                    node.live.heard = heard;
                    node.live.heard_ms = record.registered_ms;
                }
                node.record = record;
            }
            None => {
                let live = Live {
                    heard,
                    heard_ms: record.registered_ms,
                    counter: record.counter,
                    beat: None,
                    bucket: Bucket::of_key(),
                    refusals: Bucket::of_key(),
                    stream: 0,
                    answered: None,
                    level_since: None,
                    orders: VecDeque::new(),
                };
                self.nodes
                    .insert(record.label.clone(), Node { record, live });
            }
        }
    }

    /// Takes the request counter of a signed request: it must be above the last one of the same
    /// key and incarnation.
    ///
    /// # Errors
    /// [`Refusal::Replay`] or [`Refusal::TooMany`].
    pub fn count(&mut self, now: Now, key: &PublicKey, counter: u64) -> Result<(), Refusal> {
        let Some(node) = self.by_key_mut(key) else {
            return if self.unknown.take(now) {
                Ok(())
            } else {
                Err(Refusal::TooMany)
            };
        };
        if counter <= node.live.counter {
            return Err(Refusal::Replay {
                what: "counter",
                got: counter,
                last: node.live.counter,
            });
        }
        node.live.counter = counter;
        if node.live.bucket.take(now) {
            Ok(())
        } else {
            Err(Refusal::TooMany)
        }
    }

    /// Whether `key` may speak for `label`.
    ///
    /// # Errors
    /// When the key is unknown, or its label is another.
    pub fn speaks_for(&self, key: &PublicKey, label: &NodeId) -> Result<&Node, Refusal> {
        match self.by_key(key) {
            Some(node) if node.record.label == *label => Ok(node),
            Some(node) => Err(Refusal::NotYours {
                claimed: label.clone(),
                known_as: Some(node.record.label.clone()),
            }),
            None if self.nodes.contains_key(label) => Err(Refusal::NotYours {
                claimed: label.clone(),
                known_as: None,
            }),
            None => Err(Refusal::UnknownKey),
        }
    }

    /// Somebody stopped or started a node: nobody is replaced for a while.
    pub fn hands_off(&mut self, now: Now, patience: std::time::Duration) {
        self.hands_off_until = self.hands_off_until.max(Some(now + patience));
    }

    /// Gives a node an order beyond those that bring it level. An order about a recovery takes the place of
    /// one that waits.
    pub fn order(&mut self, label: &NodeId, order: Order) {
        if let Some(node) = self.nodes.get_mut(label) {
            if is_of_recovery(&order) {
                node.live.orders.retain(|waiting| !is_of_recovery(waiting));
            }
            if node.live.orders.len() == MAX_ORDERS {
                node.live.orders.pop_front();
            }
            node.live.orders.push_back(order);
        }
    }

    /// The label under which the runtime runs a registered node, if it does.
    pub fn managed_of(&self, record: &NodeRecord) -> Option<&Managed> {
        if record.superseded_by.is_some() {
            return None;
        }
        let label = record.runs_as.as_ref().unwrap_or(&record.label);
        self.managed.get(label)
    }

    /// The registered node that a managed instance runs, if it registered.
    pub fn node_run_by(&self, managed: &NodeId) -> Option<&Node> {
        let live = |node: &&Node| node.record.superseded_by.is_none();
        let renamed = |node: &&Node| node.record.runs_as.as_ref() == Some(managed);
        self.nodes
            .values()
            .filter(live)
            .filter(renamed)
            .max_by_key(|node| node.record.number)
            .or_else(|| self.nodes.get(managed).filter(live))
    }

    fn runtime_fact(managed: Option<&Managed>) -> RuntimeFact {
        let Some(managed) = managed else {
            return RuntimeFact::Unmanaged;
        };
        if let Some(since) = managed.running {
            return RuntimeFact::Running(since);
        }
        if let Some(why) = &managed.record.stopped {
            return RuntimeFact::Stopped(why.clone());
        }
        let unseen = match managed.absent {
            true => "its container is gone; `docker-compose up -d` makes it again",
            false => "not started yet",
        };
        let ended = managed.ended.as_ref().map_or(unseen, |ended| &ended.why);
        match (managed.stopping, managed.backoff.crashes()) {
            (true, _) => RuntimeFact::Stopped(ended.to_owned()),
            (false, 0) => RuntimeFact::Down(ended.to_owned()),
            (false, crashes) => RuntimeFact::Down(format!(
                "{ended}; crashes in a row: {crashes}, it is started again with growing patience"
            )),
        }
    }

    /// The verdict on every node and every managed instance that has not registered, by label.
    pub fn verdicts(&self, now: Now) -> BTreeMap<NodeId, Verdict> {
        let reached = self.reached(now);
        let judge = |facts: &Facts| {
            liveness::judge(facts, now, self.rules.unhealthy_after, self.rules.peer_word)
        };
        let mut verdicts = BTreeMap::new();
        for (label, node) in &self.nodes {
            let by = |by: &NodeId| format!("another key took its place as {by}");
            let facts = Facts {
                superseded: node.record.superseded_by.as_ref().map(by),
                runtime: Self::runtime_fact(self.managed_of(&node.record)),
                heard: node.live.heard,
                beat: node.live.beat.is_some(),
                syncing: node
                    .live
                    .beat
                    .as_ref()
                    .is_some_and(|(_, beat)| beat.syncing),
                reached: reached.get(&node.record.public_key).copied(),
            };
            verdicts.insert(label.clone(), judge(&facts));
        }
        for (label, managed) in &self.managed {
            if self.node_run_by(label).is_none() && !self.nodes.contains_key(label) {
                let facts = Facts {
                    superseded: None,
                    runtime: Self::runtime_fact(Some(managed)),
                    heard: None,
                    beat: false,
                    syncing: false,
                    reached: None,
                };
                verdicts.insert(label.clone(), judge(&facts));
            }
        }
        verdicts
    }

    /// What a node is to the network.
    pub fn role(&self, record: &NodeRecord) -> Role {
        match &self.chain {
            _ if record.observer => Role::Observer,
            Some(chain) if !chain.validators.contains(&record.public_key) => {
                let level = |node: &Node| node.live.level_since.is_some();
                let surplus = self.surplus.contains_key(&record.label);
                if surplus && self.nodes.get(&record.label).is_some_and(level) {
                    Role::Standby
                } else {
                    Role::Learner
                }
            }
            _ => Role::Validator,
        }
    }

    /// Whether the registry waits for this node to be level, or to vote.
    fn is_awaited(&self, node: &Node) -> bool {
        if self.chain.is_none() {
            return false;
        }
        if self.has_or_gets_seat(&node.record.public_key) {
            return !node.live.beat.as_ref().is_some_and(|(_, beat)| beat.voting);
        }
        !node.record.observer && !self.surplus.contains_key(&node.record.label)
    }

    /// The leader: who built the highest block that a living node reports; before the first block,
    /// the first validator of the genesis.
    pub fn find_leader(&self, now: Now) -> Option<NodeId> {
        let chain = self.chain.as_ref()?;
        let in_time = |at: &Now| now.saturating_sub(*at) < self.rules.unhealthy_after;
        let newest = self
            .nodes
            .values()
            .filter_map(|node| node.live.beat.as_ref())
            .filter(|(at, beat)| in_time(at) && beat.leader.is_some())
            .max_by_key(|(at, beat)| (beat.height, *at));
        match newest {
            Some((_, beat)) if beat.height > Height(0) => {
                self.keys.get(beat.leader.as_ref()?).cloned()
            }
            _ => {
                let first = chain.validators.members().first()?;
                self.leader
                    .clone()
                    .or_else(|| self.keys.get(&first.public_key).cloned())
            }
        }
    }

    /// The answer to a heartbeat, or to the question how a node fares.
    pub fn health(&self, now: Now, label: &NodeId, counted: bool) -> Option<HealthResponse> {
        let node = self.nodes.get(label)?;
        let state = self.verdicts(now).remove(label)?.state;
        Some(HealthResponse {
            node_id: label.clone(),
            counted,
            state,
            last_seen: super::view::rfc3339(node.live.heard_ms),
            epoch: self
                .chain
                .as_ref()
                .map(|chain| chain.validators.epoch())
                .unwrap_or_default(),
            role: self.role(&node.record),
            heartbeat_interval_ms: if self.is_awaited(node) {
                AWAITED_INTERVAL.as_millis() as u64
            } else {
                0
            },
        })
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
