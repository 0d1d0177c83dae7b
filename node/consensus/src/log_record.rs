//! Records of the consensus log.
//!
//! The log holds, in the order of processing, everything that changed what this node may sign:
//! votes and proposals (its own and others'), verdicts on blocks, timeouts, proofs of locks, and the
//! bytes of each valid block. A vote leaves only after its record is on disk, so the log of a
//! height, fed to a fresh core, gives back the very votes that were sent. Each record carries
//! (epoch, height); a replay drops the records of all others.

use axolotl_common::{Epoch, Hash, Height, PublicKey, Round};
use borsh::{
    BorshDeserialize, BorshSerialize,
    io::{Read, Write},
};
use bytes::Bytes;

use crate::{
    input::TimerKind,
    message::{DecodeError, PolkaCertificate, SignedProposal, SignedVote, strip_version},
};

/// First byte of every record.
pub const LOG_VERSION: u8 = 1;

/// One record of the consensus log.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LogRecord {
    /// Epoch under which it was written.
    pub epoch: Epoch,
    /// Height that was being decided.
    pub height: Height,
    /// What happened.
    pub entry: LogEntry,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum LogEntry {
    /// A vote was taken in, our own or another's.
    Vote(SignedVote),
    /// A proposal was taken in, our own or another's.
    Proposal(SignedProposal),
    /// A block was judged.
    Verdict(BlockVerdict),
    /// A timer elapsed.
    Timeout {
        /// Which timer.
        kind: StepTimer,
        /// Round that it was set for.
        round: Round,
    },
    /// The proof of a lock arrived as a whole.
    Polka(PolkaCertificate),
    /// The bytes of a block that was found valid; comes before its verdict.
    Block {
        /// Hash of the block.
        block: Hash,
        /// The encoded block.
        #[borsh(serialize_with = "write_bytes", deserialize_with = "read_bytes")]
        bytes: Bytes,
    },
    /// This node sealed the record's epoch and all before it. Unlike all others it is never dropped from
    /// the log, and a replay takes it whatever its height.
    Seal,
}

/// The timers that move the protocol on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum StepTimer {
    /// Patience for the proposal.
    Propose = 0,
    /// Patience for the rest of the prevotes.
    Prevote = 1,
    /// Patience for the rest of the precommits.
    Precommit = 2,
}

impl From<StepTimer> for TimerKind {
    fn from(timer: StepTimer) -> Self {
        match timer {
            StepTimer::Propose => Self::Propose,
            StepTimer::Prevote => Self::Prevote,
            StepTimer::Precommit => Self::Precommit,
        }
    }
}

/// The application's judgement of a proposed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BlockVerdict {
    /// Round of the proposal.
    pub round: Round,
    /// Valid round of the proposal.
    pub valid_round: Option<Round>,
    /// Who proposed it in that round.
    pub proposer: PublicKey,
    /// Hash of the block.
    pub block: Hash,
    /// Whether it may be voted for.
    pub valid: bool,
}

fn write_bytes<W: Write>(bytes: &Bytes, writer: &mut W) -> Result<(), borsh::io::Error> {
    bytes.as_ref().serialize(writer)
}

fn read_bytes<R: Read>(reader: &mut R) -> Result<Bytes, borsh::io::Error> {
    Vec::deserialize_reader(reader).map(Bytes::from)
}

impl LogRecord {
    /// Form on disk; length and checksum are the log's.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![LOG_VERSION];
        self.serialize(&mut bytes)
            .expect("writing to a Vec does not fail");
        bytes
    }

    /// Reads the form on disk.
    ///
    /// # Errors
    /// When the bytes are not exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let body = strip_version(bytes, LOG_VERSION)?;
        borsh::from_slice(body).map_err(|e| DecodeError::Malformed(e.to_string()))
    }
}
