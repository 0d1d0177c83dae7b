//! Calls of the operator, with the admin token.

use axolotl_common::registry_api::{Accepted, Problem};
use axum::{Json, extract::State, http::StatusCode};

use super::{Api, call::Call, error::ApiError};

/// Stop every managed node in order, and start nothing
///
/// Followers first, the leader last. `total_nodes` of `/status` is 0 when it is done.
#[utoipa::path(
    post, path = "/shutdown", tag = "operator", security(("admin" = [])),
    responses(
        (status = 202, body = Accepted, description = "what is stopped, in order"),
        (status = 401, body = Problem, description = "the admin token is missing or wrong"),
    )
)]
pub(super) async fn shutdown(
    State(api): State<Api>,
    call: Call,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    call.mutating()?;
    call.admin(&api)?;
    let message = api.registry.shut_down().await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { message })))
}
