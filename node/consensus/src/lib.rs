//! Tendermint (arXiv 1807.04938) for Axolotl, without I/O.
//!
//! The [`Driver`] is a pure state machine: `(now, Input)` in, a list of [`Effect`]s out. No clock, no
//! randomness, no threads, no disk and no network; whoever runs it performs the effects, and a
//! seeded simulator runs this very code in `tests/simulation.rs`.
//!
//! ```text
//!   gossip ──decode──> Message ─┐                        ┌─> Append*, Flush      consensus log
//!   timers ──────────> Timer ───┤                        ├─> BuildBlock/CheckBlock    ledger
//!   ledger ──> Built, Checked ──┼─> Driver ─> [Effect] ──┼─> SetTimer/CancelTimer     timers
//!   mempool ─────────> Work ────┤     │                  ├─> Broadcast                gossip
//!   chain, sync ─────> Begin ───┘     │                  ├─> Commit               block log
//!                                  core (context)        └─> Behind, Misbehaviour, Fatal …
//! ```
//!
//! # Protocol
//! A height is decided in rounds of proposal, prevote and precommit. The core
//! (`arc-malachitebft-core-consensus`) is wrapped by `context` and decides block *hashes*; the block's
//! bytes travel with the signed proposal in one message. One core lives for one height under one
//! epoch. What is ours: who proposes ([`proposer_order`]), when a height starts and when an
//! idle one rests (`liveness`), which messages are let in (`epoch`, `future`), what is logged and
//! replayed ([`LogRecord`]), and who may sign at all (`amnesia`, `signatures`).
//!
//! A height begins with [`Input::Begin`] and rests until there is a reason to start it: an
//! authenticated message about it, work, or the empty-block interval. It is always started first
//! and fed afterwards, since the core drops some kinds of messages before its start.
//!
//! # Invariants
//! 1. Nothing leaves before it is durable: within the effects of a turn all records come first, then
//!    one flush, then broadcasts and commits.
//! 2. The bytes of a block are in the log before the verdict on it, and so before its precommit.
//! 3. The log of a height, replayed, gives the votes that were sent. A replay that would sign
//!    something else is [`Effect::Fatal`], and so is any error of the core.
//! 4. A key signs one statement for each place of the protocol, whatever the core asks for.
//! 5. Before its first signature a validator has asked others for votes of its own ([`Effect::AskHighestVotes`]).
//! 6. Messages count in their own epoch only; those of lower epochs are refused, those of newer
//!    ones are a reason to sync and never a fault.
//! 7. Every buffer is bounded by a constant, and each validator has its own share of it.
//! 8. Once an epoch is sealed ([`Driver::seal`]) nothing reaches the core of it or of an earlier one: no message,
//!    timer, replay or work. Only certificates move the node on, to the next height.
//! 9. The quorum is that of [`axolotl_common::QuorumRule`], here and everywhere.
//!
//! # Crash and replay
//! [`Driver::replay`] is the first call: it takes the height to decide and the records of the log,
//! drops those of other heights and epochs, and brings back locks, votes and blocks. Votes are sent
//! again, with other [`Message::copy`] numbers. Of a sealed epoch nothing is replayed: its lock is read
//! from the log as it lies there.
//!
//! # Deviations
//! Sync does not pass through the core: the runner verifies certificates, stores blocks, and says
//! `Begin`. A node that is asked about a height that it decided answers with the certificate
//! ([`message::Payload::Decided`]), so that an idle chain leaves nobody behind.

mod amnesia;
mod attendance;
mod bodies;
mod budget;
mod context;
mod driver;
mod effect;
mod epoch;
mod future;
mod input;
mod liveness;
pub mod log_record;
pub mod message;
mod proposer;
mod signatures;
mod validators;

#[cfg(test)]
mod test_support;

pub use attendance::{LastSigned, LastVote};
pub use budget::build_budget;
pub use driver::{Admission, Driver, Lock, StatedHead};
pub use effect::{Effect, Evidence, ProposalFault};
pub use input::{BlockSummary, Config, HeightStart, Input, Now, TimerId, TimerKind, Verdict};
pub use log_record::{LogEntry, LogRecord};
pub use message::{DecodeError, Message, MessageKind, SignedVote};
pub use proposer::proposer_order;
