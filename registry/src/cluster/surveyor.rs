//! Makes the [`Survey`] out of what the registry knows: who votes, who could, and who is missing.
//!
//! How a validator stands, first row that fits:
//!
//! | what is known | condition |
//! |---|---|
//! | another key took its label's place, or it says that it is unfit | failed |
//! | the operator wants it out | leaving |
//! | it crashed three times within a minute | failed, even while it votes |
//! | heard in time, its votes do not reach the others | waited for |
//! | heard in time, votes | live |
//! | heard in time, does not vote yet | waited for |
//! | its peers reach it, the registry does not | live |
//! | stopped on purpose | failed |
//! | crashed, and is being started again | waited for, failed after `unhealthy_after` |
//! | not heard of yet | waited for |
//! | silent | failed |

use axolotl_common::{Member, NodeId, PublicKey, QuorumRule, registry_api::NodeState};

use super::{
    Now, forming,
    instance::{Managed, Origin},
    liveness::Verdict,
    planner::{self, Plan},
    recovery::{Facts, Seen},
    state::{Leaving, Node, NodeRecord, State},
    survey::{Candidate, Condition, Forming, LEVEL_FOR, Place, Seat, Stage, Survey},
};

use std::collections::BTreeMap;

/// The verdict on every node, by label.
pub type Verdicts = BTreeMap<NodeId, Verdict>;

impl NodeRecord {
    /// How the node would stand in an epoch record.
    pub fn as_member(&self) -> Member {
        Member {
            node_id: self.label.clone(),
            public_key: self.public_key,
            volume_id: self.volume_id,
        }
    }
}

impl State {
    /// What the planner looks at.
    pub fn survey(&self, now: Now, obstacle: Option<String>) -> Survey {
        let verdicts = self.verdicts(now);
        let reached = self.reached(now);
        let chain = self.chain.as_ref();
        let seats: Vec<Seat> = chain
            .iter()
            .flat_map(|chain| chain.validators.members())
            .map(|member| {
                let by_peers = reached.get(&member.public_key).copied();
                self.seat(member, &verdicts, by_peers, now)
            })
            .collect();
        let mut candidates = self.candidates(&verdicts, now);
        // Level ones first, then those that are never removed, then by number.
        candidates.sort_by_key(|candidate| {
            let given = |(_, origin): &(NodeId, Origin)| *origin == Origin::Given;
            let kept = candidate.instance.as_ref().is_none_or(given);
            (candidate.stage != Stage::Ready, !kept, candidate.number)
        });
        Survey {
            target: self.target,
            runs_nodes: self.runs_nodes,
            shutdown: self.shutdown,
            obstacle: obstacle.or_else(|| self.foreign.filter(|_| chain.is_none()).map(|hash| {
                format!("nothing is started: a chain with genesis {hash} exists, and this store is empty")
            })),
            forming: chain.is_none().then(|| self.forming()),
            quorum: chain.map_or_else(QuorumRule::default, |chain| chain.validators.rule()),
            seats,
            pending: chain.and_then(|chain| Some(chain.pending.as_ref()?.record.number)),
            recovery: self.recovering.clone(),
            candidates,
            places: self.managed.values().map(|m| self.place(m, &verdicts)).collect(),
            dismissed: self.dismissed(&verdicts),
            hands_off_until: self.hands_off_until,
            living: self.living(&verdicts),
            keeps_volumes: chain.is_some_and(|chain| chain.awaits_first_block(self.head(now))),
            spawn_not_before: self.spawns.next(),
            rules: self.rules.clone(),
        }
    }

