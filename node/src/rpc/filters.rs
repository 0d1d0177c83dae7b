//! Installed filters: what clients poll with `eth_getFilterChanges`.
//!
//! A filter remembers how far its client has read, nothing else: logs and block hashes are read
//! from the chain when they are asked for. Their number is bounded, and one that nobody asks for
//! is removed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axolotl_ledger::Tx;
use tokio::sync::broadcast;

use super::{error::RpcError, eth::logs::Query};

/// What a filter reports.
#[derive(Debug)]
pub(super) enum Kind {
    /// Logs that match.
    Logs(Box<Query>),
    /// Hashes of blocks.
    Blocks,
    /// Hashes of transactions that enter the mempool.
    Transactions(broadcast::Receiver<Tx>),
}

/// One filter.
#[derive(Debug)]
pub(super) struct Installed {
    /// What it reports.
    pub(super) kind: Kind,
    /// First block that it has not reported.
    pub(super) next: u64,
}

#[derive(Debug)]
struct Entry {
    /// Locked while a poll is answered, so that two polls do not report the same.
    filter: Arc<Mutex<Installed>>,
    used: Instant,
}

/// All filters of the node.
#[derive(Debug)]
pub(super) struct Filters {
    entries: HashMap<u128, Entry>,
    max: usize,
    idle: Duration,
}

impl Filters {
    /// No filters, room for `max` of them, each kept until it was not used for `idle`.
    pub(super) fn new(max: usize, idle: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            max,
            idle,
        }
    }

    /// Installs a filter under the random number `id`, which its client must know to use it.
    pub(super) fn install(
        &mut self,
        now: Instant,
        id: u128,
        filter: Installed,
    ) -> Result<(), RpcError> {
        self.expire(now);
        if self.entries.len() >= self.max {
            return Err(RpcError::Limit(format!(
                "too many filters: at most {}",
                self.max
            )));
        }
        let entry = Entry {
            filter: Arc::new(Mutex::new(filter)),
            used: now,
        };
        self.entries.insert(id, entry);
        Ok(())
    }

    /// The filter with this number.
    pub(super) fn get(
        &mut self,
        now: Instant,
        id: u128,
    ) -> Result<Arc<Mutex<Installed>>, RpcError> {
        self.expire(now);
        let entry = self
            .entries
            .get_mut(&id)
            .ok_or_else(|| RpcError::Server("filter not found".into()))?;
        entry.used = now;
        Ok(Arc::clone(&entry.filter))
    }

    /// Removes a filter; tells whether it was there.
    pub(super) fn remove(&mut self, now: Instant, id: u128) -> bool {
        self.expire(now);
        self.entries.remove(&id).is_some()
    }

    fn expire(&mut self, now: Instant) {
        let idle = self.idle;
        self.entries
            .retain(|_, entry| now.saturating_duration_since(entry.used) < idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(next: u64) -> Installed {
        Installed {
            kind: Kind::Blocks,
            next,
        }
    }

    #[test]
    fn filters_are_bounded_and_expire_when_idle() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut filters = Filters::new(2, Duration::from_secs(300));
        filters.install(at(0), 1, blocks(5)).unwrap();
        filters.install(at(0), 2, blocks(6)).unwrap();
        let full = filters.install(at(1), 3, blocks(7)).unwrap_err();
        assert_eq!(full.code(), -32005, "{full}");

        let one = filters.get(at(200), 1).unwrap();
        assert_eq!(one.lock().unwrap().next, 5);
        let gone = filters.get(at(301), 2).unwrap_err();
        assert_eq!(gone.to_string(), "filter not found");
        assert!(filters.get(at(499), 1).is_ok(), "a use keeps it");

        filters.install(at(499), 3, blocks(7)).unwrap();
        assert!(filters.remove(at(500), 3));
        assert!(!filters.remove(at(500), 3));
        assert!(filters.get(at(900), 1).is_err());
    }
}
