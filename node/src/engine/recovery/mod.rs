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
    time::Instant,
};

use alloy_primitives::Bytes;
use axolotl_common::{Epoch, Height, PublicKey, SignedRecord, registry_api::RecoveryAnswer};

/// An order about a recovery is given up after so long; the registry sends it again.
pub(super) const ORDER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(8);

/// What the status exchange answers from: durable facts that the engine keeps up to date.
#[derive(Debug, Default)]
pub struct StatusFacts {
    /// Highest vote of each validator that this node received, borsh.
    pub votes: BTreeMap<PublicKey, Bytes>,
    /// What arrived of each validator of the epoch in force, and what this node signed last.
    pub arrivals: Arrivals,
    /// Validators' own word that they are sealed, borsh; from what is staged and from the newest record.
    pub seals: BTreeMap<PublicKey, Bytes>,
    /// This node is sealed in this epoch and all before it.
    pub sealed: Option<Epoch>,
    /// Whether this node may not vote with its volume.
    pub unfit: bool,
}

/// What arrived of one validator, on the process's clock; see [`axolotl_consensus::LastVote`].
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Whose votes.
    pub validator: PublicKey,
    /// Highest height with a vote of it.
    pub height: Height,
    /// When its last vote arrived.
    pub at: Instant,
    /// Since when votes of others arrive for greater heights.
    pub missing_since: Option<Instant>,
    /// Since when this node has signed votes for greater heights.
    pub unanswered_since: Option<Instant>,
}

/// Whose votes arrive.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    /// Of each validator of the epoch in force, this node included.
    pub votes: Vec<Arrival>,
    /// Epoch and height of the last vote that this node signed, and when it first signed there.
    pub signed: Option<((Epoch, Height), Instant)>,
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
