//! Votes that do not arrive, on real containers: networks that change under a validator, and packets that are lost.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use axolotl_common::{
    Height, PublicKey,
    registry_api::{EventKind, SymptomCode},
};
use axolotl_tests::{docker::DockerCluster, limit, wait};

/// A validator votes again within this after its network is back.
const VOTES_AGAIN: Duration = Duration::from_secs(10);
/// One whose votes do not arrive is shown within this, under load.
const SHOWN: Duration = Duration::from_secs(10);
/// Patience for either.
const DEADLINE: Duration = Duration::from_secs(30);
/// Patience for load to go on.
const AGAIN: Duration = Duration::from_secs(60);

/// The head of a validator and its key.
async fn head_of(cluster: &DockerCluster, label: &str) -> anyhow::Result<(Height, PublicKey)> {
    // The host may still know an address that was given anew by its former owner's hardware address.
    wait::until("a validator to answer the host", DEADLINE, async || {
        let status = cluster.self_status(label).await?;
        Ok((status.height, status.public_key))
    })
    .await
}

/// Waits until `observers` have received votes of a validator above their own head at the call. The nodes say so
/// themselves: no registry is needed.
async fn votes_arrive(
    cluster: &DockerCluster,
    observers: &[&str],
    key: PublicKey,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut heads = Vec::new();
    for observer in observers {
        heads.push((*observer, head_of(cluster, observer).await?.0));
    }
    wait::until("votes of it to arrive", DEADLINE, async || {
        for (observer, head) in &heads {
            let status = cluster.self_status(observer).await?;
            let report = status.votes.iter().find(|report| report.validator == key);
            let report = report.with_context(|| format!("{observer} watches others only"))?;
            ensure!(
                report.height > *head && report.missing_ms.is_none_or(|ms| ms < 1_000),
                "{observer} at {}: {report:?}",
                status.height
            );
        }
        Ok(())
    })
    .await?;
    Ok(begun.elapsed())
}

/// Moves each of the validators given to another address, under load.
async fn moved(cluster: &DockerCluster, labels: &[&str], what: &str) -> anyhow::Result<()> {
    for label in labels {
        let others: Vec<&str> = ["node1", "node2", "node3", "node4"]
            .into_iter()
            .filter(|other| other != label)
            .collect();
        let (_, key) = head_of(cluster, label).await?;
        let _held = cluster.move_elsewhere(label).await?;
        let took = votes_arrive(cluster, &others, key).await?;
        println!("MEASURED {label} has another address, {what}: it votes again after {took:.1?}");
        ensure!(took <= limit(VOTES_AGAIN), "{label} took {took:.1?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_with_another_address_votes_again_with_and_without_the_registry()
-> anyhow::Result<()> {
    let cluster = DockerCluster::start().await?;
    let traffic = cluster.load(3).await?;
    traffic.wait_for_more(20, AGAIN).await?;
    moved(&cluster, &["node3", "node1"], "registry up").await?;
    traffic.wait_for_more(20, AGAIN).await?;
    cluster.stop(&["registry"]).await?;
    moved(&cluster, &["node2", "node3"], "registry down").await?;
    traffic.wait_for_more(20, AGAIN).await?;
    cluster.start_again(&["registry"]).await?;
    let all = |labels: &[String]| labels.len() == 4;
    let validators = cluster.settled("all to vote", all).await?;
    ensure!(
        (1..=4).all(|number| validators.contains(&format!("node{number}"))),
        "nobody was replaced: {validators:?}"
    );
    cluster.nothing_lost(traffic).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_whose_votes_are_lost_is_shown_as_not_voting() -> anyhow::Result<()> {
    let cluster = DockerCluster::start().await?;
    let traffic = cluster.load(3).await?;
    traffic.wait_for_more(20, AGAIN).await?;
    let status = cluster.status().await?;
    let leader = status.leader.context("nobody leads")?.to_string();
    let labels = ["node1", "node2", "node3", "node4"];
    let followers: Vec<&str> = labels
        .into_iter()
        .filter(|label| *label != leader)
        .collect();
    let (lost, other) = (followers[0], followers[1]);

    // Lost on one path only: others pass its votes on, and nothing is wrong with it.
    cluster.cut_from(lost, &[other]).await?;
    let begun = Instant::now();
    wait::until("a while in which it counts as voting", AGAIN, async || {
        let node = cluster.node(lost).await?;
        assert!(node.voting && node.symptom.is_none(), "{node:?}");
        ensure!(
            begun.elapsed() > SHOWN + Duration::from_secs(5),
            "not long enough yet"
        );
        Ok(())
    })
    .await?;
    cluster.release(lost).await?;

    // Lost on all: the registry still hears it.
    let others: Vec<&str> = labels.into_iter().filter(|label| *label != lost).collect();
    cluster.cut_from(lost, &others).await?;
    let begun = Instant::now();
    let shown = wait::until("it to be shown as not voting", DEADLINE, async || {
        let node = cluster.node(lost).await?;
        let symptom = node.symptom.clone().with_context(|| format!("{node:?}"))?;
        ensure!(!node.voting, "{node:?}");
        Ok(symptom)
    })
    .await?;
    let took = begun.elapsed();
    println!(
        "MEASURED votes of {lost} are lost: shown after {took:.1?}: {}",
        shown.text
    );
    ensure!(shown.code == SymptomCode::NotVoting, "{shown:?}");
    ensure!(took <= limit(SHOWN), "{took:.1?}");
    let status = cluster.status().await?;
    let voting = status.nodes.values().filter(|node| node.voting).count();
    ensure!(
        voting == 3 && status.consensus_possible,
        "{voting} vote: {status:?}"
    );
    traffic.wait_for_more(20, AGAIN).await?;

    cluster.release(lost).await?;
    let begun = Instant::now();
    cluster.wait_voting(lost, 1, DEADLINE).await?;
    let took = begun.elapsed();
    println!("MEASURED the packets of {lost} pass again: it votes after {took:.1?}");
    ensure!(took <= limit(VOTES_AGAIN), "{took:.1?}");
    let told = |kind| {
        let cluster = &cluster;
        async move {
            let mut events = cluster.told(kind).await?;
            events.retain(|event| {
                event
                    .node
                    .as_ref()
                    .is_some_and(|node| node.as_str() == lost)
            });
            anyhow::Ok(
                events
                    .into_iter()
                    .map(|event| event.message)
                    .collect::<Vec<_>>(),
            )
        }
    };
    let begins = told(EventKind::Unhealthy).await?;
    ensure!(
        begins.iter().any(|text| text.contains("is not voting")),
        "{begins:?}"
    );
    let ends = told(EventKind::Healthy).await?;
    ensure!(
        ends.iter().any(|text| text.contains("votes again")),
        "{ends:?}"
    );
    let validators = cluster.validators().await?;
    ensure!(
        validators.iter().any(|label| label == lost),
        "nobody was replaced: {validators:?}"
    );
    cluster.nothing_lost(traffic).await?;
    cluster.finish().await
}
