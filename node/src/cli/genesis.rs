//! `axolotl genesis`: genesis documents for people who run their own machines.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::U256;
use anyhow::{Context, bail, ensure};
use axolotl_common::{
    Member, NodeId, PublicKey, QuorumRule, VolumeId,
    genesis::{DEV_ACCOUNTS, DEV_BALANCE_HEX, DEV_CHAIN_ID, GenesisDocument, chain_config},
    limits::{
        DEFAULT_GAS_LIMIT, DEFAULT_MAX_LOG_BYTES, EXCHANGE_MS, MAX_BLOCK_RECORD_BYTES,
        SLOWEST_GAS_PER_MS, check_time, executable_gas,
    },
};
use axolotl_ledger::ChainSpec;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::{
    amount::{Amount, ether},
    options::OutputArgs,
    output::{self, Usage},
    table,
    wallet::{read_address, store::write_new},
};
use crate::storage::{data_dir::MAX_GENESIS_BYTES, files::read_if_there};

/// Arguments of `axolotl genesis`.
#[derive(Args, Clone, Debug)]
pub struct GenesisArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GenesisCommand,
}

/// What can be done with a genesis document.
#[derive(Subcommand, Clone, Debug)]
pub enum GenesisCommand {
    /// Write a genesis document.
    #[command(
        after_help = "Examples (`axolotl keys init` prints the line of each machine):
  axolotl genesis make --chain-id 4242 --fund 0x70997970C51812dc3A010C7d01b50e0d17dc79C8=1000ether \\
    --validator node1,0xKEY,0xVOLUME --validator node2,0xKEY,0xVOLUME --out genesis.json
  axolotl genesis make --dev --validator node1,0xKEY,0xVOLUME   # development accounts, chain 7777"
    )]
    Make(Box<MakeArgs>),
    /// Show what a genesis document says.
    #[command(after_help = "Example:
  axolotl genesis show genesis.json")]
    Show(FileArgs),
    /// Check a genesis document: print its hash and how its limits fit together, or everything that is
    /// wrong with it.
    ///
    /// A gas limit of which the slowest block takes longer than a round has for it is a warning; one with
    /// which a block could be decided that no node can store is a fault.
    #[command(after_help = "Example, before every machine gets its copy:
  axolotl genesis check genesis.json && sha256sum genesis.json")]
    Check(FileArgs),
}

/// Arguments of `axolotl genesis make`.
#[derive(Args, Clone, Debug)]
pub struct MakeArgs {
    /// A validator: label, public key (or peer id) and volume id. Repeat it for each; the first one
    /// leads first.
    #[arg(long = "validator", required = true, value_name = "LABEL,KEY,VOLUME", value_parser = read_validator)]
    validators: Vec<Member>,
    /// Id of the chain (EIP-155), which wallets ask for; with --dev it is 7777 if not given.
    #[arg(long, value_name = "ID", required_unless_present = "dev")]
    chain_id: Option<u64>,
    /// How many must agree: `byzantine` bears that fewer than a third lie, `majority` crashes only.
    #[arg(long, default_value = "byzantine", value_name = "RULE")]
    quorum: Rule,
    /// Give the ten well-known development accounts 10,000 ether each. Everybody has their keys.
    #[arg(long)]
    dev: bool,
    /// Give an account an amount, such as 0x…=1000ether (without a unit it is wei); may be repeated.
    #[arg(long, value_name = "ADDRESS=AMOUNT")]
    fund: Vec<String>,
    /// File with an `alloc` object as geth's genesis has it, for contracts and many accounts.
    #[arg(long, value_name = "FILE")]
    alloc: Option<PathBuf>,
    /// Public key that may change the validators (that of a registry). Without one they are fixed for
    /// ever.
    #[arg(long, value_name = "KEY")]
    authority_key: Option<PublicKey>,
    /// Most gas of a block. By default what a round has time to execute: 30 Mgas/s for 1.2 s.
    #[arg(long, default_value_t = DEFAULT_GAS_LIMIT, value_name = "GAS")]
    gas_limit: u64,
    /// Time of block 0, seconds since 1970; by default now.
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<u64>,
    /// Write to this new file instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// How many must agree.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rule {
    Byzantine,
    Majority,
}

