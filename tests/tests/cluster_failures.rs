//! Nodes are killed under load: the chain goes on, and nothing that was acknowledged is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axolotl_node::cli::json_rpc::JsonRpc;
use axolotl_tests::{
    Cluster, Dice, Load, Options, checks, cluster::START, limit, load, processes, rounds, wait,
};

/// After the leader's death the next block comes within this, in the median.
const NEXT_BLOCK: Duration = Duration::from_millis(1_500);
/// The development account that looks whether there are blocks; the load uses those before it.
const OBSERVER: usize = 9;
/// Patience for blocks after any fault.
const AGAIN: Duration = Duration::from_secs(60);

/// Who crashes three times within a minute is replaced; these tests are about the four that there are.
async fn no_third_within_a_minute(kills: &[Instant]) {
    if let Some(before_last) = kills.iter().nth_back(1) {
        wait::span(Duration::from_secs(61).saturating_sub(before_last.elapsed())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_block_comes_soon_after_the_leader_is_killed() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 6).await?;
    let (mut times, mut kills) = (Vec::new(), Vec::new());
    for round in 0..rounds(2, 10) {
        cluster.wait_healthy(4, START).await?;
        no_third_within_a_minute(&kills).await;
        traffic.wait_for_more(20, AGAIN).await?;
        let leader = cluster.leader().await?;
        let survivor = cluster.labels()?.into_iter().find(|label| *label != leader);
        let survivor = cluster.rpc(&survivor.context("nobody survives")?)?;
        let pid = cluster.pid(&leader)?;
        let killed = Instant::now();
        kills.push(killed);
        processes::signal(pid, processes::Signal::KILL)?;
        // Handed in after the death: no block that the dead leader had proposed can hold it.
        let sent = load::transact(&survivor, OBSERVER, AGAIN).await?;
        let took = killed.elapsed();
        println!(
            "round {round}: {leader} killed, block {} after {took:.0?}",
            sent.block_number
        );
        times.push(took);
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("MEASURED leader killed, next block: median {median:.0?} of {times:.0?}");
    cluster.wait_healthy(4, START).await?;
    let acknowledged = traffic.stop().await?;
    let clients = cluster.rpcs()?;
    checks::all_present(&clients, &acknowledged).await?;
    checks::same_chain(&clients).await?;
    ensure!(median <= limit(NEXT_BLOCK), "the median is {median:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_four_killed_at_random_lose_nothing() -> anyhow::Result<()> {
    let mut dice = Dice::new("all_four_killed_at_random_lose_nothing");
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 6).await?;
    let mut kills: Vec<Instant> = Vec::new();
    for round in 0..rounds(2, 20) {
        cluster.wait_healthy(4, START).await?;
        traffic.wait_for_more(10, AGAIN).await?;
        no_third_within_a_minute(&kills).await;
        let mut labels = cluster.labels()?;
        dice.shuffle(&mut labels);
        for label in &labels {
            wait::span(dice.moment(Duration::from_millis(400))).await;
            processes::kill(cluster.pid(label)?).await?;
        }
        let begun = Instant::now();
        kills.push(begun);
        traffic.wait_for_more(1, AGAIN).await?;
        println!(
            "round {round}: {labels:?} killed; acknowledged again after {:.1?}, {} in all",
            begun.elapsed(),
            traffic.count()
        );
    }
    cluster.wait_healthy(4, START).await?;
    let acknowledged = traffic.stop().await?;
    println!("{} transfers were acknowledged", acknowledged.len());
    let clients = cluster.rpcs()?;
    checks::all_present(&clients, &acknowledged).await?;
    checks::same_chain(&clients).await?;
    cluster.stop().await?;
    checks::never_signed_twice(cluster.home())?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_node_catches_up() -> anyhow::Result<()> {
    // However long it is away, nobody takes its place.
    let mut cluster = Cluster::prepare(Options {
        registry_env: vec![("UNHEALTHY_AFTER".to_owned(), "10m".to_owned())],
        ..Options::default()
    })
    .await?;
    cluster.start_registry()?;
    cluster.wait_healthy(4, START).await?;
    cluster.wait_rpc(4, START).await?;
    let clients = cluster.rpcs()?;
    let leader = cluster.leader().await?;
    let sleeper = cluster.labels()?.into_iter().find(|label| *label != leader);
    let sleeper = sleeper.context("only one node")?;
    let awake: Vec<JsonRpc> = cluster
        .labels()?
        .iter()
        .filter(|label| **label != sleeper)
        .map(|label| cluster.rpc(label))
        .collect::<Result<_, _>>()?;
    cluster.pause(&sleeper)?;
    let traffic = Load::start(&awake, 4).await?;
    traffic.wait_for_more(100, AGAIN).await?;
    cluster.resume(&sleeper)?;
    let acknowledged = traffic.stop().await?;
    checks::all_present(&clients, &acknowledged).await?;
    checks::same_chain(&clients).await?;
    cluster.wait_healthy(4, START).await?;
    cluster.finish().await
}
