//! Verbs of the reconciler: which instances are wanted, which run, how they ended.
//!
//! A start is written down, with its generation, before it is done; what runs is written down
//! after. Killed in between, the next process of the registry finds the instance by its label. A removal
//! is written down before anything is removed, and forgotten after.

use axolotl_common::{
    NodeId,
    registry_api::{EventKind, Order, RuntimeInfo},
};

use super::{CallError, Registry, Turn};
use crate::{
    cluster::{
        instance::{Ended, Instance, Managed, ManagedRecord, Origin},
        planner::{Action, Plan},
        registration::Refusal,
        restart::Urgency,
        survey::STOP_PATIENCE,
    },
    runtime::{Change, Exit, Found, SpawnSpec},
};

/// How a deliberate end is written down.
pub(super) const STOPPED: &str = "stopped on purpose";

impl Registry {
    /// Notes that the registry starts and stops nodes; at the first start of all writes down that the
    /// nodes of the genesis are wanted, unless somebody else starts those.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn bootstrap(&self, runs_genesis: bool) -> Result<(), CallError> {
        self.call(move |turn| {
            turn.core.state.runs_nodes = true;
            if runs_genesis {
                turn.bootstrap()
            } else {
                Ok(())
            }
        })
        .await
    }

    /// Takes in what the runtime has. Returns what is to be stopped, because it is a double.
    ///
    /// An end that was `missed` is taken as it is found. Otherwise a change will tell of it, and with
    /// the truth about how it came; it counts only when the next look finds it too.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn observe(
        &self,
        found: Vec<Found>,
        missed: bool,
    ) -> Result<Vec<Instance>, CallError> {
        self.call(move |turn| turn.observe(found, missed)).await
    }

    /// Takes in one change.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn changed(&self, change: Change) -> Result<(), CallError> {
        self.call(move |turn| match change {
            Change::Started(found) => turn.runs(found),
            Change::Ended { node, token, exit } => {
                let managed = turn.core.state.managed.get(&node);
                let runs = managed.is_some_and(|managed| managed.running.is_some());
                // What was found to have ended is told once more.
                if runs && turn.is_present(&node, &token) {
                    turn.ended(&node, exit)
                } else {
                    Ok(())
                }
            }
            Change::Removed { node, token } => turn.vanished(&node, &token),
            Change::Look => Ok(()),
        })
        .await
    }

    /// What is to be done now. New lines and decisions are told.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn plan(&self) -> Result<Plan, CallError> {
        self.call(|turn| {
            let plan = turn.plan();
            turn.tell(&plan)?;
            Ok(plan)
        })
        .await
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

    /// Writes down that one more node is wanted, with the next number.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn add_node(&self, why: String) -> Result<(), CallError> {
        self.call(move |turn| turn.add_node(&why)).await
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
            if managed.running.is_none() {
                return Ok(None);
            }
            managed.stopping = true;
            Ok(managed.record.instance.clone())
        })
        .await
    }

    /// Writes down that a node is removed; returns what is to be stopped before.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn begin_remove(
        &self,
        label: NodeId,
        why: String,
    ) -> Result<Option<Instance>, CallError> {
        self.call(move |turn| turn.begin_remove(&label, why)).await
    }

    /// Forgets a node of which nothing is left.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn removed(&self, label: NodeId) -> Result<(), CallError> {
        self.call(move |turn| turn.removed(&label)).await
    }

    /// Stops a node for good that left the validators by the operator's wish; returns what is to be
    /// stopped when it is one of the runtime's, and tells the node itself otherwise.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn dismiss(&self, label: NodeId) -> Result<Option<Instance>, CallError> {
        self.call(move |turn| turn.dismiss(&label)).await
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

