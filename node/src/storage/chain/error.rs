//! What can go wrong with the chain on disk.

use axolotl_common::Height;

use crate::storage::{block_log::BlockLogError, record_log::LogError, state_store::StoreError};

/// Why the chain did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// What is on disk is not known any more (disk full, failed write or sync): the process must
    /// end with this reason.
    #[error("{0}")]
    Fatal(String),
    /// The record of a block is damaged: fetch it from peers ([`super::Chain::repair`]).
    #[error("{why}")]
    Damaged {
        /// Height of the block.
        height: Height,
        /// Position in the block log; 0 when it is not known.
        position: u64,
        /// In words.
        why: String,
    },
    /// The data directory holds another chain.
    #[error(
        "the data directory holds the chain with genesis block {found}, not {expected}: use another \
         data directory, or wipe this one"
    )]
    OtherChain {
        /// Hash of block 0 on disk.
        found: String,
        /// Hash of block 0 of this chain.
        expected: String,
    },
    /// A block that does not stand on the tip.
    #[error("block {height} does not stand on the tip {tip}")]
    NotOnTip {
        /// Its height.
        height: Height,
        /// Height of the tip.
        tip: Height,
    },
    /// A block in the log does not give its own header.
    #[error(
        "block {height} of the block log cannot be replayed: {why}; the program is another one than \
         wrote it, or the disk is at fault: go back to the former program, or wipe the data \
         directory so that the node fetches the chain from its peers"
    )]
    Replay {
        /// Height of the block.
        height: Height,
        /// In words.
        why: String,
    },
    /// Bytes that were offered for a damaged block are not that block.
    #[error("not block {height} of this chain: {why}")]
    Repair {
        /// Height of the block.
        height: Height,
        /// In words.
        why: String,
    },
}

impl StorageError {
    /// Whether the process must end.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Fatal(_) | Self::OtherChain { .. } | Self::Replay { .. }
        )
    }
}

impl From<LogError> for StorageError {
    fn from(error: LogError) -> Self {
        Self::Fatal(format!("block log: {error}"))
    }
}

impl From<StoreError> for StorageError {
    fn from(error: StoreError) -> Self {
        Self::Fatal(error.to_string())
    }
}

impl From<BlockLogError> for StorageError {
    fn from(error: BlockLogError) -> Self {
        match error {
            BlockLogError::Log(error) => error.into(),
            BlockLogError::Damaged {
                height, position, ..
            } => Self::Damaged {
                height,
                position,
                why: error.to_string(),
            },
        }
    }
}

/// Why there is no state of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateUnavailable {
    /// There is no such block yet.
    #[error("block {height} is not there yet; the head is {head}")]
    Future {
        /// Height asked for.
        height: Height,
        /// Height of the head.
        head: Height,
    },
    /// The block is too old.
    #[error(
        "state of block {height} is not available: this node keeps the state of blocks {oldest} to \
         {head}"
    )]
    Pruned {
        /// Height asked for.
        height: Height,
        /// Oldest height whose state is kept.
        oldest: Height,
        /// Height of the head.
        head: Height,
    },
}
