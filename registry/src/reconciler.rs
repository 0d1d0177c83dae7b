//! Brings what runs to what is wanted: observe, plan, act; again on every word of the runtime, on
//! every wish, when a patience is over, and on a tick.
//!
//! It keeps nothing of its own: killed at any instruction and started again, it observes and goes
//! on.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use crate::{
    cluster::{Now, restart::Action},
    registry::{CallError, Observed, Registry},
    runtime::{Exit, Exited, Runtime},
};

/// The reconciler's task.
pub struct Reconciler {
    registry: Registry,
    runtime: Arc<dyn Runtime>,
    exits: mpsc::Receiver<Exited>,
    tick: Duration,
    /// Whether what an earlier process left was taken over.
    adopted: bool,
}

impl Reconciler {
    /// A reconciler that looks at least every `tick`.
    pub fn new(
        registry: Registry,
        runtime: Arc<dyn Runtime>,
        exits: mpsc::Receiver<Exited>,
        tick: Duration,
    ) -> Self {
        Self {
            registry,
            runtime,
            exits,
            tick,
            adopted: false,
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
            tokio::select! {
                biased;
                () = ending.cancelled() => return,
                exited = self.exits.recv() => {
                    if let Some(exited) = exited
                        && self.registry.exited(exited).await.is_err()
                    {
                        return;
                    }
                }
                () = self.registry.woken() => {}
                () = sleep(patience) => {}
            }
        }
    }

    /// One round; returns when the next is due.
    async fn pass(&mut self) -> Result<Option<Now>, CallError> {
        if !self.adopted {
            if !self.adopt().await? {
                return Ok(None);
            }
            self.adopted = true;
        }
        if self.runtime.kind() == "none" {
            return Ok(None);
        }
        let (actions, next) = self.registry.plan().await?;
        for action in actions {
            match action {
                Action::Start(label) => {
                    let Some(spec) = self.registry.begin_spawn(label.clone()).await? else {
                        continue;
                    };
                    match self.runtime.spawn(&spec).await {
                        Ok(instance) => self.registry.spawned(instance).await?,
                        Err(error) => {
                            self.registry.spawn_failed(label, error.to_string()).await?;
                            // Its patience has just begun: plan again for the new deadline.
                            self.registry.wake();
                        }
                    }
                }
                Action::Stop(label) => {
                    let Some(instance) = self.registry.begin_stop(label.clone()).await? else {
                        continue;
                    };
                    if let Err(error) = self.runtime.stop(&instance).await {
                        tracing::warn!(node = %label, %error, "{label} could not be stopped");
                    }
                    // It ended by the registry's wish, which is no wish to keep it stopped.
                    self.runtime.last_exit(&label, true).await;
                    while let Ok(exited) = self.exits.try_recv() {
                        self.registry.exited(exited).await?;
                    }
                }
            }
        }
        Ok(next)
    }

    /// Takes over what an earlier process of the registry left; `false` when the runtime does not
    /// answer: it is asked again at the next tick, and nothing is started before.
    async fn adopt(&mut self) -> Result<bool, CallError> {
        let running = match self.runtime.list().await {
            Ok(running) => running,
            Err(error) => {
                let fault = format!("the {} runtime: {error}", self.runtime.kind());
                self.registry.runtime_fault(Some(fault)).await?;
                return Ok(false);
            }
        };
        self.registry.runtime_fault(None).await?;
        if self.runtime.kind() != "none" {
            self.registry.bootstrap().await?;
        }
        let mut ended: Vec<(axolotl_common::NodeId, Exit)> = Vec::new();
        for record in self.registry.managed().await? {
            if !running.iter().any(|instance| instance.node == record.label) {
                let exit = self.runtime.last_exit(&record.label, false).await;
                ended.push((record.label, exit));
            }
        }
        let unwanted = self.registry.adopt(Observed { running, ended }).await?;
        for instance in unwanted {
            tracing::warn!(
                node = %instance.node,
                generation = instance.generation,
                "{} runs from a start that was given up; it is stopped",
                instance.node
            );
            if let Err(error) = self.runtime.stop(&instance).await {
                tracing::warn!(node = %instance.node, %error, "it could not be stopped");
            }
        }
        Ok(true)
    }
}
