//! The files of a log: segments and the records in them.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axolotl_common::crypto::random_bytes;

use super::{LogError, Stretch};
use crate::storage::files::{At, FileError, write_atomic};

const MAGIC: [u8; 8] = *b"AXLOTLG1";
pub(super) const SEGMENT_HEADER_BYTES: u64 = 32;
/// What a record takes beside its payload.
pub const RECORD_HEADER_BYTES: u64 = 20;
const EXTENSION: &str = "log";
/// Bytes read at once while the next readable record is searched behind unreadable bytes.
const SEARCH_CHUNK: usize = 64 << 10;
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: u64,
    pub(super) path: PathBuf,
    /// `None`: the header is unreadable, and with it the segment.
    pub(super) salt: Option<u64>,
    /// Bytes of the file that count.
    pub(super) len: AtomicU64,
    /// Open for the segment that is written; the others are opened for each read.
    pub(super) file: Option<Arc<File>>,
}

impl Segment {
    pub(super) fn open(&self) -> Result<Arc<File>, FileError> {
        match &self.file {
            Some(file) => Ok(Arc::clone(file)),
            None => File::open(&self.path).map(Arc::new).at("open", &self.path),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) -> u64 {
        self.base + self.len()
    }

    pub(super) fn damaged(&self, offset: u64, why: &'static str) -> LogError {
        LogError::Damaged {
            path: self.path.clone(),
            position: self.base + offset,
            offset,
            why,
        }
    }

    pub(super) fn stretch(&self, from: u64, to: u64) -> Stretch {
        Stretch {
            path: self.path.clone(),
            position: self.base + from,
            bytes: to.saturating_sub(from),
        }
    }
}

pub(super) struct RawRecord {
    pub(super) payload: Vec<u8>,
    pub(super) durable: u64,
}

pub(super) fn marker(salt: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = salt.to_be_bytes();
    [a, b, c, d]
}

pub(super) fn checksum(salt: u64, length_and_durable: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, length_and_durable), payload)
}

pub(super) fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

pub(super) fn le64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// Reads the record at `offset` of a segment. The inner error says why there is none.
pub(super) fn read_record(
    file: &File,
    segment: &Segment,
    offset: u64,
    max_record_bytes: usize,
) -> Result<Result<RawRecord, &'static str>, FileError> {
    let Some(salt) = segment.salt else {
        return Ok(Err("the header of the segment is unreadable"));
    };
    let end = segment.len();
    if offset + RECORD_HEADER_BYTES > end {
        return Ok(Err("the segment ends within a record's header"));
    }
    let mut header = [0; RECORD_HEADER_BYTES as usize];
    if let Err(e) = file.read_exact_at(&mut header, offset) {
        return short_read(e, &segment.path);
    }
    if header[..4] != marker(salt) {
        return Ok(Err("no record begins here"));
    }
    let length = le32(&header[8..12]) as usize;
    if length == 0 || length > max_record_bytes {
        return Ok(Err("the length of the record is out of bounds"));
    }
    if offset + RECORD_HEADER_BYTES + length as u64 > end {
        return Ok(Err("the segment ends within a record"));
    }
    let mut payload = vec![0; length];
    if let Err(e) = file.read_exact_at(&mut payload, offset + RECORD_HEADER_BYTES) {
        return short_read(e, &segment.path);
    }
    if checksum(salt, &header[8..], &payload) != le32(&header[4..8]) {
        return Ok(Err("the checksum of the record is wrong"));
    }
    Ok(Ok(RawRecord {
        payload,
        durable: le64(&header[12..20]),
    }))
}

/// A file shorter than expected is damage; anything else is the system's failure.
pub(super) fn short_read<T>(
    error: io::Error,
    path: &Path,
) -> Result<Result<T, &'static str>, FileError> {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        Ok(Err("the segment is shorter than it was"))
    } else {
        Err(error).at("read", path)
    }
}

/// Offset of the first readable record at or behind `from`.
pub(super) fn find_record(
    file: &File,
    segment: &Segment,
    from: u64,
    max_record_bytes: usize,
) -> Result<Option<u64>, FileError> {
    let Some(salt) = segment.salt else {
        return Ok(None);
    };
    let marker = marker(salt);
    let mut chunk = vec![0; SEARCH_CHUNK];
    let mut at = from;
    while at + RECORD_HEADER_BYTES <= segment.len() {
        let read = file.read_at(&mut chunk, at).at("read", &segment.path)?;
        if read < marker.len() {
            return Ok(None);
        }
        for (i, window) in chunk[..read].windows(marker.len()).enumerate() {
            let offset = at + i as u64;
            if window == marker && read_record(file, segment, offset, max_record_bytes)?.is_ok() {
                return Ok(Some(offset));
            }
        }
        at += (read + 1 - marker.len()) as u64;
    }
    Ok(None)
}

