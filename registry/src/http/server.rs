//! Accepts connections, a bounded number at once, until the registry ends.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    connections::{ConnectionLimits, Connections},
    stall::WriteDeadline,
};

/// A connection that sends no whole request head in this time is closed: six heartbeats of the default
/// interval, so that those of nodes stay open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes too little of an answer or a stream for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Header lines of a request; nodes send about a dozen.
const MAX_HEADERS: usize = 64;
/// Read buffer of a connection, bytes; also bounds the head of a request.
const MAX_BUFFER_BYTES: usize = 64 << 10;
/// What the kernel holds of an answer that a client does not read, bytes. Set, because it would grow to
/// megabytes by itself.
const SEND_BUFFER_BYTES: u32 = 128 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// Requests under way have this long when the registry ends.
const DRAIN: Duration = Duration::from_secs(3);
/// Pause after a failed accept (too many open files, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens a listener.
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

/// Serves until `ending` is cancelled, then lets requests under way end.
pub async fn serve(listener: TcpListener, router: Router, ending: CancellationToken) {
    let connections = Connections::new(ConnectionLimits::of_process());
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES);
    loop {
        let accepted = tokio::select! {
            biased;
            () = ending.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let cut = connections.make_room();
                tracing::warn!(%error, cut, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = connections.admit(peer.ip().to_canonical()) else {
            let open = connections.len();
            tracing::debug!(%peer, open, "all connections are busy; a new one was refused");
            continue;
        };
        // Answers are small and nodes wait for them; a failure only costs time.
        let _ = stream.set_nodelay(true);
        let handle = place.handle.clone();
        let unread = Arc::clone(&handle.slot.unread);
        let stream = WriteDeadline::new(stream, WRITE_TIMEOUT, Arc::clone(&unread));
        let router = router.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(handle.clone());
            let (router, unread) = (router.clone(), Arc::clone(&unread));
            async move {
                // Requests that were sent ahead wait until the answers before them are taken.
                unread.none_waiting().await;
                router.oneshot(request).await
            }
        });
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                },
                () = place.handle.slot.cut.cancelled() => {
                    tracing::debug!(%peer, "a connection was cut to make room");
                }
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests under way were cut off");
    }
}
