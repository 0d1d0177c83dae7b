//! Epochs: numbered validator sets in records signed by the authority.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    crypto::{KeyPair, PublicKey, Signature, domain, sign_bytes},
    ids::{ChainRef, Epoch, Hash, Height, NodeId, VolumeId},
    quorum::QuorumRule,
    recovery::{Acknowledgement, Handover},
};

/// Largest record, in its borsh form. Records stand outside the limit of a block's size.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// Largest draft of a recovery or forced record, in its borsh form: with the authority's signature and an
/// acknowledgement of each old and new validator it is still a record.
pub const MAX_DRAFT_BYTES: usize = MAX_RECORD_BYTES - (64 << 10);

/// Most validators in one epoch.
pub const MAX_MEMBERS: usize = 128;

/// One validator of an epoch.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
    utoipa::ToSchema,
)]
pub struct Member {
    /// Its label.
    pub node_id: NodeId,
    /// Its key, which is also its libp2p identity.
    pub public_key: PublicKey,
    /// Its data directory: a member that comes back with another volume signs nothing.
    pub volume_id: VolumeId,
}

/// How a record takes force.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum RecordKind {
    /// The first epoch, part of the genesis document.
    Genesis = 0,
    /// Carried in a block of the epoch that it succeeds and finalised by that epoch's quorum.
    Planned = 1,
    /// Signed after a seal, when the quorum was lost.
    Recovery = 2,
    /// Signed on an operator's word that data may be lost.
    Forced = 3,
}

/// A numbered validator set.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
    utoipa::ToSchema,
)]
pub struct EpochRecord {
    /// Number: grows, is never reused, may leave gaps.
    pub number: Epoch,
    /// How it takes force.
    pub kind: RecordKind,
    /// Hash of the record that it succeeds; for the genesis, of the genesis document.
    pub succeeds: Hash,
    /// Validators in list order, which is the order in which rounds pass from one to the next.
    pub members: Vec<Member>,
    /// The first block that this epoch votes on stands above this height.
    pub base_height: Height,
    /// A planned record is void from this height on.
    pub expiry_height: Option<Height>,
    /// What a recovery or forced record hands over from the lost epoch; `None` in all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Box<Handover>>,
}

impl EpochRecord {
    /// The record of the first epoch.
    pub fn genesis(chain: &ChainRef, members: Vec<Member>) -> Self {
        Self {
            number: Epoch(0),
            kind: RecordKind::Genesis,
            succeeds: chain.genesis,
            members,
            base_height: Height(0),
            expiry_height: None,
            handover: None,
        }
    }

    /// SHA-256 over chain and record: what the next record names as its predecessor.
    pub fn hash(&self, chain: &ChainRef) -> Hash {
        Hash::sha256(&self.sign_bytes(chain))
    }

    /// Bytes of its borsh form; see [`MAX_RECORD_BYTES`].
    pub fn size(&self) -> usize {
        borsh::object_length(self).unwrap_or(usize::MAX)
    }

    /// The bytes that the authority signs.
    pub fn sign_bytes(&self, chain: &ChainRef) -> Vec<u8> {
        sign_bytes(domain::RECORD, &(chain, self))
    }

    /// Signs the record with the authority key.
    pub fn sign(self, chain: &ChainRef, authority: &KeyPair) -> SignedRecord {
        let signature = authority.sign(&self.sign_bytes(chain));
        SignedRecord {
            record: self,
            signature,
            acknowledgements: Vec::new(),
        }
    }
}

/// A record with the authority's signature.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
    utoipa::ToSchema,
)]
pub struct SignedRecord {
    /// What is signed.
    pub record: EpochRecord,
    /// The authority's signature over [`EpochRecord::sign_bytes`].
    pub signature: Signature,
    /// Who staged the draft of a recovery record; empty for all others. Not part of the record's
    /// identity: whoever takes over signs the same draft with others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acknowledgements: Vec<Acknowledgement>,
}

impl SignedRecord {
    /// Whether the signature is the authority's.
    pub fn verify(&self, chain: &ChainRef, authority: &PublicKey) -> bool {
        authority.verify(&self.record.sign_bytes(chain), &self.signature)
    }

    /// Length of the borsh form, bytes.
    pub fn size(&self) -> usize {
        borsh::object_length(self).expect("counting bytes does not fail")
    }
}

/// The validators of one epoch, with their quorum.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ValidatorSet {
    epoch: Epoch,
    record_hash: Hash,
    rule: QuorumRule,
    members: Vec<Member>,
}

impl ValidatorSet {
    /// The set that a record names. `members` is neither empty nor larger than [`MAX_MEMBERS`] in
    /// a record that was accepted.
    pub fn new(chain: &ChainRef, record: &EpochRecord, rule: QuorumRule) -> Self {
        Self {
            epoch: record.number,
            record_hash: record.hash(chain),
            rule,
            members: record.members.clone(),
        }
    }

    /// Number of the epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Hash of the epoch's record.
    pub fn record_hash(&self) -> Hash {
        self.record_hash
    }

    /// The quorum rule of the chain.
    pub fn rule(&self) -> QuorumRule {
        self.rule
    }

    /// Validators in list order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Number of validators.
    #[allow(
        clippy::len_without_is_empty,
        reason = "a validator set is never empty"
    )]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Votes that finalise a block.
    pub fn quorum(&self) -> usize {
        self.rule.quorum(self.members.len())
    }

    /// Place of a validator in the list.
    pub fn position(&self, key: &PublicKey) -> Option<usize> {
        self.members
            .iter()
            .position(|member| member.public_key == *key)
    }

    /// The validator with this key.
    pub fn member(&self, key: &PublicKey) -> Option<&Member> {
        self.members.iter().find(|member| member.public_key == *key)
    }

    /// Whether the key is a validator's.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.position(key).is_some()
    }
}
