//! The journal of accepted transactions.
//!
//! A transaction whose hash a client was given is *accepted*. It lies in this node's memory until a
//! block takes it, and without this journal the end of the process would lose it.
//!
//! Everything that enters the pool is appended here, by gossip too. It is handed to the system with
//! `write` and never synced: it outlives the end of processes in any order, `kill -9` included, and not
//! the power loss of all machines at once (a receipt does: blocks are synced). At start, what is whole
//! is read, what is not is counted, and the rest of the node admits it again ([`Recovered`]).
//!
//! ```text
//! pool ──push (never waits)──▶ pending ──▶ writer thread ──write──▶ file
//!                                              │ file too large, or a push or a write was lost
//!                                              └──▶ new file from what the pool holds, renamed over it
//! client's thread ──flush──▶ waits until everything pushed so far is written, or could not be
//! ```
//!
//! **Bounds.** The file is rewritten when it exceeds twice what lives in it by [`FLOOR_BYTES`], and what
//! lives in it is bounded by the pool: see [`file_bytes_max`]. Pending bytes are bounded by
//! [`PENDING_BYTES_MAX`]; beyond that nobody waits: they are dropped, and the file is rewritten from the
//! pool, which holds them.
//!
//! **Failures.** After a write that failed, the file's end is not known: it is rewritten as a whole, at
//! once and then every [`RETRY_INTERVAL`]. Until that works nothing is accepted from clients
//! ([`MempoolError::Journal`](super::MempoolError)); what peers bring is pooled all the same, since the
//! node of its client has it in its own journal. The node never ends because of its journal.

mod format;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::Bytes;
use axolotl_common::ChainId;
use axolotl_ledger::{Transaction, Tx};

use self::{format::Entry, writer::Writer};
use super::{
    counters::PoolCounters,
    interrupted::{INTERRUPTED_MAX, Interrupted},
    limits::MempoolLimits,
    pool::Pool,
    queue::size_of,
};

/// Pushed bytes that may wait for the writer: a second of 10,000 transfers a second and more. Beyond
/// that they are dropped and the file is rewritten from the pool.
pub const PENDING_BYTES_MAX: usize = 4 << 20;
/// How much more than twice its live bytes the file may hold: at 500 transfers a second of 120 bytes a
/// small file is rewritten about every 15 s.
pub const FLOOR_BYTES: usize = 1 << 20;
/// How long a client waits for its transaction to be written. A `write` takes microseconds unless the
/// disk hangs, and then the client had better try another node.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before another attempt to rewrite a file that could not be written.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Sizes and times of a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// See [`PENDING_BYTES_MAX`].
    pub pending_bytes_max: usize,
    /// See [`FLOOR_BYTES`].
    pub floor_bytes: usize,
    /// See [`FLUSH_TIMEOUT`].
    pub flush_timeout: Duration,
    /// See [`RETRY_INTERVAL`].
    pub retry_interval: Duration,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            pending_bytes_max: PENDING_BYTES_MAX,
            floor_bytes: FLOOR_BYTES,
            flush_timeout: FLUSH_TIMEOUT,
            retry_interval: RETRY_INTERVAL,
        }
    }
}

/// Largest file of a pool with these limits. A pooled transaction counts for more than twice its record
/// ([`size_of`]), so the pool's bytes are a bound for twice the live records; as many may wait to be
/// admitted.
pub const fn file_bytes_max(limits: &MempoolLimits, options: &JournalOptions) -> usize {
    2 * limits.max_bytes
        + 2 * format::INTERRUPTED_RECORD_BYTES * INTERRUPTED_MAX
        + options.floor_bytes
        + options.pending_bytes_max
}

/// Why the journal does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalFailure {
    /// A file operation failed.
    #[error("cannot {action}: {}", cause(*kind, *os))]
    File {
        /// What was tried.
        action: &'static str,
        /// The kind of the system's error.
        kind: io::ErrorKind,
        /// The system's number of it, where it has one.
        os: Option<i32>,
    },
    /// The writer has not come to it in time.
    #[error("the disk did not take it within {} s", .0.as_secs())]
    Slow(Duration),
}

