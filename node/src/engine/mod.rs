//! `engine` of the node.
