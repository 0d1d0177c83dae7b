//! Unmodified clients of other languages against a cluster: the tests of `tests/clients`, in Python.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use axolotl_tests::{Cluster, binaries};
use tokio::process::Command;

/// Patience for the installation of packages.
const INSTALL: Duration = Duration::from_secs(600);
/// Patience for the tests.
const RUN: Duration = Duration::from_secs(600);

async fn run(what: &str, command: &mut Command, patience: Duration) -> anyhow::Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{what}: it cannot be started"))?;
    let ended = tokio::time::timeout(patience, child.wait()).await;
    let status = ended.with_context(|| format!("{what}: not done after {patience:?}"))??;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}

/// A virtual environment with the packages of `requirements`, kept beside the built programs and
/// made anew when the requirements change.
async fn environment(requirements: &Path) -> anyhow::Result<std::path::PathBuf> {
    let directory = binaries::directory()?.join("clients-venv");
    let wanted = std::fs::read_to_string(requirements)
        .with_context(|| format!("reading {}", requirements.display()))?;
    let installed = directory.join("installed.txt");
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
        return Ok(directory);
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&directory);
    run("python3 -m venv", &mut venv, INSTALL).await?;
    let mut pip = Command::new(directory.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .arg("--requirement")
    .arg(requirements);
    run("pip install", &mut pip, INSTALL).await?;
    std::fs::write(&installed, wanted)?;
    Ok(directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_work_unmodified() -> anyhow::Result<()> {
    let clients = binaries::repository().join("tests").join("clients");
    let environment = environment(&clients.join("requirements.txt")).await?;
    let cluster = Cluster::start(4).await?;
    let urls: Vec<String> = cluster
        .rpcs()?
        .iter()
        .map(|client| client.url().to_owned())
        .collect();
    let mut pytest = Command::new(environment.join("bin/python"));
    pytest
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(&clients)
        .current_dir(&clients)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PATH", path_with(&environment))
        .env("AXOLOTL_RPC_URLS", urls.join(","))
        .env("AXOLOTL_REGISTRY_URL", cluster.registry_url());
    run("pytest", &mut pytest, RUN).await?;
    cluster.finish().await
}

/// The search path with the environment's programs (vyper) first.
fn path_with(environment: &Path) -> std::ffi::OsString {
    let mut path = environment.join("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}
