//! What starts and stops nodes.
//!
//! A runtime knows nothing of chains or genesis: it starts an instance for a label and a
//! generation, finds again what it started before this process lived, and tells when one ended.

mod fake;
mod none;
mod ports;
mod proc_fs;
mod process;

pub use fake::FakeRuntime;
pub use none::NoRuntime;
pub use ports::PortBases;
pub use process::{ProcessOptions, ProcessRuntime};

use axolotl_common::NodeId;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

pub use crate::cluster::state::Instance;

/// Ends that wait to be looked at; a watcher waits when it is full.
pub const EXIT_QUEUE: usize = 256;

/// What is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpawnSpec {
    /// Label.
    pub node: NodeId,
    /// Number of the node: chooses addresses.
    pub number: u64,
    /// Which start of this node it is.
    pub generation: u64,
    /// Whether it is told to be first in the genesis.
    pub leader: bool,
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// In order, by somebody's wish.
    Clean,
    /// By a signal, an error, or in a way nobody saw.
    Crash(String),
}

/// An instance that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exited {
    /// Label.
    pub node: NodeId,
    /// Which start of the node it was.
    pub generation: u64,
    /// How.
    pub exit: Exit,
}

/// Why a runtime did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct RuntimeError {
    /// What was tried.
    pub what: String,
    /// What came in between, and what a person might do.
    pub why: String,
}

impl RuntimeError {
    /// An error with its cause.
    pub fn new(what: impl Into<String>, why: impl ToString) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
        }
    }
}

/// Starts and stops instances of nodes.
pub trait Runtime: Send + Sync {
    /// `process`, `none`, …
    fn kind(&self) -> &'static str;

    /// Starts an instance. When it fails nothing runs.
    fn spawn<'a>(&'a self, spec: &'a SpawnSpec) -> BoxFuture<'a, Result<Instance, RuntimeError>>;

    /// Every running instance of this registry's store, those started by an earlier process of it
    /// included; their ends are told from now on.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Instance>, RuntimeError>>;

    /// Stops an instance and waits until it is gone: politely first, then not.
    fn stop<'a>(&'a self, instance: &'a Instance) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// How a node that does not run ended last, as far as it left a trace. `forget` removes the
    /// trace: the end was the registry's own doing.
    fn last_exit<'a>(&'a self, node: &'a NodeId, forget: bool) -> BoxFuture<'a, Exit>;
}

/// Where a runtime tells of ends, and where the reconciler hears of them.
pub fn exit_queue() -> (mpsc::Sender<Exited>, mpsc::Receiver<Exited>) {
    mpsc::channel(EXIT_QUEUE)
}
