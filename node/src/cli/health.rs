//! `axolotl health`: asks this machine's node whether it is alive, for health checks of containers
//! and supervisors.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde_json::json;

use super::{
    options::{self, OutputArgs, asked_at},
    output,
};

/// Arguments of `axolotl health`.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// Address that the node listens on.
    #[arg(
        long,
        env = "BIND_ADDR",
        default_value = "127.0.0.1",
        value_name = "ADDR"
    )]
    pub bind_addr: IpAddr,
    /// HTTP port of the node on this machine.
    #[arg(long, env = "HTTP_PORT", default_value_t = 8080, value_name = "PORT")]
    pub http_port: u16,
    /// Ask whether the node can do its job (/readyz), not only whether it lives (/livez).
    #[arg(long)]
    pub ready: bool,
    /// Give up after this long.
    #[arg(long, default_value = "3s", value_parser = options::time, value_name = "TIME")]
    pub timeout: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the node's answer. The exit code is 0 when it is well, 1 when it is not or is silent.
///
/// # Errors
/// When the HTTP client cannot be set up, or standard output is closed.
pub async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let probe = if args.ready { "readyz" } else { "livez" };
    let at = SocketAddr::new(asked_at(args.bind_addr), args.http_port);
    let url = format!("http://{at}/{probe}");
    let answer = super::http_client(args.timeout)?.get(&url).send().await;
    let (well, status, detail) = match answer {
        Ok(response) => {
            let code = response.status();
            let body = response.text().await.unwrap_or_default();
            (code.is_success(), Some(code), body.trim().to_owned())
        }
        Err(error) => (false, None, super::cause(&error)),
    };
    if args.output.json {
        output::print_json(&json!({
            "url": url,
            "well": well,
            "status": status.map(|code| code.as_u16()),
            "detail": detail,
        }))?;
    } else if well {
        let words = if detail.is_empty() { "ok" } else { &detail };
        output::print(&format!("{words}\n"))?;
    } else if let Some(code) = status {
        output::note(&format!("{url} answered {code}: {detail}"));
    } else {
        output::note(&format!(
            "no node answers at {url}: {detail}\nIs it running, does it listen on BIND_ADDR, and is HTTP_PORT its \
             port?"
        ));
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
