//! A trivial ledger: a block is a list of numbers on top of its parent's hash, and perhaps the next
//! validator set.

use std::{collections::BTreeSet, sync::Arc};

use axolotl_common::{
    ChainId, ChainRef, CommitCertificate, Epoch, EpochRecord, Hash, Height, KeyPair, Member,
    NodeId, PublicKey, QuorumRule, ValidatorSet, VolumeId, membership::RecordKind,
};
use axolotl_consensus::{BlockSummary, HeightStart};
use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

/// Transactions in one block.
pub(crate) const MAX_TRANSACTIONS: usize = 8;
/// Largest encoded block.
pub(crate) const MAX_BLOCK_BYTES: usize = 1_024;

/// The next validator set: node numbers in list order.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Record {
    pub(crate) succeeds: Epoch,
    pub(crate) number: Epoch,
    pub(crate) members: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Block {
    pub(crate) height: Height,
    pub(crate) parent: Hash,
    pub(crate) builder: PublicKey,
    /// Makes two blocks with the same contents differ.
    pub(crate) nonce: u64,
    pub(crate) transactions: Vec<u64>,
    pub(crate) record: Option<Record>,
}

impl Block {
    pub(crate) fn encode(&self) -> Bytes {
        borsh::to_vec(self).unwrap().into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        borsh::from_slice(bytes).ok()
    }
}

pub(crate) fn hash(bytes: &[u8]) -> Hash {
    Hash::sha256(bytes)
}

pub(crate) fn summary(bytes: &[u8]) -> Option<BlockSummary> {
    let block = Block::decode(bytes)?;
    Some(BlockSummary {
        hash: hash(bytes),
        height: block.height,
        builder: block.builder,
    })
}

pub(crate) fn key(node: usize) -> KeyPair {
    let mut seed = [77; 32];
    seed[0] = u8::try_from(node).unwrap();
    KeyPair::from_seed(&seed)
}

pub(crate) fn chain_ref() -> ChainRef {
    ChainRef {
        id: ChainId(7),
        genesis: Hash([9; 32]),
    }
}

pub(crate) fn validators(number: Epoch, members: &[u8], rule: QuorumRule) -> Arc<ValidatorSet> {
    let record = EpochRecord {
        number,
        kind: RecordKind::Planned,
        succeeds: Hash([0; 32]),
        members: members
            .iter()
            .map(|node| Member {
                node_id: NodeId::numbered(u64::from(*node)),
                public_key: key(usize::from(*node)).public(),
                volume_id: VolumeId([*node; 16]),
            })
            .collect(),
        base_height: Height(0),
        expiry_height: None,
    };
    Arc::new(ValidatorSet::new(&chain_ref(), &record, rule))
}

/// A block with the proof that it is final.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) block: Block,
    pub(crate) bytes: Bytes,
    pub(crate) hash: Hash,
    pub(crate) certificate: CommitCertificate,
}

/// A chain of blocks, with what follows from it.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) blocks: Vec<Stored>,
    pub(crate) rule: QuorumRule,
    pub(crate) included: BTreeSet<u64>,
    /// Validators of the next height, and of the last block if they were others.
    pub(crate) set: Arc<ValidatorSet>,
    pub(crate) members: Vec<u8>,
    previous: Option<Arc<ValidatorSet>>,
}

impl Chain {
    pub(crate) fn new(n: usize, rule: QuorumRule) -> Self {
        let members: Vec<u8> = (0..n).map(|m| u8::try_from(m).unwrap()).collect();
        Self {
            blocks: Vec::new(),
            rule,
            included: BTreeSet::new(),
            set: validators(Epoch(0), &members, rule),
            members,
            previous: None,
        }
    }

    pub(crate) fn height(&self) -> Height {
        Height(self.blocks.len() as u64)
    }

    pub(crate) fn head(&self) -> Hash {
        self.blocks.last().map_or(Hash([0; 32]), |b| b.hash)
    }

    pub(crate) fn at(&self, height: Height) -> Option<&Stored> {
        self.blocks
            .get(usize::try_from(height.0).ok()?.checked_sub(1)?)
    }

    /// What execution would say.
    pub(crate) fn check(&self, block: &Block) -> Result<(), String> {
        if block.height != self.height().next() || block.parent != self.head() {
            return Err("not on top of the head".into());
        }
        if !self.set.contains(&block.builder) {
            return Err("builder is no validator".into());
        }
        let distinct: BTreeSet<_> = block.transactions.iter().collect();
        if distinct.len() != block.transactions.len()
            || block.transactions.len() > MAX_TRANSACTIONS
            || block.transactions.iter().any(|t| self.included.contains(t))
        {
            return Err("transactions too many or not new".into());
        }
        match &block.record {
            Some(record) if record.succeeds != self.set.epoch() => {
                Err("record of another epoch".into())
            }
            Some(record) if record.number <= record.succeeds || record.members.is_empty() => {
                Err("record is malformed".into())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn append(
        &mut self,
        bytes: Bytes,
        certificate: CommitCertificate,
    ) -> Result<(), String> {
        let block = Block::decode(&bytes).ok_or("not a block")?;
        self.check(&block)?;
        self.included.extend(&block.transactions);
        self.previous = None;
        if let Some(record) = &block.record {
            let next = validators(record.number, &record.members, self.rule);
            self.previous = Some(std::mem::replace(&mut self.set, next));
            self.members = record.members.clone();
        }
        self.blocks.push(Stored {
            hash: hash(&bytes),
            block,
            bytes,
            certificate,
        });
        Ok(())
    }

    /// What the driver needs for the next height.
    pub(crate) fn start(&self) -> HeightStart {
        HeightStart {
            height: self.height().next(),
            validators: Arc::clone(&self.set),
            last_builder: self.blocks.last().map(|b| b.block.builder),
            previous_validators: self.previous.clone(),
            last_certificate: self.blocks.last().map(|b| b.certificate.clone()),
        }
    }
}
