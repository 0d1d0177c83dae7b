use std::collections::VecDeque;

use axolotl_consensus::{
    Message,
    message::{Payload, SignedProposal},
};
use bytes::Bytes;
use rand::Rng;

use super::{Actor, Cast, Outgoing};
use crate::sim::ledger::Block;

/// Proposals of others that it still passes on with other bytes.
const KEPT: usize = 4;

/// Passes on the signed proposals of others with bytes that are not the proposed block, and sends its own
/// ones with such bytes, too, sometimes followed by the right ones.
#[derive(Debug, Default)]
pub(crate) struct SwappedBodies {
    heard: VecDeque<(SignedProposal, Bytes)>,
}

impl Actor for SwappedBodies {
    fn hears(&mut self, message: &Message) {
        if let Payload::Proposal { proposal, block } = &message.payload {
            if self.heard.len() >= KEPT {
                self.heard.pop_front();
            }
            self.heard.push_back((*proposal, block.clone()));
        }
    }

    fn says(&mut self, cast: &mut Cast<'_>, message: Message) -> Outgoing {
        let all = cast.peers.clone();
        let mut outgoing = Vec::new();
        while let Some((proposal, block)) = self.heard.pop_front() {
            let swapped = swap(cast, proposal, &block);
            outgoing.extend(swapped.map(|swapped| (all.clone(), swapped)));
        }
        match &message.payload {
            Payload::Proposal { proposal, block } => {
                let swapped = swap(cast, *proposal, block);
                outgoing.extend(swapped.map(|swapped| (all.clone(), swapped)));
                if cast.rng.random_bool(0.5) {
                    outgoing.push((all, message));
                }
            }
            _ => outgoing.push((all, message)),
        }
        outgoing
    }
}

/// The signed proposal with the bytes of another good block.
fn swap(cast: &mut Cast<'_>, proposal: SignedProposal, block: &[u8]) -> Option<Message> {
    let other = Block {
        nonce: cast.rng.random(),
        ..Block::decode(block)?
    };
    let block = other.encode();
    Some(cast.message(Payload::Proposal { proposal, block }))
}