/// One step of a scan.
pub(super) enum Step {
    Record { offset: u64, record: RawRecord },
    Unreadable { from: u64 },
    End,
}

pub(super) fn step(
    file: &File,
    segment: &Segment,
    offset: u64,
    max_record_bytes: usize,
) -> Result<Step, FileError> {
    if offset >= segment.len() {
        return Ok(Step::End);
    }
    Ok(
        match read_record(file, segment, offset, max_record_bytes)? {
            Ok(record) => Step::Record { offset, record },
            Err(_) => Step::Unreadable { from: offset },
        },
    )
}

pub(super) fn after(offset: u64, payload: &[u8]) -> u64 {
    offset + RECORD_HEADER_BYTES + payload.len() as u64
}

/// Whether a record behind `from` says that the bytes at `from` were on disk.
pub(super) fn was_durable(
    file: &File,
    segment: &Segment,
    from: u64,
    max_record_bytes: usize,
) -> Result<bool, FileError> {
    let mut search = from + 1;
    while let Some(offset) = find_record(file, segment, search, max_record_bytes)? {
        let Ok(record) = read_record(file, segment, offset, max_record_bytes)? else {
            return Ok(false);
        };
        if record.durable > segment.base + from {
            return Ok(true);
        }
        search = after(offset, &record.payload);
    }
    Ok(false)
}

pub(super) fn cut(segment: &Segment, at: u64) -> Result<(), FileError> {
    let file = OpenOptions::new()
        .write(true)
        .open(&segment.path)
        .at("open", &segment.path)?;
    file.set_len(at).at("cut", &segment.path)?;
    file.sync_all().at("sync", &segment.path)?;
    segment.len.store(at, Ordering::Release);
    Ok(())
}

pub(super) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.{EXTENSION}"))
}

pub(super) fn create_segment(dir: &Path, base: u64) -> Result<Arc<Segment>, FileError> {
    let salt = u64::from_le_bytes(random_bytes());
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&base.to_le_bytes());
    header[16..24].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32c::crc32c(&header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    let path = segment_path(dir, base);
    write_atomic(&path, &header)?;
    Ok(Arc::new(Segment {
        base,
        path,
        salt: Some(salt),
        len: AtomicU64::new(SEGMENT_HEADER_BYTES),
        file: None,
    }))
}

pub(super) fn open_for_writing(segment: &Segment) -> Result<(Arc<Segment>, Arc<File>), FileError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&segment.path)
        .map(Arc::new)
        .at("open", &segment.path)?;
    let segment = Segment {
        base: segment.base,
        path: segment.path.clone(),
        salt: segment.salt,
        len: AtomicU64::new(segment.len()),
        file: Some(Arc::clone(&file)),
    };
    Ok((Arc::new(segment), file))
}

pub(super) fn list_segments(dir: &Path) -> Result<BTreeMap<u64, Arc<Segment>>, FileError> {
    let mut segments = BTreeMap::new();
    for entry in fs::read_dir(dir).at("read directory", dir)? {
        let path = entry.at("read directory", dir)?.path();
        let base = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".log"))
            .and_then(|digits| digits.parse().ok());
        if let Some(base) = base {
            let file = File::open(&path).at("open", &path)?;
            let len = file.metadata().at("look at", &path)?.len();
            let salt = read_header(&file, &path, base)?;
            let segment = Segment {
                base,
                path,
                salt,
                len: AtomicU64::new(len),
                file: None,
            };
            segments.insert(base, Arc::new(segment));
        }
    }
    // A segment that does not reach the next one lost its end: its length is what it should be,
    // so that the missing part shows as damage.
    let bases: Vec<u64> = segments.keys().copied().collect();
    for pair in bases.windows(2) {
        if let [base, next] = pair
            && let Some(segment) = segments.get(base)
        {
            segment.len.store(next - base, Ordering::Release);
        }
    }
    Ok(segments)
}

pub(super) fn read_header(file: &File, path: &Path, base: u64) -> Result<Option<u64>, FileError> {
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    match file.read_exact_at(&mut header, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.at("read", path)?,
    }
    let whole = header[..8] == MAGIC
        && le64(&header[8..16]) == base
        && le32(&header[24..28]) == crc32c::crc32c(&header[..24]);
    Ok(whole.then(|| le64(&header[16..24])))
}
