//! What the commands ask of the registry.

use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use axolotl_common::registry_api::{Problem, StatusResponse};
use serde_json::Value;

/// Where a registry listens when nothing else is said.
pub const DEFAULT_REGISTRY_URL: &str = "http://127.0.0.1:9090";

/// `GET /status` as JSON, unknown fields included.
///
/// # Errors
/// When the registry cannot be asked or refuses; the text says what to do.
pub async fn status_json(registry_url: &str, timeout: Duration) -> anyhow::Result<Value> {
    Ok(status_and_date(registry_url, timeout).await?.0)
}

/// As [`status_json`], with the time on the registry's clock, if its answer says one.
///
/// # Errors
/// As [`status_json`].
pub async fn status_and_date(
    registry_url: &str,
    timeout: Duration,
) -> anyhow::Result<(Value, Option<SystemTime>)> {
    let base = registry_url.trim_end_matches('/');
    super::options::check_url("--registry", base)?;
    let response = super::http_client(timeout)?
        .get(format!("{base}/status"))
        .send()
        .await
        .map_err(|error| {
            anyhow!(
                "no registry answers at {base}: {}\n\
                 Start the system with ./scripts/start-auto-scaling.sh, or name another \
                 registry with --registry or REGISTRY_URL.",
                super::cause(&error)
            )
        })?;
    let code = response.status();
    let date = response
        .headers()
        .get("date")
        .and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let body = response
        .bytes()
        .await
        .with_context(|| format!("the answer of {base} broke off; try again"))?;
    if !code.is_success() {
        let detail = serde_json::from_slice::<Problem>(&body).map(|problem| problem.detail);
        bail!(
            "the registry at {base} answered {code}: {}",
            detail.unwrap_or_else(
                |_| "is it a registry? Check --registry, or look into its log".to_owned()
            )
        );
    }
    let status = serde_json::from_slice(&body).with_context(|| {
        format!("what answers at {base} is not an Axolotl registry; check --registry")
    })?;
    Ok((status, date))
}

/// `GET /status`.
///
/// # Errors
/// As [`status_json`], and when the registry is of an incompatible version.
pub async fn status(registry_url: &str, timeout: Duration) -> anyhow::Result<StatusResponse> {
    read_status(status_json(registry_url, timeout).await?)
}

/// Reads an answer of [`status_json`].
///
/// # Errors
/// When it is not the status of a registry of this version.
pub fn read_status(value: Value) -> anyhow::Result<StatusResponse> {
    serde_json::from_value(value).context(
        "the registry's status is not understood; is it of the same version as this program?",
    )
}
