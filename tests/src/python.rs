//! A Python with the packages of `tests/clients/requirements.txt`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::{process::Command, sync::OnceCell};

use crate::binaries;

/// Patience for the installation of packages.
const INSTALL: Duration = Duration::from_secs(600);

static ENVIRONMENT: OnceCell<PathBuf> = OnceCell::const_new();

/// Runs a command to its end; what it prints goes where the test's output goes.
///
/// # Errors
/// When it fails, or does not end.
pub async fn run(what: &str, command: &mut Command, patience: Duration) -> anyhow::Result<()> {
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

/// Directory of the tests in Python.
pub fn clients() -> PathBuf {
    binaries::repository().join("tests").join("clients")
}

/// A virtual environment with the packages, kept beside the built programs and made anew when the
/// requirements change.
///
/// # Errors
/// When they cannot be installed.
pub async fn environment() -> anyhow::Result<PathBuf> {
    let made =
        ENVIRONMENT.get_or_try_init(|| async { make(&clients().join("requirements.txt")).await });
    Ok(made.await?.clone())
}

async fn make(requirements: &Path) -> anyhow::Result<PathBuf> {
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
    pip.args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--requirement"])
        .arg(requirements);
    run("pip install", &mut pip, INSTALL).await?;
    std::fs::write(&installed, wanted)?;
    Ok(directory)
}
