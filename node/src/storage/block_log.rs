//! The block log: every final block with its proof and its receipts.
//!
//! A record holds the block's bytes, the proof that it is final, the receipts, and the
//! transactions' senders, so that reading a block back recovers no signature. Beside the log lies an
//! index from height to position, 8 bytes a block, read with `pread`; it is derived data, synced at
//! each checkpoint and rebuilt from the log where it is missing.
//!
//! At open only what was written after the last checkpoint is verified. A record that turns out to be
//! damaged is an error with height and position when it is read; the same block, fetched from
//! peers, is appended again ([`BlockLog::append`]) and takes the place of the damaged one.
//!
//! ```text
//! version 2 | height 8 | lengths of block, proof, receipts 4 each | the three | senders
//! ```

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy_primitives::Address;
use alloy_rlp::Header as RlpHeader;
use axolotl_common::{BlockProof, Height, limits::BLOCK_RECORD_PREFIX_BYTES};
use axolotl_ledger::Receipt;
use borsh::BorshDeserialize;

use super::{
    files::{At, FileError, create_private_dir, sync_dir},
    record_log::{LogError, LogOptions, LogReader, RecordLog, Stretch},
};

const SEGMENT_BYTES: u64 = 256 << 20;
const VERSION: u8 = 2;
const PREFIX_BYTES: usize = BLOCK_RECORD_PREFIX_BYTES;
const NO_RECEIPTS: u32 = u32::MAX;
const INDEX_MAGIC: [u8; 8] = *b"AXHEIGH1";
const INDEX_HEADER_BYTES: u64 = 8;

/// Largest record: a genesis whose blocks could need more is refused ([`axolotl_common::limits`]).
pub use axolotl_common::limits::MAX_BLOCK_RECORD_BYTES;

/// Sizes of the block log.
pub const BLOCK_LOG_OPTIONS: LogOptions = LogOptions {
    segment_bytes: SEGMENT_BYTES,
    max_record_bytes: MAX_BLOCK_RECORD_BYTES,
};

/// Why a block could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlockLogError {
    /// The log failed.
    #[error(transparent)]
    Log(LogError),
    /// The record of this block is not what was written.
    #[error("block {height} is damaged in the block log at position {position}: {why}")]
    Damaged {
        /// Height of the block.
        height: Height,
        /// Position in the log; 0 when it is not known.
        position: u64,
        /// What is wrong.
        why: String,
    },
}

impl From<FileError> for BlockLogError {
    fn from(error: FileError) -> Self {
        Self::Log(error.into())
    }
}

/// A record of the block log, split but not decoded.
#[derive(Clone, Debug)]
pub struct BlockRecord {
    height: Height,
    payload: Vec<u8>,
    lengths: [usize; 2],
    receipts: Option<usize>,
}

