//! The engine's part in a recovery: what it answers to the registry's orders about one.
//!
//! ```text
//! Meet ───▶ promises (durable): which start of the registry is obeyed
//! Survey ─▶ statement, unsigned, and the veto
//! Seal ───▶ promise (durable) ─ veto? ─▶ Driver::seal ─▶ log, synced ─▶ statement, signed
//! Stage ──▶ promise (durable) ─▶ tasks::stage: fetch the block, worker: execute, keep ─▶ acknowledgement
//! record ─▶ tasks::activate: fetch the block, worker: put into force ─▶ next height under it; told on
//! ```
//!
//! Each answer also says what the node has met, promised, sealed and staged, and shows a record that is
//! newer than the order's epoch. The registry repeats orders; nothing here waits for more than seconds.

pub(super) mod promises;
pub(super) mod tasks;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use alloy_primitives::Bytes;
use axolotl_common::{Epoch, PublicKey, SignedRecord, registry_api::RecoveryAnswer};

/// An order about a recovery is given up after so long; the registry sends it again.
pub(super) const ORDER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(8);

/// What the status exchange answers from: durable facts that the engine keeps up to date.
#[derive(Debug, Default)]
pub struct StatusFacts {
    /// Highest vote of each validator in the durable log of this node, borsh.
    pub votes: BTreeMap<PublicKey, Bytes>,
    /// Validators' own word that they are sealed, borsh; from what is staged and from the newest record.
    pub seals: BTreeMap<PublicKey, Bytes>,
    /// This node is sealed in this epoch and all before it.
    pub sealed: Option<Epoch>,
    /// Whether this node may not vote with its volume.
    pub unfit: bool,
}

/// [`StatusFacts`], shared between engine and network.
pub type StatusBook = Arc<Mutex<StatusFacts>>;

/// What became of an order about a recovery.
#[derive(Debug)]
pub struct OrderAnswer {
    /// What was done, or why not, in words.
    pub outcome: Result<String, String>,
    /// What the node says.
    pub recovery: Box<RecoveryAnswer>,
}

/// The validators' own word that they are sealed, as the statements in records hold it: of each author the
/// highest.
pub(super) fn seals_in<'a>(
    handovers: impl Iterator<Item = &'a axolotl_common::recovery::Handover>,
) -> BTreeMap<PublicKey, Bytes> {
    let mut seals: BTreeMap<PublicKey, axolotl_common::recovery::SealNote> = BTreeMap::new();
    for signed in handovers.flat_map(|handover| &handover.statements) {
        let note = signed.seal_note();
        let known = seals.entry(signed.statement.author).or_insert(note);
        if note.epoch > known.epoch {
            *known = note;
        }
    }
    let encode = |note| Bytes::from(borsh::to_vec(note).expect("writing to a Vec does not fail"));
    seals
        .iter()
        .map(|(key, note)| (*key, encode(note)))
        .collect()
}

/// Whether a record takes force without a block that carries it.
pub(crate) fn follows_a_seal(signed: &SignedRecord) -> bool {
    use axolotl_common::membership::RecordKind::{Forced, Recovery};
    matches!(signed.record.kind, Recovery | Forced)
}
