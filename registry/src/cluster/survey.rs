//! What the planner looks at: the cluster as it is at one moment, without keys to look up.

use std::time::Duration;

use axolotl_common::{Epoch, Member, NodeId, QuorumRule};

use super::{Now, Rules, instance::Origin, votes::Silence};

/// A learner whose height is at most this far below the highest one known is level.
pub const LEVEL_BLOCKS: u64 = 5;
/// A learner must stay level for this long before it is put forward.
pub const LEVEL_FOR: Duration = Duration::from_millis(500);
/// A node stopped on purpose has this long to be started again before it is replaced; counted from
/// the last stop of any node, so that somebody who stops one after the other is let finish.
pub const STOP_PATIENCE: Duration = Duration::from_millis(1_500);
/// Somebody who starts a stopped validator has this long to start the next one.
pub const START_PATIENCE: Duration = Duration::from_secs(5);
/// A node that nobody needs is removed after this time.
pub const SURPLUS_PATIENCE: Duration = Duration::from_secs(10);
/// A change that waits for news of the validators is looked at again after this time.
pub const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// How a validator stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It votes.
    Live,
    /// Neither counted on nor given up yet.
    Waiting {
        /// What is waited for.
        why: String,
        /// When this changes without anything being heard.
        until: Option<Now>,
    },
    /// It is to be replaced.
    Failed {
        /// In words.
        why: String,
        /// When it became known.
        since: Now,
        /// Whether it may still vote, such as one that crashes again and again.
        votes: bool,
    },
    /// The operator wants it out. `votes` until then.
    Leaving {
        /// Whether it votes.
        votes: bool,
    },
}

impl Condition {
    /// Whether it is counted on for a quorum.
    pub fn votes(&self) -> bool {
        match self {
            Self::Live => true,
            Self::Waiting { .. } => false,
            Self::Failed { votes, .. } | Self::Leaving { votes } => *votes,
        }
    }
}

/// A validator of the epoch in force.
#[derive(Clone, Debug)]
pub struct Seat {
    /// As the record names it.
    pub member: Member,
    /// Its number.
    pub number: u64,
    /// How it stands.
    pub condition: Condition,
    /// Whether it leads.
    pub leads: bool,
    /// When it was last heard.
    pub heard: Option<Now>,
    /// Whether what is known of it is no older than a heartbeat: its own word, or that of peers that reach it.
    pub lately: bool,
    /// Its votes do not reach the other members, by their reports. It is not counted on; nothing replaces it for
    /// that yet.
    pub silence: Option<Silence>,
    /// Whether its instance runs; `None` when no runtime of the registry runs it.
    pub running: Option<bool>,
}

/// How far a node that does not vote is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Level for long enough: it may be put forward.
    Ready,
    /// On its way; the text says how far.
    Coming(String),
}

/// A node that may be put forward.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Label.
    pub label: NodeId,
    /// Number.
    pub number: u64,
    /// How it would stand in a record; `None` before it registered.
    pub member: Option<Member>,
    /// How far it is.
    pub stage: Stage,
    /// Label of the instance that runs it and who made it, if the registry's runtime does.
    pub instance: Option<(NodeId, Origin)>,
    /// When it was told apart as not needed.
    pub surplus_since: Option<Now>,
}

/// An instance of the runtime.
#[derive(Clone, Debug)]
pub struct Place {
    /// Label.
    pub label: NodeId,
    /// Number.
    pub number: u64,
    /// Who made it.
    pub origin: Origin,
    /// Whether it runs.
    pub running: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Whether the node that it runs votes in the epoch in force, or will by the pending record.
    pub member: bool,
    /// Whether it is to run.
    pub wanted: bool,
    /// Why it is not to run, if it was stopped on purpose.
    pub stopped: Option<String>,
    /// Whether it was stopped because the operator drained it: its data is kept.
    pub drained: bool,
    /// Why it is being removed, if it is.
    pub removing: Option<String>,
    /// Whether it crashes again and again.
    pub loops: bool,
    /// Not to be started before this time.
    pub not_before: Option<Now>,
}

/// The forming of the genesis.
#[derive(Clone, Debug)]
pub struct Forming {
    /// Nodes still missing.
    pub missing: usize,
    /// Instances that run or are to be started and have not registered.
    pub on_their_way: usize,
    /// Nothing is started before this time.
    pub not_before: Now,
}

/// The cluster at one moment.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Settings.
    pub rules: Rules,
    /// Wanted number of voting nodes.
    pub target: usize,
    /// Whether the registry starts and stops nodes.
    pub runs_nodes: bool,
    /// Whether everything is being stopped.
    pub shutdown: bool,
    /// Why nothing may be done at all, such as a store that is older than the chain.
    pub obstacle: Option<String>,
    /// The genesis, while it forms.
    pub forming: Option<Forming>,
    /// The quorum rule of the chain.
    pub quorum: QuorumRule,
    /// Validators of the epoch in force, in list order; empty before the genesis.
    pub seats: Vec<Seat>,
    /// Number of a signed record that no block carries yet.
    pub pending: Option<Epoch>,
    /// The recovery under way, in words: the members are its business, replacements are readied.
    pub recovery: Option<String>,
    /// Nodes that may be put forward, by number.
    pub candidates: Vec<Candidate>,
    /// Instances of the runtime.
    pub places: Vec<Place>,
    /// Operators' wishes for nodes that do not vote any more: they are told to stop.
    pub dismissed: Vec<NodeId>,
    /// Until when somebody is thought to be at work with the nodes: nobody is replaced before.
    pub hands_off_until: Option<Now>,
    /// Living nodes of all roles.
    pub living: usize,
    /// Whether the epoch in force came by a recovery and has not finalised a block: nothing is removed, for
    /// what the lost ones hold may still be wanted.
    pub keeps_volumes: bool,
    /// No node is added before this time: the last ones were of no use.
    pub spawn_not_before: Option<Now>,
}

impl Survey {
    /// Votes that finalise in the epoch in force.
    pub fn quorum_now(&self) -> usize {
        self.quorum.quorum(self.seats.len())
    }

    /// Validators that are counted on.
    pub fn voting(&self) -> usize {
        self.seats
            .iter()
            .filter(|seat| seat.condition.votes())
            .count()
    }

    /// Validators that are counted on by what was heard lately. Those that fell silent together are not all
    /// known to have failed in the same moment.
    pub fn voting_lately(&self) -> usize {
        let counts = |seat: &&Seat| seat.lately && seat.condition.votes();
        self.seats.iter().filter(counts).count()
    }

    /// Whether the registry hears no validator although the runtime says that at least one runs: then
    /// it is the registry that is cut off.
    pub fn is_isolated(&self, now: Now) -> bool {
        let heard = |seat: &Seat| seat.heard.is_some_and(|at| self.rules.is_news(at, now));
        !self.seats.is_empty()
            && !self.rules.is_news(Now::ZERO, now)
            && self.seats.iter().any(|seat| seat.running == Some(true))
            && !self.seats.iter().any(heard)
    }

    /// Whether some validator was heard after `since`, or none runs: what the runtime says of another
    /// one is then no sign of the registry's own isolation.
    pub fn is_confirmed(&self, since: Now) -> bool {
        let heard = |seat: &Seat| seat.heard.is_some_and(|at| at >= since);
        self.seats.iter().any(heard) || !self.seats.iter().any(|seat| seat.running == Some(true))
    }
}
