//! The control stream: orders to a node, on a stream that the node opened.

use std::convert::Infallible;

use axolotl_common::registry_api::{Accepted, ControlAnswer, Problem, SignedOrder};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::sse::{self, KeepAlive, Sse},
};
use futures::{Stream, stream};
use tokio::sync::watch;

use super::{Api, KEEP_ALIVE, call::Call, error::ApiError};
use crate::registry::{ControlStream, Registry};

struct Orders {
    registry: Registry,
    stream: ControlStream,
    changed: watch::Receiver<u64>,
    first: bool,
}

impl Orders {
    /// The next order; `None` when a newer stream of the node took over, or the registry ends.
    async fn next(&mut self) -> Option<SignedOrder> {
        if !std::mem::take(&mut self.first) {
            tokio::select! {
                biased;
                () = self.registry.ending().cancelled() => return None,
                changed = self.changed.changed() => changed.ok()?,
            }
        }
        self.changed.borrow_and_update();
        self.registry.current_order(&self.stream).await.ok()?
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        let (registry, stream) = (self.registry.clone(), self.stream.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { registry.close_control(stream).await });
        }
    }
}

fn to_sse(order: &SignedOrder) -> sse::Event {
    sse::Event::default()
        .id(order.number.to_string())
        .event("order")
        .data(serde_json::to_string(order).unwrap_or_default())
}

/// Orders to the node that signed, as server-sent events
///
/// Each is signed by the authority and has a number that grows. A node has one stream: a newer one
/// ends the older.
#[utoipa::path(
    get, path = "/control", tag = "nodes",
    responses(
        (status = 200, body = SignedOrder, content_type = "text/event-stream"),
        (status = 401, body = Problem, description = "unsigned"),
        (status = 404, body = Problem, description = "not known: register first"),
    )
)]
pub(super) async fn control(
    State(api): State<Api>,
    call: Call,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let signed = call.signed(&api)?;
    let changed = api.registry.peers_changed();
    let orders = Orders {
        stream: api.registry.open_control(signed).await?,
        registry: api.registry,
        changed,
        first: true,
    };
    let orders = stream::unfold(orders, |mut orders| async move {
        let order = orders.next().await?;
        Some((Ok(to_sse(&order)), orders))
    });
    Ok(Sse::new(orders).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// What became of an order
///
/// Signed by the node's key.
#[utoipa::path(
    post, path = "/control/answers", tag = "nodes", request_body = ControlAnswer,
    responses(
        (status = 202, body = Accepted),
        (status = 401, body = Problem, description = "unsigned, or in another's name"),
    )
)]
pub(super) async fn answers(
    State(api): State<Api>,
    call: Call,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    call.mutating()?;
    let signed = call.signed(&api)?;
    let answer: ControlAnswer = call.json()?;
    let message = format!("the answer to order {} is noted", answer.number);
    api.registry.control_answer(signed, answer).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { message })))
}
