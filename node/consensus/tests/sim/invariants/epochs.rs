use std::collections::BTreeMap;

use axolotl_common::{BlockProof, Epoch};
use axolotl_consensus::{Message, message::Payload};

use super::Invariant;
use crate::sim::ledger::{Chain, Stored};

/// A block is of the epoch that the chain below it gives, and nobody votes under an epoch lower than
/// one it has voted under.
#[derive(Default)]
pub(crate) struct Epochs {
    voted: BTreeMap<usize, Epoch>,
}

impl Invariant for Epochs {
    fn name(&self) -> &'static str {
        "epochs"
    }

    fn sent(&mut self, node: usize, message: &Message) -> Result<(), String> {
        if matches!(message.payload, Payload::Decided(_)) {
            return Ok(());
        }
        let highest = self.voted.entry(node).or_default();
        if message.epoch() < *highest {
            return Err(format!(
                "node {node} speaks under epoch {} after {highest}",
                message.epoch()
            ));
        }
        *highest = message.epoch();
        Ok(())
    }

    fn stored(&mut self, node: usize, below: &Chain, block: &Stored) -> Result<(), String> {
        let epoch = |stored: &Stored| match &stored.proof {
            BlockProof::Certificate(certificate) => Some(certificate.epoch),
            BlockProof::Record(_) => None,
        };
        let expected = below.set.epoch();
        let found = epoch(block).unwrap_or(expected);
        let last = below
            .blocks
            .iter()
            .rev()
            .find_map(epoch)
            .unwrap_or_default();
        if found == expected && found >= last {
            Ok(())
        } else {
            Err(format!(
                "node {node}, height {}: epoch {found}, expected {expected} after {last}",
                block.block.height
            ))
        }
    }
}
