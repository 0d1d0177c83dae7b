//! Whose votes do not arrive, by what the members report of one another.
//!
//! A node may report in time, have all its peers and take itself for a voter while none of its votes
//! reaches anybody. Each heartbeat therefore says what its node received of each validator. With n validators of
//! which f may lie, and only members' reports of a few seconds counting:
//!
//! | what | condition |
//! |---|---|
//! | a member is not voting | f + 1 others report it silent (n <= 3: all others that are heard), and fewer than f + 1 others receive its votes (n <= 3: none) |
//! | it votes again | f + 1 others receive its votes, and the row above does not hold |
//! | nobody is not voting | the first row would leave fewer than a quorum |
//!
//! Its own report counts for nothing, and neither does the leader's for the first row. One who misses the votes
//! of everybody speaks of its own network. Where too few reports are there to tell, what was known stays.
//! A set of silent members that leaves no quorum cannot be: blocks were decided meanwhile. Then the network
//! between members is at fault, not the members.
//!
//! Nothing here replaces anybody: a member that is not voting is shown, and not counted on.

use std::collections::{BTreeMap, BTreeSet};

use axolotl_common::{
    Height, NodeId, PublicKey, ValidatorSet,
    registry_api::{NodeState, Symptom, SymptomCode, VoteReport},
};

use super::{Now, state::State, surveyor::Verdicts};

/// A small set, in which all others that are heard must agree.
const SMALL_SET: usize = 3;

/// What one member reports of the others.
#[derive(Clone, Debug)]
pub struct Reporter<'a> {
    /// Its label.
    pub label: &'a NodeId,
    /// Its key.
    pub key: PublicKey,
    /// Whether it leads.
    pub leads: bool,
    /// Its head.
    pub head: Height,
    /// When it reported.
    pub at: Now,
    /// What it received.
    pub votes: &'a [VoteReport],
}

/// A member whose votes do not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// When this became known.
    pub since: Now,
    /// Height of the last vote that any of the reporters received.
    pub height: Height,
    /// When that vote arrived.
    pub last_vote: Now,
    /// Who reports it.
    pub reporters: Vec<NodeId>,
}

impl Silence {
    /// What is shown of it.
    pub fn symptom(&self, now: Now) -> Symptom {
        let age = now.saturating_sub(self.last_vote);
        let reporters: Vec<&str> = self.reporters.iter().map(NodeId::as_str).collect();
        Symptom {
            code: SymptomCode::NotVoting,
            text: format!(
                "no vote of it reached {} for {} s, the last was for height {}; look at the network between \
                 them, and at its log",
                reporters.join(", "),
                age.as_secs(),
                self.height
            ),
            height: self.height,
            age_ms: age.as_millis() as u64,
            reporters: self.reporters.clone(),
        }
    }
}

/// What is news about a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilenceChange {
    /// Which.
    pub label: NodeId,
    /// Its votes ceased to arrive; `None`: they arrive again.
    pub silence: Option<Silence>,
}

/// Reports about one member.
#[derive(Clone, Debug, Default)]
struct Tally<'a> {
    /// Who receives none of its votes, the leader aside.
    silent: Vec<(&'a Reporter<'a>, &'a VoteReport)>,
    /// How many receive its votes, the leader aside.
    heard: usize,
    /// Whether the leader does.
    heard_by_leader: bool,
}

/// Whether a reporter misses the votes of every other member: then it speaks of its own network.
fn hears_nobody(reporter: &Reporter<'_>, set: &ValidatorSet) -> bool {
    let silent: BTreeSet<&PublicKey> = others(reporter, set)
        .filter(|report| report.is_silent(reporter.head))
        .map(|report| &report.validator)
        .collect();
    silent.len() + 1 >= set.len()
}

/// What it reports of members other than itself.
fn others<'a>(
    reporter: &Reporter<'a>,
    set: &'a ValidatorSet,
) -> impl Iterator<Item = &'a VoteReport> + use<'a> {
    let own = reporter.key;
    let reports = reporter.votes.iter();
    reports.filter(move |report| report.validator != own && set.contains(&report.validator))
}

