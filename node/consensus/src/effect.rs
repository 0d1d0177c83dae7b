//! What comes out of the driver.

use std::time::Duration;

use axolotl_common::{CommitCertificate, Epoch, Hash, Height, PublicKey, Round};
use bytes::Bytes;

use crate::{
    input::TimerId,
    log_record::LogRecord,
    message::{Message, SignedProposal, SignedVote},
};

/// Two signed statements of one validator that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Two votes of one kind in one round.
    Votes(SignedVote, SignedVote),
    /// Two proposals in one round.
    Proposals(SignedProposal, SignedProposal),
}

/// Why this node could not vote for a proposed block. It is no proof for others: only two signatures
/// are ([`Evidence`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProposalFault {
    /// The block is not valid.
    Invalid,
    /// Its execution did not end within its round.
    NotInTime,
}

impl ProposalFault {
    /// Stable name, for metrics and logs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotInTime => "not_in_time",
        }
    }
}

impl Evidence {
    /// Who contradicted itself.
    pub fn validator(&self) -> &PublicKey {
        match self {
            Self::Votes(vote, _) => &vote.vote.validator,
            Self::Proposals(proposal, _) => &proposal.proposal.proposer,
        }
    }
}

/// What the world is asked to do, strictly in the order given.
///
/// Within the effects of one turn all records come first, then one [`Effect::Flush`] if anything
/// after it needs one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append a record to the consensus log, not yet synced.
    Append(LogRecord),
    /// Sync the consensus log. What follows happens only when that succeeded; when it fails, the
    /// process ends.
    Flush,
    /// Send to all validators.
    Broadcast(Message),
    /// Set a timer, in place of one with the same id.
    SetTimer {
        /// Which.
        id: TimerId,
        /// From now on.
        after: Duration,
    },
    /// Forget a timer.
    CancelTimer(TimerId),
    /// Build a block on top of the chain; answered by [`crate::Input::Built`]. No answer is a failed
    /// round, no more.
    BuildBlock {
        /// Height of the block.
        height: Height,
        /// Round in which it will be proposed.
        round: Round,
        /// Time that executing its transactions may take; zero: none are in it.
        budget: Duration,
    },
    /// The block of this round is of no use any more; an answer is not needed.
    CancelBuild {
        /// Height of the block.
        height: Height,
        /// Round for which it was asked.
        round: Round,
    },
    /// Execute a block; answered by [`crate::Input::Checked`].
    CheckBlock {
        /// Height of the block.
        height: Height,
        /// Round in which it was proposed.
        round: Round,
        /// Hash of the block.
        block: Hash,
        /// The encoded block.
        bytes: Bytes,
        /// Builder that the header names; a validator of the epoch, and the proposer where the block
        /// was proposed for the first time. The driver has checked that already.
        builder: PublicKey,
        /// Time that the execution may take, after which the answer is [`crate::Verdict::NotYet`]; `None`
        /// when a quorum stands behind the block: then it is executed to its end, and judged by nothing
        /// but its contents.
        limit: Option<Duration>,
    },
    /// A quorum stands behind the block that is being executed: the limit is void.
    LiftCheckLimit {
        /// Height of the block.
        height: Height,
        /// Hash of the block.
        block: Hash,
    },
    /// The execution of this block is of no use any more; an answer is not needed.
    CancelCheck {
        /// Height of the block.
        height: Height,
        /// Hash of the block.
        block: Hash,
    },
    /// A validator proposed a block that this node could not vote for.
    ProposalFault {
        /// The validator.
        proposer: PublicKey,
        /// What was wrong with it.
        fault: ProposalFault,
    },
    /// A block is decided. Store it durably, then send [`crate::Input::Begin`] for the next height.
    Commit {
        /// Proof.
        certificate: CommitCertificate,
        /// The encoded block.
        bytes: Bytes,
    },
    /// Others decided blocks that this node lacks: start a sync.
    Behind {
        /// Height that others are at; the block below it exists. Not authenticated when the message
        /// was of an unknown newer epoch.
        height_seen: Height,
    },
    /// A validator contradicted itself.
    Misbehaviour(Evidence),
    /// The amnesia check needs answers: ask every validator for the highest vote of ours that it
    /// holds. Repeated until enough have answered.
    AskHighestVotes,
    /// This node signed a vote that its log does not know: the log was rolled back, or the key is
    /// used twice. It signs nothing more in this process and must be replaced.
    Unfit {
        /// The vote.
        vote: SignedVote,
    },
    /// The seal of this epoch and all before it is durable: now it may be told.
    Sealed {
        /// The epoch.
        epoch: Epoch,
    },
    /// Others hold this node's word that it is sealed, of which its log knows nothing: the log was
    /// rolled back. It signs nothing in these epochs and is no survivor of them.
    SealLost {
        /// The epoch, and all before it.
        epoch: Epoch,
    },
    /// An error after which nothing may go on: end the process with this reason.
    Fatal(String),
}
