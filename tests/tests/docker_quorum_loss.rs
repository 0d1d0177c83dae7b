//! The loss of a quorum, on real containers: what recovers by itself, what waits, and for whom.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use axolotl_common::{
    Epoch, PublicKey,
    membership::RecordKind,
    registry_api::{MembershipResponse, RecoveryPhase, Role, StatusResponse},
};
use axolotl_tests::{
    Dice, DockerCluster, Load, checks,
    docker::{
        COMPOSE_NODES,
        loss::{Found, Loss},
    },
    limit,
    membership::median,
    rounds, wait,
};

/// From the loss of the quorum until blocks are made again, each time.
const RECOVERED: Duration = Duration::from_secs(60);
/// The same where only silence tells of the loss: that alone takes `UNHEALTHY_AFTER`.
const RECOVERED_SILENT: Duration = Duration::from_secs(90);
/// From the start of stopped validators that make a quorum again until blocks are made.
const BACK: Duration = Duration::from_secs(15);
/// Patience for anything.
const AGAIN: Duration = Duration::from_secs(60);
/// Longer than any veto, and than a silent node is waited for: nothing may happen in it.
const A_WHILE: Duration = Duration::from_secs(30);
/// Transfers that must be acknowledged before and after.
const SOME: usize = 10;
/// Files of a data directory that say who the node is, not what it signed.
const IDENTITY: [&str; 6] = [
    "version",
    "node.key",
    "volume.json",
    "incarnation",
    "label",
    "genesis.json",
];

/// A chain under load.
async fn chain(validators: u16) -> anyhow::Result<(DockerCluster, Load)> {
    let cluster = DockerCluster::start().await?;
    let traffic = cluster.load(2).await?;
    if validators != COMPOSE_NODES {
        cluster.scale(validators.into()).await?;
        cluster.follow(&traffic).await?;
    }
    traffic.wait_for_more(SOME, AGAIN).await?;
    Ok((cluster, traffic))
}

/// So many of the validators by lot, and the others.
async fn draw(
    cluster: &DockerCluster,
    dice: &mut Dice,
    count: usize,
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let mut drawn = cluster.validators().await?;
    dice.shuffle(&mut drawn);
    let rest = drawn.split_off(count);
    drawn.sort();
    Ok((drawn, rest))
}

fn refs(labels: &[String]) -> Vec<&str> {
    labels.iter().map(String::as_str).collect()
}

/// Waits until the epoch after a loss makes blocks and all of its validators vote, none of `gone`
/// among them; says how long that took. Returns what was found.
async fn recovered(
    loss: &Loss<'_>,
    cluster: &DockerCluster,
    what: &str,
    gone: &[String],
    witness: &str,
    deadline: Duration,
) -> anyhow::Result<Found> {
    let n = cluster.validators().await?.len();
    let kind = RecordKind::Recovery;
    let found = loss.next_epoch(kind, witness, deadline).await?;
    cluster
        .settled("the new validators to vote", |now| {
            now.len() == n && !gone.iter().any(|label| now.contains(label))
        })
        .await?;
    let all_vote = loss.elapsed();
    let steps = loss.time_line().await?;
    println!(
        "MEASURED {what}: blocks after {:.1?}, all vote after {all_vote:.1?}; s: {steps}",
        found.block_after
    );
    Ok(found)
}

/// The chain goes on; ends everything and looks that nothing was lost and nobody signed twice.
async fn well_ended(cluster: DockerCluster, traffic: Load) -> anyhow::Result<()> {
    cluster.follow(&traffic).await?;
    traffic.wait_for_more(SOME, AGAIN).await?;
    cluster.nothing_lost(traffic).await?;
    cluster.end_and_read_logs().await?;
    cluster.finish().await
}

