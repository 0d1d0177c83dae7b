//! A small world around the planner: nodes, a runtime, a chain that finalises records while its quorum
//! votes; and the rules, judged on every plan.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use axolotl_common::{Epoch, KeyPair, Member, NodeId, PublicKey, QuorumRule, VolumeId};
use proptest::prelude::*;

use crate::cluster::{
    Now, Rules,
    instance::Origin,
    planner::{Action, Plan, plan, surplus},
    survey::{Candidate, Condition, Place, STOP_PATIENCE, Seat, Stage, Survey},
};

pub(super) const STEP: Duration = Duration::from_millis(250);
/// From its start until a node is level.
pub(super) const JOIN: Duration = Duration::from_millis(1_000);

pub(super) fn rules(max: usize) -> Rules {
    Rules {
        min_nodes: 1,
        max_nodes: max,
        target_nodes: 4,
        genesis_nodes: 4,
        heartbeat_interval: Duration::from_secs(5),
        genesis_timeout: Duration::ZERO,
        unhealthy_after: Duration::from_secs(15),
        peer_word: Duration::from_secs(10),
        trust: crate::cluster::recovery::Trust::Crash,
        open_registration: false,
    }
}

pub(super) fn member(number: u64) -> Member {
    static MEMBERS: LazyLock<Vec<Member>> = LazyLock::new(|| (0..256).map(make_member).collect());
    let known = usize::try_from(number)
        .ok()
        .and_then(|place| MEMBERS.get(place));
    known.cloned().unwrap_or_else(|| make_member(number))
}

pub(super) fn make_member(number: u64) -> Member {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    Member {
        node_id: NodeId::numbered(number),
        public_key: KeyPair::from_seed(&seed).public(),
        volume_id: VolumeId([number as u8; 16]),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running {
        since: Now,
    },
    Crashed {
        at: Now,
    },
    Stopped {
        at: Now,
    },
    /// Runs, and says nothing.
    Silent {
        at: Now,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) life: Life,
    pub(super) origin: Origin,
    pub(super) crashes: usize,
    pub(super) surplus: Option<Now>,
}

pub(super) struct World {
    pub(super) now: Now,
    pub(super) rules: Rules,
    pub(super) target: usize,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) set: Vec<u64>,
    pub(super) pending: Option<Vec<u64>>,
    pub(super) highest: u64,
    pub(super) last_stop: Option<Now>,
    /// The runtime starts nothing.
    pub(super) broken: bool,
    /// Nothing reaches the registry.
    pub(super) deaf: bool,
    pub(super) spawned: usize,
    pub(super) failures: usize,
    pub(super) raised: usize,
}

impl World {
    pub(super) fn new(n: u64, max: usize, given: bool) -> Self {
        let origin = if given {
            Origin::Given
        } else {
            Origin::Registry
        };
        let node = |number| {
            let life = Life::Running { since: Now::ZERO };
            let node = Node {
                life,
                origin,
                crashes: 0,
                surplus: None,
            };
            (number, node)
        };
        Self {
            now: Now::from_secs(60),
            rules: rules(max),
            target: n as usize,
            nodes: (1..=n).map(node).collect(),
            set: (1..=n).collect(),
            pending: None,
            highest: n,
            last_stop: None,
            broken: false,
            deaf: false,
            spawned: 0,
            failures: 0,
            raised: 0,
        }
    }

    pub(super) fn quorum(&self) -> usize {
        QuorumRule::Byzantine.quorum(self.set.len())
    }

    pub(super) fn speaks(&self, number: u64) -> bool {
        let node = self.nodes.get(&number);
        node.is_some_and(|node| matches!(node.life, Life::Running { .. }))
    }

    pub(super) fn votes(&self, number: u64) -> bool {
        self.nodes.get(&number).is_some_and(|node| {
            matches!(node.life, Life::Running { since } if self.now.saturating_sub(since) >= JOIN
                || since == Now::ZERO)
        })
    }

