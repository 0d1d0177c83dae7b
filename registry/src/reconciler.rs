//! Brings what runs to what is wanted: observe, plan, act; again on every word of the runtime, on
//! every wish and heartbeat that changes something, when a patience is over, and on a tick.
//!
//! It keeps nothing of its own: killed at any instruction and started again, it observes and goes
//! on. A runtime that does not answer is asked again at the next tick; nothing is started meanwhile.

use std::{sync::Arc, time::Duration};

use axolotl_common::NodeId;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    cluster::{Now, instance::Instance, planner::Action},
    registry::{CallError, Registry},
    runtime::{Change, Runtime},
};

/// Changes taken in before the next plan.
const CHANGES_PER_PASS: usize = 64;

/// The reconciler's task.
pub struct Reconciler {
    registry: Registry,
    runtime: Arc<dyn Runtime>,
    changes: mpsc::Receiver<Change>,
    tick: Duration,
    /// When the runtime was last asked what it has; `None`: ask it now.
    looked: Option<Now>,
    /// What was done last: the same once more may wait.
    last: Vec<Action>,
}

/// Pause before the same actions are tried again.
const AGAIN: Duration = Duration::from_millis(500);

impl Reconciler {
    /// A reconciler that looks at least every `tick`.
    pub fn new(
        registry: Registry,
        runtime: Arc<dyn Runtime>,
        changes: mpsc::Receiver<Change>,
        tick: Duration,
    ) -> Self {
        Self {
            registry,
            runtime,
            changes,
            tick,
            looked: None,
            last: Vec::new(),
        }
    }

    /// Runs until the registry ends. What it started goes on running.
    pub async fn run(mut self) {
        let ending = self.registry.ending().clone();
        loop {
            let next = match self.pass().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(%error, "the reconciler ends with the registry");
                    return;
                }
            };
            let patience = next
                .map_or(self.tick, |at| at.saturating_sub(self.registry.now()))
                .min(self.tick);
            let heard = tokio::select! {
                biased;
                () = ending.cancelled() => return,
                change = self.changes.recv() => self.take(change).await,
                () = self.registry.woken() => Ok(()),
                () = sleep(patience) => Ok(()),
            };
            if heard.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, change: Option<Change>) -> Result<(), CallError> {
        match change {
            Some(Change::Look) | None => self.looked = None,
            Some(change) => self.registry.changed(change).await?,
        }
        self.take_waiting().await
    }

    /// Takes in what has come together, so that the plan sees all of it.
    async fn take_waiting(&mut self) -> Result<(), CallError> {
        for _ in 0..CHANGES_PER_PASS {
            match self.changes.try_recv() {
                Ok(Change::Look) => self.looked = None,
                Ok(change) => self.registry.changed(change).await?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// One round; returns when the next is due.
    async fn pass(&mut self) -> Result<Option<Now>, CallError> {
        if !self.look().await? {
            return Ok(None);
        }
        let plan = self.registry.plan().await?;
        let again = plan.actions == self.last;
        let next = match plan.actions.is_empty() {
            true => plan.next,
            // Acting changes what the plan was made of: plan again, at once unless nothing came of it.
            false if again => Some(self.registry.now() + AGAIN),
            false => Some(self.registry.now()),
        };
        self.last.clone_from(&plan.actions);
        for action in plan.actions {
            self.act(action).await?;
        }
        Ok(next)
    }

    async fn act(&self, action: Action) -> Result<(), CallError> {
        match action {
            Action::Start(label) => self.start(label).await,
            Action::Spawn { why } => self.registry.add_node(why).await,
            Action::Stop(label) => match self.registry.begin_stop(label).await? {
                Some(instance) => {
                    self.stop(&instance).await;
                    Ok(())
                }
                None => Ok(()),
            },
            Action::Remove { label, why } => self.remove(label, why).await,
            Action::Propose { members, why } => self.registry.propose(members, why).await,
            Action::Probe => self.registry.probe().await,
            Action::Dismiss(label) => {
                if let Some(instance) = self.registry.dismiss(label).await? {
                    self.stop(&instance).await;
                }
                Ok(())
            }
        }
    }

    async fn start(&self, label: NodeId) -> Result<(), CallError> {
        let Some(spec) = self.registry.begin_spawn(label.clone()).await? else {
            return Ok(());
        };
        match self.runtime.spawn(&spec).await {
            Ok(instance) => self.registry.spawned(instance).await,
            Err(error) => self.registry.spawn_failed(label, error.to_string()).await,
        }
    }

    /// Returns whether it is gone.
    async fn stop(&self, instance: &Instance) -> bool {
        let stopped = self.runtime.stop(instance).await;
        if let Err(error) = &stopped {
            tracing::warn!(node = %instance.node, %error, "{} could not be stopped; tried again", instance.node);
        }
        stopped.is_ok()
    }

    async fn remove(&self, label: NodeId, why: String) -> Result<(), CallError> {
        if let Some(instance) = self.registry.begin_remove(label.clone(), why).await?
            && !self.stop(&instance).await
        {
            return Ok(());
        }
        match self.runtime.remove(&label).await {
            Ok(()) => self.registry.removed(label).await,
            Err(error) => {
                tracing::warn!(node = %label, %error, "{label} could not be removed; tried again");
                Ok(())
            }
        }
    }

    /// Asks the runtime what it has, at the start, after a tick, and when changes were missed; `false`
    /// when it does not answer.
    async fn look(&mut self) -> Result<bool, CallError> {
        let due = |looked: Now| self.registry.now().saturating_sub(looked) >= self.tick;
        if self.looked.is_some_and(|looked| !due(looked)) {
            return Ok(true);
        }
        let missed = self.looked.is_none();
        // What was told before is older than what is seen now; what is told meanwhile is newer, or the
        // same once more.
        self.take_waiting().await?;
        let found = match self.runtime.list().await {
            Ok(found) => found,
            Err(error) => {
                self.looked = None;
                let fault = format!("the {} runtime: {error}", self.runtime.kind());
                self.registry.runtime_fault(Some(fault)).await?;
                return Ok(false);
            }
        };
        self.registry.runtime_fault(None).await?;
        if missed && self.runtime.kind() != "none" {
            self.registry
                .bootstrap(self.runtime.kind() != "docker")
                .await?;
        }
        for double in self.registry.observe(found, missed).await? {
            tracing::warn!(node = %double.node, "{} runs although nobody wants it; it is stopped", double.node);
            self.stop(&double).await;
        }
        self.looked = Some(self.registry.now());
        Ok(true)
    }
}
