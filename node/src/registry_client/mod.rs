//! `registry_client` of the node.
