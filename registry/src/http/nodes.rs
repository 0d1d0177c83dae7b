//! Calls of nodes: register, heartbeat, discover.

use axolotl_common::{
    NodeId,
    registry_api::{
        DiscoverResponse, HealthResponse, Heartbeat, Problem, RegisterRequest, RegisterResponse,
    },
};
use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Api, admission::Place, call::Call, error::ApiError};

/// A node announces itself
///
/// Signed by the node's key. A key that is not known shows the join token in
/// `x-axolotl-join-token`. The answer holds the genesis, or says how many nodes are awaited.
#[utoipa::path(
    post, path = "/register", tag = "nodes", request_body = RegisterRequest,
    responses(
        (status = 200, body = RegisterResponse),
        (status = 401, body = Problem, description = "unsigned, wrong clock, or no join token"),
        (status = 409, body = Problem, description = "label, volume, incarnation or chain of another"),
        (status = 422, body = Problem, description = "a value does not fit; two leaders"),
        (status = 429, body = Problem, description = "too many calls of this key, or of unknown ones"),
    )
)]
pub(super) async fn register(
    State(api): State<Api>,
    call: Call,
) -> Result<Json<RegisterResponse>, ApiError> {
    call.mutating()?;
    let signed = call.signed(&api)?;
    let token = call.shows_join_token(&api);
    let request = call.json()?;
    Ok(Json(api.registry.register(signed, token, request).await?))
}

/// Nodes that are heard, by number
#[utoipa::path(get, path = "/discover", tag = "nodes", responses((status = 200, body = DiscoverResponse)))]
pub(super) async fn discover(
    State(api): State<Api>,
    _place: Place,
) -> Result<Json<DiscoverResponse>, ApiError> {
    Ok(Json(api.registry.discover().await?))
}

/// A heartbeat with the node's state
///
/// Signed by the node's key; `(incarnation, seq)` grows.
#[utoipa::path(
    post, path = "/health", tag = "nodes", request_body = Heartbeat,
    responses(
        (status = 200, body = HealthResponse),
        (status = 401, body = Problem, description = "unsigned, wrong clock, or in another's name"),
        (status = 404, body = Problem, description = "not known: register first"),
        (status = 409, body = Problem, description = "seen before, or of another incarnation"),
        (status = 429, body = Problem, description = "too many calls of this key"),
    )
)]
pub(super) async fn heartbeat(
    State(api): State<Api>,
    call: Call,
) -> Result<Json<HealthResponse>, ApiError> {
    call.mutating()?;
    let signed = call.signed(&api)?;
    let beat = call.json()?;
    Ok(Json(api.registry.heartbeat(signed, beat).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HealthQuery {
    /// Label of the node.
    node_id: NodeId,
}

/// How a node fares
///
/// Counts as a heartbeat when it is signed by the node, or while registration is open.
#[utoipa::path(
    get, path = "/health", tag = "nodes", params(HealthQuery),
    responses(
        (status = 200, body = HealthResponse),
        (status = 400, body = Problem, description = "a body that cannot be read"),
        (status = 401, body = Problem, description = "signed, and wrongly, or in another's name"),
        (status = 404, body = Problem, description = "not known"),
        (status = 409, body = Problem, description = "signed, and the counter was seen before"),
        (status = 413, body = Problem, description = "a body larger than 1 MiB"),
        (status = 422, body = Problem, description = "no label, or one that cannot be"),
        (status = 429, body = Problem, description = "too many calls of this key"),
    )
)]
pub(super) async fn health(
    State(api): State<Api>,
    query: Result<axum::extract::Query<HealthQuery>, axum::extract::rejection::QueryRejection>,
    call: Call,
) -> Result<Json<HealthResponse>, ApiError> {
    let query =
        query.map_err(|e| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, e.body_text()))?;
    let signed = if call.claims_signature() {
        Some(call.signed(&api)?)
    } else {
        None
    };
    let label = query.0.node_id;
    Ok(Json(api.registry.bare_heartbeat(signed, label).await?))
}
