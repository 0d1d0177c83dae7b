//! The machine: which step comes next.

use std::collections::BTreeMap;

use axolotl_common::{
    Epoch, EpochRecord, Hash, Height, PublicKey, ValidatorSet,
    membership::Member,
    recovery::{Ballot, RegistryStart, fewest_survivors},
    registry_api::{Order, RecoveryAnswer, RecoveryPhase},
};

use super::{
    Change, Epochs, Intent, Ledger, MEET_AGAIN, Memory, PROBE_FOR, REPORT_SHOWN, Seen, Shown, Step,
    answers::Answers,
};
use crate::cluster::Now;

/// What was asked of a node last, so that it is not asked again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Survey(Ballot),
    Seal(Ballot),
    Stage(Ballot),
}

/// The draft in hand.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) ballot: Ballot,
    pub(super) record: EpochRecord,
    pub(super) hash: Hash,
    pub(super) holders: Vec<PublicKey>,
    pub(super) acknowledged: usize,
    /// When somebody acknowledged last, or it was made.
    pub(super) progress: Now,
}

/// A registry's part in recoveries: what the store holds, and what is forgotten in a crash.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub(super) memory: Memory,
    pub(super) answers: Answers,
    /// Since when each node is reachable, and by which stream.
    pub(super) reach: BTreeMap<PublicKey, (u64, Now)>,
    pub(super) asked: BTreeMap<PublicKey, (Asked, Now)>,
    /// When each was told of this start again.
    reminded: BTreeMap<PublicKey, Now>,
    /// Whether this start took over from another registry.
    took_over: bool,
    pub(super) lost_since: Option<Now>,
    pub(super) sealing_since: Option<Now>,
    pub(super) draft: Option<Draft>,
    /// The height that does not come about by the last report, and when that came.
    pub(super) reported: Option<(Height, Now)>,
    pub(super) shown: Option<Shown>,
}

