//! A cluster of four comes up from one command, works, and goes away without a trace.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use axolotl_common::registry_api::{DiscoverResponse, StatusResponse};
use axolotl_node::cli::{BenchArgs, accounts::Account, bench};
use axolotl_tests::{
    Cluster, Options, binaries, checks,
    cluster::START,
    limit, load,
    processes::{self, Process},
    rounds, soak,
};
use clap::Parser;
use tokio::process::Command;

/// A run of one of the scripts must end within this.
const SCRIPT: Duration = Duration::from_secs(90);

async fn script(cluster: &Cluster, name: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let ports = cluster.ports();
    let mut command = Command::new(binaries::repository().join("scripts").join(name));
    command
        .args(arguments)
        .env("AXOLOTL_HOME", cluster.home().join("home"))
        .env("AXOLOTL_BIN", binaries::directory()?)
        .env("REGISTRY_PORT", ports.registry.to_string())
        .kill_on_drop(true);
    for (name, value) in cluster.registry_env() {
        if name.ends_with("_PORT_BASE") {
            command.env(name, value);
        }
    }
    let output = tokio::time::timeout(SCRIPT, command.output());
    let output = output.await.with_context(|| format!("{name} hangs"))??;
    println!("{name} {arguments:?}: {}\n{}", output.status, text(&output));
    Ok(output)
}

fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    format!("{out}{err}")
}

