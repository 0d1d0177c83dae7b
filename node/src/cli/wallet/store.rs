//! The wallet: a directory of keystore files, which is also one that `geth --keystore` reads.
//!
//! `NAME.json` is the account NAME; files that geth wrote (`UTC--…`) go by their whole name. The
//! directory has mode 0700, its files 0600.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use alloy_primitives::Address;
use anyhow::{Context, anyhow, bail, ensure};

use super::keystore::{Keystore, MAX_KEYSTORE_BYTES};
use crate::{
    cli::output::{self, Usage},
    storage::files::{create_private_dir, read_if_there, remove_if_there, write_atomic},
};

/// Longest name of an account.
const MAX_NAME_CHARS: usize = 64;
/// Bits of a mode that let others in.
const OTHERS: u32 = 0o077;

/// The directory.
#[derive(Clone, Debug)]
pub struct Wallet {
    dir: PathBuf,
}

/// One keystore file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the account.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// What the file holds.
    pub keystore: Keystore,
}

/// What lies in the directory.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// By name.
    pub entries: Vec<Entry>,
    /// Files that are no keystores, with the reason.
    pub damaged: Vec<(PathBuf, String)>,
}

impl Wallet {
    /// The wallet in `dir`; without one, that of the user.
    ///
    /// # Errors
    /// When no directory is named and the user has no home.
    pub fn new(dir: Option<&Path>) -> anyhow::Result<Self> {
        let dir = match dir.filter(|dir| !dir.as_os_str().is_empty()) {
            Some(dir) => dir.to_owned(),
            None => std::env::home_dir()
                .filter(|home| !home.as_os_str().is_empty())
                .ok_or_else(|| {
                    Usage(
                        "no home directory: name the wallet with --wallet or AXOLOTL_WALLET".into(),
                    )
                })?
                .join(".axolotl")
                .join("wallet"),
        };
        Ok(Self { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a keystore under a name that is not taken.
    ///
    /// # Errors
    /// When the name will not do or is taken, or the file cannot be written.
    pub fn add(&self, name: &str, keystore: &Keystore) -> anyhow::Result<PathBuf> {
        check_name(name)?;
        create_private_dir(&self.dir)?;
        self.warn_about(&self.dir);
        let path = self.dir.join(format!("{name}.json"));
        // Taken before it is written, so that of two who want one name only one gets it.
        let taken = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match taken {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "{} is there already: choose another name, or move the file away",
                path.display()
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", path.display()));
            }
        }
        if let Err(error) = write_atomic(&path, keystore.text().as_bytes()) {
            let _ = remove_if_there(&path);
            return Err(error.into());
        }
        Ok(path)
    }

    /// Whether [`Self::add`] would take this name.
    ///
    /// # Errors
    /// When it will not do or is taken.
    pub fn check_free(&self, name: &str) -> anyhow::Result<()> {
        check_name(name)?;
        let path = self.dir.join(format!("{name}.json"));
        ensure!(
            !path.exists(),
            "{} is there already: choose another name, or move the file away",
            path.display()
        );
        Ok(())
    }

    /// Everything in the wallet; a directory that is not there is an empty one.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> anyhow::Result<Listing> {
        let mut listing = Listing::default();
        let files = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
            files => {
                files.with_context(|| format!("cannot read the wallet {}", self.dir.display()))?
            }
        };
        for file in files {
            let path = file?.path();
            let file_name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = match file_name.strip_suffix(".json") {
                Some(name) => name.to_owned(),
                None if file_name.starts_with("UTC--") => file_name.into_owned(),
                None => continue,
            };
            match read_keystore(&path) {
                Ok(keystore) => listing.entries.push(Entry {
                    name,
                    path,
                    keystore,
                }),
                Err(error) => listing.damaged.push((path, format!("{error:#}"))),
            }
        }
        listing.entries.sort_by(|one, two| one.name.cmp(&two.name));
        listing.damaged.sort();
        Ok(listing)
    }

