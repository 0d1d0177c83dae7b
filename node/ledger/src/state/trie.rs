//! A Merkle Patricia trie over keys of 32 bytes of which only the upper nodes are kept.
//!
//! The trie's keys fall into buckets by their first `depth` nibbles. What a bucket looks like from
//! above ([`Node`]) is remembered, and so is every node above the buckets; the leaves are not. An
//! update reads the buckets that hold changed keys, summarises them anew, and then merges each
//! dirty node of the levels above from its sixteen children. It is yielded as a [`TrieDelta`], so
//! that the trie itself stays that of the last decided block.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{B256, keccak256};
use alloy_trie::{
    EMPTY_ROOT_HASH, Nibbles, TrieMask,
    nodes::{BranchNodeRef, ExtensionNodeRef, LeafNodeRef, RlpNode},
};

use super::StateError;

/// Nibbles in a key.
const KEY_NIBBLES: usize = 64;
/// Most nibbles that choose a bucket: 65,536 buckets, about 3 MB of nodes.
pub(super) const MAX_DEPTH: usize = 4;
/// A bucket is meant to hold about this many leaves when a trie is built.
const BUCKET_LEAVES: usize = 8;

/// A key and the value under it.
pub(super) type Leaf = (B256, Vec<u8>);

/// Reads the leaves with keys from the first to the second argument, inclusive, ascending.
pub(super) type Scan<'a> = &'a dyn Fn(B256, B256) -> Result<Vec<Leaf>, StateError>;

/// What the part of a trie under one prefix looks like from above.
#[derive(Clone, Debug, Default)]
enum Node {
    /// No key has the prefix.
    #[default]
    Empty,
    /// One key has.
    Leaf(Arc<Leaf>),
    /// Keys part right after the prefix: a branch node with this hash.
    Branch(B256),
    /// Keys part later: the whole path to the branch node, and its hash.
    Deep(Arc<(Nibbles, B256)>),
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

/// The branch node at `depth` over leaves that agree up to there and part there.
fn branch_of_leaves(leaves: &[Leaf], depth: usize, buffer: &mut Vec<u8>) -> RlpNode {
    let mut children = Vec::with_capacity(16);
    let mut mask = TrieMask::default();
    for group in leaves.chunk_by(|a, b| nibble(&a.0, depth) == nibble(&b.0, depth)) {
        mask.set_bit(nibble(&group[0].0, depth));
        children.push(subtrie(group, depth + 1, buffer));
    }
    buffer.clear();
    BranchNodeRef::new(&children, mask).rlp(buffer)
}

/// How one or more leaves that agree up to `depth` appear in the branch node above.
fn subtrie(leaves: &[Leaf], depth: usize, buffer: &mut Vec<u8>) -> RlpNode {
    let (first, last) = (&leaves[0], &leaves[leaves.len() - 1]);
    if leaves.len() == 1 {
        return leaf_node(first, depth, buffer);
    }
    let parting = common_nibbles(&first.0, &last.0);
    let branch = branch_of_leaves(leaves, parting, buffer);
    if parting == depth {
        return branch;
    }
    let path = Nibbles::unpack(first.0).slice(depth..parting);
    buffer.clear();
    ExtensionNodeRef::new(&path, &branch).rlp(buffer)
}

fn leaf_node((key, value): &Leaf, depth: usize, buffer: &mut Vec<u8>) -> RlpNode {
    buffer.clear();
    LeafNodeRef::new(&Nibbles::unpack(key).slice(depth..), value).rlp(buffer)
}

fn hash_of(branch: &RlpNode) -> B256 {
    branch.as_hash().expect(
        "a branch is shorter than its hash only where two keys agree in 57 of 64 nibbles, and keys are hashes",
    )
}

impl Node {
    /// Summarises leaves that agree in their first `depth` nibbles.
    fn of_leaves(mut leaves: Vec<Leaf>, depth: usize, buffer: &mut Vec<u8>) -> Self {
        if leaves.len() < 2 {
            return leaves
                .pop()
                .map_or(Self::Empty, |leaf| Self::Leaf(Arc::new(leaf)));
        }
        let parting = common_nibbles(&leaves[0].0, &leaves[leaves.len() - 1].0);
        let hash = hash_of(&branch_of_leaves(&leaves, parting, buffer));
        if parting == depth {
            Self::Branch(hash)
        } else {
            let path = Nibbles::unpack(leaves[0].0).slice(..parting);
            Self::Deep(Arc::new((path, hash)))
        }
    }

