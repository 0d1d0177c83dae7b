//! States of the model, packed so that millions of them can be compared, sorted and hashed.
//!
//! Everything that belongs to one node is inside that node's word, its places in drafts included. So
//! two states that differ in the names of nodes only are equal after the words of interchangeable
//! nodes are sorted, and the representative of a state is exact.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use stateright::Representative;

/// A block at one height: 1 or 2; 0 stands for none.
pub type Value = u8;

/// Most nodes of a model, learners included.
pub const MAX_NODES: usize = 8;
/// Most ballots of a model, and so most drafts.
pub const MAX_BALLOTS: usize = 3;

/// Bits of one epoch's votes in a node's word.
const VOTES: u32 = 9;

/// A lock: where, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The epoch under which it was taken.
    pub epoch: u8,
    /// Its round inside that epoch.
    pub round: u8,
    /// The block.
    pub value: Value,
}

/// One node: what is on its disk, what it holds in memory, and what it has sent.
///
/// Votes sent never vanish, whatever happens to the node: whoever collected them may still complete
/// a certificate.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(u64);

macro_rules! fields {
    ($($(#[$doc:meta])* $get:ident, $set:ident: $shift:literal, $width:literal;)*) => {
        impl Node {
            $(
                $(#[$doc])*
                pub const fn $get(self) -> u8 {
                    self.bits($shift, $width)
                }

                $(#[$doc])*
                pub const fn $set(&mut self, to: u8) {
                    self.put($shift, $width, to);
                }
            )*
        }
    };
}

fields! {
    // Bits 0..18 are the votes of two epochs.
    /// The block in its block log at the first height.
    first, set_first: 18, 2;
    /// The block in its block log at the second height.
    second, set_second: 20, 2;
    /// The newest epoch that it knows.
    epoch, set_epoch: 22, 2;
    /// Epochs sealed: 0 none, 1 epoch 0, 2 up to epoch 1.
    sealed, set_sealed: 24, 2;
    /// The same, as a restart would find it.
    sealed_on_disk, set_sealed_on_disk: 26, 2;
    /// The highest ballot that it has answered.
    promised, set_promised: 28, 2;
    /// The draft that it has staged, by its ballot.
    staged, set_staged: 30, 2;
    /// Epochs that its last statement seals; 0 if it has made none.
    said, set_said: 32, 2;
    /// The block of the first height in that statement, with a certificate.
    said_first, set_said_first: 34, 2;
    /// The block of the second height in that statement.
    said_second, set_said_second: 36, 2;
    /// The lock of that statement: 0 none, else 1 + 4 * epoch + 2 * round + (value - 1).
    said_lock, set_said_lock: 38, 4;
    /// The statement is older than what others saw of its author.
    said_stale, set_said_stale: 42, 1;
    /// Drafts whose new set it is in, a bit each.
    drafts, set_drafts: 43, 3;
    /// Drafts that it has acknowledged, a bit each.
    acks, set_acks: 46, 3;
    /// Its volume was wiped.
    wiped, set_wiped: 49, 1;
    /// Its volume was rolled back.
    rolled_back, set_rolled_back: 50, 1;
    /// Neither the registry nor the others reach it.
    cut, set_cut: 51, 1;
    /// The start of the registry that it has met last: 0 none, 1 the first, 2 the copy's.
    met, set_met: 52, 2;
}

impl Node {
    const fn bits(self, shift: u32, width: u32) -> u8 {
        ((self.0 >> shift) & ((1 << width) - 1)) as u8
    }

    const fn put(&mut self, shift: u32, width: u32, to: u8) {
        let mask = (1u64 << width) - 1;
        assert!(to as u64 <= mask, "a field holds what is put into it");
        self.0 = (self.0 & !(mask << shift)) | ((to as u64) << shift);
    }

    /// The precommit that it remembers for a round of an epoch.
    pub const fn precommit(self, epoch: u8, round: u8) -> Value {
        self.bits(VOTES * epoch as u32 + 2 * round as u32, 2)
    }

    /// Whether it has reached round 1 of an epoch, and prevoted there.
    pub const fn round(self, epoch: u8) -> u8 {
        self.bits(VOTES * epoch as u32 + 4, 1)
    }

    /// Whether its precommit for a block in a round of an epoch has left it.
    pub const fn has_sent(self, epoch: u8, round: u8, value: Value) -> bool {
        self.bits(
            VOTES * epoch as u32 + 5 + 2 * round as u32 + (value - 1) as u32,
            1,
        ) == 1
    }

    /// Reaches round 1.
    pub const fn advance(&mut self, epoch: u8) {
        self.put(VOTES * epoch as u32 + 4, 1, 1);
    }

    /// Locks and precommits.
    pub const fn vote(&mut self, epoch: u8, round: u8, value: Value) {
        let at = VOTES * epoch as u32;
        self.put(at + 2 * round as u32, 2, value);
        self.put(at + 5 + 2 * round as u32 + (value - 1) as u32, 1, 1);
    }

    /// Forgets votes of an epoch; what was sent stays sent.
    pub const fn forget_votes(&mut self, epoch: u8) {
        self.put(VOTES * epoch as u32, 4, 0);
        self.put(VOTES * epoch as u32 + 4, 1, 0);
    }

    /// Forgets all of an epoch, what was sent included: for an epoch that is over.
    pub const fn forget_epoch(&mut self, epoch: u8) {
        self.put(VOTES * epoch as u32, VOTES, 0);
    }

    /// Whether it has sent votes that it does not remember.
    pub fn forgot(self) -> bool {
        [0, 1].iter().any(|&epoch| {
            [0, 1].iter().any(|&round| {
                [1, 2].iter().any(|&value| {
                    self.has_sent(epoch, round, value) && self.precommit(epoch, round) != value
                })
            })
        })
    }

    /// Whether a rollback took votes that others have seen.
    pub fn has_lost_votes(self) -> bool {
        self.rolled_back() == 1 && self.forgot()
    }

    /// Whether a rollback took a seal that others know of by its statement.
    pub fn has_lost_its_seal(self) -> bool {
        self.rolled_back() == 1 && self.said() > self.sealed()
    }

    /// Its lock of an epoch: the highest round in which it precommitted.
    pub fn lock(self, epoch: u8) -> Option<Lock> {
        [1, 0].iter().find_map(|&round| {
            let value = self.precommit(epoch, round);
            (value > 0).then_some(Lock {
                epoch,
                round,
                value,
            })
        })
    }

    /// The lock that its statement shows.
    pub fn stated_lock(self) -> Option<Lock> {
        let code = self.said_lock().checked_sub(1)?;
        Some(Lock {
            epoch: code / 4,
            round: code / 2 % 2,
            value: code % 2 + 1,
        })
    }

    /// Writes a lock into its statement.
    pub fn state_lock(&mut self, lock: Option<Lock>) {
        let code = |lock: Lock| 1 + 4 * lock.epoch + 2 * lock.round + (lock.value - 1);
        self.set_said_lock(lock.map_or(0, code));
    }

    /// Whether a draft's new set has it.
    pub const fn is_in_draft(self, ballot: u8) -> bool {
        self.drafts() >> (ballot - 1) & 1 == 1
    }

    /// Whether it has acknowledged a draft.
    pub const fn has_acknowledged(self, ballot: u8) -> bool {
        self.acks() >> (ballot - 1) & 1 == 1
    }

    /// Blocks exchanged for one another in everything that it holds.
    fn exchange_values(&mut self) {
        for shift in [0, 2, 9, 11, 18, 20, 34, 36] {
            self.put(shift, 2, exchanged(self.bits(shift, 2)));
        }
        for shift in [5, 7, 14, 16] {
            let pair = self.bits(shift, 2);
            self.put(shift, 2, (pair >> 1) | ((pair & 1) << 1));
        }
        if let Some(lock) = self.stated_lock() {
            self.state_lock(Some(Lock {
                value: exchanged(lock.value),
                ..lock
            }));
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "e{}", self.epoch())?;
        for epoch in [0, 1] {
            if let Some(lock) = self.lock(epoch) {
                write!(out, " lock e{epoch} r{} b{}", lock.round, lock.value)?;
            }
        }
        for (word, value) in [
            ("first", self.first()),
            ("second", self.second()),
            ("sealed", self.sealed()),
            ("promised", self.promised()),
            ("staged", self.staged()),
            ("wiped", self.wiped()),
            ("rolled back", self.rolled_back()),
        ] {
            if value > 0 {
                write!(out, " {word} {value}")?;
            }
        }
        Ok(())
    }
}

const fn exchanged(value: Value) -> Value {
    match value {
        1 => 2,
        2 => 1,
        none => none,
    }
}

/// What a ballot would hand over to a new epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Draft {
    /// The number of the new epoch; 0 where there is no draft.
    pub number: u8,
    /// The epoch that it succeeds.
    pub succeeds: u8,
    /// The block at the first height, final or adopted.
    pub first: Value,
    /// The block at the second height, final or adopted.
    pub second: Value,
    /// The last block handed over is final by the record, not by a certificate.
    pub adopted: bool,
    /// The ballot whose draft this is a copy of, or its own.
    pub root: u8,
}

/// A state of the whole model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    /// Members of epoch 0 first, then learners.
    pub nodes: [Node; MAX_NODES],
    /// The one block that a quorum prevoted, per epoch and round.
    pub polka: [[Value; 2]; 2],
    /// Drafts by their ballot, less one.
    pub drafts: [Draft; MAX_BALLOTS],
    /// Ballots whose draft is signed as a record, a bit each.
    pub signed: u8,
    /// The ballot that each registry works under; 0 before its first.
    pub current: [u8; 2],
    /// The quorum of epoch 0 was out of reach once.
    pub quorum_was_lost: bool,
    /// Somebody sealed although the new set's quorum could not be reached.
    pub sealed_in_vain: bool,
    /// Something that must hold did not when votes of an old epoch were forgotten.
    pub broken: bool,
    /// A sealed node's chain was extended by a certificate.
    pub extended_after_seal: bool,
    /// Wipes, rollbacks that may still happen.
    pub accidents: u8,
    /// Learners that have caught up, where that is counted.
    pub synced: u8,
    /// What the last ballot had come to when the registry crashed: 1 no draft, 2 a draft, 3 one that
    /// somebody staged; 0 if it did not crash.
    pub crashed_with: u8,
    /// Where the groups of interchangeable nodes end.
    pub groups: [u8; 4],
    /// The two blocks are interchangeable.
    pub values_alike: bool,
}

/// By hand, for speed: a few words instead of sixty bytes one by one. What never changes in a model is
/// left out.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut words = [0u64; MAX_NODES + 2];
        for (word, node) in words.iter_mut().zip(self.nodes) {
            *word = node.0;
        }
        let [drafts, rest] = &mut words[MAX_NODES..] else {
            unreachable!("two words are left")
        };
        for draft in self.drafts {
            let word = u64::from(draft.number)
                | u64::from(draft.succeeds) << 2
                | u64::from(draft.first) << 4
                | u64::from(draft.second) << 6
                | u64::from(draft.adopted) << 8
                | u64::from(draft.root) << 9;
            *drafts = *drafts << 16 | word;
        }
        for small in [
            self.signed,
            self.current[0],
            self.current[1],
            self.accidents,
            self.synced,
            self.crashed_with,
            u8::from(self.quorum_was_lost),
            u8::from(self.sealed_in_vain),
            u8::from(self.extended_after_seal) | u8::from(self.broken) << 1,
        ] {
            *rest = *rest << 4 | u64::from(small);
        }
        for polka in self.polka.as_flattened() {
            *rest = *rest << 2 | u64::from(*polka);
        }
        for word in words {
            hasher.write_u64(word);
        }
    }
}

impl State {
    fn sorted(mut self) -> Self {
        let mut from = 0;
        for to in self.groups {
            let to = usize::from(to);
            if to > from {
                self.nodes[from..to].sort_unstable();
                from = to;
            }
        }
        self
    }
}

impl Representative for State {
    fn representative(&self) -> Self {
        let sorted = self.clone().sorted();
        if !self.values_alike {
            return sorted;
        }
        let mut other = self.clone();
        for node in &mut other.nodes {
            node.exchange_values();
        }
        for polka in other.polka.as_flattened_mut() {
            *polka = exchanged(*polka);
        }
        for draft in &mut other.drafts {
            draft.first = exchanged(draft.first);
            draft.second = exchanged(draft.second);
        }
        sorted.min(other.sorted())
    }
}
