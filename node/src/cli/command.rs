//! The command line of `axolotl`.

use clap::{CommandFactory, Parser, Subcommand};

use super::{
    balance::BalanceArgs, bench::BenchArgs, block::BlockArgs, completions::CompletionsArgs,
    doctor::DoctorArgs, genesis::GenesisArgs, health::HealthArgs, keys::KeysArgs, nodes::NodesArgs,
    send::SendArgs, status::StatusArgs, tx::TxArgs, wallet::WalletCommandArgs,
};
use crate::config::NodeArgs;

/// A permissioned Ethereum-compatible chain that regrows its nodes.
#[derive(Parser, Debug)]
#[command(
    name = "axolotl",
    version,
    about,
    arg_required_else_help = true,
    after_help = "First steps:
  axolotl status                            who is there, and who leads
  axolotl wallet create alice               an account of your own
  axolotl send --dev 0 alice 5ether         fund it, on a chain for development
  axolotl balance alice

Exit codes: 0 done, 1 it failed or something is not well, 2 the command line is wrong."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that the program does.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a node.
    #[command(after_help = "Examples:
  axolotl node --registry-url http://127.0.0.1:9090 --join-token-file join_token
  axolotl node --node-id node1 --genesis-file genesis.json \\
    --bootstrap-peers /dns4/node2/tcp/50051/p2p/12D3KooW…    # without a registry")]
    Node(Box<NodeArgs>),
    /// Show the network as its registry sees it.
    #[command(after_help = "Examples:
  axolotl status
  axolotl status --json | jq .healthy_nodes")]
    Status(StatusArgs),
    /// List the nodes: from the registry, or else as one node sees them.
    #[command(after_help = "Examples:
  axolotl nodes
  axolotl nodes --json | jq -r '.nodes[].rpc_url'")]
    Nodes(NodesArgs),
    /// Make, list, import and export accounts.
    Wallet(WalletCommandArgs),
    /// Show what accounts hold.
    #[command(after_help = "Examples:
  axolotl balance                           # every account of the wallet
  axolotl balance alice 0x70997970C51812dc3A010C7d01b50e0d17dc79C8")]
    Balance(BalanceArgs),
    /// Send ether or call data, and wait for the final receipt.
    #[command(after_help = "Examples:
  axolotl send alice bob 1.5ether
  axolotl send alice 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 20gwei --password-file alice.pass
  axolotl send --dev 0 alice 5ether         # from a development account
  axolotl send alice 0x5FbDB2315678afecb367f032d93F642f64180aa3 0 --data 0xd09de08a")]
    Send(SendArgs),
    /// Show a block.
    #[command(after_help = "Examples:
  axolotl block
  axolotl block 12
  axolotl block latest --json | jq -r .hash")]
    Block(BlockArgs),
    /// Show a transaction and its receipt.
    #[command(after_help = "Example:
  axolotl tx 0x50f2…                        # the whole hash, as `send` printed it")]
    Tx(TxArgs),
    /// Find out what is wrong with this machine's node.
    #[command(after_help = "Examples:
  axolotl doctor
  docker exec node1 axolotl doctor          # reads the container's environment")]
    Doctor(DoctorArgs),
    /// Ask a node of this machine whether it is alive; the exit code answers.
    #[command(after_help = "Examples:
  axolotl health                            # does it live?
  axolotl health --ready                    # can it do its job?")]
    Health(HealthArgs),
    /// Measure throughput and latency of a running network.
    #[command(after_help = "Examples:
  axolotl bench --rate 100 --duration 10s
  axolotl bench --rate 0 --duration 60s     # the idle system")]
    Bench(BenchArgs),
    /// Make and show the key of a node's data directory.
    Keys(KeysArgs),
    /// Make, show and check genesis documents.
    Genesis(GenesisArgs),
    /// Print the completion script of a shell.
    #[command(after_help = "Examples:
  axolotl completions bash > ~/.local/share/bash-completion/completions/axolotl
  axolotl completions zsh  > ~/.zfunc/_axolotl
  axolotl completions fish > ~/.config/fish/completions/axolotl.fish")]
    Completions(CompletionsArgs),
}

/// The command line, with help that names variables but never shows what they hold.
pub fn command() -> clap::Command {
    hide_values(Cli::command())
}

fn hide_values(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| arg.hide_env_values(true))
        .mut_subcommands(hide_values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
