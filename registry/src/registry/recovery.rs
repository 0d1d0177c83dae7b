//! Lost quorums: the pure machine's steps are carried out here, each durable before the next.

use std::time::Duration;

use axolotl_common::{
    ChainRef, NodeId, PublicKey,
    recovery::StartId,
    registry_api::{
        EventKind, Order, RecoverRequest, RecoveryAnswer, RecoveryPhase, RecoveryStatus,
    },
};
use tokio::time::sleep;

use super::{CallError, Registry, Turn, wall_ms};
use crate::{
    cluster::{
        recovery::{Change, Refused, Seen, Step, Trust, sign_record},
        registration::Refusal,
    },
    store::StoredEpoch,
};

/// Pause between two looks while nobody answers anything.
const LOOK: Duration = Duration::from_millis(250);
/// Things written down before the next look; more than any recovery has in a row.
const STEPS_PER_LOOK: usize = 300;
/// Steps that `/status` shows.
const STEPS_SHOWN: usize = 20;

impl Registry {
    /// `POST /recover`. When this answers, the operator's word is durable. Returns what is done.
    ///
    /// # Errors
    /// When it is refused, with the arithmetic, or the store fails.
    pub async fn recover(&self, request: RecoverRequest) -> Result<String, CallError> {
        let told = self.call(move |turn| turn.grant(&request)).await?;
        self.0.answered.notify_one();
        Ok(told)
    }

    /// Watches for a lost quorum and recovers from it, until the registry ends.
    pub async fn run_recovery(self) {
        loop {
            tokio::select! {
                biased;
                () = self.0.ending.cancelled() => return,
                () = self.0.answered.notified() => {}
                () = sleep(LOOK) => {}
            }
            if let Err(error) = self.call(|turn| turn.recover()).await {
                tracing::debug!(%error, "recovery ends with the registry");
                return;
            }
        }
    }
}

