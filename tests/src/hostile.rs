//! Four nodes with a genesis of their own, hostile transactions, and honest transfers beside them.

#[path = "../../node/ledger/tests/support/hostile.rs"]
pub mod rows;

use std::{
    collections::VecDeque,
    fs,
    time::{Duration, Instant},
};

use alloy_consensus::{TxEip1559, TxEip7702};
use alloy_primitives::{TxKind, U256, keccak256};
use anyhow::{Context, ensure};
use axolotl_common::{
    Member, PublicKey,
    genesis::{AxolotlGenesis, DEV_BALANCE_HEX, DEV_CHAIN_ID, dev_genesis},
};
use axolotl_node::cli::{
    accounts::{Account, DEV_SECRETS, Signed},
    json_rpc::{JsonRpc, RpcError},
};
use serde_json::{Map, Value, json};
use tokio::{process::Command, sync::watch, task::JoinHandle};

use self::rows::Row;
use crate::{
    Cluster, HandNode, Options, binaries, cluster::CALL, load::FEES, ports::free_port, wait,
};

/// Deadline for four nodes to read a genesis of up to a million slots, and to make the first block.
const READY: Duration = Duration::from_secs(300);
/// Nodes of the chain.
const NODES: usize = 4;
/// Senders of hostile transactions that the genesis gives ether; each sends one.
const SENDERS: u64 = 1_000;
/// Time between two honest transfers.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often receipts of honest transfers are asked for.
const LOOK: Duration = Duration::from_millis(10);
/// Receipts asked for in one request.
const RECEIPTS: usize = 50;

/// What a chain is made of.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Gas of a block.
    pub gas_limit: Option<u64>,
    /// Rules of Osaka and a limit of logs, as new chains have; else those of a chain of an earlier release.
    pub osaka: bool,
    /// Accounts of the genesis beside those of development.
    pub alloc: Map<String, Value>,
}

/// A chain of four processes without a registry.
pub struct Chain {
    cluster: Cluster,
    nodes: Vec<JsonRpc>,
    pids: Vec<u32>,
    senders: u64,
}

impl Chain {
    /// Starts it, and waits until every node answers and blocks are made.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(rules: Rules) -> anyhow::Result<Self> {
        let mut cluster = Cluster::prepare(Options::default()).await?;
        let mut hands = Vec::new();
        let mut members: Vec<Member> = Vec::new();
        let mut peers = Vec::new();
        for n in 1..=NODES {
            let hand = HandNode {
                data: cluster.home().join(format!("node{n}")),
                p2p: free_port()?,
                http: free_port()?,
                rpc: free_port()?,
                env: Vec::new(),
            };
            let (member, peer_id) = make_key(&hand, n).await?;
            peers.push(format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer_id}", hand.p2p));
            members.push(member);
            hands.push(hand);
        }
        let genesis = cluster.home().join("genesis.json");
        fs::write(&genesis, document(&members, rules)?.to_string())?;
        let mut nodes = Vec::new();
        let mut pids = Vec::new();
        for (hand, member) in hands.iter_mut().zip(&members) {
            hand.env = vec![
                ("NODE_ID".to_owned(), member.node_id.to_string()),
                ("GENESIS_FILE".to_owned(), genesis.display().to_string()),
                ("BOOTSTRAP_PEERS".to_owned(), peers.join(",")),
            ];
            pids.push(cluster.start_hand(hand)?);
            let url = format!("http://127.0.0.1:{}", hand.rpc);
            nodes.push(JsonRpc::new(&url, CALL)?);
        }
        for node in &nodes {
            let what = format!("the first block at {}", node.url());
            wait::until(&what, READY, async || {
                let height = node.block_number().await?;
                ensure!(height > 0, "height {height}");
                Ok(())
            })
            .await?;
        }
        // Reading the genesis takes memory that serving the chain does not: peaks count from here.
        for pid in &pids {
            fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        }
        Ok(Self {
            cluster,
            nodes,
            pids,
            senders: 0,
        })
    }

    /// Clients of its nodes.
    pub fn nodes(&self) -> &[JsonRpc] {
        &self.nodes
    }

    /// The transaction of a row, from an account that sends nothing else.
    ///
    /// # Errors
    /// When all accounts have sent.
    pub fn sign(&mut self, row: &Row) -> anyhow::Result<Hostile> {
        let sender = sender(self.senders)?;
        self.senders += 1;
        ensure!(self.senders <= SENDERS, "all senders have sent");
        let transaction = TxEip1559 {
            chain_id: DEV_CHAIN_ID,
            gas_limit: row.gas,
            max_fee_per_gas: FEES.max_fee,
            max_priority_fee_per_gas: FEES.tip,
            to: TxKind::Call(row.address()),
            input: row.input.clone().into(),
            ..TxEip1559::default()
        };
        let signed = if row.authorizations.is_empty() {
            sender.sign(transaction)
        } else {
            sender.sign(TxEip7702 {
                chain_id: DEV_CHAIN_ID,
                gas_limit: row.gas,
                max_fee_per_gas: FEES.max_fee,
                max_priority_fee_per_gas: FEES.tip,
                to: row.address(),
                authorization_list: row.authorizations.clone(),
                ..TxEip7702::default()
            })
        };
        Ok(Hostile {
            name: row.name,
            signed,
        })
    }

    /// The largest peak of a node's memory since the start, bytes.
    ///
    /// # Errors
    /// When a node is gone.
    pub fn peak(&self) -> anyhow::Result<u64> {
        let peaks = self.pids.iter().map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status.context("a node is gone")?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes = line.and_then(|line| line.split_whitespace().next());
            let kilobytes: u64 = kilobytes.context("no VmHWM")?.parse()?;
            anyhow::Ok(kilobytes * 1_024)
        });
        let peaks: Vec<u64> = peaks.collect::<anyhow::Result<_>>()?;
        peaks.into_iter().max().context("no nodes")
    }

    /// Ends a test that went well.
    ///
    /// # Errors
    /// When processes stay.
    pub async fn finish(self) -> anyhow::Result<()> {
        self.cluster.finish().await
    }
}

