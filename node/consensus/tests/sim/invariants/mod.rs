//! What must hold in every run, a file each.

mod acknowledged;
mod agreement;
mod certificates;
mod double_sign;
mod epochs;
mod validity;

use std::collections::BTreeSet;

use axolotl_consensus::Message;

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

    /// A node made a block durable on top of `below`.
    fn stored(&mut self, _node: usize, _below: &Chain, _block: &Stored) -> Result<(), String> {
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
    pub(crate) fn new(n: usize) -> Self {
        Self(vec![
            Box::new(agreement::Agreement::default()),
            Box::new(validity::Validity),
            Box::new(certificates::Certificates::new(n)),
            Box::new(double_sign::DoubleSign::default()),
            Box::new(acknowledged::Acknowledged::default()),
            Box::new(epochs::Epochs::default()),
        ])
    }

    /// All but one, where a mutant breaks that one by construction.
    pub(crate) fn without(n: usize, names: &[&str]) -> Self {
        let Self(mut all) = Self::new(n);
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

    pub(crate) fn stored(
        &mut self,
        node: usize,
        below: &Chain,
        block: &Stored,
    ) -> Result<(), Violation> {
        self.each(|invariant| invariant.stored(node, below, block))
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
