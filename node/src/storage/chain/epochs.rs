//! The end of the chain and the epoch that governs what comes after it.
//!
//! An epoch begins above a block: above the one that carries its planned record, or above the base of
//! its recovery or forced record. Such a record must be in the first block of its epoch; until then it is
//! *due*.

use std::sync::Arc;

use alloy_primitives::B256;
use axolotl_common::{
    BlockProof, EpochRecord, Height, SignedRecord, ValidatorSet, membership::RecordKind,
    recovery::Sets,
};
use axolotl_ledger::{Block, ChainSpec, DueRecord, Governance, block::builder_of};

use super::{Head, StorageError};
use crate::storage::schema::Checkpoint;

/// Epochs whose validators are remembered, the one in force among them; the oldest goes first. What
/// statements of a recovery rest on is of the last two or three.
pub const KNOWN_EPOCHS: usize = 64;

/// Whether a record of this kind takes force without a block that carries it.
pub(super) fn stands_alone(kind: RecordKind) -> bool {
    matches!(kind, RecordKind::Recovery | RecordKind::Forced)
}

/// The end of the chain, with the epochs up to there.
#[derive(Clone, Debug)]
pub(super) struct Tip {
    pub(super) head: Arc<Head>,
    /// The newest [`KNOWN_EPOCHS`] sets; the last one governs the next block.
    pub(super) sets: Arc<Sets>,
}

impl Head {
    /// Under whom the next block stands.
    pub(super) fn governance(&self) -> Governance<'_> {
        let succeeded = self.previous_validators.as_deref();
        Governance {
            validators: &self.validators,
            due: self
                .due
                .as_deref()
                .zip(succeeded)
                .map(|(signed, succeeded)| DueRecord { signed, succeeded }),
        }
    }

    /// Where on the chain it is: heads of one height are told apart by the epoch that governs the next.
    pub(super) fn place(&self) -> (u64, axolotl_common::Epoch) {
        (self.header.number, self.validators.epoch())
    }
}

/// Adds the set of a new epoch.
pub(super) fn with(sets: &Sets, set: ValidatorSet) -> Sets {
    let mut sets = sets.clone();
    sets.insert(set.epoch(), set);
    while sets.len() > KNOWN_EPOCHS {
        sets.pop_first();
    }
    sets
}

/// The set of a planned record that a block puts into force.
pub(super) fn planned(spec: &ChainSpec, block: &Block) -> Option<ValidatorSet> {
    let signed = block.record()?;
    (signed.record.kind == RecordKind::Planned).then(|| set_of(spec, &signed.record))
}

pub(super) fn set_of(spec: &ChainSpec, record: &EpochRecord) -> ValidatorSet {
    ValidatorSet::new(&spec.chain, record, spec.genesis.axolotl().quorum)
}

impl Tip {
    /// The tip when `block` stands on this one.
    pub(super) fn above(
        &self,
        spec: &ChainSpec,
        block: &Block,
        hash: B256,
        proof: &BlockProof,
    ) -> Self {
        let head = Head {
            header: block.header.clone(),
            hash,
            certificate: proof.certificate().cloned(),
            validators: Arc::clone(&self.head.validators),
            previous_validators: None,
            due: None,
            last_builder: builder_of(&block.header),
        };
        let mut next = Self {
            head: Arc::new(head),
            sets: Arc::clone(&self.sets),
        };
        if let Some(set) = planned(spec, block) {
            next = next.governed_by(set, None);
        }
        if let Some(signed) = proof.record() {
            next = next.under(spec, Arc::new(signed.clone()));
        }
        next
    }

    /// The tip when a recovery or forced record takes force on it.
    pub(super) fn under(&self, spec: &ChainSpec, signed: Arc<SignedRecord>) -> Self {
        self.governed_by(set_of(spec, &signed.record), Some(signed))
    }

    fn governed_by(&self, set: ValidatorSet, due: Option<Arc<SignedRecord>>) -> Self {
        let head = Head {
            validators: Arc::new(set.clone()),
            previous_validators: Some(Arc::clone(&self.head.validators)),
            due,
            ..(*self.head).clone()
        };
        Self {
            head: Arc::new(head),
            sets: Arc::new(with(&self.sets, set)),
        }
    }

    /// Whether the epoch of this record is in force, or was before.
    pub(super) fn has_seen(&self, spec: &ChainSpec, record: &EpochRecord) -> bool {
        let known = self.sets.get(&record.number);
        known.is_some_and(|set| set.record_hash() == record.hash(&spec.chain))
    }

    /// Whether a record that was checked before takes force on this tip.
    pub(super) fn awaits(&self, record: &EpochRecord) -> bool {
        let validators = &self.head.validators;
        record.base_height == self.head.height()
            && record.number > validators.epoch()
            && record.succeeds == validators.record_hash()
    }

    /// The tip at a checkpoint.
    pub(super) fn at(
        checkpoint: &Checkpoint,
        proof: Option<BlockProof>,
    ) -> Result<Self, StorageError> {
        let mut newest = checkpoint.sets.values().rev();
        let validators = newest
            .next()
            .ok_or_else(|| StorageError::Fatal("the checkpoint names no validators".into()))?;
        let previous = newest.next().filter(|_| checkpoint.begins);
        let height = Height(checkpoint.height());
        let head = Head {
            header: checkpoint.header.clone(),
            hash: checkpoint.hash,
            certificate: proof.and_then(|proof| proof.certificate().cloned()),
            validators: Arc::new(validators.clone()),
            previous_validators: previous.cloned().map(Arc::new),
            due: checkpoint.due.clone().map(Arc::new),
            last_builder: match height {
                Height(0) => None,
                _ => builder_of(&checkpoint.header),
            },
        };
        Ok(Self {
            head: Arc::new(head),
            sets: Arc::new(checkpoint.sets.clone()),
        })
    }
}
