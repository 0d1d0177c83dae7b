//! Recovery and forced records on disk, and what is staged for the next.
//!
//! ```text
//! epochs/<number, 20 digits>   magic 8 | crc32c 4 | borsh of the signed record
//! staged                       magic 8 | crc32c 4 | borsh of ballot, draft, block
//! ```
//!
//! Each file is replaced as a whole, and durable when the call returns. A record that cannot be read any
//! more comes back from the block log when its blocks are replayed, or from peers; a staging record that
//! cannot be read is a promise that this node cannot keep, and ends the process.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy_primitives::Bytes;
use axolotl_common::{
    Epoch, EpochRecord, Height, SignedRecord, membership::MAX_RECORD_BYTES, recovery::Ballot,
};
use axolotl_ledger::block::MAX_ENCODED_BYTES;
use borsh::{BorshDeserialize, BorshSerialize};

use super::{StorageError, recovery::Staged};
use crate::storage::files::{
    At, FileError, create_private_dir, read_if_there, remove_if_there, write_atomic,
};

const RECORD_MAGIC: &[u8; 8] = b"AXEPOCH1";
const STAGED_MAGIC: &[u8; 8] = b"AXSTAGE1";
const FRAME_BYTES: usize = 12;
/// Largest staging record: a block, a draft, and their frame.
const MAX_STAGED_BYTES: usize = MAX_ENCODED_BYTES + MAX_RECORD_BYTES + (1 << 10);

impl From<FileError> for StorageError {
    fn from(error: FileError) -> Self {
        Self::Fatal(error.to_string())
    }
}

fn write<T: BorshSerialize>(path: &Path, magic: &[u8; 8], value: &T) -> Result<(), FileError> {
    let payload = borsh::to_vec(value).expect("writing to a Vec does not fail");
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    write_atomic(path, &bytes)
}

/// What a file holds; `None` when there is none. The inner error says what is wrong with it.
fn read<T: BorshDeserialize>(
    path: &Path,
    magic: &[u8; 8],
    max_bytes: usize,
) -> Result<Option<Result<T, String>>, FileError> {
    let Some(bytes) = read_if_there(path, (max_bytes + FRAME_BYTES) as u64)? else {
        return Ok(None);
    };
    let payload = bytes
        .strip_prefix(magic)
        .and_then(|rest| rest.split_first_chunk::<4>())
        .filter(|(crc, payload)| **crc == crc32c::crc32c(payload).to_le_bytes())
        .map(|(_, payload)| payload);
    Ok(Some(match payload {
        Some(payload) => T::try_from_slice(payload).map_err(|e| e.to_string()),
        None => Err("the checksum is wrong".into()),
    }))
}

/// All recovery and forced records of the chain. Their number is that of recoveries; in memory is where
/// each stands, and the newest.
#[derive(Debug)]
pub(super) struct RecordStore {
    dir: PathBuf,
    /// By base and number.
    known: BTreeSet<(Height, Epoch)>,
    newest: Option<Arc<SignedRecord>>,
}

impl RecordStore {
    pub(super) fn open(dir: &Path) -> Result<Self, StorageError> {
        create_private_dir(dir)?;
        let mut store = Self {
            dir: dir.to_owned(),
            known: BTreeSet::new(),
            newest: None,
        };
        for entry in fs::read_dir(dir).at("list", dir)? {
            let entry = entry.at("list", dir)?;
            let number = entry.file_name().to_str().and_then(number_of);
            // Others are left by writes that did not end.
            let Some(number) = number else { continue };
            if let Some(signed) = store.read(number)? {
                store.note(Arc::new(signed));
            }
        }
        Ok(store)
    }

    fn path(&self, number: Epoch) -> PathBuf {
        self.dir.join(format!("{:020}", number.0))
    }

