//! Sync, which does not go through consensus: certificates are verified, then blocks stored.

use axolotl_common::{CommitCertificate, Height};
use bytes::Bytes;
use rand::seq::IndexedRandom;

use super::{Event, World};
use crate::sim::{
    byzantine::ActorKind,
    invariants::Violation,
    ledger::{self, Block},
};

/// Blocks of one sync answer.
const SYNC_BATCH: usize = 16;

impl World {
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
            .filter(|other| *other != node)
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
            .map(|b| (b.bytes.clone(), b.certificate.clone()))
            .collect();
        if self.nodes[to].actor.is_some()
            && let Some((_, certificate)) = blocks.first_mut()
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

    pub(super) fn synced(
        &mut self,
        node: usize,
        blocks: Vec<(Bytes, CommitCertificate)>,
    ) -> Result<(), Violation> {
        if let Some(running) = self.nodes[node].running.as_mut() {
            running.syncing = false;
            if running.storing {
                return Ok(());
            }
        }
        let before = self.nodes[node].disk.chain.height();
        for (bytes, certificate) in blocks {
            let chain = &self.nodes[node].disk.chain;
            let good = Block::decode(&bytes).is_some_and(|block| chain.check(&block).is_ok())
                && certificate.block == ledger::hash(&bytes)
                && certificate.height == chain.height().next()
                && certificate.verify(&ledger::chain_ref(), &chain.set).is_ok();
            if !good {
                break;
            }
            self.store(node, bytes, certificate)?;
        }
        if self.nodes[node].disk.chain.height() > before {
            self.begin(node)?;
        }
        Ok(())
    }
}
