//! What never happens by itself after the loss of a quorum, and what an operator's word then does.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use axolotl_common::{
    ChainId, ChainRef, Epoch, Height, PublicKey, SignedRecord,
    membership::RecordKind,
    registry_api::{Accepted, MembershipResponse, RecoveryPhase, StatusResponse},
};
use axolotl_node::cli::json_rpc::JsonRpc;
use axolotl_tests::{
    Cluster, Load, checks,
    cluster::{CALL, START},
    files::copy_tree,
    limit,
    loss::{self, AGAIN, Timeline, words},
    processes::{self, Signal},
    wait,
};
use serde_json::{Value, json};

/// A request that must be refused: its body, the status, and words of the reason.
type Refused<'a> = (Value, u16, &'a str);

async fn refuses(cluster: &Cluster, requests: &[Refused<'_>]) -> anyhow::Result<()> {
    let token = cluster.admin_token()?;
    for (body, code, reason) in requests {
        let (status, why) = cluster.refused("/recover", body, Some(&token)).await?;
        ensure!(
            status == *code && why.contains(reason),
            "{body} was refused with {status}: {why}"
        );
    }
    Ok(())
}

/// Waits until `/status` shows a recovery that waits, with these words in it.
async fn waits_for(cluster: &Cluster, reason: &str) -> anyhow::Result<StatusResponse> {
    wait::until(&format!("{reason:?}"), AGAIN, async || {
        let status: StatusResponse = cluster.get("/status").await?;
        let recovery = status.recovery.as_ref().context("nothing is said")?;
        ensure!(
            recovery.phase == RecoveryPhase::Waiting && recovery.summary.contains(reason),
            "{}",
            words(&status)
        );
        Ok(status)
    })
    .await
}

/// The forced record of this number, and its hash as nodes tell it.
async fn forced(cluster: &Cluster, number: Epoch) -> anyhow::Result<(SignedRecord, String)> {
    let membership: MembershipResponse = cluster.get("/membership").await?;
    let chain = ChainRef {
        id: ChainId(membership.chain_id.context("no chain")?),
        genesis: membership.genesis_hash.context("no genesis")?,
    };
    let mut records = membership.records.into_iter();
    let record = records.find(|signed| signed.record.number == number);
    let record = record.with_context(|| format!("no record {number}"))?;
    ensure!(record.record.kind == RecordKind::Forced, "{record:?}");
    let hash = serde_json::to_value(record.record.hash(&chain))?;
    let hash = hash.as_str().context("a hash is text")?.to_owned();
    Ok((record, hash))
}

/// Waits until a node is in this epoch by this record.
async fn follows(node: &JsonRpc, epoch: Epoch, hash: &str) -> anyhow::Result<()> {
    let what = format!("epoch {epoch} at {}", node.url());
    wait::until(&what, AGAIN, async || {
        let now = node.call("axolotl_getMembership", json!([])).await?;
        ensure!(
            now["epoch"] == json!(epoch) && now["record_hash"] == json!(hash),
            "{now}"
        );
        Ok(())
    })
    .await
}

/// Authors of the statements that a record rests on.
fn authors(record: &SignedRecord) -> Vec<PublicKey> {
    let statements = record.record.handover.iter().flat_map(|h| &h.statements);
    statements.map(|signed| signed.statement.author).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_of_four_gone_for_good_wait_for_the_operators_word() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let validators = cluster.validators().await?;
    let (here, gone) = (&validators[..1], &validators[1..]);
    let (survivor, key) = (cluster.rpc(&here[0])?, cluster.key_of(&here[0])?);
    // Only what the survivor knows of is sure to be kept.
    let traffic = Load::start(std::slice::from_ref(&survivor), 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    let before: MembershipResponse = cluster.get("/membership").await?;
    let epoch = before.epoch.context("no epoch")?;
    let loss = json!({ "epoch": epoch, "accept_data_loss": true });
    let lives = (loss.clone(), 409, "are alive and unsealed, 3 make a quorum");
    refuses(&cluster, &[lives]).await?;

    let mut timeline = loss::take_away(&mut cluster, gone).await?;
    waits_for(&cluster, "1 more").await?;
    // Longer than any veto: nothing may be sealed or signed in it.
    wait::span(Duration::from_secs(20)).await;
    loss::nothing_done(&cluster, before.records.len(), here).await?;
    for token in [None, Some("guessed")] {
        let (status, why) = cluster.refused("/recover", &loss, token).await?;
        ensure!(status == 401 && why.contains("token"), "{status}: {why}");
    }
    let both = json!({ "epoch": epoch, "accept_data_loss": true, "take_over": true });
    refuses(
        &cluster,
        &[
            (json!({ "epoch": epoch }), 422, "one thing"),
            (both, 422, "one thing"),
            (
                json!({ "epoch": 7, "accept_data_loss": true }),
                409,
                "is in force, not 7",
            ),
            (
                json!({ "epoch": epoch, "take_over": true }),
                409,
                "nothing to take over",
            ),
        ],
    )
    .await?;
    loss::nothing_done(&cluster, before.records.len(), here).await?;

    timeline.note("the operator speaks");
    let taken: Accepted = cluster.post("/recover", &loss).await?;
    ensure!(
        taken.message.contains("accepts a loss of data"),
        "{taken:?}"
    );
    loss::recovered(&cluster, gone, 4, &mut timeline).await?;
    loss::blocks_again(&mut cluster, &traffic).await?;
    timeline.note("acknowledged");
    println!("MEASURED three of four gone for good: {}", timeline.text());
    let number = Epoch(epoch.0 + 1);
    let (record, hash) = forced(&cluster, number).await?;
    ensure!(authors(&record) == [key], "{record:?}");
    follows(&survivor, number, &hash).await?;

    // Whoever comes later sees it as well.
    let mut late = cluster.hand("late")?;
    late.env.push(("ROLE".to_owned(), "observer".to_owned()));
    cluster.start_hand(&late)?;
    let late = JsonRpc::new(&format!("http://127.0.0.1:{}", late.rpc), CALL)?;
    follows(&late, number, &hash).await?;
    let again = json!({ "epoch": number, "accept_data_loss": true });
    refuses(&cluster, &[(again, 409, "are alive and unsealed")]).await?;
    let acknowledged = traffic.stop().await?;
    let mut clients = cluster.voters().await?;
    clients.push(late);
    checks::all_present(&clients, &acknowledged).await?;
    checks::same_chain(&clients).await?;
    forced(&cluster, number).await?;
    loss::finish(cluster).await
}

/// Two validators are lost for good and replaced by a recovery.
async fn lose_two(cluster: &mut Cluster, traffic: &Load) -> anyhow::Result<()> {
    let gone = cluster.validators().await?[1..=2].to_vec();
    let mut timeline = loss::take_away(cluster, &gone).await?;
    loss::recovered(cluster, &gone, 4, &mut timeline).await?;
    loss::blocks_again(cluster, traffic).await
}

/// One validator is stopped and replaced by a planned record.
async fn replace_one(cluster: &mut Cluster, traffic: &Load) -> anyhow::Result<()> {
    cluster.refresh().await?;
    let gone = vec![cluster.validators().await?[1].clone()];
    processes::signal(cluster.pid(&gone[0])?, Signal::TERM)?;
    loss::recovered(cluster, &gone, 4, &mut Timeline::begin()).await?;
    loss::blocks_again(cluster, traffic).await
}

/// What comes between the copy of a store and the day when it is put back, beside a start of the registry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    Recovery,
    Change,
}

/// A registry whose store was put back to a copy.
async fn on_an_older_store(meanwhile: Meanwhile) -> anyhow::Result<(Cluster, Load)> {
    let mut cluster = Cluster::start(4).await?;
    let traffic = Load::start(&cluster.rpcs()?, 2).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    let over = (
        json!({ "epoch": 0, "take_over": true }),
        409,
        "refused by nobody",
    );
    let this = &cluster;
    wait::until("all to have met the registry", AGAIN, async || {
        refuses(this, std::slice::from_ref(&over)).await
    })
    .await?;
    cluster.kill_registry().await?;
    let (store, copy) = (
        cluster.registry_data().join("store"),
        cluster.home().join("copy"),
    );
    copy_tree(&store, &copy)?;
    cluster.restart_registry().await?;
    cluster.wait_healthy(4, START).await?;
    let this = &cluster;
    wait::until("all to have met the next start", AGAIN, async || {
        refuses(this, std::slice::from_ref(&over)).await
    })
    .await?;
    match meanwhile {
        Meanwhile::Nothing => {}
        Meanwhile::Recovery => lose_two(&mut cluster, &traffic).await?,
        Meanwhile::Change => replace_one(&mut cluster, &traffic).await?,
    }
    cluster.kill_registry().await?;
    fs::remove_dir_all(&store)?;
    fs::rename(&copy, &store)?;
    cluster.restart_registry().await?;
    Ok((cluster, traffic))
}

/// The registry says that it is refused, and what to do.
async fn says_so(cluster: &Cluster) -> anyhow::Result<()> {
    let status = waits_for(cluster, "this registry is refused").await?;
    let advice = status.recovery.and_then(|recovery| recovery.advice);
    let said = |warning: &String| warning.contains("is refused");
    ensure!(
        advice.is_some_and(|advice| advice.contains("take_over"))
            && status.warnings.iter().any(said),
        "{:?}",
        status.warnings
    );
    Ok(())
}

/// A validator crashes, and a registry that is refused neither replaces nor starts it.
async fn does_nothing(cluster: &mut Cluster, traffic: &Load) -> anyhow::Result<String> {
    let before: MembershipResponse = cluster.get("/membership").await?;
    let running = cluster.node_processes();
    let validators = cluster.validators().await?;
    let victim = validators.last().context("nobody votes")?.clone();
    let process = running.get(&victim).context("it does not run")?;
    processes::kill(process.pid).await?;
    traffic.wait_for_more(10, AGAIN).await?;
    // Longer than it takes to replace a node, or to start it again.
    wait::span(Duration::from_secs(20)).await;
    let after: MembershipResponse = cluster.get("/membership").await?;
    ensure!(
        after.records.len() == before.records.len() && after.pending.is_none(),
        "a record was signed: {after:?}"
    );
    let now = cluster.node_processes();
    let expected: Vec<&String> = running.keys().filter(|label| **label != victim).collect();
    ensure!(
        now.keys().collect::<Vec<_>>() == expected,
        "{:?}",
        now.keys()
    );
    traffic.wait_for_more(10, AGAIN).await?;
    Ok(victim)
}

/// The operator's word; waits until all four validators vote again.
async fn take_over(cluster: &mut Cluster, epoch: Epoch) -> anyhow::Result<()> {
    let this = &*cluster;
    let body = json!({ "epoch": epoch, "take_over": true });
    let mut timeline = Timeline::begin();
    // The answers of a node that was silent come with its next stream.
    let taken: Accepted = wait::until("the word to be taken", AGAIN, async || {
        this.post("/recover", &body).await
    })
    .await?;
    ensure!(taken.message.contains("take over"), "{taken:?}");
    loss::recovered(cluster, &[], 4, &mut timeline).await?;
    println!("MEASURED taken over: {}", timeline.text());
    let this = &*cluster;
    wait::until("nothing left to say", limit(AGAIN), async || {
        let status: StatusResponse = this.get("/status").await?;
        ensure!(status.recovery.is_none(), "{}", words(&status));
        ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_an_older_store_acts_again_after_a_take_over() -> anyhow::Result<()> {
    let (mut cluster, traffic) = on_an_older_store(Meanwhile::Nothing).await?;
    says_so(&cluster).await?;
    let victim = does_nothing(&mut cluster, &traffic).await?;
    // Two of four answer: too few for a take-over.
    cluster.refresh().await?;
    let others: Vec<String> = cluster.validators().await?;
    let silent = others.iter().find(|label| **label != victim);
    let silent = silent.context("nobody else votes")?.clone();
    cluster.pause(&silent)?;
    let few = (
        json!({ "epoch": 0, "take_over": true }),
        409,
        "needs the answers of 3 of 4 validators and has 2",
    );
    let this = &cluster;
    wait::until("the registry to miss it", AGAIN, async || {
        let status: StatusResponse = this.get("/status").await?;
        let recovery = status.recovery.as_ref().context("nothing is said")?;
        ensure!(recovery.survivors == 2, "{recovery:?}");
        Ok(())
    })
    .await?;
    refuses(&cluster, &[few]).await?;
    cluster.resume(&silent)?;
    let other = (
        json!({ "epoch": 3, "take_over": true }),
        409,
        "is in force, not 3",
    );
    refuses(&cluster, &[other]).await?;
    take_over(&mut cluster, Epoch(0)).await?;

    // It acts: who is stopped is replaced.
    replace_one(&mut cluster, &traffic).await?;
    loss::nothing_lost(&mut cluster, traffic).await?;
    loss::finish(cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_a_store_from_before_a_recovery_learns_of_it() -> anyhow::Result<()> {
    let (mut cluster, traffic) = on_an_older_store(Meanwhile::Recovery).await?;
    says_so(&cluster).await?;
    let this = &cluster;
    wait::until("the record of the recovery", AGAIN, async || {
        let now: MembershipResponse = this.get("/membership").await?;
        ensure!(
            now.epoch == Some(Epoch(1)) && now.records.len() == 2,
            "{now:?}"
        );
        Ok(())
    })
    .await?;
    does_nothing(&mut cluster, &traffic).await?;
    take_over(&mut cluster, Epoch(1)).await?;
    replace_one(&mut cluster, &traffic).await?;
    let head = cluster.voters().await?[0].block_number().await?;
    let now: MembershipResponse = cluster.get("/membership").await?;
    let numbers: Vec<Epoch> = now
        .records
        .iter()
        .map(|signed| signed.record.number)
        .collect();
    ensure!(
        numbers == [Epoch(2), Epoch(1), Epoch(0)],
        "{numbers:?} at {}",
        Height(head)
    );
    loss::nothing_lost(&mut cluster, traffic).await?;
    loss::finish(cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_a_store_from_before_a_planned_change_takes_over_nothing()
-> anyhow::Result<()> {
    let (mut cluster, traffic) = on_an_older_store(Meanwhile::Change).await?;
    let this = &cluster;
    wait::until("words about it", AGAIN, async || {
        let status: StatusResponse = this.get("/status").await?;
        let said = |warning: &String| warning.contains("its store is older than the chain");
        ensure!(status.warnings.iter().any(said), "{:?}", status.warnings);
        Ok(())
    })
    .await?;
    let over = json!({ "epoch": 0, "take_over": true });
    refuses(&cluster, &[(over, 409, "restore the newest back-up")]).await?;
    does_nothing(&mut cluster, &traffic).await?;
    let acknowledged = traffic.stop().await?;
    let running = cluster.node_processes();
    let ports = running
        .values()
        .filter_map(|node| node.variable("RPC_PORT"));
    let mut clients = Vec::new();
    for port in ports {
        let client = JsonRpc::new(&format!("http://127.0.0.1:{port}"), CALL)?;
        // What the refused registry started itself is admitted by nobody, and has no block.
        if client.block_number().await? > 0 {
            clients.push(client);
        }
    }
    ensure!(clients.len() >= 3, "{} nodes have blocks", clients.len());
    checks::all_present(&clients, &acknowledged).await?;
    checks::same_chain(&clients).await?;
    // What this store never made it does not stop either.
    let unknown = running.get("node5").context("node5 does not run")?;
    processes::signal(unknown.pid, Signal::TERM)?;
    processes::wait_gone(unknown.pid).await?;
    loss::finish(cluster).await
}