    fn read(&self, number: Epoch) -> Result<Option<SignedRecord>, StorageError> {
        let path = self.path(number);
        let found = read::<SignedRecord>(&path, RECORD_MAGIC, MAX_RECORD_BYTES)?;
        match found {
            Some(Ok(signed)) if signed.record.number == number => Ok(Some(signed)),
            Some(bad) => {
                let why = bad.err().unwrap_or_else(|| "it is of another epoch".into());
                tracing::error!(path = %path.display(), why, "the record of an epoch is damaged; it comes back from the block log, or from the peers");
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn note(&mut self, signed: Arc<SignedRecord>) {
        let number = signed.record.number;
        self.known.insert((signed.record.base_height, number));
        if self
            .newest
            .as_ref()
            .is_none_or(|n| n.record.number <= number)
        {
            self.newest = Some(signed);
        }
    }

    /// Keeps a record, durably.
    pub(super) fn put(&mut self, signed: &Arc<SignedRecord>) -> Result<(), StorageError> {
        write(&self.path(signed.record.number), RECORD_MAGIC, &**signed)?;
        self.note(Arc::clone(signed));
        Ok(())
    }

    /// Keeps a record that the block log holds, if it is not there.
    pub(super) fn put_if_absent(&mut self, signed: &SignedRecord) -> Result<(), StorageError> {
        let place = (signed.record.base_height, signed.record.number);
        if self.known.contains(&place) {
            return Ok(());
        }
        self.put(&Arc::new(signed.clone()))
    }

    /// The records with their base at this height in the order in which they took force; no more bytes
    /// than `max_bytes`, but one at least.
    pub(super) fn at(
        &self,
        base: Height,
        max_bytes: usize,
    ) -> Result<Vec<Arc<SignedRecord>>, StorageError> {
        let mut records: Vec<Arc<SignedRecord>> = Vec::new();
        let mut bytes = 0;
        let range = (base, Epoch(0))..=(base, Epoch(u64::MAX));
        for (_, number) in self.known.range(range) {
            let Some(signed) = self.read(*number)? else {
                break;
            };
            bytes += signed.size();
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(Arc::new(signed));
        }
        Ok(records)
    }

    /// The newest record.
    pub(super) fn newest(&self) -> Option<Arc<SignedRecord>> {
        self.newest.clone()
    }
}

fn number_of(name: &str) -> Option<Epoch> {
    let digits = name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| name.parse().ok().map(Epoch)).flatten()
}

#[derive(BorshSerialize, BorshDeserialize)]
struct StagedFile {
    ballot: Ballot,
    draft: EpochRecord,
    block: Option<Vec<u8>>,
}

/// What is staged, in memory and on disk.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    staged: Option<Arc<Staged>>,
}

impl Staging {
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        let staged = match read::<StagedFile>(path, STAGED_MAGIC, MAX_STAGED_BYTES)? {
            None => None,
            Some(Ok(file)) => Some(Arc::new(Staged {
                ballot: file.ballot,
                draft: file.draft,
                block: file.block.map(Bytes::from),
            })),
            Some(Err(why)) => {
                return Err(StorageError::Fatal(format!(
                    "{} is damaged: {why}; this node has acknowledged what it holds: restore it, or \
                     wipe the data directory so that the node joins as a new one",
                    path.display()
                )));
            }
        };
        Ok(Self {
            path: path.to_owned(),
            staged,
        })
    }

    pub(super) fn get(&self) -> Option<Arc<Staged>> {
        self.staged.clone()
    }

    /// Takes the place of what was staged before.
    pub(super) fn put(&mut self, staged: Staged) -> Result<(), StorageError> {
        let file = StagedFile {
            ballot: staged.ballot,
            draft: staged.draft.clone(),
            block: staged.block.as_ref().map(|block| block.to_vec()),
        };
        write(&self.path, STAGED_MAGIC, &file)?;
        self.staged = Some(Arc::new(staged));
        Ok(())
    }

    /// A record is in force: what was staged is of no use any more.
    pub(super) fn clear(&mut self) -> Result<(), StorageError> {
        if self.staged.take().is_some() {
            remove_if_there(&self.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_records_are_numbers_of_twenty_digits() {
        assert_eq!(number_of("00000000000000000007"), Some(Epoch(7)));
        for name in ["7", "0000000000000000000x", "00000000000000000007.tmp"] {
            assert_eq!(number_of(name), None, "{name}");
        }
        assert_eq!(number_of("99999999999999999999"), None, "above 64 bits");
    }
}
