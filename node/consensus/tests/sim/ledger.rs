//! A trivial ledger: a block is a list of numbers on top of its parent's hash, and perhaps the next
//! validator set.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use axolotl_common::{
    BlockProof, ChainRef, EpochRecord, Hash, Height, KeyPair, Member, NodeId, PublicKey,
    QuorumRule, SignedRecord, ValidatorSet, VolumeId, genesis::GenesisDocument,
    membership::RecordKind, recovery::Sets,
};
use axolotl_consensus::{BlockSummary, HeightStart};
use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;

/// Transactions in one block.
pub(crate) const MAX_TRANSACTIONS: usize = 8;
/// Largest encoded block.
pub(crate) const MAX_BLOCK_BYTES: usize = 4_096;

/// Whether a block at this height, on which `set` votes, may carry this planned record.
pub(crate) fn check_planned(
    record: &EpochRecord,
    set: &ValidatorSet,
    height: Height,
) -> Result<(), String> {
    if record.succeeds != set.record_hash() {
        Err("record of another epoch".into())
    } else if record.kind != RecordKind::Planned
        || record.number <= set.epoch()
        || record.members.is_empty()
    {
        Err("record is malformed".into())
    } else if record.expiry_height.is_some_and(|expiry| height >= expiry) {
        Err("record has expired".into())
    } else {
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Block {
    pub(crate) height: Height,
    pub(crate) parent: Hash,
    pub(crate) builder: PublicKey,
    /// Makes two blocks with the same contents differ.
    pub(crate) nonce: u64,
    pub(crate) transactions: Vec<u64>,
    /// What executing it costs besides, microseconds, on every node alike.
    pub(crate) extra: u64,
    /// A planned record.
    pub(crate) record: Option<EpochRecord>,
    /// Hash of the recovery record that the first block of its epoch must carry. (The record itself stands
    /// ahead of the block.)
    pub(crate) due: Option<Hash>,
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

/// The volume of a node.
pub(crate) fn volume(node: usize) -> VolumeId {
    VolumeId([u8::try_from(node).unwrap(); 16])
}

/// Where the volumes of the node begin that has lost the first one.
const NEW_VOLUME: u8 = 128;

/// A fresh volume of a node.
pub(crate) fn new_volume(node: usize) -> VolumeId {
    VolumeId([u8::try_from(node).unwrap() + NEW_VOLUME; 16])
}

/// The key that signs records.
pub(crate) fn authority() -> KeyPair {
    KeyPair::from_seed(&[99; 32])
}

/// A node as a record names it.
pub(crate) fn member(node: usize) -> Member {
    Member {
        node_id: NodeId::numbered(node as u64 + 1),
        public_key: key(node).public(),
        volume_id: volume(node),
    }
}

/// The genesis document. Its validators are not looked at: the record of epoch 0 names them.
pub(crate) fn document() -> &'static GenesisDocument {
    static DOCUMENT: OnceLock<GenesisDocument> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let axolotl = serde_json::json!({ "validators": [member(0)] });
        let value = serde_json::json!({ "config": { "chainId": 7 }, "axolotl": axolotl });
        GenesisDocument::from_value(value).unwrap()
    })
}

pub(crate) fn chain_ref() -> ChainRef {
    document().chain()
}

/// The record of epoch 0 of the first `n` nodes.
pub(crate) fn genesis_record(n: usize) -> EpochRecord {
    EpochRecord::genesis(&chain_ref(), (0..n).map(member).collect())
}

/// The number of the node with this key.
pub(crate) fn number_of(member: &Member) -> usize {
    usize::try_from(member.node_id.number().unwrap()).unwrap() - 1
}

/// A block with the proof that it is final.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) block: Block,
    pub(crate) bytes: Bytes,
    pub(crate) hash: Hash,
    pub(crate) proof: BlockProof,
    /// Recovery and forced records that took force right below it.
    pub(crate) ahead: Vec<SignedRecord>,
}