    /// Merges the sixteen nodes under the `index`th prefix of `depth` nibbles.
    fn of_children<'a>(
        depth: usize,
        index: u32,
        child: impl Fn(u32) -> &'a Node,
        buffer: &mut Vec<u8>,
    ) -> Self {
        let children = (0..16u8).map(|n| (n, child(index * 16 + u32::from(n))));
        let mut present = children.filter(|(_, node)| !matches!(node, Self::Empty));
        let Some((nibble, only)) = present.next() else {
            return Self::Empty;
        };
        let Some(second) = present.next() else {
            return match only {
                Self::Branch(hash) => {
                    let path = prefix(depth + 1, index * 16 + u32::from(nibble));
                    Self::Deep(Arc::new((path, *hash)))
                }
                lifted => lifted.clone(),
            };
        };
        let mut mask = TrieMask::default();
        let mut nodes = Vec::with_capacity(16);
        for (nibble, node) in [(nibble, only), second].into_iter().chain(present) {
            mask.set_bit(nibble);
            nodes.extend(node.below(depth + 1, buffer));
        }
        buffer.clear();
        Self::Branch(hash_of(&BranchNodeRef::new(&nodes, mask).rlp(buffer)))
    }

    /// How the node appears in a branch node whose children's paths begin at `depth`.
    fn below(&self, depth: usize, buffer: &mut Vec<u8>) -> Option<RlpNode> {
        match self {
            Self::Empty => None,
            Self::Leaf(leaf) => Some(leaf_node(leaf, depth, buffer)),
            Self::Branch(hash) => Some(RlpNode::word_rlp(hash)),
            Self::Deep(deep) => {
                let (path, hash) = &**deep;
                buffer.clear();
                let branch = RlpNode::word_rlp(hash);
                Some(ExtensionNodeRef::new(&path.slice(depth..), &branch).rlp(buffer))
            }
        }
    }

    /// The root of a trie that is this node.
    fn root(&self) -> B256 {
        let mut buffer = Vec::new();
        match self {
            Self::Empty => EMPTY_ROOT_HASH,
            Self::Branch(hash) => *hash,
            Self::Leaf(_) | Self::Deep(_) => {
                self.below(0, &mut buffer);
                keccak256(&buffer)
            }
        }
    }
}

/// The root over these leaves, ascending by key.
pub(super) fn root_of(leaves: Vec<Leaf>) -> B256 {
    Node::of_leaves(leaves, 0, &mut Vec::new()).root()
}

/// The `index`th prefix of `depth` nibbles.
fn prefix(depth: usize, index: u32) -> Nibbles {
    Nibbles::unpack(first_key(depth, index)).slice(..depth)
}

fn first_key(depth: usize, index: u32) -> B256 {
    let mut key = B256::ZERO;
    let bits = u64::from(index) << (32 - 4 * depth);
    key[..4].copy_from_slice(&(bits as u32).to_be_bytes());
    key
}

fn last_key(depth: usize, index: u32) -> B256 {
    let mut key = B256::repeat_byte(0xff);
    let bits = ((u64::from(index) + 1) << (32 - 4 * depth)) - 1;
    key[..4].copy_from_slice(&(bits as u32).to_be_bytes());
    key
}

fn bucket_of(depth: usize, key: &B256) -> u32 {
    let head = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    (u64::from(head) >> (32 - 4 * depth)) as u32
}

/// How deep the buckets of a trie of this many leaves are best.
pub(super) fn depth_for(leaves: usize) -> usize {
    (1..MAX_DEPTH)
        .find(|depth| leaves >> (4 * depth) < BUCKET_LEAVES)
        .unwrap_or(MAX_DEPTH)
}

/// The upper nodes of one trie.
#[derive(Clone, Debug)]
pub(super) struct BucketTrie {
    depth: usize,
    /// `levels[d]` holds a node for each prefix of `d` nibbles.
    levels: Vec<Vec<Node>>,
}

/// Nodes that change in a [`BucketTrie`].
#[derive(Clone, Debug, Default)]
pub(super) struct TrieDelta {
    levels: Vec<BTreeMap<u32, Node>>,
    /// Leaves in the fullest bucket that was read.
    pub(super) fullest: usize,
}

