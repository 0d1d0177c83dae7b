//! What a run found.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    BenchArgs,
    load::{Pace, Tally},
    plan::Plan,
    processes::ProcessUse,
    watch::{Blocks, Receipts},
};

/// Everything a run knows at its end.
pub(super) struct Outcome<'a> {
    pub(super) args: &'a BenchArgs,
    pub(super) urls: Vec<String>,
    pub(super) chain_id: u64,
    pub(super) senders: usize,
    pub(super) tally: &'a Tally,
    pub(super) plan: &'a Plan,
    pub(super) started: Instant,
    pub(super) lateness: Duration,
    pub(super) blocks: Blocks,
    pub(super) receipts: Receipts,
    pub(super) processes: Vec<ProcessUse>,
}

/// Latencies from the moment a transfer was due to the moment its block was seen, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latencies {
    /// Half are at most this.
    pub p50: f64,
    /// Nine of ten are at most this.
    pub p90: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// The report of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: String,
    /// Chain measured.
    pub chain_id: u64,
    /// Nodes that transfers were handed to.
    pub rpc_urls: Vec<String>,
    /// Transfers per second asked for.
    pub rate: f64,
    /// How long transfers were handed in, seconds.
    pub duration_s: f64,
    /// Accounts that sent.
    pub senders: usize,
    /// Transfers handed in.
    pub offered: usize,
    /// Of them, accepted by a node.
    pub accepted: usize,
    /// Of them, finalised.
    pub finalised: usize,
    /// Accepted, but behind a refused one of the same sender, so that they could not be finalised.
    pub stranded: usize,
    /// Handed in per second.
    pub offered_per_s: f64,
    /// Accepted per second of handing in.
    pub accepted_per_s: f64,
    /// Finalised, over the time from the start to the last one's block.
    pub finalised_per_s: f64,
    /// Latencies of the finalised; `null` when there are none.
    pub latency_ms: Option<Latencies>,
    /// Blocks made meanwhile.
    pub blocks: usize,
    /// Most transfers in one block.
    pub transfers_in_block_max: usize,
    /// By how much the bench itself was late at worst; large values mean that the machine, or the
    /// bench, was the limit.
    pub late_ms_max: f64,
    /// Receipts fetched and checked.
    pub receipts_checked: usize,
    /// Of them, missing or of a failed transfer.
    pub receipts_bad: usize,
    /// Why transfers were not accepted, with how many.
    pub refusals: BTreeMap<String, usize>,
    /// CPU and memory of the nodes that run on this machine, and of the bench.
    pub processes: Vec<ProcessUse>,
}

impl Report {
    pub(super) fn new(outcome: Outcome<'_>) -> Self {
        let Outcome { args, tally, .. } = outcome;
        let seen = tally.seen();
        let mut latencies: Vec<Duration> = seen
            .iter()
            .enumerate()
            .filter_map(|(index, seen)| {
                let due = Pace::due(outcome.started, args.rate, index);
                seen.map(|seen| seen.saturating_duration_since(due))
            })
            .collect();
        latencies.sort_unstable();
        let last = seen.iter().flatten().max();
        let until_last = last.map_or(Duration::ZERO, |last| *last - outcome.started);
        let duration = args.duration.as_secs_f64();
        // A short run whose last block comes early is still measured over the time it was asked for.
        let finalising = until_last.as_secs_f64().max(duration);
        let per_second = |count: usize, seconds: f64| count as f64 / seconds.max(f64::MIN_POSITIVE);
        debug_assert_eq!(seen.len(), outcome.plan.transfers.len());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            chain_id: outcome.chain_id,
            rpc_urls: outcome.urls,
            rate: args.rate,
            duration_s: duration,
            senders: outcome.senders,
            offered: tally.offered(),
            accepted: tally.accepted(),
            finalised: tally.finalised(),
            stranded: tally.stranded(),
            offered_per_s: per_second(tally.offered(), duration),
            accepted_per_s: per_second(tally.accepted(), duration),
            finalised_per_s: per_second(tally.finalised(), finalising),
            latency_ms: latencies_of(&latencies),
            blocks: outcome.blocks.count,
            transfers_in_block_max: outcome.blocks.transfers_max,
            late_ms_max: outcome.lateness.as_secs_f64() * 1e3,
            receipts_checked: outcome.receipts.checked,
            receipts_bad: outcome.receipts.bad,
            refusals: tally.refusals(),
            processes: outcome.processes,
        }
    }

    /// Whether everything accepted was finalised as far as it can be, and every receipt that was
    /// looked at is good.
    pub fn is_clean(&self) -> bool {
        self.finalised + self.stranded >= self.accepted && self.receipts_bad == 0
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!(
            "chain {}, {} nodes, {} senders, {} s",
            self.chain_id,
            self.rpc_urls.len(),
            self.senders,
            self.duration_s
        ));
        for (what, count, rate) in [
            ("offered", self.offered, self.offered_per_s),
            ("accepted", self.accepted, self.accepted_per_s),
            ("finalised", self.finalised, self.finalised_per_s),
        ] {
            line(format!("{what:<10} {count:>9}   {rate:>8.1} per second"));
        }
        if let Some(Latencies { p50, p90, p99, max }) = self.latency_ms {
            line(format!(
                "latency    p50 {p50:.1} ms   p90 {p90:.1} ms   p99 {p99:.1} ms   max {max:.1} ms"
            ));
        }
        line(format!(
            "blocks     {} (at most {} transfers in one)",
            self.blocks, self.transfers_in_block_max
        ));
        line(format!(
            "receipts   {} checked, {} missing or failed",
            self.receipts_checked, self.receipts_bad
        ));
        if self.late_ms_max >= 100.0 {
            line(format!(
                "note: the bench itself was up to {:.0} ms late; this machine is at its limit",
                self.late_ms_max
            ));
        }
        for process in &self.processes {
            line(format!(
                "{:<10} {:>6.1} % CPU   {:>6.1} MB   pid {}",
                process.name, process.cpu_percent, process.rss_mb_max, process.pid
            ));
        }
        for (why, count) in &self.refusals {
            line(format!("refused    {count}: {why}"));
        }
        if self.stranded > 0 {
            let stranded = self.stranded;
            let _ = writeln!(
                text,
                "stranded   {stranded}: accepted, but behind a refused one of the same sender"
            );
        }
        let accounted = self.finalised + self.stranded;
        if accounted < self.accepted {
            let lost = self.accepted - accounted;
            let _ = writeln!(
                text,
                "NOT FINALISED: {lost} accepted transfers are in no block; see `axolotl status`"
            );
        }
        text
    }
}

fn latencies_of(sorted: &[Duration]) -> Option<Latencies> {
    let max = *sorted.last()?;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    // Nearest rank: the smallest value that at least this share of all values does not exceed.
    let rank = |percent: usize| ms(sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]);
    Some(Latencies {
        p50: rank(50),
        p90: rank(90),
        p99: rank(99),
        max: ms(max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let millis = |values: &[u64]| -> Vec<Duration> {
            values.iter().map(|ms| Duration::from_millis(*ms)).collect()
        };
        assert_eq!(latencies_of(&[]), None);
        let one = latencies_of(&millis(&[7])).unwrap();
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
        let hundred = latencies_of(&millis(&(1..=100).collect::<Vec<_>>())).unwrap();
        let found = (hundred.p50, hundred.p90, hundred.p99, hundred.max);
        assert_eq!(found, (50.0, 90.0, 99.0, 100.0));
    }
}
