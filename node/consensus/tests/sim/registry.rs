//! A registry: the real machine and the real view of the chain in a process that may die, over a store that
//! does not.

use std::collections::{BTreeMap, BTreeSet};

use axolotl_common::{
    Epoch, SignedRecord,
    membership::RecordKind,
    recovery::{RegistryStart, StartId},
};
use axolotl_registry::cluster::{
    chain::Chain,
    recovery::{Change, Memory, Recovery, sign_record},
};

use super::{
    ledger::{authority, chain_ref, document, genesis_record},
    net::Micros,
};

/// What is durable.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(crate) memory: Memory,
    pub(crate) chain: Chain,
    /// Nodes that registered.
    pub(crate) known: BTreeSet<usize>,
    /// A copy: until a quorum met it or an operator lets it take over, it is to do nothing.
    pub(crate) copied: bool,
}

impl Store {
    pub(crate) fn new(n: usize) -> Self {
        let record = genesis_record(n).sign(&chain_ref(), &authority());
        Self {
            memory: Memory::default(),
            chain: Chain::new(document().clone(), record),
            known: BTreeSet::new(),
            copied: false,
        }
    }

    /// The next start of a process on this store.
    pub(crate) fn start(&mut self, id: [u8; 16]) {
        let last = self.memory.starts.iter().map(|start| start.counter).max();
        self.memory.starts.push(RegistryStart {
            counter: last.unwrap_or(0) + 1,
            id: StartId(id),
        });
    }

    /// Makes a change durable. A record is written once for its number, and under the newest ballot of the
    /// store only; `None` when it is not, and the process ends.
    pub(crate) fn write(&mut self, change: &Change) -> Option<Option<SignedRecord>> {
        match change {
            Change::Ledger(ledger) => self.memory.ledger = ledger.clone(),
            Change::Statement(signed) => {
                let author = signed.statement.author;
                self.memory.statements.insert(author, (**signed).clone());
            }
            Change::Adopt(signed) => {
                adopt(&mut self.chain, signed);
                return Some(Some((**signed).clone()));
            }
            Change::Record {
                ballot,
                draft,
                acknowledgements,
            } => {
                let used = self.chain.records.contains_key(&draft.number);
                if self.memory.ledger.newest() != Some(*ballot) || used {
                    return None;
                }
                let draft = (**draft).clone();
                let signed =
                    sign_record(&chain_ref(), &authority(), draft, acknowledgements.clone());
                adopt(&mut self.chain, &signed);
                self.memory.ledger = self.memory.ledger.closed();
                return Some(Some(signed));
            }
            // The caller signs it.
            Change::Propose { .. } => {}
        }
        Some(None)
    }
}

/// Takes a record that is signed and waits to be in force.
pub(crate) fn adopt(chain: &mut Chain, signed: &SignedRecord) {
    let number = signed.record.number;
    let newest = chain.pending.as_ref().map(|p| p.record.number);
    if newest.max(Some(chain.validators.epoch())) < Some(number) {
        chain.pending = Some(signed.clone());
    }
    chain.add(signed.clone());
}

/// A control stream.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) number: u64,
    /// Start of the node at its other end.
    pub(crate) boot: u64,
    pub(crate) met: Option<RegistryStart>,
    pub(crate) recovered: Option<Epoch>,
    pub(crate) pending: Option<Epoch>,
    /// When the last order arrives: a stream keeps its order.
    pub(crate) last: Micros,
}

/// What a process knows, but for the machine.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) store: usize,
    pub(crate) life: u64,
    pub(crate) chain: Chain,
    pub(crate) links: BTreeMap<usize, Link>,
    pub(crate) took_over: Option<RegistryStart>,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) view: View,
    pub(crate) recovery: Recovery,
}

impl Process {
    pub(crate) fn new(number: usize, store: &Store, life: u64) -> Self {
        Self {
            recovery: Recovery::new(store.memory.clone()),
            view: View {
                store: number,
                life,
                chain: store.chain.clone(),
                links: BTreeMap::new(),
                took_over: None,
            },
        }
    }
}

impl View {
    /// A planned record that no block carries yet.
    pub(crate) fn planned(&self) -> Option<&SignedRecord> {
        let pending = self.chain.pending.as_ref();
        pending.filter(|signed| signed.record.kind == RecordKind::Planned)
    }
}
