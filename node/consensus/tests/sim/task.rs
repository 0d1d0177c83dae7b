//! What a node is at while it fetches an adopted block.

use axolotl_common::{EpochRecord, Hash, SignedRecord, recovery::Ballot};

/// Where an answer to an order goes: a registry, and which of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) slot: usize,
    pub(crate) life: u64,
}

/// What is to be done with the block.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Stage a draft.
    Stage {
        ballot: Ballot,
        draft: Box<EpochRecord>,
        reply: Reply,
    },
    /// Put a record into force.
    Activate {
        record: Box<SignedRecord>,
        reply: Option<Reply>,
    },
}

impl Work {
    pub(crate) fn record(&self) -> &EpochRecord {
        match self {
            Self::Stage { draft, .. } => draft,
            Self::Activate { record, .. } => &record.record,
        }
    }
}

/// Work that waits for a block.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) number: u64,
    pub(crate) block: Hash,
    pub(crate) work: Work,
}
