use super::Invariant;
use crate::sim::ledger::{Chain, Stored};

/// Every stored block is valid on top of the one below. (That its transactions were submitted is
/// checked by [`super::Invariants::submitted`].)
pub(crate) struct Validity;

impl Invariant for Validity {
    fn name(&self) -> &'static str {
        "validity"
    }

    fn stored(&mut self, node: usize, below: &Chain, block: &Stored) -> Result<(), String> {
        below
            .check(&block.block)
            .map_err(|why| format!("node {node}, height {}: {why}", block.block.height))
    }
}
