//! HTTP: connections, bodies, CORS.

use std::{borrow::Cow, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, TryAcquireError},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tower_http::cors::{Any, CorsLayer};

use super::{
    Answer, Rpc, RpcContext,
    answers::AnswerBuffer,
    call::{CallDeadline, RpcCall},
    connections::{Connections, Place, Slot},
    dispatch,
    envelope::{self, Body as Calls, Call},
    error::RpcError,
    params::Params,
    stall::WriteDeadline,
};

/// Unit of the budget for bodies, bytes.
pub(super) const BODY_UNIT_BYTES: usize = 1_024;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// Read buffer of a connection, bytes; also bounds the head of a request.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// How long a browser may keep the answer to a preflight.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);
/// Time for calls in progress when the node stops.
const DRAIN: Duration = Duration::from_secs(3);
/// What the kernel holds of an answer that a client does not read, bytes (it takes twice as much memory).
/// Set, because it would grow to megabytes by itself; enough for 2 MB/s over 100 ms.
const SEND_BUFFER_BYTES: u32 = 128 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// Pause after a failed accept, so that a lack of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections for probes and metrics: each asks once and is gone.
const MAX_PROBE_CONNECTIONS: usize = 32;
/// Time for the head of a probe, for idling after it, and for taking nothing of its answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// A repeated complaint is logged this often.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

/// What a person sees who opens the address in a browser.
const GREETING: &str = "Axolotl JSON-RPC. Send calls by POST, for example\n\
    {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_blockNumber\",\"params\":[]}\n";

/// The interface as an axum router; connection limits are the business of [`serve`].
pub fn router(context: RpcContext) -> Router {
    routes(Rpc::new(context))
}

fn routes(rpc: Arc<Rpc>) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::POST, Method::GET, Method::OPTIONS])
        .allow_headers(Any)
        .max_age(PREFLIGHT_MAX_AGE);
    Router::new()
        .route("/", post(handle).get(async || GREETING))
        .layer(cors)
        .with_state(rpc)
}

/// Opens a listener whose queue holds a burst of new connections; the usual queue is so short that
/// clients run into the kernel's second of patience before they are let in.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Bounds of the connections of one listener.
#[derive(Clone, Copy, Debug)]
struct ConnectionLimits {
    header_timeout: Duration,
    write_timeout: Duration,
}

/// Serves the interface on `listener` until `shutdown`, then lets calls in progress end for up to
/// three seconds.
///
/// # Errors
/// When the listener has no address, which means that it is gone.
pub async fn serve(
    listener: TcpListener,
    context: RpcContext,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let rpc = Rpc::new(context);
    let limits = ConnectionLimits {
        header_timeout: rpc.limits().header_timeout,
        write_timeout: rpc.limits().write_timeout,
    };
    let connections = Arc::clone(&rpc.connections);
    tracing::info!(%address, "JSON-RPC is open");
    accept(
        "JSON-RPC",
        listener,
        connections,
        routes(rpc),
        limits,
        shutdown,
    )
    .await;
    Ok(())
}

/// Serves other routes (probes, metrics) with the same care for connections: few of them, silent
/// ones make room for new ones.
pub async fn serve_probes(listener: TcpListener, routes: Router, shutdown: CancellationToken) {
    let connections = Connections::new(share_of_open_files(MAX_PROBE_CONNECTIONS));
    let limits = ConnectionLimits {
        header_timeout: PROBE_TIMEOUT,
        write_timeout: PROBE_TIMEOUT,
    };
    let name = "the node's HTTP";
    accept(
        name,
        listener,
        Arc::new(connections),
        routes,
        limits,
        shutdown,
    )
    .await;
}

/// At most `most`, and at most a quarter of the files that this process may open: logs, peers and
/// the registry need theirs.
pub(super) fn share_of_open_files(most: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 4).unwrap_or(most).clamp(4, most)
}

async fn accept(
    name: &'static str,
    listener: TcpListener,
    connections: Arc<Connections>,
    routes: Router,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let mut complaints = Complaints::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                let cut = connections.make_room();
                complaints.say(|| {
                    tracing::warn!(%error, cut, "could not accept a connection to {name}; the one idle longest was cut; raise the limit of open files if this stays");
                });
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match connections.admit() {
            Some(place) => {
                let (routes, shutdown) = (routes.clone(), shutdown.clone());
                tasks.spawn(connection(stream, place, routes, limits, shutdown));
            }
            None => complaints.say(|| {
                let open = connections.len();
                tracing::warn!(
                    open,
                    "all connections to {name} are busy; a new one was refused"
                );
            }),
        }
    }
    tasks.close();
    if timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "calls to {name} did not end in time");
    }
}

