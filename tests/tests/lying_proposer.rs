//! One of four validators lies whenever it proposes: the three others, real processes, go on and show it.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::PoisonError,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use axolotl_common::{
    KeyPair, Member, NodeId, PublicKey, VolumeId,
    genesis::{AxolotlGenesis, GenesisDocument, dev_genesis},
};
use axolotl_node::cli::json_rpc::JsonRpc;
use axolotl_tests::{
    Cluster, HandNode, Load, Options, binaries, checks,
    liar::{Liar, Lie},
    wait,
};
use serde_json::json;

const HONEST: u64 = 3;
/// The turn passes on every few blocks, so that the liar proposes often.
const TERM: u64 = 2;
/// As much as chains of earlier releases allow: seconds of hashing in one block.
const GAS_LIMIT: u64 = 300_000_000;
/// Patience for each of the honest to have seen each lie.
const SHOWN: Duration = Duration::from_secs(120);
/// Patience for further transfers while the liar goes on.
const FINAL: Duration = Duration::from_secs(60);
const MORE_TRANSFERS: usize = 30;
/// What no node's memory may pass, kB.
const MEMORY_KB: u64 = 300_000;
/// Accounts that honest transfers come from.
const SENDERS: usize = 3;
/// Patience for a JSON-RPC call.
const CALL: Duration = Duration::from_secs(5);

/// Makes a node's data directory, and gives it as the genesis names it.
fn member(node: &HandNode, number: u64) -> anyhow::Result<Member> {
    let node_id = NodeId::numbered(number);
    let output = Command::new(binaries::axolotl()?)
        .args(["keys", "init", "--json", "--node-id", node_id.as_str()])
        .env("DATA_DIR", &node.data)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(Member {
        node_id,
        public_key: serde_json::from_value(shown["public_key"].clone())?,
        volume_id: serde_json::from_value(shown["volume_id"].clone())?,
    })
}

/// A genesis in which the liar, who is named first, proposes the first block.
fn genesis(validators: &[Member]) -> anyhow::Result<serde_json::Value> {
    let axolotl = json!({ "validators": validators, "leaderTermBlocks": TERM });
    let axolotl: AxolotlGenesis = serde_json::from_value(axolotl)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut value = dev_genesis(&axolotl, now);
    value["gasLimit"] = format!("{GAS_LIMIT:#x}").into();
    Ok(value)
}

fn peak_memory_kb(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.split_whitespace().next());
    Ok(kb.context("no VmHWM")?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_go_on_and_show_a_proposer_that_lies() -> anyhow::Result<()> {
    let mut cluster = Cluster::prepare(Options::default()).await?;
    let liar_key = KeyPair::from_seed(&[7; 32]);
    let mut validators = vec![Member {
        node_id: NodeId::numbered(HONEST + 1),
        public_key: liar_key.public(),
        volume_id: VolumeId([7; 16]),
    }];
    let mut nodes = Vec::new();
    let mut addresses = BTreeMap::<PublicKey, Vec<String>>::new();
    for number in 1..=HONEST {
        let mut node = cluster.hand(&format!("node{number}"))?;
        let member = member(&node, number)?;
        let address = format!("/ip4/127.0.0.1/tcp/{}", node.p2p);
        addresses.insert(member.public_key, vec![address]);
        node.env = vec![("NODE_ID".to_owned(), member.node_id.to_string())];
        validators.push(member);
        nodes.push(node);
    }
    let genesis = genesis(&validators)?;
    let path = cluster.home().join("genesis.json");
    std::fs::write(&path, genesis.to_string())?;
    let with_ids = |(key, known): (&PublicKey, &Vec<String>)| {
        let known = known.first()?;
        Some(format!("{known}/p2p/{}", key.peer_id()))
    };
    let bootstrap: Vec<String> = addresses.iter().filter_map(with_ids).collect();
    let mut pids = Vec::new();
    for node in &mut nodes {
        let more = [
            ("GENESIS_FILE", path.display().to_string()),
            ("BOOTSTRAP_PEERS", bootstrap.join(",")),
        ];
        node.env
            .extend(more.map(|(name, value)| (name.to_owned(), value)));
        pids.push(cluster.start_hand(node)?);
    }
    let rpc = |node: &HandNode| JsonRpc::new(&format!("http://127.0.0.1:{}", node.rpc), CALL);
    let rpcs: Vec<JsonRpc> = nodes.iter().map(rpc).collect::<Result<_, _>>()?;
    for rpc in &rpcs {
        let what = format!("an answer of {}", rpc.url());
        wait::until(&what, FINAL, async || Ok(rpc.block_number().await?)).await?;
    }

    let document = GenesisDocument::from_value(genesis)?;
    let liar = Liar::start(liar_key.clone(), document, addresses, rpcs[0].clone()).await?;
    let told = liar.told();
    let lying = tokio::spawn(liar.run());
    let load = Load::start(&rpcs, SENDERS).await?;

    let liar_key = liar_key.public();
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(CALL)
        .build()?;
    for node in &nodes {
        let url = format!("http://127.0.0.1:{}/status", node.http);
        wait::until(&format!("the liar at {url}"), SHOWN, async || {
            let told = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
            ensure!(!lying.is_finished(), "the liar has ended");
            let status = cluster.own_status_at(&url).await?;
            let mut reports = status.proposal_faults.iter();
            let faults = reports.find(|report| report.validator == liar_key);
            let shown = faults.is_some_and(|faults| faults.invalid > 0 && faults.not_in_time > 0);
            ensure!(
                shown && status.misbehaving == [liar_key] && told.len() == Lie::ALL.len(),
                "told {told:?}; {status:?}"
            );
            Ok(())
        })
        .await?;
        let url = format!("http://127.0.0.1:{}/metrics", node.http);
        let metrics = http.get(&url).send().await?.text().await?;
        for fault in ["invalid", "not_in_time"] {
            let line = format!(
                "axolotl_consensus_proposal_faults_total{{validator=\"{liar_key}\",fault=\"{fault}\"}} "
            );
            ensure!(metrics.contains(&line), "no {line:?} in {metrics}");
        }
    }
    load.wait_for_more(MORE_TRANSFERS, FINAL).await?;
    ensure!(!lying.is_finished(), "the liar has ended");
    lying.abort();
    let acknowledged = load.stop().await?;
    checks::all_present(&rpcs, &acknowledged).await?;
    checks::same_chain(&rpcs).await?;
    for (node, pid) in nodes.iter().zip(pids) {
        let kb = peak_memory_kb(pid)?;
        println!("{}: {kb} kB at most", node.data.display());
        ensure!(kb < MEMORY_KB, "{} took {kb} kB", node.data.display());
    }
    println!(
        "told {:?}",
        told.lock().unwrap_or_else(PoisonError::into_inner)
    );
    cluster.finish().await
}
