//! A runtime without processes, for tests of the reconciler.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axolotl_common::{NodeId, registry_api::RuntimeInfo};
use futures::future::{BoxFuture, FutureExt, ready};
use tokio::sync::mpsc;

use super::{Change, Exit, Found, Instance, Origin, Runtime, RuntimeError, SpawnSpec};

#[derive(Debug, Default)]
struct Inner {
    running: BTreeMap<NodeId, Instance>,
    ended: BTreeMap<NodeId, (Instance, Exit)>,
    history: Vec<String>,
    fail_spawns: usize,
    fault: Option<String>,
    next_pid: u32,
}

/// Pretends to run instances. Clones share what runs, so that a clone given to a second registry
/// plays the part of the machine that outlives the first.
#[derive(Clone, Debug)]
pub struct FakeRuntime {
    inner: Arc<Mutex<Inner>>,
    changes: mpsc::Sender<Change>,
}

impl FakeRuntime {
    /// A machine on which nothing runs.
    pub fn new(changes: mpsc::Sender<Change>) -> Self {
        Self {
            inner: Arc::default(),
            changes,
        }
    }

    /// The same machine, whose ends are told to another listener.
    pub fn heard_by(&self, changes: mpsc::Sender<Change>) -> Self {
        Self {
            inner: self.inner.clone(),
            changes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next spawns fail.
    pub fn fail_spawns(&self, count: usize) {
        self.lock().fail_spawns = count;
    }

    /// Lets it answer nothing, or again.
    pub fn set_fault(&self, fault: Option<&str>) {
        self.lock().fault = fault.map(str::to_owned);
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
            let (node, token) = (instance.node.clone(), instance.token.clone());
            let trace = (instance, exit.clone());
            self.lock().ended.insert(node.clone(), trace);
            // A listener that is gone was killed together with its registry.
            let _ = self.changes.send(Change::Ended { node, token, exit }).await;
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
        if let Some(running) = inner.running.get(&spec.node) {
            return ready(Ok(running.clone())).boxed();
        }
        inner.next_pid += 1;
        let instance = Instance {
            node: spec.node.clone(),
            generation: spec.generation,
            info: RuntimeInfo::Process {
                pid: inner.next_pid,
            },
            token: inner.next_pid.to_string(),
            public_rpc_url: None,
        };
        inner.ended.remove(&spec.node);
        inner.running.insert(spec.node.clone(), instance.clone());
        ready(Ok(instance)).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
        let inner = self.lock();
        if let Some(why) = &inner.fault {
            return ready(Err(RuntimeError::new("listing", why))).boxed();
        }
        let found = |instance: &Instance, ended: Option<&Exit>| Found {
            instance: instance.clone(),
            origin: Origin::Registry,
            ended: ended.cloned(),
        };
        let running = inner.running.values().map(|instance| found(instance, None));
        let ended = inner
            .ended
            .values()
            .map(|(instance, exit)| found(instance, Some(exit)));
        ready(Ok(running.chain(ended).collect())).boxed()
    }

    fn stop<'a>(&'a self, instance: &'a Instance) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.lock().history.push(format!("stop {}", instance.node));
        async {
            self.end(&instance.node, Exit::Clean).await;
            Ok(())
        }
        .boxed()
    }

    fn remove<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let mut inner = self.lock();
        inner.history.push(format!("remove {node}"));
        inner.ended.remove(node);
        ready(Ok(())).boxed()
    }
}
