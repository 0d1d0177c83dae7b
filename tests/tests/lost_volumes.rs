//! Volumes that are lost, and volumes that are there twice: who has forgotten what it promised is no
//! survivor, and a key that runs twice does no harm.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, bail, ensure};
use axolotl_common::{
    Epoch, PublicKey, SignedRecord,
    membership::RecordKind,
    registry_api::{MembershipResponse, NodeState, StatusResponse},
};
use axolotl_node::cli::json_rpc::JsonRpc;
use axolotl_tests::{
    HandNode, Hands, Load, checks,
    cluster::{CALL, START},
    files::copy_tree,
    loss::{self, AGAIN, Timeline, words},
    processes::{self, Signal},
    wait,
};

/// The record of the epoch in force.
async fn newest(hands: &Hands) -> anyhow::Result<SignedRecord> {
    let membership: MembershipResponse = hands.cluster.get("/membership").await?;
    let mut records = membership.records.into_iter();
    let record = records.find(|signed| Some(signed.record.number) == membership.epoch);
    record.context("no record of the epoch in force")
}

/// Labels and keys of the validators.
struct Validators {
    labels: Vec<String>,
    keys: Vec<PublicKey>,
}

async fn validators(hands: &Hands) -> anyhow::Result<Validators> {
    let labels = hands.cluster.validators().await?;
    let keys = labels.iter().map(|label| hands.cluster.key_of(label));
    let keys = keys.collect::<Result<_, _>>()?;
    Ok(Validators { labels, keys })
}

