//! Messages of heights that this node has not begun: kept, within bounds, until it does.
//!
//! The core's own buffer takes messages before it checks signatures and drops some kinds of them;
//! nothing is fed to it before its height is started. Here only authenticated messages arrive, and
//! each validator has its own share, so that no one can crowd out another. Blocks stay with
//! their proposals: a body thrown away at the start of its height once stuck a node for good.

use std::collections::BTreeMap;

use axolotl_common::{Height, PublicKey};

use crate::{
    epoch::MAX_FUTURE_HEIGHTS,
    message::{Message, Payload},
};

/// Votes kept of one validator, two for each height; the highest height gives way first.
const MAX_VOTES_PER_VALIDATOR: usize = 2 * MAX_PROPOSALS_PER_VALIDATOR;
/// Proposals, with their blocks, kept of one validator: one leader may propose at every height.
const MAX_PROPOSALS_PER_VALIDATOR: usize = MAX_FUTURE_HEIGHTS as usize;
/// So many are kept of one validator whatever their size.
const LARGE_PROPOSALS_PER_VALIDATOR: usize = 2;
/// Bytes of blocks kept of one validator when there are more.
const MAX_PROPOSAL_BYTES_PER_VALIDATOR: usize = 1 << 20;
/// Certificates kept; they have no author.
const MAX_CERTIFICATES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Share {
    Votes(PublicKey),
    Proposals(PublicKey),
    Certificates,
}

/// The buffer.
#[derive(Debug, Default)]
pub(crate) struct FutureMessages {
    shares: BTreeMap<Share, Vec<(u64, Message)>>,
    arrivals: u64,
}

impl FutureMessages {
    /// Keeps an authenticated message, unless it is there already or the share is full of lower
    /// heights.
    pub(crate) fn push(&mut self, message: Message) {
        let (share, limit) = match &message.payload {
            Payload::Vote(vote) => (Share::Votes(vote.vote.validator), MAX_VOTES_PER_VALIDATOR),
            Payload::Proposal { proposal, .. } => (
                Share::Proposals(proposal.proposal.proposer),
                MAX_PROPOSALS_PER_VALIDATOR,
            ),
            Payload::Polka(_) | Payload::Round(_) | Payload::Decided(_) => {
                (Share::Certificates, MAX_CERTIFICATES)
            }
        };
        let kept = self.shares.entry(share).or_default();
        if kept.iter().any(|(_, m)| m.payload == message.payload) {
            return;
        }
        self.arrivals += 1;
        kept.push((self.arrivals, message));
        while kept.len() > limit || has_too_large_blocks(kept) {
            let places = kept.iter().enumerate();
            let highest = places.max_by_key(|(_, (arrival, m))| (m.height(), *arrival));
            let Some((place, _)) = highest else { return };
            kept.remove(place);
        }
    }

    /// Takes out what belongs to a height, in the order of arrival, and forgets what lies below.
    pub(crate) fn take(&mut self, height: Height) -> Vec<Message> {
        let mut taken = Vec::new();
        for kept in self.shares.values_mut() {
            for (arrival, message) in std::mem::take(kept) {
                if message.height() == height {
                    taken.push((arrival, message));
                } else if message.height() > height {
                    kept.push((arrival, message));
                }
            }
        }
        self.shares.retain(|_, kept| !kept.is_empty());
        taken.sort_by_key(|(arrival, _)| *arrival);
        taken.into_iter().map(|(_, message)| message).collect()
    }

    /// Forgets everything: the epoch changed.
    pub(crate) fn clear(&mut self) {
        self.shares.clear();
    }
}

fn has_too_large_blocks(kept: &[(u64, Message)]) -> bool {
    let bytes = kept.iter().map(|(_, message)| match &message.payload {
        Payload::Proposal { block, .. } => block.len(),
        _ => 0,
    });
    kept.len() > LARGE_PROPOSALS_PER_VALIDATOR
        && bytes.sum::<usize>() > MAX_PROPOSAL_BYTES_PER_VALIDATOR
}

#[cfg(test)]
mod tests {
    use axolotl_common::{Epoch, Hash, Round, Signature, VoteKind};

    use super::*;
    use crate::{
        message::{Proposal, SignedProposal, SignedVote, Vote},
        test_support::key,
    };

    fn vote(validator: u8, height: u64, round: u32) -> Message {
        Message {
            copy: 0,
            payload: Payload::Vote(SignedVote {
                vote: Vote {
                    epoch: Epoch(0),
                    height: Height(height),
                    round: Round(round),
                    kind: VoteKind::Prevote,
                    block: None,
                    validator: key(validator).public(),
                },
                signature: Signature([0; 64]),
            }),
        }
    }

    fn proposal(validator: u8, height: u64) -> Message {
        proposal_of(validator, height, 1)
    }

    fn proposal_of(validator: u8, height: u64, bytes: usize) -> Message {
        Message {
            copy: 0,
            payload: Payload::Proposal {
                proposal: SignedProposal {
                    proposal: Proposal {
                        epoch: Epoch(0),
                        height: Height(height),
                        round: Round(0),
                        block: Hash([0; 32]),
                        valid_round: None,
                        proposer: key(validator).public(),
                    },
                    signature: Signature([0; 64]),
                },
                block: vec![1; bytes].into(),
            },
        }
    }

    #[test]
    fn nobody_crowds_out_another_and_near_heights_come_first() {
        let mut future = FutureMessages::default();
        for round in 0..1_000 {
            future.push(vote(1, 7, round));
        }
        future.push(vote(2, 6, 0));
        future.push(vote(1, 6, 3));
        for height in [8, 7, 6, 9] {
            future.push(proposal(3, height));
        }
        assert_eq!(
            future.take(Height(6)),
            [vote(2, 6, 0), vote(1, 6, 3), proposal(3, 6)]
        );
        let seven = future.take(Height(7));
        assert_eq!(seven.len(), MAX_VOTES_PER_VALIDATOR - 1 + 1);
        assert_eq!(future.take(Height(9)), [proposal(3, 9)]);
        assert!(future.shares.is_empty());
    }

    #[test]
    fn small_blocks_are_kept_for_many_heights_and_large_ones_for_two() {
        let mut future = FutureMessages::default();
        for height in (1..=40).rev() {
            future.push(proposal_of(1, height, 10));
            future.push(proposal_of(2, height, MAX_PROPOSAL_BYTES_PER_VALIDATOR));
        }
        for height in 1..=40 {
            let mut expected = Vec::new();
            if height <= 32 {
                expected.push(proposal_of(1, height, 10));
            }
            if height <= 2 {
                let bytes = MAX_PROPOSAL_BYTES_PER_VALIDATOR;
                expected.push(proposal_of(2, height, bytes));
            }
            assert_eq!(future.take(Height(height)), expected, "{height}");
        }
        assert!(future.shares.is_empty());
    }

    #[test]
    fn copies_count_once() {
        let mut future = FutureMessages::default();
        future.push(vote(1, 7, 0));
        future.push(Message {
            copy: 9,
            ..vote(1, 7, 0)
        });
        assert_eq!(future.take(Height(7)).len(), 1);
    }
}
