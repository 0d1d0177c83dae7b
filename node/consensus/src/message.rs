//! What validators say to one another, and its wire form.
//!
//! A message is a version byte, then borsh. Chain and epoch are part of what is signed
//! ([`Vote::sign_bytes`] and [`Proposal::sign_bytes`]); the chain itself
//! does not travel, since the gossip topic names it. Every copy that leaves a node has another
//! [`Message::copy`] number, because gossipsub swallows bytes that it has seen before: without it
//! a vote that is sent again would vanish silently.

use std::fmt;

pub use axolotl_common::votes::{PolkaCertificate, SignedVote, Vote};
use axolotl_common::{
    CommitCertificate, Epoch, Hash, Height, PublicKey, Round, Signature, VoteKind,
    crypto::{domain, sign_bytes},
    ids::ChainRef,
    membership::MAX_MEMBERS,
};
use borsh::{
    BorshDeserialize, BorshSerialize,
    io::{Read, Write},
};
use bytes::Bytes;

/// First byte of every message.
pub const WIRE_VERSION: u8 = 1;
/// Room for everything but the block in one message: signatures of the largest validator set.
pub const MAX_MESSAGE_OVERHEAD: usize = 64 << 10;

/// Proposal of one block for one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proposal {
    /// Epoch of the proposer.
    pub epoch: Epoch,
    /// Height of the block.
    pub height: Height,
    /// Round that it is proposed in.
    pub round: Round,
    /// Hash of the block.
    pub block: Hash,
    /// Earlier round in which the block got a quorum of prevotes, when it is proposed again.
    pub valid_round: Option<Round>,
    /// Who proposes.
    pub proposer: PublicKey,
}

impl Proposal {
    /// The bytes that the proposer signs.
    pub fn sign_bytes(&self, chain: &ChainRef) -> Vec<u8> {
        sign_bytes(
            domain::PROPOSAL,
            &(
                chain,
                self.epoch,
                self.height,
                self.round,
                self.block,
                self.valid_round,
            ),
        )
    }
}

/// A proposal with its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedProposal {
    /// What is signed.
    pub proposal: Proposal,
    /// Signature of [`Proposal::proposer`] over [`Proposal::sign_bytes`].
    pub signature: Signature,
}

impl SignedProposal {
    /// Whether the signature is the proposer's.
    pub fn verify(&self, chain: &ChainRef) -> bool {
        self.proposal
            .proposer
            .verify(&self.proposal.sign_bytes(chain), &self.signature)
    }
}

/// What a [`RoundCertificate`] proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum RoundCertificateKind {
    /// More validators than may lie are in its round: enter it.
    Skip = 0,
    /// A quorum precommitted in its round, for whatever: enter the next one in time.
    Precommit = 1,
}

/// One vote of a [`RoundCertificate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RoundSignature {
    /// Prevote or precommit.
    pub kind: VoteKind,
    /// Block voted for.
    pub block: Option<Hash>,
    /// Who voted.
    pub validator: PublicKey,
    /// Signature of the vote.
    pub signature: Signature,
}

/// Votes that let a node enter a round.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RoundCertificate {
    /// Epoch of the voters.
    pub epoch: Epoch,
    /// Height voted on.
    pub height: Height,
    /// Round voted in.
    pub round: Round,
    /// What it proves.
    pub kind: RoundCertificateKind,
    /// The votes, one of each voter.
    pub signatures: Vec<RoundSignature>,
}

impl RoundCertificate {
    /// The vote behind one of its signatures.
    pub fn vote(&self, signature: &RoundSignature) -> SignedVote {
        SignedVote {
            vote: Vote {
                epoch: self.epoch,
                height: self.height,
                round: self.round,
                kind: signature.kind,
                block: signature.block,
                validator: signature.validator,
            },
            signature: signature.signature,
        }
    }
}

/// Contents of a message.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[borsh(use_discriminant = false)]
pub enum Payload {
    /// A vote.
    Vote(SignedVote),
    /// A proposal with the bytes of its block.
    Proposal {
        /// The signed proposal.
        proposal: SignedProposal,
        /// The encoded block.
        #[borsh(serialize_with = "write_bytes", deserialize_with = "read_bytes")]
        block: Bytes,
    },
    /// The proof of a lock.
    Polka(PolkaCertificate),
    /// Why a round was entered.
    Round(RoundCertificate),
    /// A block that was decided: the answer to one who still votes on its height.
    Decided(CommitCertificate),
}

fn write_bytes<W: Write>(bytes: &Bytes, writer: &mut W) -> Result<(), borsh::io::Error> {
    bytes.as_ref().serialize(writer)
}

fn read_bytes<R: Read>(reader: &mut R) -> Result<Bytes, borsh::io::Error> {
    Vec::deserialize_reader(reader).map(Bytes::from)
}

/// Kind of a message, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// [`Payload::Vote`] of the first vote.
    Prevote,
    /// [`Payload::Vote`] of the second vote.
    Precommit,
    /// [`Payload::Proposal`].
    Proposal,
    /// [`Payload::Polka`].
    Polka,
    /// [`Payload::Round`].
    Round,
    /// [`Payload::Decided`].
    Decided,
}

