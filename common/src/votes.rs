//! Votes, and the proof of a lock: what a validator says in consensus and hands over in a recovery.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    certificate::{CertificateError, VoteKind, verify_quorum, vote_sign_bytes},
    crypto::{PublicKey, Signature},
    ids::{ChainRef, Epoch, Hash, Height, Round},
    membership::ValidatorSet,
};

/// One vote.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    ToSchema,
)]
pub struct Vote {
    /// Epoch of the voter.
    pub epoch: Epoch,
    /// Height voted on.
    pub height: Height,
    /// Round voted in.
    pub round: Round,
    /// Prevote or precommit.
    pub kind: VoteKind,
    /// Block voted for; `None` is a vote for nil.
    pub block: Option<Hash>,
    /// Who votes.
    pub validator: PublicKey,
}

impl Vote {
    /// The bytes that the validator signs.
    pub fn sign_bytes(&self, chain: &ChainRef) -> Vec<u8> {
        vote_sign_bytes(
            chain,
            self.epoch,
            self.height,
            self.round,
            self.kind,
            self.block,
        )
    }

    /// Votes of one validator in the order in which an honest one signs them.
    pub fn position(&self) -> (Height, Epoch, Round, VoteKind) {
        (self.height, self.epoch, self.round, self.kind)
    }
}

/// A vote with its signature.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    ToSchema,
)]
pub struct SignedVote {
    /// What is signed.
    pub vote: Vote,
    /// Signature of [`Vote::validator`] over [`Vote::sign_bytes`].
    pub signature: Signature,
}

impl SignedVote {
    /// Whether the signature is the voter's.
    pub fn verify(&self, chain: &ChainRef) -> bool {
        self.vote
            .validator
            .verify(&self.vote.sign_bytes(chain), &self.signature)
    }
}

/// Prevotes of one round for one block by a quorum: the proof of a lock.
#[derive(
    Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize, ToSchema,
)]
pub struct PolkaCertificate {
    /// Epoch of the voters.
    pub epoch: Epoch,
    /// Height voted on.
    pub height: Height,
    /// Round voted in.
    pub round: Round,
    /// Block voted for.
    pub block: Hash,
    /// Voters with their prevote signatures.
    pub signatures: Vec<(PublicKey, Signature)>,
}

impl PolkaCertificate {
    /// Checks that a quorum of `validators` prevoted this block in this round.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn verify(
        &self,
        chain: &ChainRef,
        validators: &ValidatorSet,
    ) -> Result<(), CertificateError> {
        verify_quorum(
            &self.signatures,
            (self.epoch, self.height, self.round, self.block),
            VoteKind::Prevote,
            chain,
            validators,
        )
    }
}
