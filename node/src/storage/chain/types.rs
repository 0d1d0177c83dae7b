//! What the chain takes and gives.

use std::{sync::Arc, time::Duration};

use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes};
use axolotl_common::{
    BlockProof, CommitCertificate, Height, PublicKey, SignedRecord, ValidatorSet,
};
use axolotl_ledger::{Block, Receipt};

/// Sizes and times of the storage.
#[derive(Clone, Copy, Debug)]
pub struct StorageOptions {
    /// A checkpoint is written after this many blocks …
    pub checkpoint_blocks: u64,
    /// … or this long after the last one …
    pub checkpoint_interval: Duration,
    /// … or when what lies over the last one takes this many bytes. When twice as many have come
    /// together while a checkpoint is being written, publishing waits for it.
    pub overlay_bytes: usize,
    /// Blocks whose state is kept.
    pub history_blocks: usize,
    /// Bytes that keeping their state may take; the oldest goes first.
    pub history_bytes: usize,
    /// Bytes of decoded blocks that are kept.
    pub block_cache_bytes: usize,
    /// Cache of the state store, bytes.
    pub store_cache_bytes: usize,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            checkpoint_blocks: 1_024,
            checkpoint_interval: Duration::from_secs(30),
            overlay_bytes: 8 << 20,
            history_blocks: 128,
            history_bytes: 12 << 20,
            block_cache_bytes: 8 << 20,
            store_cache_bytes: 16 << 20,
        }
    }
}

/// How far the replay at open is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Blocks executed again.
    pub done: u64,
    /// Blocks after the last checkpoint.
    pub total: u64,
}

/// The end of the chain.
#[derive(Clone, Debug)]
pub struct Head {
    /// Header of the block.
    pub header: Header,
    /// Hash of the block.
    pub hash: B256,
    /// The certificate that made it final. Block 0 has none; nor has a block that was adopted, or
    /// whose record is damaged.
    pub certificate: Option<CommitCertificate>,
    /// The validators that vote on the next block.
    pub validators: Arc<ValidatorSet>,
    /// The validators whose epoch ended at this block, if one did: by a record in the block, or by a
    /// recovery or forced record on top of it.
    pub previous_validators: Option<Arc<ValidatorSet>>,
    /// The recovery or forced record that is in force and that the next block must carry.
    pub due: Option<Arc<SignedRecord>>,
    /// The validator that built the block; block 0 has none.
    pub last_builder: Option<PublicKey>,
}

impl Head {
    /// Height of the block.
    pub fn height(&self) -> Height {
        Height(self.header.number)
    }
}

/// A block with what belongs to it.
#[derive(Clone, Debug)]
pub struct StoredBlock {
    /// The block.
    pub block: Block,
    /// Its hash.
    pub hash: B256,
    /// What became of its transactions, in their order.
    pub receipts: Vec<Receipt>,
    /// What made it final; block 0 has none.
    pub proof: Option<BlockProof>,
    /// The block was fetched again after its record was damaged, and its receipts are not known.
    pub receipts_lost: bool,
}

/// A block as it lies in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBlock {
    /// The recovery and forced records that took force between the block before and this one, in order.
    pub records: Vec<Arc<SignedRecord>>,
    /// The encoded block.
    pub block: Bytes,
    /// What made it final.
    pub proof: BlockProof,
}

impl RawBlock {
    /// About its size on the wire, bytes.
    pub fn size(&self) -> usize {
        let records: usize = self.records.iter().map(|record| record.size()).sum();
        self.block.len() + self.proof.size() + records
    }
}

/// What the chain takes, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainStats {
    /// Height of the head.
    pub head: u64,
    /// Height of the last checkpoint.
    pub checkpoint: u64,
    /// Blocks over the last checkpoint.
    pub overlay_blocks: u64,
    /// Bytes over the last checkpoint.
    pub overlay_bytes: usize,
    /// Blocks whose state is kept.
    pub history_blocks: usize,
    /// Bytes that this takes.
    pub history_bytes: usize,
    /// Decoded blocks that are kept.
    pub cached_blocks: usize,
    /// Bytes that this takes.
    pub cached_bytes: usize,
    /// Bytes of the block log.
    pub block_log_bytes: u64,
}
