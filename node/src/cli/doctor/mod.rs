//! `axolotl doctor`: what stands in the way of this machine's node, one line for each thing.
//!
//! [`observe`] looks at the world and judges nothing; [`judge`] is pure. So every finding can be
//! tested, and one broken thing shows once: what could not be looked at because of it is said to be
//! unknown, not broken.

pub mod judge;
pub mod observe;

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::json;

pub use self::judge::{Finding, Verdict};
use super::{
    options::{self, OutputArgs, RegistryArgs},
    output::{self, Colour, ColourArgs},
};

/// Arguments of `axolotl doctor`. Inside a node's container they come from its environment.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    registry: RegistryArgs,
    /// The node lives without a registry: do not look for one.
    #[arg(long)]
    without_registry: bool,
    /// Data directory of the node; without one the current directory's disk is looked at.
    #[arg(long, env = "DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address that the node listens on.
    #[arg(
        long,
        env = "BIND_ADDR",
        default_value = "127.0.0.1",
        value_name = "ADDR"
    )]
    bind_addr: IpAddr,
    /// HTTP port of the node.
    #[arg(long, env = "HTTP_PORT", default_value_t = 8080, value_name = "PORT")]
    http_port: u16,
    /// JSON-RPC port of the node.
    #[arg(long, env = "RPC_PORT", default_value_t = 8545, value_name = "PORT")]
    rpc_port: u16,
    /// libp2p port of the node.
    #[arg(long, env = "PORT", default_value_t = 50051, value_name = "PORT")]
    port: u16,
    /// Give up on each answer after this long.
    #[arg(long, default_value = "5s", value_parser = options::time, value_name = "TIME")]
    timeout: Duration,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    colour: ColourArgs,
}

/// Prints the findings. The exit code is 1 when one of them is a failure.
///
/// # Errors
/// When an address is none, or standard output cannot be written to.
pub async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    super::options::check_url("--registry", args.registry.url())?;
    let turning = output::spinner("looking");
    let facts = observe::observe(&args).await?;
    turning.finish_and_clear();
    let findings = judge::judge(&facts);
    let failed = findings
        .iter()
        .any(|finding| finding.verdict == Verdict::Fail);
    if args.output.json {
        output::print_json(&json!({ "well": !failed, "checks": findings }))?;
    } else {
        output::print(&render(&findings, args.colour.on()))?;
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn render(findings: &[Finding], colours: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, colour) = match finding.verdict {
            Verdict::Ok => ("ok  ", Colour::Green),
            Verdict::Warn => ("warn", Colour::Yellow),
            Verdict::Fail => ("fail", Colour::Red),
        };
        let advice = finding
            .advice
            .as_deref()
            .map_or(String::new(), |todo| format!(". {todo}"));
        text.push_str(&format!(
            "{}  {:<8}  {}{advice}\n",
            colour.paint(word, colours),
            finding.check,
            finding.found.replace('\n', " ")
        ));
    }
    text
}
