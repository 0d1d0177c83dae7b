//! What makes a block final.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    certificate::CommitCertificate,
    ids::{Hash, Height},
    membership::SignedRecord,
};

/// Proof that a block is final. It lies beside the block: nodes may hold different ones for the same
/// block.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum BlockProof {
    /// A quorum of the epoch that governs the block's height has decided it.
    Certificate(CommitCertificate),
    /// The block was adopted: it is the base of this recovery or forced record.
    Record(Box<SignedRecord>),
}

impl BlockProof {
    /// Height of the block.
    pub fn height(&self) -> Height {
        match self {
            Self::Certificate(certificate) => certificate.height,
            Self::Record(signed) => signed.record.base_height,
        }
    }

    /// Hash of the block; `None` when the record in it hands over nothing, and so proves nothing.
    pub fn block(&self) -> Option<Hash> {
        match self {
            Self::Certificate(certificate) => Some(certificate.block),
            Self::Record(signed) => signed.record.handover.as_ref().map(|h| h.base),
        }
    }

    /// The certificate, if the block was decided by votes.
    pub fn certificate(&self) -> Option<&CommitCertificate> {
        match self {
            Self::Certificate(certificate) => Some(certificate),
            Self::Record(_) => None,
        }
    }

    /// The record, if the block was adopted.
    pub fn record(&self) -> Option<&SignedRecord> {
        match self {
            Self::Certificate(_) => None,
            Self::Record(signed) => Some(signed),
        }
    }

    /// About what it takes, bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Certificate(certificate) => 64 + 96 * certificate.signatures.len(),
            Self::Record(signed) => signed.size(),
        }
    }
}

impl From<CommitCertificate> for BlockProof {
    fn from(certificate: CommitCertificate) -> Self {
        Self::Certificate(certificate)
    }
}
