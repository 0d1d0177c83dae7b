//! What validators sign, and the certificate that makes a block final.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    crypto::{PublicKey, Signature, domain, sign_bytes},
    ids::{ChainRef, Epoch, Hash, Height, Round},
    membership::ValidatorSet,
};

/// The two votes of a round.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum VoteKind {
    /// First vote of a round.
    Prevote = 0,
    /// Second vote of a round; a quorum of them for one block is its certificate.
    Precommit = 1,
}

/// The bytes that a validator signs for a vote; `block` is `None` for a vote for nil.
///
/// Chain and epoch are inside, so that a vote of another chain or of an epoch that was superseded
/// counts for nothing.
pub fn vote_sign_bytes(
    chain: &ChainRef,
    epoch: Epoch,
    height: Height,
    round: Round,
    kind: VoteKind,
    block: Option<Hash>,
) -> Vec<u8> {
    sign_bytes(domain::VOTE, &(chain, epoch, height, round, kind, block))
}

/// Proof that a block is final: precommits of one round for it by a quorum of the epoch's validators.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
pub struct CommitCertificate {
    /// Epoch whose validators signed.
    pub epoch: Epoch,
    /// Height of the block.
    pub height: Height,
    /// Round in which this quorum formed. Nodes may hold certificates of different rounds for one
    /// block, so nothing may be derived from it.
    pub round: Round,
    /// Hash of the block.
    pub block: Hash,
    /// Signers with their precommit signatures, each signer once.
    pub signatures: Vec<(PublicKey, Signature)>,
}

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is of another epoch than the set it was checked against.
    #[error("certificate of epoch {found}, expected epoch {expected}")]
    WrongEpoch {
        /// Epoch of the certificate.
        found: Epoch,
        /// Epoch of the validator set.
        expected: Epoch,
    },
    /// A signer is not a validator of the epoch.
    #[error("signer {0} is not a validator of the epoch")]
    UnknownSigner(PublicKey),
    /// A signer stands in it twice.
    #[error("signer {0} stands in the certificate twice")]
    DuplicateSigner(PublicKey),
    /// A signature does not hold.
    #[error("the signature of {0} does not hold")]
    BadSignature(PublicKey),
    /// Fewer signers than a quorum.
    #[error("{found} signatures, a quorum is {quorum}")]
    NoQuorum {
        /// Signatures present.
        found: usize,
        /// Signatures needed.
        quorum: usize,
    },
}

impl CommitCertificate {
    /// Checks that a quorum of `validators` signed this block. Cheap checks come first.
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
            VoteKind::Precommit,
            chain,
            validators,
        )
    }
}

/// Checks that a quorum of `validators` cast this vote, each signer once. Cheap checks come first.
pub(crate) fn verify_quorum(
    signatures: &[(PublicKey, Signature)],
    (epoch, height, round, block): (Epoch, Height, Round, Hash),
    kind: VoteKind,
    chain: &ChainRef,
    validators: &ValidatorSet,
) -> Result<(), CertificateError> {
    if epoch != validators.epoch() {
        return Err(CertificateError::WrongEpoch {
            found: epoch,
            expected: validators.epoch(),
        });
    }
    let mut signers = BTreeSet::new();
    for (signer, _) in signatures {
        if !validators.contains(signer) {
            return Err(CertificateError::UnknownSigner(*signer));
        }
        if !signers.insert(signer) {
            return Err(CertificateError::DuplicateSigner(*signer));
        }
    }
    let quorum = validators.quorum();
    if signers.len() < quorum {
        return Err(CertificateError::NoQuorum {
            found: signers.len(),
            quorum,
        });
    }
    let message = vote_sign_bytes(chain, epoch, height, round, kind, Some(block));
    match signatures
        .iter()
        .find(|(signer, signature)| !signer.verify(&message, signature))
    {
        Some((signer, _)) => Err(CertificateError::BadSignature(*signer)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::KeyPair,
        ids::{ChainId, NodeId, VolumeId},
        membership::{EpochRecord, Member},
        quorum::QuorumRule,
    };

    const CHAIN: ChainRef = ChainRef {
        id: ChainId(7),
        genesis: Hash([7; 32]),
    };

    fn key(seed: u8) -> KeyPair {
        KeyPair::from_seed(&[seed; 32])
    }

    fn validators() -> ValidatorSet {
        let members = (1..=4u8).map(|i| Member {
            node_id: NodeId::numbered(i.into()),
            public_key: key(i).public(),
            volume_id: VolumeId([i; 16]),
        });
        let record = EpochRecord::genesis(&CHAIN, members.collect());
        ValidatorSet::new(&CHAIN, &record, QuorumRule::Byzantine)
    }

    /// A certificate of height 5, round 1, by these validators.
    fn certificate(signers: &[u8]) -> CommitCertificate {
        let (height, round, block) = (Height(5), Round(1), Hash([5; 32]));
        let message = vote_sign_bytes(
            &CHAIN,
            Epoch(0),
            height,
            round,
            VoteKind::Precommit,
            Some(block),
        );
        let sign = |seed: &u8| (key(*seed).public(), key(*seed).sign(&message));
        CommitCertificate {
            epoch: Epoch(0),
            height,
            round,
            block,
            signatures: signers.iter().map(sign).collect(),
        }
    }

    #[test]
    fn a_quorum_of_the_epoch_makes_a_certificate() {
        assert_eq!(
            certificate(&[1, 2, 3]).verify(&CHAIN, &validators()),
            Ok(())
        );
        assert_eq!(
            certificate(&[4, 2, 3, 1]).verify(&CHAIN, &validators()),
            Ok(())
        );
    }

    #[test]
    fn each_forgery_is_named() {
        let check = |certificate: CommitCertificate| certificate.verify(&CHAIN, &validators());
        let first = key(1).public();
        assert_eq!(
            check(certificate(&[1, 2])),
            Err(CertificateError::NoQuorum {
                found: 2,
                quorum: 3
            })
        );
        assert_eq!(
            check(certificate(&[1, 2, 1])),
            Err(CertificateError::DuplicateSigner(first))
        );
        assert_eq!(
            check(certificate(&[1, 2, 9])),
            Err(CertificateError::UnknownSigner(key(9).public()))
        );
        let bad = Err(CertificateError::BadSignature(first));
        let good = certificate(&[1, 2, 3]);
        assert_eq!(
            check(CommitCertificate {
                height: Height(6),
                ..good.clone()
            }),
            bad
        );
        assert_eq!(
            check(CommitCertificate {
                round: Round(2),
                ..good.clone()
            }),
            bad
        );
        assert_eq!(
            check(CommitCertificate {
                block: Hash([6; 32]),
                ..good.clone()
            }),
            bad
        );
        assert_eq!(
            check(CommitCertificate {
                epoch: Epoch(1),
                ..good.clone()
            }),
            Err(CertificateError::WrongEpoch {
                found: Epoch(1),
                expected: Epoch(0)
            })
        );
        let elsewhere = ChainRef {
            genesis: Hash([8; 32]),
            ..CHAIN
        };
        assert_eq!(good.verify(&elsewhere, &validators()), bad);
    }
}