impl MessageKind {
    /// Label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Prevote => "prevote",
            Self::Precommit => "precommit",
            Self::Proposal => "proposal",
            Self::Polka => "polka",
            Self::Round => "round",
            Self::Decided => "decided",
        }
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A message between validators. Opaque to those who carry it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Message {
    /// Differs between any two copies that one node sends, also across its restarts.
    pub copy: u64,
    /// Contents.
    pub payload: Payload,
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than any message may be.
    #[error("{length} bytes, at most {limit} are allowed")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Of another version, or empty.
    #[error("not of version {expected}")]
    Version {
        /// The version that is understood.
        expected: u8,
    },
    /// Not the borsh form of a message.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A field beyond its bound.
    #[error("{0} is out of bounds")]
    OutOfBounds(&'static str),
}

impl Message {
    /// Wire form.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![WIRE_VERSION];
        self.serialize(&mut bytes)
            .expect("writing to a Vec does not fail");
        bytes
    }

    /// Reads the wire form. Nothing is verified but form and bounds.
    ///
    /// # Errors
    /// When the bytes are not exactly one message within its bounds.
    pub fn decode(bytes: &[u8], max_block_bytes: usize) -> Result<Self, DecodeError> {
        let limit = max_block_bytes.saturating_add(MAX_MESSAGE_OVERHEAD);
        if bytes.len() > limit {
            return Err(DecodeError::TooLong {
                length: bytes.len(),
                limit,
            });
        }
        let body = strip_version(bytes, WIRE_VERSION)?;
        let message: Self =
            borsh::from_slice(body).map_err(|e| DecodeError::Malformed(e.to_string()))?;
        message.check_bounds(max_block_bytes)?;
        Ok(message)
    }

    fn check_bounds(&self, max_block_bytes: usize) -> Result<(), DecodeError> {
        let signatures = match &self.payload {
            Payload::Vote(_) => 1,
            Payload::Proposal { proposal, block } => {
                if block.len() > max_block_bytes {
                    return Err(DecodeError::OutOfBounds("length of the block"));
                }
                let valid_round = proposal.proposal.valid_round;
                if valid_round.is_some_and(|valid| valid >= proposal.proposal.round) {
                    return Err(DecodeError::OutOfBounds("valid round of the proposal"));
                }
                1
            }
            Payload::Polka(certificate) => certificate.signatures.len(),
            Payload::Round(certificate) => certificate.signatures.len(),
            Payload::Decided(certificate) => certificate.signatures.len(),
        };
        if signatures > MAX_MEMBERS {
            return Err(DecodeError::OutOfBounds("number of signatures"));
        }
        Ok(())
    }

    /// Epoch that the message claims.
    pub fn epoch(&self) -> Epoch {
        match &self.payload {
            Payload::Vote(vote) => vote.vote.epoch,
            Payload::Proposal { proposal, .. } => proposal.proposal.epoch,
            Payload::Polka(certificate) => certificate.epoch,
            Payload::Round(certificate) => certificate.epoch,
            Payload::Decided(certificate) => certificate.epoch,
        }
    }

    /// Height that the message is about.
    pub fn height(&self) -> Height {
        match &self.payload {
            Payload::Vote(vote) => vote.vote.height,
            Payload::Proposal { proposal, .. } => proposal.proposal.height,
            Payload::Polka(certificate) => certificate.height,
            Payload::Round(certificate) => certificate.height,
            Payload::Decided(certificate) => certificate.height,
        }
    }

    /// Round that the message is about.
    pub fn round(&self) -> Round {
        match &self.payload {
            Payload::Vote(vote) => vote.vote.round,
            Payload::Proposal { proposal, .. } => proposal.proposal.round,
            Payload::Polka(certificate) => certificate.round,
            Payload::Round(certificate) => certificate.round,
            Payload::Decided(certificate) => certificate.round,
        }
    }

    /// Kind, for logs and metrics.
    pub fn kind(&self) -> MessageKind {
        match &self.payload {
            Payload::Vote(vote) => match vote.vote.kind {
                VoteKind::Prevote => MessageKind::Prevote,
                VoteKind::Precommit => MessageKind::Precommit,
            },
            Payload::Proposal { .. } => MessageKind::Proposal,
            Payload::Polka(_) => MessageKind::Polka,
            Payload::Round(_) => MessageKind::Round,
            Payload::Decided(_) => MessageKind::Decided,
        }
    }

    /// Who signed it; a certificate has many signers and no author.
    pub fn author(&self) -> Option<&PublicKey> {
        match &self.payload {
            Payload::Vote(vote) => Some(&vote.vote.validator),
            Payload::Proposal { proposal, .. } => Some(&proposal.proposal.proposer),
            Payload::Polka(_) | Payload::Round(_) | Payload::Decided(_) => None,
        }
    }
}

pub(crate) fn strip_version(bytes: &[u8], expected: u8) -> Result<&[u8], DecodeError> {
    match bytes.split_first() {
        Some((version, body)) if *version == expected => Ok(body),
        _ => Err(DecodeError::Version { expected }),
    }
}
