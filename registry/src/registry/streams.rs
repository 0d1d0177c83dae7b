//! Verbs of the two kinds of streams: events for whoever asks, orders for nodes.

use axolotl_common::{
    Epoch, NodeId,
    recovery::RegistryStart,
    registry_api::{
        ControlAnswer, Event, MAX_ORDER_NUMBER, Order, PeerEntry, RecoveryAnswer, SignedOrder,
    },
};
use tokio::sync::watch;

use super::{CallError, Registry, nodes::Signed};
use crate::cluster::{MAX_TEXT_LEN, registration::Refusal};

/// A store of this registry was started so often, at most, since one of its copies was made. Whoever
/// takes over goes above each start that a node tells of, so a larger counter is not believed.
const MAX_STARTS_MISSED: u64 = 1 << 20;
/// Most attempts of one start that are believed.
const MAX_ATTEMPTS: u64 = 1 << 32;
/// Events handed to a stream at once.
const EVENTS_PER_READ: usize = 100;

/// An open control stream of one node. A newer one of the same node ends it.
#[derive(Clone, Debug)]
pub struct ControlStream {
    label: NodeId,
    number: u64,
}

impl ControlStream {
    /// The node whose stream it is.
    pub fn label(&self) -> &NodeId {
        &self.label
    }
}

/// What was sent on a stream, so that only news is sent.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Number of the last order, at first of the last one that the node took before. Each stream goes on
    /// from there: what one node says raises no other's numbers.
    number: u64,
    met: Option<RegistryStart>,
    recovered: Option<Epoch>,
    peers: Option<Vec<PeerEntry>>,
    record: Option<Epoch>,
}

impl Sent {
    /// Nothing yet, to a node that took an order of this number before.
    pub fn after(number: u64) -> Self {
        Self {
            number,
            ..Self::default()
        }
    }
}

impl Registry {
    /// Changes whenever there is a new event.
    pub fn newest_event(&self) -> watch::Receiver<u64> {
        self.0.newest_event.subscribe()
    }

