//! A trie that is read for the first time.

use alloy_primitives::B256;

use super::{Hasher, Leaf, Node, Value, range_of};
use crate::state::StateError;

/// A trie is read in ranges of about this many leaves: reading one takes about a millisecond.
const RANGE_LEAVES: u64 = 1_024;
/// Nibbles that choose a range: at most 65,536 ranges.
const MAX_RANGE_DEPTH: usize = 4;

/// The first key with the `index`th prefix of `depth` nibbles, of at most eight.
fn first_key(depth: usize, index: usize) -> B256 {
    let mut key = B256::ZERO;
    let bits = (index as u64) << (32 - 4 * depth);
    key[..4].copy_from_slice(&(bits as u32).to_be_bytes());
    key
}

/// A trie that is being read for the first time, range by range.
#[derive(Clone, Debug)]
pub(in crate::state) struct TrieBuild<V> {
    depth: usize,
    /// The nodes of the first ranges.
    done: Vec<Node<V>>,
    /// What they take in memory.
    heap: usize,
    /// When they take more than this, further ranges become one bucket each.
    max_heap: usize,
}

impl<V: Value> TrieBuild<V> {
    /// Begins a trie of about this many leaves.
    pub(in crate::state) fn new(leaves: u64, max_heap: usize) -> Self {
        let depth = (0..MAX_RANGE_DEPTH).find(|depth| leaves >> (4 * depth) <= RANGE_LEAVES);
        Self::of_depth(depth.unwrap_or(MAX_RANGE_DEPTH), max_heap)
    }

    fn of_depth(depth: usize, max_heap: usize) -> Self {
        Self {
            depth,
            done: Vec::with_capacity(1 << (4 * depth)),
            heap: size_of::<Node<V>>() << (4 * depth),
            max_heap,
        }
    }

    /// Reads all of a trie in one pass: `scan` yields the leaves, ascending.
    pub(in crate::state) fn read_all(
        scan: impl FnOnce(&mut dyn FnMut(B256, V)) -> Result<(), StateError>,
        hasher: &mut Hasher,
    ) -> Result<Node<V>, StateError> {
        // 256 groups: of 10 M leaves one group is 40,000, a few MB.
        let mut build = Self::of_depth(2, usize::MAX);
        let mut leaves: Vec<Leaf<V>> = Vec::new();
        scan(&mut |key, value| {
            while build.done.len() < usize::from(key[0]) {
                build.put(&leaves, hasher);
                leaves.clear();
            }
            leaves.push((key, value));
        })?;
        while !build.is_done() {
            build.put(&leaves, hasher);
            leaves.clear();
        }
        Ok(build.finish(hasher))
    }

    /// Ranges that are read, and all that there are.
    pub(in crate::state) fn progress(&self) -> (usize, usize) {
        (self.done.len(), 1 << (4 * self.depth))
    }

    /// Whether all is read.
    pub(in crate::state) fn is_done(&self) -> bool {
        let (done, all) = self.progress();
        done == all
    }

    /// The range to read next.
    pub(in crate::state) fn range(&self) -> (B256, B256) {
        range_of(&first_key(self.depth, self.done.len()), self.depth)
    }

    /// Takes the leaves of that range.
    pub(in crate::state) fn put(&mut self, leaves: &[Leaf<V>], hasher: &mut Hasher) {
        let mut node = Node::of_leaves(leaves, self.depth, hasher);
        if self.heap > self.max_heap {
            node = node.pruned(u32::MAX);
        }
        self.heap += node.heap();
        self.done.push(node);
    }

    /// The trie.
    pub(in crate::state) fn finish(self, hasher: &mut Hasher) -> Node<V> {
        let mut nodes = self.done;
        for depth in (0..self.depth).rev() {
            let mut below = nodes.into_iter();
            nodes = (0..1usize << (4 * depth))
                .map(|index| {
                    let sixteen = std::array::from_fn(|_| below.next().unwrap_or(Node::Empty));
                    Node::of_children(sixteen, depth, &first_key(depth, index), hasher)
                })
                .collect();
        }
        nodes.pop().unwrap_or(Node::Empty)
    }

    /// What it takes in memory.
    pub(in crate::state) fn heap(&self) -> usize {
        self.heap
    }

    /// The same progress with as little memory as that takes.
    pub(in crate::state) fn pruned(&self) -> Self {
        let mut pruned = Self::of_depth(self.depth, self.max_heap);
        pruned
            .done
            .extend(self.done.iter().map(|node| node.pruned(u32::MAX)));
        pruned.heap += pruned.done.iter().map(Node::heap).sum::<usize>();
        pruned
    }
}
