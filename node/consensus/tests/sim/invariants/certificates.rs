use axolotl_common::QuorumRule;

use super::Invariant;
use crate::sim::ledger::{Chain, Stored, chain_ref, validators};

/// Every stored block has a certificate of its epoch's quorum, by the byzantine rule.
pub(crate) struct Certificates {
    n: usize,
}

impl Certificates {
    pub(crate) fn new(n: usize) -> Self {
        Self { n }
    }
}

impl Invariant for Certificates {
    fn name(&self) -> &'static str {
        "certificates"
    }

    fn stored(&mut self, node: usize, below: &Chain, block: &Stored) -> Result<(), String> {
        let height = block.block.height;
        let set = validators(below.set.epoch(), &below.members, QuorumRule::Byzantine);
        let certificate = &block.certificate;
        if set.len() != self.n {
            return Err(format!("height {height}: {} validators", set.len()));
        }
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
