//! What to do about the cluster as it is: a pure function from a [`Survey`] to actions, each with its
//! reason.
//!
//! # Rules
//! 1. A shutdown stops everything, followers first and newest first, and starts nothing.
//! 2. A registry that is cut off, or whose store is older than the chain, does nothing but say so.
//! 3. What crashed is started again with its data, with growing patience.
//! 4. A failed validator is swapped for a level learner in one record. While one is failed, the
//!    number of validators is never raised.
//! 5. One change of the validators at a time, and none that would leave fewer living members than the
//!    quorum of the new set, or that the old set, by what was heard of it lately, cannot finalise.
//! 6. A node that is there already, level or on its way, is used before another is spawned: one
//!    replacement for one failure.
//! 7. Fewer validators: followers before the leader, newest first.
//! 8. While a lost quorum is being recovered replacements are readied as ever; who votes is decided there.
//! 9. What nobody needs is removed after a while, if a registry made it.

use std::cmp::Reverse;

use axolotl_common::{Member, NodeId};

use super::{
    Now,
    instance::Origin,
    survey::{Candidate, Condition, NEWS_PATIENCE, Place, SURPLUS_PATIENCE, Seat, Stage, Survey},
};

/// How soon it is looked again whether an epoch that a recovery brought has finalised a block.
const FIRST_BLOCK_LOOK: Now = Now::from_secs(1);

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start this node.
    Start(NodeId),
    /// Stop this node, and wait until it is gone before the next action.
    Stop(NodeId),
    /// Add a node, with the next number.
    Spawn {
        /// In words.
        why: String,
    },
    /// Remove a node that a registry made, with its data; stop it first.
    Remove {
        /// Which.
        label: NodeId,
        /// In words.
        why: String,
    },
    /// Sign a record with these members.
    Propose {
        /// All members in list order.
        members: Vec<Member>,
        /// In words.
        why: String,
    },
    /// Tell a node that left the set by the operator's wish to stop for good.
    Dismiss(NodeId),
    /// Ask every validator for a heartbeat now.
    Probe,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// What is under way, in words that stay the same while nothing changes.
    pub lines: Vec<String>,
    /// What passes by itself, most likely: shown, but nothing to tell events of.
    pub waits: Vec<String>,
    /// When to look again although nothing happened.
    pub next: Option<Now>,
}

impl Plan {
    /// Everything to show of it.
    pub fn shown(self) -> Vec<String> {
        [self.lines, self.waits].concat()
    }

