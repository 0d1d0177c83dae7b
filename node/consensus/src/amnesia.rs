//! The amnesia check: before its first signature a validator asks the others for the highest vote of
//! its own that they hold. A vote above its log means that the log was rolled back.
//!
//! Answers come from what the others logged and are given before their own check is through, so a
//! restart of the whole cluster cannot deadlock. The number of answers waited for,
//! min(n-1, n-q+1), meets every quorum that the lost votes could have been part of. It is a best
//! effort: a rollback that nobody can see counts as one byzantine validator.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axolotl_common::{Epoch, Height, PublicKey, QuorumRule, Round, ValidatorSet, VoteKind};

use crate::{input::Now, message::SignedVote};

/// With `quorum: majority` the check gives up waiting after this.
const MAJORITY_PATIENCE: Duration = Duration::from_secs(5);

/// State of the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fitness {
    /// Answers are missing.
    Unknown,
    /// May sign.
    Fit,
    /// Signed this vote, of which its log knows nothing.
    Unfit,
}

/// The check.
#[derive(Debug)]
pub(crate) struct AmnesiaCheck {
    since: Now,
    base: (Height, Epoch),
    own: Option<SignedVote>,
    answered: BTreeSet<PublicKey>,
    fitness: Fitness,
}

impl AmnesiaCheck {
    /// `base` is what was being decided when the process started, `own` the highest vote of ours
    /// that the log holds there.
    pub(crate) fn new(now: Now, base: (Height, Epoch), own: Option<SignedVote>) -> Self {
        Self {
            since: now,
            base,
            own,
            answered: BTreeSet::new(),
            fitness: Fitness::Unknown,
        }
    }

    pub(crate) fn fitness(&self) -> &Fitness {
        &self.fitness
    }

    pub(crate) fn set_unfit(&mut self) {
        self.fitness = Fitness::Unfit;
    }

    /// Takes in an answer whose vote, if any, is truly ours. `true` when it shows a vote that the log
    /// should hold and does not.
    pub(crate) fn answer(&mut self, from: PublicKey, vote: Option<&SignedVote>) -> bool {
        if self.fitness != Fitness::Unknown {
            return false;
        }
        if vote.is_some_and(|vote| self.is_above_log(vote)) {
            self.fitness = Fitness::Unfit;
            return true;
        }
        self.answered.insert(from);
        false
    }

    /// Whether a vote of ours is one that the log should hold and does not.
    pub(crate) fn is_above_log(&self, vote: &SignedVote) -> bool {
        let vote = &vote.vote;
        let (height, epoch) = self.base;
        if vote.epoch < epoch || (vote.height, vote.epoch) < (height, epoch) {
            return false;
        }
        match &self.own {
            Some(own) if own.vote.position() == vote.position() => own.vote != *vote,
            Some(own) => vote.position() > own.vote.position(),
            None => true,
        }
    }

    /// Whether this validator of `set` may sign now.
    pub(crate) fn may_sign(&mut self, now: Now, me: &PublicKey, set: &ValidatorSet) -> bool {
        if self.fitness == Fitness::Unknown {
            let (n, q) = (set.len(), set.quorum());
            let wanted = (n - 1).min(n - q + 1);
            let answers = self
                .answered
                .iter()
                .filter(|key| *key != me && set.contains(key))
                .count();
            let patience_over = set.rule() == QuorumRule::Majority
                && now.saturating_sub(self.since) >= MAJORITY_PATIENCE;
            if answers < wanted && patience_over {
                tracing::warn!(
                    answers,
                    wanted,
                    "amnesia check given up after 5 s, as the majority rule allows; \
                     voting on the word of the own log"
                );
            }
            if answers >= wanted || patience_over {
                self.fitness = Fitness::Fit;
            }
        }
        self.fitness == Fitness::Fit
    }
}

