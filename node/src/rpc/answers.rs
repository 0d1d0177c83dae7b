//! Answers in memory: one budget of bytes for all of them, from the moment they are made until they
//! have been written to the socket.
//!
//! An answer is written into parts of bounded size. Each part holds a permit of the budget for as long
//! as its bytes exist: while the answer is made, while it waits in a batch, and while the connection
//! writes it. The permit is released when the last byte of the part is written or the connection ends,
//! whichever comes first. The first kilobytes of each answer are outside of the budget, so that small
//! answers are given while clients that read nothing hold all of it; they are bounded by the number
//! of connections, since a connection has one answer at a time (see [`super::stall`]).

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{call::CallDeadline, connections::Connections, error::RpcError, http::Complaints};

/// Unit of the budget, bytes.
const UNIT_BYTES: usize = 1 << 10;
/// Smallest part: most answers fit one.
const MIN_PART_BYTES: usize = 1 << 10;
/// Largest part. Parts are released one by one while an answer is written, and nothing is copied when
/// an answer grows; larger ones would only make both coarser.
const MAX_PART_BYTES: usize = 64 << 10;
/// What the result of one call may take outside of the budget: receipts, blocks without transactions,
/// balances. A thousand connections hold 16 MiB so.
const FREE_RESULT_BYTES: usize = 16 << 10;
/// The same for the answer to a request: a result as above, an `id` and the envelope; or an error.
const FREE_REPLY_BYTES: usize = FREE_RESULT_BYTES + (4 << 10);
/// A connection that took nothing of its answer for this long is ended when another answer needs the
/// bytes. Within this time a client on a bad line resumes after lost packets.
const STALLED_MIN: Duration = Duration::from_secs(2);

const _: () = assert!(MAX_PART_BYTES.is_multiple_of(UNIT_BYTES) && MIN_PART_BYTES >= UNIT_BYTES);

/// Bytes that all answers together may take.
pub(super) struct AnswerBudget {
    units: Arc<Semaphore>,
    max_bytes: usize,
    /// Where connections with an unread answer are found.
    connections: Arc<Connections>,
    complaints: Mutex<Complaints>,
}

impl AnswerBudget {
    /// A budget of `max_bytes` for the answers on `connections`.
    pub(super) fn new(max_bytes: usize, connections: Arc<Connections>) -> Arc<Self> {
        Arc::new(Self {
            units: Arc::new(Semaphore::new(max_bytes / UNIT_BYTES)),
            max_bytes,
            connections,
            complaints: Mutex::default(),
        })
    }

    /// Bytes that are not taken.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.units.available_permits() * UNIT_BYTES
    }

    /// Takes bytes out of the budget until the permit is dropped. Without so many left, the connection
    /// whose answer has been waiting longest is ended, which helps the next one that asks.
    ///
    /// # Errors
    /// [`RpcError::Limit`] when there are not so many left.
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, RpcError> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            return Ok(permit);
        }
        let ended = self.connections.end_stalled(STALLED_MIN);
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        complaints.say(|| {
            let max_bytes = self.max_bytes;
            tracing::warn!(
                max_bytes,
                ended,
                "JSON-RPC answers: all bytes for them are in use; large answers are refused until clients have read theirs"
            );
        });
        Err(RpcError::Limit(
            "limit exceeded: the node is sending too many large answers; try again".into(),
        ))
    }

    /// Takes bytes for what an answer is made from, until the result is dropped. As for answers, the
    /// first kilobytes are outside of the budget.
    ///
    /// # Errors
    /// [`RpcError::ResponseTooLarge`] when the budget never has so many, [`RpcError::Limit`] when it
    /// has not so many left.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Reserved, RpcError> {
        if bytes > self.max_bytes {
            return Err(RpcError::ResponseTooLarge);
        }
        let permit = match bytes {
            ..=FREE_RESULT_BYTES => None,
            _ => Some(self.take(bytes)?),
        };
        Ok(Reserved { _permit: permit })
    }
}

/// Bytes taken out of the budget until this is dropped.
pub(super) struct Reserved {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Bytes of an answer and the permit for them.
struct Part {
    /// Never grows beyond the capacity that it was made with.
    bytes: Vec<u8>,
    /// `None` for what is outside of the budget.
    permit: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer that is being made.
pub(super) struct AnswerBuffer {
    budget: Arc<AnswerBudget>,
    parts: Vec<Part>,
    len: usize,
    max_bytes: usize,
    /// What may still be taken outside of the budget.
    free: usize,
    deadline: Option<CallDeadline>,
    /// Why the last write was refused.
    refused: Option<RpcError>,
}

impl AnswerBuffer {
    /// For the result of one call: at most `max_bytes`, made before `deadline`.
    pub(super) fn result(
        budget: &Arc<AnswerBudget>,
        max_bytes: usize,
        deadline: CallDeadline,
    ) -> Self {
        Self::new(budget, max_bytes, FREE_RESULT_BYTES, Some(deadline))
    }

    /// For the answer to a whole request. Whoever puts results in compares their size with the limit.
    pub(super) fn reply(budget: &Arc<AnswerBudget>) -> Self {
        Self::new(budget, usize::MAX, FREE_REPLY_BYTES, None)
    }

