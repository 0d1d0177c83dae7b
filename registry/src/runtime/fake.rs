//! A runtime without processes, for tests of the reconciler.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axolotl_common::{NodeId, registry_api::RuntimeInfo};
use futures::future::{BoxFuture, FutureExt, ready};
use tokio::sync::mpsc;

use super::{Exit, Exited, Instance, Runtime, RuntimeError, SpawnSpec};

#[derive(Debug, Default)]
struct Inner {
    running: BTreeMap<NodeId, Instance>,
    history: Vec<String>,
    fail_spawns: usize,
    next_pid: u32,
}

/// Pretends to run instances. Clones share what runs, so that a clone given to a second registry
/// plays the part of the machine that outlives the first.
#[derive(Clone, Debug)]
pub struct FakeRuntime {
    inner: Arc<Mutex<Inner>>,
    exits: mpsc::Sender<Exited>,
}

impl FakeRuntime {
    /// A machine on which nothing runs.
    pub fn new(exits: mpsc::Sender<Exited>) -> Self {
        Self {
            inner: Arc::default(),
            exits,
        }
    }

    /// The same machine, whose ends are told to another listener.
    pub fn heard_by(&self, exits: mpsc::Sender<Exited>) -> Self {
        Self {
            inner: self.inner.clone(),
            exits,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next spawns fail.
    pub fn fail_spawns(&self, count: usize) {
        self.lock().fail_spawns = count;
    }

    /// What runs now.
    pub fn running(&self) -> Vec<NodeId> {
        self.lock().running.keys().cloned().collect()
    }

    /// Everything that was asked of it, in order: `spawn node1`, `stop node1`.
    pub fn history(&self) -> Vec<String> {
        self.lock().history.clone()
    }

    /// Ends an instance.
    pub async fn end(&self, node: &NodeId, exit: Exit) {
        let ended = self.lock().running.remove(node);
        if let Some(instance) = ended {
            let exited = Exited {
                node: instance.node,
                generation: instance.generation,
                exit,
            };
            // A listener that is gone was killed together with its registry.
            let _ = self.exits.send(exited).await;
        }
    }
}

impl Runtime for FakeRuntime {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn spawn<'a>(&'a self, spec: &'a SpawnSpec) -> BoxFuture<'a, Result<Instance, RuntimeError>> {
        let mut inner = self.lock();
        inner.history.push(format!("spawn {}", spec.node));
        if inner.fail_spawns > 0 {
            inner.fail_spawns -= 1;
            let error = RuntimeError::new(format!("starting {}", spec.node), "a test asked for it");
            return ready(Err(error)).boxed();
        }
        if inner.running.contains_key(&spec.node) {
            inner.history.push(format!("double {}", spec.node));
        }
        inner.next_pid += 1;
        let instance = Instance {
            node: spec.node.clone(),
            generation: spec.generation,
            info: RuntimeInfo::Process {
                pid: inner.next_pid,
            },
            token: String::new(),
        };
        inner.running.insert(spec.node.clone(), instance.clone());
        ready(Ok(instance)).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Instance>, RuntimeError>> {
        let running = self.lock().running.values().cloned().collect();
        ready(Ok(running)).boxed()
    }

    fn stop<'a>(&'a self, instance: &'a Instance) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.lock().history.push(format!("stop {}", instance.node));
        async {
            self.end(&instance.node, Exit::Clean).await;
            Ok(())
        }
        .boxed()
    }

    fn last_exit<'a>(&'a self, _: &'a NodeId, _: bool) -> BoxFuture<'a, Exit> {
        ready(Exit::Crash("ended while nobody looked".to_owned())).boxed()
    }
}