fn pids(processes: &[Process]) -> Vec<(u32, &str)> {
    let mut found: Vec<_> = processes
        .iter()
        .map(|process| (process.pid, process.program.as_str()))
        .filter(|(_, program)| program.starts_with("axolotl"))
        .collect();
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_start_once_and_stop_without_a_trace() -> anyhow::Result<()> {
    let mut cluster = Cluster::prepare(Options::default()).await?;
    let begun = Instant::now();
    let started = script(&cluster, "start-auto-scaling.sh", &["--local"]).await?;
    ensure!(started.status.success(), "the start failed");
    let took = begun.elapsed();
    println!("MEASURED start to four healthy validators: {took:.1?}");
    ensure!(took < Duration::from_secs(60), "the start took {took:?}");

    let status: StatusResponse = cluster.status().await?;
    ensure!(status.healthy_nodes == 4, "{status:?}");
    ensure!(
        status.total_nodes == 4 && status.consensus_possible,
        "{status:?}"
    );
    let discovered: DiscoverResponse = cluster.discover().await?;
    ensure!(discovered.count == 4, "{discovered:?}");
    let labels: Vec<String> = discovered.nodes.iter().map(|n| n.id.to_string()).collect();
    ensure!(labels == ["node1", "node2", "node3", "node4"], "{labels:?}");
    for client in cluster.rpcs()? {
        load::transact(&client, 0, START).await?;
    }

    let before = cluster.processes();
    ensure!(pids(&before).len() == 5, "{:?}", pids(&before));
    let again = script(&cluster, "start-auto-scaling.sh", &["--local"]).await?;
    ensure!(again.status.success(), "the second start failed");
    ensure!(
        text(&again).contains("nothing was changed"),
        "it does not say so"
    );
    let after = cluster.processes();
    ensure!(
        pids(&before) == pids(&after),
        "{:?} became {:?}",
        pids(&before),
        pids(&after)
    );

    // A dead registry with living nodes: only the registry is started.
    let registry = before
        .iter()
        .find(|process| process.program == "axolotl-registry")
        .context("no registry among the processes")?;
    processes::kill(registry.pid).await?;
    let again = script(&cluster, "start-auto-scaling.sh", &["--local"]).await?;
    ensure!(
        again.status.success(),
        "the start without a registry failed"
    );
    let nodes = |processes: &[Process]| -> Vec<u32> {
        let nodes = processes
            .iter()
            .filter(|process| process.program == "axolotl");
        nodes.map(|process| process.pid).collect()
    };
    let after = cluster.processes();
    ensure!(nodes(&before) == nodes(&after), "the nodes were touched");

    let height = cluster.rpc("node1")?.block_number().await?;
    let stopped = script(&cluster, "stop-auto-scaling.sh", &[]).await?;
    ensure!(stopped.status.success(), "the stop failed");
    let left = cluster.processes();
    ensure!(left.is_empty(), "left: {left:#?}");

    // The same chain comes back.
    let started = script(&cluster, "start-auto-scaling.sh", &[]).await?;
    ensure!(
        started.status.success(),
        "the start of a stopped chain failed"
    );
    cluster.status().await?;
    checks::reach(&cluster.rpc("node1")?, height + 1).await?;
    let other = script(&cluster, "start-auto-scaling.sh", &["--nodes", "5"]).await?;
    ensure!(
        !other.status.success(),
        "a chain of four became one of five"
    );

    let wiped = script(&cluster, "stop-auto-scaling.sh", &["--wipe"]).await?;
    ensure!(wiped.status.success(), "the wipe failed");
    ensure!(
        !cluster.home().join("home").exists(),
        "the wipe left something"
    );
    let left = cluster.processes();
    ensure!(left.is_empty(), "left: {left:#?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_through_each_node_is_the_same_on_all() -> anyhow::Result<()> {
    let cluster = Cluster::start(4).await?;
    let clients = cluster.rpcs()?;
    ensure!(clients.len() == 4, "{} nodes", clients.len());
    let mut acknowledged = Vec::new();
    for (from, client) in clients.iter().enumerate() {
        acknowledged.push(load::transact(client, from, START).await?);
    }
    checks::all_present(&clients, &acknowledged).await?;
    checks::same_chain(&clients).await?;
    let mut balances = BTreeMap::new();
    for client in &clients {
        for index in 0..4 {
            let balance = client.balance(Account::dev(index).address()).await?;
            balances.entry(index).or_insert_with(Vec::new).push(balance);
        }
    }
    for (index, seen) in balances {
        ensure!(
            seen.windows(2).all(|two| two[0] == two[1]),
            "account {index}: {seen:?}"
        );
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_chain_makes_an_empty_block_every_five_seconds() -> anyhow::Result<()> {
    let cluster = Cluster::start(4).await?;
    let client = cluster.rpc("node1")?;
    checks::goes_on(&client, 1).await?;
    let first = client.latest_block().await?;
    let begun = Instant::now();
    let blocks = 3;
    checks::reach(&client, first.number + blocks).await?;
    let took = begun.elapsed();
    println!("MEASURED {blocks} empty blocks: {took:.1?}");
    let expected = Duration::from_secs(5) * u32::try_from(blocks)?;
    let slack = Duration::from_secs(2);
    ensure!(
        took + slack > expected && took < limit(expected + slack),
        "{blocks} empty blocks took {took:?}, expected about {expected:?}"
    );
    let last = client.latest_block().await?;
    ensure!(last.transactions.is_empty(), "{last:?}");
    cluster.finish().await
}

#[derive(Parser)]
struct Bench {
    #[command(flatten)]
    args: BenchArgs,
}

async fn run_bench(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<bench::Report> {
    let url = cluster.registry_url();
    let fixed = ["bench", "--registry-url", &url];
    let arguments = fixed.iter().copied().chain(arguments.iter().copied());
    let report = bench::measure(&Bench::try_parse_from(arguments)?.args).await?;
    println!("MEASURED\n{}", report.text());
    ensure!(report.is_clean(), "something accepted was not finalised");
    Ok(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_finalises_what_it_offers() -> anyhow::Result<()> {
    let cluster = Cluster::start(4).await?;
    let seconds = rounds(3, 30).to_string() + "s";
    let slow = run_bench(&cluster, &["--rate", "10", "--duration", &seconds]).await?;
    ensure!(slow.finalised == slow.accepted, "{:?}", slow.refusals);
    let fast = run_bench(&cluster, &["--rate", "200", "--duration", &seconds]).await?;
    ensure!(fast.finalised == fast.accepted, "{:?}", fast.refusals);
    for report in [&slow, &fast] {
        // A machine that stalls makes a call time out.
        let most = report.accepted == report.offered || !soak();
        ensure!(most && report.accepted > 0, "{:?}", report.refusals);
    }
    ensure!(fast.processes.len() == 5, "{:?}", fast.processes);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_validator_is_a_chain_too() -> anyhow::Result<()> {
    let cluster = Cluster::start(1).await?;
    let client = cluster.rpc("node1")?;
    load::transact(&client, 0, START).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_status_answer_for_people_and_probes() -> anyhow::Result<()> {
    let cluster = Cluster::start(4).await?;
    let axolotl = binaries::axolotl()?;
    let run = async |arguments: &[&str], registry: &str| -> anyhow::Result<Output> {
        let mut command = Command::new(&axolotl);
        command.args(arguments).env_clear();
        command.env("REGISTRY_URL", registry);
        Ok(command.output().await?)
    };
    let url = cluster.registry_url();
    let table = run(&["status"], &url).await?;
    ensure!(table.status.success(), "{}", text(&table));
    let shown = text(&table);
    for label in cluster.labels()? {
        ensure!(shown.contains(&label), "no {label} in\n{shown}");
    }
    ensure!(!shown.contains('\x1b'), "colours into a pipe:\n{shown}");
    let json = run(&["status", "--json"], &url).await?;
    let status: StatusResponse = serde_json::from_slice(&json.stdout)?;
    ensure!(status.healthy_nodes == 4, "{status:?}");

    let http = cluster.node("node1")?.http_url.clone();
    let port = http
        .rsplit(':')
        .next()
        .context("no port in http_url")?
        .to_owned();
    for probe in [
        &["health", "--http-port", &port][..],
        &["health", "--ready", "--http-port", &port],
    ] {
        let answer = run(probe, &url).await?;
        ensure!(answer.status.success(), "{probe:?}: {}", text(&answer));
    }
    let nobody = axolotl_tests::ports::free_port()?.to_string();
    let answer = run(&["health", "--http-port", &nobody], &url).await?;
    ensure!(answer.status.code() == Some(1), "{answer:?}");
    let answer = run(&["status"], &format!("http://127.0.0.1:{nobody}")).await?;
    ensure!(answer.status.code() == Some(1), "{answer:?}");
    ensure!(
        text(&answer).contains("start-auto-scaling.sh"),
        "no advice in {}",
        text(&answer)
    );
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_keeps_its_secrets_to_itself() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::start(4).await?;
    let mut directories = vec![cluster.home().to_owned()];
    let mut secrets = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if is_secret(&path) {
                let mode = entry.metadata()?.permissions().mode() & 0o777;
                ensure!(mode & 0o077 == 0, "{} has mode {mode:o}", path.display());
                secrets += 1;
            }
        }
    }
    // A key for each node, an authority key and two tokens for the registry.
    ensure!(secrets >= 7, "{secrets} secret files found");
    cluster.finish().await
}

fn is_secret(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "key" || name.ends_with(".key") || name.ends_with("_key") || name.ends_with("_token")
}
