use std::collections::BTreeMap;

use axolotl_common::{Hash, Height, Round};
use axolotl_consensus::{
    Message,
    message::{Payload, Proposal},
};
use rand::Rng;

use super::{Actor, Cast, Outgoing};
use crate::sim::ledger::{self, Block};

/// Proposes one block to some and another to the others, and votes for both.
#[derive(Debug, Default)]
pub(crate) struct EquivocatingProposer {
    twins: BTreeMap<(Height, Round), (Hash, Hash)>,
}

impl Actor for EquivocatingProposer {
    fn says(&mut self, cast: &mut Cast<'_>, message: Message) -> Outgoing {
        match &message.payload {
            Payload::Proposal { proposal, block } if proposal.proposal.valid_round.is_none() => {
                let Some(block) = Block::decode(block) else {
                    return Vec::new();
                };
                let twin = Block {
                    nonce: cast.rng.random(),
                    ..block
                };
                let bytes = twin.encode();
                let hash = ledger::hash(&bytes);
                let first = proposal.proposal.block;
                let proposal = Proposal {
                    block: hash,
                    ..proposal.proposal
                };
                let place = (proposal.height, proposal.round);
                self.twins.insert(place, (first, hash));
                let twin = cast.sign_proposal(proposal, bytes);
                let (low, high) = if first < hash {
                    (message, twin)
                } else {
                    (twin, message)
                };
                let (mut left, mut right) = cast.halves();
                left.extend(&cast.liars);
                right.extend(&cast.liars);
                vec![(left, low), (right, high)]
            }
            Payload::Vote(vote) => {
                let vote = vote.vote;
                match self.twins.get(&(vote.height, vote.round)) {
                    Some(twins) => cast.split_vote(vote, *twins),
                    None => vec![(cast.peers.clone(), message)],
                }
            }
            _ => vec![(cast.peers.clone(), message)],
        }
    }
}