impl Turn<'_> {
    /// Looks at the world as the recovery sees it. `None` before the genesis.
    fn with_seen<R>(
        &mut self,
        look: impl FnOnce(&mut crate::cluster::recovery::Recovery, &Seen<'_>) -> R,
    ) -> Option<R> {
        let outdated = self.outdated();
        let authority = self.inner.setup.authority.public();
        let core = &mut *self.core;
        let seen = core.state.seen(self.now, outdated, authority)?;
        Some(look(&mut core.recovery, &seen))
    }

    /// Takes steps until nothing is left to be written down now.
    fn recover(&mut self) -> Result<(), CallError> {
        for _ in 0..STEPS_PER_LOOK {
            let now = self.now;
            let step = self.with_seen(|recovery, seen| recovery.step(seen, now));
            match step {
                Some(Step::Write { change, told }) => self.carry_out(change, told)?,
                Some(Step::Send(orders)) => {
                    self.give(orders);
                    break;
                }
                Some(Step::Rest) | None => break,
            }
        }
        let shown = self.core.recovery.shown();
        let words = shown.map(|shown| shown.summary.clone());
        let busy = shown.is_some_and(|shown| shown.phase == RecoveryPhase::Recorded);
        let open = self.core.recovery.is_open() || busy;
        let recovering = words.clone().filter(|_| open);
        if recovering.is_some() != self.core.state.recovering.is_some() {
            self.inner.wake.notify_one();
        }
        self.core.state.recovering = recovering;
        let gist = words.as_deref().map(without_times);
        if let Some(words) = words.filter(|_| gist != self.core.told) {
            tracing::info!("recovery: {words}");
        }
        self.core.told = gist;
        Ok(())
    }

    /// Makes a change durable, takes it over, and tells of it.
    fn carry_out(&mut self, change: Change, told: String) -> Result<(), CallError> {
        let authority = &self.inner.setup.authority;
        let Some(chain) = self.core.state.chain.as_mut() else {
            return Ok(());
        };
        let in_force = chain.validators.epoch();
        match &change {
            Change::Ledger(ledger) => self.core.store.put_ledger(ledger)?,
            Change::Statement(signed) => self.core.store.put_statement(signed)?,
            Change::Adopt(signed) => {
                let number = signed.record.number;
                let known = chain.pending.as_ref().map(|p| p.record.number);
                let is_newest = known.max(Some(in_force)) < Some(number);
                let pending = if is_newest { Some(number) } else { known };
                let epoch = StoredEpoch { in_force, pending };
                self.core.store.put_record(signed, &epoch)?;
                if is_newest {
                    chain.pending = Some((**signed).clone());
                }
                chain.add((**signed).clone());
            }
            Change::Record {
                ballot,
                draft,
                acknowledgements,
            } => {
                let reference: ChainRef = chain.document.chain();
                let draft = (**draft).clone();
                let signed = sign_record(&reference, authority, draft, acknowledgements.clone());
                let epoch = StoredEpoch {
                    in_force,
                    pending: Some(signed.record.number),
                };
                self.core
                    .store
                    .put_recovery_record(ballot, &signed, &epoch)?;
                chain.add(signed.clone());
                chain.pending = Some(signed);
            }
            Change::Propose { members } => {
                let members = members.clone();
                self.propose(members, &told)?;
            }
        }
        self.core.recovery.apply(&change);
        self.inner.peers.send_modify(|version| *version += 1);
        self.event(EventKind::Recovery, None, told)
    }

    fn give(&mut self, orders: Vec<(PublicKey, Order)>) {
        for (key, order) in orders {
            let label = self.core.state.by_key(&key);
            if let Some(label) = label.map(|node| node.record.label.clone()) {
                self.core.state.order(&label, order);
            }
        }
        self.inner.peers.send_modify(|version| *version += 1);
    }

    /// Takes what a node says of a recovery.
    pub(super) fn hear(
        &mut self,
        label: &NodeId,
        key: PublicKey,
        answer: RecoveryAnswer,
        refusal: Option<String>,
    ) {
        let (now, authority) = (self.now, self.inner.setup.authority.public());
        let core = &mut *self.core;
        let Some(chain) = &core.state.chain else {
            return;
        };
        let epochs = chain.epochs(authority);
        for fault in core.recovery.take(&epochs, key, answer, refusal, now) {
            tracing::warn!(node = %label, fault, "{label} answered what does not hold: {fault}");
        }
        self.inner.answered.notify_one();
    }

    fn grant(&mut self, request: &RecoverRequest) -> Result<String, CallError> {
        let fresh = StartId::generate();
        let granted = self
            .with_seen(|recovery, seen| recovery.grant(seen, request, fresh))
            .unwrap_or(Err(Refused::NoChain))
            .map_err(Refusal::Recovery)?;
        if granted.starts.is_empty() {
            self.core.store.put_ledger(&granted.ledger)?;
        } else {
            let starts = &granted.starts;
            self.core
                .store
                .put_starts(starts, &granted.ledger, wall_ms())?;
            let memory = self.core.store.recovery()?;
            self.core.recovery.take_over_as(memory.starts);
        }
        self.core.recovery.apply(&Change::Ledger(granted.ledger));
        self.inner.peers.send_modify(|version| *version += 1);
        self.event(EventKind::Recovery, None, granted.told.clone())?;
        Ok(granted.told)
    }

    /// What `/status` and `/membership` show of a lost quorum.
    pub(super) fn recovery_status(&self) -> Result<Option<RecoveryStatus>, CallError> {
        let Some(shown) = self.core.recovery.shown() else {
            return Ok(None);
        };
        Ok(Some(RecoveryStatus {
            steps: self.core.store.newest_recovery_steps(STEPS_SHOWN)?,
            ..shown.clone()
        }))
    }

    /// What is wrong with `RECOVERY_TRUST` for so many validators.
    pub(super) fn trust_warning(&self) -> Option<String> {
        let state = &self.core.state;
        if state.rules.trust != Trust::Byzantine {
            return None;
        }
        let set = state.chain.as_ref().map(|chain| &chain.validators);
        let n = set.map_or(state.rules.genesis_nodes, |set| set.len());
        let rule = set.map_or_else(axolotl_common::QuorumRule::default, |set| set.rule());
        Trust::Byzantine.never_at(rule, n).then(|| {
            format!(
                "RECOVERY_TRUST=byzantine: with {n} validators a recovery takes as many survivors as a \
                 quorum, so none ever runs by itself; POST /recover is the way out"
            )
        })
    }
}

/// Words without their fractions: what says how long something takes so far changes with every look.
fn without_times(words: &str) -> String {
    let is_time = |word: &&str| word.contains('.') && word.parse::<f64>().is_ok();
    let kept: Vec<&str> = words.split(' ').filter(|word| !is_time(word)).collect();
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_takes_longer_is_not_news() {
        let told = without_times("node2 does not seal yet: it started 6.4 s ago");
        assert_eq!(
            told,
            without_times("node2 does not seal yet: it started 7.1 s ago")
        );
        assert_ne!(
            told,
            without_times("node3 does not seal yet: it started 6.4 s ago")
        );
    }
}
