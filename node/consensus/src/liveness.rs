//! What keeps a height moving, and what lets an idle one rest.
//!
//! Timeouts grow by a fixed step with the round and never beyond a cap: chains that double them were
//! found hours from their next round. [`Ahead`] decides when signs of later heights become a
//! request to sync: at once when others are two heights ahead, after some patience when it is
//! one, because the rest of this height's votes is probably under way.

use std::time::Duration;

use axolotl_common::{Height, Round, genesis::Timing};

use crate::input::TimerKind;

/// Patience before a message of the next height alone starts a sync.
const AHEAD_PATIENCE: Duration = Duration::from_millis(200);
/// Pause between two questions of the amnesia check.
pub(crate) const AMNESIA_INTERVAL: Duration = Duration::from_secs(1);

/// How long a timer of the protocol runs in a round.
pub(crate) fn timeout(timing: &Timing, kind: TimerKind, round: Round) -> Duration {
    let grown = |base: u64| {
        let ms = base.saturating_add(timing.round_delta_ms.saturating_mul(u64::from(round.0)));
        Duration::from_millis(ms.min(timing.max_timeout_ms))
    };
    match kind {
        TimerKind::Propose => grown(timing.propose_ms),
        TimerKind::Prevote => grown(timing.prevote_ms),
        TimerKind::Precommit => grown(timing.precommit_ms),
        TimerKind::Rebroadcast => Duration::from_millis(timing.rebroadcast_ms),
        TimerKind::EmptyBlock => Duration::from_millis(timing.empty_block_interval_ms),
        TimerKind::Behind => AHEAD_PATIENCE,
        TimerKind::Amnesia => AMNESIA_INTERVAL,
    }
}

/// What to do about a sign of a later height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AheadAction {
    /// Nothing: a timer runs.
    Wait,
    /// Set the timer to this.
    Patience(Duration),
    /// Ask for a sync up to this height, then set the timer to the pause.
    Sync(Height, Duration),
}

/// The highest height that others were seen at.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    seen: Option<Height>,
    waiting: bool,
}

impl Ahead {
    /// Others are at `seen` while we are at `height`.
    pub(crate) fn note(&mut self, seen: Height, height: Height, pause: Duration) -> AheadAction {
        if seen <= height {
            return AheadAction::Wait;
        }
        self.seen = self.seen.max(Some(seen));
        if self.waiting {
            return AheadAction::Wait;
        }
        self.waiting = true;
        if seen.0 - height.0 > 1 {
            self.seen = None;
            AheadAction::Sync(seen, pause)
        } else {
            AheadAction::Patience(AHEAD_PATIENCE)
        }
    }

    /// The timer elapsed.
    pub(crate) fn elapsed(&mut self, height: Height, pause: Duration) -> AheadAction {
        self.waiting = false;
        match self.seen.take() {
            Some(seen) if seen > height => {
                self.waiting = true;
                AheadAction::Sync(seen, pause)
            }
            _ => AheadAction::Wait,
        }
    }

    /// We went to `height`, and all timers were cancelled.
    pub(crate) fn begin(&mut self, height: Height, pause: Duration) -> AheadAction {
        self.waiting = false;
        match self.seen.take() {
            Some(seen) => self.note(seen, height, pause),
            None => AheadAction::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_grow_and_are_capped() {
        let timing = Timing::default();
        let table = [
            (TimerKind::Propose, 0, 600),
            (TimerKind::Propose, 1, 800),
            (TimerKind::Propose, 12, 3_000),
            (TimerKind::Propose, u32::MAX, 3_000),
            (TimerKind::Prevote, 0, 300),
            (TimerKind::Prevote, 5, 1_300),
            (TimerKind::Precommit, 100, 3_000),
            (TimerKind::Rebroadcast, 0, 700),
            (TimerKind::Rebroadcast, 1_000, 700),
            (TimerKind::EmptyBlock, 0, 5_000),
        ];
        for (kind, round, ms) in table {
            assert_eq!(
                timeout(&timing, kind, Round(round)),
                Duration::from_millis(ms),
                "{kind:?} in round {round}"
            );
        }
    }

    #[test]
    fn a_sync_is_asked_for_once_and_not_too_soon() {
        let pause = Duration::from_millis(700);
        let mut ahead = Ahead::default();
        let h = Height;
        assert_eq!(ahead.note(h(5), h(5), pause), AheadAction::Wait);
        assert_eq!(
            ahead.note(h(6), h(5), pause),
            AheadAction::Patience(AHEAD_PATIENCE)
        );
        assert_eq!(ahead.note(h(9), h(5), pause), AheadAction::Wait);
        assert_eq!(ahead.elapsed(h(5), pause), AheadAction::Sync(h(9), pause));
        assert_eq!(ahead.note(h(8), h(5), pause), AheadAction::Wait, "pause");
        assert_eq!(ahead.begin(h(6), pause), AheadAction::Sync(h(8), pause));
        assert_eq!(ahead.elapsed(h(8), pause), AheadAction::Wait);
        assert_eq!(
            ahead.note(h(10), h(8), pause),
            AheadAction::Sync(h(10), pause)
        );
    }
}
