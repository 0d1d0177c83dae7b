//! What must hold in every run, a file each.

mod acknowledged;
mod agreement;
mod certificates;
mod double_sign;
mod epochs;
mod one_set;
mod records;
mod seals;
mod validity;

use std::collections::BTreeSet;

use axolotl_common::{Epoch, EpochRecord};
use axolotl_consensus::{HeightStart, Message};

use super::ledger::{Chain, Stored};

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

/// What the invariants look at. Only honest nodes are shown to them.
pub(crate) trait Invariant {
    fn name(&self) -> &'static str;

    /// A node lets a message out.
    fn sent(&mut self, _node: usize, _message: &Message) -> Result<(), String> {
        Ok(())
    }

    /// A node begins a height.
    fn begins(&mut self, _node: usize, _start: &HeightStart) -> Result<(), String> {
        Ok(())
    }

    /// A node made a block durable on top of `below`.
    fn stored(&mut self, _node: usize, _below: &Chain, _block: &Stored) -> Result<(), String> {
        Ok(())
    }

    /// A node has sealed, durably.
    fn sealed(&mut self, _node: usize, _epoch: Epoch) -> Result<(), String> {
        Ok(())
    }

    /// A registry has written a record down.
    fn signed(&mut self, _record: &EpochRecord) -> Result<(), String> {
        Ok(())
    }

    /// The run is over.
    fn end(&mut self, _chains: &[(usize, &Chain)]) -> Result<(), String> {
        Ok(())
    }
}

/// All of them.
pub(crate) struct Invariants(Vec<Box<dyn Invariant>>);

impl Invariants {
    pub(crate) fn new(recovers: bool) -> Self {
        Self(vec![
            Box::new(agreement::Agreement::default()),
            Box::new(validity::Validity),
            Box::new(certificates::Certificates),
            Box::new(double_sign::DoubleSign::default()),
            Box::new(acknowledged::Acknowledged::default()),
            Box::new(epochs::Epochs::default()),
            Box::new(one_set::OneSet::new(recovers)),
            Box::new(records::Records::default()),
            Box::new(seals::Seals::default()),
        ])
    }

    /// All but some, where a mutant or an operator's word breaks those by construction.
    pub(crate) fn without(names: &[&str], recovers: bool) -> Self {
        let Self(mut all) = Self::new(recovers);
        let before = all.len();
        all.retain(|invariant| !names.contains(&invariant.name()));
        assert_eq!(all.len() + names.len(), before, "no such invariant");
        Self(all)
    }

    fn each(
        &mut self,
        mut check: impl FnMut(&mut dyn Invariant) -> Result<(), String>,
    ) -> Result<(), Violation> {
        for invariant in &mut self.0 {
            check(invariant.as_mut()).map_err(|what| Violation {
                invariant: invariant.name(),
                what,
            })?;
        }
        Ok(())
    }

    pub(crate) fn sent(&mut self, node: usize, message: &Message) -> Result<(), Violation> {
        self.each(|invariant| invariant.sent(node, message))
    }

    pub(crate) fn begins(&mut self, node: usize, start: &HeightStart) -> Result<(), Violation> {
        self.each(|invariant| invariant.begins(node, start))
    }

    pub(crate) fn stored(
        &mut self,
        node: usize,
        below: &Chain,
        block: &Stored,
    ) -> Result<(), Violation> {
        self.each(|invariant| invariant.stored(node, below, block))
    }

    pub(crate) fn sealed(&mut self, node: usize, epoch: Epoch) -> Result<(), Violation> {
        self.each(|invariant| invariant.sealed(node, epoch))
    }

    pub(crate) fn signed(&mut self, record: &EpochRecord) -> Result<(), Violation> {
        self.each(|invariant| invariant.signed(record))
    }

    pub(crate) fn submitted(transactions: &BTreeSet<u64>, block: &Stored) -> Result<(), Violation> {
        match block
            .block
            .transactions
            .iter()
            .find(|t| !transactions.contains(t))
        {
            Some(unknown) => Err(Violation {
                invariant: "validity",
                what: format!("nobody submitted transaction {unknown}"),
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn end(&mut self, chains: &[(usize, &Chain)]) -> Result<(), Violation> {
        self.each(|invariant| invariant.end(chains))
    }
}
