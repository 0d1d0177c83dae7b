//! Transactions whose execution did not end in the time that a block may take.
//!
//! A transaction has two attempts. After the first it is *heavy*: it stays in the pool, and blocks take
//! it last, one in a block ([`super::best`]). After the second it is *set aside*: it leaves this node's
//! pool, and neither gossip, nor the journal, nor a client brings it back while it is remembered here.
//! Another validator may still include it, so the transactions behind it stay queued. It is forgotten
//! when its nonce is used.
//!
//! Keyed by hash and not part of the pooled transaction: one that was pushed out of a full pool and
//! comes back by gossip has used up its attempts all the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use alloy_primitives::{Address, B256};

/// Interrupted transactions that are remembered; beyond that the one interrupted first is forgotten,
/// and has both attempts again. A hash costs its sender a signature and this node at most one time
/// budget, of which a minute has a few hundred: this many are more than ten minutes of nothing else.
pub const INTERRUPTED_MAX: usize = 4_096;

/// Why a transaction does not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptReason {
    /// Its execution had not ended when the time for it was over.
    ExecutionTime {
        /// The time that it had.
        limit: Duration,
    },
    /// The block with it was not decided: other validators may not have executed it in time.
    BlockNotDecided,
    /// It changes storage that is too large to be read in the time of a block, again and again.
    StateSize,
}

impl InterruptReason {
    /// The name of the reason for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ExecutionTime { .. } => "execution-time",
            Self::BlockNotDecided => "block-not-decided",
            Self::StateSize => "state-size",
        }
    }
}

impl std::fmt::Display for InterruptReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ExecutionTime { limit } => {
                write!(
                    f,
                    "its execution did not end within {} ms",
                    limit.as_millis()
                )
            }
            Self::BlockNotDecided => f.write_str("the validators did not decide the block with it"),
            Self::StateSize => {
                f.write_str("it changes more storage than could be read in the time of a block")
            }
        }
    }
}

/// What an interruption makes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The first: it is tried once more, alone and last.
    MarkedHeavy,
    /// The second: it left the pool.
    SetAside,
}

/// How an interrupted transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has one more attempt.
    Heavy,
    /// It has none.
    SetAside(InterruptReason),
}

/// An interrupted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// Hash of the transaction.
    pub hash: B256,
    /// Its sender.
    pub sender: Address,
    /// Its nonce.
    pub nonce: u64,
    /// How it stands.
    pub standing: Standing,
}

/// The interrupted transactions that are remembered, at most [`INTERRUPTED_MAX`].
#[derive(Debug, Default)]
pub(super) struct InterruptedSet {
    by_hash: HashMap<B256, (Interrupted, u64)>,
    by_nonce: BTreeSet<(Address, u64, B256)>,
    by_age: BTreeMap<u64, B256>,
    clock: u64,
}

impl InterruptedSet {
    pub(super) fn insert(&mut self, new: Interrupted) {
        self.remove(&new.hash);
        self.clock += 1;
        self.by_hash.insert(new.hash, (new, self.clock));
        self.by_nonce.insert((new.sender, new.nonce, new.hash));
        self.by_age.insert(self.clock, new.hash);
        if self.by_age.len() > INTERRUPTED_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, hash: &B256) {
        if let Some((gone, age)) = self.by_hash.remove(hash) {
            self.by_nonce.remove(&(gone.sender, gone.nonce, gone.hash));
            self.by_age.remove(&age);
        }
    }

    /// Forgets what a sender's nonces below `next` were about.
    pub(super) fn nonces_used(&mut self, sender: Address, next: u64) {
        if self.by_hash.is_empty() {
            return;
        }
        let used = (sender, 0, B256::ZERO)..(sender, next, B256::ZERO);
        let used: Vec<B256> = self
            .by_nonce
            .range(used)
            .map(|(_, _, hash)| *hash)
            .collect();
        for hash in used {
            self.remove(&hash);
        }
    }

    pub(super) fn is_heavy(&self, hash: &B256) -> bool {
        let standing = self.by_hash.get(hash).map(|(known, _)| known.standing);
        standing == Some(Standing::Heavy)
    }

    pub(super) fn set_aside(&self, hash: &B256) -> Option<InterruptReason> {
        match self.by_hash.get(hash)?.0.standing {
            Standing::SetAside(reason) => Some(reason),
            Standing::Heavy => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// All of them, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Interrupted> {
        self.by_age
            .values()
            .filter_map(|hash| self.by_hash.get(hash))
            .map(|(known, _)| *known)
    }
}
