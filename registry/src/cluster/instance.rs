//! What a runtime runs: instances of nodes, and what the registry wants of them.

use std::collections::VecDeque;

use axolotl_common::{NodeId, registry_api::RuntimeInfo};
use serde::{Deserialize, Serialize};

use super::{Now, restart::Backoff};

/// Who made an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A registry: it may be removed with its data.
    #[default]
    Registry,
    /// Somebody else, such as a compose file: it is watched and started again, never removed.
    Given,
}

/// Something that runs a node: enough to find and to stop it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Label of the node that it runs.
    pub node: NodeId,
    /// Which start of this node it is.
    pub generation: u64,
    /// For people.
    pub info: RuntimeInfo,
    /// What the runtime recognises it by; everybody else only compares it.
    pub token: String,
    /// JSON-RPC of the node as the host reaches it, where the runtime knows.
    #[serde(default)]
    pub public_rpc_url: Option<String>,
}

/// A node that the registry starts and stops: the durable part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedRecord {
    /// Label.
    pub label: NodeId,
    /// Number.
    pub number: u64,
    /// Whether it is told to be first in the genesis.
    pub leader: bool,
    /// Who made it.
    #[serde(default)]
    pub origin: Origin,
    /// Number of starts that were begun; written down before each.
    pub generation: u64,
    /// Why it is not to run, if it is not: stopped on purpose.
    pub stopped: Option<String>,
    /// Why it is being removed with its data, if it is; written down before anything is removed.
    #[serde(default)]
    pub removing: Option<String>,
    /// The running instance, or the last one.
    pub instance: Option<Instance>,
}

impl ManagedRecord {
    /// A node of which nothing was started yet.
    pub fn new(number: u64, origin: Origin) -> Self {
        Self {
            label: NodeId::numbered(number),
            number,
            leader: false,
            origin,
            generation: 0,
            stopped: None,
            removing: None,
            instance: None,
        }
    }
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// In words.
    pub why: String,
    /// When it was seen.
    pub at: Now,
}

/// A node that the registry starts and stops.
#[derive(Clone, Debug)]
pub struct Managed {
    /// Durable part.
    pub record: ManagedRecord,
    /// Since when it runs, if it does.
    pub running: Option<Now>,
    /// How it ended, if it did.
    pub ended: Option<Ended>,
    /// Whether the registry is stopping it.
    pub stopping: bool,
    /// Crashes in a row.
    pub backoff: Backoff,
    /// Whether the runtime has nothing of it, and somebody else is to make it, such as a compose file.
    pub absent: bool,
}

impl Managed {
    /// A node of which nothing runs.
    pub fn new(record: ManagedRecord) -> Self {
        Self {
            record,
            running: None,
            ended: None,
            stopping: false,
            backoff: Backoff::default(),
            absent: false,
        }
    }

    /// When its end was seen; the registry's own start for what ended before.
    pub fn ended_at(&self) -> Now {
        self.ended.as_ref().map_or(Now::ZERO, |ended| ended.at)
    }

    /// Whether it is to run: neither stopped on purpose nor being removed, nor somebody else's to make.
    pub fn is_wanted(&self) -> bool {
        self.record.stopped.is_none() && self.record.removing.is_none() && !self.absent
    }
}

/// Moments of the newest crashes.
pub type Crashes = VecDeque<Now>;
