use axolotl_consensus::{Message, message::Payload};
use rand::Rng;

use super::{Actor, Cast, Outgoing};

/// Gives its proposals to few, to others with bytes that are not the block, and votes as if all had
/// them.
#[derive(Debug)]
pub(crate) struct WithholdingBodies;

impl Actor for WithholdingBodies {
    fn says(&mut self, cast: &mut Cast<'_>, message: Message) -> Outgoing {
        let Payload::Proposal { proposal, .. } = &message.payload else {
            return vec![(cast.peers.clone(), message)];
        };
        let stunted = Message {
            copy: message.copy,
            payload: Payload::Proposal {
                proposal: *proposal,
                block: vec![0; 40].into(),
            },
        };
        let (some, mut others) = cast.halves();
        let rng = &mut *cast.rng;
        others.retain(|_| rng.random_bool(0.5));
        vec![(some, message), (others, stunted)]
    }
}
