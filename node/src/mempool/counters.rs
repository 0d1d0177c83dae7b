//! What the pool counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counters of the pool; clones share them.
#[derive(Clone, Debug, Default)]
pub struct PoolCounters {
    /// Transactions whose execution was interrupted for the first time.
    pub marked_heavy: Counter,
    /// Transactions set aside.
    pub set_aside: Counter,
    /// Bytes of the journal's file.
    pub journal_bytes: Gauge<u64, AtomicU64>,
    /// Attempts to write the journal that failed.
    pub journal_failures: Counter,
    /// Damaged records that were passed over when the journal was read.
    pub journal_damaged: Counter,
}

impl PoolCounters {
    /// Adds the counters to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "axolotl_pool_marked_heavy",
            "Transactions whose execution did not end in time, kept for one more attempt, alone and last",
            self.marked_heavy.clone(),
        );
        registry.register(
            "axolotl_pool_set_aside",
            "Transactions dropped because their execution did not end in time twice",
            self.set_aside.clone(),
        );
        registry.register(
            "axolotl_pool_journal_bytes",
            "Size of the journal of accepted transactions",
            self.journal_bytes.clone(),
        );
        registry.register(
            "axolotl_pool_journal_failures",
            "Attempts to write the journal of accepted transactions that failed",
            self.journal_failures.clone(),
        );
        registry.register(
            "axolotl_pool_journal_damaged",
            "Damaged records that were passed over when the journal was read at start",
            self.journal_damaged.clone(),
        );
    }
}
