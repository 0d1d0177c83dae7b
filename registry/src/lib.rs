//! The registry introduces nodes to one another, watches them, and starts processes.
//!
//! It is needed to join and to heal, never to order transactions: with the registry gone, running
//! nodes go on.
//!
//! # How data passes through
//! ```text
//! HTTP ──> http ──┐                      ┌──> store (sled; synced before anything is visible)
//!                 ├──> registry (owner) ─┼──> cluster (pure rules: who may register, who is
//! runtime ──> reconciler                 │    alive, what to start)
//!   ^             │                      └──> events, control streams
//!   └─────────────┘
//! ```
//! [`cluster`] holds rules without clock, input or output. [`registry::Registry`] owns cluster
//! state and store behind one lock: it asks the rules, writes the answer down, syncs, and only then
//! applies and shows it. [`http`] turns requests into its verbs. [`reconciler`] observes the
//! [`runtime`], asks [`cluster::restart`] what to do, and does it; an action is written down
//! before it is done, so that a registry killed at any instruction leaves neither an orphan nor a
//! double.
//!
//! # Guarantees
//! - One genesis: it is written once, synced before anyone sees it.
//! - A registration that was answered with 200 survives a kill.
//! - A label's number is never used twice, and orders and events have numbers that only grow.

pub mod adopt;
pub mod app;
pub mod authority;
pub mod cluster;
pub mod config;
pub mod http;
pub mod metrics;
pub mod openapi;
pub mod reconciler;
pub mod registry;
pub mod runtime;
pub mod store;
pub mod telemetry;
