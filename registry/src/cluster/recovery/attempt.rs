//! A recovery under way until the seal: who is asked, who would say what, and when it is given up.

use axolotl_common::{
    PublicKey, ValidatorSet,
    membership::Member,
    recovery::{RegistryStart, Statement},
    registry_api::{Order, RecoveryPhase},
};

use super::{
    ASK_AGAIN, Change, HOLD_DOWN, Intent, Ledger, Recovery, SURVEY_LIFETIME, Seen, Step,
    draft::{self, Reached},
    machine::Asked,
};
use crate::cluster::Now;

impl Recovery {
    /// Members of the epochs to be sealed that can be reached, and those among them that could without
    /// a break.
    pub(super) fn targets(&self, seen: &Seen<'_>, intent: &Intent, now: Now) -> (Reached, Reached) {
        let keys = Self::concerned(seen, intent)
            .flat_map(ValidatorSet::members)
            .map(|member| member.public_key);
        let reached: Reached = keys.filter(|key| self.reach.contains_key(key)).collect();
        let steady = reached
            .iter()
            .copied()
            .filter(|key| self.is_steady(key, now));
        let steady = steady.collect();
        (reached, steady)
    }

    pub(super) fn is_steady(&self, key: &PublicKey, now: Now) -> bool {
        let since = self.reach.get(key).map(|(_, since)| *since);
        since.is_some_and(|since| now.saturating_sub(since) >= HOLD_DOWN)
    }

