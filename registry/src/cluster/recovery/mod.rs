//! What to do when a quorum is lost: a pure machine from what was seen and what the store holds to one
//! step at a time.
//!
//! ```text
//!  quorum lost ─> probe ─> intent, durable ─> survey (dry run) ─> seal, durable ─> draft ─> stage ─> record, durable
//!                   │            │ a quorum is back                   │ a quorum of unsealed members is back
//!                   └ waits      └────────────> given up              └──> asked again, then given up
//! ```
//!
//! # Guarantees
//! - A step either writes one thing down or sends orders. Orders follow what was written, so a crash
//!   between any two steps leaves nothing in the world that the store does not know of.
//! - Nothing is sealed while a quorum of unsealed members lives, and nobody seals unless, by what all
//!   would state, the record could be signed.
//! - Every start of the registry speaks under its own ballots. It opens none with fewer than a quorum
//!   unless a quorum of the epoch met it, or its store holds an intent of one that was met.
//! - A record is written once for its number, and only under the newest ballot of the store.
//!
//! # Parts
//! [`Memory`] is what the store holds, [`Recovery`] adds what is forgotten in a crash: answers, the draft
//! in hand, acknowledgements. [`Seen`] is the world at one moment. `docs/recovery.md` has the theory,
//! `model/` the checked rules.

mod answers;
mod attempt;
mod draft;
mod machine;
mod memory;
mod operator;
mod shown;
mod staging;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axolotl_common::{
    ChainRef, Epoch, EpochRecord, Hash, Height, KeyPair, Member, NodeId, PublicKey, QuorumRule,
    SignedRecord, ValidatorSet,
    recovery::{Acknowledgement, Ballot, Sets, SignedStatement},
    registry_api::Order,
};

pub use machine::Recovery;
pub use memory::{Intent, Ledger, Memory};
pub use operator::{Granted, Refused};
pub use shown::Shown;

/// A quorum must be missing for so long before anything is written down: what crashed is being started
/// again meanwhile.
pub const PROBE_FOR: Duration = Duration::from_secs(5);
/// Only members are counted that were reachable for so long without a break.
pub const HOLD_DOWN: Duration = Duration::from_secs(10);
/// An order that was not answered is given again after this time.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);
/// An answer that has not come by then is not waited for.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// What a member would state counts for so long.
pub const SURVEY_LIFETIME: Duration = Duration::from_secs(5);
/// A draft that nobody acknowledged for so long is given up for one of a higher ballot.
pub const STAGING_PATIENCE: Duration = Duration::from_secs(15);
/// A report that a block does not come about is shown for so long, unless it comes.
pub const REPORT_SHOWN: Duration = Duration::from_secs(30);
/// Whoever has not said that it met this start is told of it again after this time.
pub const MEET_AGAIN: Duration = Duration::from_secs(5);
/// Most nodes whose answers are kept: all that may be on record, members or not.
pub const MAX_ANSWERING: usize = crate::cluster::MAX_NODES_KNOWN;

/// How far survivors are trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// They stop and come back, but do not lie: recovery runs by itself at a margin of 0.
    #[default]
    Crash,
    /// As many as the chain bears may lie: recovery runs by itself at a margin of f.
    Byzantine,
}

impl Trust {
    /// Least margin at which a recovery of `n` validators runs by itself.
    pub fn least_margin(self, rule: QuorumRule, n: usize) -> i64 {
        match self {
            Self::Crash => 0,
            Self::Byzantine => i64::try_from(rule.byzantine_faults(n)).unwrap_or(i64::MAX),
        }
    }

    /// Whether it takes as many survivors as a quorum, so that no recovery ever runs by itself.
    pub fn never_at(self, rule: QuorumRule, n: usize) -> bool {
        let least = usize::try_from(self.least_margin(rule, n)).unwrap_or(usize::MAX);
        n - rule.quorum(n) + 1 + least >= rule.quorum(n)
    }
}

/// Epochs and records as the registry knows them.
#[derive(Clone, Copy, Debug)]
pub struct Epochs<'a> {
    /// The chain.
    pub chain: ChainRef,
    /// The set of every record that was ever signed.
    pub sets: &'a Sets,
    /// Height and hash of every block that a record of ours made final.
    pub bases: &'a BTreeSet<(Height, Hash)>,
    /// The epoch in force.
    pub in_force: Epoch,
    /// A planned record that is signed and not in force.
    pub planned: Option<Epoch>,
    /// A recovery or forced record that is signed and not in force by anybody's word yet.
    pub signed: Option<Epoch>,
    /// Key that signs records.
    pub authority: PublicKey,
}

impl Epochs<'_> {
    /// Highest number that was ever signed.
    pub fn newest(&self) -> Epoch {
        self.sets
            .keys()
            .next_back()
            .copied()
            .unwrap_or(self.in_force)
    }

    /// Validators in force.
    pub fn governing(&self) -> Option<&ValidatorSet> {
        self.sets.get(&self.in_force)
    }
}

/// A node at one moment.
#[derive(Clone, Debug)]
pub struct Facts {
    /// How it would stand in a record.
    pub member: Member,
    /// Number of its control stream; 0 when none is open.
    pub stream: u64,
    /// Whether it was heard within the interval of heartbeats.
    pub heard: bool,
    /// Whether it is counted on for a quorum: it votes or is about to, or its peers reach it.
    pub live: bool,
    /// Whether it may be put forward, now or when it is level.
    pub candidate: bool,
    /// Whether it is level.
    pub level: bool,
    /// Its last block.
    pub height: Height,
}

impl Facts {
    /// Whether an order reaches it, as far as is known.
    pub fn is_reachable(&self) -> bool {
        self.heard && self.stream != 0
    }

    /// Label.
    pub fn label(&self) -> &NodeId {
        &self.member.node_id
    }
}

/// The world at one moment.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// Epochs and records.
    pub epochs: Epochs<'a>,
    /// Nodes that registered, by key; those that can be trusted with their volume.
    pub nodes: BTreeMap<PublicKey, Facts>,
    /// How far survivors are trusted.
    pub trust: Trust,
    /// Why nothing may be done at all: cut off, an older store, a shutdown.
    pub obstacle: Option<String>,
}

/// Something that must be durable before anything else happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Intent and ballots.
    Ledger(Ledger),
    /// A sealed member's word.
    Statement(Box<SignedStatement>),
    /// A record of this authority that the store lacks.
    Adopt(Box<SignedRecord>),
    /// The record, once for its number, under this ballot only; closes the intent.
    Record {
        /// The newest ballot of the store, or nothing is written.
        ballot: Ballot,
        /// The draft.
        draft: Box<EpochRecord>,
        /// Who staged it.
        acknowledgements: Vec<Acknowledgement>,
    },
    /// A planned record with the same members under the next number.
    Propose {
        /// The members in force.
        members: Vec<Member>,
    },
}

/// The record that a [`Change::Record`] makes.
pub fn sign_record(
    chain: &ChainRef,
    authority: &KeyPair,
    draft: EpochRecord,
    acknowledgements: Vec<Acknowledgement>,
) -> SignedRecord {
    SignedRecord {
        acknowledgements,
        ..draft.sign(chain, authority)
    }
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Write this down, [apply](Recovery::apply) it, and ask again.
    Write {
        /// What.
        change: Change,
        /// In words.
        told: String,
    },
    /// Give these orders.
    Send(Vec<(PublicKey, Order)>),
}
