//! The state store: state and indexes as of a checkpoint, in redb. The only user of redb.
//!
//! All of it is derived from the block log. It is written whole checkpoints at a time, each one
//! transaction, so a crash leaves the last checkpoint or the one before it. Readers hold a
//! [`Base`], an immutable view of one checkpoint.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use alloy_primitives::{B256, Bytes, U256};
use axolotl_ledger::{Account, StateDiff, Tx};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::files::hint;
use super::schema::{
    ACCOUNTS, BLOCKS, CHECKPOINT, CODE, COUNTED, Checkpoint, META, SLOTS, STORAGE, TRANSACTIONS,
    read_value, slot_key, trimmed,
};

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// redb failed.
    #[error("state store {}: {source}{}", path.display(), advice(source))]
    Database {
        /// The file.
        path: PathBuf,
        /// What redb says.
        source: redb::Error,
    },
    /// Something in it is not what was written.
    #[error("state store {} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl StoreError {
    /// Whether the file is damaged, so that it is best removed and built again.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Database { source, .. } => {
                matches!(
                    source,
                    redb::Error::Corrupted(_)
                        | redb::Error::UpgradeRequired(_)
                        | redb::Error::RepairAborted
                        | redb::Error::TableTypeMismatch { .. }
                        | redb::Error::TypeDefinitionChanged { .. }
                ) || is_no_database(source)
            }
        }
    }
}

/// What a person might do about an error of the system.
fn advice(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::Io(error) => hint(error),
        _ => "",
    }
}

/// A file that is no redb database at all shows as invalid data.
fn is_no_database(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(e) if matches!(
        e.kind(),
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
    ))
}

/// What lies over the last checkpoint: state and index entries of the blocks since then.
#[derive(Debug, Default)]
pub struct Pending {
    /// Changes of the state.
    pub diff: StateDiff,
    /// Height and index by transaction hash.
    pub transactions: HashMap<B256, (u64, u32)>,
    /// Height by block hash.
    pub blocks: HashMap<B256, u64>,
    /// About what it takes in memory.
    pub bytes: usize,
}

/// About what an account takes in a map, with its key.
const ACCOUNT_BYTES: usize = 200;
/// About what a slot takes in a map, with its key.
const SLOT_BYTES: usize = 90;
/// About what an index entry takes in a map, with its key.
const ENTRY_BYTES: usize = 80;

/// About what a difference takes in memory.
pub(super) fn diff_bytes(diff: &StateDiff) -> usize {
    let slots: usize = diff.storage.values().map(|slots| slots.len()).sum();
    let code: usize = diff.code.values().map(|code| code.len() + SLOT_BYTES).sum();
    (diff.accounts.len() + diff.storage.len()) * ACCOUNT_BYTES + slots * SLOT_BYTES + code
}

impl Pending {
    /// Lays the changes of one more block on top.
    pub(super) fn add(&mut self, diff: StateDiff) {
        for (key, account) in diff.accounts {
            if self.diff.accounts.insert(key, account).is_none() {
                self.bytes += ACCOUNT_BYTES;
            }
        }
        for (account, slots) in diff.storage {
            let known = self.diff.storage.entry(account).or_default();
            for (slot, value) in slots {
                if known.insert(slot, value).is_none() {
                    self.bytes += SLOT_BYTES;
                }
            }
        }
        for (hash, code) in diff.code {
            let bytes = code.len() + SLOT_BYTES;
            if self.diff.code.insert(hash, code).is_none() {
                self.bytes += bytes;
            }
        }
    }

    /// Adds the index entries of one more block.
    pub(super) fn index(&mut self, hash: B256, height: u64, transactions: &[Tx]) {
        self.bytes += (1 + transactions.len()) * ENTRY_BYTES;
        self.blocks.insert(hash, height);
        for (index, tx) in transactions.iter().enumerate() {
            self.transactions.insert(tx.hash(), (height, index as u32));
        }
    }
}

/// An immutable view of one checkpoint.
pub struct Base {
    path: PathBuf,
    accounts: ReadOnlyTable<&'static [u8; 32], &'static [u8]>,
    storage: ReadOnlyTable<&'static [u8; 64], &'static [u8]>,
    slots: ReadOnlyTable<&'static [u8; 32], u64>,
    code: ReadOnlyTable<&'static [u8; 32], &'static [u8]>,
    transactions: ReadOnlyTable<&'static [u8; 32], (u64, u32)>,
    blocks: ReadOnlyTable<&'static [u8; 32], u64>,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Base {
    fn failed(&self, source: impl Into<redb::Error>) -> StoreError {
        StoreError::Database {
            path: self.path.clone(),
            source: source.into(),
        }
    }

