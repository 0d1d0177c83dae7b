//! The data directory of a node.
//!
//! | name | holds |
//! |---|---|
//! | `lock` | pid of the process that has the directory; locked with `flock` while it lives |
//! | `version` | format version of everything here; written last when the directory is first used |
//! | `node.key` | seed of the Ed25519 key, hexadecimal, mode 0600 |
//! | `volume.json` | volume id and public key; a copy of the id lies beside the consensus log |
//! | `incarnation` | starts of this directory |
//! | `label` | name of the node, once assigned |
//! | `genesis.json` | genesis document as it was received |
//! | `peers.json` | peer book |
//! | `pool.journal` | transactions that the pool has taken; appended, never synced |
//! | `records/` | small records with a checksum, each replaced atomically |
//! | `consensus/`, `blocks/`, `state.redb` | logs and state store |
//! | `stopped` | left by a clean exit, removed by a start |
//!
//! Key, volume id and consensus log are made together. A log that is gone, or that came from
//! another volume, means that this validator may have forgotten what it signed:
//! [`DataDir::log_matches_volume`] says so, and the caller signs nothing.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use axolotl_common::{
    KeyPair, NodeId, PublicKey, VolumeId,
    genesis::{GenesisDocument, GenesisError},
};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::files::{
    At, FileError, create_private_dir, read_if_there, remove_if_there, write_atomic,
};

/// Version of the formats in a data directory.
pub const FORMAT_VERSION: u32 = 1;
/// Largest genesis document.
pub const MAX_GENESIS_BYTES: u64 = 64 << 20;
/// Largest small record.
pub const MAX_RECORD_BYTES: u64 = 16 << 20;
/// Largest of the files of one line.
const MAX_LINE_BYTES: u64 = 4 << 10;
const RECORD_MAGIC: &[u8; 4] = b"AXR1";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has it.
    #[error(
        "{} is in use by process {pid}: stop that process, or give this node another data directory",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the lock file says.
        pid: String,
    },
    /// A newer program wrote it.
    #[error(
        "{} has format version {found}, this program knows up to {FORMAT_VERSION}: use a newer program",
        path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It holds the data of another chain.
    #[error(
        "{} holds chain {found}, this node was told to join chain {expected}: use another data \
         directory, or wipe this one",
        path.display()
    )]
    OtherChain {
        /// The directory.
        path: PathBuf,
        /// Chain id and genesis hash on disk.
        found: String,
        /// Chain id and genesis hash wanted.
        expected: String,
    },
    /// The genesis document is not one.
    #[error("{}: {source}", path.display())]
    Genesis {
        /// The document.
        path: PathBuf,
        /// What is wrong with it.
        source: GenesisError,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: {why}; {advice}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What to do.
        advice: &'static str,
    },
    /// A name that does not do for a record.
    #[error("{0:?} is no name for a record")]
    RecordName(String),
}

/// Who a data directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeIdentity {
    /// Volume id.
    pub volume_id: VolumeId,
    /// Public key.
    pub public_key: PublicKey,
}

/// A locked data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock lives as long as this file is open.
    _lock: File,
    key: KeyPair,
    volume_id: VolumeId,
    incarnation: u64,
    label: Option<NodeId>,
    was_stopped: bool,
    log_matches_volume: bool,
}

const RESTORE: &str =
    "restore it from a backup, or wipe the data directory so that the node joins as a new one";

impl DataDir {
    /// Opens and locks a data directory; makes one where there is none. Counts the incarnation up.
    ///
    /// # Errors
    /// When another process has it, a newer program wrote it, or it is damaged.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        create_private_dir(path)?;
        let lock = lock(path)?;
        match read_line(&path.join("version"))? {
            Some(text) => check_version(path, &text)?,
            None => first_use(path)?,
        }
        let (key, identity) = read_identity(path)?;
        let log_matches_volume = read_line(&volume_copy(path))?
            .is_some_and(|text| text.parse() == Ok(identity.volume_id))
            && has_segments(&path.join("consensus"));

