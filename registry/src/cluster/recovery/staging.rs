//! From the seal to the record: statements are collected, the draft is made, staged and acknowledged.

use axolotl_common::{
    EpochRecord, PublicKey,
    membership::RecordKind,
    recovery::{Acknowledgement, Statement, check_draft, fewest_survivors},
    registry_api::{Order, RecoveryPhase},
};

use super::{
    ASK_AGAIN, CALL_TIMEOUT, Change, Intent, Recovery, STAGING_PATIENCE, Seen, Step,
    draft::{self, Lack, Reached},
    machine::{Asked, Draft},
};
use crate::cluster::Now;

impl Recovery {
    /// Somebody may have sealed: everybody is told to, and once it is enough the draft is staged.
    pub(super) fn seal(&mut self, seen: &Seen<'_>, intent: Intent, now: Now) -> Step {
        if let Some(signed) = self.answers.unsaved(&self.memory) {
            let author = signed.statement.author;
            let label = seen
                .nodes
                .get(&author)
                .map(|facts| facts.label().to_string());
            let told = format!(
                "{} has sealed epoch {}, its last block is {}",
                label.unwrap_or_else(|| author.to_string()),
                signed.statement.sealed,
                signed.statement.head
            );
            return Step::Write {
                change: Change::Statement(Box::new(signed)),
                told,
            };
        }
        let sealing_since = *self.sealing_since.get_or_insert(now);
        if self.draft.is_some() {
            return self.stage(seen, intent, now);
        }
        let (reached, steady) = self.targets(seen, &intent, now);
        let spoke = |key: &PublicKey| {
            let signed = self.memory.statements.get(key);
            signed.is_some_and(|signed| signed.statement.ballot == intent.ballot)
        };
        let any = self.memory.statements.values();
        let any = any.map(|s| s.statement.sealed).max() >= Some(seen.epochs.in_force);
        let asked = if any || intent.forced {
            &reached
        } else {
            &steady
        };
        let silent: Reached = asked.iter().copied().filter(|key| !spoke(key)).collect();
        let waited = now.saturating_sub(sealing_since) >= CALL_TIMEOUT;
        if silent.is_empty() || waited {
            match self.make_draft(seen, &intent, &reached, now) {
                Ok(draft) => {
                    self.draft = Some(draft);
                    return self.stage(seen, intent, now);
                }
                Err(lack) => {
                    if let Some(set) = seen.epochs.governing() {
                        self.show_lack(seen, &intent, set, RecoveryPhase::Sealing, lack);
                    }
                }
            }
        } else {
            self.show(
                seen,
                RecoveryPhase::Sealing,
                format!("answers are missing yet: {}", silent.len()),
            );
        }
        let order = Order::Seal {
            ballot: intent.ballot,
            epoch: intent.epoch,
            forced: intent.forced,
        };
        let asked = Asked::Seal(intent.ballot);
        Self::send(self.ask(silent.iter(), asked, ASK_AGAIN, now, &order))
    }

    fn make_draft(
        &self,
        seen: &Seen<'_>,
        intent: &Intent,
        reached: &Reached,
        now: Now,
    ) -> Result<Draft, Lack> {
        let held = |record: EpochRecord, holders| Draft {
            ballot: intent.ballot,
            hash: record.hash(&seen.epochs.chain),
            record,
            holders,
            acknowledged: 0,
            progress: now,
        };
        let holds = |draft: &EpochRecord| {
            let follows = check_draft(&seen.epochs.chain, draft, seen.epochs.sets);
            follows.is_ok_and(|finding| finding.succeeded() >= seen.epochs.in_force)
        };
        if intent.take_over
            && !intent.forced
            && let Some(staged) = self.answers.highest_staged(holds)
        {
            return Ok(held(
                (*staged.draft).clone(),
                reached.iter().copied().collect(),
            ));
        }
        let statements: Vec<&Statement> = self
            .memory
            .statements
            .values()
            .map(|signed| &signed.statement)
            .filter(|s| s.sealed >= seen.epochs.in_force && s.ballot <= intent.ballot)
            .collect();
        let nodes: Reached = self.reach.keys().copied().collect();
        let prospect = draft::prospect(seen, intent, &statements, &nodes)?;
        let record = draft::record(seen, intent, &prospect, &self.memory.statements)?;
        Ok(held(record, prospect.finding.holders))
    }

