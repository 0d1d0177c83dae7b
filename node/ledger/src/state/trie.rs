//! A Merkle Patricia trie over keys of 32 bytes of which only the upper nodes are kept.
//!
//! A [`Node`] is what the part of a trie under one prefix looks like from above: its hash, the
//! number of leaves below, and, where there are many of them, sixteen nodes one nibble further
//! down. A node without children is a *bucket*: its leaves are not kept, a change below it reads
//! them all. Buckets are split when they hold more than [`Value::SPLIT`] leaves, so that an update
//! costs the same whatever the size of the trie, and however uneven its keys.
//!
//! Nodes are immutable and shared: [`Node::update`] gives another root that shares with the old one
//! whatever did not change.

mod build;
mod hasher;

use std::{fmt, sync::Arc};

use alloy_primitives::{B256, U256, keccak256};
use alloy_rlp::Encodable;
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieMask, nodes::RlpNode};

use self::hasher::hash_of;
use super::{Account, StateError};

pub(super) use self::{build::TrieBuild, hasher::Hasher};

/// Nibbles in a key.
const KEY_NIBBLES: usize = 64;
/// What a shared allocation takes beside its contents: two counters, and the allocator's header.
const SHARED_BYTES: usize = 32;
/// A key and the value under it.
pub(super) type Leaf<V> = (B256, V);

/// A key and its value after a change; `None` when it is removed.
pub(super) type Change<V> = (B256, Option<V>);

/// Appends the leaves from the first to the second key, inclusive, ascending.
pub(super) type Scan<'a, V> =
    dyn FnMut(B256, B256, &mut Vec<Leaf<V>>) -> Result<(), StateError> + 'a;

/// What lies under the keys of a trie.
pub(super) trait Value: Clone + fmt::Debug {
    /// A bucket with more leaves than this is split.
    const SPLIT: usize;
    /// A node with so few leaves loses its children. Well below `SPLIT`, so that a trie whose size
    /// goes up and down is not split and joined each time.
    const JOIN: u32;
    /// No bucket is split below this many nibbles.
    const MAX_DEPTH: usize;

    /// Appends the RLP of the value.
    fn encode(&self, out: &mut Vec<u8>);
}

impl Value for Account {
    /// Accounts are what most transactions touch: small buckets, which cost memory.
    const SPLIT: usize = 8;
    const JOIN: u32 = 2;
    /// At most 65,536 buckets and 4 MB.
    const MAX_DEPTH: usize = 4;

    fn encode(&self, out: &mut Vec<u8>) {
        self.encode_trie_value(out);
    }
}

impl Value for U256 {
    /// A node takes 50 bytes, and buckets hold 2 to 32 leaves on average, depending on the size of
    /// the trie: 2 to 30 bytes a slot. Reading and hashing 32 leaves takes some 30 µs.
    const SPLIT: usize = 32;
    const JOIN: u32 = 8;
    /// Keys are hashes, but somebody may search for those that agree in their first nibbles.
    const MAX_DEPTH: usize = KEY_NIBBLES - 1;

    fn encode(&self, out: &mut Vec<u8>) {
        Encodable::encode(self, out);
    }
}

/// What the part of a trie under one prefix looks like from above.
#[derive(Clone)]
pub(super) enum Node<V> {
    /// No key has the prefix.
    Empty,
    /// One key has.
    Leaf(Arc<Leaf<V>>),
    /// Keys part right after the prefix: a branch node with this hash.
    Branch {
        hash: B256,
        leaves: u32,
        children: Children<V>,
    },
    /// Keys part later.
    Deep(Arc<Deep<V>>),
}

/// The sixteen nodes one nibble further down; `None` in a bucket.
type Children<V> = Option<Arc<Sixteen<V>>>;

/// Keys that part below a prefix: the whole path to the branch node, and its hash.
#[derive(Clone)]
pub(super) struct Deep<V> {
    path: Nibbles,
    hash: B256,
    leaves: u32,
    children: Children<V>,
}

/// Sixteen nodes, and what they take in memory with everything below.
#[derive(Clone)]
pub(super) struct Sixteen<V> {
    heap: usize,
    nodes: [Node<V>; 16],
}

impl<V> fmt::Debug for Node<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaves = self.leaves();
        f.debug_struct("Node").field("leaves", &leaves).finish()
    }
}

fn nibble(key: &B256, index: usize) -> u8 {
    let byte = key[index / 2];
    if index.is_multiple_of(2) {
        byte >> 4
    } else {
        byte & 0xf
    }
}

fn common_nibbles(a: &B256, b: &B256) -> usize {
    match (0..32).find(|&i| a[i] != b[i]) {
        None => KEY_NIBBLES,
        Some(i) => 2 * i + usize::from((a[i] ^ b[i]) & 0xf0 == 0),
    }
}