impl BlockRecord {
    fn split(payload: Vec<u8>) -> Result<Self, &'static str> {
        let header = payload
            .first_chunk::<PREFIX_BYTES>()
            .ok_or("the record is too short")?;
        if header[0] != VERSION {
            return Err("the version of the record is unknown");
        }
        let number = |at: usize| {
            let bytes = header[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        let height = u64::from_le_bytes(header[1..9].try_into().expect("eight bytes"));
        let (block, proof, receipts) = (number(9), number(13), number(17));
        let receipts = (receipts != NO_RECEIPTS).then_some(receipts as usize);
        let lengths = [block as usize, proof as usize];
        let used = PREFIX_BYTES + lengths[0] + lengths[1] + receipts.unwrap_or(0);
        if used > payload.len() || !(payload.len() - used).is_multiple_of(20) {
            return Err("the lengths in the record do not fit");
        }
        Ok(Self {
            height: Height(height),
            payload,
            lengths,
            receipts,
        })
    }

    /// Height of the block.
    pub fn height(&self) -> Height {
        self.height
    }

    /// The block's bytes.
    pub fn block(&self) -> &[u8] {
        &self.payload[PREFIX_BYTES..PREFIX_BYTES + self.lengths[0]]
    }

    /// The proof that the block is final.
    ///
    /// # Errors
    /// When it cannot be decoded.
    pub fn proof(&self) -> Result<BlockProof, String> {
        let from = PREFIX_BYTES + self.lengths[0];
        BlockProof::try_from_slice(&self.payload[from..from + self.lengths[1]])
            .map_err(|e| format!("proof: {e}"))
    }

    /// The receipts; `None` when the block was repaired and its receipts are lost.
    ///
    /// # Errors
    /// When they cannot be decoded.
    pub fn receipts(&self) -> Result<Option<Vec<Receipt>>, String> {
        let Some(length) = self.receipts else {
            return Ok(None);
        };
        let from = PREFIX_BYTES + self.lengths[0] + self.lengths[1];
        decode_receipts(&self.payload[from..from + length]).map(Some)
    }

    /// The senders of the transactions, in their order; none when the block was repaired.
    pub fn senders(&self) -> Vec<Address> {
        let from = PREFIX_BYTES + self.lengths[0] + self.lengths[1] + self.receipts.unwrap_or(0);
        let bytes = &self.payload[from..];
        bytes.chunks_exact(20).map(Address::from_slice).collect()
    }
}

fn encode_receipts(receipts: &[Receipt]) -> Vec<u8> {
    let mut out = Vec::new();
    for receipt in receipts {
        let bytes = receipt.encode();
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

fn decode_receipts(mut bytes: &[u8]) -> Result<Vec<Receipt>, String> {
    let mut receipts = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk().ok_or("receipts: cut short")?;
        let (one, rest) = rest
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .ok_or("receipts: cut short")?;
        receipts.push(Receipt::decode(one).map_err(|e| e.to_string())?);
        bytes = rest;
    }
    Ok(receipts)
}

/// The raw transactions inside an encoded block.
///
/// # Errors
/// When the bytes are not a block.
pub fn raw_transactions(block: &[u8]) -> Result<Vec<&[u8]>, alloy_rlp::Error> {
    let mut rest = block;
    let mut body = RlpHeader::decode_bytes(&mut rest, true)?;
    RlpHeader::decode_bytes(&mut body, true)?;
    let mut list = RlpHeader::decode_bytes(&mut body, true)?;
    let mut raw = Vec::new();
    while !list.is_empty() {
        raw.push(RlpHeader::decode_bytes(&mut list, false)?);
    }
    Ok(raw)
}

/// What is appended.
#[derive(Clone, Copy, Debug)]
pub struct NewBlock<'a> {
    /// Height of the block.
    pub height: Height,
    /// The block's bytes.
    pub block: &'a [u8],
    /// The proof that it is final.
    pub proof: &'a BlockProof,
    /// Its receipts; `None` when it was fetched to repair a damaged record.
    pub receipts: Option<&'a [Receipt]>,
    /// The senders of its transactions; may be empty.
    pub senders: &'a [Address],
}

/// What was found when the block log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockLogReport {
    /// The torn tail that was cut.
    pub cut: Option<Stretch>,
    /// Damage behind the checkpoint.
    pub damage: Vec<Stretch>,
    /// Heights behind the checkpoint that have no readable record although later ones have:
    /// first and last of each gap.
    pub missing: Vec<(Height, Height)>,
    /// Whether the index was rebuilt from the whole log.
    pub rebuilt: bool,
}

/// The block log of a data directory.
#[derive(Debug)]
pub struct BlockLog {
    log: Mutex<RecordLog>,
    reader: LogReader,
    index: HeightIndex,
}

impl BlockLog {
    /// Opens or creates the log. `checkpoint` is the height up to which everything was applied, and
    /// `position` the end of the log at that time.
    ///
    /// # Errors
    /// When a file operation fails.
    pub fn open(
        dir: &Path,
        options: LogOptions,
        checkpoint: Height,
        position: u64,
    ) -> Result<(Self, BlockLogReport), LogError> {
        create_private_dir(dir)?;
        let index = HeightIndex::open(&dir.join("heights.idx"))?;
        let indexed = checkpoint == Height(0) || index.get(checkpoint)?.is_some();
        let (from, position) = if indexed {
            (checkpoint, position)
        } else {
            (Height(0), 0)
        };
        index.truncate(from)?;
        let mut failed = None;
        let mut bad = Vec::new();
        let (log, opened) =
            RecordLog::open(
                dir,
                options,
                position,
                &mut |record| match BlockRecord::split(record.payload) {
                    Ok(block) => {
                        let set = index.set(block.height, record.position);
                        failed = failed.take().or(set.err());
                    }
                    Err(_) => bad.push(record.position),
                },
            )?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        for position in bad {
            tracing::warn!(
                position,
                "a record of the block log is no block; it is ignored"
            );
        }
        let mut missing: Vec<(Height, Height)> = Vec::new();
        for height in from.0 + 1..=index.top().0 {
            if index.get(Height(height))?.is_none() {
                match missing.last_mut() {
                    Some((_, last)) if last.0 + 1 == height => *last = Height(height),
                    _ => missing.push((Height(height), Height(height))),
                }
            }
        }
        let report = BlockLogReport {
            cut: opened.cut,
            damage: opened.damage,
            missing,
            rebuilt: !indexed,
        };
        let log = Self {
            reader: log.reader(),
            log: Mutex::new(log),
            index,
        };
        Ok((log, report))
    }

    /// Highest height with a record.
    pub fn top(&self) -> Height {
        self.index.top()
    }

    /// Position at which the next record will begin.
    pub fn end(&self) -> u64 {
        self.lock().end()
    }

    /// Bytes on disk.
    pub fn total_bytes(&self) -> u64 {
        self.reader.total_bytes()
    }

