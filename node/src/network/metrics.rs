//! What the network counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Label of a counter by kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    kind: &'static str,
}

/// Counters of the network; cheap to clone, shared with the registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    received: Family<Kind, Counter>,
    published: Family<Kind, Counter>,
    dropped: Family<Kind, Counter>,
    faults: Family<Kind, Counter>,
    repairs: Family<Kind, Counter>,
    pub(crate) bans: Counter,
    pub(crate) peers: Gauge,
    pub(crate) dials: Counter,
}

impl Metrics {
    /// Adds the counters to `registry` under `network`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("network");
        registry.register(
            "received",
            "Messages and requests of peers that were handed to the node, by kind",
            metrics.received.clone(),
        );
        registry.register(
            "published",
            "Gossip messages sent, by topic, and failures to send, by reason",
            metrics.published.clone(),
        );
        registry.register(
            "dropped",
            "What was dropped because a queue or a rate was at its bound, by kind",
            metrics.dropped.clone(),
        );
        registry.register("faults", "Faults of peers, by kind", metrics.faults.clone());
        registry.register(
            "repairs",
            "Steps taken because votes did not pass between this node and a validator, by kind",
            metrics.repairs.clone(),
        );
        registry.register(
            "bans",
            "Times a peer was cut off for its faults",
            metrics.bans.clone(),
        );
        registry.register(
            "peers",
            "Peers that exchanged their status and answered a ping within 5 s",
            metrics.peers.clone(),
        );
        registry.register("dials", "Dials begun", metrics.dials.clone());
        metrics
    }

    pub(crate) fn received(&self, kind: &'static str) {
        self.received.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn published(&self, kind: &'static str) {
        self.published.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn dropped(&self, kind: &'static str) {
        self.dropped.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn dropped_so_far(&self, kind: &'static str) -> u64 {
        self.dropped.get_or_create(&Kind { kind }).get()
    }

    pub(crate) fn repair(&self, kind: &'static str) {
        self.repairs.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn fault(&self, kind: &'static str) {
        self.faults.get_or_create(&Kind { kind }).inc();
    }
}
