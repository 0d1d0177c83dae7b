//! The registry's durable memory, in sled.
//!
//! Every method that writes returns only after the write is on disk, but for events, which are
//! synced with the next write or within half a second. sled's `flush` does not call fsync on
//! Linux, so the database file is synced after it.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `meta` | name | format version, store id, genesis (written once), foreign genesis, … |
//! | `nodes` | label | [`NodeRecord`] |
//! | `managed` | label | [`ManagedRecord`]: desired state, spawn intent and instance |
//! | `records` | number | signed epoch records after the genesis, each written once |
//! | `starts` | counter, id | [`StartRecord`]: every start of a registry on this store, and those it took over from |
//! | `statements` | key | what sealed members stated |
//! | `events` | id | [`Event`], the newest [`MAX_EVENTS`] |

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use axolotl_common::{
    Epoch, Hash, NodeId, PublicKey, SignedRecord,
    recovery::Ballot,
    registry_api::{Event, EventKind},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::cluster::{instance::ManagedRecord, state::NodeRecord};

mod recovery;

pub use recovery::StartRecord;

/// Events kept for `Last-Event-ID`; older ones are dropped.
pub const MAX_EVENTS: usize = 1_000;
/// Memory that sled may use for its cache, bytes.
const CACHE_BYTES: u64 = 2 << 20;
/// Version of this layout.
const FORMAT: u32 = 1;

/// Why the store cannot be used. Always fatal: the registry ends with the reason.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error("the store {path}: {source}")]
    Io {
        /// Directory.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The database failed.
    #[error("the store {path}: {source}{}", hint(source))]
    Db {
        /// Directory.
        path: PathBuf,
        /// Cause.
        source: sled::Error,
    },
    /// A value cannot be read.
    #[error("the store holds an unreadable value in `{tree}`: {why}")]
    Value {
        /// Tree.
        tree: &'static str,
        /// Cause.
        why: String,
    },
    /// The store is of another version.
    #[error("the store has format {found}, this program reads {FORMAT}")]
    Format {
        /// Version found.
        found: u32,
    },
    /// Another process opened a ballot since: what was acknowledged under this one may be replaced.
    #[error("ballot {0} is not the newest of the store any more; nothing is signed under it")]
    OldBallot(Ballot),
    /// Something that is written once was to be written again.
    #[error("`{0}` is written once, and it is there already")]
    WrittenOnce(&'static str),
    /// A test asked for this failure.
    #[error("write {0} failed because a test asked for it")]
    Injected(u64),
}

/// What a person might do about a fault of the database.
fn hint(error: &sled::Error) -> &'static str {
    match error {
        // sled keeps the kind of what it says about its lock to itself.
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            "; a registry runs on this directory: stop it, or give this one another DATA_DIR"
        }
        sled::Error::Io(error) => match error.kind() {
            io::ErrorKind::StorageFull => "; free some space and start again",
            io::ErrorKind::PermissionDenied => {
                "; the directory must belong to the user of this program"
            }
            _ => "",
        },
        sled::Error::Corruption { .. } => {
            "; the store is damaged: restore the directory from its back-up, or make a new store with \
             `axolotl-registry adopt`"
        }
        _ => "",
    }
}

/// The genesis as it is stored: document and the signed record of epoch 0, written together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredGenesis {
    /// The document.
    pub document: Value,
    /// The record of epoch 0.
    pub record: SignedRecord,
}

/// The wanted number of validators as an operator set it, and the setting that it overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTarget {
    /// What the operator asked for.
    pub target: usize,
    /// The setting at that time: another one since then wins.
    pub setting: usize,
}

/// Where the chain stands among its epoch records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEpoch {
    /// The newest epoch that nodes reported to be in force.
    pub in_force: Epoch,
    /// A signed record that no block carries yet.
    pub pending: Option<Epoch>,
}

/// Where the store lies in a registry's data directory.
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// The open store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    db: sled::Db,
    file: File,
    meta: sled::Tree,
    nodes: sled::Tree,
    managed: sled::Tree,
    records: sled::Tree,
    starts: sled::Tree,
    statements: sled::Tree,
    events: sled::Tree,
    writes: u64,
    fail_at: Option<u64>,
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data of ours is always JSON")
}

fn decode<T: DeserializeOwned>(tree: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Value {
        tree,
        why: e.to_string(),
    })
}

