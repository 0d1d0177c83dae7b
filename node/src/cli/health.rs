//! `axolotl health`: asks this machine's node whether it is alive, for health checks of containers
//! and supervisors.

use std::{process::ExitCode, time::Duration};

use clap::Args;

/// Arguments of `axolotl health`.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// HTTP port of the node on this machine.
    #[arg(long, env = "HTTP_PORT", default_value_t = 8080, value_name = "PORT")]
    pub http_port: u16,
    /// Ask whether the node can do its job (/readyz), not only whether it lives (/livez).
    #[arg(long)]
    pub ready: bool,
    /// Give up after this long.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub timeout: Duration,
}

/// Prints the node's answer. The exit code is 0 when it is well, 1 when it is not or is silent.
///
/// # Errors
/// When the HTTP client cannot be set up.
pub async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let probe = if args.ready { "readyz" } else { "livez" };
    let url = format!("http://127.0.0.1:{}/{probe}", args.http_port);
    let answer = super::http_client(args.timeout)?.get(&url).send().await;
    let response = match answer {
        Ok(response) => response,
        Err(error) => {
            eprintln!(
                "no node answers at {url}: {}\nIs it running, and is HTTP_PORT its port?",
                super::cause(&error)
            );
            return Ok(ExitCode::FAILURE);
        }
    };
    let code = response.status();
    let body = response.text().await.unwrap_or_default();
    let body = body.trim();
    if code.is_success() {
        println!("{}", if body.is_empty() { "ok" } else { body });
        Ok(ExitCode::SUCCESS)
    } else {
        eprintln!("{url} answered {code}: {body}");
        Ok(ExitCode::FAILURE)
    }
}
