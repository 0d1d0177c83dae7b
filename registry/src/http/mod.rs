//! The HTTP API: reads requests, checks who calls, hands intents to [`crate::registry::Registry`],
//! writes answers.
//!
//! Every error is a problem document (RFC 9457). Checked in this order: foreign origin and token of
//! an operator's call, before its body is read; size; foreign origin and content type of a node's;
//! signature; body; and only then the rules of the cluster.
//!
//! A request takes a place to be worked on only when it has arrived whole and its signature was
//! verified; known keys have places, connections and bytes of their own (`admission`,
//! `connections`), and a connection begins no further request while its client leaves an answer
//! unread (`stall`). So requests that never end, idle connections and clients that do not read
//! keep no heartbeat out.

mod admission;
mod call;
mod connections;
mod control;
mod error;
mod events;
mod failures;
mod nodes;
mod operator;
mod page;
mod probes;
mod router;
mod server;
mod stall;
mod status;

pub use error::ApiError;
pub use router::{document, router};
pub use server::{bind, serve};

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::registry::Registry;
use admission::Admission;

/// Requests of anybody that are worked on at once; more are answered with 503.
pub const MAX_CONCURRENT_REQUESTS: usize = 128;
/// Streams of events at once; more are answered with 503.
pub const MAX_EVENT_STREAMS: usize = 64;
/// A request must be answered in this time, streams aside.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent stream says that it lives this often.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What handlers share.
#[derive(Clone)]
pub struct Api {
    pub(crate) registry: Registry,
    pub(crate) admission: Admission,
    pub(crate) event_streams: Arc<Semaphore>,
}

impl Api {
    /// The API of a registry.
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            admission: Admission::new(),
            event_streams: Arc::new(Semaphore::new(MAX_EVENT_STREAMS)),
        }
    }
}
