//! `axolotl block`: one block.

use std::process::ExitCode;

use alloy_primitives::B256;
use anyhow::{Context, bail};
use axolotl_common::PublicKey;
use clap::Args;
use serde_json::{Value, json};

use super::{
    amount::gwei,
    json_rpc::{JsonRpc, quantity},
    options::{OutputArgs, RpcArgs, advise},
    output::{self, Usage},
    table,
};

/// Transactions whose hashes are shown as text; `--json` shows all.
const SHOWN_TRANSACTIONS: usize = 20;

/// Arguments of `axolotl block`.
#[derive(Args, Clone, Debug)]
pub struct BlockArgs {
    /// `latest`, a height (decimal, or 0x…), or the hash of a block.
    #[arg(default_value = "latest", value_name = "latest|HEIGHT|HASH")]
    pub block: String,
    #[command(flatten)]
    rpc: RpcArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// How a block is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Latest,
    Number(u64),
    Hash(B256),
}

fn which(text: &str) -> Result<Which, Usage> {
    let wrong = || {
        Usage(format!(
            "{text:?} is no block: expected `latest`, a height, or a hash of 0x and 64 hexadecimal \
             digits"
        ))
    };
    if text == "latest" {
        return Ok(Which::Latest);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        if digits.len() == 64 {
            return text.parse().map(Which::Hash).map_err(|_| wrong());
        }
        return u64::from_str_radix(digits, 16)
            .map(Which::Number)
            .map_err(|_| wrong());
    }
    text.parse().map(Which::Number).map_err(|_| wrong())
}

/// Prints a block; `--json` prints the node's own document.
///
/// # Errors
/// When there is no such block, or the node cannot be asked.
pub async fn run(args: BlockArgs) -> anyhow::Result<ExitCode> {
    let which = which(&args.block)?;
    let node = args.rpc.client()?;
    let (method, name) = match which {
        Which::Latest => ("eth_getBlockByNumber", json!("latest")),
        Which::Number(number) => ("eth_getBlockByNumber", json!(format!("{number:#x}"))),
        Which::Hash(hash) => ("eth_getBlockByHash", json!(hash)),
    };
    let block = node
        .call(method, json!([name, false]))
        .await
        .map_err(advise)?;
    if block.is_null() {
        bail!("{}", missing(&node, which).await?);
    }
    if args.output.json {
        output::print_json(&block)?;
    } else {
        let text = render(&block);
        let text = text.with_context(|| format!("{} gave no block: {block}", node.url()))?;
        output::print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn missing(node: &JsonRpc, which: Which) -> anyhow::Result<String> {
    let head = node.block_number().await.map_err(advise)?;
    let url = node.url();
    Ok(match which {
        Which::Latest => format!("{url} has no block yet"),
        Which::Number(number) => {
            format!("there is no block {number} yet: {url} is at height {head}")
        }
        Which::Hash(hash) => format!("{url} (height {head}) knows no block {hash}"),
    })
}

fn render(block: &Value) -> Option<String> {
    let number = quantity(&block["number"])?;
    let seconds = quantity(&block["timestamp"])?;
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))?;
    let transactions = block["transactions"].as_array()?;
    let word = |name: &str| block[name].as_str().map(str::to_owned);
    let mut lines = vec![
        ("Block", number.to_string()),
        ("Hash", word("hash")?),
        ("Parent", word("parentHash")?),
        ("Time", time_text(time)),
        ("State root", word("stateRoot")?),
        (
            "Gas used",
            format!(
                "{} of {}",
                quantity(&block["gasUsed"])?,
                quantity(&block["gasLimit"])?
            ),
        ),
        (
            "Base fee",
            format!(
                "{} gwei",
                gwei(alloy_primitives::U256::from(quantity(
                    &block["baseFeePerGas"]
                )?))
            ),
        ),
    ];
    let builder: Option<PublicKey> = word("extraData")?.parse().ok().filter(|_| number > 0);
    if let Some(builder) = builder {
        lines.push(("Built by", builder.peer_id()));
    }
    lines.push(("Transactions", transactions.len().to_string()));
    let mut text = table::facts(&lines);
    for hash in transactions.iter().take(SHOWN_TRANSACTIONS) {
        text.push_str(&format!("  {}\n", hash.as_str()?));
    }
    if transactions.len() > SHOWN_TRANSACTIONS {
        let more = transactions.len() - SHOWN_TRANSACTIONS;
        text.push_str(&format!("  and {more} more; --json lists them\n"));
    }
    Some(text)
}

/// A time of the chain in UTC.
pub(super) fn time_text(time: std::time::SystemTime) -> String {
    // Years beyond 9999 have no RFC 3339 form.
    let latest = std::time::UNIX_EPOCH + std::time::Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(time.min(latest)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_named_in_three_ways() {
        let hash = format!("0x{}", "ab".repeat(32));
        assert_eq!(which("latest"), Ok(Which::Latest));
        assert_eq!(which("12"), Ok(Which::Number(12)));
        assert_eq!(which("0x12"), Ok(Which::Number(18)));
        assert_eq!(which(&hash), Ok(Which::Hash(hash.parse().unwrap())));
        for bad in [
            "",
            "newest",
            "-1",
            "0x",
            &hash[..60],
            &format!("{hash}00"),
            "1.5",
        ] {
            assert!(which(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_time_of_any_block_can_be_shown() {
        let far = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1 << 40);
        assert_eq!(time_text(far), "9999-12-31T23:59:59Z");
        assert_eq!(time_text(std::time::UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }
}