    /// What a recovery looks at; `None` before the genesis.
    pub fn seen(
        &self,
        now: Now,
        obstacle: Option<String>,
        authority: PublicKey,
    ) -> Option<Seen<'_>> {
        let chain = self.chain.as_ref()?;
        let survey = self.survey(now, obstacle);
        let obstacle = if survey.shutdown {
            Some("everything is being stopped".to_owned())
        } else if survey.is_isolated(now) {
            Some("no validator is heard although the runtime says that some run: this registry seems to be cut off".to_owned())
        } else {
            survey.obstacle.clone()
        };
        let candidate = |label: &NodeId| survey.candidates.iter().find(|c| c.label == *label);
        let verdicts = self.verdicts(now);
        let mut nodes = BTreeMap::new();
        for (label, node) in &self.nodes {
            let beat = node.live.beat.as_ref().map(|(_, beat)| beat);
            let unfit = beat.is_some_and(|beat| beat.unfit.is_some());
            if unfit || node.record.superseded_by.is_some() {
                continue;
            }
            let state = verdicts.get(label).map(|verdict| verdict.state);
            let candidate = candidate(label);
            let heard = |at: Now| self.rules.is_news(at, now);
            let facts = Facts {
                member: node.record.as_member(),
                stream: node.live.stream,
                // A node that has registered has not said yet whether it can answer for its votes.
                heard: beat.is_some() && node.live.heard.is_some_and(heard),
                live: matches!(
                    state,
                    Some(NodeState::Healthy | NodeState::Syncing | NodeState::Unreachable)
                ),
                candidate: candidate.is_some_and(|c| c.member.is_some()),
                level: candidate.is_some_and(|c| c.stage == Stage::Ready),
                height: beat.map(|beat| beat.height).unwrap_or_default(),
            };
            nodes.insert(node.record.public_key, facts);
        }
        Some(Seen {
            epochs: chain.epochs(authority),
            nodes,
            trust: self.rules.trust,
            obstacle,
        })
    }

    /// What is to be done now. Keeps in mind since when a candidate is not needed.
    pub fn plan(&mut self, now: Now, obstacle: Option<String>) -> Plan {
        let mut survey = self.survey(now, obstacle);
        let surplus = planner::surplus(&survey);
        self.surplus.retain(|label, _| surplus.contains(label));
        for label in surplus {
            self.surplus.entry(label).or_insert(now);
        }
        for candidate in &mut survey.candidates {
            candidate.surplus_since = self.surplus.get(&candidate.label).copied();
        }
        planner::plan(&survey, now)
    }

    fn forming(&self) -> Forming {
        let unregistered = |managed: &&Managed| {
            managed.is_wanted() && self.node_run_by(&managed.record.label).is_none()
        };
        Forming {
            missing: forming::waiting_for(self),
            on_their_way: self.managed.values().filter(unregistered).count(),
            not_before: self.rules.genesis_timeout,
        }
    }

    /// How a member stands; `reached` is when a peer said last that it reaches it.
    fn seat(&self, member: &Member, verdicts: &Verdicts, reached: Option<Now>, now: Now) -> Seat {
        let node = self.by_key(&member.public_key);
        let managed = node.and_then(|node| self.managed_of(&node.record));
        let verdict = node.and_then(|node| verdicts.get(&node.record.label));
        let heard = node.and_then(|node| node.live.heard);
        Seat {
            number: node.map_or_else(
                || member.node_id.number().unwrap_or_default(),
                |node| node.record.number,
            ),
            condition: self.condition(node, managed, verdict, now),
            leads: node.is_some_and(|node| self.leader.as_ref() == Some(&node.record.label)),
            heard,
            lately: heard
                .max(reached)
                .is_some_and(|at| self.rules.is_news(at, now)),
            silence: self.silences.get(&member.public_key).cloned(),
            running: managed.map(|managed| managed.running.is_some()),
            member: member.clone(),
        }
    }

    fn condition(
        &self,
        node: Option<&Node>,
        managed: Option<&Managed>,
        verdict: Option<&Verdict>,
        now: Now,
    ) -> Condition {
        let (Some(node), Some(verdict)) = (node, verdict) else {
            let why = "it has not registered with this registry".to_owned();
            return Condition::Waiting { why, until: None };
        };
        let why = verdict.detail.clone().unwrap_or_default();
        let failed = |why: String, since: Now, votes: bool| Condition::Failed { why, since, votes };
        let beat = node.live.beat.as_ref().map(|(_, beat)| beat);
        let heard = matches!(verdict.state, NodeState::Healthy | NodeState::Syncing);
        let votes = match verdict.state {
            NodeState::Healthy => beat.is_some_and(|beat| beat.voting),
            NodeState::Unreachable => true,
            _ => false,
        };
        let silent = self.silences.contains_key(&node.record.public_key);
        let votes = votes && !silent;
        if node.record.superseded_by.is_some() {
            return failed(why, Now::ZERO, false);
        }
        if let Some(unfit) = beat.and_then(|beat| beat.unfit.as_ref()).filter(|_| heard) {
            return failed(format!("it is unfit: {unfit}"), Now::ZERO, false);
        }
        if node.record.leaving.is_some() {
            return Condition::Leaving { votes };
        }
        let loops = managed.and_then(|managed| managed.backoff.loops_until());
        if loops.is_some_and(|until| now < until) {
            let since = managed.map_or(Now::ZERO, Managed::ended_at);
            return failed(
                "it crashed three times within a minute".to_owned(),
                since,
                votes,
            );
        }
        let waiting = |why: &str, until| Condition::Waiting {
            why: why.to_owned(),
            until,
        };
        match verdict.state {
            _ if votes => Condition::Live,
            NodeState::Healthy if silent => waiting("its votes do not reach the others", None),
            NodeState::Healthy => waiting("it does not vote yet", None),
            NodeState::Syncing => waiting("it fetches blocks", None),
            NodeState::Stopped => failed(why, managed.map_or(Now::ZERO, Managed::ended_at), false),
            NodeState::Failed => match managed {
                Some(managed) if managed.running.is_none() => {
                    let until = managed.ended_at() + self.rules.unhealthy_after;
                    if now < until {
                        waiting(&why, Some(until))
                    } else {
                        failed(why, managed.ended_at(), false)
                    }
                }
                // Known from silence: whether the others are heard is told by `is_isolated`. For how long
                // it is silent is no news.
                _ => failed("it is silent".to_owned(), Now::ZERO, false),
            },
            _ => waiting(&why, verdict.deadline),
        }
    }

    /// Nodes that do not vote and could.
    fn candidates(&self, verdicts: &Verdicts, now: Now) -> Vec<Candidate> {
        let Some(chain) = &self.chain else {
            return Vec::new();
        };
        let mut candidates = Vec::new();
        for (label, node) in &self.nodes {
            let record = &node.record;
            let out = record.observer
                || record.superseded_by.is_some()
                || record.leaving.is_some()
                || chain.validators.contains(&record.public_key);
            let state = verdicts.get(label).map(|verdict| verdict.state);
            let managed = self.managed_of(record);
            let loops = managed.and_then(|managed| managed.backoff.loops_until());
            let unfit = node
                .live
                .beat
                .as_ref()
                .is_some_and(|(_, beat)| beat.unfit.is_some());
            let present = match state {
                Some(NodeState::Failed) => managed.is_some_and(|managed| {
                    managed.is_wanted() && managed.running.is_none() && !swapped_out(managed)
                }),
                Some(NodeState::Stopped) | None => false,
                Some(NodeState::Starting) => {
                    node.live.heard.is_some() || managed.is_some_and(Managed::is_wanted)
                }
                Some(_) => managed.is_none_or(|managed| managed.record.removing.is_none()),
            };
            if out || unfit || !present {
                continue;
            }
            candidates.push(Candidate {
                label: label.clone(),
                number: record.number,
                member: Some(record.as_member()),
                // It would be swapped out again at once.
                stage: match loops.is_some_and(|until| now < until) {
                    true => Stage::Coming("it crashed three times within a minute".to_owned()),
                    false => stage(node, state),
                },
                instance: managed.map(|m| (m.record.label.clone(), m.record.origin)),
                surplus_since: None,
            });
        }
        for (label, managed) in &self.managed {
            if managed.is_wanted()
                && self.node_run_by(label).is_none()
                && !self.nodes.contains_key(label)
                && !swapped_out(managed)
            {
                let how = match (&managed.ended, managed.running) {
                    (Some(ended), None) => format!("it does not start: {}", ended.why),
                    _ => "it is being started".to_owned(),
                };
                candidates.push(Candidate {
                    label: label.clone(),
                    number: managed.record.number,
                    member: None,
                    stage: Stage::Coming(how),
                    instance: Some((label.clone(), managed.record.origin)),
                    surplus_since: None,
                });
            }
        }
        candidates
    }

    fn place(&self, managed: &Managed, verdicts: &Verdicts) -> Place {
        let label = &managed.record.label;
        let node = self.node_run_by(label);
        let key = node.map(|node| node.record.public_key);
        let leaving = node.and_then(|node| node.record.leaving);
        let member = key.is_some_and(|key| self.has_or_gets_seat(&key));
        let silent = || {
            let verdict = node.and_then(|node| verdicts.get(&node.record.label));
            let verdict = verdict.or_else(|| verdicts.get(label));
            let failed = |verdict: &Verdict| verdict.state == NodeState::Failed;
            let unfit = node
                .and_then(|node| node.live.beat.as_ref())
                .is_some_and(|(_, beat)| beat.unfit.is_some());
            if unfit {
                return Some("its volume cannot be trusted to vote".to_owned());
            }
            let gone = self.chain.is_some() && managed.running.is_some();
            gone.then(|| verdict.filter(|v| failed(v))?.detail.clone())
                .flatten()
        };
        let removing = match (&managed.record.removing, leaving) {
            (Some(why), _) => Some(why.clone()),
            (None, Some(Leaving::Delete)) if !member => Some("deleted by the operator".to_owned()),
            // What runs, does not vote and is not heard is of no use to anybody.
            (None, _) if !member && managed.record.origin == Origin::Registry => silent(),
            _ => None,
        };
        Place {
            label: label.clone(),
            number: managed.record.number,
            origin: managed.record.origin,
            running: managed.running.is_some(),
            leads: node.is_some_and(|node| self.leader.as_ref() == Some(&node.record.label)),
            member,
            wanted: managed.is_wanted(),
            stopped: managed.record.stopped.clone(),
            drained: leaving == Some(Leaving::Drain),
            removing,
            loops: managed.backoff.loops_until().is_some(),
            not_before: managed.backoff.next(),
        }
    }

    /// Whether a key votes in the epoch in force, or will by the pending record.
    pub fn has_or_gets_seat(&self, key: &PublicKey) -> bool {
        self.chain.as_ref().is_some_and(|chain| {
            let pending = chain
                .pending
                .iter()
                .flat_map(|signed| &signed.record.members);
            chain.validators.contains(key)
                || pending.into_iter().any(|member| member.public_key == *key)
        })
    }

    /// Nodes that left the set by the operator's wish and still run.
    fn dismissed(&self, verdicts: &Verdicts) -> Vec<NodeId> {
        let mut dismissed = Vec::new();
        for (label, node) in &self.nodes {
            let runs = match self.managed_of(&node.record) {
                Some(managed) => managed.running.is_some() && managed.record.stopped.is_none(),
                None => verdicts.get(label).is_some_and(|verdict| {
                    !matches!(verdict.state, NodeState::Failed | NodeState::Stopped)
                }),
            };
            let out = self.chain.is_some() && !self.has_or_gets_seat(&node.record.public_key);
            if node.record.leaving.is_some() && out && runs {
                dismissed.push(label.clone());
            }
        }
        dismissed
    }

    /// Nodes of all roles that live, or are to: those of the runtime that run or are started again,
    /// and others that are heard.
    fn living(&self, verdicts: &Verdicts) -> usize {
        let places = self.managed.values();
        let run = places
            .filter(|managed| managed.running.is_some() || managed.is_wanted())
            .count();
        let heard = |(label, node): &(&NodeId, &Node)| {
            let state = verdicts.get(*label).map(|verdict| verdict.state);
            self.managed_of(&node.record).is_none()
                && node.record.superseded_by.is_none()
                && !node.record.observer
                && !matches!(state, Some(NodeState::Failed | NodeState::Stopped) | None)
        };
        run + self.nodes.iter().filter(heard).count()
    }
}

/// A compose file's node that crashes again and again, and whose seat another one has by now.
fn swapped_out(managed: &Managed) -> bool {
    managed.record.origin == Origin::Given && managed.backoff.loops_until().is_some()
}

fn stage(node: &Node, state: Option<NodeState>) -> Stage {
    let Some((at, beat)) = node.live.beat.as_ref() else {
        return Stage::Coming("it has not reported yet".to_owned());
    };
    match (state, node.live.level_since) {
        (Some(NodeState::Healthy), Some(since)) if at.saturating_sub(since) >= LEVEL_FOR => {
            Stage::Ready
        }
        (Some(NodeState::Healthy), Some(_)) => {
            Stage::Coming("it is level, since a moment".to_owned())
        }
        (Some(NodeState::Failed), _) => Stage::Coming("it is being started again".to_owned()),
        _ if beat.syncing => Stage::Coming("it fetches blocks".to_owned()),
        _ => Stage::Coming("it is not level".to_owned()),
    }
}
