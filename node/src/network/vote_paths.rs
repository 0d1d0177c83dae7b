//! Decides what to do when votes do not pass between this node and a validator. Pure: whoever watches tells it
//! what is seen, and performs the steps.
//!
//! A *path* to a validator is in trouble when
//! - votes of others, or of this node, come about for heights of which none of that validator arrives, although
//!   by its status it is at those heights and may vote; or
//! - its status, which holds the highest vote of this node that it has, lacks one that is long signed.
//!
//! | trouble for | step |
//! |---|---|
//! | [`ANNOUNCE_AFTER`] | subscriptions to gossip are announced to it again |
//! | [`RECONNECT_AFTER`], then twice as long each time | its connections are closed, and it is dialled anew |
//! | [`RESTART_AFTER`], and a quorum is not within reach of good paths | the whole network of this node is restarted, at most once in [`RESTART_INTERVAL`], twice as long each time |
//!
//! Only validators count, and only as many as may lie can be in trouble without being at fault: so one that lies
//! about what it holds costs itself a connection now and then, and never this node its network. Where peers are
//! merely gone while others are reached, nothing is restarted: it would not bring them back.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axolotl_common::{Epoch, Height, PublicKey};

/// Votes come within milliseconds, and are sent again after 0.7 s: four times lost is no chance.
pub const ANNOUNCE_AFTER: Duration = Duration::from_secs(3);
/// Longer than a ping takes to find a dead connection in most cases.
pub const RECONNECT_AFTER: Duration = Duration::from_secs(5);
/// Longest wait between two reconnections to one peer in trouble.
pub const RECONNECT_MAX: Duration = Duration::from_secs(60);
/// When one reconnection has been tried in vain.
pub const RESTART_AFTER: Duration = Duration::from_secs(10);
/// Up to so much more, so that nodes in the same trouble do not drop one another's connections in step.
pub const RESTART_JITTER: Duration = Duration::from_secs(5);
/// Shortest time between two restarts; it doubles while they do not help.
pub const RESTART_INTERVAL: Duration = Duration::from_secs(60);
/// Longest time between two restarts that do not help.
pub const RESTART_INTERVAL_MAX: Duration = Duration::from_secs(600);

/// A vote of this node: its epoch and height.
pub type Place = (Epoch, Height);

/// What is seen of one other validator.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its key.
    pub key: PublicKey,
    /// Whether it is connected.
    pub connected: bool,
    /// Since when votes are missing of it; `None` also while by its status it cannot be expected to vote.
    pub missing_since: Option<Instant>,
    /// When its last status came, and the highest vote of this node in it. `None` while it is not asked for: it is
    /// of another epoch, or has not spoken yet.
    pub holds: Option<(Instant, Option<Place>)>,
}

/// What is seen at one time.
#[derive(Clone, Debug)]
pub struct View {
    /// The last vote of this node and when it was signed, if it votes.
    pub signed: Option<(Place, Instant)>,
    /// Validators that make a quorum.
    pub quorum: usize,
    /// The other validators of the epoch in force.
    pub others: Vec<Seen>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Announce the subscriptions to this peer again.
    Announce(PublicKey),
    /// Close all connections to this peer and dial it.
    Reconnect(PublicKey),
    /// Restart the network.
    Restart,
}

/// What is known of one path.
#[derive(Clone, Debug)]
struct Path {
    /// Since when it is connected as it is now.
    connected: Option<Instant>,
    /// A vote that its status should show, and when it was signed.
    wanted: Option<(Place, Instant)>,
    /// Since when it has been in trouble or not connected, over reconnections.
    bad_since: Option<Instant>,
    announced: bool,
    reconnections: u32,
}

/// All paths.
#[derive(Debug)]
pub struct VotePaths {
    paths: BTreeMap<PublicKey, Path>,
    jitter: Duration,
    restarted: Option<Instant>,
    restarts: u32,
}

impl VotePaths {
    /// `seed` makes the jitter of each node its own.
    pub fn new(seed: u64) -> Self {
        let jitter_ms = seed % (RESTART_JITTER.as_millis() as u64 + 1);
        Self {
            paths: BTreeMap::new(),
            jitter: Duration::from_millis(jitter_ms),
            restarted: None,
            restarts: 0,
        }
    }

