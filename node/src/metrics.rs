//! Metrics of the node, read when they are asked for.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use axolotl_common::registry_api::NodeSelfStatus;
use axolotl_consensus::ProposalFault;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Validator and fault: as many as a record may name, times two.
type FaultLabels = [(&'static str, String); 2];
type Level = Gauge<u64, AtomicU64>;

/// Gauges of one node.
pub struct Metrics {
    registry: Mutex<Registry>,
    height: Level,
    epoch: Level,
    round: Level,
    peers: Level,
    reachable: Level,
    pool: Level,
    validator: Level,
    syncing: Level,
    misbehaving: Level,
    faults: Family<FaultLabels, Counter>,
    resident: Level,
}

impl Metrics {
    /// Registers all gauges; `registry` may hold the network's already.
    pub fn new(mut registry: Registry) -> Arc<Self> {
        let mut level = |name: &str, help: &str| {
            let gauge = Level::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let height = level("axolotl_height", "Height of the head");
        let epoch = level("axolotl_epoch", "Epoch that governs the next block");
        let round = level("axolotl_round", "Round of the height being decided");
        let peers = level("axolotl_peers", "Connected peers");
        let reachable = level(
            "axolotl_peers_reachable",
            "Peers that answered a ping within 5 s",
        );
        let pool = level("axolotl_pool_transactions", "Transactions in the pool");
        let validator = level("axolotl_validator", "1 if this node votes");
        let syncing = level("axolotl_syncing", "1 while this node fetches blocks");
        let misbehaving = level(
            "axolotl_misbehaving_validators",
            "Validators that this process saw sign two things in one place",
        );
        let resident = level(
            "axolotl_resident_memory_bytes",
            "Resident memory of the process",
        );
        let faults = Family::<FaultLabels, Counter>::default();
        registry.register(
            "axolotl_consensus_proposal_faults",
            "Proposals that this process could not vote for, by proposer",
            faults.clone(),
        );
        let registry = Mutex::new(registry);
        Arc::new(Self {
            registry,
            height,
            epoch,
            round,
            peers,
            reachable,
            pool,
            validator,
            syncing,
            misbehaving,
            faults,
            resident,
        })
    }

    /// The text form, with values of now.
    pub fn text(&self, status: Option<&NodeSelfStatus>) -> String {
        if let Some(status) = status {
            self.height.set(status.height.0);
            self.epoch.set(status.epoch.0);
            self.round.set(status.round.0.into());
            self.peers.set(status.peers as u64);
            self.reachable.set(status.reachable.len() as u64);
            self.pool.set(status.tx_pool_size as u64);
            self.validator.set(status.is_validator.into());
            self.syncing.set(status.syncing.into());
            self.misbehaving.set(status.misbehaving.len() as u64);
            for report in &status.proposal_faults {
                let counts = [
                    (ProposalFault::Invalid, report.invalid),
                    (ProposalFault::NotInTime, report.not_in_time),
                ];
                for (fault, count) in counts {
                    let validator = ("validator", report.validator.to_string());
                    let labels = [validator, ("fault", fault.code().to_owned())];
                    let counter = self.faults.get_or_create(&labels);
                    counter.inner().store(count, Ordering::Relaxed);
                }
            }
        }
        self.resident.set(resident_memory_bytes().unwrap_or(0));
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("writing to a String does not fail");
        text
    }
}

/// Resident memory of this process, from the kernel.
fn resident_memory_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
