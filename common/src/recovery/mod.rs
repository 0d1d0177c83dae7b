//! What is said, checked and signed when a quorum is lost: ballots, statements, drafts.
//!
//! Everything here is data and pure checks. The registry judges with them whether it may go on, each
//! node judges again before it stages or takes a record, and the simulator drives both.
//! `docs/recovery.md` has the theory.
//!
//! - [`ballot`]: which registry speaks, and in which attempt.
//! - [`statement`]: what a sealed validator says of itself.
//! - [`judge`]: what follows from a set of statements.
//! - [`draft`]: the record that follows, and who acknowledged it.
//! - [`promises`]: which registry, and which ballot, a node obeys.
//! - [`veto`](mod@veto): why a node does not seal.

pub mod ballot;
pub mod draft;
pub mod judge;
pub mod promises;
#[cfg(test)]
mod size_tests;
pub mod statement;
#[cfg(test)]
mod tests;
pub mod veto;

pub use ballot::{Ballot, RegistryStart, StartId};
pub use draft::{Acknowledgement, DraftError, Handover, check_acknowledgements, check_draft};
pub use judge::{Finding, Obstacle, Sets, condition_margin, fewest_survivors, judge, judge_forced};
pub use promises::Promises;
pub use statement::{SealNote, SignedStatement, StatedLock, Statement, StatementError};
pub use veto::{Sight, veto};