    pub(super) fn condition(&self, number: u64) -> Condition {
        let failed = |why: &str, since| Condition::Failed {
            why: why.to_owned(),
            since,
            votes: false,
        };
        let Some(node) = self.nodes.get(&number) else {
            return failed("gone", Now::ZERO);
        };
        match node.life {
            _ if node.crashes >= 3 => Condition::Failed {
                why: "it crashes again and again".to_owned(),
                since: Now::ZERO,
                votes: self.votes(number),
            },
            Life::Running { .. } if self.votes(number) => Condition::Live,
            Life::Running { .. } | Life::Crashed { .. } => Condition::Waiting {
                why: "not yet".to_owned(),
                until: None,
            },
            Life::Stopped { at } => failed("stopped", at),
            Life::Silent { at } if self.now.saturating_sub(at) >= self.rules.unhealthy_after => {
                failed("silent", Now::ZERO)
            }
            Life::Silent { .. } => Condition::Live,
        }
    }

    pub(super) fn in_a_set(&self, number: u64) -> bool {
        let pending = self.pending.iter().flatten();
        self.set.iter().chain(pending).any(|seat| *seat == number)
    }

    pub(super) fn survey(&self) -> Survey {
        let runs = |node: &Node| matches!(node.life, Life::Running { .. } | Life::Silent { .. });
        let seats = self.set.iter().map(|number| Seat {
            member: member(*number),
            number: *number,
            condition: self.condition(*number),
            leads: self.set.first() == Some(number),
            heard: (!self.deaf && self.speaks(*number)).then_some(self.now),
            lately: !self.deaf && self.speaks(*number),
            silence: None,
            running: Some(self.nodes.get(number).is_some_and(runs)),
        });
        let mut candidates: Vec<Candidate> = self
            .nodes
            .iter()
            .filter(|(number, node)| {
                !self.set.contains(number)
                    && !matches!(node.life, Life::Stopped { .. } | Life::Silent { .. })
            })
            .map(|(number, node)| Candidate {
                label: NodeId::numbered(*number),
                number: *number,
                member: Some(member(*number)),
                stage: if self.votes(*number) {
                    Stage::Ready
                } else {
                    Stage::Coming("joining".to_owned())
                },
                instance: Some((NodeId::numbered(*number), node.origin)),
                surplus_since: node.surplus,
            })
            .collect();
        candidates.sort_by_key(|candidate| {
            let kept = matches!(candidate.instance, Some((_, Origin::Given)));
            (candidate.stage != Stage::Ready, !kept, candidate.number)
        });
        let places = self.nodes.iter().map(|(number, node)| Place {
            label: NodeId::numbered(*number),
            number: *number,
            origin: node.origin,
            running: runs(node),
            leads: false,
            member: self.in_a_set(*number),
            wanted: !matches!(node.life, Life::Stopped { .. }),
            stopped: matches!(node.life, Life::Stopped { .. }).then(|| "by hand".to_owned()),
            drained: false,
            removing: (!self.in_a_set(*number) && matches!(node.life, Life::Silent { .. }))
                .then(|| "silent".to_owned())
                .filter(|_| node.origin == Origin::Registry),
            loops: node.crashes >= 3,
            not_before: None,
        });
        Survey {
            rules: self.rules.clone(),
            target: self.target,
            runs_nodes: true,
            shutdown: false,
            obstacle: None,
            forming: None,
            quorum: QuorumRule::Byzantine,
            seats: seats.collect(),
            pending: self.pending.as_ref().map(|_| Epoch(1)),
            recovery: None,
            candidates,
            places: places.collect(),
            dismissed: Vec::new(),
            hands_off_until: self.last_stop.map(|at| at + STOP_PATIENCE),
            living: self
                .nodes
                .values()
                .filter(|node| !matches!(node.life, Life::Stopped { .. }))
                .count(),
            keeps_volumes: false,
            spawn_not_before: None,
        }
    }

    /// One pass of the registry, and what the rules say about it.
    pub(super) fn pass(&mut self) -> Result<(), TestCaseError> {
        let unneeded = surplus(&self.survey());
        let now = self.now;
        for (number, node) in &mut self.nodes {
            if unneeded.contains(&NodeId::numbered(*number)) {
                node.surplus.get_or_insert(now);
            } else {
                node.surplus = None;
            }
        }
        let survey = self.survey();
        let planned = plan(&survey, self.now);
        self.judge(&survey, &planned)?;
        for action in planned.actions {
            self.act(action)?;
        }
        Ok(())
    }

