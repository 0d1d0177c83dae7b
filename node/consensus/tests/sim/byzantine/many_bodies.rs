use axolotl_common::{Height, Round};
use axolotl_consensus::{
    Message,
    message::{Payload, Proposal},
};
use rand::Rng;

use super::{Actor, Cast, Outgoing};

/// Further blocks that it signs in its own round.
const TWINS: usize = 12;
/// Later rounds that it signs a block for, whether it will propose in them or not.
const ROUNDS_AHEAD: u32 = 8;
/// What executing one of its blocks costs besides: all of them together cost more than a round lasts,
/// each one fits.
const EXTRA: u64 = 150_000;

/// Signs many blocks in one round, and blocks of later rounds and of the next height, and sends all of
/// them to everyone.
#[derive(Debug)]
pub(crate) struct ManyBodies;

impl Actor for ManyBodies {
    fn says(&mut self, cast: &mut Cast<'_>, message: Message) -> Outgoing {
        let all = cast.peers.clone();
        let mut outgoing = Vec::new();
        if let Payload::Proposal { proposal, block } = &message.payload
            && proposal.proposal.valid_round.is_none()
        {
            let fresh = proposal.proposal;
            let later = (1..=ROUNDS_AHEAD).map(|ahead| Proposal {
                round: Round(fresh.round.0 + ahead),
                ..fresh
            });
            let next = Proposal {
                height: Height(fresh.height.0 + 1),
                ..fresh
            };
            let lies = std::iter::repeat_n(fresh, TWINS).chain(later).chain([next]);
            for lie in lies {
                let twin = cast.propose_instead(lie, block, |block, rng| {
                    block.height = lie.height;
                    block.nonce = rng.random();
                    block.extra = EXTRA;
                });
                outgoing.extend(twin.map(|(_, twin)| (all.clone(), twin)));
            }
        }
        outgoing.push((all, message));
        outgoing
    }
}
