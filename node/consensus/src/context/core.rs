//! One height of Tendermint: inputs in, events out.

use axolotl_common::{
    CommitCertificate, Hash, Height, Round, certificate::CertificateError as OurCertificateError,
};
use bft::{
    Effect as CoreEffect, Input, LivenessMsg, LocallyProposedValue, MisbehaviorEvidence, Params,
    Resumable, Resume, SignedConsensusMsg, State, ThresholdParams, ValuePayload,
};
use bft_types::{CertificateError, Threshold, ThresholdParam, VoteExtensionPolicy, VoteType};

use super::{Addr, BlockId, CoreHeight, CoreValidator, CoreValidators, Ctx, convert};
use crate::{
    effect::Evidence,
    input::TimerKind,
    log_record::LogEntry,
    message::{PolkaCertificate, RoundCertificate, SignedProposal, SignedVote},
    signatures::Signer,
    validators::Committee,
};

/// The core's own buffer of future messages is not used (see [`crate::future`]).
const NO_QUEUE: usize = 1;

/// What one height is fed.
#[derive(Clone, Debug)]
pub(crate) enum CoreInput {
    /// Begin round 0.
    Start,
    /// Anything that is logged.
    Entry(LogEntry),
    /// Propose this block in this round.
    Propose { round: Round, block: Hash },
    /// A timer of the protocol elapsed.
    Timer { kind: TimerKind, round: Round },
    /// Why others entered a round.
    RoundCertificate(RoundCertificate),
}

/// What one height asks for.
#[derive(Clone, Debug)]
pub(crate) enum CoreEvent {
    Append(LogEntry),
    PublishVote(SignedVote),
    PublishProposal(SignedProposal),
    PublishPolka(PolkaCertificate),
    PublishRound(RoundCertificate),
    SetTimer(TimerKind, Round),
    CancelTimer(TimerKind, Round),
    CancelTimers,
    BuildBlock(Round),
    Decided(CommitCertificate),
    Misbehaviour(Evidence),
}

/// The block that a validator precommitted to, with its proof.
#[derive(Clone, Debug)]
pub(crate) struct CoreLock {
    pub(crate) round: Round,
    pub(crate) block: Hash,
    pub(crate) proof: Option<PolkaCertificate>,
}

/// The state of one height.
pub(crate) struct Core {
    state: State<Ctx>,
    committee: Committee,
    height: Height,
}

impl Core {
    /// A height that is not begun. With `voting` false nothing is signed or sent.
    pub(crate) fn new(height: Height, committee: Committee, signer: &Signer, voting: bool) -> Self {
        let ctx = Ctx {
            epoch: committee.epoch(),
        };
        let params = Params {
            address: Addr(signer.me()),
            threshold_params: thresholds(&committee),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: voting,
        };
        let validators = core_validators(&committee);
        let state = State::new(
            ctx,
            CoreHeight(height.0),
            validators,
            params,
            NO_QUEUE,
            NO_QUEUE,
        );
        Self {
            state,
            committee,
            height,
        }
    }

    /// From here until [`Self::end_replay`] what is fed comes from the log.
    pub(crate) fn begin_replay(&mut self, entries: &[LogEntry]) {
        let inputs: Vec<_> = entries
            .iter()
            .filter_map(|entry| convert::entry_to_core(self.height, entry))
            .collect();
        self.state.index_wal_entries(&inputs);
    }

    pub(crate) fn end_replay(&mut self) {
        self.state.reset_entries_index();
    }

    /// Round, once begun.
    pub(crate) fn round(&self) -> Option<Round> {
        convert::round_from_core(self.state.round())
    }

    /// Whether the round waits for its proposal.
    pub(crate) fn awaits_proposal(&self) -> bool {
        self.state.driver.step_is_propose()
    }

    pub(crate) fn lock(&self) -> Option<CoreLock> {
        let locked = self.state.driver.round_state().locked.as_ref()?;
        let proof = self
            .state
            .polka_certificate(locked.round, &locked.value)
            .map(|certificate| convert::polka_from_core(self.committee.epoch(), certificate));
        Some(CoreLock {
            round: convert::some_round(locked.round),
            block: locked.value.0,
            proof,
        })
    }

