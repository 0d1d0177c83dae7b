//! What starts and stops nodes.
//!
//! A runtime knows nothing of chains or genesis: it starts an instance for a label and a
//! generation, finds again what it started before this process lived, and tells when one ended.

mod docker;
mod fake;
mod none;
mod ports;
mod proc_fs;
mod process;

pub use docker::{DockerOptions, DockerRuntime};
pub use fake::FakeRuntime;
pub use none::NoRuntime;
pub use ports::PortBases;
pub use process::{ProcessOptions, ProcessRuntime};

use axolotl_common::NodeId;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

pub use crate::cluster::instance::{Instance, Origin};

/// Changes that wait to be looked at; a watcher waits when it is full.
pub const CHANGE_QUEUE: usize = 256;

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

/// An instance that the runtime has, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The instance.
    pub instance: Instance,
    /// Who made it.
    pub origin: Origin,
    /// How it ended; `None` while it runs.
    pub ended: Option<Exit>,
}

/// Something that happened without the registry asking for it, or because it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An instance runs that did not before.
    Started(Found),
    /// An instance ended.
    Ended {
        /// Label.
        node: NodeId,
        /// [`Instance::token`] of what ended.
        token: String,
        /// How.
        exit: Exit,
    },
    /// What was left of an instance was removed, by whomever.
    Removed {
        /// Label.
        node: NodeId,
        /// [`Instance::token`] of what was removed.
        token: String,
    },
    /// Changes may have been missed: [`Runtime::list`] says how things are.
    Look,
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

    /// Starts an instance: a new one, or again one that ended, with its data. When it fails nothing
    /// runs. An instance that runs already is given back as it is.
    fn spawn<'a>(&'a self, spec: &'a SpawnSpec) -> BoxFuture<'a, Result<Instance, RuntimeError>>;

    /// Every instance of this network, running or not, those started by an earlier process of the
    /// registry included; changes are told from now on.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>>;

    /// Stops an instance and waits until it is gone: politely first, then not.
    fn stop<'a>(&'a self, instance: &'a Instance) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Removes what is left of a node that this registry made and that does not run, with its data. Does
    /// nothing when nothing is left.
    fn remove<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<(), RuntimeError>>;
}

/// Where a runtime tells of changes, and where the reconciler hears of them.
pub fn change_queue() -> (mpsc::Sender<Change>, mpsc::Receiver<Change>) {
    mpsc::channel(CHANGE_QUEUE)
}
