//! `axolotl bench`: how fast the running system is.
//!
//! Transfers are signed beforehand, by many accounts that the run makes for itself and funds from
//! the development accounts (or from `--funder-key-file`). They are then handed in as an **open
//! loop**: transfer `i` is due at `start + i / rate`, however slow the answers are, and its latency
//! runs from the moment it was due, so that a system that stalls cannot hide it. A transfer counts
//! as finalised when one node shows a block with it, which is when its receipt is there; a sample of
//! the receipts is fetched and checked afterwards.
//!
//! The bench shares the machine with the nodes it measures; its own CPU is in the report.

mod load;
mod plan;
mod processes;
mod report;
mod watch;

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use axolotl_common::registry_api::{NodeState, RuntimeInfo, StatusResponse};
use clap::Args;

use self::{load::Tally, plan::Plan, processes::Sampler, report::Outcome};
pub use self::{
    processes::ProcessUse,
    report::{Latencies, Report},
};
use super::{
    json_rpc::JsonRpc,
    options::{self, OutputArgs, RegistryArgs, advise, check_url},
    output::{self, Usage},
    registry,
};

/// Arguments of `axolotl bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Transfers per second; 0 measures the idle system.
    #[arg(long, default_value_t = 100.0, value_name = "N")]
    pub rate: f64,
    /// How long transfers are handed in.
    #[arg(long, default_value = "10s", value_parser = options::time, value_name = "TIME")]
    pub duration: Duration,
    /// Accounts that send; by default half the rate, from 10 to 1000.
    #[arg(long, value_parser = options::count, value_name = "N")]
    pub senders: Option<NonZeroUsize>,
    /// Transfers per HTTP request, where several are due at once.
    #[arg(long, default_value = "1", value_parser = options::count, value_name = "N")]
    pub batch: NonZeroUsize,
    /// JSON-RPC addresses to use instead of the registry's healthy nodes; may be repeated.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub rpc: Vec<String>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// File with the secret key (hexadecimal) of the account that funds the senders, for chains
    /// without the development accounts.
    #[arg(long, value_name = "FILE")]
    pub funder_key_file: Option<PathBuf>,
    /// How often the head is asked for; bounds how exact the latencies are.
    #[arg(long, default_value = "2ms", value_parser = options::time, value_name = "TIME")]
    pub poll_interval: Duration,
    /// How long to wait, after the last transfer was handed in, for all to be finalised.
    #[arg(long, default_value = "30s", value_parser = options::time, value_name = "TIME")]
    pub drain: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

/// Most transfers of one run: they are signed and kept in memory beforehand, about 1 KiB each.
const MAX_TRANSFERS: usize = 2_000_000;
/// Most accounts of one run.
const MAX_SENDERS: usize = 10_000;
/// Most time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Most time for the registry's answer.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the bench and prints its report. The exit code is 1 when a transfer that a node accepted
/// was not finalised, or a checked receipt was missing or failed.
///
/// # Errors
/// When the system cannot be reached or the senders cannot be funded; the text says what to do.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let report = measure(&args).await?;
    if args.output.json {
        output::print_json(&report)?;
    } else {
        output::print(&report.text())?;
    }
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the bench.
///
/// # Errors
/// As [`run`].
pub async fn measure(args: &BenchArgs) -> anyhow::Result<Report> {
    let transfers = transfers_of(args)?;
    let senders = senders_of(args, transfers)?;
    for url in &args.rpc {
        check_url("--rpc", url)?;
    }
    let status = registry::status(args.registry.url(), REGISTRY_TIMEOUT).await;
    let urls = match (&args.rpc[..], &status) {
        ([], Ok(status)) => healthy_rpc_urls(status)?,
        ([], Err(error)) => bail!("{error:#}\nOr name the nodes: --rpc URL,URL,…"),
        (named, _) => named.to_vec(),
    };
    let targets: Vec<JsonRpc> = urls
        .iter()
        .map(|url| JsonRpc::new(url, CALL_TIMEOUT))
        .collect::<Result<_, _>>()?;
    let chain_id = common_chain_id(&targets).await?;

    let progress = output::spinner("");
    let funders = plan::funders(args.funder_key_file.as_deref())?;
    progress.set_message(format!(
        "chain {chain_id}, {} nodes: funding {senders} senders",
        targets.len()
    ));
    let plan = Plan::prepare(&targets, chain_id, &funders, senders, transfers, &|text| {
        progress.set_message(text.to_owned());
    })
    .await?;
    let plan = Arc::new(plan);

    let mut watched = processes::of_nodes(status.as_ref().ok());
    watched.push(("bench".to_owned(), std::process::id()));
    let mut sampler = Sampler::start(watched);
    let tally = Arc::new(Tally::new(plan.transfers.len(), plan.senders.max(1)));
    let first_height = targets[0].block_number().await? + 1;
    let started = Instant::now();
    progress.finish_and_clear();
    let bar = output::bar(transfers as u64);
    let (stop_watching, watching_stopped) = tokio::sync::watch::channel(false);
    let watcher = tokio::spawn(watch::follow(
        targets[0].clone(),
        plan.clone(),
        tally.clone(),
        first_height,
        poll_interval(args, transfers),
        watching_stopped,
    ));
    let mut offering = tokio::spawn(load::offer(
        targets.clone(),
        plan.clone(),
        tally.clone(),
        started,
        load::Pace {
            rate: args.rate,
            duration: args.duration,
            batch: args.batch.get(),
        },
    ));

    // Offer, then drain; look at memory and tell the progress meanwhile.
    let mut offered_until = None;
    let mut tick = tokio::time::interval(processes::SAMPLE_INTERVAL);
    let lateness = loop {
        tokio::select! {
            offered = &mut offering, if offered_until.is_none() => {
                offered_until = Some((Instant::now(), offered.context("the load task ended")?));
            }
            _ = tick.tick() => {
                sampler.sample();
                bar.set_position(tally.finalised() as u64);
                bar.set_message(tally.progress(started.elapsed()));
            }
            () = tally.changed.notified(), if offered_until.is_some() => {}
        }
        if let Some((since, lateness)) = &offered_until
            && (tally.is_drained() || since.elapsed() >= args.drain)
        {
            break *lateness;
        }
    };
    let processes = sampler.finish();
    stop_watching.send_replace(true);
    let blocks = watcher.await.context("the watching task ended")?;
    bar.finish_and_clear();
    let progress = output::spinner("checking receipts");
    let receipts = watch::check_receipts(&targets, &plan, &tally).await;
    progress.finish_and_clear();

    Ok(Report::new(Outcome {
        args,
        urls,
        chain_id,
        senders: plan.senders,
        tally: &tally,
        plan: &plan,
        started,
        lateness,
        blocks,
        receipts,
        processes,
    }))
}

