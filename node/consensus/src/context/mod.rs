//! The core and its `Context`: the only place that knows the library behind it.
//!
//! [`core::Core`] decides one height under one epoch and is thrown away after it, so nothing
//! can leak from one height into the next, or from one epoch into another. The core orders block
//! hashes (`ProposalAndParts` with the hash as the value); the block's bytes travel beside the
//! signed proposal and are the driver's business.

mod convert;
pub(crate) mod core;

use std::fmt;

use axolotl_common::{Epoch, Hash, KeyPair, PublicKey, Signature};
use bft_types::{
    Address, Context, Height, LinearTimeouts, NilOrVal, Proposal, ProposalPart, Round,
    SignedExtension, SigningScheme, Validator, ValidatorSet, Value, Vote, VoteType, VotingPower,
};

/// Address of a validator: its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Addr(pub(crate) PublicKey);

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Address for Addr {}

/// A height, as the core wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CoreHeight(pub(crate) u64);

impl fmt::Display for CoreHeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Height for CoreHeight {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// What the core orders: the hash of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockId(pub(crate) Hash);

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for BlockId {
    type Id = Self;

    fn id(&self) -> Self {
        *self
    }
}

/// Ed25519 with the keys of `common`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ed25519;

impl SigningScheme for Ed25519 {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = PublicKey;
    type PrivateKey = KeyPair;

    fn decode_signature(bytes: &[u8]) -> Result<Signature, Self::DecodingError> {
        let bytes = bytes.try_into().map_err(|_| "not 64 bytes")?;
        Ok(Signature(bytes))
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.0.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<PublicKey, Self::DecodingError> {
        let bytes = bytes.try_into().map_err(|_| "not 32 bytes")?;
        Ok(PublicKey(bytes))
    }

    fn encode_public_key(key: &PublicKey) -> Vec<u8> {
        key.0.to_vec()
    }
}

/// A vote, as the core wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreVote {
    pub(crate) epoch: Epoch,
    pub(crate) height: CoreHeight,
    pub(crate) round: Round,
    pub(crate) value: NilOrVal<BlockId>,
    pub(crate) kind: VoteType,
    pub(crate) validator: Addr,
}

impl Vote<Ctx> for CoreVote {
    fn height(&self) -> CoreHeight {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<BlockId> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<BlockId> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Addr {
        &self.validator
    }

    fn extension(&self) -> Option<&SignedExtension<Ctx>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Ctx>> {
        None
    }

    fn extend(self, _: SignedExtension<Ctx>) -> Self {
        self
    }
}

/// A proposal, as the core wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreProposal {
    pub(crate) epoch: Epoch,
    pub(crate) height: CoreHeight,
    pub(crate) round: Round,
    pub(crate) value: BlockId,
    pub(crate) valid_round: Round,
    pub(crate) proposer: Addr,
}

impl Proposal<Ctx> for CoreProposal {
    fn height(&self) -> CoreHeight {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &BlockId {
        &self.value
    }

    fn take_value(self) -> BlockId {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.valid_round
    }

    fn validator_address(&self) -> &Addr {
        &self.proposer
    }
}

/// Blocks are not sent in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoPart;

impl ProposalPart<Ctx> for NoPart {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// One validator; each weighs 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreValidator(pub(crate) Addr);

impl Validator<Ctx> for CoreValidator {
    fn address(&self) -> &Addr {
        &self.0
    }

    fn public_key(&self) -> &PublicKey {
        &self.0.0
    }

    fn voting_power(&self) -> VotingPower {
        1
    }
}

/// The validators in the order in which they propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreValidators(pub(crate) std::sync::Arc<[CoreValidator]>);

impl ValidatorSet<Ctx> for CoreValidators {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn total_voting_power(&self) -> VotingPower {
        self.0.iter().map(Validator::voting_power).sum()
    }

    fn get_by_address(&self, address: &Addr) -> Option<&CoreValidator> {
        self.0.iter().find(|validator| validator.0 == *address)
    }

    fn get_by_index(&self, index: usize) -> Option<&CoreValidator> {
        self.0.get(index)
    }
}

/// What is inside every vote and proposal beyond what the core knows: the epoch. The chain joins it
/// in [`crate::signatures`], where the bytes to sign are made.
#[derive(Clone, Debug)]
pub(crate) struct Ctx {
    pub(crate) epoch: Epoch,
}

impl Context for Ctx {
    type Address = Addr;
    type Height = CoreHeight;
    type ProposalPart = NoPart;
    type Proposal = CoreProposal;
    type Validator = CoreValidator;
    type ValidatorSet = CoreValidators;
    type Timeouts = LinearTimeouts;
    type Value = BlockId;
    type Vote = CoreVote;
    type Extension = ();
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(
        &self,
        validators: &'a CoreValidators,
        _: CoreHeight,
        round: Round,
    ) -> &'a CoreValidator {
        let round = usize::try_from(round.as_u32().unwrap_or(0)).unwrap_or(0);
        &validators.0[round % validators.0.len()]
    }

    fn new_proposal(
        &self,
        height: CoreHeight,
        round: Round,
        value: BlockId,
        valid_round: Round,
        proposer: Addr,
    ) -> CoreProposal {
        CoreProposal {
            epoch: self.epoch,
            height,
            round,
            value,
            valid_round,
            proposer,
        }
    }

    fn new_prevote(
        &self,
        height: CoreHeight,
        round: Round,
        value: NilOrVal<BlockId>,
        validator: Addr,
    ) -> CoreVote {
        CoreVote {
            epoch: self.epoch,
            height,
            round,
            value,
            kind: VoteType::Prevote,
            validator,
        }
    }

    fn new_precommit(
        &self,
        height: CoreHeight,
        round: Round,
        value: NilOrVal<BlockId>,
        validator: Addr,
    ) -> CoreVote {
        CoreVote {
            kind: VoteType::Precommit,
            ..self.new_prevote(height, round, value, validator)
        }
    }
}
