//! What the registry orders, and what the node does about it.

use std::sync::Arc;

use anyhow::{Context, bail};
use axolotl_common::registry_api::{ControlAnswer, Order, RecoveryAnswer, SignedOrder};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Node, peer_list::PeerList};
use crate::{engine::follows_a_seal, registry_client::RegistryClient, storage::DataDir};

/// Name of the small record with the number of the last order taken.
pub(super) const ORDER_RECORD: &str = "order";

/// Carries out orders whose signature and number were checked.
pub(super) struct Servant {
    pub(super) client: RegistryClient,
    pub(super) node: Arc<Node>,
    pub(super) peers: Arc<PeerList>,
    pub(super) prompt: Arc<Notify>,
    pub(super) shutdown: CancellationToken,
    /// Why the start of the registry that speaks is refused.
    pub(super) refused: Option<String>,
}

impl Servant {
    /// Takes orders as they come, one after the other.
    pub(super) async fn obey(
        mut self,
        mut orders: mpsc::Receiver<SignedOrder>,
    ) -> anyhow::Result<()> {
        while let Some(signed) = orders.recv().await {
            let number = signed.number;
            let introduced = matches!(signed.order, Order::Meet { .. });
            let reason = match &signed.order {
                Order::Stop { reason } => Some(reason.clone()),
                _ => None,
            };
            let (outcome, recovery) = match refusal(self.refused.as_ref(), &signed.order) {
                Some(why) => {
                    // Its store may be an older copy, from before a key was revoked. After it was taken over, the
                    // list comes again.
                    if let Order::Peers { peers } = &signed.order {
                        self.peers.hint(peers);
                    }
                    (Err(why), None)
                }
                None if matches!(signed.order, Order::Peers { .. }) => {
                    let admitted = self.peers.admit(&signed);
                    admitted.context("the list of registered nodes could not be stored")?;
                    (Ok(String::new()), None)
                }
                None => self.carry_out(signed.order).await,
            };
            if introduced {
                self.refused = outcome.as_ref().err().cloned();
            }
            let stop = reason.filter(|_| outcome.is_ok());
            let answer = ControlAnswer {
                node_id: self.node.label.clone(),
                number,
                done: outcome.is_ok(),
                detail: outcome.unwrap_or_else(|why| why),
                recovery,
            };
            if let Err(error) = self.client.answer(&answer).await {
                tracing::debug!(%error, "an order was not answered");
            }
            if let Some(reason) = stop {
                tracing::info!(%reason, "the registry orders this node to stop");
                self.shutdown.cancel();
            }
        }
        Ok(())
    }

    /// Does what is not left until after the answer; the error says why it was not done.
    async fn carry_out(
        &self,
        order: Order,
    ) -> (Result<String, String>, Option<Box<RecoveryAnswer>>) {
        let plain = match order {
            // Lists of peers were taken before; a stop follows the answer.
            Order::Peers { .. } | Order::Stop { .. } => Ok(String::new()),
            Order::EpochRecord { record } if !follows_a_seal(&record) => {
                self.node.engine.order_record(record).await
            }
            Order::Probe => {
                self.prompt.notify_one();
                Ok(String::new())
            }
            order @ (Order::EpochRecord { .. }
            | Order::Meet { .. }
            | Order::Survey { .. }
            | Order::Seal { .. }
            | Order::Stage { .. }) => {
                let answer = self.node.engine.obey(order).await;
                return (answer.outcome, Some(answer.recovery));
            }
        };
        (plain, None)
    }
}

/// Why an order is not carried out: the start of the registry that speaks was refused. It may introduce
/// itself again.
fn refusal(refused: Option<&String>, order: &Order) -> Option<String> {
    match order {
        Order::Meet { .. } => None,
        _ => refused.map(|why| format!("this start of the registry is refused: {why}")),
    }
}

/// Number of the last order taken, 0 before the first.
pub(super) fn last_order(data: &DataDir) -> anyhow::Result<u64> {
    match data.record(ORDER_RECORD)? {
        None => Ok(0),
        Some(bytes) => match bytes.try_into() {
            Ok(number) => Ok(u64::from_le_bytes(number)),
            Err(_) => bail!(
                "the record `{ORDER_RECORD}` of the data directory is not a number; wipe the directory to let the node join anew"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_registry_may_only_introduce_itself_again() {
        let why = "older".to_owned();
        let meet = Order::Meet {
            starts: Vec::new(),
            take_over: true,
        };
        let stop = Order::Stop {
            reason: String::new(),
        };
        let peers = Order::Peers { peers: Vec::new() };
        for (order, heard) in [
            (peers, false),
            (meet, true),
            (stop, false),
            (Order::Probe, false),
        ] {
            assert_eq!(refusal(None, &order), None, "{order:?}");
            assert_eq!(refusal(Some(&why), &order).is_none(), heard, "{order:?}");
        }
    }
}
