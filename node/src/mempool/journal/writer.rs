//! The thread that owns the journal's file.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axolotl_common::crypto::random_bytes;

use super::{
    JournalFailure, JournalOptions, Shared, beside,
    format::{self, Entry, Salt},
};
use crate::mempool::{best::lock, counters::PoolCounters, pool::Pool, queue::size_of};

/// Bytes that are gathered before they are written while a file is rewritten.
const CHUNK_BYTES: usize = 256 << 10;

/// What is to be done next. The number is how many pushed entries the file holds afterwards.
#[derive(Debug)]
pub(super) enum Work {
    Append(Vec<Entry>, u64),
    Rewrite(u64),
    End,
}

/// The file that is appended to.
#[derive(Debug)]
struct Current {
    file: File,
    salt: Salt,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    options: JournalOptions,
    shared: Arc<Shared>,
    pool: Arc<Mutex<Pool>>,
    counters: PoolCounters,
    current: Option<Current>,
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        options: JournalOptions,
        shared: Arc<Shared>,
        pool: Arc<Mutex<Pool>>,
        counters: PoolCounters,
    ) -> Self {
        Self {
            path,
            options,
            shared,
            pool,
            counters,
            current: None,
            buffer: Vec::new(),
        }
    }

    /// Works until the last handle is gone and everything pushed was tried.
    pub(super) fn run(mut self) {
        loop {
            let (outcome, written) = match self.next() {
                Work::End => return,
                Work::Append(entries, written) => (self.append(&entries), written),
                Work::Rewrite(written) => (self.rewrite(), written),
            };
            match outcome {
                Ok(()) => self.succeeded(written),
                Err(failure) => self.failed(failure),
            }
        }
    }

    fn next(&self) -> Work {
        let mut state = self.shared.lock();
        loop {
            let now = Instant::now();
            let due = state.retry_at.is_none_or(|at| at <= now);
            if state.rewrite && (due || state.closing) {
                state.rewrite = false;
                state.pending.clear();
                state.pending_bytes = 0;
                return Work::Rewrite(state.pushed);
            }
            if !state.rewrite && !state.pending.is_empty() {
                state.pending_bytes = 0;
                return Work::Append(std::mem::take(&mut state.pending), state.pushed);
            }
            if state.closing {
                return Work::End;
            }
            state = match state.retry_at.filter(|_| state.rewrite) {
                None => {
                    let woken = self.shared.wake_writer.wait(state);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
                Some(at) => {
                    let left = at.saturating_duration_since(now);
                    let woken = self.shared.wake_writer.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn append(&mut self, entries: &[Entry]) -> Result<(), JournalFailure> {
        let Some(current) = &mut self.current else {
            return self.rewrite();
        };
        self.buffer.clear();
        for entry in entries {
            format::encode(current.salt, entry, &mut self.buffer);
        }
        let wrote = current.file.write_all(&self.buffer);
        wrote.map_err(JournalFailure::file("append to it"))?;
        current.bytes += self.buffer.len();
        self.buffer.shrink_to(CHUNK_BYTES);
        let bytes = current.bytes;
        if bytes > self.options.floor_bytes && bytes > self.bytes_allowed() {
            self.rewrite()?;
        }
        self.count();
        Ok(())
    }

    /// Twice the live bytes, and the floor: the pool's count of a transaction is more than twice its
    /// record.
    fn bytes_allowed(&self) -> usize {
        let waiting: usize = self.shared.lock().waiting.iter().map(size_of).sum();
        let pool = lock(&self.pool);
        let interrupted = pool.interrupted_count() * format::INTERRUPTED_RECORD_BYTES;
        pool.stats().bytes + waiting + 2 * interrupted + self.options.floor_bytes
    }

    /// Writes what the pool holds, and what waits to be admitted, to a new file in place of the old.
    /// What is pushed meanwhile comes behind it.
    fn rewrite(&mut self) -> Result<(), JournalFailure> {
        self.current = None;
        let temporary = beside(&self.path, "tmp");
        match self.write_new(&temporary) {
            Ok(current) => self.current = Some(current),
            Err(failure) => {
                // It may be the very thing that fills the disk.
                drop(std::fs::remove_file(&temporary));
                return Err(failure);
            }
        }
        self.count();
        Ok(())
    }

    fn write_new(&mut self, temporary: &std::path::Path) -> Result<Current, JournalFailure> {
        let salt = Salt(random_bytes());
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(temporary)
            .map_err(JournalFailure::file("create it"))?;
        let waiting = self.shared.lock().waiting.clone();
        let (pooled, interrupted) = {
            let pool = lock(&self.pool);
            (pool.by_arrival(), pool.interrupted())
        };
        let interrupted = interrupted.into_iter().map(Entry::Interrupted);
        let transactions = waiting.into_iter().chain(pooled);
        let transactions = transactions.map(|tx| Entry::Transaction(tx.raw().clone()));
        let mut bytes = 0;
        self.buffer.clear();
        self.buffer.extend_from_slice(&format::header(salt));
        for entry in interrupted.chain(transactions) {
            format::encode(salt, &entry, &mut self.buffer);
            if self.buffer.len() >= CHUNK_BYTES {
                bytes += flush(&mut file, &mut self.buffer)?;
            }
        }
        bytes += flush(&mut file, &mut self.buffer)?;
        std::fs::rename(temporary, &self.path).map_err(JournalFailure::file("replace it"))?;
        Ok(Current { file, salt, bytes })
    }

    fn count(&self) {
        let bytes = self.current.as_ref().map_or(0, |current| current.bytes);
        self.counters.journal_bytes.set(bytes as u64);
    }

    fn succeeded(&self, written: u64) {
        let mut state = self.shared.lock();
        state.written = written;
        state.retry_at = None;
        if state.failure.take().is_some() {
            tracing::info!(path = %self.path.display(), "the journal of accepted transactions is written again");
        }
        drop(state);
        self.shared.written.notify_all();
    }

    fn failed(&mut self, failure: JournalFailure) {
        self.current = None;
        self.counters.journal_failures.inc();
        let mut state = self.shared.lock();
        if state.failure.is_none() {
            tracing::error!(
                path = %self.path.display(), %failure,
                "the journal of accepted transactions cannot be written; until it can, transactions of clients are refused"
            );
        }
        state.failure = Some(failure);
        state.rewrite = !state.closing;
        state.retry_at = Some(Instant::now() + self.options.retry_interval);
        drop(state);
        self.shared.written.notify_all();
    }
}

fn flush(file: &mut File, buffer: &mut Vec<u8>) -> Result<usize, JournalFailure> {
    let bytes = buffer.len();
    file.write_all(buffer)
        .map_err(JournalFailure::file("write it"))?;
    buffer.clear();
    Ok(bytes)
}
