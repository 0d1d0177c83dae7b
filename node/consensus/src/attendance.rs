//! Whose votes arrive: the last height of each validator for which a vote of it came in.
//!
//! A commit certificate holds the first quorum of signatures only, so a validator far away is in
//! none although it votes at every height. What counts here is the *arrival* of a vote, for a block or for
//! nil, first-hand or relayed, until [`LATE_HEIGHTS`] heights after the height that it is about, or until
//! [`LATE_VOTE_MAX`] after that height was left, whichever is later: a chain of twenty blocks per second is
//! several heights further by the time that an honest vote has crossed an ocean.
//!
//! A validator is *missing* from the moment at which a vote of another one arrives for a height above its
//! last one. An idle chain, on which nobody votes for seconds, therefore makes nobody missing, and neither
//! does a node that was cut off and catches up. Votes inside certificates do not count: they say that somebody
//! else received them.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use axolotl_common::{Epoch, Height, PublicKey, ValidatorSet};

use crate::{input::Now, message::SignedVote};

/// A vote counts while the present height is at most so many above its own.
const LATE_HEIGHTS: u64 = 2;
/// On a fast chain a vote counts for so long after its height was left. More than a round trip around the
/// globe under load; far less than what makes a validator silent.
const LATE_VOTE_MAX: Duration = Duration::from_secs(1);
/// Heights whose end is remembered. A chain makes fewer in [`LATE_VOTE_MAX`]; beyond, the oldest are forgotten
/// and only [`LATE_HEIGHTS`] applies to them.
const MAX_HEIGHTS_LEFT: usize = 128;

/// What arrived of one validator of the epoch in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastVote {
    /// Whose votes.
    pub validator: PublicKey,
    /// Highest height with a vote of it, as far as this node has come. Before its first vote: the height below the one at which this node
    /// began to watch it.
    pub height: Height,
    /// When its last vote arrived, or this node began to watch it.
    pub at: Now,
    /// Since when votes of other validators arrive for greater heights, while none of it does. Votes of this
    /// node do not make others missing here.
    pub missing_since: Option<Now>,
    /// Since when this node has signed votes for greater heights, while none of it arrives.
    pub unanswered_since: Option<Now>,
}

/// The last vote that this node signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSigned {
    /// Epoch of the vote.
    pub epoch: Epoch,
    /// Height of the vote.
    pub height: Height,
    /// When this node first signed at that height.
    pub at: Now,
}

/// Notes votes as they arrive. Holds one entry per validator of the epoch in force.
#[derive(Debug)]
pub(crate) struct Attendance {
    me: PublicKey,
    present: Height,
    votes: BTreeMap<PublicKey, LastVote>,
    /// Heights up to the given one were left at this time; ascending.
    left: VecDeque<(Height, Now)>,
    signed: Option<LastSigned>,
}

impl Attendance {
    pub(crate) fn new(me: PublicKey) -> Self {
        Self {
            me,
            present: Height(0),
            votes: BTreeMap::new(),
            left: VecDeque::new(),
            signed: None,
        }
    }

    /// A height begins under this set. Members of the set before keep what is known of them.
    pub(crate) fn enter(&mut self, now: Now, height: Height, set: &ValidatorSet) {
        if height > self.present {
            let below = Height(height.0 - 1);
            self.left.push_back((below, now));
            while self.left.len() > MAX_HEIGHTS_LEFT {
                self.left.pop_front();
            }
        }
        self.present = height;
        self.votes.retain(|key, _| set.contains(key));
        for member in set.members() {
            let begun = LastVote {
                validator: member.public_key,
                height: Height(height.0.saturating_sub(1)),
                at: now,
                missing_since: None,
                unanswered_since: None,
            };
            self.votes.entry(member.public_key).or_insert(begun);
        }
    }

    /// Notes an authenticated vote that arrived. One of this node's own, sent back by a peer, says nothing.
    pub(crate) fn note(&mut self, now: Now, signed: &SignedVote) {
        let validator = signed.vote.validator;
        if validator == self.me || self.is_late(now, signed.vote.height) {
            return;
        }
        // A vote for a height far ahead may be a lie: it must not make the others missing for ever.
        let height = signed.vote.height.min(self.present);
        let me = self.me;
        let others = self
            .votes
            .values()
            .filter(|other| other.validator != validator && other.validator != me);
        let top = others.map(|other| other.height).max();
        let own = self.signed.map(|signed| signed.height);
        let Some(entry) = self.votes.get_mut(&validator) else {
            return;
        };
        entry.at = now;
        entry.height = entry.height.max(height);
        entry.missing_since = (top > Some(entry.height)).then_some(now);
        entry.unanswered_since = (own > Some(entry.height)).then_some(now);
        for other in self.votes.values_mut() {
            if other.validator != validator && other.validator != me && other.height < height {
                other.missing_since.get_or_insert(now);
            }
        }
    }

    /// Notes the last vote that this node signed; to be told again and again costs nothing.
    pub(crate) fn note_own(&mut self, now: Now, last: Option<&SignedVote>) {
        let Some(vote) = last.map(|signed| signed.vote) else {
            return;
        };
        let known = self.signed.map(|signed| (signed.height, signed.epoch));
        if known >= Some((vote.height, vote.epoch)) {
            return;
        }
        self.signed = Some(LastSigned {
            epoch: vote.epoch,
            height: vote.height,
            at: now,
        });
        for entry in self.votes.values_mut() {
            if entry.validator == self.me {
                (entry.height, entry.at) = (entry.height.max(vote.height), now);
            } else if entry.height < vote.height {
                entry.unanswered_since.get_or_insert(now);
            }
        }
    }

    fn is_late(&self, now: Now, height: Height) -> bool {
        if height.0.saturating_add(LATE_HEIGHTS) >= self.present.0 {
            return false;
        }
        let left = self.left.iter().find(|(up_to, _)| *up_to >= height);
        // Of the first entry it is not known how far down it reaches.
        let known = self.left.front().is_some_and(|(first, _)| *first <= height);
        !known || left.is_none_or(|(_, at)| now.saturating_sub(*at) > LATE_VOTE_MAX)
    }

    pub(crate) fn last_votes(&self) -> impl Iterator<Item = &LastVote> {
        self.votes.values()
    }

    pub(crate) fn last_signed(&self) -> Option<LastSigned> {
        self.signed
    }
}

#[cfg(test)]
mod tests;