    /// Events after `id`, oldest first, some at a time.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn events_after(&self, id: u64) -> Result<Vec<Event>, CallError> {
        self.call(move |turn| Ok(turn.core.store.events_after(id, EVENTS_PER_READ)?))
            .await
    }

    /// Changes whenever control streams have something to do.
    pub fn peers_changed(&self) -> watch::Receiver<u64> {
        self.0.peers.subscribe()
    }

    /// Opens the control stream of the node that signed and took the order `after` last; an older
    /// stream of it ends.
    ///
    /// # Errors
    /// When the key is not known, or there can be no such order.
    pub async fn open_control(
        &self,
        signed: Signed,
        after: u64,
    ) -> Result<ControlStream, CallError> {
        self.call(move |turn| {
            turn.core
                .state
                .count(turn.now, &signed.key, signed.counter)?;
            if after > MAX_ORDER_NUMBER {
                return Err(Refusal::Invalid {
                    field: "after",
                    why: format!("no order has a number above {MAX_ORDER_NUMBER}"),
                }
                .into());
            }
            let number = turn.core.next_stream;
            turn.core.next_stream += 1;
            let node = turn
                .core
                .state
                .by_key_mut(&signed.key)
                .ok_or(Refusal::UnknownKey)?;
            let replaced = node.live.stream != 0;
            node.live.stream = number;
            let label = node.record.label.clone();
            if replaced {
                turn.inner.peers.send_modify(|version| *version += 1);
            }
            tracing::debug!(node = %label, "control stream opened");
            Ok(ControlStream { label, number })
        })
        .await
    }

    /// What a node is to hear beyond what it was sent on this stream: who its peers are, a record that
    /// waits for a block, and orders given once. `None` when its stream was replaced.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn orders(
        &self,
        stream: &ControlStream,
        mut sent: Sent,
    ) -> Result<Option<(Vec<SignedOrder>, Sent)>, CallError> {
        let stream = stream.clone();
        self.call(move |turn| {
            let state = &turn.core.state;
            let node = state.nodes.get(&stream.label);
            let Some(node) = node.filter(|node| node.live.stream == stream.number) else {
                return Ok(None);
            };
            let to = node.record.public_key;
            let chain = state.chain.as_ref();
            let chain_id = chain.map_or(0, |chain| chain.document.chain().id.0);
            let mut orders = Vec::new();
            let starts = &turn.core.recovery.memory().starts;
            // First of all: a node judges by it whether it takes the rest.
            if sent.met != starts.last().copied() {
                sent.met = starts.last().copied();
                orders.push(turn.core.recovery.introduction());
                // A node that refused the start before took no list from it.
                sent.peers = None;
            }
            // Whoever comes back from before a recovery is told of it.
            let recovered = chain.and_then(|chain| chain.newest_recovery());
            let number = recovered.map(|signed| signed.record.number);
            if sent.recovered != number {
                sent.recovered = number;
                orders.extend(
                    recovered
                        .cloned()
                        .map(|record| Order::EpochRecord { record }),
                );
            }
            let peers = state.peers();
            if sent.peers.as_ref() != Some(&peers) {
                orders.push(Order::Peers {
                    peers: peers.clone(),
                });
                sent.peers = Some(peers);
            }
            let pending = chain.and_then(|chain| Some(chain.pending.as_ref()?.record.number));
            if sent.record != pending {
                orders.extend(turn.pending_order());
                sent.record = pending;
            }
            if let Some(node) = turn.core.state.nodes.get_mut(&stream.label) {
                orders.extend(node.live.orders.drain(..));
            }
            let mut signed = Vec::with_capacity(orders.len());
            for order in orders {
                let number = turn.next_number().max(sent.number + 1);
                sent.number = number;
                let authority = &turn.inner.setup.authority;
                signed.push(SignedOrder::new(authority, chain_id, to, number, order));
            }
            Ok(Some((signed, sent)))
        })
        .await
    }

    /// Notes that a control stream is closed. A hint, never proof of death.
    pub async fn close_control(&self, stream: ControlStream) {
        // An error means that the registry is ending: nobody asks for this state any more.
        let _ = self
            .call(move |turn| {
                if let Some(node) = turn.core.state.nodes.get_mut(&stream.label)
                    && node.live.stream == stream.number
                {
                    node.live.stream = 0;
                    tracing::debug!(node = %stream.label, "control stream closed");
                }
                Ok(())
            })
            .await;
    }

    /// `POST /control/answers`.
    ///
    /// # Errors
    /// When the signer may not speak for the node, or the answer is too long.
    pub async fn control_answer(
        &self,
        signed: Signed,
        answer: ControlAnswer,
    ) -> Result<(), CallError> {
        self.call(move |turn| {
            turn.core
                .state
                .count(turn.now, &signed.key, signed.counter)?;
            turn.core.state.speaks_for(&signed.key, &answer.node_id)?;
            if answer.detail.len() > MAX_TEXT_LEN {
                return Err(Refusal::Invalid {
                    field: "detail",
                    why: format!("at most {MAX_TEXT_LEN} bytes"),
                }
                .into());
            }
            let starts = &turn.core.recovery.memory().starts;
            if let Some(recovery) = &answer.recovery
                && !is_credible(recovery, starts)
            {
                return Err(Refusal::Invalid {
                    field: "recovery",
                    why: "no registry was started, or tried, so often".to_owned(),
                }
                .into());
            }
            if answer.done {
                tracing::debug!(node = %answer.node_id, number = answer.number, "order carried out");
            } else {
                tracing::warn!(
                    node = %answer.node_id,
                    number = answer.number,
                    detail = ?answer.detail,
                    "{} did not carry out an order",
                    answer.node_id
                );
            }
            if let Some(node) = turn.core.state.by_key_mut(&signed.key) {
                node.live.answered = node.live.answered.max(Some(answer.number));
            }
            if let Some(recovery) = answer.recovery {
                let refusal = (!answer.done).then_some(answer.detail);
                turn.hear(&answer.node_id, signed.key, *recovery, refusal);
            }
            Ok(())
        })
        .await
    }
}

/// Whether the starts and ballots that a node tells of are ones that there can be, if these are known.
fn is_credible(answer: &RecoveryAnswer, known: &[RegistryStart]) -> bool {
    let newest = known.iter().map(|start| start.counter).max();
    let most = newest.unwrap_or_default().saturating_add(MAX_STARTS_MISSED);
    let staged = answer.staged.as_ref().map(|staged| staged.ballot);
    let ballots = || answer.promised.into_iter().chain(staged);
    let mut starts = answer.met.into_iter().chain(ballots().map(|b| b.start));
    starts.all(|start| start.counter <= most) && ballots().all(|b| b.attempt <= MAX_ATTEMPTS)
}
