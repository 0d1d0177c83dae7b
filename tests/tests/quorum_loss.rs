//! The loss of a quorum, on local processes: what recovers by itself, and what does not.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use axolotl_common::{
    Epoch, SignedRecord,
    registry_api::{
        Accepted, EventKind, MembershipResponse, RecoveryPhase, RecoveryStatus, StatusResponse,
    },
};
use axolotl_tests::{
    Cluster, Dice, Hands, Load, checks, limit,
    loss::{self, AGAIN, RECOVERED, Timeline, words},
    membership::median,
    rounds, soak, wait,
};
use serde_json::json;

/// Blocks come back within this once a quorum of stopped validators is started again.
const BACK: Duration = Duration::from_secs(10);
/// An undisturbed recovery, from the loss to the record: kills come within it.
const WITHIN: Duration = Duration::from_millis(15_500);

/// `lost` of `n` validators end at once, their volumes with them. Returns when blocks came again.
async fn lose_once(n: usize, lost: usize) -> anyhow::Result<Duration> {
    let mut cluster = Cluster::start(n).await?;
    let traffic = Load::start(&cluster.rpcs()?, 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    let gone: Vec<String> = cluster.validators().await?[1..=lost].to_vec();
    let mut timeline = loss::take_away(&mut cluster, &gone).await?;
    loss::recovered(&cluster, &gone, n, &mut timeline).await?;
    loss::blocks_again(&mut cluster, &traffic).await?;
    timeline.note("acknowledged");
    let took = timeline.elapsed();
    println!(
        "MEASURED {lost} of {n} gone for good: blocks again after {took:.1?}: {}",
        timeline.text()
    );
    for line in loss::told(&cluster).await? {
        println!("{line}");
    }
    loss::nothing_lost(&mut cluster, traffic).await?;
    loss::finish(cluster).await?;
    Ok(took)
}

async fn lose_for_good(n: usize, lost: usize) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..rounds(1, 5) {
        times.push(lose_once(n, lost).await?);
    }
    let median = median(&mut times);
    println!("MEASURED {lost} of {n} gone for good: median {median:.1?} of {times:.1?}");
    Ok(())
}

