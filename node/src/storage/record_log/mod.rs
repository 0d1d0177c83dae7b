//! An append-only log of records, on which the block log and the consensus log stand.
//!
//! The log is a directory of segments. A *position* is a byte offset in the whole log; a segment is
//! named by the position of its first byte, so that a record is found by its position alone and old
//! segments can go without renumbering anything.
//!
//! ```text
//! segment: magic 8 | base 8 | salt 8 | crc32c 4 | zero 4 | records …
//! record:  marker 4 | crc32c 4 | length 4 | durable 8 | payload
//! ```
//!
//! Numbers are little-endian. The checksum covers salt, length, `durable` and payload. The salt is
//! random per segment and the marker is a part of it, so nothing that a stranger put into a payload
//! reads as a record. `durable` is the position up to which the log was known to be on disk when
//! the record was written; it tells the two kinds of unreadable bytes apart:
//!
//! - **A torn tail**: bytes after the last sync that a crash left half written. No record behind them
//!   says that they were durable. They are cut when the log is opened, and reported.
//! - **Damage**: bytes that were durable once and are not what was written. They are reported with
//!   their position and length and never cut; the records behind them stay readable.
//!
//! A segment is created under another name, synced, renamed, and its directory synced. After a
//! write or sync that failed nobody knows what is on disk, so the log refuses everything from then
//! on; the process is expected to end.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::files::{At, FileError, create_private_dir, sync_dir};

mod reader;
mod segment;
#[cfg(test)]
mod tests;

pub use reader::{Item, LogReader, Records};
pub use segment::RECORD_HEADER_BYTES;
use segment::{
    SEGMENT_HEADER_BYTES, Segment, Step, after, checksum, create_segment, cut, find_record,
    list_segments, marker, open_for_writing, step, was_durable,
};

/// A write buffer that grew beyond this is given back.
const KEPT_BUFFER_BYTES: usize = 256 << 10;

/// Sizes of a log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// A segment that would grow beyond this is closed and a new one begun.
    pub segment_bytes: u64,
    /// Largest payload of a record.
    pub max_record_bytes: usize,
}

/// Why the log did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed. After one that wrote, the log refuses everything.
    #[error(transparent)]
    File(#[from] FileError),
    /// An earlier write or sync failed.
    #[error("the log refuses further use after: {0}")]
    Refused(String),
    /// The record does not fit.
    #[error("a record of {bytes} bytes; 1 to {max} are allowed")]
    Size {
        /// Bytes of the payload.
        bytes: usize,
        /// Largest allowed.
        max: usize,
    },
    /// There is no such record, or it is not what was written.
    #[error("{} is damaged at byte {offset} (log position {position}): {why}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Position in the log.
        position: u64,
        /// Offset in the segment.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
}

impl LogError {
    /// Whether the process must end: what is on disk is not known any more.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::File(_) | Self::Refused(_))
    }
}

/// A stretch of the log that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The segment.
    pub path: PathBuf,
    /// Position in the log.
    pub position: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What was found when a log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The torn tail that was cut.
    pub cut: Option<Stretch>,
    /// Damage in the part that was scanned.
    pub damage: Vec<Stretch>,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub position: u64,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// The writing end of a log. There is one per directory; the data directory's lock sees to it.
#[derive(Debug)]
pub struct RecordLog {
    dir: PathBuf,
    options: LogOptions,
    reader: LogReader,
    active: Arc<Segment>,
    file: Arc<File>,
    /// Position up to which everything is on disk.
    durable: u64,
    buffer: Vec<u8>,
    refused: Option<String>,
}

impl RecordLog {
    /// Opens or creates the log in a directory. The records from position `scan_from` on (a
    /// record's or a segment's; 0 is everything) are verified and handed to `visit`; a torn tail is
    /// cut; what is left is synced, so that nothing is acted on that a power failure could take
    /// back.
    ///
    /// # Errors
    /// When a file operation fails. Damage is no error but part of the report.
    pub fn open(
        dir: &Path,
        options: LogOptions,
        scan_from: u64,
        visit: &mut dyn FnMut(Record),
    ) -> Result<(Self, OpenReport), LogError> {
        create_private_dir(dir)?;
        let mut segments = list_segments(dir)?;
        let mut report = OpenReport::default();
        let first = SEGMENT_HEADER_BYTES;
        for segment in segments.values() {
            let last = Some(&segment.base) == segments.keys().next_back();
            if segment.end() <= scan_from && !last {
                continue;
            }
            if segment.salt.is_none() {
                report.damage.push(segment.stretch(0, segment.len()));
                continue;
            }
            let file = segment.open()?;
            let mut offset = scan_from.saturating_sub(segment.base).max(first);
            if offset > segment.len() {
                offset = first;
            }
            loop {
                match step(&file, segment, offset, options.max_record_bytes)? {
                    Step::End => break,
                    Step::Record { offset: at, record } => {
                        offset = after(at, &record.payload);
                        visit(Record {
                            position: segment.base + at,
                            payload: record.payload,
                        });
                    }
                    Step::Unreadable { from } => {
                        if last && !was_durable(&file, segment, from, options.max_record_bytes)? {
                            report.cut = Some(segment.stretch(from, segment.len()));
                            cut(segment, from)?;
                            break;
                        }
                        let next = find_record(&file, segment, from + 1, options.max_record_bytes)?;
                        offset = next.unwrap_or(segment.len());
                        report.damage.push(segment.stretch(from, offset));
                    }
                }
            }
        }
        let newest = match segments.values().next_back() {
            Some(segment) if segment.salt.is_some() => Arc::clone(segment),
            other => create_segment(dir, other.map_or(0, |s| s.end()))?,
        };
        let (active, file) = open_for_writing(&newest)?;
        file.sync_data().at("sync", &active.path)?;
        segments.insert(active.base, Arc::clone(&active));
        let log = Self {
            dir: dir.to_owned(),
            options,
            durable: active.end(),
            reader: LogReader {
                segments: Arc::new(RwLock::new(segments)),
                max_record_bytes: options.max_record_bytes,
            },
            active,
            file,
            buffer: Vec::new(),
            refused: None,
        };
        Ok((log, report))
    }