    fn damaged(&self, why: impl ToString) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }

    /// An account.
    ///
    /// # Errors
    /// When the store fails, as with every method here.
    pub fn account(&self, key: &B256) -> Result<Option<Account>, StoreError> {
        let found = self.accounts.get(&key.0).map_err(|e| self.failed(e))?;
        found
            .map(|value| Account::decode(value.value()).map_err(|e| self.damaged(e)))
            .transpose()
    }

    /// A slot.
    ///
    /// # Errors
    /// When the store fails.
    pub fn slot(&self, account: &B256, slot: &B256) -> Result<U256, StoreError> {
        let key = slot_key(account, slot);
        match self.storage.get(&key).map_err(|e| self.failed(e))? {
            None => Ok(U256::ZERO),
            Some(value) => {
                read_value(value.value()).ok_or_else(|| self.damaged("a slot is too long"))
            }
        }
    }

    /// Number of slots of an account.
    ///
    /// # Errors
    /// When the store fails.
    pub fn slot_count(&self, account: &B256) -> Result<u64, StoreError> {
        let found = self.slots.get(&account.0).map_err(|e| self.failed(e))?;
        Ok(found.map_or(0, |count| count.value()))
    }

    /// Code.
    ///
    /// # Errors
    /// When the store fails.
    pub fn code(&self, hash: &B256) -> Result<Option<Bytes>, StoreError> {
        let found = self.code.get(&hash.0).map_err(|e| self.failed(e))?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    /// Accounts by ascending key.
    ///
    /// # Errors
    /// When the store fails.
    pub fn accounts(
        &self,
        lo: &B256,
        hi: &B256,
        f: &mut dyn FnMut(B256, Account),
    ) -> Result<(), StoreError> {
        let range = self
            .accounts
            .range::<&[u8; 32]>(&lo.0..=&hi.0)
            .map_err(|e| self.failed(e))?;
        for entry in range {
            let (key, value) = entry.map_err(|e| self.failed(e))?;
            let account = Account::decode(value.value()).map_err(|e| self.damaged(e))?;
            f(B256::from(*key.value()), account);
        }
        Ok(())
    }

    /// Slots of an account by ascending key.
    ///
    /// # Errors
    /// When the store fails.
    pub fn slots(
        &self,
        account: &B256,
        lo: &B256,
        hi: &B256,
        f: &mut dyn FnMut(B256, U256),
    ) -> Result<(), StoreError> {
        let (lo, hi) = (slot_key(account, lo), slot_key(account, hi));
        let range = self
            .storage
            .range::<&[u8; 64]>(&lo..=&hi)
            .map_err(|e| self.failed(e))?;
        for entry in range {
            let (key, value) = entry.map_err(|e| self.failed(e))?;
            let value =
                read_value(value.value()).ok_or_else(|| self.damaged("a slot is too long"))?;
            f(B256::from_slice(&key.value()[32..]), value);
        }
        Ok(())
    }

    /// Where a transaction is.
    ///
    /// # Errors
    /// When the store fails.
    pub fn transaction(&self, hash: &B256) -> Result<Option<(u64, u32)>, StoreError> {
        let found = self.transactions.get(&hash.0).map_err(|e| self.failed(e))?;
        Ok(found.map(|value| value.value()))
    }

    /// Height of a block.
    ///
    /// # Errors
    /// When the store fails.
    pub fn block(&self, hash: &B256) -> Result<Option<u64>, StoreError> {
        let found = self.blocks.get(&hash.0).map_err(|e| self.failed(e))?;
        Ok(found.map(|value| value.value()))
    }

    /// Number of accounts.
    ///
    /// # Errors
    /// When the store fails.
    pub fn account_count(&self) -> Result<u64, StoreError> {
        self.accounts.len().map_err(|e| self.failed(e))
    }
}

/// The store.
pub struct StateStore {
    path: PathBuf,
    database: Database,
}