    /// Orders for those that were not given the same one just now.
    pub(super) fn ask<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k PublicKey>,
        asked: Asked,
        every: Now,
        now: Now,
        order: &Order,
    ) -> Vec<(PublicKey, Order)> {
        let mut orders = Vec::new();
        for key in keys {
            let last = self.asked.get(key).filter(|(what, _)| *what == asked);
            if last.is_none_or(|(_, at)| now.saturating_sub(*at) >= every) {
                self.asked.insert(*key, (asked, now));
                orders.push((*key, order.clone()));
            }
        }
        orders
    }

    pub(super) fn send(orders: Vec<(PublicKey, Order)>) -> Step {
        if orders.is_empty() {
            Step::Rest
        } else {
            Step::Send(orders)
        }
    }

    /// A recovery under way, under a ballot of this start.
    pub(super) fn attempt(
        &mut self,
        seen: &Seen<'_>,
        intent: Intent,
        set: &ValidatorSet,
        now: Now,
    ) -> Step {
        if let Some((label, ballot)) = self.answers.foreign_ballot(&self.memory, set) {
            let why = format!(
                "{label} has answered ballot {ballot}, which this store does not know: another registry \
                 recovers"
            );
            self.show_stranger(seen, why);
            return Step::Rest;
        }
        if !intent.sealing {
            return self.dry_run(seen, intent, set, now);
        }
        if let Some(step) = self.unsealed_quorum(seen, intent, set, now) {
            return step;
        }
        self.seal(seen, intent, now)
    }

    /// Statements of this ballot that members would make, of those who would seal or have.
    fn surveyed(&self, intent: &Intent, steady: &Reached, now: Now) -> Vec<&Statement> {
        let fresh = |key: &PublicKey| {
            let said = self.answers.of(key)?;
            let (at, survey) = said.survey.as_ref()?;
            let sealed = said.sealed >= Some(intent.epoch);
            let counts = survey.statement.ballot == intent.ballot
                && now.saturating_sub(*at) < SURVEY_LIFETIME
                && (survey.veto.is_none() || sealed);
            counts.then_some(&survey.statement)
        };
        steady.iter().filter_map(fresh).collect()
    }

    /// Nobody has sealed, and nobody is told to before it would work.
    fn dry_run(&mut self, seen: &Seen<'_>, intent: Intent, set: &ValidatorSet, now: Now) -> Step {
        let ledger = &self.memory.ledger;
        if !intent.forced && self.alive(seen, set) >= set.quorum() {
            self.lost_since = None;
            return Step::Write {
                change: Change::Ledger(ledger.closed()),
                told: "a quorum is back before anybody sealed: nothing is recovered".to_owned(),
            };
        }
        let (reached, steady) = self.targets(seen, &intent, now);
        let in_force = seen.epochs.in_force;
        let sealing = |told: String| Step::Write {
            change: Change::Ledger(ledger.with(Intent {
                sealing: true,
                ..intent
            })),
            told,
        };
        let sealed = |key: &PublicKey| self.answers.is_sealed(&self.memory, key, in_force);
        if set
            .members()
            .iter()
            .any(|member| sealed(&member.public_key))
        {
            return sealing("a member is sealed: the recovery is carried to its end".to_owned());
        }
        if intent.epoch < seen.epochs.planned.unwrap_or(in_force)
            && let Some(start) = self.start()
        {
            let epoch = seen.epochs.planned.unwrap_or(in_force);
            let why = "a planned record is in flight; its members are sealed too";
            return self.open(Intent { epoch, ..intent }, start, why);
        }
        let nodes = self.countable(&reached, now);
        let statements = self.surveyed(&intent, &steady, now);
        match draft::prospect(seen, &intent, &statements, &nodes) {
            Ok(prospect) => {
                return sealing(format!("the survivors seal: {}", prospect.words));
            }
            Err(lack) => self.show_lack(seen, &intent, set, RecoveryPhase::Surveying, lack),
        }
        let order = Order::Survey {
            ballot: intent.ballot,
            epoch: intent.epoch,
        };
        let asked = Asked::Survey(intent.ballot);
        Self::send(self.ask(reached.iter(), asked, ASK_AGAIN, now, &order))
    }

    /// Nodes that are counted on: members once they are reachable without a break, and learners.
    fn countable(&self, members: &Reached, now: Now) -> Reached {
        let keys = self.reach.keys().copied();
        keys.filter(|key| !members.contains(key) || self.is_steady(key, now))
            .collect()
    }

    /// Some may have sealed, and a quorum of members seems to live that has not: they are asked, and if
    /// so it is they who go on.
    fn unsealed_quorum(
        &mut self,
        seen: &Seen<'_>,
        intent: Intent,
        set: &ValidatorSet,
        now: Now,
    ) -> Option<Step> {
        if intent.forced {
            return None;
        }
        let back = self.alive(seen, set) >= set.quorum();
        let start = self.start()?;
        match (back, intent.asking) {
            (false, false) => None,
            (false, true) => Some(Step::Write {
                change: Change::Ledger(self.memory.ledger.with(Intent {
                    asking: false,
                    ..intent
                })),
                told: "too few validators are unsealed: the recovery goes on".to_owned(),
            }),
            (true, false) => Some(self.open(
                Intent {
                    asking: true,
                    ..intent
                },
                start,
                "a quorum seems to be back; all are asked whether they sealed",
            )),
            (true, true) => {
                let (reached, _) = self.targets(seen, &intent, now);
                // An answer under this ballot comes after every seal order that the node will ever take
                // of a lower one.
                let unsealed = |key: &&PublicKey| {
                    let said = self.answers.of(key);
                    let asked = said.and_then(|said| said.survey.as_ref());
                    asked.is_some_and(|(_, s)| s.statement.ballot == intent.ballot)
                        && !self.answers.is_sealed(&self.memory, key, set.epoch())
                };
                let members = reached.iter().filter(|key| set.contains(key));
                let count = members.filter(unsealed).count();
                if count >= set.quorum() {
                    let ledger = Ledger {
                        heal_above: Some(intent.epoch),
                        ..self.memory.ledger.closed()
                    };
                    return Some(Step::Write {
                        change: Change::Ledger(ledger),
                        told: format!(
                            "given up: {count} unsealed validators are alive, {} make a quorum",
                            set.quorum()
                        ),
                    });
                }
                let why = format!(
                    "{count} of {} validators say that they are unsealed",
                    set.len()
                );
                self.show(seen, RecoveryPhase::Surveying, why);
                let order = Order::Survey {
                    ballot: intent.ballot,
                    epoch: intent.epoch,
                };
                let asked = Asked::Survey(intent.ballot);
                Some(Self::send(self.ask(
                    reached.iter(),
                    asked,
                    ASK_AGAIN,
                    now,
                    &order,
                )))
            }
        }
    }

    /// An operator took over: what a quorum of members knows decides how it goes on.
    pub(super) fn take_over(
        &mut self,
        seen: &Seen<'_>,
        intent: Intent,
        set: &ValidatorSet,
        start: RegistryStart,
        now: Now,
    ) -> Step {
        // All that were known became its own when it was allowed: this one came later.
        if let Some((label, ballot)) = self.answers.foreign_ballot(&self.memory, set) {
            let why = format!(
                "{label} has answered ballot {ballot} of another registry since this one was allowed to \
                 take over"
            );
            self.show_stranger(seen, why);
            return Step::Rest;
        }
        if let Some(planned) = seen
            .epochs
            .planned
            .filter(|planned| *planned > intent.epoch)
        {
            let intent = Intent {
                epoch: planned,
                ..intent
            };
            return self.open(intent, start, "a planned record is in flight");
        }
        let lacking = Self::concerned(seen, &intent)
            .map(|set| (self.answers.met(set, start).len(), set))
            .find(|(met, set)| *met < set.quorum());
        // Asked anew by each start that goes on: the draft that must not be missed is known to the quorum,
        // not to the store.
        if let Some((met, set)) = lacking.filter(|_| !intent.forced) {
            let why = format!(
                "taking over: {met} of {} validators of epoch {} have met this registry, {} must",
                set.len(),
                set.epoch(),
                set.quorum()
            );
            self.show(seen, RecoveryPhase::Waiting, why);
            return Step::Rest;
        }
        let sealed = |member: &Member| {
            let key = &member.public_key;
            self.answers
                .is_sealed(&self.memory, key, seen.epochs.in_force)
        };
        if !intent.sealing {
            let ledger = &self.memory.ledger;
            let (next, told) = if set.members().iter().any(sealed) {
                let next = ledger.with(Intent {
                    sealing: true,
                    ..intent
                });
                (
                    next,
                    "taken over; members are sealed, so the recovery goes on",
                )
            } else {
                (ledger.closed(), "taken over; nobody is sealed")
            };
            return Step::Write {
                change: Change::Ledger(next),
                told: told.to_owned(),
            };
        }
        if let Some(step) = self.unsealed_quorum(seen, intent, set, now) {
            return step;
        }
        self.seal(seen, intent, now)
    }

    /// The sets that may have votes or drafts of their own: the one in force, and the planned one to
    /// be sealed with it.
    pub(super) fn concerned<'s>(
        seen: &Seen<'s>,
        intent: &Intent,
    ) -> impl Iterator<Item = &'s ValidatorSet> + use<'s> {
        let planned = (intent.epoch > seen.epochs.in_force).then_some(intent.epoch);
        let epochs = [Some(seen.epochs.in_force), planned];
        let sets = seen.epochs.sets;
        epochs
            .into_iter()
            .flatten()
            .filter_map(move |epoch| sets.get(&epoch))
    }
}