    /// Whether a quorum prevoted for or precommitted to a block, in whatever round.
    pub(crate) fn is_backed(&self, block: &Hash) -> bool {
        let value = BlockId(*block);
        let driver = &self.state.driver;
        let prevoted = driver.polka_certificates().iter();
        prevoted.clone().any(|polka| polka.value_id == value)
            || driver.votes().all_rounds().keys().any(|round| {
                let quorum = Threshold::Value(value);
                let precommit = VoteType::Precommit;
                driver.votes().is_threshold_met(round, precommit, quorum)
            })
    }

    /// Blocks that must be kept: the lock and the valid value.
    pub(crate) fn held_blocks(&self) -> Vec<Hash> {
        let state = self.state.driver.round_state();
        state
            .locked
            .iter()
            .chain(&state.valid)
            .map(|held| held.value.0)
            .collect()
    }

    /// From now on nothing is signed or sent.
    pub(crate) fn silence(&mut self) {
        self.state.params.enabled = false;
    }

    /// Contradictions of others, seen since the last call.
    pub(crate) fn take_evidence(&mut self) -> Vec<Evidence> {
        evidence(&MisbehaviorEvidence {
            proposals: self.state.driver.take_proposal_evidence(),
            votes: self.state.driver.take_vote_evidence(),
        })
    }

    /// Feeds one input.
    ///
    /// # Errors
    /// Any error of the core, and any contradiction of our own signatures. Nothing may go on after
    /// it, and the events of this input are void.
    pub(crate) fn apply(
        &mut self,
        input: CoreInput,
        signer: &mut Signer,
    ) -> Result<Vec<CoreEvent>, String> {
        let input = match input {
            CoreInput::Start => Input::StartHeight(
                CoreHeight(self.height.0),
                core_validators(&self.committee),
                false,
                None,
                VoteExtensionPolicy::Disabled,
            ),
            CoreInput::Entry(entry) => match convert::entry_to_core(self.height, &entry) {
                Some(input) => input,
                None => return Ok(Vec::new()),
            },
            CoreInput::Propose { round, block } => Input::Propose(LocallyProposedValue::new(
                CoreHeight(self.height.0),
                convert::round_to_core(Some(round)),
                BlockId(block),
            )),
            CoreInput::Timer { kind, round } => match convert::timer_to_core(kind, round) {
                Some(timeout) => Input::TimeoutElapsed(timeout),
                None => return Ok(Vec::new()),
            },
            CoreInput::RoundCertificate(certificate) => {
                Input::RoundCertificate(convert::round_certificate_to_core(&certificate))
            }
        };
        let mut handler = Handler {
            committee: &self.committee,
            signer,
            events: Vec::new(),
            error: None,
        };
        let result: Result<(), bft::Error<Ctx>> = bft::process!(
            input: input,
            state: &mut self.state,
            metrics: &(),
            with: effect => handler.perform(effect)
        );
        match (result, handler.error) {
            (Ok(()), None) => Ok(handler.events),
            (_, Some(error)) => Err(error),
            (Err(error), None) => Err(format!("consensus core: {error}")),
        }
    }
}

/// Exact thresholds from the one quorum function: w n > (q - 1) n is w >= q.
fn thresholds(committee: &Committee) -> ThresholdParams {
    let n = u64::try_from(committee.len()).unwrap_or(u64::MAX);
    let at_least = |votes: usize| {
        let below = u64::try_from(votes.saturating_sub(1)).unwrap_or(u64::MAX);
        ThresholdParam::new(below, n)
    };
    ThresholdParams {
        quorum: at_least(committee.quorum()),
        honest: at_least(committee.skip_threshold()),
    }
}

fn core_validators(committee: &Committee) -> CoreValidators {
    let validators = committee.order().iter();
    CoreValidators(validators.map(|key| CoreValidator(Addr(*key))).collect())
}

