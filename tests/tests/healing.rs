//! It heals itself, on local processes: failed validators are replaced, the set grows and shrinks, and
//! nothing that was acknowledged is lost. The Docker tests show the same on containers.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axolotl_common::registry_api::{EventKind, PlanResponse};
use axolotl_tests::{
    Cluster, Dice, Load, Options, checks,
    cluster::START,
    events, limit,
    membership::median,
    processes::{self, Signal},
    rounds, wait,
};

/// A validator that was stopped is replaced by one that votes within this, in the median.
const REPLACED: Duration = Duration::from_secs(5);
/// The same where only the silence of the validator tells.
const REPLACED_SILENT: Duration = Duration::from_secs(25);
/// A validator that crashed votes again within this.
const BACK: Duration = Duration::from_secs(5);
/// Patience for anything.
const AGAIN: Duration = Duration::from_secs(60);

/// Waits until these are the validators and all of them vote.
async fn wait_validators(
    cluster: &mut Cluster,
    what: &str,
    deadline: Duration,
    holds: impl Fn(&[String]) -> bool,
) -> anyhow::Result<Vec<String>> {
    let this = &*cluster;
    let labels = wait::until(what, deadline, async || {
        let labels = this.validators().await?;
        let status: axolotl_common::registry_api::StatusResponse = this.get("/status").await?;
        ensure!(
            holds(&labels) && status.plan.is_empty(),
            "{labels:?}, about {:?}, decided {:?}",
            status.plan,
            status
                .decisions
                .iter()
                .map(|event| &event.message)
                .collect::<Vec<_>>()
        );
        Ok(labels)
    })
    .await?;
    cluster.refresh().await?;
    Ok(labels)
}

/// Waits until a validator that was not among those `before` it went votes in the place of `gone`, by the
/// word of the chain itself; returns its label.
async fn replacement(
    cluster: &mut Cluster,
    before: &[String],
    gone: &str,
    deadline: Duration,
) -> anyhow::Result<String> {
    let labels = wait_validators(
        cluster,
        &format!("{gone} to be replaced"),
        deadline,
        |now| now.len() == before.len() && !now.iter().any(|label| label == gone),
    )
    .await?;
    let new = labels.into_iter().find(|label| !before.contains(label));
    new.with_context(|| format!("nobody new among the validators instead of {gone}"))
}

/// Waits until four processes are left: what was replaced is gone.
async fn wait_four(cluster: &Cluster) -> anyhow::Result<()> {
    wait::until("four processes", AGAIN, async || {
        let left: Vec<String> = cluster.node_processes().into_keys().collect();
        ensure!(left.len() == 4, "{left:?}");
        Ok(())
    })
    .await
}

