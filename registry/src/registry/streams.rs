//! Verbs of the two kinds of streams: events for whoever asks, orders for nodes.

use axolotl_common::{
    NodeId,
    registry_api::{ControlAnswer, Event, Order, SignedOrder},
};
use tokio::sync::watch;

use super::{CallError, Registry, nodes::Signed};
use crate::cluster::{MAX_TEXT_LEN, registration::Refusal};

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

    /// Opens the control stream of the node that signed; an older one of it ends.
    ///
    /// # Errors
    /// When the key is not known.
    pub async fn open_control(&self, signed: Signed) -> Result<ControlStream, CallError> {
        self.call(move |turn| {
            turn.core
                .state
                .count(turn.now, &signed.key, signed.counter)?;
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

    /// The order that brings a node level; `None` when its stream was replaced.
    ///
    /// # Errors
    /// When the registry is ending.
    pub async fn current_order(
        &self,
        stream: &ControlStream,
    ) -> Result<Option<SignedOrder>, CallError> {
        let stream = stream.clone();
        self.call(move |turn| {
            let state = &turn.core.state;
            let node = state.nodes.get(&stream.label);
            let Some(node) = node.filter(|node| node.live.stream == stream.number) else {
                return Ok(None);
            };
            let to = node.record.public_key;
            let chain_id = state
                .chain
                .as_ref()
                .map_or(0, |chain| chain.document.chain().id.0);
            let order = Order::Peers {
                peers: state.peers(),
            };
            let number = turn.next_number();
            let authority = &turn.inner.setup.authority;
            Ok(Some(SignedOrder::new(
                authority, chain_id, to, number, order,
            )))
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
            Ok(())
        })
        .await
    }
}
