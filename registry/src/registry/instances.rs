//! Verbs of the reconciler: which instances are wanted, which run, how they ended.
//!
//! A start is written down, with its generation, before it is done; what runs is written down
//! after. Killed in between, the next process of the registry finds the instance by the generation
//! it carries.

use std::collections::BTreeSet;

use axolotl_common::{NodeId, registry_api::EventKind};

use super::{CallError, Registry, Turn};
use crate::{
    cluster::{
        Now,
        registration::Refusal,
        restart::Action,
        state::{Instance, Managed, ManagedRecord},
    },
    runtime::{Exit, Exited, SpawnSpec},
};

/// What the reconciler saw at its start.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What runs.
    pub running: Vec<Instance>,
    /// How those ended that do not run.
    pub ended: Vec<(NodeId, Exit)>,
}

impl Registry {
    /// Writes down that the nodes of the genesis are wanted, at the first start of all.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn bootstrap(&self) -> Result<(), CallError> {
        self.call(|turn| turn.bootstrap()).await
    }

    /// Nodes that the registry starts and stops.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn managed(&self) -> Result<Vec<ManagedRecord>, CallError> {
        self.call(|turn| {
            let managed = turn.core.state.managed.values();
            Ok(managed.map(|managed| managed.record.clone()).collect())
        })
        .await
    }

    /// Takes over what an earlier process of the registry left; returns what is to be stopped,
    /// because nobody wants it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn adopt(&self, observed: Observed) -> Result<Vec<Instance>, CallError> {
        self.call(move |turn| turn.adopt(observed)).await
    }

    /// What is to be done now, and when to look again.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn plan(&self) -> Result<(Vec<Action>, Option<Now>), CallError> {
        self.call(|turn| Ok(turn.core.state.plan(turn.now))).await
    }

    /// Writes down that a node is about to be started; `None` when that is no longer wanted.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn begin_spawn(&self, label: NodeId) -> Result<Option<SpawnSpec>, CallError> {
        self.call(move |turn| turn.begin_spawn(&label)).await
    }

    /// Writes down what was started.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn spawned(&self, instance: Instance) -> Result<(), CallError> {
        self.call(move |turn| turn.spawned(instance)).await
    }

    /// Notes that a start failed; it is tried again with growing patience.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn spawn_failed(&self, label: NodeId, why: String) -> Result<(), CallError> {
        self.call(move |turn| turn.ended(&label, Exit::Crash(why)))
            .await
    }

    /// Notes that an instance ended.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn exited(&self, exited: Exited) -> Result<(), CallError> {
        self.call(move |turn| {
            let managed = turn.core.state.managed.get(&exited.node);
            // Of an older start: what runs now is another process.
            if managed.is_none_or(|managed| managed.record.generation != exited.generation) {
                return Ok(());
            }
            turn.ended(&exited.node, exited.exit)
        })
        .await
    }

    /// Notes that the registry stops a node; returns what is to be stopped.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn begin_stop(&self, label: NodeId) -> Result<Option<Instance>, CallError> {
        self.call(move |turn| {
            let Some(managed) = turn.core.state.managed.get_mut(&label) else {
                return Ok(None);
            };
            managed.stopping = true;
            Ok(managed.record.instance.clone())
        })
        .await
    }

    /// `POST /shutdown`: from now on managed nodes are stopped in order and nothing is started.
    /// Returns in words what is done.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn shut_down(&self) -> Result<String, CallError> {
        let message = self
            .call(|turn| {
                if !turn.core.state.shutdown {
                    turn.core.store.set_shutdown_begun(true)?;
                    turn.core.state.shutdown = true;
                }
                let (actions, _) = turn.core.state.plan(turn.now);
                let names: Vec<String> = actions
                    .iter()
                    .map(|action| match action {
                        Action::Start(label) | Action::Stop(label) => label.to_string(),
                    })
                    .collect();
                let message = match names.as_slice() {
                    [] => "nothing runs; nothing is started until the registry is started again"
                        .to_owned(),
                    names => format!(
                        "stopping {} in this order; nothing is started until the registry is \
                         started again",
                        names.join(", ")
                    ),
                };
                turn.event(EventKind::Stopped, None, format!("shutdown: {message}"))?;
                Ok(message)
            })
            .await?;
        self.wake();
        Ok(message)
    }

    /// Notes what is wrong with the runtime, or that nothing is.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn runtime_fault(&self, fault: Option<String>) -> Result<(), CallError> {
        self.call(move |turn| {
            if fault != turn.core.runtime_fault {
                let message = match &fault {
                    Some(fault) => format!("{fault}; heartbeats and discovery go on"),
                    None => "the runtime answers again".to_owned(),
                };
                turn.event(EventKind::Warning, None, message)?;
                turn.core.runtime_fault = fault;
            }
            Ok(())
        })
        .await
    }
}