/// Members whose votes do not arrive, by these reports and by what was known. A pure function of its arguments.
pub fn judge(
    set: &ValidatorSet,
    reporters: &[Reporter<'_>],
    known: &BTreeMap<PublicKey, Silence>,
    now: Now,
) -> BTreeMap<PublicKey, Silence> {
    let credible: Vec<&Reporter<'_>> = reporters
        .iter()
        .filter(|reporter| set.contains(&reporter.key) && !hears_nobody(reporter, set))
        .collect();
    let mut tallies = BTreeMap::<PublicKey, Tally<'_>>::new();
    for reporter in &credible {
        // One report per member, whatever a reporter sends.
        let mut seen = BTreeSet::new();
        for report in others(reporter, set).filter(|report| seen.insert(report.validator)) {
            let tally = tallies.entry(report.validator).or_default();
            match (report.is_silent(reporter.head), reporter.leads) {
                (true, false) => tally.silent.push((reporter, report)),
                (false, false) => tally.heard += 1,
                (false, true) => tally.heard_by_leader = true,
                (true, true) => {}
            }
        }
    }
    let n = set.len();
    let enough = set.rule().byzantine_faults(n) + 1;
    let mut silences = BTreeMap::new();
    for member in set.members() {
        let key = member.public_key;
        let tally = tallies.remove(&key).unwrap_or_default();
        let is_silent = if n <= SMALL_SET {
            !tally.silent.is_empty() && tally.heard == 0
        } else {
            tally.silent.len() >= enough && tally.heard < enough
        };
        let is_heard = tally.heard + usize::from(tally.heard_by_leader) >= enough;
        let before = known.get(&key);
        if is_silent {
            silences.insert(key, silence_of(&tally, before, now));
        } else if let Some(before) = before.filter(|_| !is_heard) {
            silences.insert(key, before.clone());
        }
    }
    if n - silences.len() < set.quorum() {
        silences.clear();
    }
    silences
}

fn silence_of(tally: &Tally<'_>, before: Option<&Silence>, now: Now) -> Silence {
    let arrived = |(reporter, report): &(&Reporter<'_>, &VoteReport)| {
        let age = std::time::Duration::from_millis(report.age_ms);
        reporter.at.saturating_sub(age)
    };
    let heights = tally.silent.iter().map(|(_, report)| report.height);
    let reporters = tally.silent.iter();
    Silence {
        since: before.map_or(now, |before| before.since),
        height: heights.max().unwrap_or_default(),
        last_vote: tally.silent.iter().map(arrived).max().unwrap_or(now),
        reporters: reporters
            .map(|(reporter, _)| reporter.label.clone())
            .collect(),
    }
}

impl State {
    /// Judges anew whose votes do not arrive, and says what is news. A member that is not heard any more, or is
    /// none any more, is left out without a word: that is told elsewhere.
    pub fn review_votes(&mut self, now: Now, verdicts: &Verdicts) -> Vec<SilenceChange> {
        let Some(chain) = &self.chain else {
            return Vec::new();
        };
        let set = &chain.validators;
        let state_of = |key: &PublicKey| Some(verdicts.get(self.keys.get(key)?)?.state);
        let mut reporters = Vec::new();
        for member in set.members() {
            let Some(node) = self.by_key(&member.public_key) else {
                continue;
            };
            let Some((at, beat)) = &node.live.beat else {
                continue;
            };
            let fresh = self.rules.is_news(*at, now) && beat.epoch == set.epoch() && !beat.syncing;
            if fresh && state_of(&member.public_key) == Some(NodeState::Healthy) {
                reporters.push(Reporter {
                    label: &node.record.label,
                    key: member.public_key,
                    leads: self.leader.as_ref() == Some(&node.record.label),
                    head: beat.height,
                    at: *at,
                    votes: &beat.votes,
                });
            }
        }
        let reports_in_time = |key: &PublicKey| {
            matches!(
                state_of(key),
                Some(NodeState::Healthy | NodeState::Syncing | NodeState::Unreachable)
            )
        };
        let mut silences = judge(set, &reporters, &self.silences, now);
        silences.retain(|key, _| reports_in_time(key));
        let mut changes = Vec::new();
        for (key, silence) in &silences {
            if !self.silences.contains_key(key)
                && let Some(label) = self.keys.get(key)
            {
                changes.push(SilenceChange {
                    label: label.clone(),
                    silence: Some(silence.clone()),
                });
            }
        }
        for key in self.silences.keys() {
            let stays = set.contains(key) && reports_in_time(key);
            if stays
                && !silences.contains_key(key)
                && let Some(label) = self.keys.get(key)
            {
                changes.push(SilenceChange {
                    label: label.clone(),
                    silence: None,
                });
            }
        }
        self.silences = silences;
        changes
    }
}

#[cfg(test)]
#[path = "votes_tests.rs"]
mod tests;
