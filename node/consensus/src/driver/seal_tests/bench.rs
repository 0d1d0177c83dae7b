//! One driver with its log, and what the other validators send it.

use std::sync::Arc;

use axolotl_common::{
    ValidatorSet, VoteKind,
    genesis::Timing,
    recovery::{Ballot, RegistryStart, StartId, Statement},
};

use crate::{
    driver::*,
    input::{BlockSummary, Verdict},
    message::{Proposal, RoundCertificate, RoundCertificateKind, RoundSignature, Vote},
    test_support::{chain, key, set},
};

pub(super) const EPOCH: Epoch = Epoch(3);
pub(super) const HEIGHT: Height = Height(5);

pub(super) fn config(number: u8) -> Config {
    Config {
        chain: chain(),
        key: key(number),
        volume: VolumeId([number; 16]),
        incarnation: 1,
        timing: Timing::default(),
        leader_term_blocks: 1_000,
        max_block_bytes: 1_000,
        summary,
    }
}

/// A block is its height, its builder and filling.
pub(super) fn block(filling: u8) -> (Hash, Bytes) {
    let mut bytes = HEIGHT.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(&key(2).public().0);
    bytes.push(filling);
    (Hash::sha256(&bytes), bytes.into())
}

pub(super) fn summary(bytes: &[u8]) -> Option<BlockSummary> {
    Some(BlockSummary {
        hash: Hash::sha256(bytes),
        height: Height(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?)),
        builder: PublicKey(bytes.get(8..40)?.try_into().ok()?),
    })
}

pub(super) fn start(height: u64, validators: &Arc<ValidatorSet>) -> HeightStart {
    HeightStart {
        height: Height(height),
        validators: Arc::clone(validators),
        last_builder: Some(key(2).public()),
        previous_validators: None,
        last_certificate: None,
    }
}

pub(super) fn vote_of(
    validator: u8,
    height: Height,
    kind: VoteKind,
    block: Option<Hash>,
) -> SignedVote {
    let vote = Vote {
        epoch: EPOCH,
        height,
        round: Round(0),
        kind,
        block,
        validator: key(validator).public(),
    };
    Signer::new(chain(), key(validator))
        .sign_vote(vote)
        .unwrap()
}

pub(super) fn message(payload: Payload) -> Input {
    Input::Message(Message { copy: 0, payload })
}

pub(super) fn vote(validator: u8, kind: VoteKind, block: Option<Hash>) -> Input {
    message(Payload::Vote(vote_of(validator, HEIGHT, kind, block)))
}

pub(super) fn proposal(filling: u8) -> Input {
    let (hash, bytes) = block(filling);
    let proposal = Proposal {
        epoch: EPOCH,
        height: HEIGHT,
        round: Round(0),
        block: hash,
        valid_round: None,
        proposer: key(2).public(),
    };
    message(Payload::Proposal {
        proposal: Signer::new(chain(), key(2))
            .sign_proposal(proposal)
            .unwrap(),
        block: bytes,
    })
}

pub(super) fn signatures(
    kind: VoteKind,
    block: Hash,
) -> Vec<(PublicKey, axolotl_common::Signature)> {
    let votes = [2, 3, 4].map(|v| vote_of(v, HEIGHT, kind, Some(block)));
    votes.map(|v| (v.vote.validator, v.signature)).to_vec()
}

pub(super) fn polka() -> PolkaCertificate {
    PolkaCertificate {
        epoch: EPOCH,
        height: HEIGHT,
        round: Round(0),
        block: block(1).0,
        signatures: signatures(VoteKind::Prevote, block(1).0),
    }
}

pub(super) fn skip_to_round(round: u32) -> RoundCertificate {
    let of = |validator: u8| {
        let vote = Vote {
            epoch: EPOCH,
            height: HEIGHT,
            round: Round(round),
            kind: VoteKind::Prevote,
            block: None,
            validator: key(validator).public(),
        };
        let signed = Signer::new(chain(), key(validator))
            .sign_vote(vote)
            .unwrap();
        RoundSignature {
            kind: VoteKind::Prevote,
            block: None,
            validator: signed.vote.validator,
            signature: signed.signature,
        }
    };
    RoundCertificate {
        epoch: EPOCH,
        height: HEIGHT,
        round: Round(round),
        kind: RoundCertificateKind::Skip,
        signatures: [2, 3].map(of).to_vec(),
    }
}

/// One driver with its log.
pub(super) struct Bench {
    pub(super) driver: Driver,
    pub(super) log: Vec<LogRecord>,
    pub(super) set: Arc<ValidatorSet>,
}

impl Bench {
    /// Member `number` of 1 to 4, at height 5 of epoch 3; its amnesia check waits.
    pub(super) fn new(number: u8) -> Self {
        let set = Arc::new(set(EPOCH.0, &[1, 2, 3, 4]));
        let mut this = Self {
            driver: Driver::new(config(number)),
            log: Vec::new(),
            set,
        };
        let effects = this
            .driver
            .replay(Now::ZERO, start(5, &this.set), Vec::new());
        this.keep(&effects);
        this
    }

