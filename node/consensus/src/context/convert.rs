//! Between our types and the core's.

use axolotl_common::{CommitCertificate, Epoch, Hash, Height, Round, VoteKind};
use bft::{Input, ProposedValue};
use bft_types::{
    NilOrVal, PolkaSignature, RoundCertificateType, Timeout, TimeoutKind, Validity, ValueOrigin,
    VoteType,
};

use super::{Addr, BlockId, CoreHeight, CoreProposal, CoreVote, Ctx};
use crate::{
    input::TimerKind,
    log_record::{BlockVerdict, LogEntry, StepTimer},
    message::{
        PolkaCertificate, Proposal, RoundCertificate, RoundCertificateKind, RoundSignature,
        SignedProposal, SignedVote, Vote,
    },
};

pub(super) type CoreSignedVote = bft_types::SignedVote<Ctx>;
pub(super) type CoreSignedProposal = bft_types::SignedProposal<Ctx>;

pub(super) fn round_to_core(round: Option<Round>) -> bft_types::Round {
    round.map_or(bft_types::Round::Nil, |round| {
        bft_types::Round::Some(round.0)
    })
}

/// The core's round; `None` is before the first.
pub(super) fn round_from_core(round: bft_types::Round) -> Option<Round> {
    round.as_u32().map(Round)
}

/// A round of something that happened in a round; the core names no other.
pub(super) fn some_round(round: bft_types::Round) -> Round {
    Round(round.as_u32().unwrap_or(0))
}

fn kind_to_core(kind: VoteKind) -> VoteType {
    match kind {
        VoteKind::Prevote => VoteType::Prevote,
        VoteKind::Precommit => VoteType::Precommit,
    }
}

fn kind_from_core(kind: VoteType) -> VoteKind {
    match kind {
        VoteType::Prevote => VoteKind::Prevote,
        VoteType::Precommit => VoteKind::Precommit,
    }
}

fn value_to_core(block: Option<Hash>) -> NilOrVal<BlockId> {
    block.map_or(NilOrVal::Nil, |hash| NilOrVal::Val(BlockId(hash)))
}

fn value_from_core(value: &NilOrVal<BlockId>) -> Option<Hash> {
    match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(block) => Some(block.0),
    }
}

pub(super) fn vote_to_core(vote: &SignedVote) -> CoreSignedVote {
    let message = CoreVote {
        epoch: vote.vote.epoch,
        height: CoreHeight(vote.vote.height.0),
        round: round_to_core(Some(vote.vote.round)),
        value: value_to_core(vote.vote.block),
        kind: kind_to_core(vote.vote.kind),
        validator: Addr(vote.vote.validator),
    };
    CoreSignedVote::new(message, vote.signature)
}

pub(super) fn bare_vote_from_core(vote: &CoreVote) -> Vote {
    Vote {
        epoch: vote.epoch,
        height: Height(vote.height.0),
        round: some_round(vote.round),
        kind: kind_from_core(vote.kind),
        block: value_from_core(&vote.value),
        validator: vote.validator.0,
    }
}

pub(super) fn vote_from_core(vote: &CoreSignedVote) -> SignedVote {
    SignedVote {
        vote: bare_vote_from_core(&vote.message),
        signature: vote.signature,
    }
}

pub(super) fn proposal_to_core(proposal: &SignedProposal) -> CoreSignedProposal {
    let Proposal {
        epoch,
        height,
        round,
        block,
        valid_round,
        proposer,
    } = proposal.proposal;
    let message = CoreProposal {
        epoch,
        height: CoreHeight(height.0),
        round: round_to_core(Some(round)),
        value: BlockId(block),
        valid_round: round_to_core(valid_round),
        proposer: Addr(proposer),
    };
    CoreSignedProposal::new(message, proposal.signature)
}

pub(super) fn bare_proposal_from_core(proposal: &CoreProposal) -> Proposal {
    Proposal {
        epoch: proposal.epoch,
        height: Height(proposal.height.0),
        round: some_round(proposal.round),
        block: proposal.value.0,
        valid_round: round_from_core(proposal.valid_round),
        proposer: proposal.proposer.0,
    }
}

pub(super) fn proposal_from_core(proposal: &CoreSignedProposal) -> SignedProposal {
    SignedProposal {
        proposal: bare_proposal_from_core(&proposal.message),
        signature: proposal.signature,
    }
}

pub(super) fn polka_to_core(certificate: &PolkaCertificate) -> bft_types::PolkaCertificate<Ctx> {
    bft_types::PolkaCertificate {
        height: CoreHeight(certificate.height.0),
        round: round_to_core(Some(certificate.round)),
        value_id: BlockId(certificate.block),
        polka_signatures: certificate
            .signatures
            .iter()
            .map(|(key, signature)| PolkaSignature::new(Addr(*key), *signature))
            .collect(),
    }
}

pub(super) fn polka_from_core(
    epoch: Epoch,
    certificate: &bft_types::PolkaCertificate<Ctx>,
) -> PolkaCertificate {
    PolkaCertificate {
        epoch,
        height: Height(certificate.height.0),
        round: some_round(certificate.round),
        block: certificate.value_id.0,
        signatures: certificate
            .polka_signatures
            .iter()
            .map(|s| (s.address.0, s.signature))
            .collect(),
    }
}

