//! Who votes: records to sign, and what nodes say of epochs.
//!
//! A record is written down, once for its number, before it leaves the process. It is in force when
//! more of its members than may lie say so.

use axolotl_common::{
    Epoch, Height, Member, PublicKey,
    registry_api::{EventKind, Order},
};

use super::{CallError, Registry, Turn};
use crate::{
    cluster::{Now, chain::EpochNews},
    store::StoredEpoch,
};

impl Registry {
    /// Asks every node for a heartbeat now.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn probe(&self) -> Result<(), CallError> {
        self.call(|turn| {
            turn.probe();
            Ok(())
        })
        .await
    }

    /// Signs a record with these members, unless one is pending.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn propose(&self, members: Vec<Member>, why: String) -> Result<(), CallError> {
        self.call(move |turn| turn.propose(members, &why)).await
    }
}

impl Turn<'_> {
    /// Heads and epochs that validators of the present or the next epoch report in time.
    fn reports(&self) -> Vec<(PublicKey, Height, Epoch)> {
        let state = &self.core.state;
        let in_time = |at: &Now| self.now.saturating_sub(*at) < state.rules.unhealthy_after;
        state
            .nodes
            .values()
            .filter_map(|node| {
                let (at, beat) = node.live.beat.as_ref()?;
                in_time(at).then_some((node.record.public_key, beat.height, beat.epoch))
            })
            .collect()
    }

    /// Why nothing may be done about the members: this store is older than the chain.
    pub(super) fn outdated(&self) -> Option<String> {
        let chain = self.core.state.chain.as_ref()?;
        let ahead = chain.is_outdated(&self.reports())?;
        Some(format!(
            "validators report epoch {ahead}, which this registry never signed: its store is older \
             than the chain. Nothing is done about the validators; restore the newest back-up of \
             the store"
        ))
    }

    /// Why nothing is done about nodes or validators: this store is older than the chain, or the
    /// validators refuse this registry.
    pub(super) fn fence(&self) -> Option<String> {
        let refused = || {
            let chain = self.core.state.chain.as_ref()?;
            self.core.recovery.refused(&chain.validators)
        };
        self.outdated().or_else(refused)
    }

    /// Looks whether the pending record is in force or void by now.
    pub(super) fn follow_epochs(&mut self) -> Result<(), CallError> {
        let reports = self.reports();
        let Some(chain) = self.core.state.chain.as_mut() else {
            return Ok(());
        };
        let Some(news) = chain.news(&reports) else {
            return Ok(());
        };
        let in_force = chain.validators.epoch();
        let (stored, message) = match &news {
            EpochNews::InForce(epoch) => {
                let members = chain
                    .records
                    .get(epoch)
                    .map(|signed| &signed.record.members);
                let names: Vec<&str> = members
                    .into_iter()
                    .flatten()
                    .map(|member| member.node_id.as_str())
                    .collect();
                let n = names.len();
                let message = format!(
                    "epoch {epoch} is in force: {} vote, {} make a quorum",
                    names.join(", "),
                    chain.validators.rule().quorum(n)
                );
                (*epoch, message)
            }
            EpochNews::Void(epoch) => (
                in_force,
                format!("epoch {epoch} was not carried in time and is void"),
            ),
        };
        self.core.store.set_epoch(&StoredEpoch {
            in_force: stored,
            pending: None,
        })?;
        if let Some(chain) = self.core.state.chain.as_mut() {
            match news {
                EpochNews::InForce(epoch) => chain.enter(epoch),
                EpochNews::Void(_) => chain.pending = None,
            }
        }
        self.inner.peers.send_modify(|version| *version += 1);
        self.inner.wake.notify_one();
        self.event(EventKind::Epoch, None, message)
    }

    /// Asks every node for a heartbeat, unless one that was asked has not been told yet.
    pub(super) fn probe(&mut self) {
        for node in self.core.state.nodes.values_mut() {
            if !node.live.orders.contains(&Order::Probe) && node.live.stream != 0 {
                node.live.orders.push_back(Order::Probe);
            }
        }
        self.inner.peers.send_modify(|version| *version += 1);
    }

    pub(super) fn propose(&mut self, members: Vec<Member>, why: &str) -> Result<(), CallError> {
        let head = self.core.state.head(self.now);
        let Some(chain) = self.core.state.chain.as_ref() else {
            return Ok(());
        };
        let Some(signed) = chain.sign_next(members, head, &self.inner.setup.authority) else {
            return Ok(());
        };
        let number = signed.record.number;
        let in_force = chain.validators.epoch();
        let pending = Some(number);
        let epoch = StoredEpoch { in_force, pending };
        self.core.store.put_record(&signed, &epoch)?;
        if let Some(chain) = self.core.state.chain.as_mut() {
            chain.add(signed.clone());
            chain.pending = Some(signed);
        }
        self.inner.peers.send_modify(|version| *version += 1);
        self.event(
            EventKind::Epoch,
            None,
            format!("epoch {number} is signed: {why}"),
        )
    }

    /// The record that a node is to hear of, if one is pending.
    pub(super) fn pending_order(&self) -> Option<Order> {
        let pending = self.core.state.chain.as_ref()?.pending.as_ref()?;
        Some(Order::EpochRecord {
            record: pending.clone(),
        })
    }
}
