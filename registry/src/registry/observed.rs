//! What the runtime has, compared with what is on record: instances that run, that ended, and that
//! somebody else made.

use std::collections::BTreeSet;

use axolotl_common::{NodeId, registry_api::EventKind};

use super::{CallError, Turn, instances::STOPPED, instances::name};
use crate::{
    cluster::{
        MAX_NODE_NUMBER, Now,
        instance::{Instance, ManagedRecord, Origin},
        survey::START_PATIENCE,
    },
    runtime::{Exit, Found},
};

impl Turn<'_> {
    pub(super) fn observe(
        &mut self,
        found: Vec<Found>,
        missed: bool,
    ) -> Result<Vec<Instance>, CallError> {
        let first = !std::mem::replace(&mut self.core.observed, true);
        let there: BTreeSet<NodeId> = found.iter().map(|f| f.instance.node.clone()).collect();
        let (running, ended): (Vec<Found>, Vec<Found>) =
            found.into_iter().partition(|found| found.ended.is_none());
        let (mut doubles, mut runs) = (Vec::new(), BTreeSet::new());
        for found in running {
            let label = found.instance.node.clone();
            let known = self.core.state.managed.contains_key(&label);
            let number = label.number().filter(|_| found.origin == Origin::Registry);
            let of_newer = number.filter(|number| !known && *number > self.core.given);
            // A registry's own that nobody knows: removed already, or of a start that was given up.
            if let Some(number) = of_newer {
                self.of_newer_store(found, number)?;
            } else if !runs.insert(label) || (!known && found.origin == Origin::Registry) {
                doubles.push(found.instance);
            } else {
                self.runs(found)?;
            }
        }
        if first {
            self.look_back(&runs, &ended)?;
        }
        let mut ends: Vec<(NodeId, Exit)> = Vec::new();
        for found in ended {
            let label = found.instance.node.clone();
            match (self.core.state.managed.get(&label), found.ended) {
                (Some(_), Some(exit)) => ends.push((label, exit)),
                (None, _) if found.origin == Origin::Given => self.meet(&found.instance)?,
                _ => {}
            }
        }
        // What ran, and of which nothing is left.
        for label in self.core.state.managed.keys() {
            if !ends.iter().any(|(ended, _)| ended == label) {
                let exit = Exit::Crash("it is gone without a word".to_owned());
                ends.push((label.clone(), exit));
            }
        }
        let mut suspects = BTreeSet::new();
        for (label, exit) in ends {
            let managed = self.core.state.managed.get(&label);
            let ran = managed.is_some_and(|managed| managed.running.is_some());
            if runs.contains(&label) || !ran {
                continue;
            }
            if missed || self.core.suspects.contains(&label) {
                self.ended(&label, exit)?;
            } else {
                suspects.insert(label);
            }
        }
        self.core.suspects = suspects;
        // Made here, it would have an empty volume, and the name that the compose file wants.
        for (label, managed) in &mut self.core.state.managed {
            let given = managed.record.origin == Origin::Given;
            managed.absent = given && managed.running.is_none() && !there.contains(label);
        }
        Ok(doubles)
    }

    /// What happened while no registry looked. Everything was stopped, or by `POST /shutdown`: this
    /// start of the registry is the wish to have it back. A single node that was stopped stays so.
    fn look_back(&mut self, runs: &BTreeSet<NodeId>, ended: &[Found]) -> Result<(), CallError> {
        let ordered = self.core.store.shutdown_begun()?;
        let managed = || self.core.state.managed.values();
        let all_stopped = managed().all(|managed| managed.record.stopped.is_some());
        let mut changed: Vec<ManagedRecord> = Vec::new();
        if runs.is_empty() && all_stopped {
            changed.extend(managed().map(|managed| ManagedRecord {
                stopped: None,
                ..managed.record.clone()
            }));
        } else if !ordered && !runs.is_empty() {
            for found in ended {
                let record = self
                    .core
                    .state
                    .managed
                    .get(&found.instance.node)
                    .map(|m| &m.record);
                let clean = found.ended == Some(Exit::Clean);
                if let Some(record) =
                    record.filter(|r| clean && r.stopped.is_none() && r.generation > 0)
                {
                    changed.push(ManagedRecord {
                        stopped: Some(format!("{STOPPED} while the registry was away")),
                        ..record.clone()
                    });
                }
            }
        }
        for record in changed {
            if let Some(why) = &record.stopped {
                let message = format!("{} was {why}", record.label);
                self.event(EventKind::Stopped, Some(&record.label), message)?;
            }
            self.put(record)?;
        }
        if ordered {
            self.core.store.set_shutdown_begun(false)?;
        }
        Ok(())
    }

    /// What runs under a number that this store never gave was made by a newer one, of which this is an
    /// older copy. Its number is not given again. A validator is taken into the books, others are left
    /// alone.
    fn of_newer_store(&mut self, found: Found, number: u64) -> Result<(), CallError> {
        let instance = &found.instance;
        if number > self.core.state.highest_number {
            self.core.store.set_highest_number(number)?;
            self.core.state.highest_number = number;
        }
        let node = self.core.state.nodes.get(&instance.node);
        let key = node.map(|node| node.record.public_key);
        if key.is_some_and(|key| self.core.state.has_or_gets_seat(&key)) {
            self.put(ManagedRecord {
                instance: Some(instance.clone()),
                generation: instance.generation,
                ..ManagedRecord::new(number, Origin::Registry)
            })?;
            return self.runs(found);
        }
        tracing::warn!(
            node = %instance.node,
            "{} runs, and this store never made it: the store is an older copy; the node is left alone",
            instance.node
        );
        Ok(())
    }

    /// Takes an instance of somebody else's into the books.
    fn meet(&mut self, instance: &Instance) -> Result<(), CallError> {
        let label = instance.node.clone();
        let number = match label.number() {
            Some(number) if number <= MAX_NODE_NUMBER => number,
            _ => self.core.state.max_number() + 1,
        };
        self.put(ManagedRecord {
            label,
            instance: Some(instance.clone()),
            ..ManagedRecord::new(number, Origin::Given)
        })
    }

    /// An instance runs: one that this registry started, or that somebody started for it.
    pub(super) fn runs(&mut self, found: Found) -> Result<(), CallError> {
        let instance = found.instance;
        let label = instance.node.clone();
        let now = if self.core.observed {
            self.now
        } else {
            Now::ZERO
        };
        if !self.core.state.managed.contains_key(&label) {
            if found.origin == Origin::Registry {
                return Ok(());
            }
            self.meet(&instance)?;
        }
        let Some(managed) = self.core.state.managed.get_mut(&label) else {
            return Ok(());
        };
        let news = managed.running.is_none();
        managed.running.get_or_insert(now);
        managed.ended = None;
        managed.absent = false;
        managed.stopping = false;
        let record = managed.record.clone();
        let stopped = record.stopped.is_some();
        if record.instance.as_ref() != Some(&instance) || stopped {
            self.put(ManagedRecord {
                instance: Some(instance.clone()),
                stopped: None,
                ..record
            })?;
        }
        if stopped {
            let node = self.core.state.node_run_by(&label);
            let key = node.map(|node| node.record.public_key);
            if key.is_some_and(|key| self.core.state.has_or_gets_seat(&key)) {
                self.core.state.hands_off(self.now, START_PATIENCE);
            }
            let message = format!("{label} was started by hand ({})", name(&instance.info));
            self.event(EventKind::Restarted, Some(&label), message)?;
        } else if news {
            tracing::info!(node = %label, "{label} runs ({})", name(&instance.info));
        }
        Ok(())
    }
}
