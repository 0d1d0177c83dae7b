//! The Axolotl node: everything with input and output around the pure packages `consensus` and
//! `ledger`.

pub mod chain_sync;
pub mod cli;
pub mod engine;
pub mod mempool;
pub mod network;
pub mod registry_client;
pub mod rpc;
pub mod storage;
