//! Messages of heights that this node has not begun: kept, within bounds, until it does.
//!
//! The core's own buffer takes messages before it checks signatures and drops some kinds of them;
//! nothing is fed to it before its height is started. Here only authenticated messages arrive, and
//! each validator has its own share, so that no one can crowd out another. Blocks stay with
//! their proposals: a body thrown away at the start of its height once stuck a node for good.

use std::collections::BTreeMap;

use axolotl_common::{Height, PublicKey};

use crate::message::{Message, Payload};

/// Votes kept of one validator; the highest height gives way first.
const MAX_VOTES_PER_VALIDATOR: usize = 32;
/// Proposals, with their blocks, kept of one validator.
const MAX_PROPOSALS_PER_VALIDATOR: usize = 2;
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
        if kept.len() >= limit {
            let highest = kept
                .iter()
                .enumerate()
                .max_by_key(|(_, (arrival, m))| (m.height(), *arrival))
                .map(|(place, (_, m))| (place, m.height()));
            match highest {
                Some((place, height)) if height > message.height() => drop(kept.remove(place)),
                _ => return,
            }
        }
        self.arrivals += 1;
        kept.push((self.arrivals, message));
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
                block: vec![1].into(),
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
        assert!(future.take(Height(8)).is_empty() && future.shares.is_empty());
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