fn evidence(found: &MisbehaviorEvidence<Ctx>) -> Vec<Evidence> {
    let votes = found.votes.iter().flat_map(|(_, pairs)| pairs);
    let votes =
        votes.map(|(a, b)| Evidence::Votes(convert::vote_from_core(a), convert::vote_from_core(b)));
    let proposals = found.proposals.iter().flat_map(|(_, pairs)| pairs);
    let proposals = proposals.map(|(a, b)| {
        Evidence::Proposals(
            convert::proposal_from_core(a),
            convert::proposal_from_core(b),
        )
    });
    votes.chain(proposals).collect()
}

/// Answers the core's effects within one turn.
struct Handler<'a> {
    committee: &'a Committee,
    signer: &'a mut Signer,
    events: Vec<CoreEvent>,
    error: Option<String>,
}

impl Handler<'_> {
    /// Never fails: an error that the macro saw would be logged and then resumed from. Ours is kept
    /// in `error` and ends the turn.
    #[allow(
        clippy::unnecessary_wraps,
        reason = "the macro of the core wants a Result"
    )]
    fn perform(&mut self, effect: CoreEffect<Ctx>) -> Result<Resume<Ctx>, String> {
        let epoch = self.committee.epoch();
        Ok(match effect {
            CoreEffect::CancelAllTimeouts(resume) => {
                self.events.push(CoreEvent::CancelTimers);
                resume.resume_with(())
            }
            CoreEffect::CancelTimeout(timeout, resume) => {
                if let Some((kind, round)) = convert::timer_from_core(timeout) {
                    self.events.push(CoreEvent::CancelTimer(kind, round));
                }
                resume.resume_with(())
            }
            CoreEffect::ScheduleTimeout(timeout, resume) => {
                if let Some((kind, round)) = convert::timer_from_core(timeout) {
                    self.events.push(CoreEvent::SetTimer(kind, round));
                }
                resume.resume_with(())
            }
            CoreEffect::PublishConsensusMsg(message, resume) => {
                self.events.push(match &message {
                    SignedConsensusMsg::Vote(vote) => {
                        CoreEvent::PublishVote(convert::vote_from_core(vote))
                    }
                    SignedConsensusMsg::Proposal(proposal) => {
                        CoreEvent::PublishProposal(convert::proposal_from_core(proposal))
                    }
                });
                resume.resume_with(())
            }
            CoreEffect::PublishLivenessMsg(message, resume) => {
                self.events.push(match &message {
                    LivenessMsg::Vote(vote) => CoreEvent::PublishVote(convert::vote_from_core(vote)),
                    LivenessMsg::PolkaCertificate(certificate) => {
                        CoreEvent::PublishPolka(convert::polka_from_core(epoch, certificate))
                    }
                    LivenessMsg::SkipRoundCertificate(certificate) => CoreEvent::PublishRound(
                        convert::round_certificate_from_core(epoch, certificate),
                    ),
                });
                resume.resume_with(())
            }
            CoreEffect::RepublishVote(vote, resume) => {
                let vote = convert::vote_from_core(&vote);
                self.events.push(CoreEvent::PublishVote(vote));
                resume.resume_with(())
            }
            CoreEffect::RepublishRoundCertificate(certificate, resume) => {
                let certificate = convert::round_certificate_from_core(epoch, &certificate);
                self.events.push(CoreEvent::PublishRound(certificate));
                resume.resume_with(())
            }
            CoreEffect::GetValue(_, round, _, resume) => {
                let round = convert::some_round(round);
                self.events.push(CoreEvent::BuildBlock(round));
                resume.resume_with(())
            }
            CoreEffect::SignVote(vote, resume) => {
                let vote = convert::bare_vote_from_core(&vote);
                let signed = self.signer.sign_vote(vote).unwrap_or_else(|contradiction| {
                    self.error = Some(contradiction.to_string());
                    SignedVote {
                        vote,
                        signature: axolotl_common::Signature([0; 64]),
                    }
                });
                resume.resume_with(convert::vote_to_core(&signed))
            }
            CoreEffect::SignProposal(proposal, resume) => {
                let proposal = convert::bare_proposal_from_core(&proposal);
                let signed = self
                    .signer
                    .sign_proposal(proposal)
                    .unwrap_or_else(|contradiction| {
                        self.error = Some(contradiction.to_string());
                        SignedProposal {
                            proposal,
                            signature: axolotl_common::Signature([0; 64]),
                        }
                    });
                resume.resume_with(convert::proposal_to_core(&signed))
            }
            CoreEffect::VerifySignature(message, _, resume) => {
                let signature = message.signature;
                let good = match message.message {
                    bft::ConsensusMsg::Vote(vote) => self.signer.verify_vote(&SignedVote {
                        vote: convert::bare_vote_from_core(&vote),
                        signature,
                    }),
                    bft::ConsensusMsg::Proposal(proposal) => {
                        self.signer.verify_proposal(&SignedProposal {
                            proposal: convert::bare_proposal_from_core(&proposal),
                            signature,
                        })
                    }
                };
                resume.resume_with(good)
            }
            CoreEffect::VerifyCommitCertificate(certificate, _, _, resume) => {
                let certificate = convert::commit_from_core(epoch, &certificate);
                let result = self.committee.verify_commit(self.signer, &certificate);
                resume.resume_with(to_core_result(result))
            }
            CoreEffect::VerifyExtendedCommitCertificate(certificate, _, _, _, resume) => {
                let certificate = certificate.trim_vote_extensions();
                let certificate = convert::commit_from_core(epoch, &certificate);
                let result = self.committee.verify_commit(self.signer, &certificate);
                resume.resume_with(to_core_result(result))
            }
            CoreEffect::VerifyPolkaCertificate(certificate, _, _, resume) => {
                let certificate = convert::polka_from_core(epoch, &certificate);
                let result = self.committee.verify_polka(self.signer, &certificate);
                resume.resume_with(to_core_result(result))
            }
            CoreEffect::VerifyRoundCertificate(certificate, _, _, resume) => {
                let certificate = convert::round_certificate_from_core(epoch, &certificate);
                let result = self.committee.verify_round(self.signer, &certificate);
                resume.resume_with(to_core_result(result))
            }
            CoreEffect::WalAppend(_, input, resume) => {
                match convert::entry_from_core(epoch, &input) {
                    Some(entry) => self.events.push(CoreEvent::Append(entry)),
                    None => self.error = Some(format!("the core logs what no log takes: {input:?}")),
                }
                resume.resume_with(())
            }
            CoreEffect::Decide(certificate, _, resume) => {
                let certificate = convert::commit_from_core(epoch, &certificate);
                self.events.push(CoreEvent::Decided(certificate));
                resume.resume_with(())
            }
            CoreEffect::Finalize(_, _, found, resume) => {
                let events = evidence(&found).into_iter().map(CoreEvent::Misbehaviour);
                self.events.extend(events);
                resume.resume_with(())
            }
            // The signed proposal that follows carries the bytes.
            CoreEffect::RestreamProposal(_, _, _, _, _, resume)
            | CoreEffect::StartRound(_, _, _, _, resume)
            // Sync does not go through the core.
            | CoreEffect::CertVerifiedSyncValue(_, _, resume)
            | CoreEffect::CertRejectedSyncValue(_, _, _, resume) => resume.resume_with(()),
            CoreEffect::ExtendVote(_, _, _, _, resume) => resume.resume_with(None),
            CoreEffect::VerifyVoteExtension(_, _, _, _, _, _, resume) => resume.resume_with(Ok(())),
        })
    }
}

#[allow(
    clippy::result_large_err,
    reason = "the core wants its own error, by value"
)]
fn to_core_result(result: Result<(), OurCertificateError>) -> Result<(), CertificateError<Ctx>> {
    result.map_err(|error| {
        let error: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        CertificateError::VerificationError(Some(error.into()))
    })
}
