//! Timers of consensus, by deadline.

use std::{collections::BTreeMap, time::Duration};

use axolotl_consensus::TimerId;

/// Pending timers. Consensus has at most a few per round, and cancels all of them with the height.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_deadline: BTreeMap<(Duration, u64), TimerId>,
    set: u64,
}

impl Timers {
    /// Sets a timer, in place of one with the same id.
    pub(super) fn set(&mut self, id: TimerId, deadline: Duration) {
        self.cancel(id);
        self.set += 1;
        self.by_deadline.insert((deadline, self.set), id);
    }

    /// Forgets a timer.
    pub(super) fn cancel(&mut self, id: TimerId) {
        self.by_deadline.retain(|_, other| *other != id);
    }

    /// When the first one fires.
    pub(super) fn next(&self) -> Option<Duration> {
        self.by_deadline
            .keys()
            .next()
            .map(|(deadline, _)| *deadline)
    }

    /// Takes the first timer that is due.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<TimerId> {
        let entry = self.by_deadline.first_entry()?;
        if entry.key().0 <= now {
            Some(entry.remove())
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use axolotl_common::{Height, Round};
    use axolotl_consensus::TimerKind;

    use super::*;

    #[test]
    fn timers_fire_in_the_order_of_their_deadlines() {
        let id = |kind| TimerId {
            height: Height(1),
            round: Round(0),
            kind,
        };
        let at = Duration::from_millis;
        let mut timers = Timers::default();
        timers.set(id(TimerKind::Prevote), at(20));
        timers.set(id(TimerKind::Propose), at(10));
        timers.set(id(TimerKind::Precommit), at(10));
        timers.set(id(TimerKind::Prevote), at(30));
        timers.set(id(TimerKind::Rebroadcast), at(5));
        timers.cancel(id(TimerKind::Rebroadcast));
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop_due(at(9)), None);
        assert_eq!(timers.pop_due(at(10)), Some(id(TimerKind::Propose)));
        assert_eq!(timers.pop_due(at(10)), Some(id(TimerKind::Precommit)));
        assert_eq!(
            timers.pop_due(at(29)),
            None,
            "set anew, a timer counts from then"
        );
        assert_eq!(timers.pop_due(at(30)), Some(id(TimerKind::Prevote)));
        assert_eq!(timers.next(), None);
    }
}
