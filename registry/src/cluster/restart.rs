//! When to start again what crashed: back-off, and what counts as a crash loop.

use std::time::Duration;

use super::{Now, instance::Crashes};

/// Patience before the first new start of a validator after a crash.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Longest patience for a validator; it doubles up to here.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Patience before the first new start of a node that does not vote: nobody misses it yet, and an
/// image that cannot run must not be started in a storm.
pub const LEARNER_BACKOFF_FIRST: Duration = Duration::from_secs(2);
/// Longest patience for a node that does not vote; it quadruples up to here.
pub const LEARNER_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A node that was healthy for this long begins with the first patience again.
pub const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(30);
/// So many crashes …
pub const LOOP_CRASHES: usize = 3;
/// … within this time are a crash loop: a replacement is started beside the node.
pub const LOOP_WINDOW: Duration = Duration::from_secs(60);

/// How urgent it is to have a node back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// It votes, or is to be in the genesis.
    Validator,
    /// It does not vote.
    Learner,
}

/// Crashes of one node in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    crashes: u32,
    latest: Crashes,
    next: Option<Now>,
    healthy_since: Option<Now>,
}

impl Backoff {
    /// Crashes since the node was last healthy for a while.
    pub fn crashes(&self) -> u32 {
        self.crashes
    }

    /// The node may be started from this time on, if it crashed.
    pub fn next(&self) -> Option<Now> {
        self.next
    }

    /// Until when the node counts as caught in a crash loop, if it is in one.
    pub fn loops_until(&self) -> Option<Now> {
        let (first, last) = (self.latest.front()?, self.latest.back()?);
        let many = self.latest.len() >= LOOP_CRASHES;
        (many && last.saturating_sub(*first) <= LOOP_WINDOW).then(|| *last + LOOP_WINDOW)
    }

    /// Notes a crash, or a start that failed; returns how long to wait.
    pub fn crashed(&mut self, now: Now, urgency: Urgency) -> Duration {
        if self
            .healthy_since
            .is_some_and(|since| now.saturating_sub(since) >= BACKOFF_RESET_AFTER)
        {
            self.crashes = 0;
        }
        let (first, factor, longest) = match urgency {
            Urgency::Validator => (BACKOFF_FIRST, 2u32, BACKOFF_MAX),
            Urgency::Learner => (LEARNER_BACKOFF_FIRST, 4, LEARNER_BACKOFF_MAX),
        };
        let grown = first.saturating_mul(factor.saturating_pow(self.crashes.min(12)));
        let wait = grown.min(longest);
        self.crashes = self.crashes.saturating_add(1);
        self.healthy_since = None;
        self.next = Some(now + wait);
        self.latest.push_back(now);
        if self.latest.len() > LOOP_CRASHES {
            self.latest.pop_front();
        }
        wait
    }

    /// Notes that the node was started.
    pub fn started(&mut self) {
        self.next = None;
    }

    /// Notes whether the node is healthy now.
    pub fn healthy(&mut self, healthy: bool, now: Now) {
        if !healthy {
            self.healthy_since = None;
        } else if self.healthy_since.is_none() {
            self.healthy_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_and_is_forgotten_after_health() {
        let mut backoff = Backoff::default();
        let mut now = Now::from_secs(1);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let wait = backoff.crashed(now, Urgency::Validator);
            assert_eq!(backoff.next(), Some(now + wait));
            waits.push(wait.as_millis());
            now += wait;
            backoff.started();
        }
        assert_eq!(
            waits,
            [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]
        );
        backoff.healthy(true, now);
        let soon = now + Duration::from_secs(5);
        assert_eq!(backoff.crashed(soon, Urgency::Validator), BACKOFF_MAX);
        backoff.healthy(true, now);
        backoff.healthy(true, now + Duration::from_secs(9));
        let late = now + BACKOFF_RESET_AFTER;
        assert_eq!(backoff.crashed(late, Urgency::Validator), BACKOFF_FIRST);
    }

    #[test]
    fn an_image_that_cannot_run_is_started_five_times_in_two_minutes() {
        let (mut backoff, mut now, mut starts) = (Backoff::default(), Now::ZERO, 0);
        while now < Now::from_secs(120) {
            starts += 1;
            now += backoff.crashed(now, Urgency::Learner);
        }
        assert!(starts <= 5, "{starts} starts in two minutes");
    }

    #[test]
    fn three_crashes_within_a_minute_are_a_loop_until_a_minute_is_quiet() {
        let mut backoff = Backoff::default();
        let s = Now::from_secs;
        for at in [10, 45, 75] {
            backoff.crashed(s(at), Urgency::Validator);
        }
        assert_eq!(backoff.loops_until(), None, "65 s apart");
        backoff.crashed(s(80), Urgency::Validator);
        assert_eq!(backoff.loops_until(), Some(s(140)));
    }
}
