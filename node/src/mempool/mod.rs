//! `mempool` of the node.