    /// Appends a block; it is durable after [`Self::sync`]. A later record of a height takes the
    /// place of an earlier one.
    ///
    /// # Errors
    /// Every error is final: the process must end.
    pub fn append(&self, new: &NewBlock<'_>) -> Result<(), LogError> {
        let proof = borsh::to_vec(new.proof).expect("writing to a Vec does not fail");
        let receipts = new.receipts.map(encode_receipts);
        let mut prefix = [0; PREFIX_BYTES];
        prefix[0] = VERSION;
        prefix[1..9].copy_from_slice(&new.height.0.to_le_bytes());
        prefix[9..13].copy_from_slice(&(new.block.len() as u32).to_le_bytes());
        prefix[13..17].copy_from_slice(&(proof.len() as u32).to_le_bytes());
        let length = receipts.as_ref().map_or(NO_RECEIPTS, |r| r.len() as u32);
        prefix[17..21].copy_from_slice(&length.to_le_bytes());
        let receipts = receipts.unwrap_or_default();
        let mut parts: Vec<&[u8]> = vec![&prefix, new.block, &proof, &receipts];
        parts.extend(new.senders.iter().map(|sender| sender.as_slice()));
        let position = self.lock().append(&parts)?;
        Ok(self.index.set(new.height, position)?)
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// Every error is final: the process must end.
    pub fn sync(&self) -> Result<(), LogError> {
        self.lock().sync()
    }

    /// Makes the index durable: before a checkpoint is, so that what lies before the checkpoint need
    /// not be read again.
    ///
    /// # Errors
    /// When the sync fails.
    pub fn sync_index(&self) -> Result<(), LogError> {
        Ok(self.index.sync()?)
    }

    /// The record of a height; `None` above the top.
    ///
    /// # Errors
    /// [`BlockLogError::Damaged`] when the record is not what was written.
    pub fn read(&self, height: Height) -> Result<Option<BlockRecord>, BlockLogError> {
        if height == Height(0) || height > self.top() {
            return Ok(None);
        }
        let position = self.index.get(height)?.unwrap_or(0);
        let damaged = |why: String| BlockLogError::Damaged {
            height,
            position,
            why,
        };
        if position == 0 {
            return Err(damaged("it has no readable record".into()));
        }
        let payload = self.reader.read(position).map_err(|e| match e {
            LogError::Damaged { .. } => damaged(e.to_string()),
            other => BlockLogError::Log(other),
        })?;
        let record = BlockRecord::split(payload).map_err(|why| damaged(why.to_owned()))?;
        if record.height == height {
            Ok(Some(record))
        } else {
            Err(damaged(format!(
                "the index points to the record of block {}",
                record.height
            )))
        }
    }

    /// Makes every further write fail, as on a broken disk.
    #[cfg(test)]
    pub(super) fn break_writes(&self) {
        self.lock().break_writes();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, RecordLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Positions by height, in a file.
#[derive(Debug)]
struct HeightIndex {
    file: File,
    path: PathBuf,
    top: AtomicU64,
}

impl HeightIndex {
    fn open(path: &Path) -> Result<Self, FileError> {
        let created = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .at("open", path)?;
        let length = file.metadata().at("look at", path)?.len();
        let mut magic = [0; INDEX_HEADER_BYTES as usize];
        let whole = length >= INDEX_HEADER_BYTES
            && file.read_exact_at(&mut magic, 0).is_ok()
            && magic == INDEX_MAGIC;
        if !whole {
            file.set_len(0).at("cut", path)?;
            file.write_all_at(&INDEX_MAGIC, 0).at("write", path)?;
        }
        if created && let Some(dir) = path.parent() {
            sync_dir(dir)?;
        }
        let entries = if whole {
            (length - INDEX_HEADER_BYTES) / 8
        } else {
            0
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            top: AtomicU64::new(entries),
        })
    }

    fn top(&self) -> Height {
        Height(self.top.load(Ordering::Acquire))
    }

    fn offset(height: Height) -> u64 {
        INDEX_HEADER_BYTES + (height.0 - 1) * 8
    }

    fn get(&self, height: Height) -> Result<Option<u64>, FileError> {
        if height == Height(0) || height > self.top() {
            return Ok(None);
        }
        let mut bytes = [0; 8];
        self.file
            .read_exact_at(&mut bytes, Self::offset(height))
            .at("read", &self.path)?;
        let position = u64::from_le_bytes(bytes);
        Ok((position != 0).then_some(position))
    }

    fn set(&self, height: Height, position: u64) -> Result<(), FileError> {
        if height == Height(0) || height.0 > u64::MAX / 16 {
            return Ok(());
        }
        self.file
            .write_all_at(&position.to_le_bytes(), Self::offset(height))
            .at("write", &self.path)?;
        self.top.fetch_max(height.0, Ordering::AcqRel);
        Ok(())
    }

    fn truncate(&self, top: Height) -> Result<(), FileError> {
        if self.top() > top {
            self.file
                .set_len(INDEX_HEADER_BYTES + top.0 * 8)
                .at("cut", &self.path)?;
            self.top.store(top.0, Ordering::Release);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().at("sync", &self.path)
    }
}

#[cfg(test)]
#[path = "block_log_tests.rs"]
mod tests;
