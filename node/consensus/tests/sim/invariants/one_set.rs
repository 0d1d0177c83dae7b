use std::collections::BTreeMap;

use axolotl_common::{Epoch, Hash, Height};
use axolotl_consensus::HeightStart;

use super::Invariant;

/// Who begins a height, its epoch, and the records of it and of the height below.
type Begun = (usize, Epoch, Hash, Option<Hash>);

/// One height has one validator set: whoever begins a height, for the first time or after a restart,
/// by votes or by sync, begins it under the same record as everybody else, and knows the same
/// record of the height below. A recovery gives the same height another one, once for all.
pub(crate) struct OneSet {
    governed: BTreeMap<(Height, Epoch), Begun>,
    /// Whether quorums are lost in this run.
    recovers: bool,
}

impl OneSet {
    pub(crate) fn new(recovers: bool) -> Self {
        Self {
            governed: BTreeMap::new(),
            recovers,
        }
    }
}

impl Invariant for OneSet {
    fn name(&self) -> &'static str {
        "one_set"
    }

    fn begins(&mut self, node: usize, start: &HeightStart) -> Result<(), String> {
        let (epoch, record) = (start.validators.epoch(), start.validators.record_hash());
        let before = start
            .previous_validators
            .as_ref()
            .map(|set| set.record_hash());
        let mine = (node, epoch, record, before);
        let place = match self.recovers {
            true => (start.height, epoch),
            false => (start.height, Epoch(0)),
        };
        let first = *self.governed.entry(place).or_insert(mine);
        if (first.1, first.2, first.3) == (epoch, record, before) {
            return Ok(());
        }
        Err(format!(
            "height {}: node {} begins it under epoch {} ({}, before it {:?}), node {node} under epoch {epoch} ({record}, before it {before:?})",
            start.height, first.0, first.1, first.2, first.3
        ))
    }
}
