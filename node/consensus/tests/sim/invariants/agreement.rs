use std::collections::{BTreeMap, BTreeSet};

use axolotl_common::{Epoch, Hash, Height, PublicKey, Round, VoteKind};
use axolotl_consensus::{HeightStart, Message, message::Payload};

use super::Invariant;
use crate::sim::ledger::{Chain, Stored};

type Place = (Epoch, Height, Round, Hash);

/// No two blocks of one height are ever final: neither stored by an honest node, nor precommitted by a
/// quorum, whether anybody ever sees all of those votes or not.
#[derive(Default)]
pub(crate) struct Agreement {
    decided: BTreeMap<Height, (usize, Hash)>,
    quorums: BTreeMap<Epoch, usize>,
    precommits: BTreeMap<Place, BTreeSet<PublicKey>>,
}

impl Agreement {
    fn note(&mut self, node: usize, height: Height, hash: Hash) -> Result<(), String> {
        let (first, known) = *self.decided.entry(height).or_insert((node, hash));
        if hash == known {
            Ok(())
        } else {
            Err(format!(
                "height {height}: with node {first} {known} became final, with node {node} {hash}"
            ))
        }
    }
}

impl Invariant for Agreement {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn stored(&mut self, node: usize, _: &Chain, block: &Stored) -> Result<(), String> {
        self.note(node, block.block.height, block.hash)
    }

    fn begins(&mut self, _: usize, start: &HeightStart) -> Result<(), String> {
        let set = &start.validators;
        self.quorums.insert(set.epoch(), set.quorum());
        Ok(())
    }

    fn sent(&mut self, node: usize, message: &Message) -> Result<(), String> {
        let Payload::Vote(signed) = &message.payload else {
            return Ok(());
        };
        let vote = &signed.vote;
        let (VoteKind::Precommit, Some(block)) = (vote.kind, vote.block) else {
            return Ok(());
        };
        let place = (vote.epoch, vote.height, vote.round, block);
        let voters = self.precommits.entry(place).or_default();
        voters.insert(vote.validator);
        let quorum = self.quorums.get(&vote.epoch);
        if quorum.is_some_and(|quorum| voters.len() >= *quorum) {
            return self.note(node, vote.height, block);
        }
        Ok(())
    }
}