/// The first and the last key with the first `depth` nibbles of `key`.
pub(super) fn range_of(key: &B256, depth: usize) -> (B256, B256) {
    let (mut first, mut last) = (*key, *key);
    let whole = depth.div_ceil(2);
    if !depth.is_multiple_of(2) {
        first[whole - 1] &= 0xf0;
        last[whole - 1] |= 0x0f;
    }
    first[whole..].fill(0);
    last[whole..].fill(0xff);
    (first, last)
}

fn path_of(key: &B256, depth: usize) -> Nibbles {
    Nibbles::unpack(key).slice(..depth)
}

impl<V> Node<V> {
    /// A trie that is known by its root only, and by about how many leaves it has.
    pub(super) fn unread(root: B256, leaves: u64) -> Self {
        Self::Branch {
            hash: root,
            leaves: u32::try_from(leaves).unwrap_or(u32::MAX),
            children: None,
        }
    }

    /// Leaves below.
    pub(super) fn leaves(&self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Leaf(_) => 1,
            Self::Branch { leaves, .. } => *leaves,
            Self::Deep(deep) => deep.leaves,
        }
    }

    fn children(&self) -> Option<&Sixteen<V>> {
        match self {
            Self::Empty | Self::Leaf(_) => None,
            Self::Branch { children, .. } => children.as_deref(),
            Self::Deep(deep) => deep.children.as_deref(),
        }
    }

    /// Whether a change below is spared reading all of it.
    pub(super) fn has_children(&self) -> bool {
        self.children().is_some()
    }

    /// What it takes in memory beside itself.
    pub(super) fn heap(&self) -> usize {
        let below = self.children().map_or(0, |children| children.heap);
        below
            + match self {
                Self::Empty | Self::Branch { .. } => 0,
                Self::Leaf(_) => SHARED_BYTES + size_of::<Leaf<V>>(),
                Self::Deep(_) => SHARED_BYTES + size_of::<Deep<V>>(),
            }
    }

    /// The first key of the bucket of `key`, and how many leaves are read when `key` changes.
    pub(super) fn bucket(&self, key: &B256) -> (B256, u32) {
        let (mut node, mut depth) = (self, 0);
        while let Some(children) = node.children() {
            node = &children.nodes[usize::from(nibble(key, depth))];
            depth += 1;
        }
        (range_of(key, depth).0, node.leaves())
    }
}

impl<V: Value> Node<V> {
    /// Summarises leaves that agree in their first `depth` nibbles, ascending by key.
    pub(super) fn of_leaves(leaves: &[Leaf<V>], depth: usize, hasher: &mut Hasher) -> Self {
        let (first, last) = match leaves {
            [] => return Self::Empty,
            [leaf] => {
                let node = Self::Leaf(Arc::new(leaf.clone()));
                hasher.made += node.heap();
                return node;
            }
            [first, .., last] => (first, last),
        };
        if leaves.len() > V::SPLIT && depth < V::MAX_DEPTH {
            let mut nodes = [const { Self::Empty }; 16];
            for group in leaves.chunk_by(|a, b| nibble(&a.0, depth) == nibble(&b.0, depth)) {
                nodes[usize::from(nibble(&group[0].0, depth))] =
                    Self::of_leaves(group, depth + 1, hasher);
            }
            return Self::of_children(nodes, depth, &first.0, hasher);
        }
        let parting = common_nibbles(&first.0, &last.0);
        let hash = hash_of(&hasher.branch_of_leaves(leaves, parting));
        let leaves = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
        if parting == depth {
            Self::Branch {
                hash,
                leaves,
                children: None,
            }
        } else {
            Self::deep(path_of(&first.0, parting), hash, leaves, None, hasher)
        }
    }

    fn deep(
        path: Nibbles,
        hash: B256,
        leaves: u32,
        children: Children<V>,
        hasher: &mut Hasher,
    ) -> Self {
        hasher.made += SHARED_BYTES + size_of::<Deep<V>>();
        Self::Deep(Arc::new(Deep {
            path,
            hash,
            leaves,
            children,
        }))
    }

    /// Merges the sixteen nodes below the prefix that is the first `depth` nibbles of `key`.
    fn of_children(nodes: [Self; 16], depth: usize, key: &B256, hasher: &mut Hasher) -> Self {
        let leaves = nodes
            .iter()
            .fold(0, |sum: u32, node| sum.saturating_add(node.leaves()));
        let mut present = (0..16u8)
            .zip(&nodes)
            .filter(|(_, node)| !matches!(node, Self::Empty));
        let Some((nibble, only)) = present.next() else {
            return Self::Empty;
        };
        if present.next().is_none() {
            let (path, hash) = match only {
                Self::Empty | Self::Leaf(_) => return only.clone(),
                Self::Branch { hash, .. } => {
                    let mut path = path_of(key, depth);
                    path.push(nibble);
                    (path, *hash)
                }
                Self::Deep(deep) => (deep.path, deep.hash),
            };
            let children = Self::keep(nodes, leaves, hasher);
            return Self::deep(path, hash, leaves, children, hasher);
        }
        let base = hasher.stack.len();
        let mut mask = TrieMask::default();
        for (nibble, node) in (0..16u8).zip(&nodes) {
            if let Some(node) = node.below(depth + 1, hasher) {
                mask.set_bit(nibble);
                hasher.stack.push(node);
            }
        }
        Self::Branch {
            hash: hash_of(&hasher.branch(base, mask)),
            leaves,
            children: Self::keep(nodes, leaves, hasher),
        }
    }