impl Store {
    /// Opens the store in `dir`, which is created when missing. A second process is refused.
    ///
    /// # Errors
    /// When it cannot be opened, or is of another format.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let db_error = |source| StoreError::Db {
            path: dir.to_owned(),
            source,
        };
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(500))
            .open()
            .map_err(db_error)?;
        let io_error = |source| StoreError::Io {
            path: dir.to_owned(),
            source,
        };
        let file = File::open(dir.join("db")).map_err(io_error)?;
        let tree = |name| db.open_tree(name).map_err(db_error);
        let mut store = Self {
            path: dir.to_owned(),
            meta: tree("meta")?,
            nodes: tree("nodes")?,
            managed: tree("managed")?,
            records: tree("records")?,
            starts: tree("starts")?,
            statements: tree("statements")?,
            events: tree("events")?,
            db,
            file,
            writes: 0,
            fail_at: None,
        };
        match store.get_meta::<u32>("format")? {
            None => store.put_meta("format", &FORMAT)?,
            Some(FORMAT) => {}
            Some(found) => return Err(StoreError::Format { found }),
        }
        if store.get_meta::<String>("store_id")?.is_none() {
            let id = hex::encode(axolotl_common::crypto::random_bytes::<8>());
            store.put_meta("store_id", &id)?;
        }
        // The names of new files are durable only when their directories are.
        for directory in [Some(dir), dir.parent()].into_iter().flatten() {
            if directory.as_os_str().is_empty() {
                continue;
            }
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(io_error)?;
        }
        Ok(store)
    }

    /// Lets the `n`th write from now fail, and all after it: what a kill at that point leaves
    /// behind is then in the directory. For tests.
    pub fn fail_at(&mut self, n: u64) {
        self.fail_at = Some(self.writes + n);
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    fn db_error(&self, source: sled::Error) -> StoreError {
        StoreError::Db {
            path: self.path.clone(),
            source,
        }
    }

    fn begin_write(&mut self) -> Result<(), StoreError> {
        self.writes += 1;
        match self.fail_at {
            Some(at) if self.writes >= at => Err(StoreError::Injected(self.writes)),
            _ => Ok(()),
        }
    }

    /// Brings everything written so far to disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| self.db_error(e))?;
        self.file.sync_all().map_err(|source| StoreError::Io {
            path: self.path.clone(),
            source,
        })
    }

    fn get_meta<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let bytes = self.meta.get(name).map_err(|e| self.db_error(e))?;
        bytes.map(|bytes| decode("meta", &bytes)).transpose()
    }

    fn put_meta<T: Serialize>(&mut self, name: &str, value: &T) -> Result<(), StoreError> {
        self.begin_write()?;
        self.meta
            .insert(name, encode(value))
            .map_err(|e| self.db_error(e))?;
        self.sync()
    }

    fn put_meta_once<T: Serialize>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), StoreError> {
        self.begin_write()?;
        self.meta
            .compare_and_swap(name, None::<&[u8]>, Some(encode(value)))
            .map_err(|e| self.db_error(e))?
            .map_err(|_| StoreError::WrittenOnce(name))?;
        self.sync()
    }

    fn all<T: DeserializeOwned>(
        &self,
        name: &'static str,
        tree: &sled::Tree,
    ) -> Result<Vec<T>, StoreError> {
        tree.iter()
            .map(|entry| {
                let (_, bytes) = entry.map_err(|e| self.db_error(e))?;
                decode(name, &bytes)
            })
            .collect()
    }

    /// Names this store; random, made with it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn store_id(&self) -> Result<String, StoreError> {
        Ok(self.get_meta("store_id")?.unwrap_or_default())
    }

    /// The authority's public key as it was at the first start.
    ///
    /// # Errors
    /// When the store fails.
    pub fn authority(&self) -> Result<Option<PublicKey>, StoreError> {
        self.get_meta("authority")
    }

    /// Writes down the authority's public key, once.
    ///
    /// # Errors
    /// When the store fails or holds one.
    pub fn set_authority(&mut self, key: &PublicKey) -> Result<(), StoreError> {
        self.put_meta_once("authority", key)
    }

    /// The genesis, once formed.
    ///
    /// # Errors
    /// When the store fails.
    pub fn genesis(&self) -> Result<Option<StoredGenesis>, StoreError> {
        self.get_meta("genesis")
    }

    /// Writes down the genesis, once.
    ///
    /// # Errors
    /// When the store fails or holds one.
    pub fn set_genesis(&mut self, genesis: &StoredGenesis) -> Result<(), StoreError> {
        self.put_meta_once("genesis", genesis)
    }

    /// Hash of a genesis that a node showed although this store has none.
    ///
    /// # Errors
    /// When the store fails.
    pub fn foreign(&self) -> Result<Option<Hash>, StoreError> {
        self.get_meta("foreign_genesis")
    }

    /// Writes down that a node showed a genesis although this store has none.
    ///
    /// # Errors
    /// When the store fails.
    pub fn set_foreign(&mut self, hash: &Hash) -> Result<(), StoreError> {
        self.put_meta("foreign_genesis", hash)
    }

    /// Whether a shutdown of all managed nodes was begun, and no start came after it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn shutdown_begun(&self) -> Result<bool, StoreError> {
        Ok(self.get_meta("shutdown")?.unwrap_or(false))
    }

    /// Writes down that a shutdown of all managed nodes is begun, or over.
    ///
    /// # Errors
    /// When the store fails.
    pub fn set_shutdown_begun(&mut self, begun: bool) -> Result<(), StoreError> {
        self.put_meta("shutdown", &begun)
    }

    /// Registered nodes.
    ///
    /// # Errors
    /// When the store fails.
    pub fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        self.all("nodes", &self.nodes)
    }

    /// Writes records of nodes, all or none.
    ///
    /// # Errors
    /// When the store fails.
    pub fn put_nodes(&mut self, records: &[&NodeRecord]) -> Result<(), StoreError> {
        self.begin_write()?;
        let mut batch = sled::Batch::default();
        for record in records {
            batch.insert(record.label.as_str(), encode(record));
        }
        self.nodes
            .apply_batch(batch)
            .map_err(|e| self.db_error(e))?;
        self.sync()
    }

    /// Nodes that the registry starts and stops.
    ///
    /// # Errors
    /// When the store fails.
    pub fn managed(&self) -> Result<Vec<ManagedRecord>, StoreError> {
        self.all("managed", &self.managed)
    }

    /// Writes records of managed nodes, all or none.
    ///
    /// # Errors
    /// When the store fails.
    pub fn put_managed(&mut self, records: &[&ManagedRecord]) -> Result<(), StoreError> {
        self.begin_write()?;
        let mut batch = sled::Batch::default();
        for record in records {
            batch.insert(record.label.as_str(), encode(record));
        }
        self.managed
            .apply_batch(batch)
            .map_err(|e| self.db_error(e))?;
        self.sync()
    }

    /// Forgets a managed node that was removed, and the node that it ran.
    ///
    /// # Errors
    /// When the store fails.
    pub fn remove(
        &mut self,
        managed: Option<&NodeId>,
        node: Option<&NodeId>,
    ) -> Result<(), StoreError> {
        self.begin_write()?;
        if let Some(label) = node {
            self.nodes
                .remove(label.as_str())
                .map_err(|e| self.db_error(e))?;
        }
        if let Some(label) = managed {
            self.managed
                .remove(label.as_str())
                .map_err(|e| self.db_error(e))?;
        }
        self.sync()
    }

    /// Signed epoch records after the genesis, by number.
    ///
    /// # Errors
    /// When the store fails.
    pub fn records(&self) -> Result<Vec<SignedRecord>, StoreError> {
        self.all("records", &self.records)
    }

    /// Where the chain stands among its records.
    ///
    /// # Errors
    /// When the store fails.
    pub fn epoch(&self) -> Result<StoredEpoch, StoreError> {
        Ok(self.get_meta("epoch")?.unwrap_or_default())
    }

    /// Writes down where the chain stands among its records.
    ///
    /// # Errors
    /// When the store fails.
    pub fn set_epoch(&mut self, epoch: &StoredEpoch) -> Result<(), StoreError> {
        self.put_meta("epoch", epoch)
    }

    /// The wanted number of validators, if an operator set it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn target(&self) -> Result<Option<StoredTarget>, StoreError> {
        self.get_meta("target")
    }

    /// Writes down what an operator asked for.
    ///
    /// # Errors
    /// When the store fails.
    pub fn set_target(&mut self, target: &StoredTarget) -> Result<(), StoreError> {
        self.put_meta("target", target)
    }

    /// The highest number ever given to a node; 0 where nothing was removed yet.
    ///
    /// # Errors
    /// When the store fails.
    pub fn highest_number(&self) -> Result<u64, StoreError> {
        Ok(self.get_meta("highest_number")?.unwrap_or(0))
    }

    /// Writes down the highest number ever given to a node.
    ///
    /// # Errors
    /// When the store fails.
    pub fn set_highest_number(&mut self, number: u64) -> Result<(), StoreError> {
        self.put_meta("highest_number", &number)
    }

    /// Adds an event, and drops the oldest beyond [`MAX_EVENTS`]. Not synced by itself.
    ///
    /// # Errors
    /// When the store fails.
    pub fn put_event(&mut self, event: &Event) -> Result<(), StoreError> {
        self.events
            .insert(event.id.to_be_bytes(), encode(event))
            .map_err(|e| self.db_error(e))?;
        while self.events.len() > MAX_EVENTS {
            self.events.pop_min().map_err(|e| self.db_error(e))?;
        }
        Ok(())
    }

    /// Events after `id`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn events_after(&self, id: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let from = id.saturating_add(1).to_be_bytes();
        self.events
            .range(from..)
            .take(limit)
            .map(|entry| {
                let (_, bytes) = entry.map_err(|e| self.db_error(e))?;
                decode("events", &bytes)
            })
            .collect()
    }

    /// The newest events that tell of decisions and changes of the validators, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub fn newest_decisions(&self, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.newest(limit, |kind| {
            matches!(kind, EventKind::Decision | EventKind::Epoch)
        })
    }

    /// The newest steps of recoveries, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub fn newest_recovery_steps(&self, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.newest(limit, |kind| kind == EventKind::Recovery)
    }

    fn newest(
        &self,
        limit: usize,
        wanted: impl Fn(EventKind) -> bool,
    ) -> Result<Vec<Event>, StoreError> {
        let mut decisions = Vec::new();
        for entry in self.events.iter().rev() {
            let (_, bytes) = entry.map_err(|e| self.db_error(e))?;
            let event: Event = decode("events", &bytes)?;
            if wanted(event.kind) {
                decisions.push(event);
            }
            if decisions.len() == limit {
                break;
            }
        }
        Ok(decisions)
    }
}

#[cfg(test)]
mod tests;