pub(super) fn name(info: &RuntimeInfo) -> String {
    match info {
        RuntimeInfo::Process { pid } => format!("pid {pid}"),
        RuntimeInfo::Docker { container } => format!("container {container}"),
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
                leader: number == 1,
                ..ManagedRecord::new(number, Origin::Registry)
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

    pub(super) fn put(&mut self, record: ManagedRecord) -> Result<(), CallError> {
        self.core.store.put_managed(&[&record])?;
        match self.core.state.managed.get_mut(&record.label) {
            Some(managed) => managed.record = record,
            None => {
                let label = record.label.clone();
                self.core.state.managed.insert(label, Managed::new(record));
            }
        }
        Ok(())
    }

    /// Whether this is the instance on record: ends of older ones say nothing.
    fn is_present(&self, label: &NodeId, token: &str) -> bool {
        let managed = self.core.state.managed.get(label);
        let instance = managed.and_then(|managed| managed.record.instance.as_ref());
        instance.is_some_and(|instance| instance.token == token)
    }

    fn begin_spawn(&mut self, label: &NodeId) -> Result<Option<SpawnSpec>, CallError> {
        let state = &self.core.state;
        let Some(managed) = state.managed.get(label) else {
            return Ok(None);
        };
        let unwanted = state.shutdown || state.foreign.is_some();
        if unwanted || managed.running.is_some() || !managed.is_wanted() {
            return Ok(None);
        }
        let record = ManagedRecord {
            generation: managed.record.generation + 1,
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
        let first = record.origin == Origin::Registry && record.generation == 1;
        let what = name(&instance.info);
        self.put(ManagedRecord {
            instance: Some(instance),
            ..record
        })?;
        let now = self.now;
        if let Some(managed) = self.core.state.managed.get_mut(&label) {
            managed.running = Some(now);
            managed.ended = None;
            managed.stopping = false;
            managed.backoff.started();
        }
        if first {
            let message = format!("{label} is started ({what})");
            self.event(EventKind::Spawned, Some(&label), message)
        } else {
            self.inner.metrics.restart();
            let message = format!("{label} is started again with its data ({what})");
            self.event(EventKind::Restarted, Some(&label), message)
        }
    }

    fn add_node(&mut self, why: &str) -> Result<(), CallError> {
        let number = self.core.state.max_number() + 1;
        let record = ManagedRecord::new(number, Origin::Registry);
        let label = record.label.clone();
        self.put(record)?;
        let message = format!("{label} is added: {why}");
        self.event(EventKind::Decision, Some(&label), message)
    }

    fn begin_remove(&mut self, label: &NodeId, why: String) -> Result<Option<Instance>, CallError> {
        let Some(managed) = self.core.state.managed.get(label) else {
            return Ok(None);
        };
        let record = managed.record.clone();
        let running = managed.running.is_some();
        if record.removing.is_none() {
            let node = self.core.state.node_run_by(label);
            let joined = node.is_some_and(|node| node.live.beat.is_some());
            if running && !joined {
                // It never joined: the next one would most likely do no better.
                let now = self.now;
                self.core.state.spawns.crashed(now, Urgency::Learner);
            }
            let message = format!("{label} is removed with its data: {why}");
            self.event(EventKind::Decision, Some(label), message)?;
            self.put(ManagedRecord {
                removing: Some(why),
                ..record.clone()
            })?;
        }
        if let Some(managed) = self.core.state.managed.get_mut(label).filter(|_| running) {
            managed.stopping = true;
        }
        Ok(record.instance.filter(|_| running))
    }

    fn removed(&mut self, label: &NodeId) -> Result<(), CallError> {
        let number = self.core.state.max_number();
        if number > self.core.state.highest_number {
            self.core.store.set_highest_number(number)?;
            self.core.state.highest_number = number;
        }
        let state = &self.core.state;
        let node = state
            .node_run_by(label)
            .map(|node| node.record.label.clone());
        self.core.store.remove(Some(label), node.as_ref())?;
        self.core.state.managed.remove(label);
        self.core.state.announced.remove(label);
        if let Some(node) = node {
            self.forget(&node);
        }
        self.inner.peers.send_modify(|version| *version += 1);
        self.event(
            EventKind::Removed,
            Some(label),
            format!("{label} is removed"),
        )
    }

    /// Forgets a registered node whose record is gone from the store.
    pub(super) fn forget(&mut self, label: &NodeId) {
        let state = &mut self.core.state;
        if let Some(node) = state.nodes.remove(label) {
            state.keys.remove(&node.record.public_key);
            state.announced.remove(label);
        }
    }

    fn dismiss(&mut self, label: &NodeId) -> Result<Option<Instance>, CallError> {
        let Some(node) = self.core.state.nodes.get(label) else {
            return Ok(None);
        };
        let reason = "the operator took this node out of the network".to_owned();
        let Some(managed) = self.core.state.managed_of(&node.record) else {
            // Asked again at each look until it is gone: an order may be lost with its stream.
            if node.live.orders.is_empty() {
                self.core.state.order(label, Order::Stop { reason });
                self.inner.peers.send_modify(|version| *version += 1);
            }
            return Ok(None);
        };
        let record = managed.record.clone();
        let name = record.label.clone();
        self.event(
            EventKind::Stopped,
            Some(&name),
            format!("{name} is stopped: {reason}"),
        )?;
        self.put(ManagedRecord {
            stopped: Some("drained by the operator".to_owned()),
            ..record.clone()
        })?;
        if let Some(managed) = self.core.state.managed.get_mut(&name) {
            managed.stopping = true;
        }
        Ok(record.instance)
    }

    /// What was left of an instance is gone.
    fn vanished(&mut self, label: &NodeId, token: &str) -> Result<(), CallError> {
        if !self.is_present(label, token) {
            return Ok(());
        }
        let Some(managed) = self.core.state.managed.get(label) else {
            return Ok(());
        };
        let record = managed.record.clone();
        if record.removing.is_some() || self.core.state.shutdown {
            return Ok(());
        }
        if managed.running.is_some() {
            self.ended(label, Exit::Clean)?;
        }
        let why = "it was removed by hand".to_owned();
        self.event(EventKind::Stopped, Some(label), format!("{label}: {why}"))?;
        self.core.state.hands_off(self.now, STOP_PATIENCE);
        self.put(ManagedRecord {
            stopped: Some(why),
            ..record
        })
    }

    /// An instance ended, or could not be started.
    pub(super) fn ended(&mut self, label: &NodeId, exit: Exit) -> Result<(), CallError> {
        let now = self.now;
        let state = &mut self.core.state;
        let registered = state
            .node_run_by(label)
            .map(|node| node.record.label.clone());
        let urgency = match registered.as_ref().and_then(|label| state.nodes.get(label)) {
            Some(node) if state.has_or_gets_seat(&node.record.public_key) => Urgency::Validator,
            _ if state.chain.is_none() => Urgency::Validator,
            _ => Urgency::Learner,
        };
        if let Some(node) = registered.and_then(|label| state.nodes.get_mut(&label)) {
            // The last heartbeat of a dead process says nothing about the next one.
            node.live.heard = None;
            node.live.stream = 0;
            node.live.beat = None;
            node.live.level_since = None;
        }
        let Some(managed) = state.managed.get_mut(label) else {
            return Ok(());
        };
        managed.running = None;
        let record = managed.record.clone();
        let ours = managed.stopping;
        let mut end = |why: String| managed.ended = Some(Ended { why, at: now });
        match exit {
            _ if ours => {
                end("stopped by the registry".to_owned());
                let message = format!("{label} was stopped by the registry");
                self.event(EventKind::Stopped, Some(label), message)
            }
            Exit::Clean => {
                end(STOPPED.to_owned());
                self.core.state.hands_off(now, STOP_PATIENCE);
                self.event(
                    EventKind::Stopped,
                    Some(label),
                    format!("{label} was {STOPPED}"),
                )?;
                self.put(ManagedRecord {
                    stopped: Some(STOPPED.to_owned()),
                    ..record
                })
            }
            Exit::Crash(how) => {
                end(how.clone());
                let wait = managed.backoff.crashed(now, urgency);
                let message = format!(
                    "{label} ended: {how}; it is started again in {} ms (crash {} in a row)",
                    wait.as_millis(),
                    managed.backoff.crashes()
                );
                self.event(EventKind::Exited, Some(label), message)
            }
        }
    }

    /// Everything that keeps the planner from planning, then the plan.
    pub(super) fn plan(&mut self) -> Plan {
        let fence = self.fence();
        self.core.state.plan(self.now, fence)
    }

    /// Tells what is new in a plan.
    fn tell(&mut self, plan: &Plan) -> Result<(), CallError> {
        let before = std::mem::replace(&mut self.core.lines, plan.lines.clone());
        for line in plan.lines.iter().filter(|line| !before.contains(line)) {
            self.event(EventKind::Decision, None, line.clone())?;
        }
        Ok(())
    }

    /// Names of nodes that a plan starts or stops, in its order.
    pub(super) fn names_in(plan: &Plan) -> Vec<String> {
        plan.actions
            .iter()
            .filter_map(|action| match action {
                Action::Start(label) | Action::Stop(label) => Some(label.to_string()),
                _ => None,
            })
            .collect()
    }
}
