use axolotl_common::PublicKey;
use libp2p::{PeerId, gossipsub::MessageId};

use super::{super::MessageToken, *};

fn consensus(bytes: usize) -> NetworkEvent {
    NetworkEvent::Consensus {
        from: PublicKey([1; 32]),
        bytes: Bytes::from(vec![0; bytes]),
        token: MessageToken {
            id: MessageId::from(vec![1]),
            source: PeerId::random(),
        },
    }
}

fn transactions(bytes: usize) -> NetworkEvent {
    NetworkEvent::Transactions {
        from: PublicKey([1; 32]),
        transactions: vec![Bytes::from(vec![0; bytes])],
        token: None,
    }
}

fn record(bytes: usize) -> NetworkEvent {
    NetworkEvent::Record {
        from: PublicKey([1; 32]),
        bytes: Bytes::from(vec![0; bytes]),
        token: MessageToken {
            id: MessageId::from(vec![1]),
            source: PeerId::random(),
        },
    }
}

#[test]
fn waiting_records_are_bounded_and_given_back() {
    let metrics = Metrics::default();
    let (sender, mut events) = event_channel(metrics.clone());
    for round in 1..=2 {
        let taken = (0..6).filter(|_| sender.offer(record(1 << 20))).count();
        assert_eq!(taken, 4, "round {round}");
        assert_eq!(metrics.dropped_so_far("records"), 2 * round);
        while events.try_recv().is_some() {}
    }
}

#[test]
fn transactions_never_displace_consensus() {
    let metrics = Metrics::default();
    let (sender, mut events) = event_channel(metrics.clone());
    for _ in 0..EVENT_QUEUE {
        sender.offer(transactions(1));
    }
    let dropped = metrics.dropped_so_far("transactions");
    assert_eq!(dropped as usize, EVENT_QUEUE / 2);
    for _ in 0..EVENT_QUEUE / 2 {
        sender.offer(consensus(1));
    }
    assert_eq!(metrics.dropped_so_far("consensus"), 0);
    sender.offer(consensus(1));
    assert_eq!(
        metrics.dropped_so_far("consensus"),
        1,
        "full is full, and counted"
    );
    while events.try_recv().is_some() {}
    sender.offer(consensus(1));
    assert!(events.try_recv().is_some());
}

#[test]
fn waiting_bytes_are_bounded_and_given_back() {
    let metrics = Metrics::default();
    let (sender, mut events) = event_channel(metrics.clone());
    let fits = MAX_QUEUED_CONSENSUS_BYTES / (4 << 20);
    for _ in 0..fits + 3 {
        sender.offer(consensus(4 << 20));
    }
    assert_eq!(metrics.dropped_so_far("consensus"), 3);
    for _ in 0..fits {
        assert!(events.try_recv().is_some());
    }
    assert!(events.try_recv().is_none());
    for _ in 0..fits {
        sender.offer(consensus(4 << 20));
    }
    assert_eq!(metrics.dropped_so_far("consensus"), 3);
}