/// An idle system is asked rarely: answering would be most of what it does.
const IDLE_POLL: Duration = Duration::from_millis(500);

fn poll_interval(args: &BenchArgs, transfers: usize) -> Duration {
    if transfers == 0 {
        IDLE_POLL
    } else {
        args.poll_interval
    }
}

fn transfers_of(args: &BenchArgs) -> anyhow::Result<usize> {
    ensure!(
        args.rate.is_finite() && args.rate >= 0.0,
        Usage(format!("--rate {}: expected a number from 0", args.rate))
    );
    let transfers = (args.rate * args.duration.as_secs_f64()).round();
    ensure!(
        transfers <= MAX_TRANSFERS as f64,
        Usage(format!(
            "--rate times --duration is {transfers} transfers; at most {MAX_TRANSFERS} fit in one run"
        ))
    );
    ensure!(
        transfers >= 1.0 || args.rate == 0.0,
        Usage(
            "--rate times --duration is less than one transfer; make one of them larger".to_owned()
        )
    );
    Ok(transfers as usize)
}

fn senders_of(args: &BenchArgs, transfers: usize) -> anyhow::Result<usize> {
    let by_rate = ((args.rate / 2.0) as usize).clamp(10, 1_000);
    let senders = args.senders.map_or(by_rate, NonZeroUsize::get);
    if senders > MAX_SENDERS {
        bail!(Usage(format!("--senders {senders}: at most {MAX_SENDERS}")));
    }
    Ok(senders.min(transfers))
}

/// JSON-RPC addresses of the healthy nodes, as this machine reaches them.
fn healthy_rpc_urls(status: &StatusResponse) -> anyhow::Result<Vec<String>> {
    let urls: Vec<String> = status
        .nodes
        .values()
        .filter(|node| node.state == NodeState::Healthy)
        .map(|node| {
            node.public_rpc_url
                .as_ref()
                .unwrap_or(&node.rpc_url)
                .clone()
        })
        .collect();
    ensure!(
        !urls.is_empty(),
        "the registry knows no healthy node; see `axolotl status`"
    );
    Ok(urls)
}

async fn common_chain_id(targets: &[JsonRpc]) -> anyhow::Result<u64> {
    let mut ids = Vec::with_capacity(targets.len());
    for target in targets {
        ids.push(target.chain_id().await.map_err(advise)?);
    }
    let first = *ids.first().context("no node to use; name one with --rpc")?;
    if let Some(place) = ids.iter().position(|id| *id != first) {
        bail!(
            "{} is of chain {first}, {} of chain {}; name nodes of one chain",
            targets[0].url(),
            targets[place].url(),
            ids[place]
        );
    }
    Ok(first)
}

/// Finds the process ids that the registry's status names.
pub(crate) fn local_pid(runtime: Option<&RuntimeInfo>) -> Option<u32> {
    match runtime {
        Some(RuntimeInfo::Process { pid }) => Some(*pid),
        Some(RuntimeInfo::Docker { .. }) | None => None,
    }
}
