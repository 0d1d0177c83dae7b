//! A transaction whose hash a node gave is mined, whatever ends the processes before.

use std::time::Duration;

use alloy_primitives::{B256, U256};
use anyhow::{Context, ensure};
use axolotl_node::cli::{
    accounts::{Account, Signed},
    json_rpc::JsonRpc,
};
use axolotl_tests::{Cluster, checks, cluster::START, load::FEES, processes, wait};

/// Deadline for accepted transactions to be mined, or known again, once the nodes are back.
const AGAIN: Duration = Duration::from_secs(60);
/// Transactions that a node has just accepted when it is killed.
const BURST: u64 = 20;

fn transfer(chain_id: u64, from: usize, nonce: u64) -> Signed {
    let to = Account::dev(9).address();
    Account::dev(from).transfer(chain_id, nonce, to, U256::from(1), FEES)
}

/// Hands a transaction in; gives its hash once the node has given it.
async fn accept(node: &JsonRpc, signed: &Signed) -> anyhow::Result<B256> {
    let sent = node.send_raw(&signed.raw).await;
    sent.with_context(|| format!("{} refused {}", node.url(), signed.hash))?;
    Ok(signed.hash)
}

/// Every one of them is in a block, and succeeded.
async fn all_mined(node: &JsonRpc, accepted: &[B256]) -> anyhow::Result<()> {
    wait::until("accepted transactions to be mined", AGAIN, async || {
        for (hash, receipt) in accepted.iter().zip(node.receipts(accepted).await?) {
            let receipt = receipt.with_context(|| format!("no receipt of {hash} yet"))?;
            ensure!(receipt.success, "{hash} failed");
        }
        Ok(())
    })
    .await
}

/// A node knows every one of them: in its pool, or in a block.
async fn all_known(node: &JsonRpc, accepted: &[B256]) -> anyhow::Result<()> {
    let what = format!("accepted transactions to be known to {}", node.url());
    wait::until(&what, AGAIN, async || {
        for hash in accepted {
            let known = node.by_hash("eth_getTransactionByHash", *hash).await?;
            ensure!(known.is_some(), "{hash} is unknown");
        }
        Ok(())
    })
    .await
}

/// How all nodes end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Everything is stopped, and started again.
    Orderly,
    /// All nodes are killed (-9); the registry starts them again.
    Killed,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_ahead_outlives_the_end_of_all_nodes() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let chain_id = cluster.rpcs()?[0].chain_id().await?;
    let mut nonce = 0;
    for end in [End::Orderly, End::Killed] {
        // At each node one that no block can take yet.
        let mut accepted = Vec::new();
        for (from, node) in cluster.rpcs()?.iter().enumerate() {
            accepted.push(accept(node, &transfer(chain_id, from, nonce + 1)).await?);
        }
        match end {
            End::Orderly => {
                cluster.stop().await?;
                cluster.start_registry()?;
            }
            End::Killed => {
                for label in cluster.labels()? {
                    processes::kill(cluster.pid(&label)?).await?;
                }
            }
        }
        cluster.wait_healthy(4, START).await?;
        let nodes = cluster.rpcs()?;
        for node in &nodes {
            let known = all_known(node, &accepted).await;
            known.with_context(|| format!("after {end:?}"))?;
        }
        // What they wait for is handed to another node than they were.
        for from in 0..nodes.len() {
            let node = &nodes[(from + 1) % nodes.len()];
            accepted.push(accept(node, &transfer(chain_id, from, nonce)).await?);
        }
        let mined = all_mined(&nodes[0], &accepted).await;
        mined.with_context(|| format!("after {end:?}"))?;
        nonce += 2;
    }
    checks::same_chain(&cluster.rpcs()?).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_accepted_before_it_is_killed_is_mined() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(4).await?;
    let chain_id = cluster.rpcs()?[0].chain_id().await?;
    let mut accepted = Vec::new();
    for (from, label) in cluster.labels()?.into_iter().enumerate() {
        cluster.wait_healthy(4, START).await?;
        let node = cluster.rpc(&label)?;
        // Backwards: none of them can be mined before the last one is accepted.
        for nonce in (0..BURST).rev() {
            accepted.push(accept(&node, &transfer(chain_id, from, nonce)).await?);
        }
        processes::kill(cluster.pid(&label)?).await?;
        cluster.wait_healthy(4, START).await?;
        all_mined(&cluster.rpc(&label)?, &accepted)
            .await
            .with_context(|| format!("{label} was killed"))?;
    }
    let nodes = cluster.rpcs()?;
    for node in &nodes {
        all_mined(node, &accepted).await?;
    }
    checks::same_chain(&nodes).await?;
    cluster.finish().await
}
