//! Signing and verifying, with two memories.
//!
//! [`VerifiedSignatures`] saves checking a signature twice: one vote comes alone, again when it is
//! sent again, and once more inside certificates. [`SigningGuard`] is a second line of defence behind
//! the core: whatever the core asks for, this key never signs two different statements for one
//! place in the protocol.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use axolotl_common::{ChainRef, Hash, KeyPair, PublicKey, Round, Signature, VoteKind};

use crate::message::{Proposal, SignedProposal, SignedVote, Vote};

/// Signatures remembered as verified; the oldest is forgotten first.
const MAX_VERIFIED: usize = 4_096;
/// Rounds of one height for which own statements are remembered; for older ones nothing is signed.
const MAX_GUARDED_ROUNDS: usize = 1_024;

/// Signatures that were found good.
#[derive(Debug, Default)]
struct VerifiedSignatures {
    known: BTreeSet<Hash>,
    order: VecDeque<Hash>,
}

impl VerifiedSignatures {
    fn id(key: &PublicKey, message: &[u8], signature: &Signature) -> Hash {
        let mut bytes = Vec::with_capacity(message.len() + 96);
        bytes.extend_from_slice(&key.0);
        bytes.extend_from_slice(&signature.0);
        bytes.extend_from_slice(message);
        Hash::sha256(&bytes)
    }

    fn insert(&mut self, id: Hash) {
        if self.known.insert(id) {
            self.order.push_back(id);
            if self.order.len() > MAX_VERIFIED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    fn check(&mut self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        let id = Self::id(key, message, signature);
        if self.known.contains(&id) {
            return true;
        }
        let good = key.verify(message, signature);
        if good {
            self.insert(id);
        }
        good
    }
}

/// Places in which a validator makes one statement per round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Proposal,
    Prevote,
    Precommit,
}

impl From<VoteKind> for Place {
    fn from(kind: VoteKind) -> Self {
        match kind {
            VoteKind::Prevote => Self::Prevote,
            VoteKind::Precommit => Self::Precommit,
        }
    }
}

/// What this node has signed at the present height and epoch.
#[derive(Debug, Default)]
struct SigningGuard {
    rounds: BTreeMap<Round, BTreeMap<Place, Hash>>,
}

impl SigningGuard {
    /// Notes a statement; `false` when it contradicts an earlier one.
    fn admit(&mut self, round: Round, place: Place, message: &[u8]) -> bool {
        let lowest = self.rounds.first_key_value().map(|(round, _)| *round);
        if self.rounds.len() >= MAX_GUARDED_ROUNDS && lowest.is_some_and(|lowest| round < lowest) {
            return false;
        }
        let digest = Hash::sha256(message);
        let places = self.rounds.entry(round).or_default();
        let good = *places.entry(place).or_insert(digest) == digest;
        if self.rounds.len() > MAX_GUARDED_ROUNDS {
            self.rounds.pop_first();
        }
        good
    }

    fn knows(&self, round: Round, place: Place, message: &[u8]) -> bool {
        self.rounds
            .get(&round)
            .and_then(|places| places.get(&place))
            .is_some_and(|digest| *digest == Hash::sha256(message))
    }
}

/// A statement that this node would contradict itself with.
#[derive(Debug, thiserror::Error)]
#[error("would sign a second {what} at height {height}, round {round}")]
pub(crate) struct Contradiction {
    what: &'static str,
    height: u64,
    round: Round,
}

/// The key of this node, with both memories.
#[derive(Debug)]
pub(crate) struct Signer {
    chain: ChainRef,
    key: KeyPair,
    me: PublicKey,
    verified: VerifiedSignatures,
    guard: SigningGuard,
}

impl Signer {
    pub(crate) fn new(chain: ChainRef, key: KeyPair) -> Self {
        let me = key.public();
        Self {
            chain,
            key,
            me,
            verified: VerifiedSignatures::default(),
            guard: SigningGuard::default(),
        }
    }

    pub(crate) fn me(&self) -> PublicKey {
        self.me
    }

    /// Forgets what was signed at the height before.
    pub(crate) fn next_height(&mut self) {
        self.guard = SigningGuard::default();
    }

    /// Takes in a statement of our own from the log.
    pub(crate) fn restore_vote(&mut self, vote: &Vote) -> bool {
        let message = vote.sign_bytes(&self.chain);
        self.guard.admit(vote.round, vote.kind.into(), &message)
    }

    /// Takes in a statement of our own from the log.
    pub(crate) fn restore_proposal(&mut self, proposal: &Proposal) -> bool {
        let message = proposal.sign_bytes(&self.chain);
        self.guard.admit(proposal.round, Place::Proposal, &message)
    }

