//! Nodes as containers of a Docker engine.
//!
//! Labels say which network and node a container or volume belongs to, and which registry's store
//! made it. Nothing else is kept: killed at any instruction, the next process of the registry finds
//! what is there by the labels, and uses or removes it. Containers that others made with the labels of the
//! network (those of the compose file) are watched and started again, never removed.
//!
//! The engine may be away, restart or hang: every call has a time limit, and the watcher
//! connects again with back-off and then asks for a look at everything.
//!
//! Deviations: the engine does not tell from a container's state whether it crashed, so what ended while
//! nobody listened counts as a crash and is started again.

mod container;
mod create;
mod engine;
mod lives;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axolotl_common::NodeId;
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptions, ListVolumesOptions, RemoveContainerOptions,
    RemoveVolumeOptions, StartContainerOptions, StopContainerOptions,
};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use container::{Container, Life, NETWORK, NODE, STORE, one_each};
use engine::{Engine, EngineError};
use lives::Lives;

use super::{Change, Found, Instance, Origin, Runtime, RuntimeError, SpawnSpec};

/// A node has this long to end after SIGTERM, in seconds.
const TERM_PATIENCE_S: i32 = 8;
/// The engine has this long for a stop: the node's time and a call's.
const STOP_PATIENCE: Duration = Duration::from_secs(TERM_PATIENCE_S as u64 + 5);
/// The engine has this long to start a container.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// How containers are made.
#[derive(Clone, Debug)]
pub struct DockerOptions {
    /// The engine's address, as in `DOCKER_HOST`.
    pub host: String,
    /// Name of the network, and value of the label `org.axolotl.network`.
    pub network: String,
    /// Image of nodes.
    pub image: String,
    /// Volume with the join token.
    pub join_volume: String,
    /// Begins the names of containers, and of volumes after `axolotl_`.
    pub name_prefix: String,
    /// Random name of the store: what other registries made is none of ours.
    pub store_id: String,
    /// Where containers find this registry.
    pub registry_url: String,
    /// First port of the host for libp2p.
    pub p2p_port: u16,
    /// First port of the host for JSON-RPC.
    pub rpc_port: u16,
    /// Memory of a container, in bytes.
    pub memory: u64,
    /// Further environment of nodes.
    pub environment: Vec<(String, String)>,
}

struct Inner {
    options: DockerOptions,
    engine: Engine,
    lives: Mutex<Lives>,
    /// Held while containers are made: two at a time would choose the same ports.
    making: tokio::sync::Mutex<()>,
}

/// Starts nodes as containers.
pub struct DockerRuntime {
    inner: Arc<Inner>,
    _watcher: AbortOnDropHandle<()>,
}

impl DockerRuntime {
    /// A runtime that tells of what happens through `changes`. Must be called inside a tokio runtime.
    pub fn new(options: DockerOptions, changes: mpsc::Sender<Change>) -> Self {
        let inner = Arc::new(Inner {
            engine: Engine::new(options.host.clone()),
            options,
            lives: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        });
        let watcher = tokio::spawn(watch::run(inner.clone(), changes));
        Self {
            inner,
            _watcher: AbortOnDropHandle::new(watcher),
        }
    }
}

