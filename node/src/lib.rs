//! The Axolotl node: everything with input and output around the pure packages `consensus` and
//! `ledger`.
//!
//! | module | task or thread | owns |
//! |---|---|---|
//! | [`app`] | main | puts the others together |
//! | [`network`] | one task | the swarm |
//! | [`engine`] | threads `engine` and `worker` | consensus driver and its log; the chain's writer |
//! | [`chain_sync`] | one task | what is asked of whom |
//! | [`transactions`] | two tasks | transactions on their way |
//! | [`mempool`], [`storage`] | none: handles with locks | pool; logs and state |
//! | [`rpc`], [`admin`] | one task a connection | filters of clients |
//! | [`registry_client`] | tasks of `app` | calls to the registry |
//!
//! All channels are bounded; their constants stand beside them and say what happens when they are
//! full.

pub mod admin;
pub mod app;
pub mod chain_sync;
pub mod cli;
pub mod config;
pub mod engine;
pub mod mempool;
pub mod metrics;
pub mod network;
pub mod registry_client;
pub mod rpc;
pub mod storage;
pub mod telemetry;
pub mod transactions;
