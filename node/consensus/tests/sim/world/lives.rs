//! How nodes start, crash, store blocks and get work.

use axolotl_common::{BlockProof, EpochRecord};
use axolotl_consensus::{HeightStart, Input};
use bytes::Bytes;
use rand::Rng;

use super::{Event, STATUS_EVERY, World};
use crate::sim::{
    invariants::{Invariants, Violation},
    ledger::{self, Block, Stored},
};

/// Share of the registry's orders that arrive before the faults are lifted.
const ORDERS_HEARD: f64 = 0.5;

impl World {
    pub(super) fn boot(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].running.is_some() || self.nodes[node].disk.conflict {
            return Ok(());
        }
        let records = self.nodes[node].boot(self.setup.term, self.now);
        let boot = self.nodes[node].boot;
        self.after(STATUS_EVERY, Event::Status { node, boot });
        self.log(format_args!("{node} starts with {} records", records.len()));
        let start = self.nodes[node].disk.chain.start();
        self.begins(node, &start)?;
        let now = self.clock(node);
        let Some(running) = self.nodes[node].running.as_mut() else {
            return Ok(());
        };
        let effects = running.driver.replay(now, start, records);
        self.perform(node, effects)?;
        self.order_record(node)?;
        self.tell_work(node)
    }

    fn begins(&mut self, node: usize, start: &HeightStart) -> Result<(), Violation> {
        if self.nodes[node].is_honest() {
            self.invariants.begins(node, start)?;
        }
        Ok(())
    }

    // The record that the registry has signed.

    /// The registry's order reaches a node, or does not while something is wrong.
    pub(super) fn order_record(&mut self, node: usize) -> Result<(), Violation> {
        let Some(record) = self.record.clone() else {
            return Ok(());
        };
        if self.healed || self.rng.random_bool(ORDERS_HEARD) {
            self.hear_record(node, &record)?;
        }
        Ok(())
    }

    /// A record reaches a node; what is news goes on to the others.
    pub(super) fn hear_record(
        &mut self,
        node: usize,
        record: &EpochRecord,
    ) -> Result<(), Violation> {
        if self.nodes[node].hear_record(record) {
            self.log(format_args!("{node} hears of epoch {}", record.number));
            self.gossip_record(node);
            self.tell_work(node)?;
        }
        Ok(())
    }

    pub(super) fn gossip_record(&mut self, node: usize) {
        let Some(record) = self.nodes[node].pending_record().cloned() else {
            return;
        };
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let record = record.clone();
            self.send_own(node, other, |_, to| Event::Record { to, record });
        }
    }

    pub(super) fn crash(&mut self, node: usize) {
        if self.nodes[node].running.take().is_some() {
            self.log(format_args!("{node} crashes"));
            self.steady.insert(node, self.now);
            let rng = &mut self.rng;
            self.nodes[node].disk.crash(rng);
        }
    }

    pub(super) fn begin(&mut self, node: usize) -> Result<(), Violation> {
        let start = self.nodes[node].disk.chain.start();
        self.begins(node, &start)?;
        let work = self.nodes[node].has_work();
        self.step(node, Input::Work(work))?;
        self.step(node, Input::Begin(start))?;
        // Who has work tells the rest of it again.
        let pending = self.nodes[node].running.as_ref().and_then(|running| {
            let included = &self.nodes[node].disk.chain.included;
            running
                .mempool
                .iter()
                .find(|t| !included.contains(t))
                .copied()
        });
        if let Some(transaction) = pending {
            self.gossip(node, transaction);
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        node: usize,
        bytes: Bytes,
        proof: BlockProof,
    ) -> Result<(), Violation> {
        let Some(block) = Block::decode(&bytes) else {
            return Err(Violation {
                invariant: "validity",
                what: format!("node {node} stores what is no block"),
            });
        };
        let chain = &self.nodes[node].disk.chain;
        if block.height != chain.height().next() {
            return Ok(()); // sync was faster
        }
        let stored = Stored {
            hash: ledger::hash(&bytes),
            block,
            bytes: bytes.clone(),
            proof: proof.clone(),
            ahead: Vec::new(),
        };
        if self.nodes[node].is_honest() {
            self.invariants.stored(node, chain, &stored)?;
            Invariants::submitted(&self.submitted, &stored)?;
        }
        if let BlockProof::Certificate(certificate) = &proof
            && certificate.round.0 > 0
        {
            self.late.insert(certificate.height);
        }
        if self.healed && self.first_block.is_none() {
            self.first_block = Some(self.now);
        }
        self.log(format_args!(
            "{node} stores {} {}",
            stored.block.height, stored.hash
        ));
        self.nodes[node]
            .disk
            .chain
            .append(bytes, proof)
            .map_err(|what| Violation {
                invariant: "validity",
                what: format!("node {node}: {what}"),
            })
    }

    // Work.

    pub(super) fn submit(&mut self, transaction: u64) -> Result<(), Violation> {
        self.submitted.insert(transaction);
        let node = self.rng.random_range(0..self.nodes.len());
        if self.nodes[node].running.is_some() {
            self.pool(node, transaction);
            self.gossip(node, transaction);
            self.tell_work(node)?;
        }
        let every = self.setup.plan.transaction_every;
        let pause = self.rng.random_range(every / 2..every * 3 / 2);
        self.after(pause, Event::Transaction(transaction + 1));
        Ok(())
    }

    pub(super) fn gossip(&mut self, node: usize, transaction: u64) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.send_own(node, other, |_, to| Event::Gossip { to, transaction });
        }
    }

    pub(super) fn pool(&mut self, node: usize, transaction: u64) {
        if let Some(running) = self.nodes[node].running.as_mut() {
            running.mempool.insert(transaction);
        }
    }

    pub(super) fn tell_work(&mut self, node: usize) -> Result<(), Violation> {
        let work = self.nodes[node].has_work();
        self.step(node, Input::Work(work))
    }
}
