//! What follows from a set of statements.
//!
//! If `s` survivors have durably sealed the epoch that governs the height above the highest block among
//! their statements, and `s + q > n`, then every block that this epoch ever finalises there was locked by
//! one of them (Howard, Malkhi, Spiegelman, *Flexible Paxos*, arXiv 1608.06696). The lock of the highest
//! round is adopted; rounds are compared inside that epoch only.

use std::collections::{BTreeMap, BTreeSet};

use super::{StatedLock, Statement};
use crate::{
    crypto::PublicKey,
    ids::{Epoch, Hash, Height, Round},
    membership::ValidatorSet,
};

/// Validator sets by their epoch.
pub type Sets = BTreeMap<Epoch, ValidatorSet>;

/// Fewest members that share one with every quorum of `set`: `n - q + 1`.
pub fn fewest_survivors(set: &ValidatorSet) -> usize {
    set.len() - set.quorum() + 1
}

/// `s + q - n - 1`: how many of `survivors` may lie without harm. Below 0 nothing may be adopted.
pub fn condition_margin(survivors: usize, set: &ValidatorSet) -> i64 {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    count(survivors) - count(fewest_survivors(set))
}

/// What a set of statements hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Height of the highest block among the statements.
    pub head: Height,
    /// Its hash.
    pub head_hash: Hash,
    /// Epoch that governs the height above.
    pub governing: Epoch,
    /// The lock whose block is adopted at the height above, if any.
    pub adopted: Option<StatedLock>,
    /// Who stated that lock's block, and so holds it.
    pub holders: Vec<PublicKey>,
    /// Planned record that the adopted block carries; it is the one that is succeeded.
    pub planned: Option<Epoch>,
    /// Members of the governing epoch whose statements count.
    pub survivors: BTreeSet<PublicKey>,
    /// How many of them may lie without harm: the least margin over the epochs concerned.
    pub margin: i64,
    /// Authors whose statements do not count, and why.
    pub ignored: Vec<(PublicKey, &'static str)>,
}

impl Finding {
    /// Epoch whose record the recovery record succeeds.
    pub fn succeeded(&self) -> Epoch {
        self.planned.unwrap_or(self.governing)
    }

    /// Height and hash of the last block of the old epochs: the adopted one, or the head.
    pub fn base(&self) -> (Height, Hash) {
        match &self.adopted {
            Some(lock) => (self.head.next(), lock.block()),
            None => (self.head, self.head_hash),
        }
    }
}

/// Why nothing may be adopted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// No statement counts.
    #[error("nobody has stated anything")]
    Nobody,
    /// Two blocks of one height are said to be final.
    #[error("two blocks of height {height} are said to be final: {} and {}", blocks.0, blocks.1)]
    TwoHeads {
        /// Their height.
        height: Height,
        /// Their hashes.
        blocks: (Hash, Hash),
    },
    /// An epoch that is not known here.
    #[error("epoch {0} is not known here")]
    UnknownEpoch(Epoch),
    /// Too few members of an epoch are sealed.
    #[error(
        "{have} of {n} validators of epoch {epoch} have said what they hold, {needed} are needed"
    )]
    TooFew {
        /// The epoch.
        epoch: Epoch,
        /// Members that count.
        have: usize,
        /// Members needed.
        needed: usize,
        /// Members of the epoch.
        n: usize,
    },
    /// Two proofs of one round for different blocks: more than a quorum may bear have lied.
    #[error("two blocks have a proof in round {round}: {} and {}", blocks.0, blocks.1)]
    Misbehaviour {
        /// The round.
        round: Round,
        /// The blocks.
        blocks: (Hash, Hash),
    },
}

/// Whether others saw a vote of the author above the last one that it owns to, where that matters.
///
/// A vote above its head in an epoch below the one that governs there, by its own chain, does not matter:
/// a record has superseded that epoch at the head or below, so nothing can be final there by such votes, and
/// no lock of it is adopted. A member that restarts does not read them again: its log begins with the
/// height to decide in the epoch that governs it. Votes of that epoch and of a planned one in flight
/// above it do matter, and an honest member's stand above all of its older ones, so others tell of them. A
/// member whose chain was rolled back behind the record names the older epoch, and is found out by its votes.
fn is_stale(statement: &Statement, all: &[&Statement]) -> bool {
    let last = statement.last_vote.map(|vote| vote.vote.position());
    all.iter()
        .flat_map(|other| &other.seen)
        .filter(|seen| seen.vote.validator == statement.author)
        // Votes of heights that it has behind it may have left its log.
        .filter(|seen| seen.vote.height > statement.head)
        .filter(|seen| seen.vote.epoch >= statement.governing)
        .any(|seen| Some(seen.vote.position()) > last)
}

