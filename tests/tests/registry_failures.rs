//! The registry is needed to join and to heal, never to order transactions.

use std::time::Duration;

use anyhow::{Context, ensure};
use axolotl_common::registry_api::{NodeSelfStatus, StatusResponse};
use axolotl_tests::{
    Cluster, Dice, Load, Options, checks, cluster::START, load, ports::free_port, processes,
    rounds, soak, wait,
};

/// Patience for blocks after any fault.
const AGAIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn without_a_registry_the_chain_goes_on_and_nodes_come_back() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let clients = cluster.rpcs()?;
    let load = Load::start(&clients, 4).await?;
    load.wait_for_more(10, AGAIN).await?;
    cluster.kill_registry().await?;
    load.wait_for_more(50, AGAIN).await?;

    // Nobody but its peer book tells the restarted node where the others are.
    let node = cluster.node_processes().remove("node3");
    let node = node.context("node3 does not run")?;
    processes::kill(node.pid).await?;
    load.wait_for_more(20, AGAIN).await?;
    cluster.start_again(&node)?;
    let client = cluster.rpc("node3")?;
    let goal = cluster.rpc("node1")?.block_number().await?;
    checks::reach(&client, goal).await?;
    let acknowledged = load.stop().await?;
    checks::all_present(&clients, &acknowledged).await?;
    load::transact(&client, 9, AGAIN).await?;
    checks::same_chain(&clients).await?;

    // The registry comes back and finds everybody alive.
    let before: Vec<u32> = pids(&cluster);
    cluster.start_registry()?;
    cluster.wait_healthy(4, START).await?;
    ensure!(
        before == pids(&cluster),
        "{before:?} became {:?}",
        pids(&cluster)
    );
    cluster.finish().await
}

fn pids(cluster: &Cluster) -> Vec<u32> {
    let nodes = cluster.node_processes().into_values();
    nodes.map(|process| process.pid).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_killed_while_the_genesis_forms_makes_one_genesis() -> anyhow::Result<()> {
    let mut dice = Dice::new("a_registry_killed_while_the_genesis_forms_makes_one_genesis");
    let mut early_in_all = 0;
    for round in 0..rounds(3, 20) {
        let mut cluster = Cluster::prepare(Options::default()).await?;
        let (kills, mut early) = (1 + dice.below(4), 0);
        for _ in 0..kills {
            cluster.start_registry()?;
            // On an idle machine all is formed 50 ms after the start: most moments are about there.
            let longest = [40, 80, 80, 1_000][usize::try_from(dice.below(4))?];
            wait::span(dice.moment(Duration::from_millis(longest))).await;
            cluster.kill_registry().await?;
            early += u64::from(!has_formed(&cluster));
        }
        early_in_all += early;
        cluster.start_registry()?;
        let status = cluster.wait_healthy(4, START).await?;
        let genesis = status.genesis_hash.context("no genesis hash")?;
        ensure!(
            cluster.node_processes().len() == 4,
            "{:?}",
            cluster.processes()
        );
        for node in status.nodes.values() {
            let url = format!("{}/status", node.http_url);
            let own: NodeSelfStatus = get(&url).await?;
            ensure!(own.genesis_hash == Some(genesis), "{} has {own:?}", node.id);
        }
        let client = cluster.rpc("node1")?;
        load::transact(&client, 0, AGAIN).await?;
        println!("round {round}: killed {kills} times, {early} before it was formed; {genesis}");
        cluster.finish().await?;
    }
    ensure!(
        !soak() || early_in_all >= 10,
        "only {early_in_all} kills came before the genesis"
    );
    Ok(())
}

/// Whether the registry's log tells of a genesis.
fn has_formed(cluster: &Cluster) -> bool {
    let log = std::fs::read_to_string(cluster.home().join("registry.log"));
    log.is_ok_and(|log| log.contains("is formed"))
}

async fn get<T: serde::de::DeserializeOwned>(url: &str) -> anyhow::Result<T> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    Ok(client
        .get(url)
        .send()
        .await?
        .error_for_status()?
        .json()
        .await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_that_meets_a_chain_forms_no_second_one() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let client = cluster.rpc("node1")?;
    load::transact(&client, 0, AGAIN).await?;
    cluster.kill_registry().await?;

    // The same address, the same tokens, but nothing remembered.
    let token = |name: &str| cluster.registry_data().join(name).display().to_string();
    let tokens = [
        ("JOIN_TOKEN_FILE", token("join_token")),
        ("ADMIN_TOKEN_FILE", token("admin_token")),
    ];
    let empty = cluster.home().join("empty-registry");
    let mut env = vec![
        ("DATA_DIR", empty.display().to_string()),
        ("RUNTIME", "none".to_owned()),
    ];
    env.extend(tokens);
    let env: Vec<(String, String)> = env
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    cluster.start_registry_with(&env)?;
    let url = cluster.registry_url();
    let this = &cluster;
    let status = wait::until("the registry to see the chain", START, async || {
        let status: StatusResponse = this.get("/status").await?;
        ensure!(
            status
                .warnings
                .iter()
                .any(|warning| warning.contains("adopt")),
            "no warning: {status:?}"
        );
        Ok(status)
    })
    .await?;
    println!("{:?}", status.warnings);
    ensure!(
        status.genesis_hash.is_none(),
        "it formed a genesis: {status:?}"
    );
    let http = reqwest::Client::builder().no_proxy().build()?;
    let genesis = http.get(format!("{url}/genesis")).send().await?;
    ensure!(
        genesis.status() == 404,
        "GET /genesis: {}",
        genesis.status()
    );
    let ready = http.get(format!("{url}/readyz")).send().await?;
    ensure!(!ready.status().is_success(), "it says that it is ready");
    load::transact(&client, 0, AGAIN).await?;

    // With its own store back, all is as before.
    cluster.kill_registry().await?;
    cluster.start_registry()?;
    cluster.wait_healthy(4, START).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said() -> anyhow::Result<()> {
    let cluster = Cluster::prepare(Options::default()).await?;
    let port = free_port()?;
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", port)).await?;
    let output = tokio::process::Command::new(axolotl_tests::binaries::registry()?)
        .arg("serve")
        .env_clear()
        .env("PORT", port.to_string())
        .env("RUNTIME", "none")
        .env("DATA_DIR", cluster.home().join("taken"))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(START, output).await??;
    drop(listener);
    ensure!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains(&port.to_string()), "{said}");
    cluster.finish().await
}
