//! Nodes that come late or were away catch up while the others go on.

use std::time::{Duration, Instant};

use anyhow::ensure;
use axolotl_node::cli::json_rpc::JsonRpc;
use axolotl_tests::{Cluster, Load, checks, cluster::CALL, processes, rounds, soak, wait};

/// Patience for a long chain to be made.
const GROW: Duration = Duration::from_secs(1_800);
/// Patience for a node to catch up.
const CATCH_UP: Duration = Duration::from_secs(120);
/// Blocks per second that a node with an empty disk takes in, at least.
const BLOCKS_PER_SECOND: f64 = 1_000.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_empty_disk_catches_up() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let clients = cluster.rpcs()?;
    let goal = rounds(300, 10_000) as u64;
    let load = Load::start(&clients, 6).await?;
    wait::until(&format!("{goal} blocks"), GROW, async || {
        let height = clients[0].block_number().await?;
        ensure!(height >= goal, "height {height}");
        Ok(())
    })
    .await?;
    let acknowledged = load.stop().await?;

    let late = cluster.hand("late")?;
    let client = JsonRpc::new(&format!("http://127.0.0.1:{}", late.rpc), CALL)?;
    let goal = clients[0].block_number().await?;
    let pid = cluster.start_hand(&late)?;
    let begun = Instant::now();
    wait::until("the late node to answer", CATCH_UP, async || {
        Ok(client.block_number().await?)
    })
    .await?;
    let answered = begun.elapsed();
    checks::reach(&client, goal).await?;
    let level = begun.elapsed();
    let rate = goal as f64 / level.as_secs_f64();
    println!(
        "MEASURED {goal} blocks from an empty disk: {level:.2?} ({rate:.0} blocks/s) after the \
         start of the process, which answered after {answered:.2?}"
    );
    let mut all = clients.clone();
    all.push(client.clone());
    checks::all_present(&all, &acknowledged).await?;
    checks::same_chain(&all).await?;
    if soak() {
        ensure!(rate >= BLOCKS_PER_SECOND, "{rate:.0} blocks/s");
    }

    // Away for a while, then back, under load.
    processes::kill(pid).await?;
    let load = Load::start(&clients, 4).await?;
    load.wait_for_more(rounds(100, 1_000), CATCH_UP).await?;
    cluster.start_hand(&late)?;
    let goal = clients[0].block_number().await?;
    checks::reach(&client, goal).await?;
    let acknowledged = load.stop().await?;
    checks::all_present(&all, &acknowledged).await?;
    checks::same_chain(&all).await?;
    cluster.finish().await
}
