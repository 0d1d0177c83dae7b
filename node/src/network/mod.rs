//! `network` of the node.