    /// Whether this node knows that it signed this vote.
    pub(crate) fn signed_vote(&self, vote: &Vote) -> bool {
        let message = vote.sign_bytes(&self.chain);
        self.guard.knows(vote.round, vote.kind.into(), &message)
    }

    pub(crate) fn sign_vote(&mut self, vote: Vote) -> Result<SignedVote, Contradiction> {
        let message = vote.sign_bytes(&self.chain);
        if !self.guard.admit(vote.round, vote.kind.into(), &message) {
            return Err(Contradiction {
                what: "vote",
                height: vote.height.0,
                round: vote.round,
            });
        }
        let signature = self.sign(&message);
        Ok(SignedVote { vote, signature })
    }

    pub(crate) fn sign_proposal(
        &mut self,
        proposal: Proposal,
    ) -> Result<SignedProposal, Contradiction> {
        let message = proposal.sign_bytes(&self.chain);
        if !self.guard.admit(proposal.round, Place::Proposal, &message) {
            return Err(Contradiction {
                what: "proposal",
                height: proposal.height.0,
                round: proposal.round,
            });
        }
        let signature = self.sign(&message);
        Ok(SignedProposal {
            proposal,
            signature,
        })
    }

    fn sign(&mut self, message: &[u8]) -> Signature {
        let signature = self.key.sign(message);
        let id = VerifiedSignatures::id(&self.me, message, &signature);
        self.verified.insert(id);
        signature
    }

    pub(crate) fn verify_vote(&mut self, vote: &SignedVote) -> bool {
        let message = vote.vote.sign_bytes(&self.chain);
        self.verified
            .check(&vote.vote.validator, &message, &vote.signature)
    }

    pub(crate) fn verify_proposal(&mut self, proposal: &SignedProposal) -> bool {
        let message = proposal.proposal.sign_bytes(&self.chain);
        self.verified
            .check(&proposal.proposal.proposer, &message, &proposal.signature)
    }
}

#[cfg(test)]
mod tests {
    use axolotl_common::{Epoch, Height};

    use super::*;
    use crate::test_support::{chain, key};

    fn vote(round: u32, block: Option<Hash>) -> Vote {
        Vote {
            epoch: Epoch(0),
            height: Height(5),
            round: Round(round),
            kind: VoteKind::Prevote,
            block,
            validator: key(1).public(),
        }
    }

    #[test]
    fn nothing_is_signed_twice_differently() {
        let mut signer = Signer::new(chain(), key(1));
        let (a, b) = (Some(Hash([1; 32])), Some(Hash([2; 32])));
        let first = signer.sign_vote(vote(0, a)).unwrap();
        assert_eq!(
            signer.sign_vote(vote(0, a)).unwrap(),
            first,
            "the same again"
        );
        assert!(signer.sign_vote(vote(0, b)).is_err(), "another block");
        assert!(signer.sign_vote(vote(0, None)).is_err(), "nil");
        assert!(signer.sign_vote(vote(1, b)).is_ok(), "another round");
        assert!(signer.signed_vote(&vote(0, a)) && !signer.signed_vote(&vote(0, b)));
        signer.next_height();
        assert!(signer.restore_vote(&vote(0, b)));
        assert!(signer.sign_vote(vote(0, a)).is_err(), "the log said b");
    }

    #[test]
    fn memories_are_bounded() {
        let mut signer = Signer::new(chain(), key(1));
        for round in 0..2 * u32::try_from(MAX_GUARDED_ROUNDS).unwrap() {
            assert!(signer.sign_vote(vote(round, None)).is_ok());
        }
        assert_eq!(signer.guard.rounds.len(), MAX_GUARDED_ROUNDS);
        assert!(
            signer.sign_vote(vote(3, None)).is_err(),
            "a forgotten round"
        );
        for round in 0..u32::try_from(MAX_VERIFIED).unwrap() {
            signer.verified.insert(Hash::sha256(&round.to_be_bytes()));
        }
        assert_eq!(signer.verified.known.len(), MAX_VERIFIED);
        assert_eq!(signer.verified.order.len(), MAX_VERIFIED);
    }

    #[test]
    fn a_good_signature_is_remembered_and_a_bad_one_is_not() {
        let mut voter = Signer::new(chain(), key(1));
        let mut other = Signer::new(chain(), key(2));
        let good = voter.sign_vote(vote(0, None)).unwrap();
        let bad = SignedVote {
            vote: vote(1, None),
            ..good
        };
        assert!(other.verify_vote(&good) && other.verify_vote(&good));
        assert!(!other.verify_vote(&bad) && !other.verify_vote(&bad));
        assert_eq!(other.verified.known.len(), 1);
    }
}
