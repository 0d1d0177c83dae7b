//! What a sealed validator says of itself.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Ballot, Sets};
use crate::{
    certificate::{CertificateError, CommitCertificate},
    crypto::{KeyPair, PublicKey, Signature, domain, sign_bytes},
    ids::{ChainRef, Epoch, Hash, Height, Round, VolumeId},
    membership::MAX_MEMBERS,
    votes::{PolkaCertificate, SignedVote},
};

/// The block that a validator is locked on at the height above its head, with the proof.
#[derive(
    Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize, ToSchema,
)]
pub struct StatedLock {
    /// A quorum's prevotes for the block; says also its height, epoch and round.
    pub proof: PolkaCertificate,
    /// Number of the planned record that the block carries, by the author's word; a node that stages
    /// the block sees for itself.
    pub carries: Option<Epoch>,
}

impl StatedLock {
    /// Round of the lock.
    pub fn round(&self) -> Round {
        self.proof.round
    }

    /// Hash of the block.
    pub fn block(&self) -> Hash {
        self.proof.block
    }
}

/// What a validator says of itself once it has sealed; in a dry run, what it would say.
#[derive(
    Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize, ToSchema,
)]
pub struct Statement {
    /// Who says so.
    pub author: PublicKey,
    /// Its data directory.
    pub volume: VolumeId,
    /// It is sealed in this epoch and all before it: its core takes no input there any more.
    pub sealed: Epoch,
    /// The ballot that it answers.
    pub ballot: Ballot,
    /// Height of its last block.
    pub head: Height,
    /// Hash of that block; of the genesis block at height 0.
    pub head_hash: Hash,
    /// Why that block is final. `None` at height 0, and where a recovery record makes it so.
    pub certificate: Option<CommitCertificate>,
    /// Epoch that governs the height above its head, by its chain.
    pub governing: Epoch,
    /// Its lock at the height above its head.
    pub lock: Option<StatedLock>,
    /// The last vote that it signed, if its log still has it.
    pub last_vote: Option<SignedVote>,
    /// The highest vote that it has seen of each other validator.
    pub seen: Vec<SignedVote>,
}

/// A statement with its author's signature.
#[derive(
    Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize, ToSchema,
)]
pub struct SignedStatement {
    /// What is signed.
    pub statement: Statement,
    /// The author's signature.
    pub signature: Signature,
    /// The author's signature over its seal alone: see [`SealNote`].
    pub seal_signature: Signature,
}

/// A validator's word that it is sealed, without the rest of its statement. Whoever holds a statement
/// shows this to its author, when that asks after a restart what it promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SealNote {
    /// The author is sealed in this epoch and all before it.
    pub epoch: Epoch,
    /// Its signature over chain and epoch.
    pub signature: Signature,
}

impl SealNote {
    fn signed_bytes(chain: &ChainRef, epoch: Epoch) -> Vec<u8> {
        sign_bytes(domain::SEAL, &(chain, epoch))
    }

    /// Whether the signature is the author's.
    pub fn verify(&self, chain: &ChainRef, author: &PublicKey) -> bool {
        author.verify(&Self::signed_bytes(chain, self.epoch), &self.signature)
    }
}

/// Why a statement is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// It is not its author's.
    #[error("the statement is not signed by {0}")]
    Signature(PublicKey),
    /// It names an epoch that is not known here.
    #[error("it speaks of epoch {0}, which is not known here")]
    UnknownEpoch(Epoch),
    /// Its parts contradict each other, or are too many.
    #[error("{0}")]
    Malformed(&'static str),
    /// The last block is not shown to be final.
    #[error("the certificate of its last block: {0}")]
    Certificate(CertificateError),
    /// The proof of the lock does not hold.
    #[error("the proof of its lock: {0}")]
    Proof(CertificateError),
}

impl Statement {
    fn signed_bytes(&self, chain: &ChainRef) -> Vec<u8> {
        sign_bytes(domain::STATEMENT, &(chain, self))
    }

    /// Signs the statement with its author's key.
    pub fn sign(self, chain: &ChainRef, key: &KeyPair) -> SignedStatement {
        let signature = key.sign(&self.signed_bytes(chain));
        let seal_signature = key.sign(&SealNote::signed_bytes(chain, self.sealed));
        SignedStatement {
            statement: self,
            signature,
            seal_signature,
        }
    }

    /// Checks everything but the author's signature. A last block without certificate is checked by
    /// whoever knows the chain or the records: see [`super::judge()`].
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check(&self, chain: &ChainRef, sets: &Sets) -> Result<(), StatementError> {
        use StatementError::{Certificate, Malformed, Proof, UnknownEpoch};
        if self.seen.len() > MAX_MEMBERS {
            return Err(Malformed(
                "it tells of more votes than there can be members",
            ));
        }
        let known = |epoch: Epoch| sets.get(&epoch).ok_or(UnknownEpoch(epoch));
        known(self.governing)?;
        if let Some(certificate) = &self.certificate {
            if (certificate.height, certificate.block) != (self.head, self.head_hash) {
                return Err(Malformed(
                    "the certificate is of another block than the last",
                ));
            }
            let set = known(certificate.epoch)?;
            certificate.verify(chain, set).map_err(Certificate)?;
        }
        if let Some(lock) = &self.lock {
            if lock.proof.height != self.head.next() {
                return Err(Malformed("the lock is of another height than the next"));
            }
            let set = known(lock.proof.epoch)?;
            lock.proof.verify(chain, set).map_err(Proof)?;
        }
        let own = |vote: &SignedVote| vote.vote.validator == self.author;
        if self.last_vote.as_ref().is_some_and(|vote| !own(vote)) {
            return Err(Malformed("the last vote is another validator's"));
        }
        let mut voters = BTreeSet::new();
        for vote in &self.seen {
            if own(vote) || !voters.insert(vote.vote.validator) {
                return Err(Malformed("it tells of one validator's votes twice"));
            }
        }
        if self
            .last_vote
            .iter()
            .chain(&self.seen)
            .any(|vote| !vote.verify(chain))
        {
            return Err(Malformed("it tells of a vote that nobody signed"));
        }
        Ok(())
    }
}

impl SignedStatement {
    /// Checks the signature and everything that [`Statement::check`] checks.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn check(&self, chain: &ChainRef, sets: &Sets) -> Result<(), StatementError> {
        let author = &self.statement.author;
        if !author.verify(&self.statement.signed_bytes(chain), &self.signature) {
            return Err(StatementError::Signature(*author));
        }
        if !self.seal_note().verify(chain, author) {
            return Err(StatementError::Signature(*author));
        }
        self.statement.check(chain, sets)
    }

    /// The author's word that it is sealed, alone.
    pub fn seal_note(&self) -> SealNote {
        SealNote {
            epoch: self.statement.sealed,
            signature: self.seal_signature,
        }
    }
}
