//! The `axolotl-registry` program.

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::Context;
use axolotl_common::in_words;
use axolotl_registry::{
    adopt::adopt,
    app::App,
    authority::Token,
    config::{self, AdoptArgs, Cli, Command, Config, HealthArgs, ServeArgs, TokenArgs},
    openapi, telemetry,
};
use clap::{CommandFactory, FromArgMatches};
use rustix::thread::disable_transparent_huge_pages;
use tokio::signal::unix::{SignalKind, signal};

/// Returns freed memory to the system, which glibc's allocator does not: see
/// docs/decisions/0011-allocator.md. Set up in .cargo/config.toml.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code for wrong settings.
const EXIT_SETTINGS: u8 = 2;
/// Longest time the ending may take.
const END_PATIENCE: Duration = Duration::from_secs(8);
/// `health` waits this long for an answer.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);
/// Threads for work that waits for the disk: more would only wait for the same lock.
const BLOCKING_THREADS: usize = 8;

fn main() -> ExitCode {
    // Help names variables and never shows what they hold.
    let command = Cli::command().mut_subcommands(|it| it.mut_args(|arg| arg.hide_env_values(true)));
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Serve(args) => return serve(&args),
        Command::Health(args) => health(&args),
        Command::AdminToken(args) => admin_token(&args),
        Command::Adopt(args) => adopt_chain(&args),
        Command::Openapi => print(&openapi::text()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("axolotl-registry: {}", in_words(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn adopt_chain(args: &AdoptArgs) -> anyhow::Result<()> {
    let document = adopt(
        &args.data_dir,
        &args.key_path(),
        &args.genesis,
        &args.authority_key,
    )?;
    print(&format!(
        "{} now holds a store for chain {} (genesis {}); go on with `axolotl-registry serve`\n",
        args.data_dir.display(),
        document.chain().id,
        document.hash()
    ))
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?;
    Ok(runtime)
}

fn serve(args: &ServeArgs) -> ExitCode {
    let config = match Config::read(args) {
        Ok(config) => config,
        Err(faults) => {
            eprint!(
                "axolotl-registry serve: the configuration is wrong:\n{faults}See `axolotl-registry \
                 serve --help`.\n"
            );
            return ExitCode::from(EXIT_SETTINGS);
        }
    };
    // A huge page of which little is used stays resident as a whole. Where this is not possible
    // (a kernel without huge pages), there is nothing to turn off. Nodes started from here inherit it.
    let _ = disable_transparent_huge_pages(true);
    // What a panic leaves half done must not be gone on with.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    let result = telemetry::init(config.log_format, &config.rust_log)
        .and_then(|()| {
            for unknown in config::unknown_variables() {
                tracing::warn!("{unknown}");
            }
            runtime()
        })
        .and_then(|runtime| {
            let result = runtime.block_on(run(config));
            runtime.shutdown_timeout(END_PATIENCE);
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the registry ended: {}", in_words(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let app = App::start(config).await?;
    app.run_until(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}

fn health(args: &HealthArgs) -> anyhow::Result<()> {
    let url = format!(
        "http://{}/livez",
        std::net::SocketAddr::new(args.addr, args.port)
    );
    runtime()?.block_on(async {
        let client = reqwest::Client::builder()
            .timeout(HEALTH_PATIENCE)
            .no_proxy()
            .build()?;
        let answer = client.get(&url).send().await.with_context(|| {
            format!("no registry answers at {url}; is it running, and is PORT its port?")
        })?;
        answer.error_for_status().with_context(|| url.clone())?;
        Ok(())
    })
}

fn admin_token(args: &TokenArgs) -> anyhow::Result<()> {
    let path = args.path();
    let token = Token::read(&path)?.with_context(|| {
        format!(
            "{}: there is no token yet; the registry makes it at its first start (--data-dir \
             names its directory)",
            path.display()
        )
    })?;
    print(&format!("{}\n", token.reveal()))
}
