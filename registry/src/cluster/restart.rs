//! What to start and stop, and when: back-off after crashes, and the order of a shutdown.

use std::time::Duration;

use axolotl_common::NodeId;

use super::Now;

/// Patience before the first new start after a crash.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(250);
/// Longest patience; it doubles up to here.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A node that was healthy for this long begins with [`BACKOFF_FIRST`] again.
pub const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(30);

/// Crashes of one node in a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    crashes: u32,
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

    /// Notes a crash, or a start that failed; returns how long to wait.
    pub fn crashed(&mut self, now: Now) -> Duration {
        if self
            .healthy_since
            .is_some_and(|since| now.saturating_sub(since) >= BACKOFF_RESET_AFTER)
        {
            self.crashes = 0;
        }
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.crashes.min(16));
        let wait = doubled.min(BACKOFF_MAX);
        self.crashes = self.crashes.saturating_add(1);
        self.healthy_since = None;
        self.next = Some(now + wait);
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

/// A managed node, as far as the plan is concerned.
#[derive(Clone, Debug)]
pub struct Managed {
    /// Label.
    pub label: NodeId,
    /// Number.
    pub number: u64,
    /// Whether it is wanted: not stopped on purpose.
    pub wanted: bool,
    /// Whether its instance runs.
    pub running: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Not to be started before this time.
    pub not_before: Option<Now>,
}

/// What the reconciler is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start this node.
    Start(NodeId),
    /// Stop this node, and wait until it is gone before the next action.
    Stop(NodeId),
}

/// The actions that bring what runs to what is wanted, and when to look again.
///
/// In a shutdown everything that runs is stopped, followers first and newest first, the leader
/// last; nothing is started.
pub fn plan(managed: &[Managed], shutdown: bool, now: Now) -> (Vec<Action>, Option<Now>) {
    if shutdown {
        let mut running: Vec<&Managed> = managed.iter().filter(|node| node.running).collect();
        running.sort_by_key(|node| (node.leads, std::cmp::Reverse(node.number)));
        let stops = running.iter().map(|node| Action::Stop(node.label.clone()));
        return (stops.collect(), None);
    }
    let mut down: Vec<&Managed> = managed
        .iter()
        .filter(|node| node.wanted && !node.running)
        .collect();
    down.sort_by_key(|node| node.number);
    let (due, later): (Vec<&Managed>, Vec<&Managed>) = down
        .into_iter()
        .partition(|node| node.not_before.is_none_or(|at| at <= now));
    let starts = due.iter().map(|node| Action::Start(node.label.clone()));
    let next = later.iter().filter_map(|node| node.not_before).min();
    (starts.collect(), next)
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
            let wait = backoff.crashed(now);
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
        assert_eq!(backoff.crashed(now + Duration::from_secs(5)), BACKOFF_MAX);
        backoff.healthy(true, now);
        backoff.healthy(true, now + Duration::from_secs(9));
        assert_eq!(backoff.crashed(now + BACKOFF_RESET_AFTER), BACKOFF_FIRST);
    }

    #[test]
    fn a_storm_of_crashes_is_bounded() {
        let (mut backoff, mut now, mut starts) = (Backoff::default(), Now::ZERO, 0);
        while now < Now::from_secs(120) {
            starts += 1;
            now += backoff.crashed(now);
        }
        assert!(starts <= 18, "{starts} starts in two minutes");
    }

    fn node(number: u64, wanted: bool, running: bool) -> Managed {
        Managed {
            label: NodeId::numbered(number),
            number,
            wanted,
            running,
            leads: false,
            not_before: None,
        }
    }

    #[test]
    fn what_is_wanted_is_started_in_order_and_when_due() {
        let now = Now::from_secs(10);
        let mut nodes = [
            node(10, true, false),
            node(2, true, false),
            node(3, true, true),
            node(4, false, false),
            node(5, true, false),
        ];
        nodes[4].not_before = Some(Now::from_secs(11));
        let (actions, next) = plan(&nodes, false, now);
        let start = |n| Action::Start(NodeId::numbered(n));
        assert_eq!(actions, [start(2), start(10)]);
        assert_eq!(next, Some(Now::from_secs(11)));
        assert_eq!(plan(&nodes, false, Now::from_secs(11)).0.len(), 3);
    }

    #[test]
    fn a_shutdown_stops_followers_first_and_starts_nothing() {
        let mut nodes = [
            node(1, true, true),
            node(2, true, true),
            node(3, true, false),
            node(11, true, true),
        ];
        nodes[1].leads = true;
        let stop = |n| Action::Stop(NodeId::numbered(n));
        let (actions, next) = plan(&nodes, true, Now::ZERO);
        assert_eq!(actions, [stop(11), stop(1), stop(2)]);
        assert_eq!(next, None);
    }
}
