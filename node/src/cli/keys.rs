//! `axolotl keys`: who a node's data directory is.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use axolotl_common::NodeId;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{options::OutputArgs, output, table};
use crate::storage::{DataDir, data_dir::VolumeIdentity};

/// Arguments of `axolotl keys`.
#[derive(Args, Clone, Debug)]
pub struct KeysArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: KeysCommand,
}

/// What can be done with a node's key.
#[derive(Subcommand, Clone, Debug)]
pub enum KeysCommand {
    /// Make a data directory with a new key, before its node is started for the first time.
    #[command(
        after_help = "Example, on each machine of a chain that is made by hand:
  axolotl keys init --data-dir /var/lib/axolotl
and `axolotl genesis make` takes the lines that it prints."
    )]
    Init(DirArgs),
    /// Show the public half of a data directory: key, peer id and volume id.
    #[command(after_help = "Examples:
  axolotl keys show --data-dir /var/lib/axolotl
  docker exec node1 axolotl keys show      # DATA_DIR is set there")]
    Show(DirArgs),
}

/// Arguments of both.
#[derive(Args, Clone, Debug)]
pub struct DirArgs {
    /// Data directory of the node.
    #[arg(long, env = "DATA_DIR", default_value = "data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Label of the node, for the line that `genesis make` takes.
    #[arg(long, env = "NODE_ID", value_name = "LABEL")]
    pub node_id: Option<NodeId>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Carries out a command on keys. The secret half is never shown.
///
/// # Errors
/// When the directory is not as the command needs it; the text says what to do.
pub fn run(args: KeysArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        KeysCommand::Init(args) => {
            if is_data_dir(&args.data_dir)? {
                bail!(
                    "{} is a data directory already; `axolotl keys show` shows its key",
                    args.data_dir.display()
                );
            }
            // The lock is given back when the directory is dropped, before the identity is read.
            drop(DataDir::open(&args.data_dir)?);
            show(&args)?;
        }
        KeysCommand::Show(args) => {
            if !is_data_dir(&args.data_dir)? {
                bail!(
                    "{} is no data directory of a node: name one with --data-dir, or make one with \
                     `axolotl keys init`",
                    args.data_dir.display()
                );
            }
            show(&args)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a node's data is there; a directory that may not be looked into is no answer.
fn is_data_dir(dir: &Path) -> anyhow::Result<bool> {
    let version = dir.join("version");
    match version.try_exists() {
        Err(error) if error.kind() != ErrorKind::NotADirectory => {
            Err(error).with_context(|| format!("cannot look at {}", version.display()))
        }
        there => Ok(there.unwrap_or(false)),
    }
}

fn show(args: &DirArgs) -> anyhow::Result<()> {
    let VolumeIdentity {
        volume_id,
        public_key,
    } = DataDir::identity(&args.data_dir)?;
    let label = match &args.node_id {
        Some(label) => Some(label.clone()),
        None => kept_label(args)?,
    };
    if args.output.json {
        return output::print_json(&json!({
            "data_dir": args.data_dir,
            "node_id": label,
            "public_key": public_key,
            "peer_id": public_key.peer_id(),
            "volume_id": volume_id,
        }));
    }
    let named = label
        .as_ref()
        .map_or("NODE_ID".to_owned(), ToString::to_string);
    output::print(&table::facts(&[
        ("Data directory", args.data_dir.display().to_string()),
        (
            "Label",
            label.map_or("none yet".to_owned(), |label| label.to_string()),
        ),
        ("Public key", public_key.to_string()),
        ("Peer id", public_key.peer_id()),
        ("Volume id", volume_id.to_string()),
        (
            "For a genesis",
            format!("--validator {named},{public_key},{volume_id}"),
        ),
    ]))
}

/// The label that the directory keeps, once the node has one.
fn kept_label(args: &DirArgs) -> anyhow::Result<Option<NodeId>> {
    let path = args.data_dir.join("label");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let label = text.trim().parse();
            Ok(Some(label.with_context(|| path.display().to_string())?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}
