//! Probes and metrics.

use axolotl_common::registry_api::Problem;
use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};

use super::{Api, admission::Place, error::ApiError};

/// The process lives
#[utoipa::path(get, path = "/livez", tag = "probes", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// The process lives (same as `/livez`)
#[utoipa::path(get, path = "/healthz", tag = "probes", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The registry can do its job
#[utoipa::path(
    get, path = "/readyz", tag = "probes",
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = 503, body = Problem, description = "what is in the way"),
    )
)]
pub(super) async fn readyz(
    State(api): State<Api>,
    _place: Place,
) -> Result<&'static str, ApiError> {
    let obstacles = api.registry.unready().await?;
    if obstacles.is_empty() {
        Ok("ok\n")
    } else {
        Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            obstacles.join("; "),
        ))
    }
}

/// Metrics in Prometheus' text format
#[utoipa::path(get, path = "/metrics", tag = "probes", responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(api): State<Api>, _place: Place) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        api.registry.metrics().text(),
    )
}
