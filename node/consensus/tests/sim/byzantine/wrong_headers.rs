use axolotl_common::Hash;
use axolotl_consensus::{Message, message::Payload};
use rand::Rng;

use super::{Actor, Cast, Outgoing};
use crate::sim::ledger::MAX_TRANSACTIONS;

/// Proposes blocks that are signed and well formed, and that only their execution shows to be invalid.
#[derive(Debug)]
pub(crate) struct WrongHeaders;

impl Actor for WrongHeaders {
    fn says(&mut self, cast: &mut Cast<'_>, message: Message) -> Outgoing {
        let all = cast.peers.clone();
        let Payload::Proposal { proposal, block } = &message.payload else {
            return vec![(all, message)];
        };
        if proposal.proposal.valid_round.is_some() {
            return vec![(all, message)];
        }
        let wrong = cast.propose_instead(proposal.proposal, block, |block, rng| {
            match rng.random_range(0..4) {
                0 => block.parent = Hash([rng.random(); 32]),
                1 => block.transactions = vec![7; 2],
                2 => block.transactions = (0..=MAX_TRANSACTIONS as u64).collect(),
                _ => block.due = Some(Hash([rng.random(); 32])),
            }
        });
        wrong
            .map(|(_, wrong)| vec![(all, wrong)])
            .unwrap_or_default()
    }
}