/// The highest vote of each validator that this node has taken in, to answer others' checks.
#[derive(Debug, Default)]
pub(crate) struct HighestVotes {
    votes: BTreeMap<PublicKey, SignedVote>,
}

impl HighestVotes {
    /// Notes an authenticated vote of a validator.
    pub(crate) fn note(&mut self, vote: &SignedVote) {
        let place =
            |vote: &SignedVote| -> (Height, Epoch, Round, VoteKind) { vote.vote.position() };
        let known = self.votes.entry(vote.vote.validator).or_insert(*vote);
        if place(vote) > place(known) {
            *known = *vote;
        }
    }

    pub(crate) fn of(&self, key: &PublicKey) -> Option<&SignedVote> {
        self.votes.get(key)
    }

    /// All of them, by voter.
    pub(crate) fn all(&self) -> impl Iterator<Item = &SignedVote> {
        self.votes.values()
    }

    /// Forgets those who are in neither set: bounds the map by the size of two sets.
    pub(crate) fn retain(&mut self, start: &ValidatorSet, previous: Option<&ValidatorSet>) {
        self.votes
            .retain(|key, _| start.contains(key) || previous.is_some_and(|p| p.contains(key)));
    }
}

#[cfg(test)]
mod tests {
    use axolotl_common::{Hash, Signature};

    use super::*;
    use crate::{
        message::Vote,
        test_support::{key, set},
    };

    fn vote(epoch: u64, height: u64, round: u32, kind: VoteKind, block: u8) -> SignedVote {
        SignedVote {
            vote: Vote {
                epoch: Epoch(epoch),
                height: Height(height),
                round: Round(round),
                kind,
                block: Some(Hash([block; 32])),
                validator: key(1).public(),
            },
            signature: Signature([0; 64]),
        }
    }

    #[test]
    fn a_vote_above_the_log_is_noticed() {
        use VoteKind::{Precommit, Prevote};
        let own = vote(1, 10, 2, Prevote, 1);
        let table = [
            (Some(own), vote(1, 10, 2, Prevote, 1), false),
            (Some(own), vote(1, 10, 2, Prevote, 2), true),
            (Some(own), vote(1, 10, 2, Precommit, 1), true),
            (Some(own), vote(1, 10, 1, Precommit, 1), false),
            (Some(own), vote(1, 11, 0, Prevote, 1), true),
            (Some(own), vote(2, 10, 0, Prevote, 1), true),
            (Some(own), vote(0, 12, 0, Prevote, 1), false),
            (Some(own), vote(1, 9, 7, Precommit, 1), false),
            (None, vote(1, 10, 0, Prevote, 1), true),
            (None, vote(1, 9, 0, Precommit, 1), false),
        ];
        for (own, seen, expected) in table {
            let base = (Height(10), Epoch(1));
            let mut check = AmnesiaCheck::new(Duration::ZERO, base, own);
            assert_eq!(
                check.answer(key(2).public(), Some(&seen)),
                expected,
                "{own:?} against {seen:?}"
            );
        }
    }

    #[test]
    fn as_many_answers_as_needed() {
        // (members, answers that suffice)
        for (n, wanted) in [(1u8, 0u8), (2, 1), (3, 1), (4, 2), (5, 2), (7, 3), (10, 4)] {
            let members: Vec<u8> = (1..=n).collect();
            let set = set(0, &members);
            let me = key(1).public();
            let base = (Height(1), Epoch(0));
            let mut check = AmnesiaCheck::new(Duration::ZERO, base, None);
            check.answer(me, None);
            check.answer(key(200).public(), None);
            for other in 0..wanted {
                assert!(
                    !check.may_sign(Duration::from_secs(60), &me, &set),
                    "n = {n}"
                );
                check.answer(key(other + 2).public(), None);
                check.answer(key(other + 2).public(), None);
            }
            assert!(check.may_sign(Duration::ZERO, &me, &set), "n = {n}");
        }
    }
}
