//! It heals itself, on real containers: the documented commands, and what the registry makes of them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axolotl_common::registry_api::{EventKind, Role};
use axolotl_tests::{
    checks,
    cluster::START,
    docker::{self, DockerCluster},
    engine_proxy::EngineProxy,
    events, limit,
    membership::median,
    rounds, soak, wait,
};

/// A validator that was stopped is replaced by one that votes within this, in the median.
const REPLACED: Duration = Duration::from_secs(5);
/// The same where only the silence of the validator tells.
const REPLACED_SILENT: Duration = Duration::from_secs(25);
/// A validator that crashed votes again within this.
const BACK: Duration = Duration::from_secs(5);
/// Patience for anything.
const AGAIN: Duration = Duration::from_secs(60);

/// Waits until somebody new has the seat of `gone`, one of the validators `before` it went; returns who. A
/// standby may have the seat before anybody can look.
async fn replacement(
    cluster: &DockerCluster,
    before: &[String],
    gone: &str,
) -> anyhow::Result<String> {
    ensure!(
        before.iter().any(|label| label == gone),
        "{gone} is none of {before:?}"
    );
    let labels = cluster
        .settled(&format!("{gone} to be replaced"), |now| {
            now.len() == before.len() && !now.iter().any(|label| label == gone)
        })
        .await?;
    let new = labels.into_iter().find(|label| !before.contains(label));
    new.with_context(|| format!("nobody new instead of {gone}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_killed_validators_are_replaced_and_come_back_as_standbys() -> anyhow::Result<()>
{
    let cluster = DockerCluster::start().await?;
    let traffic = cluster.load(3).await?;
    let mut times = Vec::new();
    let count = rounds(2, 10);
    for round in 0..count {
        traffic.wait_for_more(5, AGAIN).await?;
        let gone = cluster.validators().await?[round % 4].clone();
        let verb: &[&str] = if round % 2 == 0 {
            &["stop", "-t", "10"]
        } else {
            &["kill"]
        };
        let before = cluster.validators().await?;
        cluster.do_to(verb, &gone).await?;
        let begun = Instant::now();
        let new = replacement(&cluster, &before, &gone).await?;
        let took = begun.elapsed();
        println!(
            "round {round}: docker {} {gone}, {new} votes after {took:.1?}",
            verb[0]
        );
        ensure!(
            new == format!("node{}", 5 + round),
            "one replacement, the next number: {new}"
        );
        times.push(took);
        cluster.follow(&traffic).await?;
    }
    let median = median(&mut times);
    println!("MEASURED container stopped or killed, replaced: median {median:.1?} of {times:.1?}");
    // Of the nodes that were replaced only those of the compose file are left, stopped.
    wait::until("no leftovers", AGAIN, async || {
        let (running, present) = (cluster.running().await?, cluster.present().await?);
        let compose = (1..=4).map(|number| format!("node{number}"));
        let others = present
            .iter()
            .filter(|label| !compose.clone().any(|node| node == **label));
        ensure!(running.len() == 4, "{running:?} run");
        ensure!(
            others.clone().all(|label| running.contains(label)),
            "{present:?}, {running:?} run"
        );
        Ok(())
    })
    .await?;
    // One of those that were replaced comes back: it waits, and is the next to be used.
    cluster.start_again(&["node2"]).await?;
    cluster
        .wait_node("node2", "to be a standby", |node| {
            node.role == Role::Standby && node.is_healthy
        })
        .await?;
    let gone = cluster
        .validators()
        .await?
        .into_iter()
        .find(|label| label != "node2");
    let gone = gone.context("nobody")?;
    let before = cluster.validators().await?;
    cluster.do_to(&["kill"], &gone).await?;
    let new = replacement(&cluster, &before, &gone).await?;
    ensure!(new == "node2", "{new} took the seat although node2 waited");
    let spawned = cluster.told(EventKind::Spawned).await?;
    ensure!(spawned.len() == count, "{spawned:?}");
    cluster.nothing_lost(traffic).await?;
    ensure!(median <= limit(REPLACED), "the median is {median:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_validator_is_replaced() -> anyhow::Result<()> {
    let cluster = DockerCluster::start().await?;
    let traffic = cluster.load(2).await?;
    let mut times = Vec::new();
    for _ in 0..rounds(1, 3) {
        let gone = cluster
            .validators()
            .await?
            .last()
            .cloned()
            .context("nobody")?;
        let before = cluster.validators().await?;
        cluster.do_to(&["pause"], &gone).await?;
        let begun = Instant::now();
        let new = replacement(&cluster, &before, &gone).await?;
        println!("{gone} paused, {new} votes after {:.1?}", begun.elapsed());
        times.push(begun.elapsed());
        cluster.follow(&traffic).await?;
    }
    let median = median(&mut times);
    println!("MEASURED container paused, replaced: median {median:.1?} of {times:.1?}");
    let spawned = cluster.told(EventKind::Spawned).await?;
    ensure!(spawned.len() == times.len(), "{spawned:?}");
    cluster.nothing_lost(traffic).await?;
    ensure!(median <= limit(REPLACED_SILENT), "the median is {median:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_container_votes_again_and_the_third_time_is_replaced() -> anyhow::Result<()> {
    let cluster = DockerCluster::start().await?;
    let traffic = cluster.load(2).await?;
    for crash in 1..=2 {
        let next = cluster.node("node3").await?.incarnation + 1;
        let begun = Instant::now();
        cluster.crash("node3").await?;
        cluster.wait_voting("node3", next, limit(BACK)).await?;
        println!(
            "MEASURED crash {crash}: node3 votes again after {:.1?}",
            begun.elapsed()
        );
    }
    ensure!(cluster.validators().await?.contains(&"node3".to_owned()));
    let before = cluster.validators().await?;
    cluster.crash("node3").await?;
    let new = replacement(&cluster, &before, "node3").await?;
    ensure!(new == "node5", "{new}");
    cluster.nothing_lost(traffic).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stopped_as_a_whole_stays_so_and_comes_back_the_same() -> anyhow::Result<()> {
    let cluster = DockerCluster::start().await?;
    let traffic = cluster.load(2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    let acknowledged = traffic.stop().await?;
    let before = cluster.validators().await?;
    // The nodes alone, so that the registry sees it; then all.
    for services in [&["node1", "node2", "node3", "node4"][..], &[]] {
        cluster.stop(services).await?;
        if !services.is_empty() {
            cluster
                .wait("four stopped nodes", AGAIN, |status| {
                    ensure!(status.total_nodes == 0, "{} are left", status.total_nodes);
                    Ok(())
                })
                .await?;
            // Longer than the patience for a stop and the time of a spawn: nothing may happen in it.
            wait::span(Duration::from_secs(6)).await;
        }
        ensure!(cluster.running().await?.is_empty());
        let present = cluster.present().await?;
        ensure!(present == before, "{present:?} instead of {before:?}");
        cluster.start_again(&[]).await?;
        cluster
            .settled("the same validators", |now| now == before)
            .await?;
    }
    let labels: Vec<&str> = before.iter().map(String::as_str).collect();
    let clients = cluster.rpcs(&labels).await?;
    checks::all_present(&clients, &acknowledged).await?;
    checks::goes_on(&clients[0], 1).await?;
    let present = cluster.present().await?;
    ensure!(present == before, "{present:?} instead of {before:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_fourth_is_spawned_for_the_genesis() -> anyhow::Result<()> {
    let timeout = if soak() { "30s" } else { "4s" };
    let cluster = DockerCluster::prepare(&[("GENESIS_TIMEOUT", timeout)]).await?;
    cluster.up(&["registry", "node1", "node2", "node3"]).await?;
    cluster.wait_healthy(4, AGAIN + START).await?;
    let labels = cluster
        .settled("a genesis of four", |now| now.len() == 4)
        .await?;
    ensure!(labels == ["node1", "node2", "node3", "node4"], "{labels:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_test_of_the_readme_goes_as_it_says() -> anyhow::Result<()> {
    let cluster = DockerCluster::start().await?;
    let traffic = cluster.load(2).await?;
    for target in [5, 7, 4] {
        cluster.scale(target).await?;
        cluster.follow(&traffic).await?;
        traffic.wait_for_more(10, AGAIN).await?;
    }
    events::leaders_stay(&cluster.events().await?)?;
    for target in [0, 11] {
        let wish = serde_json::json!({ "target_nodes": target });
        let (status, answer) = cluster.post("/scale", &wish).await?;
        ensure!(
            status == 422 && answer.contains("MIN_NODES 2 to MAX_NODES 10"),
            "{status} {answer}"
        );
    }
    cluster.nothing_lost(traffic).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_its_network_does_nothing_and_puts_things_right_later()
-> anyhow::Result<()> {
    let cluster = DockerCluster::start().await?;
    let traffic = cluster.load(2).await?;
    cluster.disconnect("registry").await?;
    let begun = Instant::now();
    cluster.do_to(&["kill"], "node4").await?;
    traffic.wait_for_more(20, AGAIN).await?;
    let away = Duration::from_secs(if soak() { 120 } else { 25 });
    // The time itself is what is tested: a registry that hears nobody must not act in it.
    wait::span(away.saturating_sub(begun.elapsed())).await;
    let present = cluster.present().await?;
    ensure!(
        present == ["node1", "node2", "node3", "node4"],
        "{present:?}"
    );
    traffic.wait_for_more(20, AGAIN).await?;
    cluster.reconnect("registry").await?;
    let labels = cluster
        .settled("node4 to be replaced", |now| {
            now.len() == 4 && !now.contains(&"node4".to_owned())
        })
        .await?;
    ensure!(labels.contains(&"node5".to_owned()), "{labels:?}");
    cluster.nothing_lost(traffic).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_away_is_said_and_waited_for() -> anyhow::Result<()> {
    let engine = EngineProxy::open()?;
    let socket = engine.socket().display().to_string();
    let cluster = DockerCluster::prepare(&[("DOCKER_SOCKET", &socket)]).await?;
    cluster.up(&[]).await?;
    cluster.wait_healthy(4, START).await?;
    let traffic = cluster.load(2).await?;
    engine.cut();
    cluster
        .wait("a warning about the engine", AGAIN, |status| {
            ensure!(!status.warnings.is_empty(), "no warning");
            Ok(())
        })
        .await?;
    ensure!(
        cluster.get::<serde_json::Value>("/readyz").await.is_err(),
        "it is ready"
    );
    // Whether the engine tells later how it ended depends on who asks first: it is started again, or
    // replaced. And a fifth is wanted meanwhile.
    cluster.do_to(&["kill"], "node4").await?;
    let (status, answer) = cluster
        .post("/scale", &serde_json::json!({ "target_nodes": 5 }))
        .await?;
    ensure!(status == 202, "{status}: {answer}");
    traffic.wait_for_more(20, AGAIN).await?;
    // Heartbeats and discovery go on.
    cluster.wait_healthy(3, AGAIN).await?;
    ensure!(cluster.present().await?.len() == 4);
    engine.mend();
    let labels = cluster
        .settled("five validators", |now| now.len() == 5)
        .await?;
    let (old, new) = labels.split_at(3);
    let spared = new == ["node4", "node5"] || new == ["node5", "node6"];
    ensure!(old == ["node1", "node2", "node3"] && spared, "{labels:?}");
    cluster.nothing_lost(traffic).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_run_makes_no_storm() -> anyhow::Result<()> {
    docker::images().await?;
    let image = format!("axolotl-node:broken-{}", std::process::id());
    docker::docker(&["tag", "axolotl-node:test", &image]).await?;
    let cluster = DockerCluster::prepare(&[("DOCKER_IMAGE", &image)]).await?;
    cluster.up(&[]).await?;
    cluster.wait_healthy(4, START).await?;
    let recipe = tempfile::tempdir()?;
    let lines = "FROM axolotl-node:test\nENTRYPOINT [\"/bin/axolotl\", \"no-such-command\"]\n";
    std::fs::write(recipe.path().join("Dockerfile"), lines)?;
    let context = recipe.path().display().to_string();
    docker::docker(&["build", "-t", &image, &context]).await?;
    cluster.stop(&["node4"]).await?;
    let begun = Instant::now();
    let exits = async || -> anyhow::Result<Vec<String>> {
        let exits = cluster.told(EventKind::Exited).await?;
        Ok(exits.into_iter().map(|event| event.message).collect())
    };
    wait::until("three starts that failed", AGAIN, async || {
        let exits = exits().await?;
        ensure!(exits.len() >= 3, "{exits:?}");
        Ok(())
    })
    .await?;
    let plan = cluster.status().await?.plan;
    ensure!(
        plan.iter().any(|line| line.contains("node5")),
        "not visible: {plan:?}"
    );
    if soak() {
        wait::span(Duration::from_secs(120).saturating_sub(begun.elapsed())).await;
    }
    let exits = exits().await?;
    println!("{} starts in {:.0?}", exits.len(), begun.elapsed());
    ensure!(
        exits.len() <= 5 && exits.iter().all(|exit| exit.starts_with("node5")),
        "{exits:?}"
    );
    // The right image again: it is used for the next start.
    docker::docker(&["tag", "axolotl-node:test", &image]).await?;
    let labels = wait::until(
        "node4 to be replaced",
        Duration::from_secs(120),
        async || {
            let labels = cluster.validators().await?;
            ensure!(
                !labels.contains(&"node4".to_owned()),
                "{:?}",
                cluster.status().await?.plan
            );
            Ok(labels)
        },
    )
    .await?;
    ensure!(labels.contains(&"node5".to_owned()), "{labels:?}");
    cluster.finish().await?;
    docker::docker(&["rmi", &image]).await.map(drop)
}
