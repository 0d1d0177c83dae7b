//! `chain_sync` of the node.