impl Turn<'_> {
    fn bootstrap(&mut self) -> Result<(), CallError> {
        let state = &self.core.state;
        let fresh = state.managed.is_empty() && state.nodes.is_empty();
        if !fresh || state.chain.is_some() || state.foreign.is_some() {
            return Ok(());
        }
        let records: Vec<ManagedRecord> = (1..=state.rules.genesis_nodes as u64)
            .map(|number| ManagedRecord {
                label: NodeId::numbered(number),
                number,
                leader: number == 1,
                generation: 0,
                stopped: None,
                instance: None,
            })
            .collect();
        self.core
            .store
            .put_managed(&records.iter().collect::<Vec<_>>())?;
        for record in records {
            let label = record.label.clone();
            self.core.state.managed.insert(label, Managed::new(record));
        }
        Ok(())
    }

    fn put(&mut self, record: ManagedRecord) -> Result<(), CallError> {
        self.core.store.put_managed(&[&record])?;
        if let Some(managed) = self.core.state.managed.get_mut(&record.label) {
            managed.record = record;
        }
        Ok(())
    }

    fn adopt(&mut self, observed: Observed) -> Result<Vec<Instance>, CallError> {
        let mut unwanted = Vec::new();
        let mut adopted = BTreeSet::new();
        for instance in observed.running {
            let managed = self.core.state.managed.get(&instance.node);
            let record = managed
                .map(|managed| managed.record.clone())
                .filter(|record| {
                    record.generation == instance.generation && !adopted.contains(&record.label)
                });
            let Some(record) = record else {
                unwanted.push(instance);
                continue;
            };
            let label = record.label.clone();
            adopted.insert(label.clone());
            if record.instance.as_ref() != Some(&instance) || record.stopped.is_some() {
                self.put(ManagedRecord {
                    instance: Some(instance),
                    stopped: None,
                    ..record
                })?;
            }
            if let Some(managed) = self.core.state.managed.get_mut(&label) {
                managed.running = Some(Now::ZERO);
            }
            tracing::info!(node = %label, "{label} runs already, adopted");
        }
        let all_stopped = !self.core.state.managed.is_empty()
            && self
                .core
                .state
                .managed
                .values()
                .all(|managed| managed.record.stopped.is_some());
        if adopted.is_empty() && all_stopped {
            // Whoever starts the registry of a cluster that was stopped node by node wants it back.
            let records: Vec<ManagedRecord> = self
                .core
                .state
                .managed
                .values()
                .map(|managed| ManagedRecord {
                    stopped: None,
                    ..managed.record.clone()
                })
                .collect();
            for record in records {
                self.put(record)?;
            }
        }
        // Everything was stopped while nobody looked, or by `POST /shutdown`: this start of the
        // registry is the wish to have it back. A single node that was stopped stays stopped.
        let ordered = self.core.store.shutdown_begun()? || adopted.is_empty();
        for (label, exit) in observed.ended {
            let Some(managed) = self.core.state.managed.get(&label) else {
                continue;
            };
            let record = managed.record.clone();
            if exit == Exit::Clean && !ordered && record.generation > 0 && record.stopped.is_none()
            {
                let why = "stopped on purpose while the registry was away".to_owned();
                self.event(
                    EventKind::Stopped,
                    Some(&label),
                    format!("{label} was {why}"),
                )?;
                self.put(ManagedRecord {
                    stopped: Some(why),
                    ..record
                })?;
            }
        }
        if self.core.store.shutdown_begun()? {
            self.core.store.set_shutdown_begun(false)?;
        }
        Ok(unwanted)
    }

    fn begin_spawn(&mut self, label: &NodeId) -> Result<Option<SpawnSpec>, CallError> {
        let state = &self.core.state;
        let Some(managed) = state.managed.get(label) else {
            return Ok(None);
        };
        let unwanted = state.shutdown || state.foreign.is_some();
        if unwanted || managed.running.is_some() || managed.record.stopped.is_some() {
            return Ok(None);
        }
        let record = ManagedRecord {
            generation: managed.record.generation + 1,
            instance: None,
            ..managed.record.clone()
        };
        let spec = SpawnSpec {
            node: label.clone(),
            number: record.number,
            generation: record.generation,
            leader: record.leader,
        };
        self.put(record)?;
        Ok(Some(spec))
    }

    fn spawned(&mut self, instance: Instance) -> Result<(), CallError> {
        let label = instance.node.clone();
        let managed = self.core.state.managed.get(&label);
        let record = managed.ok_or(Refusal::UnknownKey)?.record.clone();
        let first = record.generation == 1;
        let info = instance.info.clone();
        self.put(ManagedRecord {
            instance: Some(instance),
            ..record
        })?;
        let now = self.now;
        if let Some(managed) = self.core.state.managed.get_mut(&label) {
            managed.running = Some(now);
            managed.down = None;
            managed.stopping = false;
            managed.backoff.started();
        }
        let what = match info {
            axolotl_common::registry_api::RuntimeInfo::Process { pid } => format!("pid {pid}"),
            axolotl_common::registry_api::RuntimeInfo::Docker { container } => {
                format!("container {container}")
            }
        };
        if first {
            let message = format!("{label} is started ({what})");
            self.event(EventKind::Spawned, Some(&label), message)
        } else {
            self.inner.metrics.restart();
            let message = format!("{label} is started again with its data ({what})");
            self.event(EventKind::Restarted, Some(&label), message)
        }
    }

    /// An instance ended, or could not be started.
    fn ended(&mut self, label: &NodeId, exit: Exit) -> Result<(), CallError> {
        let now = self.now;
        let Some(managed) = self.core.state.managed.get_mut(label) else {
            return Ok(());
        };
        managed.running = None;
        let record = managed.record.clone();
        let ours = managed.stopping;
        let registered = self
            .core
            .state
            .node_run_by(label)
            .map(|node| node.record.label.clone());
        if let Some(node) = registered.and_then(|label| self.core.state.nodes.get_mut(&label)) {
            // The last heartbeat of a dead process says nothing about the next one.
            node.live.heard = None;
            node.live.beat = None;
        }
        let managed = self.core.state.managed.get_mut(label);
        match exit {
            _ if ours => {
                if let Some(managed) = managed {
                    managed.down = Some("stopped by the registry".to_owned());
                }
                let message = format!("{label} was stopped by the registry");
                self.event(EventKind::Stopped, Some(label), message)
            }
            Exit::Clean => {
                let why = "stopped on purpose; it is not started again".to_owned();
                self.event(
                    EventKind::Stopped,
                    Some(label),
                    format!("{label} was {why}"),
                )?;
                self.put(ManagedRecord {
                    stopped: Some(why),
                    ..record
                })
            }
            Exit::Crash(how) => {
                let mut message = format!("{label} ended: {how}");
                if let Some(managed) = managed {
                    let wait = managed.backoff.crashed(now);
                    managed.down = Some(how);
                    message.push_str(&format!(
                        "; it is started again in {} ms (crash {} in a row)",
                        wait.as_millis(),
                        managed.backoff.crashes()
                    ));
                }
                self.event(EventKind::Exited, Some(label), message)
            }
        }
    }
}