    fn look_at(&mut self, at: Now) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// Plans. A pure function of its arguments.
pub fn plan(survey: &Survey, now: Now) -> Plan {
    let mut plan = Plan::default();
    if survey.shutdown {
        shut_down(survey, &mut plan);
        return plan;
    }
    if let Some(obstacle) = &survey.obstacle {
        plan.lines.push(obstacle.clone());
        return plan;
    }
    if let Some(forming) = &survey.forming {
        if survey.runs_nodes && now < forming.not_before {
            plan.look_at(forming.not_before);
        } else if survey.runs_nodes {
            start_down(survey, now, &mut plan);
            for _ in forming.on_their_way..forming.missing {
                let why = "the genesis waits for it".to_owned();
                plan.actions.push(Action::Spawn { why });
            }
        }
        return plan;
    }
    if survey.is_isolated(now) {
        plan.lines.push(
            "no validator is heard although the runtime says that some run: this registry seems to \
             be cut off, so nothing is done"
                .to_owned(),
        );
        return plan;
    }
    if survey.runs_nodes {
        start_down(survey, now, &mut plan);
    }
    for label in &survey.dismissed {
        plan.actions.push(Action::Dismiss(label.clone()));
    }
    membership(survey, now, &mut plan);
    if survey.runs_nodes {
        clear(survey, now, &mut plan);
    }
    plan
}

fn shut_down(survey: &Survey, plan: &mut Plan) {
    let mut running: Vec<&Place> = survey.places.iter().filter(|place| place.running).collect();
    running.sort_by_key(|place| (place.leads, Reverse(place.number)));
    let stops = running
        .iter()
        .map(|place| Action::Stop(place.label.clone()));
    plan.actions.extend(stops);
}

/// Starts what is to run and does not, as soon as its patience is over.
fn start_down(survey: &Survey, now: Now, plan: &mut Plan) {
    let mut down: Vec<&Place> = survey
        .places
        .iter()
        .filter(|place| place.wanted && !place.running && place.removing.is_none())
        .filter(|place| survey.forming.is_some() || !replaced(place))
        .collect();
    down.sort_by_key(|place| place.number);
    for place in down {
        match place.not_before.filter(|at| *at > now) {
            Some(at) => {
                plan.look_at(at);
                plan.lines
                    .push(format!("{} is started again after a pause", place.label));
            }
            None => plan.actions.push(Action::Start(place.label.clone())),
        }
    }
}

/// Whether this node crashes again and again, and another one has its seat by now. One that a registry
/// made is removed in the end.
fn replaced(place: &Place) -> bool {
    place.origin == Origin::Given && place.loops && !place.member
}

/// The seats that are to be given to others: failed ones first, in the order in which they failed.
fn victims(survey: &Survey) -> Vec<&Seat> {
    let mut victims: Vec<&Seat> = survey
        .seats
        .iter()
        .filter(|seat| {
            matches!(
                seat.condition,
                Condition::Failed { .. } | Condition::Leaving { .. }
            )
        })
        .collect();
    victims.sort_by_key(|seat| match seat.condition {
        Condition::Failed { since, .. } => (false, since, seat.number),
        _ => (true, Now::ZERO, seat.number),
    });
    victims
}

fn membership(survey: &Survey, now: Now, plan: &mut Plan) {
    for seat in &survey.seats {
        if let Condition::Waiting { why, until } = &seat.condition {
            plan.waits.push(format!("{}: {why}", seat.member.node_id));
            if let Some(until) = until {
                plan.look_at(*until);
            }
        }
    }
    let victims = victims(survey);
    for seat in &victims {
        let name = &seat.member.node_id;
        plan.lines.push(match &seat.condition {
            Condition::Failed { why, .. } => format!("{name} is to be replaced: {why}"),
            _ => format!("{name} leaves the validators by the operator's wish"),
        });
    }
    if victims.iter().any(|seat| !is_confirmed(survey, seat)) {
        plan.actions.push(Action::Probe);
    }
    if all_stopped(survey) {
        plan.lines.push(
            "every validator was stopped or removed on purpose: nothing is started until one of them is"
                .to_owned(),
        );
        return;
    }
    if let Some(until) = survey.hands_off_until.filter(|until| *until > now) {
        plan.look_at(until);
        return;
    }
    let n = survey.seats.len();
    // Leaving seats beyond the wanted number are not given to anybody.
    let needed = (victims.len() + survey.target).saturating_sub(n);
    let needed = if victims.iter().any(|seat| failed(seat)) {
        // Never raised while one is failed.
        needed.min(victims.len())
    } else {
        needed
    };
    spawn_missing(survey, &victims, needed, now, plan);
    if let Some(recovery) = &survey.recovery {
        plan.lines.push(recovery.clone());
        return;
    }
    match survey.pending {
        Some(epoch) => plan.lines.push(format!(
            "epoch {epoch} is signed and waits to be carried in a block"
        )),
        None => change(survey, &victims, plan),
    }
    // A change may wait for news of them: they beat again, or have failed.
    if survey.voting_lately() < survey.voting() {
        plan.look_at(now + NEWS_PATIENCE);
    }
}

/// Whether the failure of a validator is no sign of the registry's own isolation.
fn is_confirmed(survey: &Survey, seat: &Seat) -> bool {
    match seat.condition {
        Condition::Failed { since, .. } => survey.is_confirmed(since),
        _ => true,
    }
}

fn failed(seat: &Seat) -> bool {
    matches!(seat.condition, Condition::Failed { .. })
}

/// Whether the operator is shutting the cluster down node by node.
fn all_stopped(survey: &Survey) -> bool {
    let of_seat = |seat: &Seat| seat.running == Some(false) && failed(seat);
    let stopped = |place: &Place| !place.wanted;
    let seats_down = survey.seats.iter().all(of_seat);
    let mut members = survey.places.iter().filter(|place| place.member);
    seats_down && !survey.seats.is_empty() && members.all(stopped)
}

/// Adds nodes when those that are there do not suffice.
fn spawn_missing(survey: &Survey, victims: &[&Seat], needed: usize, now: Now, plan: &mut Plan) {
    let there = survey.candidates.len();
    for candidate in survey.candidates.iter().take(needed) {
        if let Stage::Coming(how) = &candidate.stage {
            plan.lines
                .push(format!("{} is on its way: {how}", candidate.label));
        }
    }
    if needed <= there {
        return;
    }
    let missing = needed - there;
    if !survey.runs_nodes {
        plan.lines.push(format!(
            "{missing} more {} needed; this registry starts none (RUNTIME=none)",
            if missing == 1 { "node is" } else { "nodes are" }
        ));
        return;
    }
    if let Some(at) = survey.spawn_not_before.filter(|at| *at > now) {
        plan.look_at(at);
        plan.lines.push(
            "the nodes that were added last never joined; the next one is added after a pause"
                .to_owned(),
        );
        return;
    }
    let replacing = !victims.is_empty();
    let most = survey.rules.max_nodes + usize::from(replacing);
    let room = most.saturating_sub(survey.living);
    if room < missing {
        plan.lines.push(format!(
            "{missing} more needed, but {} nodes live and MAX_NODES is {}",
            survey.living, survey.rules.max_nodes
        ));
    }
    for place in 0..missing.min(room) {
        // Those who come first are for the first victims.
        let victim = victims.get(there + place);
        let why = match victim {
            Some(Seat {
                member,
                condition: Condition::Failed { why, .. },
                ..
            }) => {
                if !victim.is_some_and(|seat| is_confirmed(survey, seat)) {
                    plan.waits.push(format!(
                        "{} is not replaced before another validator is heard",
                        member.node_id
                    ));
                    continue;
                }
                format!("replaces {}: {why}", member.node_id)
            }
            Some(seat) => format!("replaces {}, which leaves", seat.member.node_id),
            None => format!(
                "{} of {} wanted validators",
                survey.seats.len(),
                survey.target
            ),
        };
        plan.actions.push(Action::Spawn { why });
    }
}

/// The one change of the validators that is due, if it may be made.
fn change(survey: &Survey, victims: &[&Seat], plan: &mut Plan) {
    let n = survey.seats.len();
    let ready = survey
        .candidates
        .iter()
        .find_map(|candidate| ready_member(candidate).map(|member| (candidate, member)));
    let members = || survey.seats.iter().map(|seat| &seat.member);
    let without = |leaver: &Seat| -> Vec<Member> {
        let stays = |member: &&Member| member.public_key != leaver.member.public_key;
        members().filter(stays).cloned().collect()
    };
    if let Some(victim) = victims.first() {
        let name = &victim.member.node_id;
        // Nobody else can be had: a set may shrink to the floor for a node that leaves.
        let alone = !survey.runs_nodes && survey.candidates.is_empty();
        let may_shrink =
            n > survey.target || (alone && !failed(victim) && n > survey.rules.min_nodes);
        if may_shrink {
            propose(survey, without(victim), format!("{name} leaves"), plan);
        } else if let Some((candidate, newcomer)) = ready {
            let swapped = survey.seats.iter().map(|seat| {
                if seat.member.public_key == victim.member.public_key {
                    newcomer.clone()
                } else {
                    seat.member.clone()
                }
            });
            let why = format!("{} takes the place of {name}", candidate.label);
            propose(survey, swapped.collect(), why, plan);
        }
        if n < survey.target {
            plan.lines.push(format!(
                "{n} of {} wanted validators: more are added once nobody is failed",
                survey.target
            ));
        }
    } else if n < survey.target {
        if let Some((candidate, newcomer)) = ready {
            let raised = members().cloned().chain([newcomer.clone()]).collect();
            propose(
                survey,
                raised,
                format!("{} is added", candidate.label),
                plan,
            );
        }
    } else if n > survey.target {
        let leaver = survey
            .seats
            .iter()
            .max_by_key(|seat| (!seat.leads, seat.number));
        if let Some(leaver) = leaver {
            let name = &leaver.member.node_id;
            let why = format!("{name} leaves: {n} validators, {} wanted", survey.target);
            propose(survey, without(leaver), why, plan);
        }
    }
}

fn ready_member(candidate: &Candidate) -> Option<&Member> {
    match candidate.stage {
        Stage::Ready => candidate.member.as_ref(),
        Stage::Coming(_) => None,
    }
}

/// Proposes a set, or says with the numbers why it may not be.
fn propose(survey: &Survey, members: Vec<Member>, why: String, plan: &mut Plan) {
    match refusal(survey, &members) {
        None => plan.actions.push(Action::Propose { members, why }),
        Some(refusal) => plan.lines.push(format!("not yet, {why}: {refusal}")),
    }
}

/// Why a set may not take the place of the present one, with the arithmetic.
fn refusal(survey: &Survey, members: &[Member]) -> Option<String> {
    let seat_of = |member: &Member| {
        let seats = &mut survey.seats.iter();
        seats.find(|seat| seat.member.public_key == member.public_key)
    };
    // A newcomer is level and heard: it is counted on.
    let lives = |member: &&Member| seat_of(member).is_none_or(|seat| seat.condition.votes());
    let (n, living) = (members.len(), members.iter().filter(lives).count());
    let quorum = survey.quorum.quorum(n);
    if living < quorum {
        return Some(format!(
            "{living} of its {n} members would vote, {quorum} make its quorum"
        ));
    }
    let (voting, needed) = (survey.voting_lately(), survey.quorum_now());
    (voting < needed).then(|| {
        format!(
            "{voting} of {} present validators vote, as heard lately; {needed} must finalise the change",
            survey.seats.len()
        )
    })
}

/// Whether taking a validator out, with nobody in its place, would leave the chain alive: the answer
/// to the operator who asks for it.
///
/// # Errors
/// With the arithmetic.
pub fn may_leave(survey: &Survey, label: &NodeId) -> Result<(), String> {
    let stays = |seat: &&Seat| seat.member.node_id != *label;
    let rest: Vec<Member> = survey
        .seats
        .iter()
        .filter(stays)
        .map(|seat| seat.member.clone())
        .collect();
    if rest.len() == survey.seats.len() {
        return Ok(());
    }
    let voting = survey.voting();
    if voting < survey.quorum_now() {
        return Err(format!(
            "{voting} of {} validators vote, {} must finalise the change",
            survey.seats.len(),
            survey.quorum_now()
        ));
    }
    if survey.runs_nodes || !survey.candidates.is_empty() {
        return Ok(());
    }
    if rest.len() < survey.rules.min_nodes {
        return Err(format!(
            "{} validators would be left, MIN_NODES is {}, and nothing here starts another one",
            rest.len(),
            survey.rules.min_nodes
        ));
    }
    refusal(survey, &rest).map_or(Ok(()), Err)
}

/// Removes what a registry made and nobody needs.
fn clear(survey: &Survey, now: Now, plan: &mut Plan) {
    if survey.keeps_volumes {
        plan.look_at(now + FIRST_BLOCK_LOOK);
        return;
    }
    for place in survey
        .places
        .iter()
        .filter(|p| p.origin == Origin::Registry)
    {
        let why = match (&place.removing, &place.stopped) {
            (Some(why), _) => Some(why.clone()),
            (None, Some(why)) if !place.member && !place.drained && survey.pending.is_none() => {
                Some(format!("it does not vote, and it was stopped: {why}"))
            }
            _ => None,
        };
        if let Some(why) = why {
            let label = place.label.clone();
            plan.actions.push(Action::Remove { label, why });
        }
    }
    for candidate in &survey.candidates {
        let Some((label, Origin::Registry)) = &candidate.instance else {
            continue;
        };
        let Some(since) = candidate
            .surplus_since
            .filter(|_| !is_called(survey, plan, candidate))
        else {
            continue;
        };
        let due = since + SURPLUS_PATIENCE;
        if due <= now {
            let (label, why) = (label.clone(), "it is not needed".to_owned());
            plan.actions.push(Action::Remove { label, why });
        } else {
            plan.look_at(due);
        }
    }
}

/// Whether a record that is signed, or is to be, gives the candidate a seat.
fn is_called(survey: &Survey, plan: &Plan, candidate: &Candidate) -> bool {
    let label = candidate.instance.as_ref().map(|(label, _)| label);
    let mut places = survey.places.iter();
    let named = |members: &[Member]| {
        let key = candidate.member.as_ref().map(|member| member.public_key);
        members.iter().any(|member| Some(member.public_key) == key)
    };
    places.any(|place| Some(&place.label) == label && place.member)
        || plan.actions.iter().any(|action| match action {
            Action::Propose { members, .. } => named(members),
            _ => false,
        })
}

/// The candidates that nobody needs now: those a registry made that come after as many as are needed,
/// in the order in which candidates are used.
pub fn surplus(survey: &Survey) -> Vec<NodeId> {
    let victims = victims(survey).len();
    let needed = (victims + survey.target).saturating_sub(survey.seats.len());
    let rest = survey.candidates.iter().skip(needed);
    rest.map(|candidate| candidate.label.clone()).collect()
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
