//! Everything that a node keeps on disk.
//!
//! | module | keeps | durable |
//! |---|---|---|
//! | [`data_dir`] | lock, identity, incarnation, genesis, small records | when the call returns |
//! | [`consensus_log`] | what consensus needs after a crash | after `sync` |
//! | [`block_log`] | blocks, receipts, proofs | after `publish` |
//! | [`chain`] | recovery records, and what is staged for the next | when the call returns |
//! | [`state_store`] | state and indexes at the last checkpoint | derived from the block log |
//!
//! The logs and the small records are the only durable truth; the state store can be removed at any
//! time and is built again from the block log. [`chain`] puts block log and state store together
//! and is what the rest of the node uses.

pub mod block_log;
pub mod chain;
pub mod consensus_log;
pub mod data_dir;
pub mod files;
pub mod record_log;
pub mod schema;
pub mod state_store;

pub use chain::{
    ActivateError, Activated, Chain, ChainStats, Head, RawBlock, Replay, StageError, Staged,
    StateUnavailable, StorageError, StorageOptions, StoredBlock,
};
pub use consensus_log::ConsensusLog;
pub use data_dir::{DataDir, DataDirError};
