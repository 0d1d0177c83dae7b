//! Storage tries that were used lately, in bounded memory.
//!
//! A trie takes 2 to 30 bytes a slot. When all of them take more than the bound, the one that was
//! not used for longest keeps its upper nodes only: a hundredth of the memory, and an update of it reads
//! some thousand slots, not all. Only when every trie has come to that, the oldest goes altogether.

use std::collections::BTreeMap;

use alloy_primitives::{B256, U256};

use super::trie::{Node, TrieBuild};

/// Where nodes of a trie that was not used for long end: at buckets of so many slots, which take a
/// few milliseconds to read.
const COARSE_BUCKET: u32 = 4_096;
/// About what an entry takes beside its nodes: places in two maps, with their share of the maps.
const ENTRY_BYTES: usize = 300;

/// A storage trie as far as it is known.
#[derive(Clone, Debug)]
enum Known {
    Whole(Node<U256>),
    /// Some ranges of the trie with this root were read.
    Part(B256, TrieBuild<U256>),
}

impl Known {
    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Self::Whole(trie) => trie.heap(),
                Self::Part(_, build) => build.heap(),
            }
    }

    /// Whether it spares any reading.
    fn is_useful(&self) -> bool {
        match self {
            Self::Whole(trie) => trie.has_children(),
            Self::Part(_, build) => build.progress().0 > 0,
        }
    }

    fn coarse(&self) -> Self {
        match self {
            Self::Whole(trie) => Self::Whole(trie.pruned(COARSE_BUCKET)),
            Self::Part(root, build) => Self::Part(*root, build.pruned()),
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    known: Known,
    bytes: usize,
    /// When it was used last.
    used: u64,
    coarse: bool,
}

/// What the cache knows of an account's storage.
#[derive(Clone, Debug)]
pub(super) enum Cached {
    /// Its trie.
    Trie(Node<U256>),
    /// This many of so many ranges were read.
    Part(usize, usize),
    Nothing,
}

/// The tries, by account.
#[derive(Clone, Debug)]
pub(super) struct StorageTries {
    max_bytes: usize,
    bytes: usize,
    clock: u64,
    entries: BTreeMap<B256, Entry>,
    /// By last use: entries with all nodes, and coarse ones.
    fine: BTreeMap<u64, B256>,
    coarse: BTreeMap<u64, B256>,
}

impl StorageTries {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            bytes: 0,
            clock: 0,
            entries: BTreeMap::new(),
            fine: BTreeMap::new(),
            coarse: BTreeMap::new(),
        }
    }

    /// What the tries take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of tries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Looks at an account's trie without using it.
    pub(super) fn peek(&self, account: &B256) -> Cached {
        match self.entries.get(account).map(|entry| &entry.known) {
            Some(Known::Whole(trie)) => Cached::Trie(trie.clone()),
            Some(Known::Part(_, build)) => {
                let (done, all) = build.progress();
                Cached::Part(done, all)
            }
            None => Cached::Nothing,
        }
    }

    /// An account's trie, if all of it is known and has this root.
    pub(super) fn trie(&mut self, account: &B256, root: B256) -> Option<Node<U256>> {
        let entry = self.entries.get_mut(account)?;
        let Known::Whole(trie) = &entry.known else {
            return None;
        };
        if trie.root() != root {
            return None;
        }
        let trie = trie.clone();
        let order = if entry.coarse {
            &mut self.coarse
        } else {
            &mut self.fine
        };
        order.remove(&entry.used);
        self.clock += 1;
        entry.used = self.clock;
        order.insert(entry.used, *account);
        Some(trie)
    }

    /// Takes out what was read so far of an account's trie with this root.
    pub(super) fn take_part(&mut self, account: &B256, root: B256) -> Option<TrieBuild<U256>> {
        match &self.entries.get(account)?.known {
            Known::Part(begun, _) if *begun == root => {}
            _ => return None,
        }
        match self.remove(account)?.known {
            Known::Part(_, build) => Some(build),
            Known::Whole(_) => None,
        }
    }

    /// Keeps a trie in the place of what was known of it.
    pub(super) fn put(&mut self, account: B256, trie: Node<U256>) {
        self.insert(account, Known::Whole(trie));
    }

    /// Keeps what was read so far of a trie with this root.
    pub(super) fn put_part(&mut self, account: B256, root: B256, build: TrieBuild<U256>) {
        self.insert(account, Known::Part(root, build));
    }

    fn insert(&mut self, account: B256, known: Known) {
        self.remove(&account);
        if known.is_useful() {
            self.clock += 1;
            self.link(account, known, self.clock, false);
            self.evict();
        }
    }

    fn link(&mut self, account: B256, known: Known, used: u64, coarse: bool) {
        let bytes = known.bytes();
        self.bytes += bytes;
        let order = if coarse {
            &mut self.coarse
        } else {
            &mut self.fine
        };
        order.insert(used, account);
        let entry = Entry {
            known,
            bytes,
            used,
            coarse,
        };
        self.entries.insert(account, entry);
    }

    fn remove(&mut self, account: &B256) -> Option<Entry> {
        let entry = self.entries.remove(account)?;
        self.bytes -= entry.bytes;
        self.fine.remove(&entry.used);
        self.coarse.remove(&entry.used);
        Some(entry)
    }

    /// Makes the oldest coarse, or removes it, until all fit.
    fn evict(&mut self) {
        while self.bytes > self.max_bytes {
            let fine = self.fine.first_key_value();
            let oldest = fine.or_else(|| self.coarse.first_key_value());
            let Some(account) = oldest.map(|(_, account)| *account) else {
                return;
            };
            let Some(entry) = self.remove(&account) else {
                return;
            };
            let coarse = entry.known.coarse();
            if !entry.coarse && coarse.is_useful() {
                self.link(account, coarse, entry.used, true);
            }
        }
    }
}
