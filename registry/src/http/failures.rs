//! Reports that no block comes about.

use axolotl_common::registry_api::{Accepted, ConsensusFailure, Problem};
use axum::{Json, extract::State, http::StatusCode};

use super::{Api, call::ReportCall, error::ApiError};

/// A node saw no commit although there is work
///
/// Signed by the reporting node; with the admin token it asks for a probe.
#[utoipa::path(
    post, path = "/consensus-failure", tag = "nodes", request_body = ConsensusFailure,
    responses(
        (status = 202, body = Accepted, description = "what is done about it"),
        (status = 401, body = Problem, description = "unsigned, in another's name, or with a wrong token"),
        (status = 404, body = Problem, description = "not known: register first"),
        (status = 409, body = Problem, description = "the counter was seen before"),
        (status = 429, body = Problem, description = "too many calls of this key"),
    )
)]
pub(super) async fn consensus_failure(
    State(api): State<Api>,
    call: ReportCall,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let (signed, report) = match call {
        ReportCall::Operator(call) => (None, call.json()?),
        ReportCall::Node(call) => (Some(call.signed(&api)?), call.json()?),
    };
    let message = api.registry.consensus_failure(signed, report).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { message })))
}
