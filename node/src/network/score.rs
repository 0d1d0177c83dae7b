//! What faults cost, and how much a peer may send. Pure: `now` is an argument.

use std::time::{Duration, Instant};

use super::limits::{BAN_MAX, BAN_MEMORY, BAN_MIN, BAN_SCORE, SCORE_DECAY_PER_S};

/// What a peer did wrong. Each costs points; at [`BAN_SCORE`] the peer is cut off for a while, and
/// for twice as long the next time. Points are forgiven slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Bytes that do not decode.
    Garbage,
    /// A message longer than allowed, or with more in it.
    Oversized,
    /// A gossip message that decodes and is refused: a signature that does not hold, say.
    InvalidMessage,
    /// A block from sync that is refused, or whose certificate proves nothing.
    InvalidBlock,
    /// It is of another chain.
    WrongChain,
    /// More messages or bytes than the rate allows.
    Flood,
    /// It ended a gossip stream and began another, as happens when a frame does not decode.
    StreamReset,
    /// No answer in time, or blocks that it claimed to have were not given.
    Unanswered,
}

impl Fault {
    /// Points.
    pub fn points(self) -> u32 {
        match self {
            Self::WrongChain | Self::InvalidBlock | Self::Oversized => 100,
            Self::Garbage | Self::StreamReset => 60,
            Self::InvalidMessage => 35,
            Self::Flood => 10,
            Self::Unanswered => 5,
        }
    }

    /// Label in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Oversized => "oversized",
            Self::InvalidMessage => "invalid_message",
            Self::InvalidBlock => "invalid_block",
            Self::WrongChain => "wrong_chain",
            Self::Flood => "flood",
            Self::StreamReset => "stream_reset",
            Self::Unanswered => "unanswered",
        }
    }
}

/// Points of one peer, and its bans.
#[derive(Clone, Debug, Default)]
pub(crate) struct Score {
    points: f64,
    at: Option<Instant>,
    bans: u32,
    banned_until: Option<Instant>,
}

impl Score {
    /// Charges a fault. Returns for how long the peer is to be cut off, if it now is.
    pub(crate) fn charge(&mut self, now: Instant, fault: Fault) -> Option<Duration> {
        let idle = self.at.map_or(0.0, |at| (now - at).as_secs_f64());
        self.points = (self.points - idle * SCORE_DECAY_PER_S).max(0.0) + f64::from(fault.points());
        self.at = Some(now);
        if self.points < f64::from(BAN_SCORE) || self.banned(now) {
            return None;
        }
        if self
            .banned_until
            .is_some_and(|until| now - until > BAN_MEMORY)
        {
            self.bans = 0;
        }
        let length = (BAN_MIN * 2u32.saturating_pow(self.bans.min(16))).min(BAN_MAX);
        self.bans += 1;
        self.banned_until = Some(now + length);
        self.points = 0.0;
        Some(length)
    }

    /// Whether the peer is cut off.
    pub(crate) fn banned(&self, now: Instant) -> bool {
        self.banned_until.is_some_and(|until| now < until)
    }
}

/// A token bucket that holds two seconds' worth.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    per_s: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    pub(crate) fn new(now: Instant, per_s: f64) -> Self {
        Self {
            per_s,
            tokens: 2.0 * per_s,
            at: now,
        }
    }

    /// Takes tokens, if there are so many.
    pub(crate) fn take(&mut self, now: Instant, tokens: f64) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + elapsed * self.per_s).min(2.0 * self.per_s);
        if self.tokens < tokens {
            return false;
        }
        self.tokens -= tokens;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_add_up_to_a_ban_that_doubles() {
        let start = Instant::now();
        let mut score = Score::default();
        for _ in 0..2 {
            assert_eq!(score.charge(start, Fault::InvalidMessage), None);
        }
        assert_eq!(score.charge(start, Fault::InvalidMessage), Some(BAN_MIN));
        assert!(score.banned(start + BAN_MIN / 2));
        let later = start + BAN_MIN;
        assert!(!score.banned(later));
        assert_eq!(score.charge(later, Fault::WrongChain), Some(BAN_MIN * 2));
        let mut at = later;
        for _ in 0..20 {
            at += BAN_MAX;
            score.charge(at, Fault::WrongChain);
        }
        assert_eq!(
            score.charge(at + BAN_MAX, Fault::WrongChain),
            Some(BAN_MAX),
            "bans are bounded"
        );
    }

    #[test]
    fn points_are_forgiven() {
        let start = Instant::now();
        let mut score = Score::default();
        for second in 0..1_000 {
            let now = start + Duration::from_secs(20 * second);
            assert_eq!(score.charge(now, Fault::Flood), None, "second {second}");
        }
    }

    #[test]
    fn a_rate_allows_its_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(start, 10.0);
        assert_eq!((0..100).filter(|_| rate.take(start, 1.0)).count(), 20);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| rate.take(later, 1.0)).count(), 10);
        assert!(
            !rate.take(start, 1.0),
            "a clock that steps back gives nothing"
        );
    }
}
