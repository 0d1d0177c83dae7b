//! The control stream: orders to a node, on a stream that the node opened.

use std::{collections::VecDeque, convert::Infallible};

use axolotl_common::registry_api::{Accepted, ControlAnswer, Problem, SignedOrder};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::sse::{self, KeepAlive, Sse},
};
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::sync::watch;
use utoipa::IntoParams;

use super::{Api, KEEP_ALIVE, call::Call, connections::Busy, error::ApiError};
use crate::registry::{ControlStream, Registry, Sent};

struct Orders {
    registry: Registry,
    stream: ControlStream,
    changed: watch::Receiver<u64>,
    first: bool,
    sent: Sent,
    ready: VecDeque<SignedOrder>,
    _busy: Option<Busy>,
}

impl Orders {
    /// The next order; `None` when a newer stream of the node took over, or the registry ends.
    async fn next(&mut self) -> Option<SignedOrder> {
        loop {
            if let Some(order) = self.ready.pop_front() {
                return Some(order);
            }
            if !std::mem::take(&mut self.first) {
                tokio::select! {
                    biased;
                    () = self.registry.ending().cancelled() => return None,
                    changed = self.changed.changed() => changed.ok()?,
                }
            }
            // Marked as seen before the orders are made: what comes later wakes this up again.
            self.changed.borrow_and_update();
            let sent = std::mem::take(&mut self.sent);
            let (orders, sent) = self.registry.orders(&self.stream, sent).await.ok()??;
            self.ready = orders.into();
            self.sent = sent;
        }
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

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ControlQuery {
    /// Number of the last order that the node took; orders on this stream have higher ones.
    after: Option<u64>,
}

/// Orders to the node that signed, as server-sent events
///
/// Each is signed by the authority and has a number that grows. A node has one stream: a newer one
/// ends the older.
#[utoipa::path(
    get, path = "/control", tag = "nodes", params(ControlQuery),
    responses(
        (status = 200, body = SignedOrder, content_type = "text/event-stream"),
        (status = 400, body = Problem, description = "a body that cannot be read"),
        (status = 401, body = Problem, description = "unsigned"),
        (status = 404, body = Problem, description = "not known: register first"),
        (status = 409, body = Problem, description = "the counter was seen before"),
        (status = 413, body = Problem, description = "a body larger than 1 MiB"),
        (status = 422, body = Problem, description = "a number of orders that cannot be"),
        (status = 429, body = Problem, description = "too many calls of this key"),
    )
)]
pub(super) async fn control(
    State(api): State<Api>,
    query: Result<Query<ControlQuery>, QueryRejection>,
    call: Call,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let query =
        query.map_err(|e| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, e.body_text()))?;
    let signed = call.signed(&api)?;
    let after = query.0.after.unwrap_or_default();
    let changed = api.registry.peers_changed();
    let orders = Orders {
        stream: api.registry.open_control(signed, after).await?,
        registry: api.registry,
        changed,
        first: true,
        sent: Sent::after(after),
        ready: VecDeque::new(),
        _busy: call.streaming(),
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
        (status = 404, body = Problem, description = "not known: register first"),
        (status = 409, body = Problem, description = "the counter was seen before"),
        (status = 429, body = Problem, description = "too many calls of this key"),
        (status = 413, body = Problem, description = "over 6 MiB"),
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
