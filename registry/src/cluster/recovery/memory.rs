//! What the store holds of recoveries.

use std::collections::BTreeMap;

use axolotl_common::{
    Epoch, PublicKey,
    recovery::{Ballot, RegistryStart, SignedStatement},
};
use serde::{Deserialize, Serialize};

/// A recovery that was begun: a start that finds it goes on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The attempt.
    pub ballot: Ballot,
    /// All epochs up to this one are to be sealed.
    pub epoch: Epoch,
    /// Whether members were told to seal: then there may be sealed ones.
    pub sealing: bool,
    /// A quorum of unsealed members seems to be back: everybody is asked whether it sealed.
    pub asking: bool,
    /// The operator allows a margin below that of `RECOVERY_TRUST`.
    pub consent: bool,
    /// The operator accepts that final blocks may be lost.
    pub forced: bool,
    /// A take-over: what was staged by an earlier registry is gone on with, unchanged.
    pub take_over: bool,
}

/// Intent and ballots: one value, replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// The recovery under way.
    pub intent: Option<Intent>,
    /// The highest ballot of each start that opened one, or is known to have.
    pub ballots: Vec<Ballot>,
    /// An attempt was given up with members that may be sealed up to this epoch: they vote again once the
    /// epoch in force is above it.
    pub heal_above: Option<Epoch>,
}

impl Ledger {
    /// The newest ballot.
    pub fn newest(&self) -> Option<Ballot> {
        self.ballots.iter().max().copied()
    }

    /// Whether a ballot was opened by this store, or learned by a take-over.
    pub fn knows(&self, ballot: &Ballot) -> bool {
        let of_start = self.ballots.iter().filter(|b| b.start == ballot.start);
        of_start.max().is_some_and(|highest| ballot <= highest)
    }

    /// Notes a ballot.
    pub fn note(&mut self, ballot: Ballot) {
        match self.ballots.iter_mut().find(|b| b.start == ballot.start) {
            Some(known) => *known = (*known).max(ballot),
            None => self.ballots.push(ballot),
        }
    }

    /// The next ballot of a start.
    pub fn next(&self, start: RegistryStart) -> Ballot {
        let last = self.ballots.iter().filter(|b| b.start == start).max();
        Ballot {
            start,
            attempt: last.map_or(0, |ballot| ballot.attempt) + 1,
        }
    }

    /// This ledger with an attempt opened, its ballot noted.
    pub fn with(&self, intent: Intent) -> Self {
        let mut ledger = self.clone();
        ledger.note(intent.ballot);
        ledger.intent = Some(intent);
        ledger
    }

    /// This ledger without an intent.
    pub fn closed(&self) -> Self {
        Self {
            intent: None,
            ..self.clone()
        }
    }
}

/// Everything durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All starts of the store, oldest first; the last one is this process.
    pub starts: Vec<RegistryStart>,
    /// Intent and ballots.
    pub ledger: Ledger,
    /// The last statement of each sealed member. They stay usable when their authors are dead.
    pub statements: BTreeMap<PublicKey, SignedStatement>,
}
