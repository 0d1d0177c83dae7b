//! `axolotl tx`: one transaction and its receipt.

use std::process::ExitCode;

use alloy_primitives::{B256, U256};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{
    amount::{ether, gwei},
    json_rpc::quantity,
    options::{OutputArgs, RpcArgs, advise},
    output::{self, Usage},
    table,
};

/// Arguments of `axolotl tx`.
#[derive(Args, Clone, Debug)]
pub struct TxArgs {
    /// Hash of the transaction.
    pub hash: String,
    #[command(flatten)]
    rpc: RpcArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints a transaction and, once it is final, its receipt; `--json` prints the node's documents.
///
/// # Errors
/// When there is no such transaction, or the node cannot be asked.
pub async fn run(args: TxArgs) -> anyhow::Result<ExitCode> {
    let hash: B256 = args.hash.parse().map_err(|_| {
        Usage(format!(
            "{:?} is no hash: expected 0x and 64 hexadecimal digits",
            args.hash
        ))
    })?;
    let node = args.rpc.client()?;
    // The receipt first: whoever has one has a transaction too, whatever happens in between.
    let receipt = node
        .by_hash("eth_getTransactionReceipt", hash)
        .await
        .map_err(advise)?;
    let found = node
        .by_hash("eth_getTransactionByHash", hash)
        .await
        .map_err(advise)?;
    let Some(transaction) = found else {
        bail!(
            "{} knows no transaction {hash}: it was never sent to it, was dropped from the pool, or \
             belongs to another chain",
            node.url()
        );
    };
    if args.output.json {
        output::print_json(&json!({ "transaction": transaction, "receipt": receipt }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = transaction_facts(&transaction)
        .with_context(|| format!("{} gave no transaction: {transaction}", node.url()))?;
    match &receipt {
        None => lines.push(("Status", "in the pool, not in a block yet".to_owned())),
        Some(receipt) => lines.extend(
            receipt_facts(receipt)
                .with_context(|| format!("{} gave no receipt: {receipt}", node.url()))?,
        ),
    }
    output::print(&table::facts(&lines))?;
    Ok(ExitCode::SUCCESS)
}

fn transaction_facts(transaction: &Value) -> Option<Vec<(&'static str, String)>> {
    let word = |name: &str| transaction[name].as_str().map(str::to_owned);
    let wei: U256 = transaction["value"].as_str()?.parse().ok()?;
    let data = word("input")?;
    let mut lines = vec![
        ("Transaction", word("hash")?),
        ("From", checksummed(&transaction["from"])?),
        (
            "To",
            checksummed(&transaction["to"]).unwrap_or("a new contract".to_owned()),
        ),
        ("Amount", format!("{} ether", ether(wei))),
        ("Nonce", quantity(&transaction["nonce"])?.to_string()),
    ];
    if data.len() > 2 {
        lines.push(("Data", format!("{} bytes", (data.len() - 2) / 2)));
    }
    Some(lines)
}

/// What a receipt says, for people.
pub(super) fn receipt_facts(receipt: &Value) -> Option<Vec<(&'static str, String)>> {
    let gas_used = quantity(&receipt["gasUsed"])?;
    let price = quantity(&receipt["effectiveGasPrice"])?;
    let status = match quantity(&receipt["status"])? {
        1 => "final, succeeded",
        _ => "final, FAILED: it was reverted, and its gas is paid",
    };
    let mut lines = vec![
        ("Status", status.to_owned()),
        (
            "Block",
            format!(
                "{} ({})",
                quantity(&receipt["blockNumber"])?,
                receipt["blockHash"].as_str()?
            ),
        ),
        (
            "Gas used",
            format!("{gas_used} at {} gwei", gwei(U256::from(price))),
        ),
        (
            "Fee",
            format!("{} ether", ether(U256::from(gas_used) * U256::from(price))),
        ),
    ];
    if let Some(contract) = checksummed(&receipt["contractAddress"]) {
        lines.push(("Contract", contract));
    }
    Some(lines)
}

fn checksummed(value: &Value) -> Option<String> {
    let address: alloy_primitives::Address = value.as_str()?.parse().ok()?;
    Some(address.to_string())
}
