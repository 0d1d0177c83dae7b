//! `axolotl completions`: what a shell needs to complete command lines.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::{command::command, output};

/// Arguments of `axolotl completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

/// Prints the script for a shell.
///
/// # Errors
/// When standard output cannot be written to.
pub fn run(args: CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "axolotl", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