impl std::fmt::Debug for StateStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl StateStore {
    /// Opens or creates the store.
    ///
    /// # Errors
    /// When it cannot be opened; see [`StoreError::is_damage`].
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let failed = |source: redb::Error| StoreError::Database {
            path: path.to_owned(),
            source,
        };
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create(path)
            .map_err(|e| failed(e.into()))?;
        let store = Self {
            path: path.to_owned(),
            database,
        };
        let write = store.database.begin_write().map_err(|e| failed(e.into()))?;
        let opened = (|| -> Result<(), redb::Error> {
            write.open_table(ACCOUNTS)?;
            write.open_table(STORAGE)?;
            write.open_table(SLOTS)?;
            write.open_table(CODE)?;
            write.open_table(TRANSACTIONS)?;
            write.open_table(BLOCKS)?;
            write.open_table(META)?;
            count_slots_if_needed(&write)
        })();
        opened.map_err(failed)?;
        write.commit().map_err(|e| failed(e.into()))?;
        Ok(store)
    }

    fn failed(&self, source: impl Into<redb::Error>) -> StoreError {
        StoreError::Database {
            path: self.path.clone(),
            source: source.into(),
        }
    }

    /// The last checkpoint, and a view of it.
    ///
    /// # Errors
    /// When the store fails or the checkpoint cannot be read.
    pub fn base(&self) -> Result<(Option<Checkpoint>, Base), StoreError> {
        let read = self.database.begin_read().map_err(|e| self.failed(e))?;
        let table = |e: redb::TableError| self.failed(e);
        let meta = read.open_table(META).map_err(table)?;
        let stored = meta.get(CHECKPOINT).map_err(|e| self.failed(e))?;
        let checkpoint = stored
            .map(|value| Checkpoint::decode(value.value()))
            .transpose()
            .map_err(|why| StoreError::Damaged {
                path: self.path.clone(),
                why,
            })?;
        let base = Base {
            path: self.path.clone(),
            accounts: read.open_table(ACCOUNTS).map_err(table)?,
            storage: read.open_table(STORAGE).map_err(table)?,
            slots: read.open_table(SLOTS).map_err(table)?,
            code: read.open_table(CODE).map_err(table)?,
            transactions: read.open_table(TRANSACTIONS).map_err(table)?,
            blocks: read.open_table(BLOCKS).map_err(table)?,
        };
        Ok((checkpoint, base))
    }

    /// Writes a checkpoint; it is durable when this returns.
    ///
    /// # Errors
    /// When the store fails; the checkpoint before stays whole.
    pub fn commit(&self, pending: &Pending, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let mut write = self.database.begin_write().map_err(|e| self.failed(e))?;
        // Opening after a crash does not walk the whole file then.
        write.set_quick_repair(true);
        self.write(&write, pending, checkpoint)
            .map_err(|source| self.failed(source))?;
        write.commit().map_err(|e| self.failed(e))
    }

    fn write(
        &self,
        write: &redb::WriteTransaction,
        pending: &Pending,
        checkpoint: &Checkpoint,
    ) -> Result<(), redb::Error> {
        let mut accounts = write.open_table(ACCOUNTS)?;
        for (key, account) in &pending.diff.accounts {
            match account {
                Some(account) => accounts.insert(&key.0, account.encode().as_slice())?,
                None => accounts.remove(&key.0)?,
            };
        }
        let mut storage = write.open_table(STORAGE)?;
        let mut counts = write.open_table(SLOTS)?;
        for (account, slots) in &pending.diff.storage {
            let (mut added, mut removed) = (0, 0);
            for (slot, value) in slots {
                let key = slot_key(account, slot);
                if value.is_zero() {
                    removed += u64::from(storage.remove(&key)?.is_some());
                } else {
                    let value = trimmed(value);
                    added += u64::from(storage.insert(&key, value.as_slice())?.is_none());
                }
            }
            let before = counts.get(&account.0)?.map_or(0, |count| count.value());
            match (before + added).saturating_sub(removed) {
                0 => drop(counts.remove(&account.0)?),
                same if same == before => {}
                count => drop(counts.insert(&account.0, count)?),
            }
        }
        let mut code = write.open_table(CODE)?;
        for (hash, bytes) in &pending.diff.code {
            code.insert(&hash.0, &bytes[..])?;
        }
        // In order of their keys, neighbours share pages.
        let mut entries: Vec<_> = pending.transactions.iter().collect();
        entries.sort_unstable();
        let mut transactions = write.open_table(TRANSACTIONS)?;
        for (hash, place) in entries {
            transactions.insert(&hash.0, *place)?;
        }
        let mut entries: Vec<_> = pending.blocks.iter().collect();
        entries.sort_unstable();
        let mut blocks = write.open_table(BLOCKS)?;
        for (hash, height) in entries {
            blocks.insert(&hash.0, *height)?;
        }
        let mut meta = write.open_table(META)?;
        meta.insert(CHECKPOINT, checkpoint.encode().as_slice())?;
        meta.insert(COUNTED, checkpoint.hash.as_slice())?;
        Ok(())
    }
}

/// Counts the slots of each account unless their numbers are those of the last checkpoint: a program
/// without these counts may have written it.
fn count_slots_if_needed(write: &redb::WriteTransaction) -> Result<(), redb::Error> {
    let mut meta = write.open_table(META)?;
    let stored = meta.get(CHECKPOINT)?;
    // A checkpoint that cannot be read is reported by whoever needs it.
    let checkpoint = stored.and_then(|value| Checkpoint::decode(value.value()).ok());
    let Some(checkpoint) = checkpoint else {
        return Ok(());
    };
    let counted = meta.get(COUNTED)?;
    if counted.is_some_and(|hash| hash.value() == checkpoint.hash.as_slice()) {
        return Ok(());
    }
    tracing::info!("counting the storage slots of all accounts, once");
    write.delete_table(SLOTS)?;
    let mut counts = write.open_table(SLOTS)?;
    let mut current: Option<([u8; 32], u64)> = None;
    for entry in write.open_table(STORAGE)?.iter()? {
        let (key, _) = entry?;
        let mut account = [0; 32];
        account.copy_from_slice(&key.value()[..32]);
        match &mut current {
            Some((same, count)) if *same == account => *count += 1,
            _ => {
                if let Some((done, count)) = current.replace((account, 1)) {
                    counts.insert(&done, count)?;
                }
            }
        }
    }
    if let Some((done, count)) = current {
        counts.insert(&done, count)?;
    }
    meta.insert(COUNTED, checkpoint.hash.as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests;
