//! What is sent: fresh accounts, funded, and their transfers, signed.

use std::{collections::HashMap, path::Path, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U256};
use anyhow::{Context, anyhow, bail, ensure};
use serde_json::json;

use crate::cli::{
    accounts::{Account, DEV_SECRETS, Fees, Signed, TRANSFER_GAS},
    json_rpc::{JsonRpc, ReceiptSummary, RpcError},
};

/// Transfers that one funder has in the pool at a time: below what a pool holds of one sender.
const FUNDING_WINDOW: usize = 16;
/// Patience for one window of funding transfers.
const FUNDING_TIMEOUT: Duration = Duration::from_secs(30);
/// How often funding is looked at.
const FUNDING_POLL: Duration = Duration::from_millis(10);
/// How far the base fee may rise during a run.
const BASE_FEE_HEADROOM: u128 = 20;
/// Wei that each transfer moves.
const TRANSFER_VALUE: u64 = 1;
/// Threads that sign.
const MAX_SIGNING_THREADS: usize = 8;

/// One transfer of the run.
pub(super) struct Transfer {
    /// Its hash.
    pub(super) hash: B256,
    /// Its JSON-RPC request, without brackets around it.
    pub(super) request: Bytes,
    /// Place of its sender.
    pub(super) sender: usize,
}

/// All transfers of a run in the order in which they are due.
pub(super) struct Plan {
    pub(super) transfers: Vec<Transfer>,
    pub(super) by_hash: HashMap<B256, usize>,
    pub(super) senders: usize,
}

