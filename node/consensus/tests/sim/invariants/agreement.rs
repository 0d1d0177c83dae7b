use std::collections::BTreeMap;

use axolotl_common::{Hash, Height};

use super::Invariant;
use crate::sim::ledger::{Chain, Stored};

/// No two honest nodes store different blocks at one height.
#[derive(Default)]
pub(crate) struct Agreement {
    decided: BTreeMap<Height, (usize, Hash)>,
}

impl Invariant for Agreement {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn stored(&mut self, node: usize, _: &Chain, block: &Stored) -> Result<(), String> {
        let height = block.block.height;
        let (first, hash) = *self.decided.entry(height).or_insert((node, block.hash));
        if hash == block.hash {
            Ok(())
        } else {
            Err(format!(
                "height {height}: node {first} stored {hash}, node {node} stored {}",
                block.hash
            ))
        }
    }
}
