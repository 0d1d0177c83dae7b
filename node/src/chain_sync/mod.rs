//! How a node that is behind catches up, and how it serves others that are.
//!
//! [`state`] is pure: it is told what peers claim and answer and how far the chain is, and says what to
//! ask of whom, what to apply, and whom to charge. [`runner`] performs that: it asks over the network,
//! applies on a blocking thread, and serves blocks.
//!
//! ```text
//!  statuses, Behind, Committed ─► state ─► Request ─► network ─► Answer ─► state ─► Apply ─► Applier
//! ```
//!
//! - Ranges are fetched from several peers at once while earlier ones are applied; they are applied in
//!   order only. Nothing is believed: the [`Applier`] checks each block against the certificate, and
//!   the certificate against the validators that the chain before it gives.
//! - A peer that does not give what it claims rests for a growing time and is charged; what it owed is
//!   asked elsewhere. One that gives blocks which are refused is charged for that.
//! - A node that is level takes part in consensus, and is behind its fastest peers by a block now and
//!   then. It fetches only when it is well behind, or has not moved for a moment.
//! - Consensus and sync may meet at one height: the runner is told of each block that consensus
//!   commits, drops what that makes useless, and the [`Applier`] skips blocks that are there already.

mod runner;
mod state;

pub use runner::{Applier, ApplyError, BlockSource, SyncFatal, SyncHandle, start};
pub use state::SyncStatus;
