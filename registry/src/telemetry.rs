//! Log lines.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::config::LogFormat;

/// Reads a filter such as `info,axolotl_registry=debug`.
///
/// # Errors
/// When it is none.
pub fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(text)
}

/// Sends log lines to standard error, from now on.
///
/// # Errors
/// When the filter is none, or logging was set up before.
pub fn init(format: LogFormat, filter_text: &str) -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(filter_text)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let result = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    result.map_err(|e| anyhow::anyhow!("logging cannot be set up: {e}"))
}
