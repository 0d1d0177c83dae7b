//! Unmodified clients of other languages against a cluster: the tests of `tests/clients`, in Python.

use std::{path::Path, time::Duration};

use axolotl_tests::{Cluster, Options, binaries, cluster::START, python};
use tokio::process::Command;

/// Patience for the tests.
const RUN: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_work_unmodified() -> anyhow::Result<()> {
    let environment = python::environment().await?;
    let cluster = Cluster::start(4).await?;
    let urls: Vec<String> = cluster
        .rpcs()?
        .iter()
        .map(|client| client.url().to_owned())
        .collect();
    let mut pytest = pytest(&environment, &python::clients());
    pytest
        .env("AXOLOTL_RPC_URLS", urls.join(","))
        .env("AXOLOTL_REGISTRY_URL", cluster.registry_url())
        .env("AXOLOTL_TOOL", binaries::axolotl()?);
    python::run("pytest", &mut pytest, RUN).await?;
    cluster.finish().await
}

/// A registry that nobody registers with: what operators may ask of it harms nobody.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_in_the_calls_of_operators() -> anyhow::Result<()> {
    let environment = python::environment().await?;
    let alone = Options {
        registry_env: vec![("RUNTIME".to_owned(), "none".to_owned())],
        ..Options::default()
    };
    let mut cluster = Cluster::prepare(alone).await?;
    cluster.start_registry()?;
    cluster.wait_healthy(0, START).await?;
    let token = cluster.registry_data().join("admin_token");
    let mut pytest = pytest(
        &environment,
        &python::clients().join("test_registry_api.py"),
    );
    pytest
        .env("AXOLOTL_REGISTRY_URL", cluster.registry_url())
        .env("AXOLOTL_ADMIN_TOKEN_FILE", token);
    python::run("pytest", &mut pytest, RUN).await?;
    cluster.finish().await
}

/// pytest on a file or directory of tests.
fn pytest(environment: &Path, tests: &Path) -> Command {
    let mut pytest = Command::new(environment.join("bin/python"));
    pytest
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(tests)
        .current_dir(python::clients())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PATH", path_with(environment));
    pytest
}

/// The search path with the environment's programs (vyper, schemathesis) first.
fn path_with(environment: &Path) -> std::ffi::OsString {
    let mut path = environment.join("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}
