//! One call that is being carried out: what it is made with, and when it must end.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axolotl_ledger::TimeLimit;
use tokio::sync::Semaphore;

use super::{
    Answer, Rpc,
    answers::{AnswerBuffer, Reserved},
    error::RpcError,
};

/// When a call must end, and whether its client still waits for it.
#[derive(Clone, Debug)]
pub(super) struct CallDeadline {
    at: Instant,
    abandoned: Arc<AtomicBool>,
}

impl CallDeadline {
    /// A call that must end at this time.
    pub(super) fn at(at: Instant) -> Self {
        Self {
            at,
            abandoned: Arc::default(),
        }
    }

    /// When the call must end.
    pub(super) fn instant(&self) -> Instant {
        self.at
    }

    /// Whether the time is over or nobody waits for the answer any more.
    pub(super) fn is_over(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) || Instant::now() >= self.at
    }

    /// Refuses when [`Self::is_over`].
    ///
    /// # Errors
    /// [`RpcError::Timeout`].
    pub(super) fn check(&self) -> Result<(), RpcError> {
        match self.is_over() {
            true => Err(RpcError::Timeout("request timed out".into())),
            false => Ok(()),
        }
    }

    /// Ends the call when the guard is dropped: its client is gone or has its answer.
    pub(super) fn abandon_on_drop(&self) -> AbandonGuard {
        AbandonGuard(Arc::clone(&self.abandoned))
    }
}

impl TimeLimit for CallDeadline {
    fn left(&self) -> Option<Duration> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        Some(self.at.saturating_duration_since(Instant::now()))
    }
}

/// Marks a call as abandoned on drop.
pub(super) struct AbandonGuard(Arc<AtomicBool>);

impl Drop for AbandonGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One call. Handlers reach the chain, the mempool and the limits through it.
#[derive(Clone)]
pub(super) struct RpcCall {
    rpc: Arc<Rpc>,
    /// Everything that a handler does ends by this time: searches look at it between blocks, answers
    /// while they are made, calls of the EVM between expensive instructions.
    pub(super) call_deadline: CallDeadline,
}

impl Deref for RpcCall {
    type Target = Rpc;

    fn deref(&self) -> &Rpc {
        &self.rpc
    }
}

impl RpcCall {
    /// A call that must end by `call_deadline`.
    pub(super) fn new(rpc: &Arc<Rpc>, call_deadline: CallDeadline) -> Self {
        Self {
            rpc: Arc::clone(rpc),
            call_deadline,
        }
    }

    /// Writes a result.
    ///
    /// # Errors
    /// When it is too large, takes too long, or the budget for answers is in use.
    pub(super) fn json<T: serde::Serialize + ?Sized>(&self, value: &T) -> Answer {
        let max_bytes = self.limits().max_response_bytes;
        let deadline = self.call_deadline.clone();
        let mut answer = AnswerBuffer::result(&self.answers, max_bytes, deadline);
        answer.push_json(value)?;
        Ok(answer)
    }

    /// Takes bytes of the budget for answers for what a result is made from.
    ///
    /// # Errors
    /// When there are not so many left.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Reserved, RpcError> {
        self.answers.reserve(bytes)
    }

    /// Runs a read of blocks on a blocking thread.
    pub(super) async fn read<F>(&self, work: F) -> Answer
    where
        F: FnOnce(&Self) -> Answer + Send + 'static,
    {
        self.run(&self.reads, work).await
    }

    /// Runs a call of the EVM or a log search on a blocking thread.
    pub(super) async fn heavy<F>(&self, work: F) -> Answer
    where
        F: FnOnce(&Self) -> Answer + Send + 'static,
    {
        self.run(&self.heavy, work).await
    }

    /// The place goes with the work: a client that hangs up does not free it before its work ends, which
    /// it does when it next looks at the deadline.
    async fn run<F>(&self, places: &Arc<Semaphore>, work: F) -> Answer
    where
        F: FnOnce(&Self) -> Answer + Send + 'static,
    {
        let place = Arc::clone(places)
            .acquire_owned()
            .await
            .map_err(RpcError::internal)?;
        let call = self.clone();
        tokio::task::spawn_blocking(move || {
            call.call_deadline.check()?;
            let answer = work(&call);
            drop(place);
            answer
        })
        .await
        .map_err(RpcError::internal)?
    }
}
