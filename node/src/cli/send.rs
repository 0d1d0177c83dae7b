//! `axolotl send`: one transaction, signed here, and its final receipt.
//!
//! The node never sees a key. Everything that can be checked without the key is checked before the
//! password is asked for.
//!
//! Two terms, never mixed: *accepted* is a transaction whose hash a node gave (that node keeps it in its
//! pool and its journal), *acknowledged* one whose receipt was seen (a quorum keeps it on disk).

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{
    accounts::{Account, DEV_SECRETS, Fees},
    amount::{Amount, UNITS, ether, gwei},
    fees,
    json_rpc::{JsonRpc, RpcError},
    options::{self, OutputArgs, RpcArgs, WalletArgs, advise},
    output::{self, Usage},
    password::PasswordArgs,
    table, tx,
    wallet::{self, Entry, Wallet},
};

/// How often the receipt is asked for.
const POLL: Duration = Duration::from_millis(50);
/// A node that does not answer while a receipt is awaited is asked again for so long: the
/// transaction is on its way, and nodes come back.
const PATIENCE_WITH_SILENCE: Duration = Duration::from_secs(15);

/// Arguments of `axolotl send`.
#[derive(Args, Clone, Debug)]
#[command(
    override_usage = "axolotl send [OPTIONS] FROM TO AMOUNT\n       axolotl send [OPTIONS] --dev N TO AMOUNT"
)]
pub struct SendArgs {
    /// Sender (a name or address of the wallet; left out with --dev), receiver (an address or a
    /// name), and amount: a number and `ether`, `gwei` or `wei`; without a unit it is wei.
    #[arg(num_args = 2..=4, required = true, value_names = ["FROM", "TO", "AMOUNT"])]
    pub words: Vec<String>,
    /// Send from development account N, 0 to 9; only on a chain that funds them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..10))]
    pub dev: Option<u8>,
    /// Call data, hexadecimal.
    #[arg(long, value_name = "HEX")]
    data: Option<Bytes>,
    /// Gas limit; by default what the node estimates.
    #[arg(long, value_name = "GAS")]
    gas: Option<u64>,
    /// Nonce; by default the next one, transactions in the pool counted.
    #[arg(long, value_name = "N")]
    nonce: Option<u64>,
    /// Do not wait for the receipt.
    #[arg(long)]
    no_wait: bool,
    /// Wait this long for the receipt.
    #[arg(long, default_value = "60s", value_parser = options::time, value_name = "TIME")]
    timeout: Duration,
    #[command(flatten)]
    rpc: RpcArgs,
    #[command(flatten)]
    wallet: WalletArgs,
    #[command(flatten)]
    password: PasswordArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Who signs.
enum Sender {
    Dev(u8),
    Wallet(Box<Entry>, Address),
}

impl Sender {
    fn address(&self) -> Address {
        match self {
            Self::Dev(index) => Account::dev((*index).into()).address(),
            Self::Wallet(_, address) => *address,
        }
    }
}

/// Sends a transaction. The exit code is 1 when it is final and failed, or not final in time.
///
/// # Errors
/// When it cannot be sent; the text says what to do.
pub async fn run(args: SendArgs) -> anyhow::Result<ExitCode> {
    let wallet = || Wallet::new(args.wallet.wallet.as_deref());
    let (sender, to, amount) = match (args.words.as_slice(), args.dev) {
        ([to, amount], Some(index)) => (Sender::Dev(index), to, amount),
        ([from, to, amount], None) => {
            // The amount before the wallet: the cheapest fault first.
            amount.parse::<Amount>().map_err(|e| Usage(e.to_string()))?;
            let entry = wallet()?.find(from)?;
            let address = entry.keystore.address().with_context(|| {
                format!("{} names no address; import it again", entry.path.display())
            })?;
            (Sender::Wallet(Box::new(entry), address), to, amount)
        }
        ([.., number, unit], _) if UNITS.iter().any(|(name, _)| name == unit) => {
            let why = format!("amount and unit are one word: {number}{unit}");
            return Err(Usage(why).into());
        }
        (_, Some(_)) => {
            let why = "with --dev there is no FROM: axolotl send --dev N TO AMOUNT";
            return Err(Usage(why.into()).into());
        }
        _ => {
            let why = "expected FROM TO AMOUNT; a chain for development also has --dev N TO AMOUNT";
            return Err(Usage(why.into()).into());
        }
    };
    let amount = amount
        .parse::<Amount>()
        .map_err(|e| Usage(e.to_string()))?
        .0;
    let to = match wallet::read_address(to) {
        Ok(address) => address,
        Err(fault) if to.starts_with("0x") => return Err(fault.into()),
        Err(_) => wallet()?.resolve(to)?,
    };

    let node = args.rpc.client()?;
    let chain_id = node.chain_id().await.map_err(advise)?;
    let transaction = prepare(&args, &node, chain_id, &sender, to, amount).await?;
    let account = match &sender {
        Sender::Dev(index) => Account::dev((*index).into()),
        Sender::Wallet(entry, _) => wallet::unlock(entry, &args.password)?,
    };
    let nonce = transaction.nonce;
    let signed = account.sign(transaction);
    node.send_raw(&signed.raw)
        .await
        .map_err(|error| refused(error, signed.hash))?;

    let mut facts = vec![
        ("Transaction", signed.hash.to_string()),
        ("From", sender.address().to_string()),
        ("To", to.to_string()),
        ("Amount", format!("{} ether", ether(amount))),
    ];
    let mut document = json!({
        "hash": signed.hash,
        "from": sender.address().to_string(),
        "to": to.to_string(),
        "wei": amount.to_string(),
        "nonce": nonce,
        "chain_id": chain_id,
        "status": "accepted",
        "receipt": Value::Null,
    });
    if args.no_wait {
        facts.push((
            "Status",
            format!("accepted; look with `axolotl tx {}`", signed.hash),
        ));
        show(&args.output, &facts, &document)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(receipt) = await_receipt(&node, signed.hash, args.timeout).await? else {
        facts.push(("Status", "accepted, no receipt yet".to_owned()));
        show(&args.output, &facts, &document)?;
        bail!(
            "no receipt after {}: is the chain making blocks (`axolotl status`)? {}",
            humantime::format_duration(args.timeout),
            accepted(node.url(), signed.hash, nonce)
        );
    };
    let success = receipt["status"] == "0x1";
    document["status"] = json!(if success { "final" } else { "failed" });
    let lines = tx::receipt_facts(&receipt);
    facts.extend(lines.with_context(|| format!("{} gave no receipt: {receipt}", node.url()))?);
    document["receipt"] = receipt;
    show(&args.output, &facts, &document)?;
    Ok(if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(output: &OutputArgs, facts: &[(&str, String)], document: &Value) -> anyhow::Result<()> {
    match output.json {
        true => output::print_json(document),
        false => output::print(&table::facts(facts)),
    }
}

/// The transaction, once everything that can be known about it speaks for it.
async fn prepare(
    args: &SendArgs,
    node: &JsonRpc,
    chain_id: u64,
    sender: &Sender,
    to: Address,
    amount: U256,
) -> anyhow::Result<TxEip1559> {
    let from = sender.address();
    let balance = node.balance(from).await.map_err(advise)?;
    let next = node.pending_nonce(from).await.map_err(advise)?;
    if let Sender::Dev(index) = sender
        && balance.is_zero()
        && next == 0
    {
        bail!(
            "chain {chain_id} does not fund the development accounts: account {index} ({from}) was \
             never used there. Send from an account of your wallet."
        );
    }
    let Fees { max_fee, tip } = fees::suggest(node).await.map_err(advise)?;
    let data = args.data.clone().unwrap_or_default();
    let poor = |cost: Option<U256>| {
        let (has, sends) = (ether(balance), ether(amount));
        let fee = cost.map_or("a fee".to_owned(), |cost| {
            let price = gwei(U256::from(max_fee));
            format!(
                "a fee of up to {} ether ({price} gwei per gas)",
                ether(cost)
            )
        });
        let who = match sender {
            Sender::Dev(index) => format!("development account {index}"),
            Sender::Wallet(entry, _) => entry.name.clone(),
        };
        anyhow::anyhow!(
            "insufficient funds: {who} ({from}) has {has} ether, and {sends} ether are to be sent \
             with {fee}. Send less, or fund the account first."
        )
    };
    // The node would estimate against the balance, and say so in other words.
    if amount > balance {
        return Err(poor(None));
    }
    let gas_limit = match args.gas {
        Some(gas) => gas,
        None => {
            let call = json!({ "from": from, "to": to, "value": amount, "data": data });
            node.estimate_gas(call).await.map_err(|error| match error {
                RpcError::Refused { .. } => anyhow::anyhow!(
                    "the transaction would fail: {error}. To send it all the same, give --gas."
                ),
                other => advise(other),
            })?
        }
    };
    let cost = U256::from(gas_limit).saturating_mul(U256::from(max_fee));
    if amount.saturating_add(cost) > balance {
        return Err(poor(Some(cost)));
    }
    Ok(TxEip1559 {
        chain_id,
        nonce: args.nonce.unwrap_or(next),
        gas_limit,
        max_fee_per_gas: max_fee,
        max_priority_fee_per_gas: tip,
        to: TxKind::Call(to),
        value: amount,
        input: data,
        ..TxEip1559::default()
    })
}

/// The words of a refusal, and what to do about it.
fn refused(error: RpcError, hash: B256) -> anyhow::Error {
    let RpcError::Refused { message, .. } = &error else {
        return advise(error).context(format!("transaction {hash} may not have been sent"));
    };
    let hint = if message.contains("not accepted") || message.contains("set aside by this node") {
        "another node may take it: name one with --rpc"
    } else if message.contains("nonce too low") {
        "that nonce is used already; leave out --nonce, or send again if another program sent at the \
         same time"
    } else if message.contains("already known") {
        "the very same transaction waits in the pool; look with `axolotl tx HASH`"
    } else if message.contains("replacement transaction underpriced") {
        "another transaction with this nonce waits in the pool; leave out --nonce"
    } else if message.contains("insufficient funds") {
        "transactions of this account that wait in the pool count too; wait for them, or send less"
    } else if message.contains("gas") {
        "check --gas, or leave it out"
    } else {
        "nothing was sent"
    };
    anyhow::anyhow!("the node refused the transaction: {message} ({hint})")
}

/// What is known of a transaction without a receipt, and what may still become of it.
fn accepted(url: &str, hash: B256, nonce: u64) -> String {
    format!(
        "The transaction is accepted, not acknowledged: the node at {url} keeps it in its pool and its \
         journal, also when it is restarted. It is lost if that node's disk or machine fails before a \
         block takes it, or if the pool drops it (its account cannot pay for it any more, or \
         transactions that pay more fill the pool). Ask again with `axolotl tx {hash}`. Sending once \
         more would be a second transaction; with `--nonce {nonce}` only one of the two can be in a \
         block"
    )
}

async fn await_receipt(
    node: &JsonRpc,
    hash: B256,
    timeout: Duration,
) -> anyhow::Result<Option<Value>> {
    let turning = output::spinner("waiting for the final receipt");
    let deadline = Instant::now() + timeout;
    let mut heard = Instant::now();
    let receipt = loop {
        match node.by_hash("eth_getTransactionReceipt", hash).await {
            Ok(Some(receipt)) => break Some(receipt),
            Ok(None) => heard = Instant::now(),
            Err(RpcError::Unreachable { .. }) if heard.elapsed() < PATIENCE_WITH_SILENCE => {}
            Err(error) => {
                turning.finish_and_clear();
                let context = format!("transaction {hash} is accepted; its receipt is not known");
                return Err(advise(error).context(context));
            }
        }
        if Instant::now() >= deadline {
            break None;
        }
        tokio::time::sleep(POLL).await;
    };
    turning.finish_and_clear();
    Ok(receipt)
}

const _: () = assert!(DEV_SECRETS.len() == 10, "--dev takes 0 to 9");
