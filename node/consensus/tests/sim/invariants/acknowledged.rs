use std::collections::BTreeMap;

use axolotl_common::Height;

use super::Invariant;
use crate::sim::ledger::{Chain, Stored};

/// A transaction whose receipt somebody saw is in every chain at the end, where it was seen. A
/// receipt can be seen as soon as one honest node has made the block durable.
#[derive(Default)]
pub(crate) struct Acknowledged {
    receipts: BTreeMap<u64, Height>,
}

impl Invariant for Acknowledged {
    fn name(&self) -> &'static str {
        "acknowledged"
    }

    fn stored(&mut self, _: usize, _: &Chain, block: &Stored) -> Result<(), String> {
        for transaction in &block.block.transactions {
            self.receipts
                .entry(*transaction)
                .or_insert(block.block.height);
        }
        Ok(())
    }

    fn end(&mut self, chains: &[(usize, &Chain)]) -> Result<(), String> {
        for (transaction, height) in &self.receipts {
            for (node, chain) in chains {
                let there = match chain.at(*height) {
                    Some(stored) => stored.block.transactions.contains(transaction),
                    None => chain.height() < *height,
                };
                if !there {
                    return Err(format!(
                        "transaction {transaction}, acknowledged at {height}, is not on node {node}"
                    ));
                }
            }
        }
        Ok(())
    }
}
