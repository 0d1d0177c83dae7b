//! Transfers under way while things fail, and which of them were acknowledged.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use alloy_primitives::{B256, U256};
use anyhow::{Context, bail, ensure};
use axolotl_node::cli::{
    accounts::{Account, DEV_SECRETS, Fees, Signed},
    json_rpc::{JsonRpc, RpcError},
};
use tokio::{sync::watch, task::JoinSet};

use crate::wait;

/// Fees that any block of a test takes.
pub const FEES: Fees = Fees {
    max_fee: 50_000_000_000,
    tip: 1_000_000_000,
};
/// Without a receipt for this long, a transfer is handed to the next node as well.
const RESEND: Duration = Duration::from_millis(500);
/// Patience for one transfer, faults included; a long run stops validators for ten minutes.
fn patience() -> Duration {
    Duration::from_secs(if crate::soak() { 900 } else { 180 })
}

/// A transfer whose receipt some client got: it must never be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Its hash.
    pub hash: B256,
    /// Height of its block.
    pub block_number: u64,
    /// Hash of its block.
    pub block_hash: B256,
}

/// Transfers that go on until they are stopped.
pub struct Load {
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    count: Arc<AtomicUsize>,
    nodes: watch::Sender<Vec<JsonRpc>>,
    stop: watch::Sender<bool>,
    senders: JoinSet<anyhow::Result<()>>,
}

impl Load {
    /// Starts `senders` of the ten development accounts. Each sends a transfer, waits for its
    /// receipt at whichever node answers, and sends the next.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn start(nodes: &[JsonRpc], senders: usize) -> anyhow::Result<Self> {
        let first = nodes.first().context("no node to send to")?;
        let chain_id = first.chain_id().await?;
        let (stop, stopped) = watch::channel(false);
        let (present, told) = watch::channel(nodes.to_vec());
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let count = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for index in 0..senders.min(DEV_SECRETS.len()) {
            let sender = Sender {
                account: Account::dev(index),
                chain_id,
                nodes: told.clone(),
                place: index,
                acknowledged: acknowledged.clone(),
                count: count.clone(),
            };
            let nonce = first.nonce(sender.account.address()).await?;
            tasks.spawn(sender.run(nonce, stopped.clone()));
        }
        Ok(Self {
            acknowledged,
            count,
            nodes: present,
            stop,
            senders: tasks,
        })
    }

    /// From now on transfers are handed to these nodes.
    pub fn follow(&self, nodes: Vec<JsonRpc>) {
        self.nodes.send_replace(nodes);
    }

    /// Transfers acknowledged so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until `more` transfers more are acknowledged: the chain goes on.
    ///
    /// # Errors
    /// After the deadline.
    pub async fn wait_for_more(&self, more: usize, deadline: Duration) -> anyhow::Result<()> {
        let goal = self.count() + more;
        wait::until("acknowledged transfers", deadline, async || {
            let count = self.count();
            ensure!(count >= goal, "{count} of {goal}");
            Ok(())
        })
        .await
    }

    /// Lets each sender end its transfer, and gives everything that was acknowledged.
    ///
    /// # Errors
    /// When a sender saw something that must not be.
    pub async fn stop(mut self) -> anyhow::Result<Vec<Acknowledged>> {
        self.stop.send_replace(true);
        while let Some(ended) = self.senders.join_next().await {
            ended??;
        }
        let mut all = self
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut all))
    }
}

struct Sender {
    account: Account,
    chain_id: u64,
    nodes: watch::Receiver<Vec<JsonRpc>>,
    place: usize,
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    count: Arc<AtomicUsize>,
}

impl Sender {
    async fn run(mut self, mut nonce: u64, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        while !*stop.borrow() {
            let to = Account::dev((self.place + 1) % DEV_SECRETS.len()).address();
            let signed = self
                .account
                .transfer(self.chain_id, nonce, to, U256::from(1), FEES);
            let acknowledged = self.send(&signed).await?;
            let mut all = self
                .acknowledged
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.push(acknowledged);
            self.count.fetch_add(1, Ordering::Relaxed);
            nonce += 1;
        }
        Ok(())
    }

    async fn send(&mut self, signed: &Signed) -> anyhow::Result<Acknowledged> {
        let begun = Instant::now();
        loop {
            self.place += 1;
            let node = {
                let nodes = self.nodes.borrow();
                nodes[self.place % nodes.len()].clone()
            };
            if let Err(RpcError::Refused { message, .. }) = node.send_raw(&signed.raw).await {
                // Handed in before: it lies in the pool, or in a block already.
                let known = ["already known", "nonce too low"];
                ensure!(
                    known.iter().any(|words| message.contains(words)),
                    "{} refused {}: {message}",
                    node.url(),
                    signed.hash
                );
            }
            let sent = Instant::now();
            while sent.elapsed() < RESEND {
                match node.receipt(signed.hash).await {
                    Ok(Some(receipt)) => {
                        ensure!(receipt.success, "transfer {} failed", signed.hash);
                        return Ok(Acknowledged {
                            hash: signed.hash,
                            block_number: receipt.block_number,
                            block_hash: receipt.block_hash,
                        });
                    }
                    Ok(None) => wait::span(wait::POLL).await,
                    // This node is down: ask another, but not in a hot loop.
                    Err(_) => {
                        wait::span(wait::POLL).await;
                        break;
                    }
                }
            }
            if begun.elapsed() > patience() {
                bail!(
                    "transfer {} has no receipt after {:?}",
                    signed.hash,
                    patience()
                );
            }
        }
    }
}

/// Sends one transfer through `node` and waits for its receipt there.
///
/// # Errors
/// When it is refused or has no receipt in time.
pub async fn transact(
    node: &JsonRpc,
    from: usize,
    deadline: Duration,
) -> anyhow::Result<Acknowledged> {
    let account = Account::dev(from);
    let nonce = node.pending_nonce(account.address()).await?;
    let to = Account::dev((from + 1) % DEV_SECRETS.len()).address();
    let chain_id = node.chain_id().await?;
    let signed = account.transfer(chain_id, nonce, to, U256::from(1), FEES);
    node.send_raw(&signed.raw).await?;
    wait::until_polling(
        "a receipt",
        deadline,
        Duration::from_millis(2),
        async || {
            let receipt = node.receipt(signed.hash).await?.context("no receipt yet")?;
            ensure!(receipt.success, "the transfer failed");
            Ok(Acknowledged {
                hash: signed.hash,
                block_number: receipt.block_number,
                block_hash: receipt.block_hash,
            })
        },
    )
    .await
}
