//! Honest peers.

use axolotl_common::{BlockProof, CommitCertificate, Round, Signature};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_exchange_gossip() {
    let mut nodes = mesh(&[1, 2, 3, 4]).await;
    for sender in 0..nodes.len() {
        let message = format!("from {sender}").into_bytes();
        nodes[sender]
            .network
            .publish_consensus(message.clone())
            .unwrap();
        for (receiver, node) in nodes.iter_mut().enumerate() {
            if receiver != sender {
                let (_, bytes, token) = node.expect_consensus().await;
                assert_eq!(bytes, message);
                node.network.accept(token);
            }
        }
    }
    let transactions = vec![Bytes::from_static(b"one"), Bytes::from(vec![7; 100_000])];
    nodes[0]
        .network
        .publish_transactions(&transactions)
        .unwrap();
    for node in &mut nodes[1..] {
        let got = node
            .expect("transactions", |event| match event {
                NetworkEvent::Transactions {
                    transactions,
                    token,
                    ..
                } => {
                    assert!(token.is_some());
                    Some(transactions)
                }
                _ => None,
            })
            .await;
        assert_eq!(got, transactions);
    }
    for node in &nodes {
        assert_eq!(node.network.consensus_dropped(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_is_quick() {
    let mut nodes = mesh(&[1, 2, 3, 4]).await;
    let mut times = Vec::new();
    for round in 0..200_u32 {
        let start = std::time::Instant::now();
        nodes[0]
            .network
            .publish_consensus(round.to_le_bytes().to_vec())
            .unwrap();
        for node in &mut nodes[1..] {
            let (_, _, token) = node.expect_consensus().await;
            node.network.accept(token);
        }
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "publish to last receiver: p50 {:?}, p99 {:?}",
        times[100], times[197]
    );
    // Far above what it takes: a timer of gossip instead of the message itself.
    assert!(
        times[100] < Duration::from_millis(500),
        "p50 {:?}",
        times[100]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_accepted_messages_go_further() {
    let a = Node::start(1).await;
    let (mut b, mut c) = (Node::start(2).await, Node::start(3).await);
    a.allow(&[&b]).await;
    b.allow(&[&a, &c]).await;
    c.allow(&[&b]).await;
    b.expect_connected(&[a.key(), c.key()]).await;
    a.expect_connected(&[b.key()]).await;
    c.expect_connected(&[b.key()]).await;
    a.network.publish_consensus(b"ignored".to_vec()).unwrap();
    let (from, bytes, token) = b.expect_consensus().await;
    assert_eq!((from, &bytes[..]), (a.key(), &b"ignored"[..]));
    b.network.ignore(token);
    a.network.publish_consensus(b"accepted".to_vec()).unwrap();
    let (_, _, token) = b.expect_consensus().await;
    b.network.accept(token);
    let (from, bytes, _) = c.expect_consensus().await;
    assert_eq!((from, &bytes[..]), (b.key(), &b"accepted"[..]));
    assert_eq!(b.metric("network_faults_total"), 0);
    assert_eq!(a.network.connected(), [b.key()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_messages_pass() {
    let mut nodes = mesh(&[1, 2]).await;
    let message = vec![7; MAX_BLOCK_BYTES + limits::MAX_CONSENSUS_OVERHEAD_BYTES];
    nodes[0].network.publish_consensus(message.clone()).unwrap();
    let (_, bytes, _) = nodes[1].expect_consensus().await;
    assert!(bytes == message, "{} bytes", bytes.len());
    let longer = vec![7; message.len() + 1];
    let refused = nodes[0].network.publish_consensus(longer);
    assert!(
        matches!(refused, Err(PublishError::TooLarge { .. })),
        "{refused:?}"
    );

    let block = SyncBlock {
        records: Vec::new(),
        block: Bytes::from(vec![8; MAX_BLOCK_BYTES]),
        proof: BlockProof::Certificate(CommitCertificate {
            epoch: Epoch(0),
            height: Height(5),
            round: Round(0),
            block: Hash([3; 32]),
            signatures: vec![(PublicKey([1; 32]), Signature([2; 64]))],
        }),
    };
    let (asker, other) = (nodes[0].network.clone(), nodes[1].key());
    let asked = tokio::spawn(async move { asker.request_blocks(other, Height(5), 9).await });
    let (from, first, count, reply) = nodes[1]
        .expect("request for blocks", |event| match event {
            NetworkEvent::BlocksWanted {
                from,
                first,
                count,
                reply,
            } => Some((from, first, count, reply)),
            _ => None,
        })
        .await;
    assert_eq!((from, first, count), (nodes[0].key(), Height(5), 9));
    reply.send(vec![block.clone()]);
    assert!(asked.await.unwrap().unwrap() == vec![block]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_go_straight_to_one_peer() {
    let mut nodes = mesh(&[1, 2, 3]).await;
    let transactions = vec![Bytes::from(vec![1; 120_000]); 9];
    nodes[0]
        .network
        .send_transactions(nodes[1].key(), &transactions)
        .unwrap();
    let mut got = Vec::new();
    while got.len() < transactions.len() {
        let more = nodes[1]
            .expect("transactions", |event| match event {
                NetworkEvent::Transactions {
                    transactions,
                    token,
                    ..
                } => {
                    assert!(token.is_none());
                    Some(transactions)
                }
                _ => None,
            })
            .await;
        got.extend(more);
    }
    assert!(got == transactions);
    while let Ok(event) = nodes[2].events.try_recv() {
        assert!(
            !matches!(event, NetworkEvent::Transactions { .. }),
            "{event:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_are_told_and_follow_the_head() {
    let mut nodes = mesh(&[1, 2]).await;
    let other = nodes[1].key();
    let status = nodes[0].network.request_status(other).await.unwrap();
    assert_eq!(status.height, Height(2));
    assert_eq!(
        status.highest_vote_of_you,
        Some(Bytes::from_static(b"vote"))
    );
    *nodes[1].height.lock().unwrap() = 50;
    nodes[0]
        .expect("status at height 50", |event| match event {
            NetworkEvent::StatusOf { peer, status } if status.height == Height(50) => Some(peer),
            _ => None,
        })
        .await;
    let stranger = nodes[0].network.request_status(PublicKey([5; 32])).await;
    assert_eq!(stranger, Err(RequestError::NotConnected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_back_elsewhere_is_dialled_there() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    a.allow(&[&b]).await;
    b.allow(&[&a]).await;
    a.expect_connected(&[b.key()]).await;
    b.stop().await;
    a.until("loss", |peers| peers.iter().all(|peer| !peer.connected))
        .await;
    let again = Node::start(2).await;
    // It lets the other in but does not know where it is.
    again
        .network
        .set_allowed(BTreeMap::from([(a.key(), Vec::new())]))
        .await;
    a.allow(&[&again]).await;
    a.expect_connected(&[again.key()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_finds_its_peers_by_its_book() {
    let dir = tempfile::tempdir().unwrap();
    let book = dir.path().join("peers.json");
    let a = Node::start(1).await;
    let b = Node::with(2, chain(1), Some(book.clone())).await;
    // Only the other side dials: what the book holds, this side was told by identify.
    a.allow(&[&b]).await;
    b.network
        .set_allowed(BTreeMap::from([(a.key(), Vec::new())]))
        .await;
    b.expect_connected(&[a.key()]).await;
    b.until("address", |peers| !peers[0].addresses.is_empty())
        .await;
    b.stop().await;
    assert_eq!(known_peers(&book).keys().collect::<Vec<_>>(), [&a.key()]);
    let again = Node::with(2, chain(1), Some(book)).await;
    again
        .network
        .set_allowed(BTreeMap::from([(a.key(), Vec::new())]))
        .await;
    again.expect_connected(&[a.key()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_peers_are_found_through_the_first() {
    let (a, b, c) = (
        Node::start(1).await,
        Node::start(2).await,
        Node::start(3).await,
    );
    let nowhere = |nodes: &[&Node]| nodes.iter().map(|n| (n.key(), Vec::new())).collect();
    a.network.set_allowed(nowhere(&[&b, &c])).await;
    let mut list: BTreeMap<_, _> = nowhere(&[&a, &c]);
    list.insert(a.key(), a.network.local_addresses());
    b.network.set_allowed(list).await;
    b.expect_connected(&[a.key()]).await;
    let mut list: BTreeMap<_, _> = nowhere(&[&a, &b]);
    list.insert(a.key(), a.network.local_addresses());
    c.network.set_allowed(list).await;
    c.expect_connected(&[a.key(), b.key()]).await;
}
