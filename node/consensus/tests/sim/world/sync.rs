//! Sync, which does not go through consensus: certificates are verified, then blocks stored.

use axolotl_common::{BlockProof, Epoch, Height};
use rand::seq::IndexedRandom;

use super::{Event, World};
use crate::sim::{
    byzantine::ActorKind,
    invariants::Violation,
    ledger::{self, Block, Stored},
};

/// Blocks of one sync answer.
const SYNC_BATCH: usize = 16;

impl World {
    /// Whether a node would answer: where quorums are lost nobody asks those who are not connected.
    fn answers(&self, node: usize) -> bool {
        self.setup.loss.is_none() || self.nodes[node].running.is_some()
    }

    pub(super) fn sync(&mut self, node: usize, seen: Height) {
        let boot = self.nodes[node].boot;
        let above = self.nodes[node].disk.chain.height();
        let Some(running) = self.nodes[node].running.as_mut() else {
            return;
        };
        if running.syncing || running.storing || seen <= above.next() {
            return;
        }
        running.syncing = true;
        self.log(format_args!("{node} syncs above {above}, saw {seen}"));
        let others: Vec<_> = (0..self.nodes.len())
            .filter(|other| *other != node && self.answers(*other))
            .collect();
        let rng = &mut self.rng;
        let chosen: Vec<_> = others.choose_multiple(rng, 2).copied().collect();
        for to in chosen {
            self.send_own(node, to, |from, to| Event::SyncAsked { from, to, above });
        }
        self.after(500_000, Event::SyncGivenUp { node, boot });
    }

    pub(super) fn answer_sync(&mut self, from: usize, to: usize, above: Height) {
        let silent = self.setup.plan.actors.get(&to) == Some(&ActorKind::Silent);
        if self.nodes[to].running.is_none() || silent {
            return;
        }
        let skip = usize::try_from(above.0).unwrap();
        let chain = &self.nodes[to].disk.chain;
        let mut blocks: Vec<_> = chain
            .blocks
            .iter()
            .skip(skip)
            .take(SYNC_BATCH)
            .cloned()
            .collect();
        if self.nodes[to].actor.is_some()
            && let Some(BlockProof::Certificate(certificate)) =
                blocks.first_mut().map(|stored| &mut stored.proof)
        {
            // A liar serves a certificate that lacks a signature.
            certificate.signatures.pop();
        }
        let boot = self.nodes[from].boot;
        self.send_own(to, from, |_, node| Event::SyncAnswered {
            node,
            boot,
            blocks,
        });
    }

    pub(super) fn synced(&mut self, node: usize, blocks: Vec<Stored>) -> Result<(), Violation> {
        if let Some(running) = self.nodes[node].running.as_mut() {
            running.syncing = false;
            if running.storing {
                return Ok(());
            }
        }
        let before = self.place(node);
        for stored in blocks {
            if !self.apply(node, stored)? {
                break;
            }
        }
        if self.place(node) > before {
            self.begin(node)?;
        }
        Ok(())
    }

    fn place(&self, node: usize) -> (Height, Epoch) {
        let chain = &self.nodes[node].disk.chain;
        (chain.height(), chain.set.epoch())
    }

    /// Verifies and stores one block, and what stands ahead of it. Returns whether it is there now.
    fn apply(&mut self, node: usize, stored: Stored) -> Result<bool, Violation> {
        let height = stored.block.height;
        let next = self.nodes[node].disk.chain.height().next();
        if height != next {
            return Ok(height < next);
        }
        for record in &stored.ahead {
            if self.activate(node, record, None)?.is_err() {
                return Ok(false);
            }
        }
        match stored.proof {
            BlockProof::Record(signed) => {
                let taken = self.activate(node, &signed, Some(&stored.bytes))?;
                Ok(taken.is_ok() && self.nodes[node].disk.chain.height() == height)
            }
            BlockProof::Certificate(certificate) => {
                let chain = &self.nodes[node].disk.chain;
                let good = Block::decode(&stored.bytes)
                    .is_some_and(|block| chain.check(&block).is_ok())
                    && certificate.block == ledger::hash(&stored.bytes)
                    && certificate.height == height
                    && certificate.verify(&ledger::chain_ref(), &chain.set).is_ok();
                if good {
                    self.store(node, stored.bytes, certificate.into())?;
                }
                Ok(good)
            }
        }
    }
}