impl BucketTrie {
    /// Builds a trie from all its leaves, which `scan` yields in ascending order.
    pub(super) fn build(
        depth: usize,
        scan: impl FnOnce(&mut dyn FnMut(B256, Vec<u8>)) -> Result<(), StateError>,
    ) -> Result<Self, StateError> {
        let depth = depth.min(MAX_DEPTH);
        let mut buffer = Vec::new();
        let mut buckets = vec![Node::Empty; 1 << (4 * depth)];
        let (mut current, mut leaves) = (0, Vec::new());
        scan(&mut |key, value| {
            let bucket = bucket_of(depth, &key);
            if bucket != current {
                let done = std::mem::take(&mut leaves);
                buckets[current as usize] = Node::of_leaves(done, depth, &mut buffer);
                current = bucket;
            }
            leaves.push((key, value));
        })?;
        buckets[current as usize] = Node::of_leaves(leaves, depth, &mut buffer);
        let mut levels = vec![buckets];
        for above in (0..depth).rev() {
            let below = &levels[levels.len() - 1];
            let merge = |index| {
                Node::of_children(above, index, |child| &below[child as usize], &mut buffer)
            };
            let level = (0..1u32 << (4 * above)).map(merge).collect();
            levels.push(level);
        }
        levels.reverse();
        Ok(Self { depth, levels })
    }

    /// The root hash.
    pub(super) fn root(&self) -> B256 {
        self.levels[0][0].root()
    }

    /// Nibbles that choose a bucket.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Number of nodes, filled or not: what the trie costs in memory.
    pub(super) fn nodes(&self) -> usize {
        self.levels.iter().map(Vec::len).sum()
    }

    /// The nodes that change when these keys get these values (`None`: are removed). `scan` reads
    /// the trie as it is after that.
    pub(super) fn update(
        &self,
        changes: &BTreeMap<B256, Option<Vec<u8>>>,
        scan: Scan<'_>,
    ) -> Result<TrieDelta, StateError> {
        let mut delta = TrieDelta {
            levels: vec![BTreeMap::new(); self.depth + 1],
            fullest: 0,
        };
        let mut buffer = Vec::new();
        let mut changes = changes.iter().peekable();
        while let Some((key, _)) = changes.peek() {
            let bucket = bucket_of(self.depth, key);
            let last = last_key(self.depth, bucket);
            let mut dirty = BTreeMap::new();
            while let Some((key, value)) = changes.next_if(|(key, _)| **key <= last) {
                dirty.insert(*key, value.as_ref());
            }
            let leaves = match &self.levels[self.depth][bucket as usize] {
                Node::Empty => changed_leaves(None, &dirty),
                Node::Leaf(leaf) => changed_leaves(Some(leaf), &dirty),
                Node::Branch(_) | Node::Deep(_) => scan(first_key(self.depth, bucket), last)?,
            };
            delta.fullest = delta.fullest.max(leaves.len());
            let node = Node::of_leaves(leaves, self.depth, &mut buffer);
            delta.levels[self.depth].insert(bucket, node);
        }
        for depth in (0..self.depth).rev() {
            let (above, below) = delta.levels.split_at_mut(depth + 1);
            let old = &self.levels[depth + 1];
            for child in below[0].keys() {
                let index = child / 16;
                if above[depth]
                    .last_key_value()
                    .is_some_and(|(last, _)| *last == index)
                {
                    continue;
                }
                let child = |child| below[0].get(&child).unwrap_or(&old[child as usize]);
                let node = Node::of_children(depth, index, child, &mut buffer);
                above[depth].insert(index, node);
            }
        }
        Ok(delta)
    }

    /// The root after a change.
    pub(super) fn root_after(&self, delta: &TrieDelta) -> B256 {
        let changed = delta.levels.first().and_then(|level| level.get(&0));
        changed.unwrap_or(&self.levels[0][0]).root()
    }

    /// Makes a change that [`BucketTrie::update`] gave for this very trie.
    pub(super) fn apply(&mut self, delta: TrieDelta) {
        for (level, changes) in self.levels.iter_mut().zip(delta.levels) {
            for (index, node) in changes {
                level[index as usize] = node;
            }
        }
    }
}

/// The leaves of a bucket that held at most one.
fn changed_leaves(old: Option<&Arc<Leaf>>, dirty: &BTreeMap<B256, Option<&Vec<u8>>>) -> Vec<Leaf> {
    let mut leaves: Vec<Leaf> = dirty
        .iter()
        .filter_map(|(key, value)| value.map(|value| (*key, value.clone())))
        .collect();
    if let Some(leaf) = old.filter(|leaf| !dirty.contains_key(&leaf.0)) {
        let place = leaves.partition_point(|(key, _)| *key < leaf.0);
        leaves.insert(place, (**leaf).clone());
    }
    leaves
}
