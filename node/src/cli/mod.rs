//! `cli` of the node.
