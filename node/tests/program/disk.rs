//! A disk that is full: the process ends with its reason, nothing that was acknowledged is lost, and
//! it starts again when there is room.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use alloy_primitives::keccak256;
use anyhow::{Context, ensure};
use axolotl_node::cli::json_rpc::JsonRpc;

use crate::{
    chain::{Call, Solo},
    harness::{DEADLINE, until},
};

/// A file system in memory, of a size of our own.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: PathBuf, size: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(&at)?;
        let options = format!("size={size},mode=0755");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], &at)?;
        Ok(Self(at))
    }

    fn resize(&self, size: &str) -> anyhow::Result<()> {
        run("mount", &["-o", &format!("remount,size={size}")], &self.0)
    }

    fn read_only(&self) -> anyhow::Result<()> {
        run("mount", &["-o", "remount,ro"], &self.0)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &["-l"], &self.0) {
            eprintln!("{error:#}");
        }
    }
}

fn run(program: &str, arguments: &[&str], at: &Path) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).arg(at).output()?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?} {} (the tests with full disks mount a file system of their own, \
         which needs root): {}",
        at.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Sends transactions of 100 kB, each after the receipt of the one before, until the node is gone;
/// gives how many were acknowledged.
async fn fill(rpc: &JsonRpc, first: u64) -> anyhow::Result<u64> {
    for nonce in first.. {
        let raw = Call::data(1, nonce, 100_000).sign()?;
        let hash = keccak256(&raw);
        if rpc.send_raw(&raw).await.is_err() {
            return Ok(nonce);
        }
        let end = std::time::Instant::now() + DEADLINE;
        loop {
            match rpc.receipt(hash).await {
                Err(_) => return Ok(nonce),
                Ok(Some(_)) => break,
                Ok(None) => ensure!(std::time::Instant::now() < end, "no receipt of {nonce}"),
            }
            // The pause of the poll.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    unreachable!("nonces do not end")
}

#[tokio::test]
async fn a_full_disk_ends_the_process_and_room_brings_it_back() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let disk = Tmpfs::mount(home.path().join("disk"), "12m")?;
    let solo = Solo::with_data(home.path(), &disk.0.join("data"))?;
    let mut acknowledged = 0;
    for room in ["16m", "20m"] {
        let mut node = solo.start().spawn()?;
        node.up().await?;
        let rpc = node.rpc().await?;
        acknowledged = fill(&rpc, acknowledged).await?;
        let status = node.ended(DEADLINE).await?;
        let log = node.log();
        ensure!(status.code() == Some(1), "{status}:\n{log}");
        ensure!(
            log.contains("the disk is full: free some space and start again"),
            "the reason is missing:\n{log}"
        );
        ensure!(!log.contains("panic"), "{log}");
        ensure!(!solo.data.join("stopped").exists(), "this was no clean end");

        disk.resize(room)?;
        let node = solo.start().spawn()?;
        node.up().await?;
        let rpc = node.rpc().await?;
        for nonce in 0..acknowledged {
            let hash = keccak256(Call::data(1, nonce, 100_000).sign()?);
            let receipt = rpc.receipt(hash).await?;
            receipt.with_context(|| format!("LOST: transaction {nonce} of {acknowledged}"))?;
        }
        node.goes_on(3).await?;
        node.stop(&solo.data).await?;
        // One that was sent and not acknowledged may be in the chain.
        let sender = axolotl_node::cli::accounts::Account::dev(1).address();
        let node = solo.start().spawn()?;
        acknowledged = until("the nonce", async || {
            Ok(node.rpc().await?.nonce(sender).await?)
        })
        .await?;
        node.stop(&solo.data).await?;
    }
    println!("MEASURED {acknowledged} acknowledged transactions outlived two full disks");
    ensure!(acknowledged > 20, "{acknowledged}");
    Ok(())
}

#[tokio::test]
async fn a_first_start_without_room_leaves_nothing_in_the_way() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let elsewhere = tempfile::tempdir()?;
    let solo = Solo::new(elsewhere.path())?;
    let disk = Tmpfs::mount(home.path().join("disk"), "16k")?;
    let data = disk.0.join("data");
    let start = solo.start().env("DATA_DIR", data.display());
    start
        .refuses(1, &["the disk is full: free some space and start again"])
        .await?;
    disk.resize("16m")?;
    let node = start.spawn()?;
    node.up().await?;
    node.stop(&data).await?;

    disk.read_only()?;
    start
        .refuses(1, &["Read-only file system", "mounted read-only"])
        .await?;
    Ok(())
}
