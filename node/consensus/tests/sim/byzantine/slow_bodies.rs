use std::collections::BTreeMap;

use axolotl_common::Hash;
use axolotl_consensus::{
    Message,
    message::{Payload, Vote},
};

use super::{Actor, Cast, Outgoing};
use crate::sim::net::Micros;

/// What one of its blocks costs on every executor: more than any round lasts.
pub(crate) const SLOW: Micros = 3_600_000_000;

/// Proposes blocks whose execution lasts for an hour, and votes for them without executing them.
#[derive(Debug, Default)]
pub(crate) struct SlowBodies {
    /// The slow block in the place of each own one.
    slow: BTreeMap<Hash, Hash>,
}

impl Actor for SlowBodies {
    fn says(&mut self, cast: &mut Cast<'_>, message: Message) -> Outgoing {
        let all = cast.peers.clone();
        match &message.payload {
            Payload::Proposal { proposal, block } if proposal.proposal.valid_round.is_none() => {
                let Some((hash, slow)) =
                    cast.propose_instead(proposal.proposal, block, |block, _| block.extra = SLOW)
                else {
                    return Vec::new();
                };
                self.slow.insert(proposal.proposal.block, hash);
                vec![(all, slow)]
            }
            Payload::Vote(vote) => {
                let vote = vote.vote;
                match vote.block.and_then(|block| self.slow.get(&block)) {
                    Some(slow) => {
                        let block = Some(*slow);
                        vec![(all, cast.sign_vote(Vote { block, ..vote }))]
                    }
                    None => vec![(all, message)],
                }
            }
            _ => vec![(all, message)],
        }
    }
}
