//! `rpc` of the node.
