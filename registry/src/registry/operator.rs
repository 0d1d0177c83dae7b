//! Verbs of operators: how many validators, who leaves, and the end of everything.

use axolotl_common::{
    NodeId,
    registry_api::{EventKind, PlanResponse},
};

use super::{CallError, Registry, Turn};
use crate::{
    cluster::{
        planner,
        registration::Refusal,
        state::{Leaving, NodeRecord},
    },
    store::StoredTarget,
};

impl Registry {
    /// `POST /scale`: the wanted number of voting nodes. Returns what is done about it.
    ///
    /// # Errors
    /// When it lies outside of the limits, or the store fails.
    pub async fn scale(&self, target: usize) -> Result<PlanResponse, CallError> {
        let answer = self.call(move |turn| turn.scale(target)).await?;
        self.wake();
        Ok(answer)
    }

    /// Takes a node out of the validators and then stops it. Returns what is done about it.
    ///
    /// # Errors
    /// When there is no such node, the rest would be no quorum, or the store fails.
    pub async fn leave(&self, label: NodeId, how: Leaving) -> Result<PlanResponse, CallError> {
        let answer = self.call(move |turn| turn.leave(&label, how)).await?;
        self.wake();
        Ok(answer)
    }

    /// `POST /shutdown`: from now on managed nodes are stopped in order and nothing is started.
    /// Returns in words what is done.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn shut_down(&self) -> Result<String, CallError> {
        let message = self.call(|turn| turn.shut_down()).await?;
        self.wake();
        Ok(message)
    }
}

impl Turn<'_> {
    /// What is under way, for an operator who asked for something.
    fn plan_response(&mut self, message: String) -> PlanResponse {
        let plan = self.plan();
        let state = &self.core.state;
        PlanResponse {
            message,
            target_nodes: state.target,
            voting_nodes: state
                .chain
                .as_ref()
                .map_or(0, |chain| chain.validators.len()),
            plan: plan.shown(),
        }
    }

    fn scale(&mut self, target: usize) -> Result<PlanResponse, CallError> {
        let Some(chain) = &self.core.state.chain else {
            return Err(Refusal::StillForming.into());
        };
        let rules = &self.core.state.rules;
        let (min, max, setting) = (rules.min_nodes, rules.max_nodes, rules.target_nodes);
        if !(min..=max).contains(&target) {
            return Err(Refusal::Limits { target, min, max }.into());
        }
        let n = chain.validators.len();
        self.core
            .store
            .set_target(&StoredTarget { target, setting })?;
        self.core.state.target = target;
        let survey = self.core.state.survey(self.now, None);
        let failed: Vec<String> = survey
            .seats
            .iter()
            .filter(|seat| !seat.condition.votes())
            .map(|seat| seat.member.node_id.to_string())
            .collect();
        let mut message = match target.cmp(&n) {
            std::cmp::Ordering::Equal => format!("{n} validators are wanted, and there are {n}"),
            std::cmp::Ordering::Greater => format!("{n} validators become {target}, one by one"),
            std::cmp::Ordering::Less => format!(
                "{n} validators become {target}, one by one: followers before the leader, the newest \
                 first"
            ),
        };
        if target > n && !failed.is_empty() {
            message.push_str(&format!(
                "; deferred until {} votes again or is replaced: the number of validators is not \
                 raised while one is failed",
                failed.join(", ")
            ));
        }
        if target < 4 {
            message.push_str(&format!(
                "; with {target} validators every failure stops the chain until the node is back, four \
                 is the smallest number that bears one"
            ));
        }
        self.event(
            EventKind::Decision,
            None,
            format!("scale to {target}: {message}"),
        )?;
        Ok(self.plan_response(message))
    }

    fn leave(&mut self, label: &NodeId, how: Leaving) -> Result<PlanResponse, CallError> {
        let survey = self.core.state.survey(self.now, None);
        let Some(node) = self.core.state.nodes.get(label) else {
            return Err(Refusal::NoSuchNode(label.clone()).into());
        };
        if self.core.state.chain.is_none() {
            return Err(Refusal::StillForming.into());
        }
        if let Err(why) = planner::may_leave(&survey, label) {
            return Err(Refusal::Quorum(format!("{label} may not leave: {why}")).into());
        }
        let member = self.core.state.has_or_gets_seat(&node.record.public_key);
        let record = NodeRecord {
            leaving: Some(how),
            ..node.record.clone()
        };
        self.core.store.put_nodes(&[&record])?;
        self.core.state.apply_record(record, None);
        let kept = match how {
            Leaving::Drain => "its data is kept",
            Leaving::Delete => "its data is removed if a registry made it",
        };
        let message = if member {
            format!("{label} leaves the validators, then it is stopped; {kept}")
        } else {
            format!("{label} is stopped; {kept}")
        };
        self.event(EventKind::Decision, Some(label), message.clone())?;
        Ok(self.plan_response(message))
    }

    fn shut_down(&mut self) -> Result<String, CallError> {
        if !self.core.state.shutdown {
            self.core.store.set_shutdown_begun(true)?;
            self.core.state.shutdown = true;
        }
        let plan = self.plan();
        let message = match Self::names_in(&plan).as_slice() {
            [] => "nothing runs; nothing is started until the registry is started again".to_owned(),
            names => format!(
                "stopping {} in this order; nothing is started until the registry is started again",
                names.join(", ")
            ),
        };
        self.event(EventKind::Stopped, None, format!("shutdown: {message}"))?;
        Ok(message)
    }
}