    /// The draft is written down by the new validators; once by enough, it is signed.
    fn stage(&mut self, seen: &Seen<'_>, intent: Intent, now: Now) -> Step {
        let Some(mut draft) = self.draft.clone() else {
            return Step::Rest;
        };
        let mut sets = seen.epochs.sets.values();
        let old = sets.rfind(|set| set.record_hash() == draft.record.succeeds);
        let Some(old) = old else {
            return Step::Rest;
        };
        let mut keys: Reached = draft.record.members.iter().map(|m| m.public_key).collect();
        keys.extend(old.members().iter().map(|member| member.public_key));
        let acknowledgements: Vec<Acknowledgement> = keys
            .iter()
            .filter_map(|key| self.answers.acknowledgement(key))
            .filter(|a| a.ballot == draft.ballot && a.verify(&seen.epochs.chain, &draft.hash))
            .cloned()
            .collect();
        let acknowledged = |key: &PublicKey| acknowledgements.iter().any(|a| a.member == *key);
        if acknowledgements.len() > draft.acknowledged {
            draft.acknowledged = acknowledgements.len();
            draft.progress = now;
            self.draft = Some(draft.clone());
        }
        let of_new = draft.record.members.iter();
        let of_new = of_new.filter(|m| acknowledged(&m.public_key)).count();
        let of_old = old.members().iter();
        let of_old = of_old.filter(|m| acknowledged(&m.public_key)).count();
        let quorum = old.rule().quorum(draft.record.members.len());
        let enough_old = match draft.record.kind {
            RecordKind::Forced => 1,
            _ => fewest_survivors(old),
        };
        let number = draft.record.number;
        let words = format!(
            "epoch {number}: {of_new} of {} new validators have staged it, {quorum} must; {of_old} of the \
             old ones, {enough_old} must",
            draft.record.members.len()
        );
        if of_new >= quorum && of_old >= enough_old {
            return Step::Write {
                change: Change::Record {
                    ballot: draft.ballot,
                    draft: Box::new(draft.record.clone()),
                    acknowledgements,
                },
                told: format!("{words}; the record is signed"),
            };
        }
        let stuck = now.saturating_sub(draft.progress) >= STAGING_PATIENCE;
        let members: Vec<PublicKey> = keys
            .into_iter()
            .filter(|key| self.reach.contains_key(key) && !acknowledged(key))
            .collect();
        let order = Order::Stage {
            ballot: draft.ballot,
            draft: Box::new(draft.record.clone()),
            holders: draft.holders.clone(),
        };
        let asked = Asked::Stage(draft.ballot);
        let refusals = self.refusals(seen, &members);
        self.show(seen, RecoveryPhase::Staging, format!("{words}{refusals}"));
        if let Some(start) = self.start().filter(|_| stuck) {
            let why = "nobody more staged the draft; the survivors are asked again";
            return self.open(intent, start, why);
        }
        Self::send(self.ask(members.iter(), asked, CALL_TIMEOUT, now, &order))
    }

    fn refusals(&self, seen: &Seen<'_>, keys: &[PublicKey]) -> String {
        let mut text = String::new();
        for key in keys {
            let refusal = self.answers.of(key).and_then(|said| said.refusal.as_ref());
            if let (Some(why), Some(facts)) = (refusal, seen.nodes.get(key)) {
                text.push_str(&format!("; {}: {why}", facts.label()));
            }
        }
        text
    }
}
