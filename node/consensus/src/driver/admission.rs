//! Which messages are let in.

use super::{
    Driver, Phase,
    checks::{MAX_ROUNDS_AHEAD, MAX_SIGNED_PER_ROUND},
};
use crate::{
    epoch::{Standing, standing},
    message::{Message, Payload, SignedProposal},
};

/// Judgement of a message before it is used, for whoever forwards messages and scores peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Authenticated and of use: forward it.
    Accept,
    /// Of no use here, or not ours to judge: do not forward, blame nobody.
    Ignore(&'static str),
    /// No honest node sends this: do not forward, blame the sender.
    Reject(&'static str),
}

impl Driver {
    /// Judges a message without using it. Signatures found good are remembered, so a
    /// [`Driver::step`] with the same message afterwards does not check them again.
    pub fn judge(&mut self, message: &Message) -> Admission {
        match self.classify(message) {
            (Some(Standing::Current | Standing::Future), admission) => admission,
            (Some(standing), Admission::Accept) => Admission::Ignore(match standing {
                Standing::LowerEpoch => "of a superseded epoch",
                Standing::NewerEpoch => "of an unknown newer epoch",
                Standing::Past => "about a height that is decided",
                _ => "about a height far ahead",
            }),
            (_, admission) => admission,
        }
    }

    /// Where a message stands, and whether it is authentic. Authenticity is only known within the
    /// present epoch.
    pub(super) fn classify(&mut self, message: &Message) -> (Option<Standing>, Admission) {
        let Some(current) = &self.current else {
            return (None, Admission::Ignore("no height is begun"));
        };
        let ours = (current.committee.epoch(), current.start.height);
        let standing = standing(ours, (message.epoch(), message.height()));
        let admission = match standing {
            Standing::LowerEpoch | Standing::NewerEpoch => Admission::Accept,
            _ => self.authenticate(standing, message),
        };
        (Some(standing), admission)
    }

    fn authenticate(&mut self, standing: Standing, message: &Message) -> Admission {
        let Some(current) = &self.current else {
            return Admission::Ignore("no height is begun");
        };
        let committee = &current.committee;
        if let Some(author) = message.author()
            && !committee.contains(author)
        {
            return Admission::Reject("author is not a validator of the epoch");
        }
        let good = match &message.payload {
            Payload::Vote(vote) => self.signer.verify_vote(vote),
            Payload::Proposal { proposal, block } => {
                if standing == Standing::Current
                    && *committee.proposer(proposal.proposal.round) != proposal.proposal.proposer
                {
                    return Admission::Reject("not the proposer of the round");
                }
                if !self.signer.verify_proposal(proposal) {
                    return Admission::Reject("signature does not hold");
                }
                return match self.check_body(proposal, block) {
                    Admission::Accept => self.check_place(standing, proposal),
                    refused => refused,
                };
            }
            Payload::Polka(certificate) => committee
                .verify_polka(&mut self.signer, certificate)
                .is_ok(),
            Payload::Round(certificate) => committee
                .verify_round(&mut self.signer, certificate)
                .is_ok(),
            Payload::Decided(certificate) => committee
                .verify_commit(&mut self.signer, certificate)
                .is_ok(),
        };
        if good {
            Admission::Accept
        } else {
            Admission::Reject("signature does not hold")
        }
    }

    /// Checks that there is a place for the proposal: a round near the present one, in which its proposer
    /// has not signed two other blocks already.
    fn check_place(&self, standing: Standing, signed: &SignedProposal) -> Admission {
        let (Standing::Current, Some(current)) = (standing, &self.current) else {
            return Admission::Accept;
        };
        let proposal = &signed.proposal;
        let round = current.core.round().unwrap_or_default();
        if proposal.round.0.saturating_sub(round.0) > MAX_ROUNDS_AHEAD {
            return Admission::Ignore("of a round far ahead");
        }
        let has_room = current.signed.get(&proposal.round).is_none_or(|signed| {
            signed.len() < MAX_SIGNED_PER_ROUND || signed.contains(&proposal.block)
        });
        if !has_room && !current.core.is_backed(&proposal.block) {
            return Admission::Ignore("its proposer signed two other blocks of this round");
        }
        Admission::Accept
    }

    /// Checks that the bytes are the proposed block and that its builder is who it must be: the
    /// proposer, where the block is proposed for the first time.
    fn check_body(&self, proposal: &SignedProposal, bytes: &[u8]) -> Admission {
        let proposal = &proposal.proposal;
        if bytes.len() > self.config.max_block_bytes {
            return Admission::Reject("block is too large");
        }
        if proposal
            .valid_round
            .is_some_and(|valid| valid >= proposal.round)
        {
            return Admission::Reject("valid round is not an earlier one");
        }
        let Some(summary) = (self.config.summary)(bytes) else {
            return Admission::Reject("block is malformed");
        };
        if summary.hash != proposal.block {
            return Admission::Reject("block is not the proposed one");
        }
        if summary.height != proposal.height {
            return Admission::Reject("block is of another height");
        }
        let builder_fits = match (proposal.valid_round, &self.current) {
            (None, _) => summary.builder == proposal.proposer,
            (Some(_), Some(current)) => current.committee.contains(&summary.builder),
            (Some(_), None) => false,
        };
        if !builder_fits {
            return Admission::Reject("builder of the block is not its proposer");
        }
        Admission::Accept
    }

    /// Whether messages of the present height are kept instead of used.
    pub(super) fn is_held(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| matches!(current.phase, Phase::Held(_)))
    }
}
