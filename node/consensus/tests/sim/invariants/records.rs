use std::collections::BTreeMap;

use axolotl_common::{Epoch, EpochRecord, Hash};

use super::Invariant;
use crate::sim::ledger::chain_ref;

/// There is one record of a number, whichever registry signs it.
#[derive(Default)]
pub(crate) struct Records {
    signed: BTreeMap<Epoch, Hash>,
}

impl Invariant for Records {
    fn name(&self) -> &'static str {
        "records"
    }

    fn signed(&mut self, record: &EpochRecord) -> Result<(), String> {
        let hash = record.hash(&chain_ref());
        let first = *self.signed.entry(record.number).or_insert(hash);
        if first == hash {
            Ok(())
        } else {
            Err(format!(
                "two records of epoch {}: {first} and {hash}",
                record.number
            ))
        }
    }
}