    /// Children that are worth their memory.
    fn keep(nodes: [Self; 16], leaves: u32, hasher: &mut Hasher) -> Children<V> {
        (leaves > V::JOIN).then(|| {
            let own = SHARED_BYTES + size_of::<Sixteen<V>>();
            hasher.made += own;
            let below: usize = nodes.iter().map(Self::heap).sum();
            let heap = own + below;
            Arc::new(Sixteen { heap, nodes })
        })
    }

    /// How the node appears in a branch node whose children's paths begin at `depth`.
    fn below(&self, depth: usize, hasher: &mut Hasher) -> Option<RlpNode> {
        match self {
            Self::Empty => None,
            Self::Leaf(leaf) => Some(hasher.leaf(leaf, depth)),
            Self::Branch { hash, .. } => Some(RlpNode::word_rlp(hash)),
            Self::Deep(deep) => {
                let branch = RlpNode::word_rlp(&deep.hash);
                Some(hasher.extension(&deep.path.slice(depth..), &branch))
            }
        }
    }

    /// The root of a trie that is this node.
    pub(super) fn root(&self) -> B256 {
        match self {
            Self::Empty => EMPTY_ROOT_HASH,
            Self::Branch { hash, .. } => *hash,
            Self::Leaf(_) | Self::Deep(_) => {
                let mut hasher = Hasher::default();
                self.below(0, &mut hasher);
                keccak256(&hasher.rlp)
            }
        }
    }

    /// The node, which lies below `depth` nibbles, after changes of keys below it, ascending.
    /// `scan` appends the leaves from the first to the second key, inclusive, ascending, as they are
    /// before.
    pub(super) fn update(
        &self,
        depth: usize,
        changes: &[Change<V>],
        scan: &mut Scan<'_, V>,
        hasher: &mut Hasher,
    ) -> Result<Self, StateError> {
        let Some((key, _)) = changes.first() else {
            return Ok(self.clone());
        };
        if let Some(children) = self.children() {
            let mut nodes = children.nodes.clone();
            for group in changes.chunk_by(|a, b| nibble(&a.0, depth) == nibble(&b.0, depth)) {
                let node = &mut nodes[usize::from(nibble(&group[0].0, depth))];
                *node = node.update(depth + 1, group, scan, hasher)?;
            }
            return Ok(Self::of_children(nodes, depth, key, hasher));
        }
        let mut before = Vec::new();
        match self {
            Self::Empty => {}
            Self::Leaf(leaf) => before.push((**leaf).clone()),
            Self::Branch { .. } | Self::Deep(_) => {
                let (first, last) = range_of(key, depth);
                scan(first, last, &mut before)?;
            }
        }
        Ok(Self::of_leaves(&merge(before, changes), depth, hasher))
    }

    /// The same node without children where there are at most so many leaves.
    pub(super) fn pruned(&self, leaves: u32) -> Self {
        let prune = |children: &Children<V>, below: u32| {
            children.as_ref().filter(|_| below > leaves).map(|sixteen| {
                let nodes = std::array::from_fn(|i| sixteen.nodes[i].pruned(leaves));
                let below: usize = nodes.iter().map(Self::heap).sum();
                let heap = SHARED_BYTES + size_of::<Sixteen<V>>() + below;
                Arc::new(Sixteen { heap, nodes })
            })
        };
        match self {
            Self::Empty | Self::Leaf(_) => self.clone(),
            Self::Branch {
                hash,
                leaves,
                children,
            } => Self::Branch {
                hash: *hash,
                leaves: *leaves,
                children: prune(children, *leaves),
            },
            Self::Deep(deep) => Self::Deep(Arc::new(Deep {
                children: prune(&deep.children, deep.leaves),
                ..(**deep).clone()
            })),
        }
    }
}

/// Leaves with changes laid over them.
fn merge<V: Value>(before: Vec<Leaf<V>>, changes: &[Change<V>]) -> Vec<Leaf<V>> {
    let mut after = Vec::with_capacity(before.len() + changes.len());
    let mut changes = changes.iter().peekable();
    let put = |after: &mut Vec<Leaf<V>>, (key, value): &Change<V>| {
        after.extend(value.clone().map(|value| (*key, value)));
    };
    for leaf in before {
        while let Some(change) = changes.next_if(|(key, _)| *key < leaf.0) {
            put(&mut after, change);
        }
        match changes.next_if(|(key, _)| *key == leaf.0) {
            Some(change) => put(&mut after, change),
            None => after.push(leaf),
        }
    }
    changes.for_each(|change| put(&mut after, change));
    after
}
