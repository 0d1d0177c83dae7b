//! How long the proposer may execute transactions for one block.
//!
//! What a block may cost must fit what a round may last, on the slowest validator whose vote is
//! needed. Nobody knows how slow that is, so the budget follows what happens: a height that was
//! decided after round 0 halves it, each height decided in round 0 raises it by an eighth. It outlives
//! the height: a leader stays for many heights, and would propose the block that failed in the round
//! before again and again. Within a height each round has half the budget of the one before, and late
//! rounds propose empty blocks.

use std::time::Duration;

use axolotl_common::{Round, genesis::Timing};

/// Share of the propose timeout that building may take: the rest is for the way and for the
/// execution by the others, which may be slower.
const SHARE_OF_TIMEOUT: u32 = 4;
/// The budget never falls below this share of the most: a few dozen transfers.
const LEAST_SHARE: u32 = 64;
/// Heights decided in round 0 raise the budget by one part in so many.
const RAISE_PARTS: u32 = 8;
/// From this round on blocks are empty.
const EMPTY_FROM_ROUND: u32 = 6;

/// The most time that executing the transactions of one block may take its proposer.
pub fn build_budget(timing: &Timing) -> Duration {
    Duration::from_millis(timing.propose_ms) / SHARE_OF_TIMEOUT
}

/// The budget of the blocks that this node proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BuildBudget {
    most: Duration,
    now: Duration,
}

impl BuildBudget {
    pub(crate) fn new(timing: &Timing) -> Self {
        let most = build_budget(timing);
        Self { most, now: most }
    }

    /// A height was decided by votes in this round.
    pub(crate) fn decided(&mut self, round: Round) {
        self.now = if round == Round(0) {
            (self.now + self.now / RAISE_PARTS).min(self.most)
        } else {
            (self.now / 2).max(self.most / LEAST_SHARE)
        };
    }

    /// The budget of a block for this round; zero: only what must be in it.
    pub(crate) fn in_round(&self, round: Round) -> Duration {
        if round.0 >= EMPTY_FROM_ROUND {
            Duration::ZERO
        } else {
            self.now / (1 << round.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_at_once_and_comes_back_slowly() {
        let ms = Duration::from_millis;
        let mut budget = BuildBudget::new(&Timing::default());
        assert_eq!(budget.in_round(Round(0)), ms(150));
        assert_eq!(budget.in_round(Round(1)), ms(75));
        assert_eq!(budget.in_round(Round(5)), ms(150) / 32);
        assert_eq!(budget.in_round(Round(6)), Duration::ZERO);
        assert_eq!(budget.in_round(Round(u32::MAX)), Duration::ZERO);
        budget.decided(Round(3));
        assert_eq!(budget.in_round(Round(0)), ms(75), "one height, one half");
        for _ in 0..40 {
            budget.decided(Round(1));
        }
        assert_eq!(
            budget.in_round(Round(0)),
            ms(150) / LEAST_SHARE,
            "never zero"
        );
        let mut heights = 0;
        while budget.in_round(Round(0)) < ms(150) {
            budget.decided(Round(0));
            heights += 1;
        }
        assert!((30..=60).contains(&heights), "{heights} heights");
        budget.decided(Round(0));
        assert_eq!(
            budget.in_round(Round(0)),
            ms(150),
            "never more than the most"
        );
    }
}