    pub(super) fn keep(&mut self, effects: &[Effect]) {
        let unsynced = effects.iter().filter_map(|effect| match effect {
            Effect::Append(record) => Some(record.clone()),
            _ => None,
        });
        self.log.extend(unsynced);
    }

    pub(super) fn step(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.driver.step(Now::ZERO, input);
        self.keep(&effects);
        effects
    }

    pub(super) fn seal(&mut self, epoch: u64) -> Vec<Effect> {
        let effects = self.driver.seal(Epoch(epoch));
        self.keep(&effects);
        effects
    }

    pub(super) fn answered(mut self) -> Self {
        for other in [2, 3] {
            let from = key(other).public();
            self.step(Input::HighestVoteSeen { from, vote: None });
        }
        self
    }

    pub(super) fn checked(&mut self, filling: u8) -> Vec<Effect> {
        self.step(Input::Checked {
            height: HEIGHT,
            round: Round(0),
            block: block(filling).0,
            verdict: Verdict::Valid,
        })
    }

    /// Validator 1, which precommitted to block 1 in round 0.
    pub(super) fn locked() -> Self {
        let mut this = Self::new(1).answered();
        this.step(proposal(1));
        this.checked(1);
        let hash = Some(block(1).0);
        this.step(vote(2, VoteKind::Prevote, hash));
        let effects = this.step(vote(3, VoteKind::Prevote, hash));
        let precommit = |effect: &Effect| matches!(effect, Effect::Broadcast(m) if m.kind() == crate::MessageKind::Precommit);
        assert!(effects.iter().any(precommit), "{effects:?}");
        this
    }

    /// The process starts again on what was logged, at another height perhaps.
    pub(super) fn restarted(&self, number: u8, height: u64, set: &Arc<ValidatorSet>) -> Self {
        let mut this = Self {
            driver: Driver::new(config(number)),
            log: self.log.clone(),
            set: Arc::clone(set),
        };
        let effects = this
            .driver
            .replay(Now::ZERO, start(height, set), self.log.clone());
        assert!(
            !signs(&effects) || this.driver.sealed().is_none(),
            "{effects:?}"
        );
        this.keep(&effects);
        this
    }

    pub(super) fn statement(&self) -> Statement {
        self.try_statement().unwrap()
    }

    pub(super) fn try_statement(&self) -> Result<Statement, &'static str> {
        let head = StatedHead {
            height: Height(4),
            hash: Hash([4; 32]),
            certificate: None,
            governing: EPOCH,
        };
        // The block's last byte stands for the number of a planned record that it carries.
        let carries = |bytes: &[u8]| bytes.last().map(|b| Epoch(u64::from(*b)));
        self.driver.statement(EPOCH, ballot(), head, carries)
    }
}

pub(super) fn ballot() -> Ballot {
    Ballot {
        start: RegistryStart {
            counter: 1,
            id: StartId([7; 16]),
        },
        attempt: 2,
    }
}

/// Whether anything came of the core: a record, a message of this node's own, a block to build or check.
pub(super) fn signs(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| {
        matches!(
            effect,
            Effect::Append(_)
                | Effect::Broadcast(_)
                | Effect::Commit { .. }
                | Effect::BuildBlock { .. }
                | Effect::CheckBlock { .. }
        )
    })
}

/// Everything that moves a core at height 5.
pub(super) fn all_inputs() -> Vec<Input> {
    let hash = block(1).0;
    let mut inputs = vec![
        Input::Work(true),
        proposal(1),
        proposal(2),
        Input::Checked {
            height: HEIGHT,
            round: Round(0),
            block: hash,
            verdict: Verdict::Valid,
        },
        vote(2, VoteKind::Prevote, Some(hash)),
        vote(3, VoteKind::Prevote, Some(hash)),
        message(Payload::Polka(polka())),
        vote(2, VoteKind::Precommit, Some(hash)),
        message(Payload::Round(skip_to_round(2))),
        vote(3, VoteKind::Precommit, Some(hash)),
        vote(4, VoteKind::Precommit, Some(hash)),
        Input::Built {
            height: HEIGHT,
            round: Round(2),
            block: hash,
            bytes: block(1).1,
        },
    ];
    for kind in [
        TimerKind::Propose,
        TimerKind::Prevote,
        TimerKind::Precommit,
        TimerKind::Rebroadcast,
        TimerKind::EmptyBlock,
        TimerKind::Amnesia,
    ] {
        let height = HEIGHT;
        let round = Round(0);
        inputs.push(Input::Timer(TimerId {
            height,
            round,
            kind,
        }));
    }
    for from in [2, 3, 4] {
        let from = key(from).public();
        inputs.push(Input::HighestVoteSeen { from, vote: None });
    }
    inputs
}