/// What these statements hand over. They were checked ([`Statement::check`]); of one author the last one
/// counts. `sets` knows at least every epoch in which there may be votes.
///
/// # Errors
/// Why nothing may be adopted.
pub fn judge(statements: &[&Statement], sets: &Sets) -> Result<Finding, Obstacle> {
    hand_over(statements, sets, false)
}

/// What these statements hand over on an operator's word, however few they are: blocks that were final
/// may be missing.
///
/// # Errors
/// Why nothing may be adopted: nobody spoke, or they contradict one another.
pub fn judge_forced(statements: &[&Statement], sets: &Sets) -> Result<Finding, Obstacle> {
    hand_over(statements, sets, true)
}

fn hand_over(statements: &[&Statement], sets: &Sets, forced: bool) -> Result<Finding, Obstacle> {
    let latest: BTreeMap<PublicKey, &Statement> = statements
        .iter()
        .map(|statement| (statement.author, *statement))
        .collect();
    let all: Vec<&Statement> = latest.into_values().collect();
    let mut ignored = Vec::new();
    let used: Vec<&Statement> = all
        .iter()
        .copied()
        .filter(|statement| {
            let stale = is_stale(statement, &all);
            if stale {
                ignored.push((
                    statement.author,
                    "others saw later votes of it than it knows of",
                ));
            }
            !stale
        })
        .collect();
    let top = used.iter().max_by_key(|s| s.head).ok_or(Obstacle::Nobody)?;
    let (head, head_hash, governing) = (top.head, top.head_hash, top.governing);
    if let Some(other) = used
        .iter()
        .find(|s| s.head == head && (s.head_hash, s.governing) != (head_hash, governing))
    {
        return Err(Obstacle::TwoHeads {
            height: head,
            blocks: (head_hash, other.head_hash),
        });
    }
    let sealed_members = |epoch: Epoch| -> Result<BTreeSet<PublicKey>, Obstacle> {
        let set = sets.get(&epoch).ok_or(Obstacle::UnknownEpoch(epoch))?;
        let counts = |s: &&Statement| {
            let member = set.member(&s.author);
            member.is_some_and(|m| m.volume_id == s.volume) && s.sealed >= epoch
        };
        let members: BTreeSet<_> = used
            .iter()
            .copied()
            .filter(|s| counts(s))
            .map(|s| s.author)
            .collect();
        let needed = fewest_survivors(set);
        if members.len() < needed && !forced {
            return Err(Obstacle::TooFew {
                epoch,
                have: members.len(),
                needed,
                n: set.len(),
            });
        }
        Ok(members)
    };
    let survivors = sealed_members(governing)?;
    let set = sets
        .get(&governing)
        .ok_or(Obstacle::UnknownEpoch(governing))?;
    let locks: Vec<(&PublicKey, &StatedLock)> = used
        .iter()
        .filter(|s| survivors.contains(&s.author))
        .filter_map(|s| Some((&s.author, s.lock.as_ref()?)))
        .filter(|(_, lock)| lock.proof.height == head.next() && lock.proof.epoch == governing)
        .collect();
    let adopted = locks
        .iter()
        .map(|(_, lock)| *lock)
        .max_by_key(|lock| lock.round());
    if let Some(chosen) = adopted
        && let Some((_, other)) = locks
            .iter()
            .find(|(_, lock)| lock.round() == chosen.round() && lock.block() != chosen.block())
    {
        return Err(Obstacle::Misbehaviour {
            round: chosen.round(),
            blocks: (chosen.block(), other.block()),
        });
    }
    let mut margin = condition_margin(survivors.len(), set);
    let planned = adopted.and_then(|lock| lock.carries);
    if let Some(epoch) = planned {
        let members = sealed_members(epoch)?;
        let set = sets.get(&epoch).ok_or(Obstacle::UnknownEpoch(epoch))?;
        margin = margin.min(condition_margin(members.len(), set));
    }
    let holders = locks
        .iter()
        .filter(|(_, lock)| adopted.is_some_and(|chosen| lock.block() == chosen.block()))
        .map(|(author, _)| **author)
        .collect();
    Ok(Finding {
        head,
        head_hash,
        governing,
        adopted: adopted.cloned(),
        holders,
        planned,
        survivors,
        margin,
        ignored,
    })
}