    /// The account of this name or address.
    ///
    /// # Errors
    /// When the wallet holds none; the text says what to do.
    pub fn find(&self, who: &str) -> anyhow::Result<Entry> {
        let listing = self.list()?;
        let address: Option<Address> = match who.strip_prefix("0x") {
            Some(_) => Some(read_address(who)?),
            None => None,
        };
        let entry = listing.entries.iter().find(|entry| match address {
            Some(address) => entry.keystore.address() == Some(address),
            None => entry.name == who,
        });
        if let Some(entry) = entry {
            self.warn_about(&entry.path);
            return Ok(entry.clone());
        }
        let damaged = |(path, _): &&(PathBuf, String)| {
            path.file_stem()
                .is_some_and(|stem| stem.to_string_lossy() == who)
        };
        if let Some((path, why)) = listing.damaged.iter().find(damaged) {
            bail!("{} cannot be used: {why}", path.display());
        }
        let dir = self.dir.display();
        let known: Vec<&str> = listing
            .entries
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        let what = match known.as_slice() {
            [] => "it is empty; make an account with `axolotl wallet create NAME`".to_owned(),
            known => format!("it holds {}", known.join(", ")),
        };
        Err(anyhow!("the wallet {dir} holds no key of {who}: {what}"))
    }

    /// The address of an address or name.
    ///
    /// # Errors
    /// When it is neither.
    pub fn resolve(&self, who: &str) -> anyhow::Result<Address> {
        if who.starts_with("0x") {
            return Ok(read_address(who)?);
        }
        let looks_like_one = who.len() == 40 && who.bytes().all(|byte| byte.is_ascii_hexdigit());
        if looks_like_one {
            return Err(Usage(format!("{who:?}: an address begins with 0x")).into());
        }
        let entry = self.find(who)?;
        entry.keystore.address().with_context(|| {
            format!(
                "{} names no address: write the address itself, or import the file again",
                entry.path.display()
            )
        })
    }

    /// The name under which the wallet knows an address.
    pub fn name_of(&self, address: Address) -> Option<String> {
        let listing = self.list().ok()?;
        let entry = listing
            .entries
            .into_iter()
            .find(|entry| entry.keystore.address() == Some(address));
        entry.map(|entry| entry.name)
    }

    fn warn_about(&self, path: &Path) {
        let Ok(meta) = fs::metadata(path) else { return };
        let mode = meta.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            let wanted = if meta.is_dir() { 700 } else { 600 };
            output::note(&format!(
                "warning: {path} has mode {mode:o}, so others may read it; run: chmod {wanted} {path}",
                path = path.display()
            ));
        }
    }
}

/// Reads a keystore file.
///
/// # Errors
/// When it cannot be read or is none.
pub fn read_keystore(path: &Path) -> anyhow::Result<Keystore> {
    let bytes = read_if_there(path, MAX_KEYSTORE_BYTES)?
        .with_context(|| format!("{} is not there", path.display()))?;
    ensure!(
        !bytes.is_empty(),
        "it is empty: remove it, nothing was ever stored in it"
    );
    let text = String::from_utf8(bytes).context("it is no text")?;
    Ok(Keystore::parse(&text)?)
}

/// Writes a new file; never over another one. What cannot be written whole is taken away again.
///
/// # Errors
/// When the file is there already or cannot be written.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let opened = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow!(
            "cannot write {}: it must not be there yet; name another file",
            path.display()
        ),
        _ => anyhow!("cannot write {}: {error}", path.display()),
    })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // The fault that counts is told below.
        let _ = fs::remove_file(path);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Reads an address; one in mixed case must have the right check sum (EIP-55).
///
/// # Errors
/// When it is none.
pub fn read_address(text: &str) -> Result<Address, Usage> {
    let wrong = |why: &str| Usage(format!("{text:?} is no address: {why}"));
    let address: Address = text
        .parse()
        .map_err(|_| wrong("expected 0x and 40 hexadecimal digits"))?;
    let digits = &text[2..];
    let mixed = digits.bytes().any(|byte| byte.is_ascii_uppercase())
        && digits.bytes().any(|byte| byte.is_ascii_lowercase());
    if mixed && address.to_checksum(None)[2..] != *digits {
        return Err(wrong(
            "the check sum in its upper and lower case letters is wrong; look for a typing error",
        ));
    }
    Ok(address)
}