    fn new(
        budget: &Arc<AnswerBudget>,
        max_bytes: usize,
        free: usize,
        deadline: Option<CallDeadline>,
    ) -> Self {
        Self {
            budget: Arc::clone(budget),
            parts: Vec::new(),
            len: 0,
            max_bytes,
            free,
            deadline,
            refused: None,
        }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends bytes of JSON.
    ///
    /// # Errors
    /// When the answer becomes too large, takes too long, or the budget is in use.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), RpcError> {
        if self.len.saturating_add(bytes.len()) > self.max_bytes {
            return Err(RpcError::ResponseTooLarge);
        }
        while !bytes.is_empty() {
            let room = match self.parts.last() {
                Some(part) => part.bytes.capacity() - part.bytes.len(),
                None => 0,
            };
            if room == 0 {
                self.grow()?;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(part) = self.parts.last_mut() {
                part.bytes.extend_from_slice(now);
            }
            self.len += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Appends a value as JSON.
    ///
    /// # Errors
    /// As [`Self::push`]; or when the value has no JSON.
    pub(super) fn push_json<T: serde::Serialize + ?Sized>(
        &mut self,
        value: &T,
    ) -> Result<(), RpcError> {
        serde_json::to_writer(&mut *self, value).map_err(|error| {
            self.refused
                .take()
                .unwrap_or_else(|| RpcError::internal(error))
        })
    }

    /// Appends another answer: what holds a permit is moved, the rest is copied.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(super) fn append(&mut self, other: Self) -> Result<(), RpcError> {
        for part in other.parts {
            if part.permit.is_some() {
                self.len += part.bytes.len();
                self.parts.push(part);
            } else {
                self.push(&part.bytes)?;
            }
        }
        Ok(())
    }

    /// The answer as the body of a response.
    pub(super) fn into_body(self) -> AnswerBody {
        AnswerBody {
            left: self.len as u64,
            parts: self.parts.into(),
        }
    }

    /// The answer as text.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        let parts = self.parts.iter().flat_map(|part| &part.bytes).copied();
        String::from_utf8(parts.collect()).expect("answers are UTF-8")
    }

    fn grow(&mut self) -> Result<(), RpcError> {
        if let Some(deadline) = &self.deadline {
            deadline.check()?;
        }
        let mut size = self.len.clamp(MIN_PART_BYTES, MAX_PART_BYTES);
        let permit = if self.free >= MIN_PART_BYTES {
            size = size.min(self.free);
            self.free -= size;
            None
        } else {
            size = size.next_multiple_of(UNIT_BYTES);
            Some(self.budget.take(size)?)
        };
        self.parts.push(Part {
            bytes: Vec::with_capacity(size),
            permit,
        });
        Ok(())
    }
}

impl io::Write for AnswerBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.refused = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An answer that is being sent.
pub(super) struct AnswerBody {
    parts: VecDeque<Part>,
    left: u64,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(part) = self.parts.pop_front() else {
            return Poll::Ready(None);
        };
        self.left -= part.bytes.len() as u64;
        // The permit goes with the bytes, wherever the connection keeps them.
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn budget(bytes: usize) -> Arc<AnswerBudget> {
        AnswerBudget::new(bytes, Arc::new(Connections::new(4)))
    }

    fn deadline() -> CallDeadline {
        CallDeadline::at(Instant::now() + Duration::from_secs(60))
    }

    fn result(budget: &Arc<AnswerBudget>) -> AnswerBuffer {
        AnswerBuffer::result(budget, 1 << 20, deadline())
    }

    #[test]
    fn small_answers_are_outside_of_the_budget() {
        let budget = budget(0);
        let mut answer = result(&budget);
        answer
            .push_json(&"x".repeat(FREE_RESULT_BYTES - 100))
            .unwrap();
        assert_eq!(answer.text().len(), answer.len());
        let mut large = result(&budget);
        let refused = large.push_json(&"x".repeat(FREE_RESULT_BYTES)).unwrap_err();
        assert_eq!(refused.code(), -32005, "{refused}");
    }

    #[test]
    fn bytes_come_back_part_by_part() {
        let budget = budget(1 << 20);
        let text = "y".repeat(500 << 10);
        let mut answer = result(&budget);
        answer.push_json(&text).unwrap();
        let mut reply = AnswerBuffer::reply(&budget);
        reply.push(b"[").unwrap();
        let before = budget.left();
        reply.append(answer).unwrap();
        assert!(
            budget.left() >= before - FREE_REPLY_BYTES,
            "moved, not charged twice"
        );
        reply.push(b"]").unwrap();
        assert_eq!(reply.text(), format!("[\"{text}\"]"));
        assert!(budget.left() < (1 << 20) - (480 << 10));

        let length = reply.len() as u64;
        let mut body = reply.into_body();
        assert_eq!(body.size_hint().exact(), Some(length));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut least, mut sent) = (budget.left(), 0);
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) {
            let bytes = frame.into_data().unwrap();
            sent += bytes.len() as u64;
            assert!(budget.left() >= least, "bytes that exist are charged");
            least = budget.left();
            drop(bytes);
        }
        assert_eq!((sent, budget.left()), (length, 1 << 20));
    }

    #[test]
    fn one_answer_is_bounded_in_size_and_time() {
        let budget = budget(4 << 20);
        let mut large = result(&budget);
        let refused = large.push_json(&"z".repeat(1 << 20)).unwrap_err();
        assert_eq!(refused, RpcError::ResponseTooLarge);
        let over = CallDeadline::at(Instant::now());
        let mut late = AnswerBuffer::result(&budget, 1 << 20, over);
        assert_eq!(late.push_json("late").unwrap_err().code(), -32002);
        drop((large, late));
        assert_eq!(budget.left(), 4 << 20);
        let most = budget.reserve(4 << 20).unwrap();
        assert_eq!(budget.reserve(1 << 20).err().unwrap().code(), -32005);
        assert_eq!(budget.reserve(5 << 20).err().unwrap().code(), -32003);
        assert!(budget.reserve(FREE_RESULT_BYTES).is_ok());
        drop(most);
        assert_eq!(budget.left(), 4 << 20);
    }
}