impl JournalFailure {
    fn file(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::File {
            action,
            kind: error.kind(),
            os: error.raw_os_error(),
        }
    }
}

fn cause(kind: io::ErrorKind, os: Option<i32>) -> io::Error {
    os.map_or_else(|| kind.into(), io::Error::from_raw_os_error)
}

/// What an earlier run left in the journal.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Its transactions, in the order in which they were accepted.
    pub transactions: Vec<Tx>,
    /// Its interrupted transactions.
    pub interrupted: Vec<Interrupted>,
    /// Stretches of damage that were passed over, and records that are no transaction of this chain.
    pub damaged: usize,
    /// Bytes at the end that were cut off within a record.
    pub torn_bytes: usize,
    /// Transactions beyond what the pool may hold: the oldest, dropped.
    pub surplus: usize,
}

/// The journal of a pool. Clones are handles of the same one; its thread ends with the last.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    flush_timeout: Duration,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake_writer.notify_all();
    }
}

/// What the writer and the pushing side share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake_writer: Condvar,
    written: Condvar,
    pending_bytes_max: usize,
}

#[derive(Debug)]
struct State {
    pending: Vec<Entry>,
    pending_bytes: usize,
    /// Entries pushed so far, and rewrites asked for: [`Journal::flush`] waits for both.
    pushed: u64,
    /// Of those, how many are in the file, in order.
    written: u64,
    /// The file lacks something that the pool holds, or holds too much that the pool does not.
    rewrite: bool,
    failure: Option<JournalFailure>,
    /// When the next attempt after a failure is due.
    retry_at: Option<Instant>,
    /// Recovered transactions that are not in the pool yet: a rewrite keeps them.
    waiting: Vec<Tx>,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    /// Reads what is there, restores the pool's memory of interrupted transactions, and starts the
    /// writer, which begins with a new file. Never fails: a journal that cannot be read or written is
    /// reported, and retried.
    pub(super) fn open(
        path: &Path,
        options: JournalOptions,
        chain: ChainId,
        limits: &MempoolLimits,
        pool: &Arc<Mutex<Pool>>,
        counters: &PoolCounters,
    ) -> (Self, Recovered) {
        let recovered = recover(path, chain, limits, file_bytes_max(limits, &options));
        {
            let mut pool = super::best::lock(pool);
            for noted in &recovered.interrupted {
                pool.restore_interrupted(*noted);
            }
        }
        counters.journal_damaged.inc_by(recovered.damaged as u64);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                pending: Vec::new(),
                pending_bytes: 0,
                pushed: 1,
                written: 0,
                rewrite: true,
                failure: None,
                retry_at: None,
                waiting: recovered.transactions.clone(),
                closing: false,
            }),
            wake_writer: Condvar::new(),
            written: Condvar::new(),
            pending_bytes_max: options.pending_bytes_max,
        });
        let writer = Writer::new(
            path.to_owned(),
            options,
            Arc::clone(&shared),
            Arc::clone(pool),
            counters.clone(),
        );
        let started = std::thread::Builder::new()
            .name("pool-journal".into())
            .spawn(move || writer.run());
        if let Err(error) = started {
            tracing::error!(%error, "the journal's thread cannot be started; transactions of clients are refused");
            shared.lock().failure = Some(JournalFailure::file("start its thread")(error));
        }
        let handle = Handle {
            shared,
            flush_timeout: options.flush_timeout,
        };
        let journal = Self {
            handle: Arc::new(handle),
        };
        (journal, recovered)
    }

    /// Hands an entry to the writer; never waits for it.
    fn push(&self, entry: Entry) {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        state.pushed += 1;
        state.pending_bytes += entry.record_bytes();
        if state.pending_bytes > shared.pending_bytes_max {
            // The pool holds them, and so will the file that is written from it.
            state.rewrite = true;
        }
        if state.rewrite {
            state.pending.clear();
            state.pending_bytes = 0;
        } else {
            state.pending.push(entry);
        }
        drop(state);
        shared.wake_writer.notify_one();
    }

    /// A transaction that has entered the pool.
    pub(super) fn push_transaction(&self, tx: &Tx) {
        self.push(Entry::Transaction(tx.raw().clone()));
    }

    /// A transaction that was interrupted; the pool remembers it already.
    pub(super) fn push_interrupted(&self, noted: Interrupted) {
        self.push(Entry::Interrupted(noted));
    }

    /// Whether what is pushed now can be expected to be written.
    ///
    /// # Errors
    /// When the last write failed.
    pub(super) fn check(&self) -> Result<(), JournalFailure> {
        match &self.handle.shared.lock().failure {
            None => Ok(()),
            Some(failure) => Err(failure.clone()),
        }
    }

    /// Waits until everything pushed so far was handed to the system.
    ///
    /// # Errors
    /// When that failed, or did not come about in time.
    pub(super) fn flush(&self) -> Result<(), JournalFailure> {
        let (shared, timeout) = (&self.handle.shared, self.handle.flush_timeout);
        let state = shared.lock();
        let goal = state.pushed;
        let (state, _) = shared
            .written
            .wait_timeout_while(state, timeout, |state| {
                state.written < goal && state.failure.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        match &state.failure {
            _ if state.written >= goal => Ok(()),
            Some(failure) => Err(failure.clone()),
            None => Err(JournalFailure::Slow(timeout)),
        }
    }

    /// From now on these recovered transactions alone are kept beside what the pool holds.
    pub(super) fn set_waiting(&self, left: Vec<Tx>) {
        let shared = &self.handle.shared;
        let mut state = shared.lock();
        state.waiting = left;
        if state.waiting.is_empty() {
            // What was refused is not to come back.
            state.pushed += 1;
            state.rewrite = true;
            state.pending.clear();
            state.pending_bytes = 0;
        }
        drop(state);
        shared.wake_writer.notify_one();
    }
}

/// Reads the journal of an earlier run.
fn recover(path: &Path, chain: ChainId, limits: &MempoolLimits, bytes_max: usize) -> Recovered {
    let parsed = match read_file(path, bytes_max) {
        Ok(bytes) => format::parse(&bytes),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "the journal of accepted transactions cannot be read; they may be lost");
            format::Parsed {
                unreadable: true,
                ..format::Parsed::default()
            }
        }
    };
    let mut recovered = Recovered {
        damaged: parsed.damaged + usize::from(parsed.unreadable),
        torn_bytes: parsed.torn_bytes,
        ..Recovered::default()
    };
    if parsed.unreadable {
        let aside = beside(path, "unreadable");
        if let Err(error) = std::fs::rename(path, &aside) {
            tracing::warn!(path = %path.display(), %error, "the unreadable journal cannot be kept and is overwritten");
        }
    }
    let mut seen = HashSet::new();
    // The newest first: if there are more than the pool can hold, those are kept.
    let mut room = limits.max_bytes;
    for entry in parsed.entries.into_iter().rev() {
        match entry {
            Entry::Interrupted(noted) => recovered.interrupted.push(noted),
            Entry::Transaction(raw) => match Transaction::decode(&raw, chain) {
                Err(error) => {
                    tracing::debug!(%error, "a record of the journal is no transaction of this chain");
                    recovered.damaged += 1;
                }
                Ok(tx) if !seen.insert(tx.hash()) => {}
                Ok(tx) => {
                    let tx = Arc::new(tx);
                    match room.checked_sub(size_of(&tx)) {
                        None => recovered.surplus += 1,
                        Some(left) => {
                            room = left;
                            recovered.transactions.push(tx);
                        }
                    }
                }
            },
        }
    }
    recovered.transactions.reverse();
    recovered.interrupted.reverse();
    recovered
}

/// At most `bytes_max` of a file: this program writes no more.
fn read_file(path: &Path, bytes_max: usize) -> io::Result<Bytes> {
    use std::io::Read;
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Bytes::new()),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(extension);
    path.with_file_name(name)
}
