//! What is known: status, genesis, membership.

use axolotl_common::registry_api::{MembershipResponse, Problem, StatusResponse, problem};
use axum::{Json, extract::State, http::StatusCode};

use super::{Api, admission::Place, error::ApiError};

/// The whole picture
#[utoipa::path(get, path = "/status", tag = "network", responses((status = 200, body = StatusResponse)))]
pub(super) async fn status(
    State(api): State<Api>,
    _place: Place,
) -> Result<Json<StatusResponse>, ApiError> {
    Ok(Json(api.registry.status().await?))
}

/// The genesis document
#[utoipa::path(
    get, path = "/genesis", tag = "network",
    responses(
        (status = 200, body = Object, description = "geth's genesis JSON with an `axolotl` object"),
        (status = 404, body = Problem, description = "still forming"),
    )
)]
pub(super) async fn genesis(
    State(api): State<Api>,
    _place: Place,
) -> Result<Json<serde_json::Value>, ApiError> {
    let genesis = api.registry.genesis().await?;
    genesis.map(Json).ok_or_else(|| {
        ApiError::of_kind(
            StatusCode::NOT_FOUND,
            problem::FORMING,
            "the genesis is not formed yet; GET /status says who is awaited",
        )
    })
}

/// Every epoch record, newest first, signed
#[utoipa::path(get, path = "/membership", tag = "network", responses((status = 200, body = MembershipResponse)))]
pub(super) async fn membership(
    State(api): State<Api>,
    _place: Place,
) -> Result<Json<MembershipResponse>, ApiError> {
    Ok(Json(api.registry.membership().await?))
}
