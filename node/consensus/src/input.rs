//! What goes into the driver.

use std::{sync::Arc, time::Duration};

use axolotl_common::{
    ChainRef, CommitCertificate, Hash, Height, KeyPair, PublicKey, Round, ValidatorSet, VolumeId,
    genesis::Timing, recovery::SealNote,
};
use bytes::Bytes;

use crate::message::{Message, SignedVote};

/// A moment on a clock that only goes forward: time since the start of the process, or of the
/// simulation.
pub type Now = Duration;

/// What the driver needs to know of an encoded block, read from its header without executing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSummary {
    /// Hash of the block.
    pub hash: Hash,
    /// Height of the block.
    pub height: Height,
    /// Validator that built it.
    pub builder: PublicKey,
}

/// What a driver is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Chain; part of everything signed.
    pub chain: ChainRef,
    /// Key of this node. It votes while the key is in the validator set and follows otherwise.
    pub key: KeyPair,
    /// Data directory of this node. In an epoch whose record names another one for the key it signs
    /// nothing: what that other volume signed is not in this one's log.
    pub volume: VolumeId,
    /// Starts of the data directory: makes copies of a message differ across restarts.
    pub incarnation: u64,
    /// Timing of the chain.
    pub timing: Timing,
    /// Blocks after which the turn to lead passes on.
    pub leader_term_blocks: u64,
    /// Largest encoded block, bytes.
    pub max_block_bytes: usize,
    /// Reads the header of an encoded block; `None` when the bytes are no block.
    pub summary: fn(&[u8]) -> Option<BlockSummary>,
}

/// What is needed to decide a height. All of it follows from the chain below the height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeightStart {
    /// The height to decide.
    pub height: Height,
    /// Validators of the epoch that governs it.
    pub validators: Arc<ValidatorSet>,
    /// Builder of the block below; `None` above the genesis.
    pub last_builder: Option<PublicKey>,
    /// Validators that governed the block below, when its epoch was another.
    pub previous_validators: Option<Arc<ValidatorSet>>,
    /// Certificate of the block below, to be shown to those who still vote on it.
    pub last_certificate: Option<CommitCertificate>,
}

/// The kinds of timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerKind {
    /// Patience for the proposal.
    Propose,
    /// Patience for the rest of the prevotes.
    Prevote,
    /// Patience for the rest of the precommits.
    Precommit,
    /// Votes of a round that goes on are sent again.
    Rebroadcast,
    /// An idle chain makes an empty block.
    EmptyBlock,
    /// Others seem to be ahead: patience before a sync is asked for.
    Behind,
    /// The amnesia check asks again.
    Amnesia,
}

/// Names one timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    /// Height at which it was set.
    pub height: Height,
    /// Round for which it was set; 0 where rounds play no part.
    pub round: Round,
    /// Kind.
    pub kind: TimerKind,
}

/// Judgement of a block by execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be voted for.
    Valid,
    /// It may not, for this reason: every execution says so.
    Invalid(String),
    /// It was not executed to its end, or it is early by this node's clock. Says nothing about the
    /// block, so it is neither logged nor remembered.
    NotYet,
}

/// What the world tells the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The block below `height` is durable, decided by votes or taken from sync: go to this height,
    /// and abandon a lower one. At the same height a newer epoch takes the place of the older.
    Begin(HeightStart),
    /// A message arrived.
    Message(Message),
    /// A timer elapsed.
    Timer(TimerId),
    /// Answer to [`crate::Effect::BuildBlock`]: a block that this node built and executed.
    Built {
        /// Height asked for.
        height: Height,
        /// Round asked for.
        round: Round,
        /// Hash of the block.
        block: Hash,
        /// The encoded block.
        bytes: Bytes,
    },
    /// Answer to [`crate::Effect::CheckBlock`].
    Checked {
        /// Height asked for.
        height: Height,
        /// Round asked for.
        round: Round,
        /// Hash of the block.
        block: Hash,
        /// The judgement.
        verdict: Verdict,
    },
    /// Whether there is something to put into a block: an executable transaction or a pending record.
    Work(bool),
    /// Answer to [`crate::Effect::AskHighestVotes`]: the highest vote of ours that `from` holds.
    HighestVoteSeen {
        /// The peer that answered, authenticated by its connection.
        from: PublicKey,
        /// The vote, `None` when it holds none.
        vote: Option<SignedVote>,
    },
    /// Answer to [`crate::Effect::AskHighestVotes`], or at any other time: someone holds this node's word
    /// that it is sealed.
    SealSeen(SealNote),
}
