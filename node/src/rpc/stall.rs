//! A stream whose writes must make progress: a client that asks and does not read its answers would
//! otherwise hold them in memory for ever.
//!
//! The state of the writing side is shared with the rest of the connection ([`Unread`]): while bytes
//! wait to be taken by the client, the connection begins no further request, however many the client
//! has sent already.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Sleep, sleep},
};

/// What a client must take within the write timeout, unless less is left: whoever takes a byte now and
/// then would hold an answer for hours. With the default timeout of 15 s this is 9 kB/s.
const PROGRESS_BYTES: usize = 128 << 10;

/// Whether a client leaves what was written to it unread, and since when.
#[derive(Debug)]
pub(super) struct Unread {
    opened: Instant,
    /// Milliseconds after `opened`, and one; 0 while nothing waits.
    since_ms: AtomicU64,
    taken: Notify,
}

impl Unread {
    /// Of a connection that is opened now.
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            since_ms: AtomicU64::new(0),
            taken: Notify::new(),
        }
    }

    /// How long bytes have been waiting without enough of them being taken; `None` while none wait.
    pub(super) fn waiting(&self) -> Option<Duration> {
        let since = self.since_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.opened
                .elapsed()
                .saturating_sub(Duration::from_millis(since)),
        )
    }

    /// Resolves when no bytes wait.
    pub(super) async fn none_waiting(&self) {
        while self.since_ms.load(Ordering::Relaxed) != 0 {
            self.taken.notified().await;
        }
    }

    fn begin(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since_ms
            .store(now.saturating_add(1), Ordering::Relaxed);
    }

    fn end(&self) {
        self.since_ms.store(0, Ordering::Relaxed);
        // One task waits at most; a permit that nobody waits for is looked at again and passed over.
        self.taken.notify_one();
    }
}

/// A TCP stream that fails when the other side takes too little for a while.
pub(super) struct WriteDeadline {
    stream: TcpStream,
    timeout: Duration,
    unread: Arc<Unread>,
    /// Runs while bytes wait.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Taken since `waiting` began.
    taken: usize,
}

impl WriteDeadline {
    /// Wraps a stream; bytes may wait for `timeout`.
    pub(super) fn new(stream: TcpStream, timeout: Duration, unread: Arc<Unread>) -> Self {
        Self {
            stream,
            timeout,
            unread,
            waiting: None,
            taken: 0,
        }
    }

    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.taken += bytes;
            if self.taken >= PROGRESS_BYTES {
                self.all_taken();
            }
        }
        if written.is_ready() {
            return written;
        }
        if self.waiting.is_none() {
            self.waiting = Some(Box::pin(sleep(self.timeout)));
            self.taken = 0;
            self.unread.begin();
        }
        match &mut self.waiting {
            Some(waiting) => waiting
                .as_mut()
                .poll(cx)
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }

    fn all_taken(&mut self) {
        self.taken = 0;
        if self.waiting.take().is_some() {
            self.unread.end();
        }
    }
}

impl Drop for WriteDeadline {
    fn drop(&mut self) {
        // What the client did not take is discarded: the kernel would else keep offering it for minutes.
        if self.waiting.is_some() {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for WriteDeadline {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for WriteDeadline {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when everything was written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.all_taken();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
