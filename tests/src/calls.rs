//! HTTP calls of a registry, wherever it runs.

use anyhow::{Context, ensure};
use reqwest::{Client, StatusCode};

/// `GET`, as JSON.
///
/// # Errors
/// When nobody answers, or not with 2xx.
pub(crate) async fn get<T: serde::de::DeserializeOwned>(
    http: &Client,
    url: &str,
) -> anyhow::Result<T> {
    let response = http.get(url).send().await?;
    let status = response.status();
    let body = response.text().await?;
    ensure!(status.is_success(), "{url} answered {status}: {body}");
    serde_json::from_str(&body).with_context(|| format!("{url} answered {body}"))
}

/// `POST` of JSON with a token or none; gives status and body.
///
/// # Errors
/// When nobody answers.
pub(crate) async fn post(
    http: &Client,
    url: &str,
    body: &serde_json::Value,
    token: Option<&str>,
) -> anyhow::Result<(StatusCode, String)> {
    let mut request = http.post(url).json(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await?;
    Ok((response.status(), response.text().await?))
}
