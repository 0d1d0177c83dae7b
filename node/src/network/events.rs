//! What waits for the node, bounded in number and bytes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use alloy_primitives::Bytes;
use tokio::sync::mpsc;

use super::{
    NetworkEvent,
    limits::{
        EVENT_QUEUE, MAX_QUEUED_CONSENSUS_BYTES, MAX_QUEUED_RECORD_BYTES,
        MAX_QUEUED_TRANSACTION_BYTES,
    },
    metrics::Metrics,
};

/// Sizes of what waits for the node.
#[derive(Debug, Default)]
struct Waiting {
    consensus_bytes: AtomicUsize,
    transaction_bytes: AtomicUsize,
    record_bytes: AtomicUsize,
}

/// Events for the node, bounded in number and bytes.
#[derive(Debug)]
pub struct NetworkEvents {
    receiver: mpsc::Receiver<NetworkEvent>,
    waiting: Arc<Waiting>,
}

impl NetworkEvents {
    /// The next event; `None` when the network has ended.
    pub async fn recv(&mut self) -> Option<NetworkEvent> {
        let event = self.receiver.recv().await?;
        self.taken(&event);
        Some(event)
    }

    /// The next event, if one waits.
    pub fn try_recv(&mut self) -> Option<NetworkEvent> {
        let event = self.receiver.try_recv().ok()?;
        self.taken(&event);
        Some(event)
    }

    fn taken(&self, event: &NetworkEvent) {
        match event {
            NetworkEvent::Consensus { bytes, .. } => {
                let waiting = &self.waiting.consensus_bytes;
                waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            }
            NetworkEvent::Record { bytes, .. } => {
                let waiting = &self.waiting.record_bytes;
                waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            }
            NetworkEvent::Transactions { transactions, .. } => {
                let waiting = &self.waiting.transaction_bytes;
                waiting.fetch_sub(size_of_all(transactions), Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

fn size_of_all(transactions: &[Bytes]) -> usize {
    transactions.iter().map(|tx| tx.len()).sum()
}

/// The sending side of [`NetworkEvents`]; never waits.
pub(crate) struct EventSender {
    sender: mpsc::Sender<NetworkEvent>,
    waiting: Arc<Waiting>,
    metrics: Metrics,
}

impl EventSender {
    /// Hands an event to the node, or drops and counts it. Says whether it was handed over.
    pub(crate) fn offer(&self, event: NetworkEvent) -> bool {
        let (kind, size, waiting, max_bytes, room) = match &event {
            NetworkEvent::Consensus { bytes, .. } => (
                "consensus",
                bytes.len(),
                Some(&self.waiting.consensus_bytes),
                MAX_QUEUED_CONSENSUS_BYTES,
                0,
            ),
            NetworkEvent::Transactions { transactions, .. } => (
                "transactions",
                size_of_all(transactions),
                Some(&self.waiting.transaction_bytes),
                MAX_QUEUED_TRANSACTION_BYTES,
                EVENT_QUEUE / 2,
            ),
            NetworkEvent::Record { bytes, .. } => (
                "records",
                bytes.len(),
                Some(&self.waiting.record_bytes),
                MAX_QUEUED_RECORD_BYTES,
                EVENT_QUEUE / 2,
            ),
            NetworkEvent::StatusOf { .. } => ("status", 0, None, 0, EVENT_QUEUE / 4),
            NetworkEvent::BlocksWanted { .. } => ("blocks_wanted", 0, None, 0, EVENT_QUEUE / 4),
            NetworkEvent::LockedWanted { .. } => ("locked_wanted", 0, None, 0, EVENT_QUEUE / 4),
            NetworkEvent::Connected(_) => ("connected", 0, None, 0, 0),
            NetworkEvent::Disconnected(_) => ("disconnected", 0, None, 0, 0),
        };
        let full = waiting.is_some_and(|bytes| bytes.load(Ordering::Relaxed) + size > max_bytes);
        if full || self.sender.capacity() <= room {
            self.metrics.dropped(kind);
            if kind == "consensus" {
                tracing::warn!(
                    "consensus messages are dropped: the node does not take them in time"
                );
            }
            return false;
        }
        if let Some(bytes) = waiting {
            bytes.fetch_add(size, Ordering::Relaxed);
        }
        // There is room, and this is the only sender; a closed channel means that the node ends.
        let sent = self.sender.try_send(event).is_ok();
        if sent {
            self.metrics.received(kind);
        }
        sent
    }
}

/// The channel for events.
pub(crate) fn event_channel(metrics: Metrics) -> (EventSender, NetworkEvents) {
    let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
    let waiting = Arc::new(Waiting::default());
    let events = NetworkEvents {
        receiver,
        waiting: waiting.clone(),
    };
    (
        EventSender {
            sender,
            waiting,
            metrics,
        },
        events,
    )
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
