//! Logging.

use std::{io::IsTerminal, str::FromStr};

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected `text` or `json`"),
        }
    }
}

/// Libraries that tell every vote and every connection at `info`; a filter that names them wins.
const QUIET: &str = "info,arc_malachitebft_core_consensus=warn,arc_malachitebft_core_driver=warn,libp2p_gossipsub=error,libp2p_swarm=warn";

/// Starts logging to standard error. `filter` was checked by the configuration.
///
/// A line that cannot be written is lost: a node outlives the terminal, pipe or disk that took its
/// log. (The library would complain on the same broken stream, and panic over that.)
///
/// A panic anywhere is logged and ends the process: a node that lost one of its tasks must not go
/// on as if it had them all.
pub fn init(format: LogFormat, filter: &str) {
    let filter =
        EnvFilter::try_new(format!("{QUIET},{filter}")).unwrap_or_else(|_| EnvFilter::new(QUIET));
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_writer(std::io::stderr)
                    .log_internal_errors(false)
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_target(false),
            )
            .init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .log_internal_errors(false)
                    .with_writer(std::io::stderr),
            )
            .init(),
    }
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        tracing::error!(reason = %info, "panic: the process ends");
        std::process::abort();
    }));
}
