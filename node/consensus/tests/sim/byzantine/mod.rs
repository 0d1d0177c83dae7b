//! Nodes that lie. Each runs an honest driver with its own key and changes what leaves it.

mod equivocating_proposer;
mod equivocating_voter;
mod lying_about_lock;
mod many_bodies;
mod silent;
mod slow_bodies;
mod swapped_bodies;
mod withholding_bodies;
mod wrong_headers;

use std::collections::BTreeSet;

use axolotl_common::{Hash, KeyPair, VoteKind};
use axolotl_consensus::message::{Message, Payload, Proposal, SignedProposal, SignedVote, Vote};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::ledger::{self, Block};

/// Messages, each with those who get it.
pub(crate) type Outgoing = Vec<(BTreeSet<usize>, Message)>;

/// What an actor works with.
pub(crate) struct Cast<'a> {
    pub(crate) key: &'a KeyPair,
    pub(crate) peers: BTreeSet<usize>,
    /// Peers that lie as well.
    pub(crate) liars: BTreeSet<usize>,
    pub(crate) rng: &'a mut ChaCha8Rng,
    pub(crate) copy: u64,
}

impl Cast<'_> {
    /// Two groups of peers: mostly those with even and with odd numbers, so that liars tell the same
    /// story without a word between them, else drawn anew.
    pub(crate) fn halves(&mut self) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let agreed = self.rng.random_bool(0.8);
        let rng = &mut *self.rng;
        self.peers.iter().copied().partition(|peer| {
            if agreed {
                peer % 2 == 0
            } else {
                rng.random_bool(0.5)
            }
        })
    }

    /// The same vote for either of two blocks: the lower hash to one half, the higher to the other.
    pub(crate) fn split_vote(&mut self, vote: Vote, blocks: (Hash, Hash)) -> Outgoing {
        let (low, high) = (blocks.0.min(blocks.1), blocks.0.max(blocks.1));
        let (left, right) = self.halves();
        let mut to = |block| {
            let block = Some(block);
            self.sign_vote(Vote { block, ..vote })
        };
        vec![(left, to(low)), (right, to(high))]
    }

    pub(crate) fn sign_vote(&mut self, vote: Vote) -> Message {
        let signature = self.key.sign(&vote.sign_bytes(&ledger::chain_ref()));
        self.message(Payload::Vote(SignedVote { vote, signature }))
    }

    pub(crate) fn sign_proposal(&mut self, proposal: Proposal, block: bytes::Bytes) -> Message {
        let signature = self.key.sign(&proposal.sign_bytes(&ledger::chain_ref()));
        let proposal = SignedProposal {
            proposal,
            signature,
        };
        self.message(Payload::Proposal { proposal, block })
    }

    /// Signs a changed form of the block in its place; `None` if the bytes are no block.
    pub(crate) fn propose_instead(
        &mut self,
        proposal: Proposal,
        bytes: &[u8],
        change: impl FnOnce(&mut Block, &mut ChaCha8Rng),
    ) -> Option<(Hash, Message)> {
        let mut block = Block::decode(bytes)?;
        change(&mut block, self.rng);
        let bytes = block.encode();
        let hash = ledger::hash(&bytes);
        let proposal = Proposal {
            block: hash,
            ..proposal
        };
        Some((hash, self.sign_proposal(proposal, bytes)))
    }

    fn message(&mut self, payload: Payload) -> Message {
        self.copy += 1;
        Message {
            copy: self.copy,
            payload,
        }
    }
}

/// A way to lie.
pub(crate) trait Actor: std::fmt::Debug {
    /// A message came in; the driver gets it all the same.
    fn hears(&mut self, _message: &Message) {}

    /// The driver wants to send `message` to all; this goes out instead.
    fn says(&mut self, cast: &mut Cast<'_>, message: Message) -> Outgoing;
}

/// The actors, for plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActorKind {
    Silent,
    EquivocatingProposer,
    EquivocatingVoter,
    WithholdingBodies,
    LyingAboutLock,
    SlowBodies,
    ManyBodies,
    SwappedBodies,
    WrongHeaders,
}

impl ActorKind {
    pub(crate) fn random(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..9) {
            0 => Self::Silent,
            1 => Self::EquivocatingProposer,
            2 => Self::EquivocatingVoter,
            3 => Self::WithholdingBodies,
            4 => Self::LyingAboutLock,
            5 => Self::SlowBodies,
            6 => Self::ManyBodies,
            7 => Self::SwappedBodies,
            _ => Self::WrongHeaders,
        }
    }

    pub(crate) fn actor(self) -> Box<dyn Actor> {
        match self {
            Self::Silent => Box::new(silent::Silent),
            Self::EquivocatingProposer => {
                Box::new(equivocating_proposer::EquivocatingProposer::default())
            }
            Self::EquivocatingVoter => Box::new(equivocating_voter::EquivocatingVoter::default()),
            Self::WithholdingBodies => Box::new(withholding_bodies::WithholdingBodies),
            Self::LyingAboutLock => Box::new(lying_about_lock::LyingAboutLock::default()),
            Self::SlowBodies => Box::new(slow_bodies::SlowBodies::default()),
            Self::ManyBodies => Box::new(many_bodies::ManyBodies),
            Self::SwappedBodies => Box::new(swapped_bodies::SwappedBodies::default()),
            Self::WrongHeaders => Box::new(wrong_headers::WrongHeaders),
        }
    }
}

/// Whether a message is a vote of this kind by its sender.
fn own_vote(message: &Message, key: &KeyPair, kind: VoteKind) -> Option<Vote> {
    match &message.payload {
        Payload::Vote(vote) if vote.vote.validator == key.public() && vote.vote.kind == kind => {
            Some(vote.vote)
        }
        _ => None,
    }
}