/// Event texts of a kind, oldest first.
async fn told(cluster: &Cluster, kind: EventKind) -> anyhow::Result<Vec<String>> {
    let events = cluster.events().await?;
    let of_kind = events.into_iter().filter(|event| event.kind == kind);
    Ok(of_kind.map(|event| event.message).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_validator_in_turn_is_stopped_and_replaced() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 4).await?;
    let mut times = Vec::new();
    for round in 0..rounds(3, 40) {
        traffic.wait_for_more(10, AGAIN).await?;
        let before = cluster.validators().await?;
        let gone = before[round % 4].clone();
        cluster.refresh().await?;
        let pid = cluster.pid(&gone)?;
        let begun = Instant::now();
        processes::signal(pid, Signal::TERM)?;
        let new = replacement(&mut cluster, &before, &gone, AGAIN).await?;
        let took = begun.elapsed();
        println!("round {round}: {gone} stopped, {new} votes after {took:.1?}");
        ensure!(
            new == format!("node{}", 5 + round),
            "one replacement for one failure, with the next number; got {new}"
        );
        times.push(took);
        traffic.follow(cluster.voters().await?);
    }
    println!("MEASURED stopped validator replaced: {times:.1?}");
    // A new node fetches every block there is: later ones take longer on a chain under load.
    times.truncate(10);
    let median = median(&mut times);
    println!("MEASURED median of the first {}: {median:.1?}", times.len());
    let acknowledged = traffic.stop().await?;
    println!("{} transfers were acknowledged", acknowledged.len());
    let clients = cluster.voters().await?;
    checks::all_present(&clients, &acknowledged).await?;
    checks::same_chain(&clients).await?;
    // Replaced nodes are gone with their data, four processes are left.
    wait_four(&cluster).await?;
    ensure!(median <= limit(REPLACED), "the median is {median:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_validator_is_replaced_and_comes_back_as_no_validator() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 2).await?;
    let before = cluster.validators().await?;
    let pid = cluster.pid("node3")?;
    let begun = Instant::now();
    processes::signal(pid, Signal::STOP)?;
    let new = replacement(&mut cluster, &before, "node3", AGAIN).await?;
    let took = begun.elapsed();
    println!("MEASURED silent validator replaced: {new} votes after {took:.1?}");
    let spawned = told(&cluster, EventKind::Spawned).await?;
    ensure!(spawned.len() == 5, "{spawned:?}");
    let acknowledged = traffic.stop().await?;
    let clients = cluster.voters().await?;
    checks::all_present(&clients, &acknowledged).await?;
    ensure!(took <= limit(REPLACED_SILENT), "it took {took:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_validator_votes_again_and_one_that_loops_is_replaced() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 2).await?;
    for crash in 1..=2 {
        let key = cluster.key_of("node2")?;
        let begun = Instant::now();
        let next = cluster.node("node2")?.incarnation + 1;
        cluster.kill("node2").await?;
        let this = &cluster;
        wait::until("node2 to vote again", limit(BACK), async || {
            this.votes(&key, next).await
        })
        .await?;
        println!(
            "MEASURED crash {crash}: node2 votes again after {:.1?}",
            begun.elapsed()
        );
        cluster.wait_healthy(4, START).await?;
    }
    let before = cluster.validators().await?;
    ensure!(!before.contains(&"node5".to_owned()), "{before:?}");
    cluster.kill("node2").await?;
    let new = replacement(&mut cluster, &before, "node2", AGAIN).await?;
    ensure!(new == "node5", "{new}");
    let acknowledged = traffic.stop().await?;
    wait_four(&cluster).await?;
    checks::all_present(&cluster.voters().await?, &acknowledged).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_set_grows_and_shrinks_under_load() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 4).await?;
    for target in [5, 7, 4] {
        let answer: PlanResponse = cluster
            .post("/scale", &serde_json::json!({ "target_nodes": target }))
            .await?;
        println!("scale to {target}: {}", answer.message);
        wait_validators(
            &mut cluster,
            &format!("{target} validators"),
            AGAIN,
            |now| now.len() == target,
        )
        .await?;
        traffic.wait_for_more(20, AGAIN).await?;
    }
    events::leaders_stay(&cluster.events().await?)?;
    for target in [0, 11] {
        let refused = cluster
            .post::<PlanResponse>("/scale", &serde_json::json!({ "target_nodes": target }))
            .await;
        let why = format!("{:#}", refused.err().context("it was taken")?);
        ensure!(
            why.contains("422") && why.contains("MIN_NODES 2 to MAX_NODES 10"),
            "{why}"
        );
    }
    let acknowledged = traffic.stop().await?;
    wait_four(&cluster).await?;
    let clients = cluster.voters().await?;
    checks::all_present(&clients, &acknowledged).await?;
    checks::same_chain(&clients).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_during_a_replacement_makes_one() -> anyhow::Result<()> {
    let mut dice = Dice::new("a_registry_killed_during_a_replacement_makes_one");
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 2).await?;
    for round in 0..rounds(4, 30) {
        let gone = cluster.validators().await?[round % 4].clone();
        cluster.refresh().await?;
        processes::signal(cluster.pid(&gone)?, Signal::TERM)?;
        let moment = dice.moment(Duration::from_millis(4_000));
        wait::span(moment).await;
        cluster.kill_registry().await?;
        cluster.start_registry()?;
        let this = &cluster;
        wait::until("the registry again", START, async || {
            this.get::<serde_json::Value>("/status").await.map(drop)
        })
        .await?;
        let labels = wait_validators(&mut cluster, "a replacement", AGAIN, |now| {
            now.len() == 4 && !now.contains(&gone)
        })
        .await?;
        println!("round {round}: {gone} stopped, registry killed after {moment:.1?}: {labels:?}");
        let expected = format!("node{}", 5 + round);
        ensure!(
            labels.contains(&expected),
            "{expected} is not among {labels:?}"
        );
        traffic.follow(cluster.voters().await?);
        wait_four(&cluster).await?;
    }
    let acknowledged = traffic.stop().await?;
    checks::all_present(&cluster.voters().await?, &acknowledged).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_run_is_started_seldom() -> anyhow::Result<()> {
    let mut cluster = Cluster::prepare(Options::default()).await?;
    cluster.start_registry()?;
    cluster.wait_healthy(4, START).await?;
    // From now on what is started crashes at once.
    cluster.kill_registry().await?;
    let broken = [("NODE_BINARY".to_owned(), "/bin/false".to_owned())];
    cluster.start_registry_with(&broken)?;
    cluster.wait_healthy(4, START).await?;
    let begun = Instant::now();
    processes::signal(cluster.pid("node4")?, Signal::TERM)?;
    let this = &cluster;
    let watched = Duration::from_secs(if axolotl_tests::soak() { 120 } else { 15 });
    wait::until("three starts that failed", AGAIN, async || {
        let exits = told(this, EventKind::Exited).await?;
        ensure!(exits.len() >= 3, "{exits:?}");
        Ok(())
    })
    .await?;
    let status: axolotl_common::registry_api::StatusResponse = cluster.get("/status").await?;
    ensure!(
        status.plan.iter().any(|line| line.contains("node5")),
        "a start that fails again and again is visible: {:?}",
        status.plan
    );
    wait::span(watched.saturating_sub(begun.elapsed())).await;
    let exits = told(&cluster, EventKind::Exited).await?;
    println!("{} starts in {:.0?}", exits.len(), begun.elapsed());
    ensure!(exits.len() <= 5, "a storm: {exits:?}");
    ensure!(
        exits.iter().all(|exit| exit.starts_with("node5")),
        "one replacement only: {exits:?}"
    );
    cluster.finish().await
}
