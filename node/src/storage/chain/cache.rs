//! Decoded blocks that were used last.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axolotl_common::BlockProof;

use super::StoredBlock;

/// About what a decoded transaction takes beside its bytes, which it keeps.
const TX_BYTES: usize = 700;
/// About what a receipt takes beside its logs.
const RECEIPT_BYTES: usize = 200;
/// About what a log takes beside its data.
const LOG_BYTES: usize = 160;
/// About what a block takes beside its transactions.
const BLOCK_BYTES: usize = 2 << 10;

/// About what a block takes in memory.
fn size_of(block: &StoredBlock) -> usize {
    let txs: usize = block
        .block
        .transactions
        .iter()
        .map(|tx| TX_BYTES + 2 * tx.raw().len())
        .sum();
    let logs: usize = block
        .receipts
        .iter()
        .flat_map(|receipt| &receipt.logs)
        .map(|log| LOG_BYTES + log.data.data.len())
        .sum();
    let proof = block.proof.as_ref().map_or(0, BlockProof::size);
    BLOCK_BYTES + proof + txs + logs + block.receipts.len() * RECEIPT_BYTES
}

#[derive(Debug)]
struct Entry {
    block: Arc<StoredBlock>,
    size: usize,
    used: u64,
}

/// Bounded by bytes; the least recently used goes first. The newest always stays, so that one large
/// block is not decoded for each of its receipts.
#[derive(Debug)]
pub(super) struct BlockCache {
    max_bytes: usize,
    bytes: usize,
    clock: u64,
    entries: HashMap<u64, Entry>,
    order: BTreeMap<u64, u64>,
}

impl BlockCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            bytes: 0,
            clock: 0,
            entries: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    pub(super) fn get(&mut self, height: u64) -> Option<Arc<StoredBlock>> {
        self.clock += 1;
        let entry = self.entries.get_mut(&height)?;
        self.order.remove(&entry.used);
        entry.used = self.clock;
        self.order.insert(self.clock, height);
        Some(Arc::clone(&entry.block))
    }

    pub(super) fn insert(&mut self, block: Arc<StoredBlock>) {
        let height = block.block.header.number;
        self.remove(height);
        self.clock += 1;
        let size = size_of(&block);
        let used = self.clock;
        self.order.insert(used, height);
        self.entries.insert(height, Entry { block, size, used });
        self.bytes += size;
        while self.bytes > self.max_bytes && self.entries.len() > 1 {
            match self.order.first_key_value() {
                Some((_, oldest)) => self.remove(*oldest),
                None => break,
            }
        }
    }

    pub(super) fn remove(&mut self, height: u64) {
        if let Some(entry) = self.entries.remove(&height) {
            self.order.remove(&entry.used);
            self.bytes -= entry.size;
        }
    }

    pub(super) fn usage(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }
}
