use std::collections::{BTreeMap, BTreeSet};

use axolotl_common::{Epoch, Height, Round};
use axolotl_consensus::{Message, MessageKind, message::Payload};

use super::Invariant;
use crate::sim::ledger::key;

type Place = (usize, Epoch, Height, Round, MessageKind);

/// Nobody signs in an epoch that it has sealed. To send again what was signed before is harmless.
#[derive(Default)]
pub(crate) struct Seals {
    sealed: BTreeMap<usize, Epoch>,
    signed: BTreeSet<Place>,
}

impl Invariant for Seals {
    fn name(&self) -> &'static str {
        "seals"
    }

    fn sealed(&mut self, node: usize, epoch: Epoch) -> Result<(), String> {
        let sealed = self.sealed.entry(node).or_default();
        *sealed = epoch.max(*sealed);
        Ok(())
    }

    fn sent(&mut self, node: usize, message: &Message) -> Result<(), String> {
        if !matches!(message.payload, Payload::Vote(_) | Payload::Proposal { .. })
            || message.author() != Some(&key(node).public())
        {
            return Ok(());
        }
        let (epoch, height, round) = (message.epoch(), message.height(), message.round());
        let news = self
            .signed
            .insert((node, epoch, height, round, message.kind()));
        let sealed = self.sealed.get(&node);
        if news && sealed.is_some_and(|sealed| epoch <= *sealed) {
            return Err(format!(
                "node {node} signs a {} of {height}/{round} in epoch {epoch}, which it has sealed",
                message.kind()
            ));
        }
        Ok(())
    }
}
