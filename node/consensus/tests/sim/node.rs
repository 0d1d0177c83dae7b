//! One simulated node: the real driver, a disk, and what the engine around the driver does.

use std::collections::{BTreeMap, BTreeSet};

use axolotl_common::{Height, KeyPair, genesis::Timing};
use axolotl_consensus::{Config, Driver, LogRecord, TimerId};

use super::{
    byzantine::{Actor, ActorKind},
    disk::Disk,
    ledger::{self, Block, Chain, MAX_BLOCK_BYTES, MAX_TRANSACTIONS, Record},
};

pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) key: KeyPair,
    pub(crate) disk: Disk,
    pub(crate) actor: Option<Box<dyn Actor>>,
    /// Whether it lies of its own will; a mutant lies because its code is broken.
    pub(crate) liar: bool,
    pub(crate) drift: f64,
    /// A copy of the volume, put aside.
    pub(crate) snapshot: Option<Disk>,
    /// Height of the copy that took the place of the volume.
    pub(crate) rolled_back: Option<Height>,
    /// Starts of this node.
    pub(crate) boot: u64,
    /// What a crash takes away; `None` while the node is down.
    pub(crate) running: Option<Running>,
}

/// The memory of a running node.
pub(crate) struct Running {
    pub(crate) driver: Driver,
    /// Timers that are set, by what was last said of them.
    pub(crate) timers: BTreeMap<TimerId, u64>,
    pub(crate) mempool: BTreeSet<u64>,
    /// Bytes that arrived: gossip delivers them once.
    pub(crate) seen: BTreeSet<axolotl_common::Hash>,
    /// Effects until the power is lost.
    pub(crate) crash_in: Option<u32>,
    pub(crate) syncing: bool,
    /// A block that is being written, which is not durable yet.
    pub(crate) storing: bool,
    /// Found unfit by the amnesia check.
    pub(crate) unfit: bool,
}

impl Node {
    pub(crate) fn new(number: usize, chain: Chain, kind: Option<ActorKind>, drift: f64) -> Self {
        Self {
            number,
            key: ledger::key(number),
            disk: Disk::new(chain, false),
            actor: kind.map(ActorKind::actor),
            liar: kind.is_some(),
            drift,
            snapshot: None,
            rolled_back: None,
            boot: 0,
            running: None,
        }
    }

    pub(crate) fn is_honest(&self) -> bool {
        !self.liar
    }

    /// Starts the node and returns what its log holds.
    pub(crate) fn boot(&mut self, term: u64) -> Vec<LogRecord> {
        self.boot += 1;
        let config = Config {
            chain: ledger::chain_ref(),
            key: self.key.clone(),
            incarnation: self.boot,
            timing: Timing::default(),
            leader_term_blocks: term,
            max_block_bytes: MAX_BLOCK_BYTES,
            summary: ledger::summary,
        };
        self.running = Some(Running {
            driver: Driver::new(config),
            timers: BTreeMap::new(),
            mempool: BTreeSet::new(),
            seen: BTreeSet::new(),
            crash_in: None,
            syncing: false,
            storing: false,
            unfit: false,
        });
        let records = self.disk.open();
        records
            .iter()
            .map(|bytes| LogRecord::decode(bytes).expect("a record that was written is read"))
            .collect()
    }

    /// Whether there is something to put into a block.
    pub(crate) fn has_work(&self, record: Option<&Record>) -> bool {
        let chain = &self.disk.chain;
        let pending =
            |running: &Running| running.mempool.iter().any(|t| !chain.included.contains(t));
        self.running.as_ref().is_some_and(pending) || self.pending_record(record).is_some()
    }

    pub(crate) fn pending_record<'a>(&self, record: Option<&'a Record>) -> Option<&'a Record> {
        record.filter(|record| record.succeeds == self.disk.chain.set.epoch())
    }

    /// A block on top of the chain.
    pub(crate) fn build(&self, nonce: u64, record: Option<&Record>) -> Block {
        let chain = &self.disk.chain;
        let mempool = self.running.iter().flat_map(|running| &running.mempool);
        Block {
            height: chain.height().next(),
            parent: chain.head(),
            builder: self.key.public(),
            nonce,
            transactions: mempool
                .copied()
                .filter(|t| !chain.included.contains(t))
                .take(MAX_TRANSACTIONS)
                .collect(),
            record: self.pending_record(record).cloned(),
        }
    }
}