fn check_name(name: &str) -> Result<(), Usage> {
    let fits = (1..=MAX_NAME_CHARS).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.starts_with("0x")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(Usage(format!(
        "{name:?} is no name for an account: expected 1 to {MAX_NAME_CHARS} letters, digits, '-', '_' \
         and '.', beginning with a letter or digit but not with 0x"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::accounts::Account;

    fn wallet() -> (tempfile::TempDir, Wallet) {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Wallet::new(Some(&dir.path().join("deep").join("wallet"))).unwrap();
        (dir, wallet)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_may_read_the_wallet() {
        let (_dir, wallet) = wallet();
        let keystore = Keystore::encrypt(&Account::dev(0), "p", 4);
        let path = wallet.add("alice", &keystore).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(wallet.dir()), 0o700);
        let left: Vec<_> = fs::read_dir(wallet.dir()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_name_is_given_once() {
        let (_dir, wallet) = wallet();
        let keystore = Keystore::encrypt(&Account::dev(0), "p", 4);
        let path = wallet.add("alice", &keystore).unwrap();
        let other = Keystore::encrypt(&Account::dev(1), "p", 4);
        for refused in [
            wallet.add("alice", &other).map(drop),
            wallet.check_free("alice"),
        ] {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("another name"), "{text}");
        }
        assert_eq!(fs::read_to_string(path).unwrap(), keystore.text());
    }

    #[test]
    fn accounts_are_found_by_name_and_by_address() {
        let (_dir, wallet) = wallet();
        let text = wallet.find("alice").unwrap_err().to_string();
        assert!(text.contains("wallet create"), "{text}");
        for (name, index) in [("bob", 1), ("alice", 0)] {
            wallet
                .add(name, &Keystore::encrypt(&Account::dev(index), "p", 4))
                .unwrap();
        }
        let names: Vec<String> = wallet
            .list()
            .unwrap()
            .entries
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names, ["alice", "bob"]);
        let bob = Account::dev(1).address();
        assert_eq!(wallet.resolve("bob").unwrap(), bob);
        assert_eq!(wallet.find(&bob.to_string()).unwrap().name, "bob");
        assert_eq!(
            wallet.find(&bob.to_string().to_lowercase()).unwrap().name,
            "bob"
        );
        assert_eq!(wallet.name_of(bob).as_deref(), Some("bob"));
        let text = wallet.find("carol").unwrap_err().to_string();
        assert!(text.contains("alice, bob"), "{text}");
    }

    #[test]
    fn files_of_geth_are_taken_and_others_named() {
        let (_dir, wallet) = wallet();
        create_private_dir(wallet.dir()).unwrap();
        let keystore = Keystore::encrypt(&Account::dev(2), "p", 4);
        let name = "UTC--2026-01-01T00-00-00.000000000Z--3c44cdddb6a900fa2b585dd299e03d12fa4293bc";
        fs::write(wallet.dir().join(name), keystore.text()).unwrap();
        fs::write(wallet.dir().join("broken.json"), "{").unwrap();
        fs::write(wallet.dir().join("empty.json"), "").unwrap();
        fs::write(wallet.dir().join("notes.txt"), "hello").unwrap();
        let listing = wallet.list().unwrap();
        assert_eq!(listing.entries.len(), 1);
        assert_eq!(listing.entries[0].name, name);
        assert_eq!(listing.damaged.len(), 2, "{:?}", listing.damaged);
        let text = wallet.find("broken").unwrap_err().to_string();
        assert!(text.contains("cannot be used"), "{text}");
    }

    #[test]
    fn addresses_and_names_are_checked() {
        let good = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
        let upper = format!("0x{}", good[2..].to_uppercase());
        for text in [good, &good.to_lowercase(), &upper] {
            assert!(read_address(text).is_ok(), "{text}");
        }
        let typo = "0xF39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
        assert!(
            read_address(typo)
                .unwrap_err()
                .to_string()
                .contains("check sum")
        );
        assert!(
            read_address("0x12")
                .unwrap_err()
                .to_string()
                .contains("40 hexadecimal")
        );
        let (_dir, wallet) = wallet();
        let text = wallet.resolve(&good[2..]).unwrap_err().to_string();
        assert!(text.contains("begins with 0x"), "{text}");
        for bad in [
            "",
            "0xabc",
            "../x",
            "a/b",
            ".hidden",
            "-x",
            "a b",
            &"a".repeat(65),
        ] {
            assert!(wallet.check_free(bad).is_err(), "{bad:?} was taken");
        }
    }
}
