//! The node's own read-only HTTP: `/livez`, `/readyz`, `/metrics`, `/status`.

use std::sync::Arc;

use axolotl_common::registry_api::{NodeSelfStatus, Problem};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;

/// How far the start has come, and whether the node can do its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet; in words.
    Starting(String),
    /// Serves requests on a head that is level with its peers.
    Ready,
    /// On its way out.
    Stopping,
}

/// Answers about the node; `None` while it starts.
pub type StatusSource = Arc<dyn Fn() -> Option<NodeSelfStatus> + Send + Sync>;
/// Writes the metrics in Prometheus' text form.
pub type MetricsSource = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
struct Admin {
    readiness: watch::Receiver<Readiness>,
    status: StatusSource,
    metrics: MetricsSource,
}

/// The routes; serving them is the business of [`crate::rpc`], which bounds connections.
pub fn router(
    readiness: watch::Receiver<Readiness>,
    status: StatusSource,
    metrics: MetricsSource,
) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/status", get(node_status))
        .with_state(Admin {
            readiness,
            status,
            metrics,
        })
}

fn unavailable(detail: String) -> Response {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let problem = Problem {
        kind: "about:blank".into(),
        title: "Service Unavailable".into(),
        status: status.as_u16(),
        detail,
        proof: None,
    };
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        Json(problem),
    )
        .into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.readiness.borrow().clone() {
        Readiness::Ready => "ok\n".into_response(),
        Readiness::Starting(what) => unavailable(what),
        Readiness::Stopping => unavailable("shutting down".into()),
    }
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], (admin.metrics)()).into_response()
}

async fn node_status(State(admin): State<Admin>) -> Response {
    match (admin.status)() {
        Some(status) => Json(status).into_response(),
        None => match admin.readiness.borrow().clone() {
            Readiness::Starting(what) => unavailable(what),
            _ => unavailable("not started".into()),
        },
    }
}
