//! What is shown of a recovery: phase, arithmetic, what is missing and what an operator might do.

use axolotl_common::{
    PublicKey, ValidatorSet,
    recovery::{condition_margin, fewest_survivors},
    registry_api::{RecoveryPhase, RecoveryStatus},
};

use super::{Facts, Intent, Recovery, Seen, draft::Lack};

/// What is shown, but for the events.
pub type Shown = RecoveryStatus;

const FORCE: &str = "bring the missing validators back with their volumes, and the chain goes on; if they \
                     are gone for good, POST /recover {\"epoch\":…,\"accept_data_loss\":true} goes on \
                     without them, and blocks that were final may be lost";
const TAKE_OVER: &str = "end the other registry if there is one, or start this one on the newest store; if \
                         that is lost for good, POST /recover {\"epoch\":…,\"take_over\":true}";
const EVIDENCE: &str = "more validators than the chain bears have lied, or the program failed: keep all \
                        volumes and look at the log before anything else";

impl Recovery {
    /// Members of a set that can be reached, or have sealed and said what they hold.
    pub(super) fn is_present(&self, seen: &Seen<'_>, set: &ValidatorSet, key: &PublicKey) -> bool {
        let stated = self.memory.statements.get(key);
        seen.nodes.get(key).is_some_and(Facts::is_reachable)
            || stated.is_some_and(|signed| signed.statement.sealed >= set.epoch())
    }

    pub(super) fn present(&self, seen: &Seen<'_>, set: &ValidatorSet) -> usize {
        let keys = set.members().iter().map(|member| &member.public_key);
        keys.filter(|key| self.is_present(seen, set, key)).count()
    }

    /// Shows a phase of the epoch in force.
    pub(super) fn show(&mut self, seen: &Seen<'_>, phase: RecoveryPhase, summary: String) {
        let Some(set) = seen.epochs.governing() else {
            return;
        };
        let survivors = self.present(seen, set);
        let intent = self.memory.ledger.intent;
        self.shown = Some(RecoveryStatus {
            phase,
            epoch: set.epoch(),
            ballot: intent.map(|intent| intent.ballot.to_string()),
            validators: set.len(),
            quorum: set.quorum(),
            survivors,
            needed: fewest_survivors(set),
            margin: condition_margin(survivors, set),
            summary,
            advice: None,
            steps: Vec::new(),
        });
    }

    fn advise(&mut self, advice: &str) {
        if let Some(shown) = &mut self.shown {
            shown.advice = Some(advice.to_owned());
        }
    }

    /// Waits for an operator's word or for the store to be the right one.
    pub(super) fn show_stranger(&mut self, seen: &Seen<'_>, why: String) {
        self.show(seen, RecoveryPhase::Waiting, why);
        self.advise(TAKE_OVER);
    }

    /// Waits for members.
    pub(super) fn show_missing(&mut self, seen: &Seen<'_>, why: String) {
        self.show(seen, RecoveryPhase::Waiting, why);
        self.advise(FORCE);
    }

    /// Shows why an attempt goes no further.
    pub(super) fn show_lack(
        &mut self,
        seen: &Seen<'_>,
        intent: &Intent,
        set: &ValidatorSet,
        phase: RecoveryPhase,
        lack: Lack,
    ) {
        if lack.grave {
            self.show(seen, RecoveryPhase::Waiting, lack.why);
            self.advise(EVIDENCE);
            return;
        }
        if let Some(missing) = self.too_few(seen, set) {
            self.show_missing(seen, missing);
            return;
        }
        let vetoes: Vec<String> = set
            .members()
            .iter()
            .filter_map(|member| {
                let said = self.answers.of(&member.public_key)?;
                let (_, survey) = said.survey.as_ref()?;
                let current = survey.statement.ballot == intent.ballot;
                let veto = survey.veto.as_ref().filter(|_| current)?;
                Some(format!("{} does not seal yet: {veto}", member.node_id))
            })
            .collect();
        let words = match vetoes.as_slice() {
            [] => lack.why,
            _ => format!("{}; {}", lack.why, vetoes.join("; ")),
        };
        self.show(seen, phase, words);
    }
}