/// A chain of blocks, with what follows from it.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) blocks: Vec<Stored>,
    pub(crate) rule: QuorumRule,
    pub(crate) included: BTreeSet<u64>,
    /// Validators of the next height, and of the last block if they were others.
    pub(crate) set: Arc<ValidatorSet>,
    pub(crate) record: EpochRecord,
    pub(crate) previous: Option<Arc<ValidatorSet>>,
    /// The sets of all epochs so far.
    pub(crate) sets: Sets,
    /// The recovery record that the next block must carry.
    pub(crate) due: Option<Hash>,
    /// Records in force that no block stands above yet.
    pub(crate) ahead: Vec<SignedRecord>,
    /// The newest recovery or forced record.
    pub(crate) newest: Option<SignedRecord>,
    /// The mutant "set taken late": the next record, which should govern already.
    late: Option<EpochRecord>,
    pub(crate) takes_sets_late: bool,
}

impl Chain {
    pub(crate) fn new(n: usize, rule: QuorumRule) -> Self {
        let record = genesis_record(n);
        let set = ValidatorSet::new(&chain_ref(), &record, rule);
        Self {
            blocks: Vec::new(),
            rule,
            included: BTreeSet::new(),
            sets: [(record.number, set.clone())].into(),
            set: Arc::new(set),
            record,
            previous: None,
            due: None,
            ahead: Vec::new(),
            newest: None,
            late: None,
            takes_sets_late: false,
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
        if block.due != self.due || (block.due.is_some() && block.record.is_some()) {
            return Err("the first block of an epoch carries its record and no other".into());
        }
        let distinct: BTreeSet<_> = block.transactions.iter().collect();
        if distinct.len() != block.transactions.len()
            || block.transactions.len() > MAX_TRANSACTIONS
            || block.transactions.iter().any(|t| self.included.contains(t))
        {
            return Err("transactions too many or not new".into());
        }
        match &block.record {
            Some(record) => check_planned(record, &self.set, block.height),
            None => Ok(()),
        }
    }

    /// Appends a block. A record that is its proof takes force with it, and was checked before.
    pub(crate) fn append(&mut self, bytes: Bytes, proof: BlockProof) -> Result<(), String> {
        let block = Block::decode(&bytes).ok_or("not a block")?;
        self.check(&block)?;
        self.included.extend(&block.transactions);
        self.previous = None;
        self.due = None;
        let mut next = self.late.take();
        if let Some(record) = block.record.clone() {
            if self.takes_sets_late {
                self.late = Some(record);
            } else {
                next = Some(record);
            }
        }
        if let Some(record) = next {
            self.govern(record);
        }
        self.blocks.push(Stored {
            hash: hash(&bytes),
            block,
            bytes,
            ahead: std::mem::take(&mut self.ahead),
            proof: proof.clone(),
        });
        if let BlockProof::Record(signed) = proof {
            self.enter(&signed);
        }
        Ok(())
    }

    fn govern(&mut self, record: EpochRecord) {
        let set = ValidatorSet::new(&chain_ref(), &record, self.rule);
        self.sets.insert(record.number, set.clone());
        self.previous = Some(std::mem::replace(&mut self.set, Arc::new(set)));
        self.record = record;
    }

    /// Lets a recovery or forced record that was checked govern from the head on.
    pub(crate) fn enter(&mut self, signed: &SignedRecord) {
        self.ahead.push(signed.clone());
        self.govern(signed.record.clone());
        self.due = Some(self.set.record_hash());
        self.newest = Some(signed.clone());
    }

    /// What the driver needs for the next height.
    pub(crate) fn start(&self) -> HeightStart {
        let last = self.blocks.last();
        HeightStart {
            height: self.height().next(),
            validators: Arc::clone(&self.set),
            last_builder: last.map(|b| b.block.builder),
            previous_validators: self.previous.clone(),
            last_certificate: last.and_then(|b| b.proof.certificate().cloned()),
        }
    }
}
