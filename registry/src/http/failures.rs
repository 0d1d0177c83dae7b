//! Reports that no block comes about.

use axolotl_common::registry_api::{Accepted, ConsensusFailure, Problem};
use axum::{Json, extract::State, http::StatusCode};

use super::{Api, call::Call, error::ApiError};

/// A node saw no commit although there is work
///
/// Signed by the reporting node; with the admin token it asks for a probe.
#[utoipa::path(
    post, path = "/consensus-failure", tag = "nodes", request_body = ConsensusFailure,
    responses(
        (status = 202, body = Accepted, description = "what is done about it"),
        (status = 401, body = Problem, description = "unsigned, or in another's name"),
    )
)]
pub(super) async fn consensus_failure(
    State(api): State<Api>,
    call: Call,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    call.mutating()?;
    let signed = if call.claims_bearer() {
        call.admin(&api)?;
        None
    } else {
        Some(call.signed(&api)?)
    };
    let report = call.json()?;
    let message = api.registry.consensus_failure(signed, report).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { message })))
}