    /// Looks at what is seen now, and says what to do. To be called every half second or so.
    pub fn step(&mut self, now: Instant, view: &View) -> Vec<Step> {
        let is_other = |key: &PublicKey| view.others.iter().any(|seen| seen.key == *key);
        self.paths.retain(|key, _| is_other(key));
        let mut steps = Vec::new();
        let (mut good, mut connected, mut in_trouble) = (0, 0, 0);
        let mut bad_for = Vec::new();
        for seen in &view.others {
            let path = self.paths.entry(seen.key).or_insert(Path {
                connected: None,
                wanted: None,
                bad_since: None,
                announced: false,
                reconnections: 0,
            });
            let trouble = path.trouble(now, seen, view.signed);
            let bad = trouble.is_some() || !seen.connected;
            path.bad_since = bad.then(|| path.bad_since.or(trouble).unwrap_or(now));
            connected += usize::from(seen.connected);
            match trouble {
                Some(since) => {
                    in_trouble += 1;
                    steps.extend(path.next_step(now, since, seen.key));
                }
                None if seen.connected => {
                    good += 1;
                    path.announced = false;
                    path.reconnections = 0;
                }
                None => {}
            }
            bad_for.extend(
                path.bad_since
                    .map(|since| now.saturating_duration_since(since)),
            );
        }
        let out_of_reach = good + 1 < view.quorum;
        if !out_of_reach {
            self.restarts = 0;
        }
        // The quorum has been out of reach since as many paths as that takes are bad.
        bad_for.sort_unstable_by(|a, b| b.cmp(a));
        let spare = (view.others.len() + 1).saturating_sub(view.quorum);
        let out_for = bad_for.get(spare).copied().unwrap_or_default();
        let own_fault = in_trouble > 0 || connected == 0;
        let votes = view.signed.is_some();
        if out_of_reach && own_fault && votes && out_for >= RESTART_AFTER + self.jitter {
            let interval = RESTART_INTERVAL
                .saturating_mul(1 << self.restarts.saturating_sub(1).min(10))
                .min(RESTART_INTERVAL_MAX);
            let due = self
                .restarted
                .is_none_or(|at| now.saturating_duration_since(at) >= interval + self.jitter);
            if due {
                self.restarted = Some(now);
                self.restarts = self.restarts.saturating_add(1);
                return vec![Step::Restart];
            }
        }
        steps
    }
}

impl Path {
    /// Since when the connected path has been in trouble, if it is.
    fn trouble(
        &mut self,
        now: Instant,
        seen: &Seen,
        signed: Option<(Place, Instant)>,
    ) -> Option<Instant> {
        if !seen.connected {
            self.connected = None;
            return None;
        }
        let connected = *self.connected.get_or_insert(now);
        let lacking = self.lacking(seen, signed);
        let since = [lacking, seen.missing_since].into_iter().flatten().min()?;
        Some(since.max(connected))
    }

    /// Since when the peer has lacked a vote of this node, by its last status.
    fn lacking(&mut self, seen: &Seen, signed: Option<(Place, Instant)>) -> Option<Instant> {
        let (Some(signed), Some((status_at, holds))) = (signed, seen.holds) else {
            self.wanted = None;
            return None;
        };
        if self.wanted.is_none_or(|(place, _)| holds >= Some(place)) {
            self.wanted = (holds < Some(signed.0)).then_some(signed);
        }
        let (_, at) = self.wanted?;
        // Only a status of so long after the vote shows that it did not arrive.
        let shown = status_at.saturating_duration_since(at) >= ANNOUNCE_AFTER;
        shown.then_some(at)
    }

    fn next_step(&mut self, now: Instant, since: Instant, key: PublicKey) -> Option<Step> {
        let age = now.saturating_duration_since(since);
        let patience = RECONNECT_AFTER
            .saturating_mul(1 << self.reconnections.min(10))
            .min(RECONNECT_MAX);
        if age >= patience {
            self.reconnections = self.reconnections.saturating_add(1);
            self.announced = false;
            // Should the connection be one that is not seen to close.
            self.connected = Some(now);
            return Some(Step::Reconnect(key));
        }
        if age >= ANNOUNCE_AFTER && !self.announced {
            self.announced = true;
            return Some(Step::Announce(key));
        }
        None
    }
}

#[cfg(test)]
#[path = "vote_paths_tests.rs"]
mod tests;
