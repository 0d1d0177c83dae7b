//! Orders of the registry, on a stream that the node opens and keeps open.
//!
//! An order counts when the authority signed it, for this node, on this chain, with a number above
//! the last one's. The number is made durable before the order is handed on: an order is carried
//! out once or, after a crash in between, not at all; the registry sends the state of things again
//! on every new stream. The number is told when a stream is opened, and the registry numbers its orders
//! above it: one that was restored from a copy, or adopted the chain, would else not be heard.

use std::{io, time::Duration};

use axolotl_common::{PublicKey, registry_api::SignedOrder};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Backoff, CallError, RegistryClient, sse::Parser};

/// A stream that says nothing for this long, keep-alives included, is given up.
pub const STREAM_SILENCE: Duration = Duration::from_secs(15);

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Not readable.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// For another node.
    #[error("it is for {0}")]
    Addressee(PublicKey),
    /// Of another chain.
    #[error("it is of chain {0}")]
    Chain(u64),
    /// Not signed by the authority.
    #[error("the authority did not sign it")]
    Signature,
    /// Not above the last one.
    #[error("its number {got} is not above {last}")]
    Number {
        /// Its number.
        got: u64,
        /// The last number.
        last: u64,
    },
}

/// What the node knows when it judges an order.
#[derive(Clone, Copy, Debug)]
pub struct OrderContext {
    /// This node.
    pub key: PublicKey,
    /// The authority's key, from the genesis, or from the registration before there is one.
    pub authority: PublicKey,
    /// Chain id, once the genesis is known.
    pub chain_id: Option<u64>,
    /// Number of the last order that was taken.
    pub last: u64,
}

impl OrderContext {
    /// Checks an order.
    ///
    /// # Errors
    /// Says why it is not to be carried out.
    pub fn check(&self, order: &SignedOrder) -> Result<(), OrderError> {
        self.check_origin(order)?;
        if order.number <= self.last {
            return Err(OrderError::Number {
                got: order.number,
                last: self.last,
            });
        }
        Ok(())
    }

    /// Checks that the authority of this chain gave the order to this node, whenever that was.
    ///
    /// # Errors
    /// Says why it did not.
    pub fn check_origin(&self, order: &SignedOrder) -> Result<(), OrderError> {
        if order.to != self.key {
            return Err(OrderError::Addressee(order.to));
        }
        if self.chain_id.is_some_and(|id| id != order.chain_id) {
            return Err(OrderError::Chain(order.chain_id));
        }
        if !order.verify(&self.authority) {
            return Err(OrderError::Signature);
        }
        Ok(())
    }
}

/// Why the reader ended.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The number could not be made durable: fatal.
    #[error("the number of an order could not be stored: {0}")]
    Store(#[from] io::Error),
}

/// Keeps the control stream open until `shutdown`, and hands orders that count to `orders`.
///
/// `persist` makes the number durable before its order is handed on. When `orders` is closed the
/// reader ends as well.
///
/// # Errors
/// Only when `persist` fails: that is fatal.
pub async fn run(
    client: RegistryClient,
    mut context: OrderContext,
    mut persist: impl FnMut(u64) -> io::Result<()> + Send,
    orders: mpsc::Sender<SignedOrder>,
    shutdown: CancellationToken,
) -> Result<(), ControlError> {
    let mut backoff = Backoff::new(client.public_key());
    loop {
        let outcome = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            outcome = read_stream(&client, &mut context, &mut persist, &orders, &mut backoff) => {
                outcome?
            }
        };
        match outcome {
            Ended::NobodyListens => return Ok(()),
            Ended::Stream(why) => tracing::debug!(why, "control stream closed, opened again"),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

enum Ended {
    Stream(String),
    NobodyListens,
}

async fn read_stream(
    client: &RegistryClient,
    context: &mut OrderContext,
    persist: &mut (impl FnMut(u64) -> io::Result<()> + Send),
    orders: &mpsc::Sender<SignedOrder>,
    backoff: &mut Backoff,
) -> Result<Ended, ControlError> {
    let mut response = match client.open_control(context.last).await {
        Ok(response) => response,
        Err(error @ CallError::Refused(_)) => {
            tracing::warn!(%error, "no control stream; tried again");
            return Ok(Ended::Stream(error.to_string()));
        }
        Err(error) => return Ok(Ended::Stream(error.to_string())),
    };
    let mut parser = Parser::default();
    loop {
        let chunk = match tokio::time::timeout(STREAM_SILENCE, response.chunk()).await {
            Err(_) => return Ok(Ended::Stream("it was silent for too long".to_owned())),
            Ok(Err(error)) => return Ok(Ended::Stream(error.to_string())),
            Ok(Ok(None)) => return Ok(Ended::Stream("the registry closed it".to_owned())),
            Ok(Ok(Some(chunk))) => chunk,
        };
        backoff.reset();
        let events = match parser.feed(&chunk) {
            Ok(events) => events,
            Err(error) => return Ok(Ended::Stream(error.to_string())),
        };
        for event in events.into_iter().filter(|event| event.kind == "order") {
            match judge(context, &event.data) {
                Ok(order) => {
                    persist(order.number)?;
                    context.last = order.number;
                    if orders.send(order).await.is_err() {
                        return Ok(Ended::NobodyListens);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "an order of the registry is not carried out: {error}");
                }
            }
        }
    }
}

fn judge(context: &OrderContext, data: &[u8]) -> Result<SignedOrder, OrderError> {
    let signed: SignedOrder =
        serde_json::from_slice(data).map_err(|e| OrderError::Unreadable(e.to_string()))?;
    context.check(&signed)?;
    Ok(signed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axolotl_common::{KeyPair, registry_api::Order};

    #[test]
    fn only_the_authoritys_newest_orders_to_this_node_count() {
        let authority = KeyPair::from_seed(&[1; 32]);
        let (me, other) = (PublicKey([2; 32]), PublicKey([3; 32]));
        let stop = || Order::Stop { reason: "x".into() };
        let context = OrderContext {
            key: me,
            authority: authority.public(),
            chain_id: Some(7),
            last: 10,
        };
        let check = |order: SignedOrder| context.check(&order);
        let good = SignedOrder::new(&authority, 7, me, 11, stop());
        assert_eq!(check(good.clone()), Ok(()));
        let old = SignedOrder::new(&authority, 7, me, 10, stop());
        assert_eq!(check(old), Err(OrderError::Number { got: 10, last: 10 }));
        let foreign = SignedOrder::new(&authority, 7, other, 11, stop());
        assert_eq!(check(foreign), Err(OrderError::Addressee(other)));
        let chain = SignedOrder::new(&authority, 8, me, 11, stop());
        assert_eq!(check(chain), Err(OrderError::Chain(8)));
        let forged = SignedOrder::new(&KeyPair::from_seed(&[9; 32]), 7, me, 11, stop());
        assert_eq!(check(forged), Err(OrderError::Signature));
        let renumbered = SignedOrder { number: 12, ..good };
        assert_eq!(check(renumbered), Err(OrderError::Signature));
        let before = OrderContext {
            chain_id: None,
            ..context
        };
        assert_eq!(
            before.check(&SignedOrder::new(&authority, 0, me, 11, stop())),
            Ok(())
        );
    }
}