        let incarnation_file = path.join("incarnation");
        let last: u64 = match read_line(&incarnation_file)? {
            None => 0,
            Some(text) => text.parse().map_err(|_| DataDirError::Damaged {
                path: incarnation_file.clone(),
                why: format!("{text:?} is not a number"),
                advice: "write into it a number larger than all that this node ever used",
            })?,
        };
        let incarnation = last.saturating_add(1);
        write_atomic(&incarnation_file, format!("{incarnation}\n").as_bytes())?;
        let label = match read_line(&path.join("label"))? {
            None => None,
            Some(text) => Some(text.parse().map_err(|e| DataDirError::Damaged {
                path: path.join("label"),
                why: format!("{e}"),
                advice: "remove it: the registry gives the node its label again",
            })?),
        };
        let was_stopped = remove_if_there(&path.join("stopped"))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
            key,
            volume_id: identity.volume_id,
            incarnation,
            label,
            was_stopped,
            log_matches_volume,
        })
    }

    /// Reads key and volume id without locking or changing anything, for tools.
    ///
    /// # Errors
    /// When the directory is none, or is damaged.
    pub fn identity(path: &Path) -> Result<VolumeIdentity, DataDirError> {
        Ok(read_identity(path)?.1)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's key.
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The volume id.
    pub fn volume_id(&self) -> VolumeId {
        self.volume_id
    }

    /// Starts of this directory, this one included.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether the consensus log is there and belongs to this volume. If not, the validator may
    /// have forgotten votes and must sign nothing in an epoch that names this volume.
    pub fn log_matches_volume(&self) -> bool {
        self.log_matches_volume
    }

    /// Whether the last run left on purpose.
    pub fn was_stopped(&self) -> bool {
        self.was_stopped
    }

    /// Leaves the mark of a clean exit; the last thing before the process ends.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark_stopped(&self) -> Result<(), DataDirError> {
        Ok(write_atomic(&self.path.join("stopped"), b"stopped\n")?)
    }

    /// The label, once assigned.
    pub fn label(&self) -> Option<&NodeId> {
        self.label.as_ref()
    }

    /// Keeps the label.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_label(&mut self, label: NodeId) -> Result<(), DataDirError> {
        if self.label.as_ref() != Some(&label) {
            write_atomic(&self.path.join("label"), format!("{label}\n").as_bytes())?;
            self.label = Some(label);
        }
        Ok(())
    }

    /// The genesis document, once there is one.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn genesis(&self) -> Result<Option<GenesisDocument>, DataDirError> {
        let path = self.path.join("genesis.json");
        match read_if_there(&path, MAX_GENESIS_BYTES)? {
            None => Ok(None),
            Some(raw) => GenesisDocument::parse(&raw)
                .map(Some)
                .map_err(|source| DataDirError::Genesis { path, source }),
        }
    }

    /// Keeps the genesis document as it was received; refuses one of another chain than that on
    /// disk.
    ///
    /// # Errors
    /// When it is none, of another chain, or cannot be written.
    pub fn set_genesis(&self, raw: &[u8]) -> Result<GenesisDocument, DataDirError> {
        let path = self.path.join("genesis.json");
        let document = GenesisDocument::parse(raw).map_err(|source| DataDirError::Genesis {
            path: path.clone(),
            source,
        })?;
        match self.genesis()? {
            Some(own) if own.hash() != document.hash() => {
                let name =
                    |of: &GenesisDocument| format!("{} (genesis {})", of.chain().id, of.hash());
                Err(DataDirError::OtherChain {
                    path: self.path.clone(),
                    found: name(&own),
                    expected: name(&document),
                })
            }
            Some(own) => Ok(own),
            None => {
                write_atomic(&path, raw)?;
                Ok(document)
            }
        }
    }

    /// A small record, if it was written.
    ///
    /// # Errors
    /// When it cannot be read or its checksum is wrong.
    pub fn record(&self, name: &str) -> Result<Option<Vec<u8>>, DataDirError> {
        let path = self.record_path(name)?;
        let Some(bytes) = read_if_there(&path, MAX_RECORD_BYTES + 8)? else {
            return Ok(None);
        };
        let payload = bytes
            .strip_prefix(RECORD_MAGIC)
            .and_then(|rest| rest.split_first_chunk::<4>())
            .filter(|(crc, payload)| **crc == crc32c::crc32c(payload).to_le_bytes());
        match payload {
            Some((_, payload)) => Ok(Some(payload.to_vec())),
            None => Err(DataDirError::Damaged {
                path,
                why: "the checksum is wrong".into(),
                advice: RESTORE,
            }),
        }
    }

    /// Replaces a small record; it is durable when this returns.
    ///
    /// # Errors
    /// When the name holds anything but `a-z`, digits and `-`, the record is too large, or a write
    /// fails.
    pub fn write_record(&self, name: &str, payload: &[u8]) -> Result<(), DataDirError> {
        let path = self.record_path(name)?;
        if payload.len() as u64 > MAX_RECORD_BYTES {
            let why = format!("{} bytes, at most {MAX_RECORD_BYTES}", payload.len());
            return Err(std::io::Error::other(why)).at("write", &path)?;
        }
        create_private_dir(&self.path.join("records"))?;
        let mut bytes = RECORD_MAGIC.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        bytes.extend_from_slice(payload);
        Ok(write_atomic(&path, &bytes)?)
    }

    /// Removes a small record; that is durable when this returns.
    ///
    /// # Errors
    /// When the name is none or the file cannot be removed.
    pub fn remove_record(&self, name: &str) -> Result<bool, DataDirError> {
        Ok(remove_if_there(&self.record_path(name)?)?)
    }

    fn record_path(&self, name: &str) -> Result<PathBuf, DataDirError> {
        let fits = !name.is_empty()
            && name.len() <= 64
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(self.path.join("records").join(name))
        } else {
            Err(DataDirError::RecordName(name.to_owned()))
        }
    }

    /// Directory of the consensus log.
    pub fn consensus_dir(&self) -> PathBuf {
        self.path.join("consensus")
    }

    /// The peer book. Derived data: written with [`Self::write_peers`].
    pub fn peers_path(&self) -> PathBuf {
        self.path.join("peers.json")
    }

    /// The journal of the pool: read and written there. Not synced, and nothing else depends on it.
    pub fn pool_journal_path(&self) -> PathBuf {
        self.path.join("pool.journal")
    }

    /// Replaces the peer book.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_peers(&self, json: &[u8]) -> Result<(), DataDirError> {
        Ok(write_atomic(&self.peers_path(), json)?)
    }

    /// The peer book, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_peers(&self) -> Result<Option<Vec<u8>>, DataDirError> {
        Ok(read_if_there(&self.peers_path(), MAX_RECORD_BYTES)?)
    }
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .at("open", &path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let read = file.take(32).read_to_string(&mut pid);
            let pid = match (read, pid.trim()) {
                (Ok(_), digits) if !digits.is_empty() => digits.to_owned(),
                _ => "(unknown)".to_owned(),
            };
            return Err(DataDirError::Locked {
                path: dir.to_owned(),
                pid,
            });
        }
        Err(e) => Err(std::io::Error::from(e)).at("lock", &path)?,
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .at("write", &path)?;
    Ok(file)
}

