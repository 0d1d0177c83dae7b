//! No runtime: nodes are started by others, the registry only watches.

use axolotl_common::NodeId;
use futures::future::{BoxFuture, FutureExt, ready};

use super::{Found, Instance, Runtime, RuntimeError, SpawnSpec};

/// Starts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRuntime;

impl Runtime for NoRuntime {
    fn kind(&self) -> &'static str {
        "none"
    }

    fn spawn<'a>(&'a self, spec: &'a SpawnSpec) -> BoxFuture<'a, Result<Instance, RuntimeError>> {
        let error = RuntimeError::new(format!("starting {}", spec.node), "RUNTIME is none");
        ready(Err(error)).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn stop<'a>(&'a self, _: &'a Instance) -> BoxFuture<'a, Result<(), RuntimeError>> {
        ready(Ok(())).boxed()
    }

    fn remove<'a>(&'a self, _: &'a NodeId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        ready(Ok(())).boxed()
    }
}
