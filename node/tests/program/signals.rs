//! SIGTERM at any moment ends the node in time, with code 0 and its mark; other signals and broken
//! streams change nothing.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::ensure;
use rustix::process::Signal;

use crate::{
    chain::{Call, Solo, with_directory},
    harness::{STOP_MAX, Start, free_port, until},
};

/// Moments after the first line of the log at which SIGTERM comes.
const MOMENTS: u32 = 14;
/// Time between two of them.
const MOMENT: Duration = Duration::from_millis(20);

#[tokio::test]
async fn sigterm_at_any_moment_of_the_start() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let (mut slowest, mut highest) = (Duration::ZERO, 0);
    for moment in 0..MOMENTS {
        let node = solo.start().spawn()?;
        node.says("node starts").await?;
        // The moment itself is what is tested.
        tokio::time::sleep(MOMENT * moment).await;
        slowest = slowest.max(node.stop(&solo.data).await?);
    }
    // Before it can listen to signals it has touched nothing, and dies of them as any process.
    for moment in 0..5 {
        let mut node = solo.start().spawn()?;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        node.signal(Signal::TERM)?;
        let status = node.ended(STOP_MAX).await?;
        let unborn = status.code().is_none() && !node.log().contains("node starts");
        ensure!(unborn || status.success(), "{status}:\n{}", node.log());
    }
    for _ in 0..2 {
        let node = solo.start().spawn()?;
        node.up().await?;
        let height = node.rpc().await?.block_number().await?;
        ensure!(height >= highest, "{height} after {highest}");
        node.goes_on(3).await?;
        highest = node.rpc().await?.block_number().await?;
        node.stop(&solo.data).await?;
    }
    println!("MEASURED the slowest of {MOMENTS} ends during the start: {slowest:.2?}");
    Ok(())
}

#[tokio::test]
async fn sigterm_while_a_registry_is_awaited() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    let node = Start::node(home.path())
        .env("DATA_DIR", data.display())
        .env("REGISTRY_URL", format!("http://127.0.0.1:{}", free_port()?))
        .spawn()?;
    node.waits_for("the registry cannot be reached").await?;
    let took = node.stop(&data).await?;
    println!("MEASURED an end while a registry is awaited: {took:.2?}");
    Ok(())
}

#[tokio::test]
async fn sigterm_during_a_replay_does_not_wait_for_its_end() -> anyhow::Result<()> {
    const BLOCKS: u64 = 6;
    const GAS: u64 = 250_000_000;
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?.of_earlier_release()?;
    let blocks: Vec<_> = (0..BLOCKS)
        .map(|nonce| Call::endless(0, nonce, GAS).sign().map(|raw| vec![raw]))
        .collect::<Result<_, _>>()?;
    solo.grow(&blocks)?;
    // The state can be built again from the blocks: all of them are to be replayed.
    fs::remove_file(solo.data.join("state.redb"))?;

    let node = solo.start().spawn()?;
    node.waits_for("replaying block 1 of 6").await?;
    let interrupted = node.stop(&solo.data).await?;

    let node = solo.start().spawn()?;
    let begun = Instant::now();
    node.waits_for("replaying block 1 of 6").await?;
    node.up().await?;
    let whole = begun.elapsed();
    node.reaches(BLOCKS + 2).await?;
    node.stop(&solo.data).await?;
    println!("MEASURED an end during a replay of {whole:.2?}: {interrupted:.2?}");
    // The two runs need not have had the same time of the machine.
    let bound = (whole / 2).max(Duration::from_secs(3));
    ensure!(interrupted < bound, "{interrupted:?} of {whole:?}");
    Ok(())
}

#[tokio::test]
async fn sigterm_during_sync() -> anyhow::Result<()> {
    const BLOCKS: usize = 1_500;
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    solo.grow(&vec![Vec::new(); BLOCKS])?;
    let other = tempfile::tempdir()?;
    let peer_id = with_directory(&other.path().join("data"), |directory| {
        Ok(directory.key().public().peer_id())
    })?;
    let port = free_port()?;
    let source = solo
        .start()
        .env("PORT", port)
        .env("ALLOW_PEERS", peer_id)
        .spawn()?;
    source.up().await?;
    let data = other.path().join("data");
    let start = Start::node(other.path())
        .env("NODE_ID", "observer1")
        .env("ROLE", "observer")
        .env("DATA_DIR", data.display())
        .env("GENESIS_FILE", solo.genesis.display())
        .env("PORT", free_port()?)
        .env(
            "BOOTSTRAP_PEERS",
            format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", solo.peer_id()),
        );
    let mut at = 0;
    for round in 0..3 {
        let node = start.spawn()?;
        node.up().await?;
        let goal = at + 50;
        let rpc = node.rpc().await?;
        until(&format!("height {goal}"), async || {
            let height = rpc.block_number().await?;
            ensure!(height >= goal, "height {height}");
            Ok(())
        })
        .await?;
        let took = node.stop(&data).await?;
        let again = start.spawn()?;
        again.up().await?;
        let height = again.rpc().await?.block_number().await?;
        ensure!(height >= goal, "{height} after {goal}");
        println!("round {round}: stopped above {goal} in {took:.2?}, starts at {height}");
        at = height;
        again.stop(&data).await?;
    }
    let node = start.spawn()?;
    let goal = source.rpc().await?.block_number().await?;
    node.reaches(goal).await?;
    node.ready().await?;
    node.goes_on(2).await?;
    node.stop(&data).await?;
    source.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn further_signals_do_not_spoil_an_end() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    for _ in 0..3 {
        let mut node = solo.start().spawn()?;
        node.goes_on(2).await?;
        node.signal(Signal::TERM)?;
        node.says("asked to stop").await?;
        // It may be gone already; the signals come as fast as they can.
        for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::TERM] {
            let _ = node.signal(signal);
        }
        node.stopped(&solo.data).await?;
    }
    Ok(())
}

#[tokio::test]
async fn sighup_is_ignored() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo.start().spawn()?;
    node.up().await?;
    for _ in 0..3 {
        node.signal(Signal::HUP)?;
    }
    node.says("SIGHUP is ignored").await?;
    node.goes_on(3).await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn closed_streams_do_not_end_a_node() -> anyhow::Result<()> {
    for format in ["text", "json"] {
        let home = tempfile::tempdir()?;
        let solo = Solo::new(home.path())?;
        let http = free_port()?;
        let mut node = solo
            .start()
            .env("HTTP_PORT", http)
            .env("LOG_FORMAT", format)
            .env("RUST_LOG", "debug")
            .closed_streams()
            .spawn()?;
        let client = crate::harness::client()?;
        let height = async || -> anyhow::Result<u64> {
            let url = format!("http://127.0.0.1:{http}/status");
            let status: serde_json::Value = client.get(&url).send().await?.json().await?;
            Ok(status["height"].as_u64().unwrap_or(0))
        };
        until("five blocks", async || {
            let at = height().await?;
            ensure!(at >= 5, "height {at}");
            Ok(())
        })
        .await?;
        node.signal(Signal::TERM)?;
        node.stopped(&solo.data).await?;
    }
    Ok(())
}