/// A hostile transaction, signed.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// Its row.
    pub name: &'static str,
    signed: Signed,
}

/// What became of a hostile transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in a block, with so much gas used.
    Included(u64),
    /// The node that builds blocks gave it up, for this reason.
    SetAside(String),
}

impl Hostile {
    /// Hands it in at every node: the one that builds blocks has it for certain.
    ///
    /// # Errors
    /// When a node does not take it.
    pub async fn send(&self, nodes: &[JsonRpc]) -> anyhow::Result<()> {
        for node in nodes {
            match node.send_raw(&self.signed.raw).await {
                Ok(()) => {}
                // It came by gossip, or is in a block already.
                Err(RpcError::Refused { message, .. }) if is_known(&message) => {}
                Err(error) => return Err(error).context(self.name),
            }
        }
        Ok(())
    }

    /// Waits until it is included or set aside.
    ///
    /// # Errors
    /// When it is neither in time.
    pub async fn outcome(&self, nodes: &[JsonRpc], deadline: Duration) -> anyhow::Result<Outcome> {
        let hash = self.signed.hash;
        wait::until(self.name, deadline, async || {
            let method = "eth_getTransactionReceipt";
            if let Some(receipt) = nodes[0].by_hash(method, hash).await? {
                let used: U256 = receipt["gasUsed"].as_str().unwrap_or_default().parse()?;
                return Ok(Outcome::Included(used.to()));
            }
            for node in nodes {
                if let Err(RpcError::Refused { message, .. }) =
                    node.send_raw(&self.signed.raw).await
                {
                    if message.contains("set aside") {
                        return Ok(Outcome::SetAside(message));
                    }
                    ensure!(is_known(&message), "{} refused it: {message}", node.url());
                }
            }
            anyhow::bail!("it waits in the pools")
        })
        .await
    }
}

fn is_known(message: &str) -> bool {
    ["already known", "nonce too low", "set aside"]
        .iter()
        .any(|words| message.contains(words))
}

/// Honest transfers at a steady rate, however long they take to be final.
pub struct Honest {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<Vec<Duration>>>,
}