/// Lets a silent node speak again; once it is replaced it is removed in time, and may be gone.
fn resume(cluster: &Cluster, label: &str) {
    if let Err(error) = cluster.resume(label) {
        println!("{label}: {error:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_four_gone_for_good() -> anyhow::Result<()> {
    lose_for_good(4, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_five_gone_for_good() -> anyhow::Result<()> {
    lose_for_good(5, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn four_of_seven_gone_for_good() -> anyhow::Result<()> {
    lose_for_good(7, 4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_ones_come_back_to_a_chain_that_went_on_without_them() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    let gone: Vec<String> = cluster.validators().await?[1..=2].to_vec();
    cluster.refresh().await?;
    for label in &gone {
        cluster.pause(label)?;
    }
    loss::recovered(&cluster, &gone, 4, &mut Timeline::begin()).await?;
    loss::blocks_again(&mut cluster, &traffic).await?;
    for label in &gone {
        resume(&cluster, label);
    }
    // What they still had to say counts for nothing.
    traffic.wait_for_more(10, AGAIN).await?;
    let now = cluster.validators().await?;
    ensure!(!gone.iter().any(|label| now.contains(label)), "{now:?}");
    loss::nothing_lost(&mut cluster, traffic).await?;
    loss::finish(cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_of_four_gone_wait_for_their_volumes() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    let before: MembershipResponse = cluster.get("/membership").await?;
    let validators = cluster.validators().await?;
    let (here, gone) = (&validators[..1], &validators[1..]);
    cluster.refresh().await?;
    for label in gone {
        cluster.pause(label)?;
    }
    let this = &cluster;
    wait::until("words about what is missing", AGAIN, async || {
        let status: StatusResponse = this.get("/status").await?;
        let recovery = status.recovery.as_ref().context("nothing is said")?;
        ensure!(
            recovery.phase == RecoveryPhase::Waiting
                && (recovery.survivors, recovery.needed) == (1, 2)
                && recovery.summary.contains("1 more"),
            "{}",
            words(&status)
        );
        Ok(())
    })
    .await?;
    // Longer than any veto: nothing may be sealed or signed in it.
    wait::span(Duration::from_secs(20)).await;
    loss::nothing_done(&cluster, before.records.len(), here).await?;
    for label in &gone[..2] {
        cluster.resume(label)?;
    }
    let begun = Instant::now();
    traffic
        .wait_for_more(5, limit(Duration::from_secs(15)))
        .await?;
    println!(
        "MEASURED a quorum is back: blocks after {:.1?}",
        begun.elapsed()
    );
    let acknowledged = traffic.stop().await?;
    resume(&cluster, &gone[2]);
    let clients = cluster.voters().await?;
    checks::all_present(&clients, &acknowledged).await?;
    loss::finish(cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_four_stopped_for_a_while_and_nobody_seals_in_vain() -> anyhow::Result<()> {
    let mut hands = Hands::start(4).await?;
    let traffic = Load::start(&hands.cluster.rpcs()?, 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    let before: MembershipResponse = hands.cluster.get("/membership").await?;
    let validators = hands.cluster.validators().await?;
    let (gone, here) = validators.split_at(2);
    for label in gone {
        hands.stop(label).await?;
    }
    // How long they are away is what is tested: rounds fail one after the other all the while.
    wait::span(Duration::from_secs(if soak() { 600 } else { 60 })).await;
    let status: StatusResponse = hands.cluster.get("/status").await?;
    let recovery = status.recovery.as_ref().context("nothing is said")?;
    ensure!(
        recovery.survivors == 2 && recovery.summary.contains("replacements"),
        "{}",
        words(&status)
    );
    loss::nothing_done(&hands.cluster, before.records.len(), here).await?;
    let events = hands.cluster.events().await?.into_iter();
    let decided = events.filter(|event| event.kind == EventKind::Decision);
    let decided: Vec<String> = decided.map(|event| event.message).collect();
    ensure!(
        decided.len() < 20,
        "nothing new is told again and again: {decided:?}"
    );
    let round = hands.cluster.own_status(&here[0]).await?.round;
    let begun = Instant::now();
    for label in gone {
        hands.run(label)?;
    }
    let head = hands.cluster.rpc(&here[0])?;
    let height = head.block_number().await?;
    wait::until("the next block", limit(BACK), async || {
        let now = head.block_number().await?;
        ensure!(now > height, "height {now}");
        Ok(())
    })
    .await?;
    println!(
        "MEASURED two of four started again in round {round}: a block after {:.1?}",
        begun.elapsed()
    );
    traffic.wait_for_more(10, AGAIN).await?;
    loss::nothing_done(&hands.cluster, before.records.len(), here).await?;
    hands.cluster.wait_healthy(4, AGAIN).await?;
    loss::nothing_lost(&mut hands.cluster, traffic).await?;
    loss::finish(hands.cluster).await
}

/// The records that nodes and registry hold: one for each number, the same one at everybody, for ever.
async fn one_record_per_number(
    cluster: &mut Cluster,
    known: &mut BTreeMap<Epoch, SignedRecord>,
) -> anyhow::Result<()> {
    let membership: MembershipResponse = cluster.get("/membership").await?;
    let epoch = membership.epoch.context("no epoch")?;
    for signed in membership.records {
        let number = signed.record.number;
        let first = known.entry(number).or_insert_with(|| signed.clone());
        ensure!(
            *first == signed,
            "two records {number}: {first:?}, {signed:?}"
        );
    }
    let members = known.get(&epoch).map(|signed| &signed.record.members);
    for node in cluster.voters().await? {
        let now = node.call("axolotl_getMembership", json!([])).await?;
        ensure!(
            now["epoch"] == json!(epoch) && now["validators"] == json!(members),
            "{} says {now}, epoch {epoch} has {members:?}",
            node.url()
        );
    }
    for number in known.keys() {
        let said = format!(" epoch {number}: ");
        let told = loss::told(cluster).await?.into_iter();
        let signed: Vec<String> = told
            .filter(|line| line.contains(&said) && line.ends_with("the record is signed"))
            .collect();
        ensure!(signed.len() <= 1, "{signed:?}");
    }
    Ok(())
}

/// Waits until the recovery is through. A start of the registry that no quorum has met, and whose store
/// holds no intent, asks for the operator's word: it is given. Returns whether it was.
async fn recovered_or_allowed(
    cluster: &Cluster,
    gone: &[String],
    timeline: &mut Timeline,
) -> anyhow::Result<bool> {
    let asked = wait::until("a recovery, or a question", limit(RECOVERED), async || {
        let status: StatusResponse = cluster.get("/status").await?;
        let unmet = |recovery: &RecoveryStatus| {
            recovery.phase == RecoveryPhase::Waiting
                && recovery
                    .summary
                    .contains("have met this start of the registry")
        };
        if let Some(recovery) = status.recovery.as_ref().filter(|recovery| unmet(recovery)) {
            return Ok(Some(recovery.epoch));
        }
        let now = cluster.validators().await?;
        let through = !gone.iter().any(|label| now.contains(label));
        ensure!(through, "{now:?}; {}", words(&status));
        Ok(None)
    })
    .await?;
    if let Some(epoch) = asked {
        timeline.note("the operator is asked");
        let body = json!({ "epoch": epoch, "accept_data_loss": true });
        let _: Accepted = cluster.post("/recover", &body).await?;
    }
    loss::recovered(cluster, gone, 4, timeline).await?;
    Ok(asked.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_within_a_recovery_make_one_record_each() -> anyhow::Result<()> {
    let mut dice = Dice::new("kills_within_a_recovery_make_one_record_each");
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 2).await?;
    let mut known = BTreeMap::new();
    let (mut times, mut asked) = (Vec::new(), 0);
    for round in 0..rounds(2, 20) {
        traffic.wait_for_more(10, AGAIN).await?;
        let mut labels = cluster.validators().await?;
        dice.shuffle(&mut labels);
        let (gone, here) = labels.split_at(2);
        let mut timeline = loss::take_away(&mut cluster, gone).await?;
        let moment = dice.moment(WITHIN);
        wait::span(moment.saturating_sub(timeline.elapsed())).await;
        let whom = match dice.below(2) {
            0 => {
                cluster.kill_registry().await?;
                cluster.restart_registry().await?;
                "the registry"
            }
            _ => {
                cluster.kill(&here[0]).await?;
                &here[0]
            }
        };
        timeline.note(&format!("{whom} was killed"));
        asked += usize::from(recovered_or_allowed(&cluster, gone, &mut timeline).await?);
        loss::blocks_again(&mut cluster, &traffic).await?;
        timeline.note("acknowledged");
        println!("round {round}, {gone:?} gone: {}", timeline.text());
        times.push(timeline.elapsed());
        one_record_per_number(&mut cluster, &mut known).await?;
    }
    let median = median(&mut times);
    println!(
        "MEASURED a kill within a recovery: median {median:.1?} of {times:.1?}; {asked} of {} asked the \
         operator",
        times.len()
    );
    loss::nothing_lost(&mut cluster, traffic).await?;
    loss::finish(cluster).await
}
