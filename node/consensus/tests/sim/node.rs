//! One simulated node: the real driver, a disk, and what the engine around the driver does.

use std::collections::{BTreeMap, BTreeSet};

use axolotl_common::{EpochRecord, Height, KeyPair, genesis::Timing};
use axolotl_consensus::{Config, Driver, LogRecord, TimerId};

use super::{
    byzantine::{Actor, ActorKind},
    disk::Disk,
    ledger::{self, Block, Chain, MAX_BLOCK_BYTES, MAX_TRANSACTIONS, check_planned},
    net::Micros,
    task::Task,
    world::executors::Executor,
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
    /// The newest record that was heard of.
    pub(crate) record: Option<EpochRecord>,
    /// Bytes that arrived: gossip delivers them once.
    pub(crate) seen: BTreeSet<axolotl_common::Hash>,
    /// Effects until the power is lost.
    pub(crate) crash_in: Option<u32>,
    pub(crate) syncing: bool,
    /// A block that is being written, which is not durable yet.
    pub(crate) storing: bool,
    /// Found unfit by the amnesia check.
    pub(crate) unfit: bool,
    /// When it started.
    pub(crate) since: Micros,
    /// When votes last decided a block in this process.
    pub(crate) decided: Option<Micros>,
    /// Builds and checks blocks.
    pub(crate) executor: Executor,
    /// Not its first start.
    pub(crate) restarted: bool,
    /// Staging a draft or putting a record into force, while the adopted block is fetched.
    pub(crate) task: Option<Task>,
}

impl Node {
    pub(crate) fn new(number: usize, chain: Chain, kind: Option<ActorKind>, drift: f64) -> Self {
        Self {
            number,
            key: ledger::key(number),
            disk: Disk::new(chain, ledger::volume(number)),
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
    pub(crate) fn boot(&mut self, term: u64, now: Micros) -> Vec<LogRecord> {
        self.boot += 1;
        let config = Config {
            chain: ledger::chain_ref(),
            key: self.key.clone(),
            volume: self.disk.volume,
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
            record: None,
            seen: BTreeSet::new(),
            crash_in: None,
            syncing: false,
            storing: false,
            unfit: false,
            since: now,
            decided: None,
            executor: Executor::default(),
            restarted: self.boot > 1,
            task: None,
        });
        let records = self.disk.open();
        records
            .iter()
            .map(|bytes| LogRecord::decode(bytes).expect("a record that was written is read"))
            .collect()
    }

    /// Whether there is something to put into a block.
    pub(crate) fn has_work(&self) -> bool {
        let chain = &self.disk.chain;
        let pending =
            |running: &Running| running.mempool.iter().any(|t| !chain.included.contains(t));
        self.running.as_ref().is_some_and(pending)
            || self.pending_record().is_some()
            || chain.due.is_some()
    }

    /// The record that the next block may carry.
    pub(crate) fn pending_record(&self) -> Option<&EpochRecord> {
        let chain = &self.disk.chain;
        let record = self.running.as_ref()?.record.as_ref()?;
        let fits = check_planned(record, &chain.set, chain.height().next()).is_ok();
        fits.then_some(record)
    }

    /// Hears of a record. `true` when it is news and may come into a block.
    pub(crate) fn hear_record(&mut self, record: &EpochRecord) -> bool {
        let chain = &self.disk.chain;
        let fits = check_planned(record, &chain.set, chain.height().next()).is_ok();
        let newer = self
            .pending_record()
            .is_none_or(|known| record.number > known.number);
        let Some(running) = self.running.as_mut().filter(|_| fits && newer) else {
            return false;
        };
        running.record = Some(record.clone());
        true
    }

    /// A block on top of the chain, of so many transactions at most.
    pub(crate) fn build(&self, nonce: u64, most: usize) -> Block {
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
                .take(MAX_TRANSACTIONS.min(most))
                .collect(),
            extra: 0,
            record: self
                .pending_record()
                .filter(|_| chain.due.is_none())
                .cloned(),
            due: chain.due,
        }
    }

    /// Why it must not vote, and is no survivor.
    pub(crate) fn is_unfit(&self) -> bool {
        let unfit = |running: &Running| {
            running.unfit || running.driver.is_unfit() || running.driver.other_volume().is_some()
        };
        self.disk.conflict || self.running.as_ref().is_some_and(unfit)
    }

    /// Whether its volume forgot something: then it counts as a liar where nobody notices.
    pub(crate) fn has_forgotten(&self) -> bool {
        self.rolled_back.is_some() || self.disk.volume != ledger::volume(self.number)
    }
}
