use axolotl_common::{BlockProof, QuorumRule, ValidatorSet};

use super::Invariant;
use crate::sim::ledger::{Chain, Stored, authority, chain_ref};

/// Every stored block has a certificate of its epoch's quorum, by the byzantine rule, or is adopted by a
/// record of the authority.
pub(crate) struct Certificates;

impl Invariant for Certificates {
    fn name(&self) -> &'static str {
        "certificates"
    }

    fn stored(&mut self, node: usize, below: &Chain, block: &Stored) -> Result<(), String> {
        let height = block.block.height;
        let certificate = match &block.proof {
            BlockProof::Certificate(certificate) => certificate,
            BlockProof::Record(signed) => {
                let of_this = (block.proof.height(), block.proof.block());
                let holds = signed.verify(&chain_ref(), &authority().public())
                    && of_this == (height, Some(block.hash));
                return match holds {
                    true => Ok(()),
                    false => Err(format!("node {node}: no record adopts its block {height}")),
                };
            }
        };
        let set = ValidatorSet::new(&chain_ref(), &below.record, QuorumRule::Byzantine);
        if (certificate.height, certificate.block) != (height, block.hash) {
            return Err(format!(
                "node {node}: certificate of another block at {height}"
            ));
        }
        certificate
            .verify(&chain_ref(), &set)
            .map_err(|error| format!("node {node}, height {height}: {error}"))
    }
}
