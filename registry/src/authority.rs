//! Secrets of the registry: the authority key and the two tokens.
//!
//! The authority key is made at the first start and never again: once the store knows its public
//! half, a missing or another key ends the program. No secret is ever logged.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use axolotl_common::{KeyPair, PublicKey, crypto::random_bytes};
use subtle::ConstantTimeEq;

/// Fewest characters of a token.
pub const MIN_TOKEN_LEN: usize = 16;
/// Most characters of a token.
pub const MAX_TOKEN_LEN: usize = 512;

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path}: {why}")]
    Content {
        /// File.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key file is gone or another one, but the store belongs to this authority.
    #[error(
        "{path} does not hold the key of authority {expected}, to which the store belongs; \
         restore the key file from its back-up"
    )]
    Authority {
        /// File.
        path: PathBuf,
        /// Key on record.
        expected: PublicKey,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SecretError + '_ {
    move |source| SecretError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Writes a file that only appears whole: temporary file, sync, link under its name, sync of the
/// directory. An existing file is left as it is.
fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), SecretError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(io_error(dir))?;
    let temporary = path.with_extension(format!("{}.tmp", hex::encode(random_bytes::<4>())));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| match fs::hard_link(&temporary, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        })
        .map_err(io_error(path));
    let removed = fs::remove_file(&temporary).map_err(io_error(&temporary));
    written.and(removed)?;
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error(dir))
}

fn read_if_there(path: &Path) -> Result<Option<String>, SecretError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_error(path)(e)),
    }
}

/// Reads an authority key; `None` when the file is not there.
///
/// # Errors
/// When the file cannot be read, holds no key, or others may read it.
pub fn read_key(path: &Path) -> Result<Option<KeyPair>, SecretError> {
    let Some(text) = read_if_there(path)? else {
        return Ok(None);
    };
    let content = |why| SecretError::Content {
        path: path.to_owned(),
        why,
    };
    let mut seed = [0; 32];
    hex::decode_to_slice(&text, &mut seed)
        .map_err(|_| content("expected 64 hexadecimal digits".to_owned()))?;
    let mode = fs::metadata(path)
        .map_err(io_error(path))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(content(format!(
            "others may read it (mode {:o}); chmod 600 it",
            mode & 0o777
        )));
    }
    Ok(Some(KeyPair::from_seed(&seed)))
}

/// Writes an authority key where none is yet.
///
/// # Errors
/// When it cannot be written.
pub fn write_key(path: &Path, key: &KeyPair) -> Result<(), SecretError> {
    write_new(path, 0o600, hex::encode(key.seed().as_slice()).as_bytes())
}

/// Loads the authority key; makes it when neither file nor store knows one.
///
/// # Errors
/// When the file cannot be used, or is not the store's.
pub fn load_or_make_key(path: &Path, on_record: Option<PublicKey>) -> Result<KeyPair, SecretError> {
    let key = match (read_key(path)?, on_record) {
        (Some(key), _) => key,
        (None, Some(expected)) => {
            return Err(SecretError::Authority {
                path: path.to_owned(),
                expected,
            });
        }
        (None, None) => {
            let key = KeyPair::generate();
            write_key(path, &key)?;
            return load_or_make_key(path, Some(key.public()));
        }
    };
    match on_record {
        Some(expected) if expected != key.public() => Err(SecretError::Authority {
            path: path.to_owned(),
            expected,
        }),
        _ => Ok(key),
    }
}

/// A secret text that callers show. Never printed.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Whether `shown` is this token; takes the same time wherever they differ.
    pub fn matches(&self, shown: &str) -> bool {
        bool::from(self.0.as_bytes().ct_eq(shown.as_bytes()))
    }

    /// The text, for the operator who may read it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Reads a token; `None` when the file is not there.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token.
    pub fn read(path: &Path) -> Result<Option<Self>, SecretError> {
        let Some(text) = read_if_there(path)? else {
            return Ok(None);
        };
        let fits = (MIN_TOKEN_LEN..=MAX_TOKEN_LEN).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic());
        if fits {
            Ok(Some(Self(text)))
        } else {
            Err(SecretError::Content {
                path: path.to_owned(),
                why: format!("expected {MIN_TOKEN_LEN} to {MAX_TOKEN_LEN} visible characters"),
            })
        }
    }

    /// Reads a token; makes a random one when the file is not there.
    ///
    /// # Errors
    /// When the file can neither be read nor written.
    pub fn read_or_make(path: &Path) -> Result<Self, SecretError> {
        if let Some(token) = Self::read(path)? {
            return Ok(token);
        }
        write_new(path, 0o400, hex::encode(random_bytes::<32>()).as_bytes())?;
        Self::read(path)?.ok_or_else(|| SecretError::Content {
            path: path.to_owned(),
            why: "it vanished while it was made".to_owned(),
        })
    }

    /// The join token: what `shared` holds, if it is there; else the one of the data directory,
    /// which is then copied to `shared` for the nodes to read.
    ///
    /// # Errors
    /// When a file can neither be read nor written.
    pub fn join(own: &Path, shared: Option<&Path>) -> Result<Self, SecretError> {
        let Some(shared) = shared else {
            return Self::read_or_make(own);
        };
        if let Some(token) = Self::read(shared)? {
            return Ok(token);
        }
        let token = Self::read_or_make(own)?;
        write_new(shared, 0o400, token.0.as_bytes())?;
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_key_is_made_once_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/authority_key");
        let key = load_or_make_key(&path, None).unwrap();
        assert_eq!(mode(&path), 0o600);
        let again = load_or_make_key(&path, Some(key.public())).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(matches!(
            load_or_make_key(&path, Some(PublicKey([9; 32]))),
            Err(SecretError::Authority { .. })
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            load_or_make_key(&path, None).is_err(),
            "a key that others may read"
        );
        fs::remove_file(&path).unwrap();
        assert!(load_or_make_key(&path, Some(key.public())).is_err());
        assert!(
            !path.exists(),
            "no second key is made for a store that has an authority"
        );
    }

    #[test]
    fn the_join_token_is_copied_or_overridden() {
        let dir = tempfile::tempdir().unwrap();
        let (own, shared) = (dir.path().join("join_token"), dir.path().join("join/token"));
        let token = Token::join(&own, Some(&shared)).unwrap();
        assert_eq!(mode(&own), 0o400);
        assert_eq!(fs::read_to_string(&shared).unwrap(), token.reveal());
        assert!(token.matches(token.reveal()));
        assert!(!token.matches(""));
        assert!(!token.matches(&"0".repeat(64)));
        assert!(!format!("{token:?}").contains(&token.reveal()[..4]));

        let given = dir.path().join("given");
        fs::write(&given, "a token of the operator\n").unwrap();
        assert!(Token::join(&own, Some(&given)).is_err(), "spaces");
        fs::write(&given, "operators-own-token\n").unwrap();
        let token = Token::join(&own, Some(&given)).unwrap();
        assert!(token.matches("operators-own-token"));
    }
}