/// `lost` of `n` validators end at once, their volumes with them.
async fn lose_for_good(test: &str, n: u16, lost: usize) -> anyhow::Result<()> {
    let mut dice = Dice::new(test);
    let mut times = Vec::new();
    for _ in 0..rounds(1, 5) {
        let (cluster, traffic) = chain(n).await?;
        let (gone, kept) = draw(&cluster, &mut dice, lost).await?;
        let loss = Loss::begin(&cluster).await?;
        cluster.lose(&gone).await?;
        let what = format!("{} of {n} removed", gone.join(", "));
        let found = recovered(&loss, &cluster, &what, &gone, &kept[0], RECOVERED).await?;
        times.push(found.block_after);
        well_ended(cluster, traffic).await?;
    }
    println!(
        "MEASURED {lost} of {n} gone for good: blocks after {:.1?} in the median of {times:.1?}",
        median(&mut times.clone())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_four_containers_gone_for_good() -> anyhow::Result<()> {
    lose_for_good("two of four", 4, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_five_containers_gone_for_good() -> anyhow::Result<()> {
    lose_for_good("two of five", 5, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn four_of_seven_containers_gone_for_good() -> anyhow::Result<()> {
    lose_for_good("four of seven", 7, 4).await
}

/// Waits until nodes wait to be used, without a vote.
async fn standbys(cluster: &DockerCluster, labels: &[String]) -> anyhow::Result<()> {
    for label in labels {
        cluster
            .wait_node(label, "to be a standby", |node| {
                node.role == Role::Standby && node.is_healthy && !node.voting
            })
            .await?;
    }
    Ok(())
}

/// The second test of the README.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_are_stopped_are_replaced_and_come_back_as_standbys() -> anyhow::Result<()> {
    let gone = ["node2".to_owned(), "node3".to_owned()];
    let mut times = Vec::new();
    for _ in 0..rounds(1, 5) {
        let (cluster, traffic) = chain(4).await?;
        let loss = Loss::begin(&cluster).await?;
        cluster.stop(&refs(&gone)).await?;
        let found = recovered(&loss, &cluster, "2 of 4 stopped", &gone, "node1", RECOVERED).await?;
        times.push(found.block_after);
        let running = cluster.running().await?;
        ensure!(
            !gone.iter().any(|label| running.contains(label)),
            "{running:?} run"
        );
        cluster.follow(&traffic).await?;
        traffic.wait_for_more(SOME, AGAIN).await?;
        let before = cluster.validators().await?;
        cluster.start_again(&refs(&gone)).await?;
        standbys(&cluster, &gone).await?;
        // What they still had to say counts for nothing.
        traffic.wait_for_more(SOME, AGAIN).await?;
        let membership = cluster.membership().await?;
        ensure!(
            membership.epoch == Some(found.record.number),
            "{membership:?}"
        );
        ensure!(cluster.validators().await? == before);
        let all = [before, gone.to_vec()].concat();
        checks::same_chain(&cluster.rpcs(&refs(&all)).await?).await?;
        well_ended(cluster, traffic).await?;
    }
    println!(
        "MEASURED 2 of 4 stopped: blocks after {:.1?} in the median of {times:.1?}",
        median(&mut times.clone())
    );
    Ok(())
}

/// Waits until the registry says in words who is missing; returns what it shows.
async fn wait_for_words(
    cluster: &DockerCluster,
    phase: RecoveryPhase,
    words: &str,
) -> anyhow::Result<StatusResponse> {
    cluster
        .wait("words about what is missing", AGAIN, |status| {
            let recovery = status.recovery.as_ref().context("nothing is said")?;
            ensure!(
                recovery.phase == phase && recovery.summary.contains(words),
                "{recovery:?}"
            );
            Ok(())
        })
        .await
}

/// Nothing is sealed, signed or finalised for a while by the nodes that are left, whatever they hear;
/// the words stay.
async fn nothing_happens(
    cluster: &DockerCluster,
    before: &MembershipResponse,
    left: &[String],
    words: &str,
) -> anyhow::Result<()> {
    let mut heights = Vec::new();
    for label in left {
        heights.push(cluster.self_status(label).await?.height);
    }
    // The time itself is what is tested.
    wait::span(A_WHILE).await;
    let after = cluster.membership().await?;
    ensure!(
        after.records == before.records && after.pending.is_none(),
        "a record was signed: {after:?}"
    );
    let said = cluster
        .status()
        .await?
        .recovery
        .context("nothing is said")?;
    ensure!(said.summary.contains(words), "{said:?}");
    for (label, height) in left.iter().zip(heights) {
        let node = cluster.self_status(label).await?;
        ensure!(node.sealed.is_none(), "{label} is sealed: {node:?}");
        ensure!(node.height == height, "{label} was at {height}: {node:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_of_four_stopped_wait_for_one_more() -> anyhow::Result<()> {
    let mut dice = Dice::new("three of four stopped");
    let mut times = Vec::new();
    for _ in 0..rounds(1, 5) {
        let (cluster, traffic) = chain(4).await?;
        let before = cluster.membership().await?;
        let (gone, left) = draw(&cluster, &mut dice, 3).await?;
        cluster.stop(&refs(&gone)).await?;
        let words = format!(
            "1 more of {} is needed with its volume, or an operator's word",
            gone.join(", ")
        );
        let status = wait_for_words(&cluster, RecoveryPhase::Waiting, &words).await?;
        let shown = status.recovery.context("nothing is said")?;
        let advice = shown.advice.as_deref().unwrap_or_default();
        ensure!(
            (shown.survivors, shown.needed) == (1, 2) && advice.contains("POST /recover"),
            "{shown:?}"
        );
        nothing_happens(&cluster, &before, &left, &words).await?;
        // With two of the three a quorum is back.
        let begun = Instant::now();
        cluster.start_again(&refs(&gone[..2])).await?;
        traffic.wait_for_more(1, limit(BACK)).await?;
        times.push(begun.elapsed());
        let labels = cluster
            .settled("the third to be replaced", |now| {
                now.len() == 4 && !now.contains(&gone[2])
            })
            .await?;
        println!("{labels:?} go on without {}", gone[2]);
        let records = cluster.membership().await?.records;
        ensure!(
            records
                .iter()
                .all(|signed| signed.record.handover.is_none()),
            "it was recovered although a quorum was back: {records:?}"
        );
        well_ended(cluster, traffic).await?;
    }
    let median = median(&mut times);
    println!("MEASURED a quorum is back: blocks after {median:.1?} in the median of {times:.1?}");
    ensure!(median <= limit(BACK), "the median is {median:?}");
    Ok(())
}

/// The operator's word, and whether it is taken.
async fn speak(cluster: &DockerCluster, word: &str, epoch: Epoch) -> anyhow::Result<u16> {
    let body = serde_json::json!({ "epoch": epoch, word: true });
    let (status, answer) = cluster.post("/recover", &body).await?;
    println!("{word} in epoch {epoch}: {status} {answer}");
    Ok(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_of_four_gone_for_good_take_an_operators_word() -> anyhow::Result<()> {
    let mut dice = Dice::new("three of four gone");
    for _ in 0..rounds(1, 5) {
        let (cluster, traffic) = chain(4).await?;
        let before = cluster.membership().await?;
        let epoch = before.epoch.context("no epoch")?;
        let (gone, left) = draw(&cluster, &mut dice, 3).await?;
        // One may know less than the three: what it holds is what can be asked for afterwards.
        let acknowledged = traffic.stop().await?;
        let last = acknowledged.iter().map(|one| one.block_number).max();
        checks::reach(&cluster.rpc(&left[0]).await?, last.unwrap_or(0)).await?;
        cluster.lose(&gone).await?;
        let words = format!("1 more of {}", gone.join(", "));
        wait_for_words(&cluster, RecoveryPhase::Waiting, &words).await?;
        ensure!(speak(&cluster, "take_over", epoch).await? == 409);
        ensure!(speak(&cluster, "accept_data_loss", Epoch(epoch.0 + 1)).await? == 409);
        nothing_happens(&cluster, &before, &left, &words).await?;
        let loss = Loss::begin(&cluster).await?;
        ensure!(speak(&cluster, "accept_data_loss", epoch).await? == 202);
        let found = loss
            .next_epoch(RecordKind::Forced, &left[0], RECOVERED)
            .await?;
        let labels = cluster
            .settled("four validators", |now| {
                now.len() == 4 && now.contains(&left[0])
            })
            .await?;
        println!(
            "MEASURED a loss of data accepted: blocks after {:.1?}; s: {}",
            found.block_after,
            loss.time_line().await?
        );
        ensure!(!labels.iter().any(|label| gone.contains(label)));
        let traffic = cluster.load(2).await?;
        // A validator that joins later takes the record over with the chain, and the registry keeps it.
        cluster.do_to(&["restart"], "registry").await?;
        cluster.wait_healthy(4, AGAIN).await?;
        cluster.scale(5).await?;
        cluster.follow(&traffic).await?;
        traffic.wait_for_more(SOME, AGAIN).await?;
        let records = cluster.membership().await?.records;
        let kept = records
            .iter()
            .find(|signed| signed.record.kind == RecordKind::Forced);
        ensure!(
            kept.is_some_and(|signed| signed.record == found.record),
            "{records:?}"
        );
        checks::all_present(&cluster.voters().await?, &acknowledged).await?;
        well_ended(cluster, traffic).await?;
    }
    Ok(())
}

/// Highest block of these nodes, by their own word.
async fn highest(cluster: &DockerCluster, labels: &[String]) -> anyhow::Result<u64> {
    let mut highest = 0;
    for label in labels {
        highest = highest.max(cluster.self_status(label).await?.height.0);
    }
    Ok(highest)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_halves_only_the_one_with_the_registry_goes_on() -> anyhow::Result<()> {
    let mut dice = Dice::new("two halves");
    for _ in 0..rounds(1, 5) {
        let (cluster, traffic) = chain(4).await?;
        let (cut_off, kept) = draw(&cluster, &mut dice, 2).await?;
        let loss = Loss::begin(&cluster).await?;
        cluster.confine(&cut_off[0], &[&cut_off[1]]).await?;
        cluster.confine(&cut_off[1], &[&cut_off[0]]).await?;
        let what = format!("{} cut off", cut_off.join(", "));
        let found = recovered(&loss, &cluster, &what, &cut_off, &kept[0], RECOVERED_SILENT).await?;
        // What the others finalised before the cut was handed over; since then they finalised nothing.
        let base = found.record.base_height.0;
        let theirs = highest(&cluster, &cut_off).await?;
        ensure!(theirs <= base, "{cut_off:?} are at {theirs}, above {base}");
        // Transfers are still handed to all of them.
        let all = [cluster.validators().await?, cut_off.clone()].concat();
        traffic.follow(cluster.rpcs(&refs(&all)).await?);
        traffic.wait_for_more(SOME, AGAIN).await?;
        for label in &cut_off {
            let node = cluster.self_status(label).await?;
            ensure!(
                node.epoch < found.record.number && node.sealed.is_none(),
                "{label} cannot know of it: {node:?}"
            );
        }
        ensure!(highest(&cluster, &cut_off).await? == theirs);
        let begun = Instant::now();
        for label in &cut_off {
            cluster.release(label).await?;
        }
        standbys(&cluster, &cut_off).await?;
        println!(
            "MEASURED the halves meet: all are one chain after {:.1?}",
            begun.elapsed()
        );
        traffic.wait_for_more(SOME, AGAIN).await?;
        let clients = cluster.rpcs(&refs(&all)).await?;
        checks::reach(&clients[4], base + 1).await?;
        checks::reach(&clients[5], base + 1).await?;
        checks::same_chain(&clients).await?;
        well_ended(cluster, traffic).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_that_only_the_registry_sees_are_left_alone() -> anyhow::Result<()> {
    for _ in 0..rounds(1, 5) {
        let (cluster, traffic) = chain(4).await?;
        let before = cluster.membership().await?;
        let labels = cluster.validators().await?;
        for label in &labels {
            cluster.confine(label, &["registry"]).await?;
        }
        let loss = Loss::begin(&cluster).await?;
        let words = "they are slow, or cut off from one another. Nothing is recovered";
        wait_for_words(&cluster, RecoveryPhase::Probing, words).await?;
        println!(
            "MEASURED cut off from one another: said after {:.1?}",
            loss.elapsed()
        );
        nothing_happens(&cluster, &before, &labels, words).await?;
        let status = cluster.status().await?;
        ensure!(status.healthy_nodes == 4, "{status:?}");
        let present = cluster.present().await?;
        ensure!(present.len() == 4, "{present:?}");
        let begun = Instant::now();
        for label in &labels {
            cluster.release(label).await?;
        }
        traffic.wait_for_more(1, AGAIN).await?;
        println!(
            "MEASURED they see one another again: blocks after {:.1?}",
            begun.elapsed()
        );
        cluster
            .wait("the words to be gone", AGAIN, |status| {
                ensure!(status.recovery.is_none(), "{:?}", status.recovery);
                Ok(())
            })
            .await?;
        ensure!(cluster.membership().await?.records == before.records);
        well_ended(cluster, traffic).await?;
    }
    Ok(())
}

/// Keys of some members of the epoch in force.
fn keys_of(membership: &MembershipResponse, labels: &[String]) -> Vec<PublicKey> {
    let records = membership.records.iter();
    let members = records
        .filter(|signed| Some(signed.record.number) == membership.epoch)
        .flat_map(|signed| &signed.record.members);
    members
        .filter(|member| labels.iter().any(|label| member.node_id.as_str() == label))
        .map(|member| member.public_key)
        .collect()
}

/// The most survivors of an epoch that the registry shows while something goes on.
async fn most_counted<T>(
    cluster: &DockerCluster,
    epoch: Epoch,
    during: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(usize, T)> {
    let mut during = pin!(during);
    let mut most = 0;
    loop {
        let shown = tokio::select! {
            ended = &mut during => return Ok((most, ended?)),
            shown = cluster.status() => shown?.recovery,
        };
        let shown = shown.filter(|shown| shown.epoch == epoch);
        most = most.max(shown.map_or(0, |shown| shown.survivors));
        // The pause of the poll.
        wait::span(wait::POLL).await;
    }
}

/// One comes back with nothing, the other with its key and without what it signed.
#[tokio::test(flavor = "multi_thread")]
async fn wiped_validators_come_back_as_strangers() -> anyhow::Result<()> {
    let mut dice = Dice::new("wiped");
    for _ in 0..rounds(1, 5) {
        let (cluster, traffic) = chain(4).await?;
        let before = cluster.membership().await?;
        let (wiped, kept) = draw(&cluster, &mut dice, 2).await?;
        let survivors = keys_of(&before, &kept);
        let epoch = before.epoch.context("no epoch")?;
        let loss = Loss::begin(&cluster).await?;
        cluster.stop(&refs(&wiped)).await?;
        cluster.wipe(&wiped[0], &[]).await?;
        cluster.wipe(&wiped[1], &IDENTITY).await?;
        cluster.start_again(&refs(&wiped)).await?;
        let recovery = recovered(&loss, &cluster, "2 of 4 wiped", &wiped, &kept[0], RECOVERED);
        let (most, found) = most_counted(&cluster, epoch, recovery).await?;
        ensure!(most == 2, "{most} were counted as survivors");
        let handover = found.record.handover.context("nothing is handed over")?;
        let mut authors = handover.statements.iter().map(|s| s.statement.author);
        ensure!(
            authors.all(|author| survivors.contains(&author)),
            "{handover:?}, the survivors are {survivors:?}"
        );
        cluster.follow(&traffic).await?;
        traffic.wait_for_more(SOME, AGAIN).await?;
        cluster.nothing_lost(traffic).await?;
        let logs = cluster.end_and_read_logs().await?;
        // Since they came back they signed nothing in the old epoch.
        for label in &wiped {
            let key = cluster.identity(label).await?.public_key;
            let own_log = logs.path().join(cluster.volume(label).await?);
            let votes = checks::votes_of(&own_log, key, epoch)?;
            ensure!(
                votes.is_empty(),
                "{label} voted in epoch {epoch}: {votes:?}"
            );
        }
        cluster.finish().await?;
    }
    Ok(())
}
