//! What clients may cost: connections, file descriptors, memory.

use std::{net::SocketAddr, time::Duration};

use alloy_primitives::keccak256;
use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    chain::{Call, Solo},
    harness::{Node, until},
};

/// Connections of an idle crowd.
const CROWD: usize = 5_000;
/// What the crowd may cost in memory, MB.
const CROWD_MB: f64 = 40.0;
/// What a flood of bodies and transactions may cost in memory, MB: the pool's 24, bodies 32, answers.
const FLOOD_MB: f64 = 110.0;

/// Lets this process open as many files as it may.
fn raise_own_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(
        current > CROWD as u64 + 100,
        "this test opens {CROWD} connections, and may open {current} files: raise `ulimit -n`"
    );
    Ok(())
}

/// Opens connections that say nothing. Those that are refused count as opened.
async fn crowd(port: u16, count: usize) -> Vec<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let opened = timeout(Duration::from_secs(5), TcpStream::connect(address)).await;
        streams.extend(opened.ok().and_then(Result::ok));
    }
    streams
}

/// How many of them are open still.
fn alive(streams: &mut [TcpStream]) -> usize {
    let mut alive = 0;
    for stream in streams {
        let mut byte = [0];
        alive += usize::from(
            stream
                .try_read(&mut byte)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        );
    }
    alive
}

async fn answers(node: &Node) -> anyhow::Result<u64> {
    let rpc = node.rpc().await?;
    let begun = std::time::Instant::now();
    let height = rpc.block_number().await?;
    ensure!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    Ok(height)
}

#[tokio::test]
async fn thousands_of_idle_connections_keep_nobody_out() -> anyhow::Result<()> {
    raise_own_limit()?;
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo.start().spawn()?;
    node.goes_on(2).await?;
    let (before, files) = (node.memory_mb()?, node.open_files()?);
    let mut idle = crowd(node.rpc_port().await?, CROWD).await;
    ensure!(idle.len() == CROWD, "{} of {CROWD} were let in", idle.len());
    for _ in 0..20 {
        answers(&node).await?;
    }
    node.goes_on(3).await?;
    let grown = node.memory_mb()? - before;
    let (open, kept) = (node.open_files()? - files, alive(&mut idle));
    println!(
        "MEASURED {CROWD} idle connections: {grown:.1} MB above {before:.1} MB, {kept} of them kept, \
         {open} more files open"
    );
    ensure!(grown < CROWD_MB, "{grown:.1} MB");
    ensure!(kept <= 1_000, "{kept} are kept");
    drop(idle);
    answers(&node).await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn sixty_four_files_are_enough() -> anyhow::Result<()> {
    raise_own_limit()?;
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo.start().open_files_max(64).spawn()?;
    node.goes_on(2).await?;
    println!(
        "MEASURED {} open files of a node at rest",
        node.open_files()?
    );
    let http = node.http_port().await?;
    for port in [node.rpc_port().await?, http] {
        let crowd = crowd(port, 300).await;
        node.goes_on(3).await?;
        answers(&node).await?;
        let (code, body) = node.http("/livez").await?;
        ensure!(code == 200, "{code}: {body}");
        drop(crowd);
    }
    // All at once, and files to be opened meanwhile: a transaction that makes the log grow.
    let both = (
        crowd(node.rpc_port().await?, 200).await,
        crowd(http, 200).await,
    );
    for nonce in 0..5 {
        let raw = Call::data(2, nonce, 100_000).sign()?;
        let rpc = node.rpc().await?;
        rpc.send_raw(&raw).await?;
        until("a receipt", async || {
            let receipt = rpc.receipt(keccak256(&raw)).await?;
            receipt.map(drop).context("no receipt yet")
        })
        .await?;
    }
    drop(both);
    node.goes_on(3).await?;
    node.stop(&solo.data).await?;

    // What cannot do is said.
    let words = ["the limit of open files is 16", "ulimit -n"];
    solo.start().open_files_max(16).refuses(1, &words).await?;
    Ok(())
}

#[tokio::test]
async fn a_flood_of_bodies_and_transactions_costs_bounded_memory() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo.start().spawn()?;
    node.goes_on(2).await?;
    let (rpc, port) = (node.rpc().await?, node.rpc_port().await?);
    let before = node.memory_mb()?;
    let kept = Call::data(0, 0, 100).sign()?;
    rpc.send_raw(&kept).await?;
    let mut highest = before;

    // Bodies of 5 MB that are no calls, many at a time, half of them never finished.
    let garbage = vec![b'['; 5 << 20];
    for _ in 0..3 {
        let mut streams = crowd(port, 24).await;
        for (i, stream) in streams.iter_mut().enumerate() {
            let head = format!(
                "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
                garbage.len()
            );
            let length = if i % 2 == 0 {
                garbage.len()
            } else {
                garbage.len() / 2
            };
            // A refused body breaks the connection.
            let send = async {
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&garbage[..length]).await
            };
            let _ = timeout(Duration::from_secs(5), send).await;
            highest = highest.max(node.memory_mb()?);
        }
        for stream in streams.iter_mut().step_by(2) {
            let mut answer = [0; 64];
            let _ = timeout(Duration::from_secs(5), stream.read(&mut answer)).await;
        }
        answers(&node).await?;
    }
    let bodies = highest;

    // Transactions of 100 kB behind a gap, so that no block takes them, from many senders.
    let (mut taken, mut refused) = (0, String::new());
    for nonce in 1..80 {
        for from in 3..10 {
            let raw = Call::data(from, nonce, 100_000).sign()?;
            match rpc.send_raw(&raw).await {
                Ok(()) => taken += 1,
                Err(error) => refused = error.to_string(),
            }
        }
        highest = highest.max(node.memory_mb()?);
    }
    println!(
        "MEASURED at rest {before:.1} MB; under 72 bodies of 5 MB {bodies:.1} MB; under {taken} \
         waiting transactions of 100 kB {highest:.1} MB (further ones: {refused:?})"
    );
    ensure!(refused.contains("txpool is full"), "{refused}");
    ensure!(
        highest - before < FLOOD_MB,
        "{highest:.1} above {before:.1} MB"
    );

    // Nothing was lost, and who pays is served.
    let paying = Call::data(1, 0, 1_000).sign()?;
    rpc.send_raw(&paying).await?;
    for raw in [&kept, &paying] {
        until("a receipt", async || {
            let receipt = rpc.receipt(keccak256(raw)).await?;
            receipt.map(drop).context("no receipt yet")
        })
        .await?;
    }
    node.stop(&solo.data).await?;
    Ok(())
}
