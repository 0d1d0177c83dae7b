//! What the commands ask of the registry.

use std::time::Duration;

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
    let base = registry_url.trim_end_matches('/');
    if !base.starts_with("http://") {
        bail!("--registry-url {registry_url:?}: expected an address that begins with http://");
    }
    let response = super::http_client(timeout)?
        .get(format!("{base}/status"))
        .send()
        .await
        .map_err(|error| {
            anyhow!(
                "no registry answers at {base}: {}\n\
                 Start a local system with ./scripts/start-auto-scaling.sh --local, or name another \
                 registry with --registry-url or REGISTRY_URL.",
                super::cause(&error)
            )
        })?;
    let code = response.status();
    let body = response
        .bytes()
        .await
        .with_context(|| format!("the answer of {base} broke off; try again"))?;
    if !code.is_success() {
        let detail = serde_json::from_slice::<Problem>(&body).map(|problem| problem.detail);
        bail!(
            "the registry at {base} answered {code}: {}",
            detail.unwrap_or_else(|_| "look into its log".to_owned())
        );
    }
    serde_json::from_slice(&body).with_context(|| {
        format!("what answers at {base} is not an Axolotl registry; check --registry-url")
    })
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
