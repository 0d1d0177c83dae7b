use std::collections::BTreeMap;

use axolotl_common::{Hash, Height, Round};
use axolotl_consensus::{
    Message,
    message::{Payload, Vote},
};

use super::{Actor, Cast, Outgoing};

/// Votes for one thing before some and for another before the others.
#[derive(Debug, Default)]
pub(crate) struct EquivocatingVoter {
    blocks: BTreeMap<(Height, Round), Vec<Hash>>,
}

impl Actor for EquivocatingVoter {
    fn hears(&mut self, message: &Message) {
        if let Payload::Proposal { proposal, .. } = &message.payload {
            let proposal = &proposal.proposal;
            let place = (proposal.height, proposal.round);
            let blocks = self.blocks.entry(place).or_default();
            if !blocks.contains(&proposal.block) {
                blocks.push(proposal.block);
            }
        }
    }

    fn says(&mut self, cast: &mut Cast<'_>, message: Message) -> Outgoing {
        let Payload::Vote(vote) = &message.payload else {
            return vec![(cast.peers.clone(), message)];
        };
        let vote = vote.vote;
        let place = (vote.height, vote.round);
        let blocks = self.blocks.get(&place).map_or(&[][..], Vec::as_slice);
        let other = match (blocks, vote.block) {
            ([a, b, ..], _) => return cast.split_vote(vote, (*a, *b)),
            ([a], None) => Some(*a),
            _ => None,
        };
        let (left, right) = cast.halves();
        let other = cast.sign_vote(Vote {
            block: other,
            ..vote
        });
        vec![(left, message), (right, other)]
    }
}