/// Arguments of `axolotl genesis show` and `check`.
#[derive(Args, Clone, Debug)]
pub struct FileArgs {
    /// The document.
    #[arg(env = "GENESIS_FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Carries out a command on a genesis. The exit code of `check` is 1 when the document is wrong.
///
/// # Errors
/// When a document cannot be made or read; the text names all faults.
pub fn run(args: GenesisArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        GenesisCommand::Make(args) => make(&args)?,
        GenesisCommand::Show(args) => {
            let spec = read(&args.file)?;
            match args.output.json {
                true => output::print_json(&summary(&spec))?,
                false => output::print(&render(&spec))?,
            }
        }
        GenesisCommand::Check(args) => {
            let spec = read(&args.file)?;
            check(&spec, &args)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(spec: &ChainSpec, args: &FileArgs) -> anyhow::Result<()> {
    let timing = &spec.genesis.axolotl().timing;
    let hash = spec.chain.genesis;
    let (executable, time) = (executable_gas(timing), check_time(spec.gas_limit, timing));
    let record = spec.block_limits().largest_record();
    if args.output.json {
        output::print_json(&json!({
            "file": args.file,
            "chain_id": spec.chain.id,
            "genesis_hash": hash,
            "block_hash": spec.genesis_block.header.hash_slow(),
            "osaka_time": spec.osaka_time,
            "gas_limit": spec.gas_limit,
            "executable_gas": executable,
            "largest_record": record.total(),
            "max_record": MAX_BLOCK_RECORD_BYTES,
            "warnings": time.err().map(|slow| slow.to_string()).into_iter().collect::<Vec<_>>(),
        }))?;
    } else {
        let rules = match spec.osaka_time {
            None => "Prague, for ever".to_owned(),
            Some(from) if from <= spec.genesis_block.header.timestamp => "Osaka".to_owned(),
            Some(from) => format!("Prague, Osaka from time stamp {from} on"),
        };
        output::print(&table::facts(&[
            ("Genesis", format!("{} is well-formed", args.file.display())),
            ("Chain id", spec.chain.id.to_string()),
            ("Genesis hash", hash.to_string()),
            ("Block 0", spec.genesis_block.header.hash_slow().to_string()),
            ("Rules", rules),
            ("Gas limit", spec.gas_limit.to_string()),
            (
                "  in a round",
                format!(
                    "{executable} ({} Mgas/s x ({} - {EXCHANGE_MS}) ms / 2)",
                    SLOWEST_GAS_PER_MS / 1_000,
                    timing.max_timeout_ms
                ),
            ),
            (
                "Largest block",
                format!(
                    "{} of {MAX_BLOCK_RECORD_BYTES} bytes on disk (block {} + epoch record {} + proof {} + logs {} \
                     + receipts {} + prefix {})",
                    record.total(),
                    record.block,
                    record.epoch_record,
                    record.proof,
                    record.logs,
                    record.receipts,
                    record.prefix
                ),
            ),
        ]))?;
        warn_of_slow_blocks(spec);
    }
    Ok(())
}

/// Says when the slowest block takes longer than a round has for it.
fn warn_of_slow_blocks(spec: &ChainSpec) {
    if let Err(slow) = check_time(spec.gas_limit, &spec.genesis.axolotl().timing) {
        output::note(&format!("warning: {slow}"));
    }
}

fn read_validator(text: &str) -> Result<Member, String> {
    let mut parts = text.split(',').map(str::trim);
    let (Some(label), Some(key), Some(volume), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("expected LABEL,KEY,VOLUME: `axolotl keys show` prints it".to_owned());
    };
    let public_key = match key.starts_with("12D3") {
        true => PublicKey::from_peer_id(key),
        false => key.parse(),
    };
    Ok(Member {
        node_id: label.parse::<NodeId>().map_err(|e| e.to_string())?,
        public_key: public_key.map_err(|e| e.to_string())?,
        volume_id: volume.parse::<VolumeId>().map_err(|e| e.to_string())?,
    })
}

/// Reads and checks a document as a node does at its start.
fn read(path: &Path) -> anyhow::Result<Arc<ChainSpec>> {
    let name = || path.display().to_string();
    let bytes = read_if_there(path, MAX_GENESIS_BYTES)?
        .with_context(|| format!("{} is not there", path.display()))?;
    spec_of(GenesisDocument::parse(&bytes).with_context(name)?).with_context(name)
}

fn spec_of(document: GenesisDocument) -> anyhow::Result<Arc<ChainSpec>> {
    Ok(ChainSpec::from_document(document)?.0)
}

fn make(args: &MakeArgs) -> anyhow::Result<()> {
    let alloc = alloc(args)?;
    let chain_id = args.chain_id.unwrap_or(DEV_CHAIN_ID);
    let rule = match args.quorum {
        Rule::Byzantine => QuorumRule::Byzantine,
        Rule::Majority => QuorumRule::Majority,
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let timestamp = args.timestamp.unwrap_or(now);
    let mut axolotl = json!({
        "validators": args.validators,
        "quorum": rule,
        "maxLogBytes": DEFAULT_MAX_LOG_BYTES,
    });
    if let Some(key) = args.authority_key {
        axolotl["authorityKey"] = json!(key);
    }
    // Read and written once, so that the defaults stand in the document and no later version of a
    // program can read it differently.
    let mut value = json!({
        "config": chain_config(chain_id),
        "timestamp": format!("{timestamp:#x}"),
        "gasLimit": format!("{:#x}", args.gas_limit),
        "alloc": alloc,
        "axolotl": axolotl,
    });
    let document = GenesisDocument::from_value(value.clone()).map_err(|e| Usage(e.to_string()))?;
    value["axolotl"] = serde_json::to_value(document.axolotl())?;
    let document = GenesisDocument::from_value(value)?;
    let spec = spec_of(document).map_err(|e| Usage(format!("{e:#}")))?;

    let text = format!("{:#}\n", spec.genesis.value());
    match &args.out {
        None => output::print(&text)?,
        Some(path) => {
            write_new(path, text.as_bytes(), 0o644)?;
            match args.output.json {
                true => output::print_json(&summary(&spec))?,
                false => output::print(&render(&spec))?,
            }
        }
    }
    if args.dev {
        output::note(
            "warning: everybody has the keys of the development accounts; never put value on this chain",
        );
    }
    warn_of_slow_blocks(&spec);
    if args.authority_key.is_none() {
        output::note(
            "warning: without --authority-key the validators are fixed for ever: none can be replaced",
        );
    }
    Ok(())
}

/// Who holds what in block 0. Nobody is named twice.
fn alloc(args: &MakeArgs) -> anyhow::Result<Map<String, Value>> {
    let mut alloc = Map::new();
    let mut add = |address: String, account: Value| -> anyhow::Result<()> {
        let twice = alloc.insert(address.to_lowercase(), account).is_some();
        ensure!(
            !twice,
            Usage(format!(
                "{address} is funded twice, by --dev, --fund or --alloc; name it once"
            ))
        );
        Ok(())
    };
    if args.dev {
        for address in DEV_ACCOUNTS {
            add(address.to_owned(), json!({ "balance": DEV_BALANCE_HEX }))?;
        }
    }
    for text in &args.fund {
        let Some((address, amount)) = text.split_once('=') else {
            bail!(Usage(format!(
                "--fund {text:?}: expected ADDRESS=AMOUNT, such as 0x…=10ether"
            )));
        };
        let address = read_address(address)?;
        let amount: Amount = amount.parse().map_err(|e| Usage(format!("--fund: {e}")))?;
        add(
            address.to_string(),
            json!({ "balance": format!("{:#x}", amount.0) }),
        )?;
    }
    if let Some(path) = &args.alloc {
        let name = || format!("--alloc {}", path.display());
        let bytes = read_if_there(path, MAX_GENESIS_BYTES)?
            .with_context(|| format!("{} is not there", path.display()))?;
        let mut value: Value = serde_json::from_slice(&bytes).with_context(name)?;
        // A whole genesis document will do as well.
        if let Some(inner) = value.get_mut("alloc").filter(|inner| inner.is_object()) {
            value = inner.take();
        }
        let Value::Object(accounts) = value else {
            bail!("{}: expected an object of accounts by address", name());
        };
        for (address, account) in accounts {
            let address = match address.starts_with("0x") {
                true => address,
                false => format!("0x{address}"),
            };
            add(address, account)?;
        }
    }
    Ok(alloc)
}

/// Accounts with a balance, and what they hold together.
fn funded(spec: &ChainSpec) -> (usize, U256) {
    let accounts = spec.genesis.value().get("alloc").and_then(Value::as_object);
    let balance = |account: &Value| -> Option<U256> {
        match &account["balance"] {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.as_u64().map(U256::from),
            _ => None,
        }
    };
    let mut count = 0;
    let mut sum = U256::ZERO;
    for amount in accounts
        .into_iter()
        .flatten()
        .filter_map(|(_, account)| balance(account))
    {
        count += usize::from(!amount.is_zero());
        sum = sum.saturating_add(amount);
    }
    (count, sum)
}

fn summary(spec: &ChainSpec) -> Value {
    let axolotl = spec.genesis.axolotl();
    let (accounts, wei) = funded(spec);
    let n = axolotl.validators.len();
    json!({
        "chain_id": spec.chain.id,
        "genesis_hash": spec.chain.genesis,
        "block_hash": spec.genesis_block.header.hash_slow(),
        "timestamp": spec.genesis_block.header.timestamp,
        "gas_limit": spec.gas_limit,
        "quorum_rule": axolotl.quorum,
        "quorum": axolotl.quorum.quorum(n),
        "authority_key": axolotl.authority_key,
        "funded_accounts": accounts,
        "funded_wei": wei.to_string(),
        "validators": axolotl.validators.iter().map(|member| json!({
            "node_id": member.node_id,
            "public_key": member.public_key,
            "peer_id": member.public_key.peer_id(),
            "volume_id": member.volume_id,
        })).collect::<Vec<_>>(),
    })
}

fn render(spec: &ChainSpec) -> String {
    let axolotl = spec.genesis.axolotl();
    let header = &spec.genesis_block.header;
    let n = axolotl.validators.len();
    let (accounts, wei) = funded(spec);
    let time = UNIX_EPOCH.checked_add(std::time::Duration::from_secs(header.timestamp));
    let rule = match axolotl.quorum {
        QuorumRule::Byzantine => format!("{} may lie", (n - 1) / 3),
        QuorumRule::Majority => "none may lie".to_owned(),
    };
    let authority = axolotl.authority_key.map_or(
        "none: the validators are fixed for ever".to_owned(),
        |key| key.to_string(),
    );
    let mut text = table::facts(&[
        ("Chain id", spec.chain.id.to_string()),
        ("Genesis hash", spec.chain.genesis.to_string()),
        ("Block 0", header.hash_slow().to_string()),
        (
            "Time",
            time.map_or("beyond all calendars".to_owned(), super::block::time_text),
        ),
        ("Gas limit", spec.gas_limit.to_string()),
        (
            "Funded",
            format!(
                "{accounts} account{} with {} ether",
                if accounts == 1 { "" } else { "s" },
                ether(wei)
            ),
        ),
        ("Authority key", authority),
        (
            "Quorum",
            format!("{} of {n} ({rule})", axolotl.quorum.quorum(n)),
        ),
    ]);
    text.push('\n');
    let rows: Vec<_> = axolotl
        .validators
        .iter()
        .map(|member| {
            [
                table::plain(member.node_id.to_string()),
                table::plain(member.public_key.peer_id()),
                table::plain(member.volume_id.to_string()),
            ]
        })
        .collect();
    text.push_str(&table::render(
        ["VALIDATOR", "PEER ID", "VOLUME ID"],
        &rows,
        false,
    ));
    text
}
