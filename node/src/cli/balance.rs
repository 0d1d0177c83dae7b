//! `axolotl balance`: what accounts hold.

use std::process::ExitCode;

use alloy_primitives::Address;
use clap::Args;
use serde_json::json;

use super::{
    amount::ether,
    options::{OutputArgs, RpcArgs, WalletArgs, advise},
    output,
    table::{self, plain},
    wallet::Wallet,
};

/// Arguments of `axolotl balance`.
#[derive(Args, Clone, Debug)]
pub struct BalanceArgs {
    /// Addresses or names of the wallet; without any, every account of the wallet.
    #[arg(value_name = "ADDRESS|NAME")]
    pub accounts: Vec<String>,
    #[command(flatten)]
    rpc: RpcArgs,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    output: OutputArgs,
}

struct Row {
    name: Option<String>,
    address: Address,
}

/// Prints balances and nonces at the newest block.
///
/// # Errors
/// When an account is unknown, or the node cannot be asked.
pub async fn run(args: BalanceArgs) -> anyhow::Result<ExitCode> {
    let wallet = Wallet::new(args.wallet.wallet.as_deref());
    let mut rows = Vec::new();
    for who in &args.accounts {
        // An address needs no wallet.
        let address = match super::wallet::read_address(who) {
            Ok(address) => address,
            Err(fault) if who.starts_with("0x") => return Err(fault.into()),
            Err(_) => wallet
                .as_ref()
                .map_err(|e| anyhow::anyhow!("{e:#}"))?
                .resolve(who)?,
        };
        let name = wallet
            .as_ref()
            .ok()
            .and_then(|wallet| wallet.name_of(address));
        rows.push(Row { name, address });
    }
    if args.accounts.is_empty() {
        let wallet = wallet?;
        for entry in wallet.list()?.entries {
            if let Some(address) = entry.keystore.address() {
                let name = Some(entry.name);
                rows.push(Row { name, address });
            }
        }
        if rows.is_empty() && !args.output.json {
            output::note(&format!(
                "The wallet {} is empty: name an address, or make an account with `axolotl wallet \
                 create NAME`.",
                wallet.dir().display()
            ));
            return Ok(ExitCode::SUCCESS);
        }
    }
    let node = args.rpc.client()?;
    let mut found = Vec::new();
    for row in &rows {
        let balance = node.balance(row.address).await.map_err(advise)?;
        let nonce = node.nonce(row.address).await.map_err(advise)?;
        found.push((row, balance, nonce));
    }
    if args.output.json {
        let accounts: Vec<_> = found
            .iter()
            .map(|(row, balance, nonce)| {
                json!({
                    "name": row.name,
                    "address": row.address.to_string(),
                    "wei": balance.to_string(),
                    "ether": ether(*balance),
                    "nonce": nonce,
                })
            })
            .collect();
        output::print_json(&json!({ "accounts": accounts }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let cells: Vec<_> = found
        .iter()
        .map(|(row, balance, nonce)| {
            [
                plain(row.name.as_deref().unwrap_or("-")),
                plain(row.address.to_string()),
                plain(nonce.to_string()),
                plain(ether(*balance)),
            ]
        })
        .collect();
    output::print(&table::render(
        ["NAME", "ADDRESS", "NONCE", "ETHER"],
        &cells,
        false,
    ))?;
    Ok(ExitCode::SUCCESS)
}
