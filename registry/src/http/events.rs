//! `GET /events`: what happened, as server-sent events.

use std::{collections::VecDeque, convert::Infallible};

use axolotl_common::registry_api::{Event, Problem};
use axum::{
    extract::State,
    http::StatusCode,
    response::sse::{self, KeepAlive, Sse},
};
use futures::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Api, KEEP_ALIVE, call::Call, connections::Busy, error::ApiError};
use crate::registry::Registry;

struct Reader {
    registry: Registry,
    newest: watch::Receiver<u64>,
    last: u64,
    ready: VecDeque<Event>,
    _permit: OwnedSemaphorePermit,
    _busy: Option<Busy>,
}

impl Reader {
    /// The next event; `None` when the registry ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last = event.id;
                return Some(event);
            }
            // Marked as seen before the store is read: what comes later wakes this up again.
            self.newest.borrow_and_update();
            self.ready = self.registry.events_after(self.last).await.ok()?.into();
            if self.ready.is_empty() {
                tokio::select! {
                    biased;
                    () = self.registry.ending().cancelled() => return None,
                    changed = self.newest.changed() => changed.ok()?,
                }
            }
        }
    }
}

fn to_sse(event: &Event) -> sse::Event {
    let text = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default()
        .id(event.id.to_string())
        .event(event.kind.as_str())
        .data(text)
}

/// What happened, as server-sent events
///
/// Begins with the oldest event that is kept, or after `Last-Event-ID`; then goes on.
#[utoipa::path(
    get, path = "/events", tag = "network",
    params(("Last-Event-ID" = Option<u64>, Header, description = "goes on after this event")),
    responses(
        (status = 200, body = Event, content_type = "text/event-stream"),
        (status = 400, body = Problem, description = "Last-Event-ID is no number"),
        (status = 413, body = Problem, description = "a body larger than 1 MiB"),
        (status = 503, body = Problem, description = "too many streams"),
    )
)]
pub(super) async fn events(
    State(api): State<Api>,
    call: Call,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let last = match call.headers().get("last-event-id") {
        None => 0,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| {
                ApiError::new(StatusCode::BAD_REQUEST, "Last-Event-ID is not a number")
            })?,
    };
    let permit = api
        .event_streams
        .clone()
        .try_acquire_owned()
        .map_err(|_| ApiError::busy())?;
    let reader = Reader {
        newest: api.registry.newest_event(),
        registry: api.registry,
        last,
        ready: VecDeque::new(),
        _permit: permit,
        _busy: call.streaming(),
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok(to_sse(&event)), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