impl Inner {
    fn lives(&self) -> MutexGuard<'_, Lives> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Containers of the network, or of one of its nodes.
    async fn containers(&self, node: Option<&NodeId>) -> Result<Vec<Container>, EngineError> {
        let mut labels = vec![format!("{NETWORK}={}", self.options.network)];
        labels.push(match node {
            Some(node) => format!("{NODE}={node}"),
            None => NODE.to_owned(),
        });
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), labels)])),
            ..ListContainersOptions::default()
        };
        let listed = self
            .engine
            .call(|docker| async move { docker.list_containers(Some(options)).await })
            .await?;
        let store = &self.options.store_id;
        let read = listed.into_iter();
        let mut containers: Vec<Container> =
            read.filter_map(|c| Container::read(c, store)).collect();
        for container in &mut containers {
            // The engine's list is a moment behind its events: what was told to have died is listed
            // as running for some milliseconds, and would not be started again.
            let told = self.lives().end(&container.id).is_some();
            if container.life == Life::Runs && told && !self.runs(&container.id).await? {
                container.life = Life::Ended;
            }
        }
        Ok(containers)
    }

    /// Whether a container runs, by its own state.
    async fn runs(&self, id: &str) -> Result<bool, EngineError> {
        let name = id.to_owned();
        let inspected = self
            .engine
            .call(|docker| async move {
                docker
                    .inspect_container(&name, None::<InspectContainerOptions>)
                    .await
            })
            .await;
        match inspected {
            Ok(container) => Ok(container.state.and_then(|state| state.running) == Some(true)),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn list(&self) -> Result<Vec<Found>, EngineError> {
        let containers = one_each(self.containers(None).await?);
        let lives = self.lives();
        let found = containers.iter().map(|c| c.found(lives.end(&c.id)));
        Ok(found.collect())
    }

    async fn start(&self, id: &str) -> Result<(), EngineError> {
        let id = id.to_owned();
        self.engine
            .call_within(START_PATIENCE, |docker| async move {
                docker
                    .start_container(&id, None::<StartContainerOptions>)
                    .await
            })
            .await
    }

    /// Stops a container; the engine wakes a paused one for it.
    async fn stop(&self, id: &str) -> Result<(), EngineError> {
        let id = id.to_owned();
        let options = StopContainerOptions {
            t: Some(TERM_PATIENCE_S),
            ..StopContainerOptions::default()
        };
        gone_is_well(
            self.engine
                .call_within(STOP_PATIENCE, |docker| async move {
                    docker.stop_container(&id, Some(options)).await
                })
                .await,
        )
    }

    /// Removes a container that does not run; its volume stays.
    async fn discard(&self, id: &str) -> Result<(), EngineError> {
        let id = id.to_owned();
        gone_is_well(
            self.engine
                .call(|docker| async move {
                    docker
                        .remove_container(&id, None::<RemoveContainerOptions>)
                        .await
                })
                .await,
        )
    }

    /// Names of the volumes that this registry made for a node.
    async fn own_volumes(&self, node: &NodeId) -> Result<Vec<String>, EngineError> {
        let labels = vec![
            format!("{NETWORK}={}", self.options.network),
            format!("{STORE}={}", self.options.store_id),
            format!("{NODE}={node}"),
        ];
        let options = ListVolumesOptions {
            filters: Some(HashMap::from([("label".to_owned(), labels)])),
        };
        let listed = self
            .engine
            .call(|docker| async move { docker.list_volumes(Some(options)).await })
            .await?;
        let volumes = listed.volumes.unwrap_or_default();
        Ok(volumes.into_iter().map(|volume| volume.name).collect())
    }

    async fn erase(&self, node: &NodeId) -> Result<(), RuntimeError> {
        let what = format!("removing {node}");
        let containers = self
            .containers(Some(node))
            .await
            .map_err(|e| e.during(&*what))?;
        let ours = containers.iter().filter(|c| c.origin == Origin::Registry);
        for container in ours {
            if container.life == Life::Runs {
                let why = format!(
                    "container {} runs; it is to be stopped first",
                    container.name
                );
                return Err(RuntimeError::new(what, why));
            }
            self.discard(&container.id)
                .await
                .map_err(|e| e.during(&*what))?;
        }
        let volumes = self.own_volumes(node).await;
        for volume in volumes.map_err(|e| e.during(&*what))? {
            let name = volume.clone();
            let removed = self
                .engine
                .call(|docker| async move {
                    docker
                        .remove_volume(&name, None::<RemoveVolumeOptions>)
                        .await
                })
                .await;
            gone_is_well(removed).map_err(|e| e.during(format!("{what}: volume {volume}")))?;
        }
        Ok(())
    }
}

/// What is not there need not be stopped or removed.
fn gone_is_well(result: Result<(), EngineError>) -> Result<(), EngineError> {
    match result {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

impl Runtime for DockerRuntime {
    fn kind(&self) -> &'static str {
        "docker"
    }

    fn spawn<'a>(&'a self, spec: &'a SpawnSpec) -> BoxFuture<'a, Result<Instance, RuntimeError>> {
        self.inner.spawn(spec).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, RuntimeError>> {
        async move {
            let listed = self.inner.list().await;
            listed.map_err(|e| e.during("listing containers"))
        }
        .boxed()
    }

    fn stop<'a>(&'a self, instance: &'a Instance) -> BoxFuture<'a, Result<(), RuntimeError>> {
        async move {
            let stopped = self.inner.stop(&instance.token).await;
            stopped.map_err(|e| e.during(format!("stopping {}", instance.node)))
        }
        .boxed()
    }

    fn remove<'a>(&'a self, node: &'a NodeId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.inner.erase(node).boxed()
    }
}
