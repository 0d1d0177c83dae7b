//! The user's side of the `axolotl` program: commands that ask a running system.
//!
//! Each command is a struct of arguments and an `async fn run` that gives the exit code. Nothing
//! here touches a data directory; everything goes through the HTTP of registry and nodes, so that a
//! command can do only what any client can.

pub mod accounts;
pub mod bench;
pub mod health;
pub mod json_rpc;
pub mod registry;
pub mod status;

pub use bench::BenchArgs;
pub use health::HealthArgs;
pub use status::StatusArgs;

use std::time::Duration;

/// An HTTP client for addresses of our own: a proxy in the environment is not for them.
pub(crate) fn http_client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(timeout)
        .build()
}

/// A failed call in one line: reqwest's own text names only the outermost of its causes.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
