//! CPU and memory of processes on this machine, from `/proc`.

use std::time::{Duration, Instant};

use axolotl_common::registry_api::StatusResponse;
use serde::Serialize;

/// How often memory is looked at.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// CPU ticks per second in `/proc`: `USER_HZ` is 100 on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one process used during the run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessUse {
    /// Label of the node, or `bench`.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// CPU time over wall time; 100 is one core.
    pub cpu_percent: f64,
    /// Largest resident set seen, MB (10^6 bytes).
    pub rss_mb_max: f64,
}

/// The nodes that are processes on this machine.
pub(super) fn of_nodes(status: Option<&StatusResponse>) -> Vec<(String, u32)> {
    let nodes = status.into_iter().flat_map(|status| status.nodes.values());
    nodes
        .filter_map(|node| {
            let pid = super::local_pid(node.runtime.as_ref())?;
            Some((node.id.to_string(), pid))
        })
        .collect()
}

struct Watched {
    name: String,
    pid: u32,
    ticks_at_start: u64,
    rss_kib_max: u64,
}

/// Watches processes from its start to its finish.
pub(super) struct Sampler {
    started: Instant,
    watched: Vec<Watched>,
}

impl Sampler {
    /// Processes that cannot be read (of another machine or user) are left out.
    pub(super) fn start(processes: Vec<(String, u32)>) -> Self {
        let watched = processes.into_iter().filter_map(|(name, pid)| {
            Some(Watched {
                name,
                pid,
                ticks_at_start: cpu_ticks(pid)?,
                rss_kib_max: rss_kib(pid)?,
            })
        });
        Self {
            watched: watched.collect(),
            started: Instant::now(),
        }
    }

    pub(super) fn sample(&mut self) {
        for process in &mut self.watched {
            if let Some(rss) = rss_kib(process.pid) {
                process.rss_kib_max = process.rss_kib_max.max(rss);
            }
        }
    }

    /// A process that ended meanwhile is left out.
    pub(super) fn finish(mut self) -> Vec<ProcessUse> {
        self.sample();
        let wall = self.started.elapsed().as_secs_f64();
        let used = self.watched.into_iter().filter_map(|process| {
            let ticks = cpu_ticks(process.pid)?.saturating_sub(process.ticks_at_start);
            Some(ProcessUse {
                cpu_percent: ticks as f64 / TICKS_PER_SECOND / wall * 100.0,
                rss_mb_max: process.rss_kib_max as f64 * 1024.0 / 1e6,
                name: process.name,
                pid: process.pid,
            })
        });
        used.collect()
    }
}

fn cpu_ticks(pid: u32) -> Option<u64> {
    ticks_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// User and system time in the text of `/proc/<pid>/stat`: fields 14 and 15 (proc(5)). The second
/// field, the name in parentheses, may itself hold blanks and parentheses.
fn ticks_in(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn rss_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_past_a_strange_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 31 11 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks_in(stat), Some(42));
        assert_eq!(ticks_in("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let me = std::process::id();
        let used = Sampler::start(vec![("me".to_owned(), me), ("none".to_owned(), u32::MAX)]);
        let used = used.finish();
        assert_eq!(used.len(), 1, "{used:?}");
        assert!(used[0].rss_mb_max > 0.1, "{used:?}");
    }
}
