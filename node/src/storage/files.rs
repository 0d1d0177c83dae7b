//! Small file operations that survive a crash: a directory entry is durable only after its
//! directory was synced, and a file is replaced only by a synced one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Mode of directories that only the node's user may enter.
const PRIVATE_DIR: u32 = 0o700;
/// Mode of files that only the node's user may read.
const PRIVATE_FILE: u32 = 0o600;

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}

/// What a person might do about an error of the system.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => " (the disk is full: free some space and start again)",
        io::ErrorKind::QuotaExceeded => " (the disk quota is used up: raise it and start again)",
        io::ErrorKind::PermissionDenied => {
            " (the directory must belong to the user of this program)"
        }
        io::ErrorKind::ReadOnlyFilesystem => " (the file system is mounted read-only)",
        _ => "",
    }
}

/// Adds action and path to an error of the system.
pub(crate) trait At<T> {
    /// Names what was tried on which file.
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .at("sync directory", dir)
}

/// Creates a directory (and those above it) for the node's user alone, if it is not there, and makes
/// its entry durable.
pub(crate) fn create_private_dir(dir: &Path) -> Result<(), FileError> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIR)
        .create(dir)
        .at("create directory", dir)?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Replaces a file so that after a crash it holds either the old bytes or the new: temporary file,
/// sync, rename, sync of the directory.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE_FILE)
        .open(&temporary)
        .at("create", &temporary)?;
    file.write_all(bytes).at("write", &temporary)?;
    file.sync_all().at("sync", &temporary)?;
    drop(file);
    fs::rename(&temporary, path).at("rename to", path)?;
    match path.parent() {
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

/// The bytes of a file, or nothing when there is none. Refuses files above `max_bytes`.
pub(crate) fn read_if_there(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, FileError> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).at("look at", path),
        Ok(meta) if meta.len() > max_bytes => {
            let why = format!("{} bytes, expected at most {max_bytes}", meta.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why)).at("read", path);
        }
        Ok(_) => {}
    }
    fs::read(path).map(Some).at("read", path)
}

/// Removes a file, if it is there, and makes that durable.
pub(crate) fn remove_if_there(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).at("remove", path),
        Ok(()) => {
            if let Some(dir) = path.parent() {
                sync_dir(dir)?;
            }
            Ok(true)
        }
    }
}
