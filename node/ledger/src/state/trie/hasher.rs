//! Hashes of the nodes of a trie.

use alloy_primitives::B256;
use alloy_trie::{
    Nibbles, TrieMask,
    nodes::{BranchNodeRef, ExtensionNodeRef, LeafNodeRef, RlpNode},
};

use super::{Leaf, Value, common_nibbles, nibble};

/// Where nodes are made, with what is allocated once only.
#[derive(Debug, Default)]
pub(in crate::state) struct Hasher {
    pub(super) rlp: Vec<u8>,
    value: Vec<u8>,
    pub(super) stack: Vec<RlpNode>,
    /// Bytes of the nodes made.
    pub(super) made: usize,
}

impl Hasher {
    /// Bytes of the nodes made since the last call.
    pub(in crate::state) fn take_made(&mut self) -> usize {
        std::mem::take(&mut self.made)
    }

    pub(super) fn leaf<V: Value>(&mut self, (key, value): &Leaf<V>, depth: usize) -> RlpNode {
        self.value.clear();
        value.encode(&mut self.value);
        self.rlp.clear();
        LeafNodeRef::new(&Nibbles::unpack(key).slice(depth..), &self.value).rlp(&mut self.rlp)
    }

    pub(super) fn extension(&mut self, path: &Nibbles, branch: &RlpNode) -> RlpNode {
        self.rlp.clear();
        ExtensionNodeRef::new(path, branch).rlp(&mut self.rlp)
    }

    /// The branch node over what lies on the stack from `base` on, which is taken off.
    pub(super) fn branch(&mut self, base: usize, mask: TrieMask) -> RlpNode {
        self.rlp.clear();
        let node = BranchNodeRef::new(&self.stack[base..], mask).rlp(&mut self.rlp);
        self.stack.truncate(base);
        node
    }

    /// The branch node at `depth` over leaves that agree up to there and part there.
    pub(super) fn branch_of_leaves<V: Value>(
        &mut self,
        leaves: &[Leaf<V>],
        depth: usize,
    ) -> RlpNode {
        let base = self.stack.len();
        let mut mask = TrieMask::default();
        for group in leaves.chunk_by(|a, b| nibble(&a.0, depth) == nibble(&b.0, depth)) {
            mask.set_bit(nibble(&group[0].0, depth));
            let node = self.subtrie(group, depth + 1);
            self.stack.push(node);
        }
        self.branch(base, mask)
    }

    /// How one or more leaves that agree up to `depth` appear in the branch node above.
    fn subtrie<V: Value>(&mut self, leaves: &[Leaf<V>], depth: usize) -> RlpNode {
        let (first, last) = (&leaves[0], &leaves[leaves.len() - 1]);
        if leaves.len() == 1 {
            return self.leaf(first, depth);
        }
        let parting = common_nibbles(&first.0, &last.0);
        let branch = self.branch_of_leaves(leaves, parting);
        if parting == depth {
            return branch;
        }
        let path = Nibbles::unpack(first.0).slice(depth..parting);
        self.extension(&path, &branch)
    }
}

pub(super) fn hash_of(branch: &RlpNode) -> B256 {
    branch.as_hash().expect(
        "a branch is shorter than its hash only where two keys agree in 57 of 64 nibbles, and keys are hashes",
    )
}
