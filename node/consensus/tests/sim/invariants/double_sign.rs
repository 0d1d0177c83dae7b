use std::collections::BTreeMap;

use axolotl_common::{Epoch, Hash, Height, PublicKey, Round};
use axolotl_consensus::{
    Message, MessageKind,
    message::{Payload, SignedProposal, SignedVote},
};

use super::Invariant;

type Place = (PublicKey, Epoch, Height, Round, MessageKind);

/// No honest key signs two different statements for one place, also across crashes.
#[derive(Default)]
pub(crate) struct DoubleSign {
    signed: BTreeMap<Place, (Option<Hash>, Option<Round>)>,
}

impl Invariant for DoubleSign {
    fn name(&self) -> &'static str {
        "double_sign"
    }

    fn sent(&mut self, node: usize, message: &Message) -> Result<(), String> {
        let (author, said) = match &message.payload {
            Payload::Vote(SignedVote { vote, .. }) => (vote.validator, (vote.block, None)),
            Payload::Proposal {
                proposal: SignedProposal { proposal, .. },
                ..
            } => (
                proposal.proposer,
                (Some(proposal.block), proposal.valid_round),
            ),
            _ => return Ok(()),
        };
        let place = (
            author,
            message.epoch(),
            message.height(),
            message.round(),
            message.kind(),
        );
        let before = *self.signed.entry(place).or_insert(said);
        if before == said || author != crate::sim::ledger::key(node).public() {
            return Ok(());
        }
        Err(format!(
            "node {node}, height {}, round {}: {} for {before:?}, then for {said:?}",
            message.height(),
            message.round(),
            message.kind()
        ))
    }
}
