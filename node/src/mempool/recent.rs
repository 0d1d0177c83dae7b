//! Hashes in the order of their arrival.

use std::collections::{HashSet, VecDeque};

use alloy_primitives::B256;

/// Hashes of mined transactions that are remembered; the oldest is forgotten first.
const RECENTLY_MINED: usize = 16_384;

/// The newest [`RECENTLY_MINED`] hashes.
#[derive(Debug, Default)]
pub(super) struct RecentHashes {
    order: VecDeque<B256>,
    known: HashSet<B256>,
}

impl RecentHashes {
    pub(super) fn insert(&mut self, hash: B256) {
        if self.known.insert(hash) {
            self.order.push_back(hash);
            if self.order.len() > RECENTLY_MINED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    pub(super) fn contains(&self, hash: &B256) -> bool {
        self.known.contains(hash)
    }
}
