//! What a node accepted is there after its end, however it ended; and what `axolotl send` says of it.

use std::{fs, process::Stdio};

use alloy_primitives::{B256, keccak256};
use anyhow::{Context, ensure};
use axolotl_node::cli::json_rpc::JsonRpc;
use rustix::process::Signal;
use tokio::process::Command;

use crate::{
    chain::{Call, Solo},
    harness::{DEADLINE, Node, until},
};

/// Hands in a transfer; gives its hash once the node has given it.
async fn accept(node: &Node, from: usize, nonce: u64) -> anyhow::Result<B256> {
    let raw = Call::data(from, nonce, 10).sign()?;
    node.rpc().await?.send_raw(&raw).await?;
    Ok(keccak256(raw))
}

async fn known(rpc: &JsonRpc, hash: B256) -> anyhow::Result<()> {
    let found = rpc.by_hash("eth_getTransactionByHash", hash).await?;
    found.with_context(|| format!("LOST: accepted {hash}"))?;
    Ok(())
}

async fn mined(node: &Node, hashes: &[B256]) -> anyhow::Result<()> {
    let rpc = node.rpc().await?;
    until("accepted transactions to be mined", async || {
        for hash in hashes {
            let receipt = rpc.receipt(*hash).await?;
            receipt.with_context(|| format!("no receipt of {hash}"))?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_nonce_ahead_outlives_an_orderly_stop() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo.start().spawn()?;
    node.up().await?;
    let ahead = accept(&node, 0, 1).await?;
    // Twice: what is admitted again is in the journal again.
    node.stop(&solo.data).await?;
    for _ in 0..2 {
        let node = solo.start().spawn()?;
        node.up().await?;
        known(&node.rpc().await?, ahead).await?;
        node.goes_on(2).await?;
        node.stop(&solo.data).await?;
    }
    let node = solo.start().spawn()?;
    node.up().await?;
    let first = accept(&node, 0, 0).await?;
    mined(&node, &[first, ahead]).await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn a_hash_outlives_kill_9() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let mut accepted = Vec::new();
    for round in 0..4 {
        let mut node = solo.start().spawn()?;
        node.up().await?;
        let rpc = node.rpc().await?;
        for hash in &accepted {
            known(&rpc, *hash).await?;
        }
        // From the last nonce to the second: none can be mined.
        accepted.push(accept(&node, 1, 8 - round).await?);
        accepted.push(accept(&node, 2, 8 - round).await?);
        node.signal(Signal::KILL)?;
        node.ended(DEADLINE).await?;
    }
    let node = solo.start().spawn()?;
    node.up().await?;
    for sender in [1, 2] {
        for nonce in 0..5 {
            accepted.push(accept(&node, sender, nonce).await?);
        }
    }
    mined(&node, &accepted).await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn damage_to_the_journal_is_counted_and_costs_what_it_hit() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let node = solo.start().spawn()?;
    node.up().await?;
    let mut accepted = Vec::new();
    for sender in 0..3 {
        accepted.push(accept(&node, sender, 1).await?);
    }
    node.stop(&solo.data).await?;
    let journal = solo.data.join("pool.journal");
    let mut bytes = fs::read(&journal)?;
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8].fill(0);
    fs::write(&journal, bytes)?;
    let node = solo.start().spawn()?;
    node.up().await?;
    node.says("the journal of accepted transactions was not whole")
        .await?;
    let rpc = node.rpc().await?;
    known(&rpc, accepted[0]).await?;
    known(&rpc, accepted[2]).await?;
    let (_, metrics) = node.http("/metrics").await?;
    ensure!(
        metrics.contains("axolotl_pool_journal_damaged_total 1"),
        "{metrics}"
    );
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_refuses_clients_and_ends_nobody() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    // Directories in its places: neither can it be read, nor replaced.
    let journal = solo.data.join("pool.journal");
    for name in [
        "pool.journal",
        "pool.journal.tmp",
        "pool.journal.unreadable",
    ] {
        fs::create_dir_all(solo.data.join(name).join("full"))?;
    }
    let node = solo.start().spawn()?;
    node.up().await?;
    let refused = accept(&node, 0, 0).await.err().context("accepted")?;
    ensure!(
        refused
            .to_string()
            .contains("transaction not accepted: this node's journal"),
        "{refused}"
    );
    node.goes_on(3).await?;
    for name in ["pool.journal.tmp", "pool.journal"] {
        fs::remove_dir_all(solo.data.join(name))?;
    }
    let hash = until("the journal to be written again", async || {
        accept(&node, 0, 0).await
    })
    .await?;
    mined(&node, &[hash]).await?;
    ensure!(journal.is_file(), "no journal");
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn send_promises_what_is_kept() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    // Its chain has a second validator, which does not exist: no block is ever made.
    let solo = Solo::without_quorum(home.path())?;
    let node = solo.start().spawn()?;
    let rpc = node.rpc().await?;
    node.up().await?;
    let receiver = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    let sent = Command::new(env!("CARGO_BIN_EXE_axolotl"))
        .args([
            "send",
            "--dev",
            "0",
            receiver,
            "5gwei",
            "--timeout",
            "500ms",
            "--json",
            "--rpc",
        ])
        .arg(rpc.url())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .await?;
    let (out, err) = (
        String::from_utf8_lossy(&sent.stdout),
        String::from_utf8_lossy(&sent.stderr),
    );
    ensure!(sent.status.code() == Some(1), "{out}{err}");
    ensure!(err.contains("accepted, not acknowledged"), "{err}");
    ensure!(!err.contains("not lost"), "{err}");
    let document: serde_json::Value = serde_json::from_str(&out)?;
    ensure!(document["status"] == "accepted", "{document}");
    let hash = document["hash"].as_str().context("no hash")?.parse()?;
    node.stop(&solo.data).await?;
    let node = solo.start().spawn()?;
    node.up().await?;
    known(&node.rpc().await?, hash).await?;
    node.stop(&solo.data).await?;
    Ok(())
}
