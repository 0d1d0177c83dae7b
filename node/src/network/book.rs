//! The peer book: where admitted peers were met, kept in a file so that a restarted node finds them
//! without the registry. It admits nobody.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::Path,
};

use axolotl_common::PublicKey;
use serde::{Deserialize, Serialize};

use super::{
    identity::address_of,
    limits::{MAX_ADDRESSES_PER_PEER, MAX_BOOK_BYTES, MAX_BOOK_PEERS},
};

/// Version of the file's format.
const VERSION: u32 = 1;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Book {
    version: u32,
    peers: Vec<BookPeer>,
}

/// One peer of the book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BookPeer {
    /// Its key.
    pub(crate) public_key: PublicKey,
    /// Where it was reached or said that it can be, best first.
    pub(crate) addresses: Vec<String>,
    /// Last connection, seconds since 1970; 0 for never.
    pub(crate) last_connected_s: u64,
}

impl Book {
    /// A book of the peers met last.
    pub(crate) fn new(mut peers: Vec<BookPeer>) -> Self {
        peers.sort_by_key(|peer| (u64::MAX - peer.last_connected_s, peer.public_key));
        peers.truncate(MAX_BOOK_PEERS);
        Self {
            version: VERSION,
            peers,
        }
    }

    /// Reads the file. A missing file is an empty book; so is an unreadable one, with a warning:
    /// the book is a help, never a reason not to start.
    pub(crate) fn read(path: &Path) -> Self {
        let read = || -> io::Result<Self> {
            let mut text = String::new();
            fs::File::open(path)?
                .take(MAX_BOOK_BYTES)
                .read_to_string(&mut text)?;
            let book: Self = serde_json::from_str(&text)?;
            if book.version != VERSION {
                return Err(io::Error::other(format!("version {}", book.version)));
            }
            Ok(book)
        };
        match read() {
            Ok(mut book) => {
                book.peers.truncate(MAX_BOOK_PEERS);
                for peer in &mut book.peers {
                    let key = peer.public_key;
                    peer.addresses.truncate(MAX_ADDRESSES_PER_PEER);
                    peer.addresses
                        .retain(|text| address_of(&key, text).is_some());
                }
                book
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::new(Vec::new()),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the peer book is not readable; beginning an empty one");
                Self::new(Vec::new())
            }
        }
    }

    /// Replaces the file. After a crash at any moment the file is the old one or the new one.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    }

    /// The peers.
    pub(crate) fn into_peers(self) -> Vec<BookPeer> {
        self.peers
    }
}

/// The peers of a peer book file with their addresses; empty when there is none. They are addresses and no
/// more: whoever is in the book is let in only if it is on the allow list.
pub fn known_peers(path: &Path) -> BTreeMap<PublicKey, Vec<String>> {
    Book::read(path)
        .into_peers()
        .into_iter()
        .map(|peer| (peer.public_key, peer.addresses))
        .collect()
}

#[cfg(test)]
mod tests {
    use axolotl_common::KeyPair;

    use super::*;

    fn peer(seed: u8, last_connected_s: u64) -> BookPeer {
        BookPeer {
            public_key: KeyPair::from_seed(&[seed; 32]).public(),
            addresses: vec![format!("/ip4/127.0.0.1/tcp/{seed}")],
            last_connected_s,
        }
    }

    #[test]
    fn a_book_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.json");
        assert!(known_peers(&path).is_empty());
        let book = Book::new(vec![peer(1, 5), peer(2, 9)]);
        book.write(&path).unwrap();
        assert_eq!(Book::read(&path), book);
        assert_eq!(book.peers[0], peer(2, 9), "met last comes first");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"version\": 1"), "{text}");
    }

    #[test]
    fn a_damaged_book_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.json");
        for text in ["", "{", "{\"version\":2,\"peers\":[]}", "\u{0}\u{0}"] {
            fs::write(&path, text).unwrap();
            assert!(known_peers(&path).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn a_book_is_bounded_and_its_addresses_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.json");
        let mut bad = peer(3, 1);
        bad.addresses = vec!["nonsense".to_owned(); 40];
        bad.addresses.push("/ip4/10.0.0.1/tcp/1".to_owned());
        Book::new(vec![bad]).write(&path).unwrap();
        let (_, addresses) = known_peers(&path).pop_first().unwrap();
        assert!(addresses.is_empty(), "{addresses:?}");
        let many = (0..2 * MAX_BOOK_PEERS).map(|i| peer(1, i as u64)).collect();
        assert_eq!(Book::new(many).peers.len(), MAX_BOOK_PEERS);
    }
}