    pub(super) fn judge(&self, survey: &Survey, planned: &Plan) -> Result<(), TestCaseError> {
        let spawns = planned
            .actions
            .iter()
            .filter(|a| matches!(a, Action::Spawn { .. }))
            .count();
        let failed = survey
            .seats
            .iter()
            .filter(|seat| matches!(seat.condition, Condition::Failed { .. }))
            .count();
        let deaf = self.deaf && survey.is_isolated(self.now);
        prop_assert!(
            !deaf || planned.actions.is_empty(),
            "cut off, and does {planned:?}"
        );
        if spawns > 0 {
            let needed = failed.max(self.target.saturating_sub(self.set.len()));
            prop_assert!(
                survey.candidates.len() + spawns <= needed,
                "{spawns} more beside {:?} for {failed} failures",
                survey.candidates
            );
            prop_assert!(
                survey.living + spawns <= self.rules.max_nodes + 1,
                "above MAX_NODES"
            );
        }
        let proposals = planned.actions.iter().filter_map(|action| match action {
            Action::Propose { members, .. } => Some(members),
            _ => None,
        });
        for members in proposals {
            prop_assert!(self.pending.is_none(), "a second change in flight");
            prop_assert!(
                survey.voting_lately() >= self.quorum(),
                "nobody can finalise it"
            );
            let lives = |key: &PublicKey| {
                let seats = &mut survey.seats.iter();
                let seat = seats.find(|seat| seat.member.public_key == *key);
                seat.is_none_or(|seat| seat.condition.votes())
            };
            let living = members
                .iter()
                .filter(|member| lives(&member.public_key))
                .count();
            let quorum = QuorumRule::Byzantine.quorum(members.len());
            prop_assert!(
                living >= quorum,
                "{living} living of {} members",
                members.len()
            );
            prop_assert!(members.len() <= self.rules.max_nodes);
            prop_assert!(
                failed == 0 || members.len() <= self.set.len(),
                "raised while {failed} are failed"
            );
            let leader = member(*self.set.first().expect("a set is never empty")).public_key;
            let followers = self.set.len() > 1;
            let leader_stays = members.iter().any(|member| member.public_key == leader);
            prop_assert!(
                leader_stays || members.len() == self.set.len() || !followers || failed > 0,
                "the leader went before a follower"
            );
        }
        Ok(())
    }

    pub(super) fn act(&mut self, action: Action) -> Result<(), TestCaseError> {
        let now = self.now;
        match action {
            Action::Start(label) => {
                let broken = self.broken;
                if let Some(node) = label.number().and_then(|n| self.nodes.get_mut(&n))
                    && !broken
                {
                    node.life = Life::Running { since: now };
                }
            }
            Action::Spawn { .. } => {
                self.highest += 1;
                self.spawned += 1;
                self.nodes.insert(
                    self.highest,
                    Node {
                        life: Life::Crashed { at: now },
                        origin: Origin::Registry,
                        crashes: 0,
                        surplus: None,
                    },
                );
            }
            Action::Stop(label) | Action::Remove { label, .. } => {
                let number = label.number().unwrap_or_default();
                prop_assert!(!self.in_a_set(number), "{label} votes and is removed");
                let origin = self.nodes.get(&number).map(|node| node.origin);
                prop_assert_eq!(
                    origin,
                    Some(Origin::Registry),
                    "{} is somebody else's",
                    label
                );
                self.nodes.remove(&number);
            }
            Action::Propose { members, .. } => {
                let numbers = members.iter().filter_map(|member| member.node_id.number());
                self.pending = Some(numbers.collect());
            }
            Action::Dismiss(_) | Action::Probe => {}
        }
        Ok(())
    }

    /// Time goes by: the chain finalises what is pending if its quorum votes.
    pub(super) fn elapse(&mut self) {
        self.now += STEP;
        let voting = self
            .set
            .iter()
            .filter(|number| self.votes(**number))
            .count();
        if voting >= self.quorum()
            && let Some(next) = self.pending.take()
        {
            self.raised += usize::from(next.len() > self.set.len());
            self.set = next;
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.set.len() == self.target
            && self.pending.is_none()
            && self
                .set
                .iter()
                .all(|number| matches!(self.condition(*number), Condition::Live))
    }
}