impl Honest {
    /// Starts them: one account's, at `nodes` in turn, from its nonce on.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn start(nodes: &[JsonRpc], patience: Duration) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let nodes = nodes.to_vec();
        let nonce = nodes[0].nonce(Account::dev(0).address()).await?;
        let task = tokio::spawn(async move { transfers(&nodes, nonce, &stopped, patience).await });
        Ok(Self { stop, task })
    }

    /// Ends them, and gives how long each took from the moment it was due until it was final.
    ///
    /// # Errors
    /// When one is refused, or not final within the patience.
    pub async fn stop(self) -> anyhow::Result<Latencies> {
        self.stop.send_replace(true);
        let mut all = self.task.await??;
        all.sort_unstable();
        ensure!(!all.is_empty(), "no honest transfer");
        Ok(Latencies(all))
    }
}

async fn transfers(
    nodes: &[JsonRpc],
    first: u64,
    stopped: &watch::Receiver<bool>,
    patience: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let account = Account::dev(0);
    let to = Account::dev(DEV_SECRETS.len() - 1).address();
    let mut nonce = first;
    let mut due = Instant::now();
    let mut waiting = VecDeque::new();
    let mut took = Vec::new();
    while !*stopped.borrow() || !waiting.is_empty() {
        if !*stopped.borrow() && due <= Instant::now() {
            let signed = account.transfer(DEV_CHAIN_ID, nonce, to, U256::from(1), FEES);
            let node = &nodes[nonce as usize % nodes.len()];
            let sent = node.send_raw(&signed.raw).await;
            sent.with_context(|| format!("honest transfer {nonce}"))?;
            waiting.push_back((signed.hash, due));
            nonce += 1;
            due += INTERVAL;
        }
        let hashes: Vec<_> = waiting.iter().take(RECEIPTS).map(|(h, _)| *h).collect();
        if !hashes.is_empty() {
            // In the order of their nonces: none is final before the one ahead of it.
            let receipts = nodes[0].receipts(&hashes).await?;
            for receipt in receipts.into_iter().map_while(|receipt| receipt) {
                ensure!(receipt.success, "an honest transfer failed");
                let (_, due) = waiting
                    .pop_front()
                    .context("more receipts than asked for")?;
                took.push(due.elapsed());
            }
        }
        if let Some((hash, due)) = waiting.front() {
            ensure!(
                due.elapsed() < patience,
                "honest transfer {hash} is not final after {patience:?}; {} wait",
                waiting.len()
            );
        }
        wait::span(LOOK).await;
    }
    Ok(took)
}

/// Times until transfers were final, the shortest first.
#[derive(Clone, Debug)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The time that so many of a hundred transfers did not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let place = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0[place]
    }

    /// How many transfers there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// One of the accounts that send hostile transactions.
fn sender(n: u64) -> anyhow::Result<Account> {
    let secret = keccak256(format!("hostile sender {n}"));
    Account::from_secret(&secret.0).context("no key")
}

async fn make_key(hand: &HandNode, n: usize) -> anyhow::Result<(Member, String)> {
    let output = Command::new(binaries::axolotl()?)
        .args(["keys", "init", "--json", "--data-dir"])
        .arg(&hand.data)
        .args(["--node-id", &format!("node{n}")])
        .env_clear()
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "axolotl keys init: {output:?}");
    let key: Value = serde_json::from_str(&text).context("axolotl keys init --json")?;
    let public_key: PublicKey = serde_json::from_value(key["public_key"].clone())?;
    let member = json!({
        "node_id": key["node_id"],
        "public_key": key["public_key"],
        "volume_id": key["volume_id"],
    });
    Ok((serde_json::from_value(member)?, public_key.peer_id()))
}

fn document(members: &[Member], rules: Rules) -> anyhow::Result<Value> {
    let axolotl: AxolotlGenesis = serde_json::from_value(json!({ "validators": members }))?;
    let mut document = dev_genesis(&axolotl, 1);
    if !rules.osaka {
        remove(&mut document["config"], "osakaTime");
        remove(&mut document["axolotl"], "maxLogBytes");
    }
    if let Some(gas_limit) = rules.gas_limit {
        document["gasLimit"] = gas_limit.into();
    }
    let alloc = document["alloc"].as_object_mut().context("no alloc")?;
    alloc.extend(rules.alloc);
    for n in 0..SENDERS {
        let address = sender(n)?.address().to_string();
        alloc.insert(address, json!({ "balance": DEV_BALANCE_HEX }));
    }
    Ok(document)
}

fn remove(object: &mut Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(field);
    }
}