/// The accounts that pay for the run.
pub(super) fn funders(key_file: Option<&Path>) -> anyhow::Result<Vec<Account>> {
    let Some(path) = key_file else {
        return Ok((0..DEV_SECRETS.len()).map(Account::dev).collect());
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read --funder-key-file {}", path.display()))?;
    let secret: Option<B256> = text.trim().parse().ok();
    let account = secret.and_then(|secret| Account::from_secret(&secret.0));
    let account = account.ok_or_else(|| {
        anyhow!(
            "--funder-key-file {}: expected a secret key of 64 hexadecimal digits",
            path.display()
        )
    })?;
    Ok(vec![account])
}

impl Plan {
    /// Makes and funds `senders` accounts and signs `transfers` transfers, the senders taking turns.
    pub(super) async fn prepare(
        targets: &[JsonRpc],
        chain_id: u64,
        funders: &[Account],
        senders: usize,
        transfers: usize,
        say: &dyn Fn(&str),
    ) -> anyhow::Result<Self> {
        let accounts: Vec<Account> = (0..senders).map(|_| Account::random()).collect();
        let base_fee = targets[0].latest_block().await?.base_fee;
        let fees = Fees {
            max_fee: base_fee * BASE_FEE_HEADROOM,
            tip: base_fee.min(1_000_000_000),
        };
        if transfers > 0 {
            let each = transfers.div_ceil(senders) as u64;
            let cost = U256::from(fees.max_fee) * U256::from(TRANSFER_GAS);
            let need = (cost + U256::from(TRANSFER_VALUE)) * U256::from(each);
            fund(targets, chain_id, funders, &accounts, need, fees).await?;
        }
        say(&format!("signing {transfers} transfers"));
        let signed = sign_all(accounts, chain_id, transfers, fees).await?;
        let by_hash = signed
            .iter()
            .enumerate()
            .map(|(index, transfer)| (transfer.hash, index))
            .collect();
        Ok(Self {
            transfers: signed,
            by_hash,
            senders,
        })
    }
}

async fn sign_all(
    accounts: Vec<Account>,
    chain_id: u64,
    transfers: usize,
    fees: Fees,
) -> anyhow::Result<Vec<Transfer>> {
    let accounts = std::sync::Arc::new(accounts);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = transfers.div_ceil(threads.min(MAX_SIGNING_THREADS)).max(1);
    let parts: Vec<_> = (0..transfers)
        .step_by(share)
        .map(|from| {
            let accounts = accounts.clone();
            let until = (from + share).min(transfers);
            tokio::task::spawn_blocking(move || {
                (from..until)
                    .map(|index| sign(&accounts, chain_id, index, fees))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut signed = Vec::with_capacity(transfers);
    for part in parts {
        signed.extend(part.await.context("a signing thread ended")?);
    }
    Ok(signed)
}

fn sign(accounts: &[Account], chain_id: u64, index: usize, fees: Fees) -> Transfer {
    let sender = index % accounts.len();
    let nonce = (index / accounts.len()) as u64;
    let to = accounts[(sender + 1) % accounts.len()].address();
    let value = U256::from(TRANSFER_VALUE);
    let Signed { hash, raw } = accounts[sender].transfer(chain_id, nonce, to, value, fees);
    let request = json!({
        "jsonrpc": "2.0", "id": index, "method": "eth_sendRawTransaction", "params": [raw],
    });
    Transfer {
        hash,
        request: request.to_string().into_bytes().into(),
        sender,
    }
}

/// Sends `need` wei to each account, a window of transfers at a time from each funder.
async fn fund(
    targets: &[JsonRpc],
    chain_id: u64,
    funders: &[Account],
    accounts: &[Account],
    need: U256,
    fees: Fees,
) -> anyhow::Result<()> {
    let mut able = Vec::new();
    for funder in funders {
        let nonce = targets[0].pending_nonce(funder.address()).await?;
        let balance = targets[0].balance(funder.address()).await?;
        able.push((funder, nonce, balance));
    }
    let gas = U256::from(fees.max_fee) * U256::from(TRANSFER_GAS);
    let each = need + gas;
    // Rich ones first; each gives as much as it has.
    able.sort_by_key(|(_, _, balance)| std::cmp::Reverse(*balance));
    able.retain(|(_, _, balance)| *balance >= each);
    ensure!(
        !able.is_empty(),
        "no funder has the {need} wei that one sender needs: use a chain with the development \
         genesis, name a rich account with --funder-key-file, or make the run shorter"
    );
    let mut waiting = accounts.iter().map(Account::address);
    loop {
        let mut window: Vec<(Address, Address, Signed)> = Vec::new();
        let mut givers = 0;
        for (funder, nonce, balance) in &mut able {
            let from = funder.address();
            let mut gave = false;
            for _ in 0..FUNDING_WINDOW {
                if *balance < each {
                    break;
                }
                let Some(to) = waiting.next() else { break };
                let signed = funder.transfer(chain_id, *nonce, to, need, fees);
                window.push((from, to, signed));
                *nonce += 1;
                *balance -= each;
                gave = true;
            }
            givers += usize::from(gave);
        }
        if window.is_empty() {
            let left = waiting.count();
            ensure!(
                left == 0,
                "the funders ran out of money with {left} senders left; make the run shorter"
            );
            return Ok(());
        }
        send_and_wait(&targets[0], &window)
            .await
            .with_context(|| format!("funding the senders from {givers} accounts"))?;
    }
}

async fn send_and_wait(
    target: &JsonRpc,
    window: &[(Address, Address, Signed)],
) -> anyhow::Result<()> {
    let calls: Vec<_> = window
        .iter()
        .map(|(_, _, signed)| ("eth_sendRawTransaction", json!([signed.raw])))
        .collect();
    for ((from, _, _), answer) in window.iter().zip(target.batch(&calls).await?) {
        if let Err(error @ RpcError::Refused { .. }) = answer {
            bail!("{from}: {error}. Does another program send from this account? Then run again.");
        }
        answer?;
    }
    let hashes: Vec<B256> = window.iter().map(|(_, _, signed)| signed.hash).collect();
    let deadline = tokio::time::Instant::now() + FUNDING_TIMEOUT;
    loop {
        let receipts = target.receipts(&hashes).await?;
        let failed =
            |receipt: &Option<ReceiptSummary>| receipt.as_ref().is_some_and(|r| !r.success);
        if let Some(place) = receipts.iter().position(failed) {
            bail!("funding transfer {} failed in its block", hashes[place]);
        }
        let missing = receipts.iter().filter(|r| r.is_none()).count();
        if missing == 0 {
            return Ok(());
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{missing} of {} funding transfers have no receipt after {} s; does the chain make \
             blocks? See `axolotl status`",
            hashes.len(),
            FUNDING_TIMEOUT.as_secs()
        );
        tokio::time::sleep(FUNDING_POLL).await;
    }
}
