//! The blocks proposed at one height, with what is known of them.

use std::collections::BTreeMap;

use axolotl_common::{Hash, PublicKey, Round};
use bytes::Bytes;

use crate::log_record::BlockVerdict;

/// Blocks kept at one height, in multiples of the largest block.
const MAX_BYTES_IN_BLOCKS: usize = 8;
/// Blocks kept at one height, however small.
const MAX_BODIES: usize = 64;
/// Proposals of one block that are remembered: one a round, so plenty.
const MAX_PROPOSALS_PER_BODY: usize = 64;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyState {
    /// It waits for its execution.
    Unchecked,
    /// The application is executing it.
    Checking,
    /// It may be voted for, and its bytes are in the log.
    Valid,
    /// It may not, as of its last check.
    Invalid,
}

/// A proposal of a block, as the core needs it for the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProposedIn {
    pub(crate) round: Round,
    pub(crate) valid_round: Option<Round>,
    pub(crate) proposer: PublicKey,
    /// Whether the core got the verdict for it.
    pub(crate) told: bool,
}

/// One block.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) state: BodyState,
    pub(crate) proposals: Vec<ProposedIn>,
    /// Round in which its execution ended without a verdict.
    pub(crate) tried: Option<Round>,
    arrival: u64,
}

/// All blocks of a height. Bounded in bytes and number; of the proposer that has the most, the
/// oldest that the core does not hold on to gives way. A decided block that was dropped is fetched by sync.
#[derive(Debug)]
pub(crate) struct Bodies {
    bodies: BTreeMap<Hash, Body>,
    max_bytes: usize,
    arrivals: u64,
}

impl Bodies {
    pub(crate) fn new(max_block_bytes: usize) -> Self {
        Self {
            bodies: BTreeMap::new(),
            max_bytes: max_block_bytes.saturating_mul(MAX_BYTES_IN_BLOCKS),
            arrivals: 0,
        }
    }

    pub(crate) fn get(&self, block: &Hash) -> Option<&Body> {
        self.bodies.get(block)
    }

    pub(crate) fn get_mut(&mut self, block: &Hash) -> Option<&mut Body> {
        self.bodies.get_mut(block)
    }

    /// Puts a block in, dropping the oldest others that are not in `keep` if there is no room.
    pub(crate) fn insert(&mut self, block: Hash, bytes: Bytes, state: BodyState, keep: &[Hash]) {
        self.arrivals += 1;
        let body = Body {
            bytes,
            state,
            proposals: Vec::new(),
            tried: None,
            arrival: self.arrivals,
        };
        self.bodies.insert(block, body);
        while self.bodies.len() > MAX_BODIES || self.total_bytes() > self.max_bytes {
            match self.least_needed(&block, keep) {
                Some(hash) => drop(self.bodies.remove(&hash)),
                None => break,
            }
        }
    }

    /// The oldest block of the proposer that has the most: who proposes much displaces its own.
    fn least_needed(&self, newest: &Hash, keep: &[Hash]) -> Option<Hash> {
        let mut counts: BTreeMap<Option<PublicKey>, usize> = BTreeMap::new();
        for body in self.bodies.values() {
            *counts.entry(body.first_proposer()).or_default() += 1;
        }
        self.bodies
            .iter()
            .filter(|(hash, _)| *hash != newest && !keep.contains(hash))
            .max_by_key(|(_, body)| {
                let of_proposer = counts.get(&body.first_proposer()).copied();
                (of_proposer, std::cmp::Reverse(body.arrival))
            })
            .map(|(hash, _)| *hash)
    }

    /// The blocks that wait for their execution, by hash.
    pub(crate) fn unchecked(&self) -> impl Iterator<Item = (&Hash, &Body)> {
        self.bodies
            .iter()
            .filter(|(_, body)| body.state == BodyState::Unchecked)
    }

    fn total_bytes(&self) -> usize {
        self.bodies.values().map(|body| body.bytes.len()).sum()
    }
}

impl Body {
    /// Notes that the block was proposed in a round.
    pub(crate) fn propose(&mut self, proposed: ProposedIn) {
        let known = self.proposals.iter().any(|p| p.round == proposed.round);
        if !known && self.proposals.len() < MAX_PROPOSALS_PER_BODY {
            self.proposals.push(proposed);
        }
    }

    /// Who proposed it first.
    pub(crate) fn first_proposer(&self) -> Option<PublicKey> {
        self.proposals.first().map(|proposed| proposed.proposer)
    }

    /// The verdicts that the core was not told yet, and marks them as told.
    pub(crate) fn verdicts(&mut self, block: Hash, valid: bool) -> Vec<BlockVerdict> {
        self.proposals
            .iter_mut()
            .filter(|p| !p.told)
            .map(|p| {
                p.told = true;
                BlockVerdict {
                    round: p.round,
                    valid_round: p.valid_round,
                    proposer: p.proposer,
                    block,
                    valid,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_block_gives_way_but_a_lock_stays() {
        let mut bodies = Bodies::new(10);
        let keep = [Hash([0; 32])];
        for number in 0..20u8 {
            let bytes = Bytes::from(vec![number; 10]);
            bodies.insert(Hash([number; 32]), bytes, BodyState::Valid, &keep);
        }
        assert!(bodies.get(&keep[0]).is_some(), "the lock was dropped");
        assert!(bodies.get(&Hash([1; 32])).is_none());
        assert!(bodies.get(&Hash([19; 32])).is_some());
        assert_eq!(bodies.bodies.len(), MAX_BYTES_IN_BLOCKS);
    }
}
