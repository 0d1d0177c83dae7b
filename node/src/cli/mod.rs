//! The user's side of the `axolotl` program: commands that ask a running system, and the few that
//! work on files (wallet, keys, genesis).
//!
//! Each command is a struct of arguments and an `async fn run` that gives the exit code. What asks a
//! system goes through the HTTP of registry and nodes, so that it can do only what any client can.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | done; also when the reader of standard output went away |
//! | 1 | it could not be done, or what was looked at is not well |
//! | 2 | the command line is wrong: a [`Usage`] fault, or clap's own |
//!
//! Results go to standard output, everything else to standard error. No secret is taken as an
//! argument or from a variable, and none is ever printed but by `wallet export --private-key`.

pub mod accounts;
pub mod amount;
pub mod balance;
pub mod bench;
pub mod block;
pub mod command;
pub mod completions;
pub mod doctor;
pub mod fees;
pub mod genesis;
pub mod health;
pub mod json_rpc;
pub mod keys;
pub mod nodes;
pub mod options;
pub mod output;
pub mod password;
pub mod registry;
pub mod send;
pub mod status;
pub mod table;
pub mod tx;
pub mod wallet;

pub use bench::BenchArgs;
pub use command::{Cli, Command, command};
pub use health::HealthArgs;
pub use output::{Closed, Usage};
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