/// Serves one connection until it ends, is cut, or the node stops.
async fn connection(
    stream: TcpStream,
    place: Place,
    routes: Router,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    // Answers are small and clients wait for them; a failure only costs time.
    let _ = stream.set_nodelay(true);
    let slot = Arc::clone(&place.slot);
    let stream = WriteDeadline::new(stream, limits.write_timeout, Arc::clone(&slot.unread));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Arc::clone(&slot));
        let routes = routes.clone();
        let unread = Arc::clone(&slot.unread);
        async move {
            // Requests that were sent ahead wait until the answers before them are taken.
            unread.none_waiting().await;
            let Ok(response) = routes.oneshot(request.map(Body::new)).await;
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = place.slot.cut.cancelled() => return,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(DRAIN, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Answers one POST.
async fn handle(
    State(rpc): State<Arc<Rpc>>,
    slot: Option<Extension<Arc<Slot>>>,
    request: Request,
) -> Response {
    let (body, budget) = match read_body(&rpc, request).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let busy = slot
        .as_ref()
        .map(|Extension(slot)| rpc.connections.begin(slot));
    let reply = process(&rpc, &body).await;
    drop((busy, budget));
    match reply {
        Some(answer) => {
            let json = HeaderValue::from_static("application/json");
            let body = Body::new(answer.into_body());
            ([(header::CONTENT_TYPE, json)], body).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

/// Reads a body within the bounds for one body, for all bodies and for time.
async fn read_body(
    rpc: &Rpc,
    request: Request,
) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), Response> {
    let limits = rpc.limits();
    let too_large = || {
        refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            RpcError::InvalidRequest(format!(
                "request too large: at most {} bytes",
                limits.max_body_bytes
            )),
        )
    };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limits.max_body_bytes) {
        return Err(too_large());
    }
    let deadline = Instant::now() + limits.body_timeout;
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    let mut budget = Vec::new();
    let mut paid = 0;
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            Err(_) => {
                let error = RpcError::Timeout("the body did not arrive in time".into());
                return Err(refuse(StatusCode::REQUEST_TIMEOUT, error));
            }
            Ok(None) => return Ok((bytes.into(), budget)),
            Ok(Some(Err(error))) => {
                return Err(refuse(
                    StatusCode::BAD_REQUEST,
                    RpcError::InvalidRequest(format!("the body broke off: {error}")),
                ));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let length = bytes.len() + data.len();
        if length > limits.max_body_bytes {
            return Err(too_large());
        }
        if length > paid {
            // The vector may grow to twice what it holds, so twice is paid for.
            let units = (2 * length - paid).div_ceil(BODY_UNIT_BYTES);
            let units = u32::try_from(units).unwrap_or(u32::MAX);
            match Arc::clone(&rpc.bodies).try_acquire_many_owned(units) {
                Ok(permit) => budget.push(permit),
                Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                    let error = RpcError::Limit("the node is busy, try again".into());
                    return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, error));
                }
            }
            paid = 2 * length;
        }
        bytes.extend_from_slice(&data);
    }
}

/// An answer to a request that was not read to its end: the connection is of no further use.
fn refuse(status: StatusCode, error: RpcError) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    (status, headers, envelope::failure(&error)).into_response()
}

/// Answers a body; `None` when it held only notifications.
async fn process(rpc: &Arc<Rpc>, body: &[u8]) -> Option<AnswerBuffer> {
    match answer(rpc, body).await {
        Ok(reply) => reply,
        // What there was of an answer is gone; the error itself is small, and fits.
        Err(error) => alone(rpc, "null", error),
    }
}

/// As [`process`].
///
/// # Errors
/// When nothing of the body can be carried out, or not even the errors of its calls can be held.
async fn answer(rpc: &Arc<Rpc>, body: &[u8]) -> Result<Option<AnswerBuffer>, RpcError> {
    let limits = rpc.limits();
    let deadline = Instant::now() + limits.request_timeout;
    let mut reply = AnswerBuffer::reply(&rpc.answers);
    let calls = match envelope::parse(body, limits.max_batch)? {
        Calls::Single(call) => {
            let call = Call::read(call);
            let result = perform(rpc, call.content, deadline).await;
            let Some(id) = call.id else {
                return Ok(None);
            };
            return Ok(match envelope::write(&mut reply, id, result) {
                Ok(()) => Some(reply),
                Err(error) => alone(rpc, id, error),
            });
        }
        Calls::Batch(calls) => calls,
    };
    reply.push(b"[")?;
    for call in calls {
        let call = Call::read(call);
        let mut result = match reply.len() > limits.max_response_bytes {
            true => Err(RpcError::ResponseTooLarge),
            false => perform(rpc, call.content, deadline).await,
        };
        let Some(id) = call.id else {
            continue;
        };
        if reply.len() + result_bytes(&result) > limits.max_response_bytes {
            result = Err(RpcError::ResponseTooLarge);
        }
        if reply.len() > 1 {
            reply.push(b",")?;
        }
        envelope::write(&mut reply, id, result)?;
    }
    reply.push(b"]")?;
    Ok((reply.len() > 2).then_some(reply))
}

/// The answer to a request as one error.
fn alone(rpc: &Rpc, id: &str, error: RpcError) -> Option<AnswerBuffer> {
    let mut reply = AnswerBuffer::reply(&rpc.answers);
    let written = envelope::write(&mut reply, id, Err(error));
    written.is_ok().then_some(reply)
}

/// What a result adds to an answer, about.
fn result_bytes(result: &Answer) -> usize {
    match result {
        Ok(result) => result.len(),
        Err(RpcError::Reverted { data, .. }) => 2 * data.len(),
        Err(_) => 0,
    }
}

/// Carries out one call.
async fn perform(
    rpc: &Arc<Rpc>,
    content: Result<(Cow<'_, str>, Params<'_>), RpcError>,
    deadline: Instant,
) -> Answer {
    let (method, params) = content?;
    let deadline = deadline.min(Instant::now() + rpc.limits().call_timeout);
    let call_deadline = CallDeadline::at(deadline.into_std());
    // A client that hangs up drops this future, and with it the guard.
    let _abandoned = call_deadline.abandon_on_drop();
    let call = RpcCall::new(rpc, call_deadline);
    match timeout_at(deadline, dispatch::call(&call, &method, &params)).await {
        Ok(result) => result,
        Err(_) => Err(RpcError::Timeout("request timed out".into())),
    }
}

/// Keeps a repeated complaint out of the log.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    /// Complains, unless it was done a short while ago.
    pub(super) fn say(&mut self, complain: impl FnOnce()) {
        if self
            .last
            .is_none_or(|last| last.elapsed() >= COMPLAINT_EVERY)
        {
            self.last = Some(Instant::now());
            complain();
        }
    }
}
