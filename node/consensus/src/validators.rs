//! The validators of one height: their order, their thresholds, and the checks of certificates.

use std::collections::BTreeSet;

use axolotl_common::{
    CommitCertificate, Epoch, PublicKey, Round, Signature, VoteKind, certificate::CertificateError,
};

use crate::{
    input::HeightStart,
    message::{PolkaCertificate, RoundCertificate, RoundCertificateKind, SignedVote, Vote},
    proposer::proposer_order,
    signatures::Signer,
};

/// The validators of one height in the order in which they propose.
#[derive(Clone, Debug)]
pub(crate) struct Committee {
    epoch: Epoch,
    order: Vec<PublicKey>,
    quorum: usize,
    skip: usize,
}

impl Committee {
    pub(crate) fn new(start: &HeightStart, leader_term_blocks: u64) -> Self {
        let set = &start.validators;
        let order = proposer_order(
            start.height,
            set,
            start.last_builder.as_ref(),
            start.previous_validators.as_deref(),
            leader_term_blocks,
        );
        Self {
            epoch: set.epoch(),
            order,
            quorum: set.quorum(),
            skip: set.rule().byzantine_faults(set.len()) + 1,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn order(&self) -> &[PublicKey] {
        &self.order
    }

    pub(crate) fn contains(&self, key: &PublicKey) -> bool {
        self.order.contains(key)
    }

    pub(crate) fn proposer(&self, round: Round) -> &PublicKey {
        let place = usize::try_from(round.0).unwrap_or(0) % self.order.len();
        &self.order[place]
    }

    /// Votes that finalise.
    pub(crate) fn quorum(&self) -> usize {
        self.quorum
    }

    /// Validators in a later round that make it safe to follow: more than may lie.
    pub(crate) fn skip_threshold(&self) -> usize {
        self.skip
    }

    pub(crate) fn verify_polka(
        &self,
        signer: &mut Signer,
        certificate: &PolkaCertificate,
    ) -> Result<(), CertificateError> {
        let votes = certificate
            .signatures
            .iter()
            .map(|(validator, signature)| SignedVote {
                vote: Vote {
                    epoch: certificate.epoch,
                    height: certificate.height,
                    round: certificate.round,
                    kind: VoteKind::Prevote,
                    block: Some(certificate.block),
                    validator: *validator,
                },
                signature: *signature,
            });
        self.verify_votes(signer, votes, self.quorum)
    }

    pub(crate) fn verify_round(
        &self,
        signer: &mut Signer,
        certificate: &RoundCertificate,
    ) -> Result<(), CertificateError> {
        let threshold = match certificate.kind {
            RoundCertificateKind::Skip => self.skip,
            RoundCertificateKind::Precommit => self.quorum,
        };
        if certificate.kind == RoundCertificateKind::Precommit
            && let Some(prevote) = certificate
                .signatures
                .iter()
                .find(|s| s.kind != VoteKind::Precommit)
        {
            return Err(CertificateError::BadSignature(prevote.validator));
        }
        let votes = certificate.signatures.iter().map(|s| certificate.vote(s));
        self.verify_votes(signer, votes, threshold)
    }

    pub(crate) fn verify_commit(
        &self,
        signer: &mut Signer,
        certificate: &CommitCertificate,
    ) -> Result<(), CertificateError> {
        let votes =
            certificate
                .signatures
                .iter()
                .map(
                    |(validator, signature): &(PublicKey, Signature)| SignedVote {
                        vote: Vote {
                            epoch: certificate.epoch,
                            height: certificate.height,
                            round: certificate.round,
                            kind: VoteKind::Precommit,
                            block: Some(certificate.block),
                            validator: *validator,
                        },
                        signature: *signature,
                    },
                );
        self.verify_votes(signer, votes, self.quorum)
    }

    /// Cheap checks first: membership, one vote each, enough of them, then the signatures.
    fn verify_votes(
        &self,
        signer: &mut Signer,
        votes: impl Iterator<Item = SignedVote> + Clone,
        threshold: usize,
    ) -> Result<(), CertificateError> {
        let mut signers = BTreeSet::new();
        for vote in votes.clone() {
            let vote = vote.vote;
            if vote.epoch != self.epoch {
                return Err(CertificateError::WrongEpoch {
                    found: vote.epoch,
                    expected: self.epoch,
                });
            }
            if !self.contains(&vote.validator) {
                return Err(CertificateError::UnknownSigner(vote.validator));
            }
            if !signers.insert(vote.validator) {
                return Err(CertificateError::DuplicateSigner(vote.validator));
            }
        }
        if signers.len() < threshold {
            return Err(CertificateError::NoQuorum {
                found: signers.len(),
                quorum: threshold,
            });
        }
        for vote in votes {
            if !signer.verify_vote(&vote) {
                return Err(CertificateError::BadSignature(vote.vote.validator));
            }
        }
        Ok(())
    }
}