impl Recovery {
    /// A process with this store. The last start is its own.
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            answers: Answers::default(),
            reach: BTreeMap::new(),
            asked: BTreeMap::new(),
            reminded: BTreeMap::new(),
            took_over: false,
            lost_since: None,
            sealing_since: None,
            draft: None,
            reported: None,
            shown: None,
        }
    }

    /// What the store holds.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// This start; `None` in a store without any.
    pub(super) fn start(&self) -> Option<RegistryStart> {
        self.memory.starts.last().copied()
    }

    /// What there is to show: `None` while a quorum lives.
    pub fn shown(&self) -> Option<&Shown> {
        self.shown.as_ref()
    }

    /// Whether the validators are a recovery's business now, not the planner's.
    pub fn is_open(&self) -> bool {
        self.memory.ledger.intent.is_some()
    }

    /// A node reported that a block does not come about. One that lacks a block which another has says so of
    /// a lower height: the higher one counts.
    pub fn report(&mut self, height: Height, now: Now) {
        let recent = |(_, at): &(Height, Now)| now.saturating_sub(*at) < REPORT_SHOWN;
        let known = self.reported.filter(recent).map(|(height, _)| height);
        self.reported = Some((known.unwrap_or_default().max(height), now));
    }

    /// Takes the answer of `key` to an order; the signature on the request holds. Returns what is wrong
    /// with it.
    pub fn take(
        &mut self,
        epochs: &Epochs<'_>,
        key: PublicKey,
        answer: RecoveryAnswer,
        refusal: Option<String>,
        now: Now,
    ) -> Vec<String> {
        // Whatever it says, it may be asked the next thing.
        self.answers.take(epochs, key, answer, refusal, now)
    }

    /// Takes over what was written down.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Ledger(ledger) => self.take_ledger(ledger.clone()),
            Change::Statement(signed) => {
                let author = signed.statement.author;
                self.memory.statements.insert(author, (**signed).clone());
            }
            Change::Record { .. } => self.take_ledger(self.memory.ledger.closed()),
            Change::Adopt(_) | Change::Propose { .. } => {}
        }
    }

    /// An operator lets this process take over: its new start was written down, with the starts of others
    /// that it goes on from.
    pub fn take_over_as(&mut self, starts: Vec<RegistryStart>) {
        self.memory.starts = starts;
        self.took_over = true;
    }

    /// What every node is told first; it judges by it whether it takes the rest.
    pub fn introduction(&self) -> Order {
        Order::Meet {
            starts: self.memory.starts.clone(),
            take_over: self.took_over,
        }
    }

    /// Tells those of this start once more who were told when they came, and whose answer was lost.
    fn remind(&mut self, now: Now) -> Option<Step> {
        let start = self.start()?;
        let met = |key: &PublicKey| self.answers.of(key).and_then(|said| said.met);
        // Who has met a stranger's start refuses this one, and says so once.
        let owes = |key: &PublicKey| {
            met(key).is_none_or(|met| met != start && self.memory.starts.contains(&met))
        };
        let due = |key: &PublicKey, since: Now| {
            let told = self.reminded.get(key);
            now.saturating_sub(told.map_or(since, |told| since.max(*told))) >= MEET_AGAIN
        };
        let keys = self.reach.iter();
        let keys: Vec<PublicKey> = keys
            .filter(|(key, (_, since))| owes(key) && due(key, *since))
            .map(|(key, _)| *key)
            .collect();
        self.reminded.extend(keys.iter().map(|key| (*key, now)));
        if keys.is_empty() {
            return None;
        }
        let orders = keys.into_iter().map(|key| (key, self.introduction()));
        Some(Step::Send(orders.collect()))
    }

    fn take_ledger(&mut self, ledger: Ledger) {
        let ballot = |ledger: &Ledger| ledger.intent.map(|intent| (intent.ballot, intent.sealing));
        if ballot(&self.memory.ledger) != ballot(&ledger) {
            self.draft = None;
            self.sealing_since = None;
        }
        self.memory.ledger = ledger;
    }

    /// What comes next.
    pub fn step(&mut self, seen: &Seen<'_>, now: Now) -> Step {
        self.note(seen, now);
        self.shown = None;
        if let Some(record) = self.answers.learned(&seen.epochs) {
            let number = record.record.number;
            return Step::Write {
                change: Change::Adopt(Box::new(record)),
                told: format!(
                    "epoch {number} is signed by this authority, and this store lacks it: adopted"
                ),
            };
        }
        if let Some(step) = self.remind(now) {
            return step;
        }
        if let Some(obstacle) = &seen.obstacle {
            if self.is_open() {
                self.show(seen, RecoveryPhase::Waiting, obstacle.clone());
            }
            return Step::Rest;
        }
        if let Some(epoch) = seen.epochs.signed {
            let why =
                format!("epoch {epoch} is signed, and handed to everybody until it is in force");
            self.show(seen, RecoveryPhase::Recorded, why);
            return Step::Rest;
        }
        let Some((set, start)) = seen.epochs.governing().zip(self.start()) else {
            return Step::Rest;
        };
        if let Some(step) = self.tidy(seen) {
            return step;
        }
        if let Some(why) = self.refused(set) {
            self.show_stranger(seen, why);
            return Step::Rest;
        }
        match self.memory.ledger.intent {
            Some(intent) if intent.ballot.start != start => self.open(
                intent,
                start,
                "a recovery that was begun before the restart goes on",
            ),
            Some(intent) if intent.take_over => self.take_over(seen, intent, set, start, now),
            Some(intent) => self.attempt(seen, intent, set, now),
            None => self.idle(seen, set, start, now),
        }
    }

    /// Keeps since when nodes are reachable.
    fn note(&mut self, seen: &Seen<'_>, now: Now) {
        let stream = |key: &PublicKey| {
            let facts = seen.nodes.get(key)?;
            facts.is_reachable().then_some(facts.stream)
        };
        self.reach
            .retain(|key, (known, _)| stream(key) == Some(*known));
        for (key, facts) in seen.nodes.iter().filter(|(_, facts)| facts.is_reachable()) {
            self.reach.entry(*key).or_insert((facts.stream, now));
        }
        self.reminded.retain(|key, _| self.reach.contains_key(key));
        let sets = seen.epochs.sets.range(seen.epochs.in_force..);
        let sets: Vec<&ValidatorSet> = sets.map(|(_, set)| set).collect();
        self.answers
            .retain(|key| seen.nodes.contains_key(key) || sets.iter().any(|set| set.contains(key)));
    }

    /// What is left of earlier attempts.
    fn tidy(&self, seen: &Seen<'_>) -> Option<Step> {
        let ledger = &self.memory.ledger;
        let in_force = seen.epochs.in_force;
        let write = |ledger: Ledger, told: String| Step::Write {
            change: Change::Ledger(ledger),
            told,
        };
        if ledger.heal_above.is_some_and(|sealed| in_force > sealed) {
            let healed = Ledger {
                heal_above: None,
                ..ledger.clone()
            };
            let told = format!("epoch {in_force} is in force: whoever sealed before votes again");
            return Some(write(healed, told));
        }
        let over = ledger.intent.is_some_and(|intent| in_force > intent.epoch);
        over.then(|| {
            let told = format!("the recovery is over: epoch {in_force} is in force");
            write(ledger.closed(), told)
        })
    }

    /// Why this registry does nothing by itself: more members than may lie have met one that this store
    /// does not know.
    pub fn refused(&self, set: &ValidatorSet) -> Option<String> {
        let enough = set.rule().byzantine_faults(set.len()) + 1;
        let refusing: Vec<String> = self
            .answers
            .refusing(&self.memory, set)
            .map(|(label, start)| format!("{label} has met start {}", start.counter))
            .collect();
        (refusing.len() >= enough).then(|| {
            format!(
                "this registry is refused: {}, which this store does not know. Either the store is an \
                 older copy, or another registry lives",
                refusing.join(", ")
            )
        })
    }

    /// Why this start may not recover by itself.
    pub(super) fn is_unmet(&self, set: &ValidatorSet, start: RegistryStart) -> Option<String> {
        if let Some((label, ballot)) = self.answers.foreign_ballot(&self.memory, set) {
            return Some(format!(
                "{label} has answered ballot {ballot}, which this store does not know"
            ));
        }
        let met = self.answers.met(set, start).len();
        (met < set.quorum()).then(|| {
            format!(
                "only {met} of {} validators have met this start of the registry, {} must before it \
                 recovers by itself: another one may have met the others",
                set.len(),
                set.quorum()
            )
        })
    }

    /// Members that are counted on and not known to be sealed.
    pub(super) fn alive(&self, seen: &Seen<'_>, set: &ValidatorSet) -> usize {
        let keys = set.members().iter().map(|member| member.public_key);
        keys.filter(|key| seen.nodes.get(key).is_some_and(|facts| facts.live))
            .filter(|key| !self.answers.is_sealed(&self.memory, key, set.epoch()))
            .count()
    }

    /// Writes down an attempt under the next ballot of this start.
    pub(super) fn open(&self, intent: Intent, start: RegistryStart, why: &str) -> Step {
        let ballot = self.memory.ledger.next(start);
        let intent = Intent { ballot, ..intent };
        Step::Write {
            change: Change::Ledger(self.memory.ledger.with(intent)),
            told: format!("ballot {ballot} for epoch {}: {why}", intent.epoch),
        }
    }

    /// No recovery is under way.
    fn idle(
        &mut self,
        seen: &Seen<'_>,
        set: &ValidatorSet,
        start: RegistryStart,
        now: Now,
    ) -> Step {
        if self.alive(seen, set) >= set.quorum() {
            self.lost_since = None;
            if self.memory.ledger.heal_above.is_some() && seen.epochs.planned.is_none() {
                return Step::Write {
                    change: Change::Propose {
                        members: set.members().to_vec(),
                    },
                    told: "the validators stay as they are under a new number, so that one that sealed \
                           votes again"
                        .to_owned(),
                };
            }
            let stands = |(height, at): (Height, Now)| {
                let came = seen.nodes.values().any(|facts| facts.height >= height);
                now.saturating_sub(at) < REPORT_SHOWN && !came
            };
            if self.reported.is_some_and(stands) {
                let why = "a quorum of validators answers the registry, yet no block comes about: they \
                           are slow, or cut off from one another. Nothing is recovered";
                self.show(seen, RecoveryPhase::Probing, why.to_owned());
            }
            return Step::Rest;
        }
        let since = *self.lost_since.get_or_insert(now);
        let due = since + PROBE_FOR;
        if now < due {
            let why =
                "a quorum is missing; what crashed is started again, replacements are readied";
            self.show(seen, RecoveryPhase::Probing, why.to_owned());
            return Step::Rest;
        }
        if let Some(why) = self.is_unmet(set, start) {
            self.show_stranger(seen, why);
            return Step::Rest;
        }
        if let Some(why) = self.too_few(seen, set) {
            self.show_missing(seen, why);
            return Step::Rest;
        }
        let intent = Intent {
            ballot: self.memory.ledger.next(start),
            epoch: seen.epochs.planned.unwrap_or(seen.epochs.in_force),
            sealing: false,
            asking: false,
            consent: false,
            forced: false,
            take_over: false,
        };
        self.open(intent, start, "the quorum is lost; the survivors are asked")
    }

    /// Who is missing before anything can be done.
    pub(super) fn too_few(&self, seen: &Seen<'_>, set: &ValidatorSet) -> Option<String> {
        let (here, gone): (Vec<&Member>, Vec<&Member>) = set
            .members()
            .iter()
            .partition(|member| self.is_present(seen, set, &member.public_key));
        let least = usize::try_from(seen.trust.least_margin(set.rule(), set.len())).unwrap_or(0);
        let needed = fewest_survivors(set) + least;
        let missing = needed.saturating_sub(here.len());
        (missing > 0).then(|| {
            let names: Vec<&str> = gone.iter().map(|m| m.node_id.as_str()).collect();
            format!(
                "{missing} more of {} {}, or an operator's word",
                names.join(", "),
                if missing == 1 {
                    "is needed with its volume"
                } else {
                    "are needed with their volumes"
                },
            )
        })
    }

    /// Epoch that a recovery under way seals up to.
    pub fn sealing(&self) -> Option<Epoch> {
        let intent = self.memory.ledger.intent.filter(|intent| intent.sealing)?;
        Some(intent.epoch)
    }
}
