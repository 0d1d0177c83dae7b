//! `storage` of the node.
