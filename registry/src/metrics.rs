//! Counters and gauges for Prometheus.

use std::{collections::BTreeMap, fmt::Write};

use axolotl_common::registry_api::{EventKind, NodeState};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

/// Everything that is measured. Label values come from enums and status codes: their number is
/// bounded.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    events: Family<KindLabel, Counter>,
    nodes: Family<StateLabel, Gauge>,
    requests: Family<StatusLabel, Counter>,
    heartbeats: Counter,
    restarts: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Every state, so that a gauge goes back to 0 when no node is in it.
const STATES: [NodeState; 9] = [
    NodeState::Starting,
    NodeState::Syncing,
    NodeState::Healthy,
    NodeState::Unreachable,
    NodeState::Failed,
    NodeState::Unfit,
    NodeState::Sealed,
    NodeState::Draining,
    NodeState::Stopped,
];

fn state_name(state: NodeState) -> String {
    format!("{state:?}").to_lowercase()
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("axolotl_registry");
        let (events, nodes, requests) = (Family::default(), Family::default(), Family::default());
        let (heartbeats, restarts) = (Counter::default(), Counter::default());
        registry.register("events", "Events by kind", events.clone());
        registry.register("nodes", "Nodes by state", nodes.clone());
        registry.register("responses", "HTTP answers by status", requests.clone());
        registry.register("heartbeats", "Heartbeats that counted", heartbeats.clone());
        registry.register("restarts", "Nodes started again", restarts.clone());
        Self {
            registry,
            events,
            nodes,
            requests,
            heartbeats,
            restarts,
        }
    }

    /// An event happened.
    pub fn event(&self, kind: EventKind) {
        let kind = kind.as_str().to_owned();
        self.events.get_or_create(&KindLabel { kind }).inc();
    }

    /// So many nodes are in each state.
    pub fn nodes(&self, counts: &BTreeMap<NodeState, usize>) {
        for state in STATES {
            let count = counts.get(&state).copied().unwrap_or_default();
            let label = StateLabel {
                state: state_name(state),
            };
            self.nodes.get_or_create(&label).set(count as i64);
        }
    }

    /// A request was answered.
    pub fn answered(&self, status: u16) {
        self.requests.get_or_create(&StatusLabel { status }).inc();
    }

    /// A heartbeat counted.
    pub fn heartbeat(&self) {
        self.heartbeats.inc();
    }

    /// A node was started again.
    pub fn restart(&self) {
        self.restarts.inc();
    }

    /// Prometheus' text format.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if text::encode(&mut out, &self.registry).is_err() {
            out.clear();
            // Writing to a String does not fail; the type asks for it.
            let _ = out.write_str("# the metrics could not be written\n");
        }
        out
    }
}
