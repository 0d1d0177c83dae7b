//! What requests may take: places to be worked on, bytes of bodies, bytes of answers.
//!
//! A place is taken when a request has arrived whole and its signature was looked at: however many
//! requests never end, none of them has one. Some places are for known keys alone. Bodies and answers
//! each have a budget in bytes; the first kilobytes of each are outside of it, so that heartbeats and
//! their answers pass when it is in use, and the connection that has held bytes longest is ended.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::FromRequestParts,
    http::request::Parts,
    response::{IntoResponse, Response},
};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    Api, MAX_CONCURRENT_REQUESTS,
    connections::{Busy, Handle},
    error::ApiError,
};

/// Requests of known keys and operators that are worked on beside [`MAX_CONCURRENT_REQUESTS`]: half of
/// the most nodes, of which each waits some milliseconds for the store.
const RESERVED_REQUESTS: usize = 64;
/// Unit of the budgets, bytes.
const UNIT_BYTES: usize = 1 << 10;
/// What a body may have outside of the budget: heartbeats and registrations do. With the most
/// connections this is 16 MiB.
pub(super) const FREE_BODY_BYTES: usize = 16 << 10;
/// Bodies held at once beyond that, bytes: five of the largest answers to orders, which are held in a
/// buffer of up to twice their size.
const MAX_BODIES_BYTES: usize = 64 << 20;
/// What an answer may have outside of the budget: all that nodes wait for every few seconds. With
/// the most connections this is 32 MiB.
const FREE_ANSWER_BYTES: usize = 32 << 10;
/// Answers held at once beyond that, bytes, until clients have taken them.
const MAX_ANSWERS_BYTES: usize = 64 << 20;
/// A body waits this long for the bytes of a connection that was ended for it.
const BYTES_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that took nothing of its answer for this long is ended when another needs the bytes.
const STALLED_MIN: Duration = Duration::from_secs(2);

/// Everything that requests share.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    requests: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

/// Whose request it is, as far as places are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// A registered key whose signature holds, or an operator.
    Known,
    /// Anybody else.
    Stranger,
}

/// A place of a request that is being worked on.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _busy: Option<Busy>,
}

impl Admission {
    pub(super) fn new() -> Self {
        let bytes = |most: usize| Arc::new(Semaphore::new(most / UNIT_BYTES));
        Self {
            requests: Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS)),
            reserved: Arc::new(Semaphore::new(RESERVED_REQUESTS)),
            bodies: bytes(MAX_BODIES_BYTES),
            answers: bytes(MAX_ANSWERS_BYTES),
        }
    }

    /// A place for a whole request.
    ///
    /// # Errors
    /// When all are taken.
    pub(super) fn place(
        &self,
        caller: Caller,
        connection: Option<&Handle>,
    ) -> Result<Place, ApiError> {
        let reserved = || match caller {
            Caller::Known => Arc::clone(&self.reserved).try_acquire_owned().ok(),
            Caller::Stranger => None,
        };
        let general = || Arc::clone(&self.requests).try_acquire_owned().ok();
        let permit = reserved().or_else(general).ok_or_else(ApiError::busy)?;
        Ok(Place {
            _permit: permit,
            _busy: connection.map(Handle::busy),
        })
    }

    /// Takes bytes for a body. When there are not so many left, the connection whose body has been
    /// arriving longest is ended.
    ///
    /// # Errors
    /// When there are none even so.
    pub(super) async fn body_bytes(
        &self,
        bytes: usize,
        connection: Option<&Handle>,
    ) -> Result<OwnedSemaphorePermit, ApiError> {
        let units = units(bytes);
        if let Ok(permit) = Arc::clone(&self.bodies).try_acquire_many_owned(units) {
            return Ok(permit);
        }
        if let Some(connection) = connection {
            connection.end_slowest_body();
        }
        let later = Arc::clone(&self.bodies).acquire_many_owned(units);
        match timeout(BYTES_TIMEOUT, later).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(ApiError::busy()),
        }
    }

    /// Counts an answer of known size until its last byte is written or its connection ends. One for
    /// which there are no bytes left becomes "busy". Streams are not counted: they hold little.
    pub(super) fn count_answer(&self, response: Response, connection: Option<&Handle>) -> Response {
        let size = response.body().size_hint().exact();
        let size = size.map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX));
        if size <= FREE_ANSWER_BYTES {
            return response;
        }
        match Arc::clone(&self.answers).try_acquire_many_owned(units(size)) {
            Ok(permit) => response.map(|body| {
                Body::new(Counted {
                    body,
                    permit: Arc::new(permit),
                })
            }),
            Err(_) => {
                if let Some(connection) = connection {
                    connection.end_stalled(STALLED_MIN);
                }
                ApiError::busy().into_response()
            }
        }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl FromRequestParts<Api> for Place {
    type Rejection = ApiError;

    /// For calls without a body and without a signature.
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let connection = parts.extensions.get::<Handle>();
        api.admission.place(Caller::Stranger, connection)
    }
}

/// A body whose bytes hold a permit, wherever the connection keeps them.
struct Counted {
    body: Body,
    permit: Arc<OwnedSemaphorePermit>,
}

struct CountedBytes {
    bytes: Bytes,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let permit = &self.permit;
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    Bytes::from_owner(CountedBytes {
                        bytes,
                        _permit: Arc::clone(permit),
                    })
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
