use std::collections::BTreeMap;

use axolotl_common::{Epoch, Hash, Height, Round, VoteKind};
use axolotl_consensus::{Message, message::Payload};

use super::{Actor, Cast, Outgoing, own_vote};

/// Has no lock, whatever it precommitted to: prevotes for anything that is proposed.
#[derive(Debug, Default)]
pub(crate) struct LyingAboutLock {
    proposed: BTreeMap<(Height, Epoch, Round), Hash>,
}

impl Actor for LyingAboutLock {
    fn hears(&mut self, message: &Message) {
        if let Payload::Proposal { proposal, .. } = &message.payload {
            let p = &proposal.proposal;
            self.proposed
                .entry((p.height, p.epoch, p.round))
                .or_insert(p.block);
        }
    }

    fn says(&mut self, cast: &mut Cast<'_>, message: Message) -> Outgoing {
        let all = cast.peers.clone();
        if let Some(vote) = own_vote(&message, cast.key, VoteKind::Prevote)
            && vote.block.is_none()
            && let Some(block) = self.proposed.get(&(vote.height, vote.epoch, vote.round))
        {
            let lie = axolotl_consensus::message::Vote {
                block: Some(*block),
                ..vote
            };
            return vec![(all, cast.sign_vote(lie))];
        }
        vec![(all, message)]
    }
}