pub(super) fn round_certificate_to_core(
    certificate: &RoundCertificate,
) -> bft_types::RoundCertificate<Ctx> {
    bft_types::RoundCertificate {
        height: CoreHeight(certificate.height.0),
        round: round_to_core(Some(certificate.round)),
        cert_type: match certificate.kind {
            RoundCertificateKind::Skip => RoundCertificateType::Skip,
            RoundCertificateKind::Precommit => RoundCertificateType::Precommit,
        },
        round_signatures: certificate
            .signatures
            .iter()
            .map(|s| {
                bft_types::RoundSignature::new(
                    kind_to_core(s.kind),
                    value_to_core(s.block),
                    Addr(s.validator),
                    s.signature,
                )
            })
            .collect(),
    }
}

pub(super) fn round_certificate_from_core(
    epoch: Epoch,
    certificate: &bft_types::RoundCertificate<Ctx>,
) -> RoundCertificate {
    RoundCertificate {
        epoch,
        height: Height(certificate.height.0),
        round: some_round(certificate.round),
        kind: match certificate.cert_type {
            RoundCertificateType::Skip => RoundCertificateKind::Skip,
            RoundCertificateType::Precommit => RoundCertificateKind::Precommit,
        },
        signatures: certificate
            .round_signatures
            .iter()
            .map(|s| RoundSignature {
                kind: kind_from_core(s.vote_type),
                block: value_from_core(&s.value_id),
                validator: s.address.0,
                signature: s.signature,
            })
            .collect(),
    }
}

pub(super) fn commit_from_core(
    epoch: Epoch,
    certificate: &bft_types::CommitCertificate<Ctx>,
) -> CommitCertificate {
    CommitCertificate {
        epoch,
        height: Height(certificate.height.0),
        round: some_round(certificate.round),
        block: certificate.value_id.0,
        signatures: certificate
            .commit_signatures
            .iter()
            .map(|s| (s.address.0, s.signature))
            .collect(),
    }
}

pub(super) fn timer_to_core(kind: TimerKind, round: Round) -> Option<Timeout> {
    let kind = match kind {
        TimerKind::Propose => TimeoutKind::Propose,
        TimerKind::Prevote => TimeoutKind::Prevote,
        TimerKind::Precommit => TimeoutKind::Precommit,
        TimerKind::Rebroadcast => TimeoutKind::Rebroadcast,
        TimerKind::EmptyBlock | TimerKind::Behind | TimerKind::Amnesia => return None,
    };
    Some(Timeout::new(round_to_core(Some(round)), kind))
}

/// A timer of the core. It asks for a finalisation timer only when blocks have a target time,
/// which ours have not.
pub(super) fn timer_from_core(timeout: Timeout) -> Option<(TimerKind, Round)> {
    let kind = match timeout.kind {
        TimeoutKind::Propose => TimerKind::Propose,
        TimeoutKind::Prevote => TimerKind::Prevote,
        TimeoutKind::Precommit => TimerKind::Precommit,
        TimeoutKind::Rebroadcast => TimerKind::Rebroadcast,
        TimeoutKind::FinalizeHeight(_) => return None,
    };
    Some((kind, some_round(timeout.round)))
}

/// What the core is fed for a record; nothing for the bytes of a block and for seals.
pub(super) fn entry_to_core(height: Height, entry: &LogEntry) -> Option<Input<Ctx>> {
    Some(match entry {
        LogEntry::Vote(vote) => Input::Vote(vote_to_core(vote)),
        LogEntry::Proposal(proposal) => Input::Proposal(proposal_to_core(proposal)),
        LogEntry::Verdict(verdict) => Input::ProposedValue(
            ProposedValue {
                height: CoreHeight(height.0),
                round: round_to_core(Some(verdict.round)),
                valid_round: round_to_core(verdict.valid_round),
                proposer: Addr(verdict.proposer),
                value: BlockId(verdict.block),
                validity: Validity::from_bool(verdict.valid),
            },
            ValueOrigin::Consensus,
        ),
        LogEntry::Timeout { kind, round } => {
            Input::TimeoutElapsed(timer_to_core((*kind).into(), *round)?)
        }
        LogEntry::Polka(certificate) => Input::PolkaCertificate(polka_to_core(certificate)),
        LogEntry::Block { .. } | LogEntry::Seal => return None,
    })
}

/// The record of what the core wants logged; nothing for what it never logs.
pub(super) fn entry_from_core(epoch: Epoch, input: &Input<Ctx>) -> Option<LogEntry> {
    Some(match input {
        Input::Vote(vote) => LogEntry::Vote(vote_from_core(vote)),
        Input::Proposal(proposal) => LogEntry::Proposal(proposal_from_core(proposal)),
        Input::ProposedValue(value, _) => LogEntry::Verdict(BlockVerdict {
            round: some_round(value.round),
            valid_round: round_from_core(value.valid_round),
            proposer: value.proposer.0,
            block: value.value.0,
            valid: value.validity.is_valid(),
        }),
        Input::TimeoutElapsed(timeout) => LogEntry::Timeout {
            kind: match timeout.kind {
                TimeoutKind::Propose => StepTimer::Propose,
                TimeoutKind::Prevote => StepTimer::Prevote,
                TimeoutKind::Precommit => StepTimer::Precommit,
                TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => return None,
            },
            round: some_round(timeout.round),
        },
        Input::PolkaCertificate(certificate) => {
            LogEntry::Polka(polka_from_core(epoch, certificate))
        }
        Input::StartHeight(..)
        | Input::RoundCertificate(_)
        | Input::Propose(_)
        | Input::SyncValueResponse(_) => return None,
    })
}