/// The recovery rests on the first two validators alone, and the other two are in it no more.
fn rests_on_two(record: &SignedRecord, before: &Validators) -> anyhow::Result<()> {
    let record = &record.record;
    let handover = record.handover.as_ref().context("no recovery")?;
    let authors: BTreeSet<PublicKey> = handover
        .statements
        .iter()
        .map(|signed| signed.statement.author)
        .collect();
    ensure!(
        record.kind == RecordKind::Recovery
            && authors == before.keys[..2].iter().copied().collect(),
        "{record:?}"
    );
    let stays = |key: &PublicKey| record.members.iter().any(|m| m.public_key == *key);
    ensure!(
        before.keys[..2].iter().all(stays) && !before.keys[2..].iter().any(stays),
        "{:?}",
        record.members
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_wiped_volumes_of_four_are_no_survivors() -> anyhow::Result<()> {
    let mut hands = Hands::start(4).await?;
    let traffic = Load::start(&hands.cluster.rpcs()?, 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    let before = validators(&hands).await?;
    let gone = before.labels[2..].to_vec();
    for label in &gone {
        hands.stop(label).await?;
    }
    let mut timeline = Timeline::begin();
    let this = &hands.cluster;
    // Before that their labels belong to the old keys.
    wait::until("the registry to give them up", AGAIN, async || {
        let status: StatusResponse = this.get("/status").await?;
        let failed = |label: &String| {
            let mut nodes = status.nodes.values();
            nodes.any(|node| node.id.as_str() == label && node.state == NodeState::Failed)
        };
        ensure!(gone.iter().all(failed), "{:?}", status.nodes);
        Ok(())
    })
    .await?;
    timeline.note("given up");
    for label in &gone {
        fs::remove_dir_all(hands.data(label))?;
        hands.run(label)?;
    }
    loss::recovered(&hands.cluster, &gone, 4, &mut timeline).await?;
    loss::blocks_again(&mut hands.cluster, &traffic).await?;
    println!("MEASURED two of four wiped: {}", timeline.text());
    let record = newest(&hands).await?;
    rests_on_two(&record, &before)?;
    loss::nothing_lost(&mut hands.cluster, traffic).await?;
    hands.cluster.stop().await?;
    checks::never_signed_twice(hands.cluster.home())?;
    let signed = checks::highest_signed(hands.cluster.home())?;
    for member in &record.record.members {
        let key = member.public_key;
        let epochs: Vec<Epoch> = signed
            .keys()
            .filter(|(k, _)| *k == key)
            .map(|k| k.1)
            .collect();
        let expected = match before.keys.contains(&key) {
            true => vec![Epoch(0), record.record.number],
            false => vec![record.record.number],
        };
        ensure!(
            epochs == expected,
            "{} signed in {epochs:?}",
            member.node_id
        );
    }
    hands.cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lost_logs_of_four_are_no_survivors() -> anyhow::Result<()> {
    let mut hands = Hands::start(4).await?;
    let traffic = Load::start(&hands.cluster.rpcs()?, 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    let before = validators(&hands).await?;
    let membership: MembershipResponse = hands.cluster.get("/membership").await?;
    let (here, gone) = before.labels.split_at(2);
    for label in gone {
        hands.stop(label).await?;
    }
    let mut last = BTreeMap::new();
    for label in gone {
        for (at, height) in checks::highest_signed(&hands.data(label))? {
            let known = last.entry(at).or_insert(height);
            *known = height.max(*known);
        }
        fs::remove_dir_all(hands.data(label).join("consensus"))?;
        hands.run(label)?;
    }
    let this = &hands.cluster;
    wait::until("two unfit nodes, and words about it", AGAIN, async || {
        for label in gone {
            let own = this.own_status(label).await?;
            ensure!(own.unfit.is_some() && !own.voting, "{own:?}");
        }
        let status: StatusResponse = this.get("/status").await?;
        let recovery = status.recovery.as_ref().context("nothing is said")?;
        let said = recovery.survivors == 2 && recovery.summary.contains("replacements");
        ensure!(said, "{}", words(&status));
        Ok(())
    })
    .await?;
    loss::nothing_done(&hands.cluster, membership.records.len(), here).await?;
    let mut timeline = Timeline::begin();
    for label in ["node5", "node6"] {
        hands.run(label)?;
    }
    loss::recovered(&hands.cluster, gone, 4, &mut timeline).await?;
    loss::blocks_again(&mut hands.cluster, &traffic).await?;
    println!("MEASURED two logs lost, two new nodes: {}", timeline.text());
    rests_on_two(&newest(&hands).await?, &before)?;
    loss::nothing_lost(&mut hands.cluster, traffic).await?;
    hands.cluster.stop().await?;
    checks::never_signed_twice(hands.cluster.home())?;
    let signed = checks::highest_signed(hands.cluster.home())?;
    for key in &before.keys[2..] {
        let late = signed
            .iter()
            .find(|(at, height)| at.0 == *key && last.get(at).is_none_or(|last| *height > last));
        ensure!(late.is_none(), "signed without a log: {late:?}");
    }
    hands.cluster.finish().await
}

/// A copy of a data directory, as a node of its own.
fn twin_of(hands: &Hands, label: &str) -> anyhow::Result<HandNode> {
    let mut twin = hands.cluster.hand("twin")?;
    twin.env.push(("NODE_ID".to_owned(), label.to_owned()));
    copy_tree(&hands.data(label), &twin.data)?;
    Ok(twin)
}

/// What the log of a node says, as text.
fn log_of(hands: &Hands, label: &str) -> String {
    let path = hands.cluster.home().join(format!("{label}.log"));
    fs::read_to_string(path).unwrap_or_default()
}

/// How often the twin waited since the registry refused it, by the twin's log.
fn refusals(hands: &Hands) -> usize {
    let log = log_of(hands, "twin");
    let refused = |line: &&str| line.contains("this process waits and does not vote");
    log.lines().filter(refused).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_one_key_is_refused() -> anyhow::Result<()> {
    let mut hands = Hands::start(4).await?;
    let traffic = Load::start(&hands.cluster.rpcs()?, 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    hands.stop("node4").await?;
    let twin = twin_of(&hands, "node4")?;
    hands.run("node4")?;
    let (this, key) = (&hands.cluster, hands.cluster.key_of("node4")?);
    wait::until("node4 to vote again", START, async || {
        this.votes(&key, 2).await
    })
    .await?;
    let signed = checks::highest_signed(&twin.data)?;
    // The first start has the same number of starts as the original, the second a higher one.
    for is_last in [false, true] {
        let before = refusals(&hands);
        let pid = hands.cluster.start_hand(&twin)?;
        let this = &hands;
        wait::until("the refusal", AGAIN, async || {
            let now = refusals(this);
            ensure!(now > before, "{before} refusals, then {now}");
            Ok(())
        })
        .await?;
        traffic.wait_for_more(20, AGAIN).await?;
        let gives_up = || {
            let log = log_of(this, "twin");
            let last = log.lines().last().unwrap_or_default();
            (last.contains("does not take this node"), last.to_owned())
        };
        if is_last {
            wait::until("it to end by itself", AGAIN, async || {
                let (given_up, last) = gives_up();
                ensure!(given_up, "{last}");
                Ok(())
            })
            .await?;
        } else {
            processes::signal(pid, Signal::TERM)?;
        }
        processes::wait_gone(pid).await?;
        let (given_up, last) = gives_up();
        ensure!(given_up == is_last, "{last}");
    }
    // It has signed nothing.
    ensure!(checks::highest_signed(&twin.data)? == signed);
    let status = hands.cluster.wait_healthy(4, START).await?;
    ensure!(
        status.nodes.len() == 4 && status.plan.is_empty(),
        "{status:?}"
    );
    loss::nothing_lost(&mut hands.cluster, traffic).await?;
    loss::finish(hands.cluster).await
}

/// Says how a key that runs twice became known: one of the two found out itself, or others saw two things
/// signed in one place.
async fn found_out(hands: &Hands, twin: &HandNode, label: &str) -> anyhow::Result<String> {
    let urls = [
        format!("{}/status", hands.cluster.node(label)?.http_url),
        format!("http://127.0.0.1:{}/status", twin.http),
    ];
    for url in urls {
        let own = hands.cluster.own_status_at(&url).await?;
        if let Some(why) = own.unfit.filter(|_| !own.voting) {
            return Ok(format!("{url} says that it is unfit: {why}"));
        }
    }
    let key = hands.cluster.key_of(label)?;
    for other in hands.cluster.labels()? {
        let own = hands.cluster.own_status(&other).await?;
        if own.misbehaving.contains(&key) {
            return Ok(format!("{other} has seen two things signed in one place"));
        }
    }
    bail!("nobody noticed")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_in_two_processes_without_a_registry_forks_nothing() -> anyhow::Result<()> {
    let mut hands = Hands::start(4).await?;
    let traffic = Load::start(&hands.cluster.rpcs()?, 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    hands.cluster.refresh().await?;
    hands.cluster.kill_registry().await?;
    // Who leads proposes: two of it propose two blocks.
    let leader = hands.cluster.leader().await?;
    let labels = hands.cluster.labels()?;
    for label in &labels {
        hands.stop(label).await?;
    }
    let twin = twin_of(&hands, &leader)?;
    hands.cluster.start_hand(&twin)?;
    for label in &labels {
        hands.run(label)?;
    }
    traffic.wait_for_more(20, AGAIN).await?;
    let this = &hands;
    let how = wait::until("somebody to notice", AGAIN, async || {
        found_out(this, &twin, &leader).await
    })
    .await?;
    println!("{leader} runs twice: {how}");
    traffic.wait_for_more(20, AGAIN).await?;
    let acknowledged = traffic.stop().await?;
    let mut clients = hands.cluster.rpcs()?;
    checks::all_present(&clients, &acknowledged).await?;
    // The copy may be behind; what it has is the same.
    clients.push(JsonRpc::new(
        &format!("http://127.0.0.1:{}", twin.rpc),
        CALL,
    )?);
    checks::same_chain(&clients).await?;
    hands.cluster.restart_registry().await?;
    hands.cluster.finish().await
}