    /// A handle that reads.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Position at which the next record will begin.
    pub fn end(&self) -> u64 {
        self.active.end()
    }

    /// Position of the first byte of the segment that is written.
    pub fn segment(&self) -> u64 {
        self.active.base
    }

    /// Position up to which everything is on disk.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Appends a record made of parts; it is not durable before [`Self::sync`]. Returns its
    /// position.
    ///
    /// # Errors
    /// [`LogError::Size`] leaves the log as it was; every other error is final.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<u64, LogError> {
        self.check()?;
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let max = self.options.max_record_bytes.min(u32::MAX as usize);
        if bytes == 0 || bytes > max {
            return Err(LogError::Size { bytes, max });
        }
        let total = RECORD_HEADER_BYTES + bytes as u64;
        let used = self.active.len();
        if used > SEGMENT_HEADER_BYTES && used + total > self.options.segment_bytes {
            self.rotate()?;
        }
        let salt = self.active.salt.unwrap_or_default();
        self.buffer.clear();
        self.buffer.extend_from_slice(&marker(salt));
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&(bytes as u32).to_le_bytes());
        self.buffer.extend_from_slice(&self.durable.to_le_bytes());
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        let header = RECORD_HEADER_BYTES as usize;
        let crc = checksum(salt, &self.buffer[8..header], &self.buffer[header..]);
        self.buffer[4..8].copy_from_slice(&crc.to_le_bytes());

        let offset = self.active.len();
        let written = self.file.write_all_at(&self.buffer, offset);
        self.guard(written, "write")?;
        self.active.len.store(offset + total, Ordering::Release);
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        Ok(self.active.base + offset)
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// Every error is final.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check()?;
        if self.durable < self.active.end() {
            let synced = self.file.sync_data();
            self.guard(synced, "sync")?;
            self.durable = self.active.end();
        }
        Ok(())
    }

    /// Removes the segments that end at or below a position; never the one that is written.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn drop_below(&mut self, position: u64) -> Result<(), LogError> {
        let old: Vec<_> = self
            .reader
            .snapshot()
            .into_iter()
            .filter(|segment| segment.end() <= position && segment.base != self.active.base)
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        for segment in &old {
            fs::remove_file(&segment.path).at("remove", &segment.path)?;
            let mut segments = write_lock(&self.reader.segments);
            segments.remove(&segment.base);
        }
        Ok(sync_dir(&self.dir)?)
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let next = create_segment(&self.dir, self.active.end())
            .and_then(|segment| open_for_writing(&segment));
        let (segment, file) = match next {
            Ok(next) => next,
            Err(e) => {
                self.refused = Some(e.to_string());
                return Err(e.into());
            }
        };
        let closed = Arc::new(Segment {
            base: self.active.base,
            path: self.active.path.clone(),
            salt: self.active.salt,
            len: AtomicU64::new(self.active.len()),
            file: None,
        });
        let mut segments = write_lock(&self.reader.segments);
        segments.insert(closed.base, closed);
        segments.insert(segment.base, Arc::clone(&segment));
        drop(segments);
        self.durable = segment.end();
        self.active = segment;
        self.file = file;
        Ok(())
    }

    /// Makes every further write fail: it goes through a handle that may only read.
    #[cfg(test)]
    pub(in crate::storage) fn break_writes(&mut self) {
        let file = File::open(&self.active.path).expect("the segment is there");
        self.file = Arc::new(file);
    }

    fn check(&self) -> Result<(), LogError> {
        match &self.refused {
            Some(why) => Err(LogError::Refused(why.clone())),
            None => Ok(()),
        }
    }

    fn guard(&mut self, result: io::Result<()>, action: &'static str) -> Result<(), LogError> {
        result.at(action, &self.active.path).map_err(|e| {
            self.refused = Some(e.to_string());
            e.into()
        })
    }
}

fn write_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