fn check_version(dir: &Path, text: &str) -> Result<(), DataDirError> {
    match text.parse::<u32>() {
        Ok(found) if found > FORMAT_VERSION => Err(DataDirError::Newer {
            path: dir.to_owned(),
            found,
        }),
        Ok(_) => Ok(()),
        Err(_) => Err(DataDirError::Damaged {
            path: dir.join("version"),
            why: format!("{text:?} is not a number"),
            advice: RESTORE,
        }),
    }
}

/// Makes key, volume id and consensus log. The version file comes last: a directory without one was
/// never used, unless it holds blocks.
fn first_use(dir: &Path) -> Result<(), DataDirError> {
    if dir.join("blocks").exists() {
        return Err(DataDirError::Damaged {
            path: dir.join("version"),
            why: "it is missing, but there are blocks".into(),
            advice: RESTORE,
        });
    }
    let key = KeyPair::generate();
    let identity = VolumeIdentity {
        volume_id: VolumeId::generate(),
        public_key: key.public(),
    };
    let seed = zeroize_hex(&key);
    write_atomic(&dir.join("node.key"), seed.as_bytes())?;
    let json = serde_json::to_vec_pretty(&identity).map_err(|e| DataDirError::Damaged {
        path: dir.join("volume.json"),
        why: e.to_string(),
        advice: RESTORE,
    })?;
    write_atomic(&dir.join("volume.json"), &json)?;
    create_private_dir(&dir.join("consensus"))?;
    super::consensus_log::ConsensusLog::open(&dir.join("consensus")).map_err(|e| {
        DataDirError::Damaged {
            path: dir.join("consensus"),
            why: e.to_string(),
            advice: RESTORE,
        }
    })?;
    write_atomic(
        &volume_copy(dir),
        format!("{}\n", identity.volume_id).as_bytes(),
    )?;
    Ok(write_atomic(
        &dir.join("version"),
        format!("{FORMAT_VERSION}\n").as_bytes(),
    )?)
}

fn zeroize_hex(key: &KeyPair) -> String {
    let mut text = hex::encode(key.seed().as_slice());
    text.push('\n');
    text
}

fn volume_copy(dir: &Path) -> PathBuf {
    dir.join("consensus").join("volume")
}

fn has_segments(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.path().extension().is_some_and(|ext| ext == "log"))
        })
    })
}

fn read_identity(dir: &Path) -> Result<(KeyPair, VolumeIdentity), DataDirError> {
    let damaged = |name: &str, why: String| DataDirError::Damaged {
        path: dir.join(name),
        why,
        advice: RESTORE,
    };
    let key_file = dir.join("node.key");
    let text = read_line(&key_file)?.ok_or_else(|| damaged("node.key", "it is missing".into()))?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.as_bytes(), &mut seed)
        .map_err(|_| damaged("node.key", "expected 64 hexadecimal digits".into()))?;
    let key = KeyPair::from_seed(&seed);
    // A key that others may read is no secret; it is put right and not refused, since a copied
    // directory easily loses its modes.
    let mode = std::fs::metadata(&key_file)
        .at("look at", &key_file)?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %key_file.display(),
            mode = format!("{:o}", mode & 0o777),
            "the key file could be read by others; its mode is now 600"
        );
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600))
            .at("set the mode of", &key_file)?;
    }
    let raw = read_if_there(&dir.join("volume.json"), MAX_LINE_BYTES)?
        .ok_or_else(|| damaged("volume.json", "it is missing".into()))?;
    let identity: VolumeIdentity =
        serde_json::from_slice(&raw).map_err(|e| damaged("volume.json", e.to_string()))?;
    if identity.public_key != key.public() {
        let why = format!(
            "it belongs to {}, the volume to {}",
            key.public(),
            identity.public_key
        );
        return Err(damaged("node.key", why));
    }
    Ok((key, identity))
}

fn read_line(path: &Path) -> Result<Option<String>, FileError> {
    Ok(read_if_there(path, MAX_LINE_BYTES)?
        .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
}

#[cfg(test)]
mod tests;
