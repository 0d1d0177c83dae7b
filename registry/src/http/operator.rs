//! Calls of the operator, with the admin token.

use axolotl_common::{
    NodeId,
    registry_api::{Accepted, PlanResponse, Problem, RecoverRequest, ScaleRequest},
};
use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};

use super::{Api, call::OperatorCall, error::ApiError};
use crate::cluster::state::Leaving;

/// Ask for another number of voting nodes
///
/// Nodes are added and removed one by one; standbys are used before new ones are started, followers
/// leave before the leader, the newest first. The wish is kept over restarts of the registry.
#[utoipa::path(
    post, path = "/scale", tag = "operator", security(("admin" = [])), request_body = ScaleRequest,
    responses(
        (status = 202, body = PlanResponse, description = "what is done, or what it waits for"),
        (status = 401, body = Problem, description = "the admin token is missing or wrong"),
        (status = 409, body = Problem, description = "there is no chain yet"),
        (status = 422, body = Problem, description = "outside of MIN_NODES to MAX_NODES"),
    )
)]
pub(super) async fn scale(
    State(api): State<Api>,
    call: OperatorCall,
) -> Result<(StatusCode, Json<PlanResponse>), ApiError> {
    let request: ScaleRequest = call.json()?;
    let answer = api.registry.scale(request.target_nodes).await?;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

async fn leave(
    api: Api,
    id: Result<Path<NodeId>, PathRejection>,
    how: Leaving,
) -> Result<(StatusCode, Json<PlanResponse>), ApiError> {
    let Path(id) = id.map_err(|e| ApiError::new(StatusCode::NOT_FOUND, e.body_text()))?;
    Ok((
        StatusCode::ACCEPTED,
        Json(api.registry.leave(id, how).await?),
    ))
}

/// Take a node out of the validators in order, then stop it; its data is kept
///
/// Its seat goes to another node where one can be had. A node that is started again afterwards comes
/// back as a learner.
#[utoipa::path(
    post, path = "/nodes/{id}/drain", tag = "operator", security(("admin" = [])),
    params(("id" = String, Path, description = "label of the node")),
    responses(
        (status = 202, body = PlanResponse, description = "what is done, or what it waits for"),
        (status = 401, body = Problem, description = "the admin token is missing or wrong"),
        (status = 404, body = Problem, description = "there is no such node"),
        (status = 409, body = Problem, description = "the rest would be no quorum; with the numbers"),
    )
)]
pub(super) async fn drain(
    State(api): State<Api>,
    id: Result<Path<NodeId>, PathRejection>,
    _call: OperatorCall,
) -> Result<(StatusCode, Json<PlanResponse>), ApiError> {
    leave(api, id, Leaving::Drain).await
}

/// Take a node out of the validators in order, stop it, and remove it with its data
///
/// Containers of a compose file are stopped, not removed.
#[utoipa::path(
    delete, path = "/nodes/{id}", tag = "operator", security(("admin" = [])),
    params(("id" = String, Path, description = "label of the node")),
    responses(
        (status = 202, body = PlanResponse, description = "what is done, or what it waits for"),
        (status = 401, body = Problem, description = "the admin token is missing or wrong"),
        (status = 404, body = Problem, description = "there is no such node"),
        (status = 409, body = Problem, description = "the rest would be no quorum; with the numbers"),
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    id: Result<Path<NodeId>, PathRejection>,
    _call: OperatorCall,
) -> Result<(StatusCode, Json<PlanResponse>), ApiError> {
    leave(api, id, Leaving::Delete).await
}

/// Speak a word that a recovery waits for
///
/// `accept_data_loss`: too few validators are left to know what was final, and the chain goes on with what
/// they have. `take_over`: the nodes have met a registry whose store is lost; this one goes on from what a
/// quorum of them knows. The epoch in force is to be spelled.
#[utoipa::path(
    post, path = "/recover", tag = "operator", security(("admin" = [])), request_body = RecoverRequest,
    responses(
        (status = 202, body = Accepted, description = "what is done"),
        (status = 401, body = Problem, description = "the admin token is missing or wrong"),
        (status = 409, body = Problem, description = "it is not needed, or not enough; with the numbers"),
        (status = 422, body = Problem, description = "neither or both were asked for"),
    )
)]
pub(super) async fn recover(
    State(api): State<Api>,
    call: OperatorCall,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let request: RecoverRequest = call.json()?;
    let message = api.registry.recover(request).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { message })))
}

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
    _call: OperatorCall,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let message = api.registry.shut_down().await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { message })))
}
