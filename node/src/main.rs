//! The `axolotl` program: the node and the user's tool.

use std::process::ExitCode;

use axolotl_common::in_words;
use axolotl_node::{
    app,
    cli::{self, Cli, Closed, Command, Usage},
    config::{self, ConfigError, NodeArgs},
    telemetry,
};
use rustix::{
    process::{Resource, getrlimit, setrlimit},
    thread::disable_transparent_huge_pages,
};

/// Returns freed memory to the system, which glibc's allocator does not: see
/// docs/decisions/0011-allocator.md. Set up in .cargo/config.toml.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code for a wrong configuration or command line.
const EXIT_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let line = config::Line::<Cli>::read(&cli::command());
    match line.command.command {
        Command::Node(args) => node(*args, line.unknown_flags),
        Command::Status(args) => ask(cli::status::run(args)),
        Command::Nodes(args) => ask(cli::nodes::run(args)),
        Command::Wallet(args) => end(cli::wallet::run(args)),
        Command::Balance(args) => ask(cli::balance::run(args)),
        Command::Send(args) => ask(cli::send::run(args)),
        Command::Block(args) => ask(cli::block::run(args)),
        Command::Tx(args) => ask(cli::tx::run(args)),
        Command::Doctor(args) => ask(cli::doctor::run(args)),
        Command::Health(args) => ask(cli::health::run(args)),
        Command::Bench(args) => ask(cli::bench::run(args)),
        Command::Keys(args) => end(cli::keys::run(args)),
        Command::Genesis(args) => end(cli::genesis::run(args)),
        Command::Completions(args) => end(cli::completions::run(args)),
    }
}

fn node(args: NodeArgs, mut faults: Vec<String>) -> ExitCode {
    let config = match args.into_config() {
        Ok(config) if faults.is_empty() => config,
        outcome => {
            faults.extend(outcome.err().map(|error| error.0).unwrap_or_default());
            eprintln!(
                "axolotl node: the configuration is wrong:\n{}\nSee `axolotl node --help`.",
                faults.join("\n")
            );
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    telemetry::init(config.log_format, &config.log);
    // A huge page of which little is used stays resident as a whole. Where this is not possible
    // (a kernel without huge pages), there is nothing to turn off.
    let _ = disable_transparent_huge_pages(true);
    for unknown in config::unknown_variables() {
        tracing::warn!("{unknown}");
    }
    if let Err(fault) = open_files() {
        tracing::error!("{fault}");
        return ExitCode::FAILURE;
    }
    let outcome = runtime(NODE_THREADS).and_then(|runtime| {
        let outcome = runtime.block_on(app::run(config));
        // Work on blocking threads (a replay, a checkpoint) must not hold up the end: whatever it
        // leaves undone is done again at the next start.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", in_words(error.as_ref()));
            match error.downcast_ref::<ConfigError>() {
                Some(_) => ExitCode::from(EXIT_CONFIG),
                None => ExitCode::FAILURE,
            }
        }
    }
}

/// Files that a node must be allowed to open: its own, some peers, some clients.
const OPEN_FILES_MIN: u64 = 64;

/// Raises the limit of open files to what the system allows: the usual one is meant for programs
/// without clients.
fn open_files() -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it cannot be raised, it stays, and is judged below.
    let _ = setrlimit(Resource::Nofile, limit);
    match getrlimit(Resource::Nofile).current {
        Some(max) if max < OPEN_FILES_MIN => Err(format!(
            "the limit of open files is {max}, and at least {OPEN_FILES_MIN} are needed: raise it (`ulimit -n`)"
        )),
        _ => Ok(()),
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

fn ask(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    end(runtime(1).and_then(|runtime| runtime.block_on(command)))
}

fn end(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) if error.is::<Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            cli::output::note(&format!("axolotl: {}", in_words(error.as_ref())));
            match error.is::<Usage>() {
                true => ExitCode::from(EXIT_CONFIG),
                false => ExitCode::FAILURE,
            }
        }
    }
}
