//! The `axolotl` program: the node and the user's tool.

use std::process::ExitCode;

use axolotl_node::{app, cli, config::NodeArgs, telemetry};
use clap::{Parser, Subcommand};

/// Exit code for a wrong configuration.
const EXIT_CONFIG: u8 = 2;

/// A permissioned Ethereum-compatible chain that regrows its nodes.
#[derive(Parser)]
#[command(name = "axolotl", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node.
    Node(Box<NodeArgs>),
    /// Show the network as its registry sees it.
    Status(cli::StatusArgs),
    /// Ask a node of this machine whether it is alive; the exit code answers.
    Health(cli::HealthArgs),
    /// Measure throughput and latency of a running network.
    Bench(cli::BenchArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Node(args) => node(*args),
        Command::Status(args) => tool(cli::status::run(args)),
        Command::Health(args) => tool(cli::health::run(args)),
        Command::Bench(args) => tool(cli::bench::run(args)),
    }
}

fn node(args: NodeArgs) -> ExitCode {
    let config = match args.into_config() {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("axolotl node: the configuration is wrong:\n{faults}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    telemetry::init(config.log_format, &config.log);
    match runtime(NODE_THREADS).map(|runtime| runtime.block_on(app::run(config))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) | Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Threads of the node's shared runtime; consensus, execution and storage have their own.
const NODE_THREADS: usize = 2;

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?)
}

fn tool(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    match runtime(1).and_then(|runtime| runtime.block_on(command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("axolotl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
