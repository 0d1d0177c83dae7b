//! The table of calls, and what is common to all.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tracing::Instrument;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, REQUEST_TIMEOUT, admission::Place, call, connections::Handle, control, error::ApiError,
    events, failures, nodes, operator, page, probes, status,
};

/// Requests of this process so far: names each in the log and in its answer.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

fn table() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(crate::openapi::head())
        .routes(routes!(nodes::register))
        .routes(routes!(nodes::discover))
        .routes(routes!(nodes::health, nodes::heartbeat))
        .routes(routes!(failures::consensus_failure))
        .routes(routes!(control::control))
        .merge(
            OpenApiRouter::new()
                .routes(routes!(control::answers))
                .layer(call::answer_limit()),
        )
        .routes(routes!(status::status))
        .routes(routes!(status::genesis))
        .routes(routes!(status::membership))
        .routes(routes!(events::events))
        .routes(routes!(operator::scale))
        .routes(routes!(operator::drain))
        .routes(routes!(operator::delete))
        .routes(routes!(operator::recover))
        .routes(routes!(operator::shutdown))
        .routes(routes!(probes::livez))
        .routes(routes!(probes::healthz))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::metrics))
        .routes(routes!(page::page))
}

/// The OpenAPI document of all calls.
pub fn document() -> OpenApi {
    crate::openapi::complete(table().into_openapi())
}

/// The service.
pub fn router(api: Api) -> Router {
    let (router, document) = table().split_for_parts();
    let document = crate::openapi::complete(document);
    router
        .route("/openapi.json", get(async move |_: Place| Json(document)))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), around))
        .with_state(api)
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "there is no {:?}; GET /openapi.json lists what there is",
            uri.path()
        ),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{:?} does not take {method}", uri.path()),
    )
}

/// Names, times and counts each request.
async fn around(State(api): State<Api>, request: Request, next: Next) -> Response {
    let id = REQUESTS.fetch_add(1, Ordering::Relaxed);
    let span = tracing::debug_span!(
        "request",
        id,
        method = %request.method(),
        path = request.uri().path()
    );
    let metrics = api.registry.clone();
    let connection = request.extensions().get::<Handle>().cloned();
    let work = async {
        match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "the request took too long to arrive or to answer",
            )
            .into_response(),
        }
    };
    let response = work.instrument(span.clone()).await;
    let mut response = api.admission.count_answer(response, connection.as_ref());
    // Only what was answered well counts: a request that somebody took off the wire is refused.
    if let Some(Handle { slot, .. }) = &connection
        && let Some(signer) = slot.take_signer()
        && response.status().is_success()
        && api.registry.knows(&signer)
    {
        slot.set_known();
    }
    let answered = response.status();
    metrics.metrics().answered(answered.as_u16());
    span.in_scope(|| {
        if answered == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(id, status = answered.as_u16(), "a request failed");
        } else {
            tracing::debug!(status = answered.as_u16(), "answered");
        }
    });
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}
