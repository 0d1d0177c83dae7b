//! Streams: events that resume, orders to nodes, and deadlines as they are told.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::time::Duration;

use axolotl_common::{
    NodeId,
    registry_api::{
        ControlAnswer, MAX_ORDER_NUMBER, MembershipResponse, NodeState, Order, SignedOrder,
        control_path,
    },
};
use reqwest::Method;
use support::{Calls, TestRegistry, beat, key, now_ms, request, unhealthy_after, wait_for};

async fn registry() -> (tempfile::TempDir, TestRegistry, Calls) {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    (dir, registry, api)
}

/// Reads a stream until it holds `wanted`; returns all of it.
async fn read_until(response: &mut reqwest::Response, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let chunk = tokio::time::timeout(Duration::from_secs(10), response.chunk()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("{wanted} did not come; seen: {text}"));
        match chunk.unwrap() {
            Some(chunk) => text.push_str(&String::from_utf8_lossy(&chunk)),
            None => panic!("the stream ended before {wanted}; seen: {text}"),
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn events_resume_where_they_were_left() {
    let (dir, registry, api) = registry().await;
    api.register_all(4).await;
    let events = || api.http.get(format!("{}/events", api.url));
    let mut stream = events().send().await.unwrap();
    let text = read_until(&mut stream, "event: genesis").await;
    let kinds: Vec<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("event: "))
        .collect();
    assert_eq!(kinds[..2], ["started", "registered"], "{text}");
    let ids: Vec<u64> = text
        .lines()
        .filter_map(|l| l.strip_prefix("id: ")?.parse().ok())
        .collect();
    assert!(ids.is_sorted(), "{ids:?}");
    api.beat(&key(1), &beat(1, 1, 0)).await;
    read_until(&mut stream, "node1 is healthy").await;
    drop(stream);
    registry.stop().await;

    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    let request = api.http.get(format!("{}/events", api.url));
    let last = ids.last().unwrap().to_string();
    let mut stream = request.header("last-event-id", last).send().await.unwrap();
    let text = read_until(&mut stream, "(start 2)").await;
    assert!(!text.contains("event: genesis"), "{text}");
    assert!(text.contains("node1 is healthy"), "{text}");
    registry.stop().await;
}

fn orders(text: &str) -> Vec<SignedOrder> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// The next order about peers; what comes before it is passed over.
async fn next_peers(stream: &mut reqwest::Response) -> SignedOrder {
    let is_peers = |order: &SignedOrder| matches!(order.order, Order::Peers { .. });
    let mut text = String::new();
    loop {
        text.push_str(&read_until(stream, "\n\n").await);
        if let Some(order) = orders(&text).into_iter().find(is_peers) {
            return order;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_begins_with_all_starts_of_the_store() {
    let (dir, registry, api) = registry().await;
    api.register_all(3).await;
    let open = |api: &Calls| {
        let call = api.signed_get(&key(1), "/control");
        call.send()
    };
    let first = async |api: &Calls| {
        let mut stream = open(api).await.unwrap();
        let order = orders(&read_until(&mut stream, "\n\n").await)
            .remove(0)
            .order;
        match order {
            Order::Meet { starts, take_over } => (starts, take_over),
            other => panic!("{other:?} came first"),
        }
    };
    let (before, take_over) = first(&api).await;
    assert_eq!((before.len(), before[0].counter, take_over), (1, 1, false));
    registry.stop().await;
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let (after, _) = first(&registry.api()).await;
    assert_eq!((after.len(), after[0], after[1].counter), (2, before[0], 2));
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_signed_and_their_numbers_grow_over_restarts() {
    let (dir, registry, api) = registry().await;
    let open = |api: &Calls, i| {
        let call = api.signed_get(&key(i), "/control");
        call.send()
    };
    assert_eq!(open(&api, 1).await.unwrap().status(), 404);
    api.register_all(3).await;
    let mut stream = open(&api, 1).await.unwrap();
    let first = next_peers(&mut stream).await;
    api.register_all(4).await;
    let second = next_peers(&mut stream).await;
    let authority = api
        .get("/membership")
        .await
        .json::<MembershipResponse>()
        .authority_key;
    assert!(first.verify(&authority) && second.verify(&authority));
    assert_eq!((first.chain_id, first.to), (0, key(1).public()));
    assert!(second.number > first.number);
    let Order::Peers { peers } = &second.order else {
        panic!("{second:?}");
    };
    assert_eq!(peers.len(), 4, "{peers:?}");

    // A newer stream of the same node ends the older one.
    let mut newer = open(&api, 1).await.unwrap();
    let third = next_peers(&mut newer).await;
    assert_eq!(third.chain_id, 7777);
    let end = async { while stream.chunk().await.unwrap().is_some() {} };
    let ended = tokio::time::timeout(Duration::from_secs(10), end).await;
    assert!(ended.is_ok(), "the older stream did not end");

    let answer = ControlAnswer {
        node_id: NodeId::numbered(1),
        number: third.number,
        done: true,
        detail: String::new(),
        recovery: None,
    };
    let call = api.signed(&key(1), Method::POST, "/control/answers", &answer);
    assert_eq!(api.send(call).await.unwrap().status, 202);
    let call = api.signed(&key(2), Method::POST, "/control/answers", &answer);
    api.send(call).await.unwrap().problem(401);
    registry.stop().await;

    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    let mut stream = open(&api, 1).await.unwrap();
    let fourth = next_peers(&mut stream).await;
    assert!(
        fourth.number > third.number,
        "{} after {}",
        fourth.number,
        third.number
    );
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_peers_is_complete_and_comes_with_each_change_of_it() {
    let (_dir, registry, api) = registry().await;
    api.register_all(4).await;
    let mut stream = api.signed_get(&key(1), "/control").send().await.unwrap();
    let mut listed = async || match next_peers(&mut stream).await.order {
        Order::Peers { peers } => peers,
        other => panic!("{other:?}"),
    };
    let first = listed().await;
    let keys: Vec<_> = first.iter().map(|entry| entry.public_key).collect();
    assert_eq!(keys, [1, 2, 3, 4].map(|i| key(i).public()));
    let peer_id = key(2).public().peer_id();
    let full = |address: &str| format!("{address}/p2p/{peer_id}");
    assert_eq!(first[1].multiaddrs, [full("/ip4/127.0.0.1/tcp/50052")]);

    // A start that changes nothing brings no new list; one with other addresses does, and so does a newcomer.
    let mut again = request(2);
    again.incarnation = 2;
    api.register(&key(2), &again).await;
    again.incarnation = 3;
    again.addresses = vec![
        "/ip4/10.0.0.2/tcp/1".to_owned(),
        "/ip6/::1/tcp/2".to_owned(),
    ];
    api.register(&key(2), &again).await;
    let moved = listed().await;
    let both = [full("/ip4/10.0.0.2/tcp/1"), full("/ip6/::1/tcp/2")];
    assert_eq!(moved[1].multiaddrs, both);
    api.register(&key(5), &request(5)).await;
    let more = listed().await;
    assert_eq!(more[..4], moved);
    assert_eq!(more[4].public_key, key(5).public());
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_an_older_store_is_heard() {
    // Its first start, as after `adopt`, or with a copy of the store from before the newest start.
    let (_dir, registry, api) = registry().await;
    api.register_all(2).await;
    let open = |i, path: String| {
        let call = api.signed_get(&key(i), &path);
        call.send()
    };
    let took = (5 << 32) + 3;
    let mut stream = open(1, control_path(took)).await.unwrap();
    let first = orders(&read_until(&mut stream, "\n\n").await).remove(0);
    assert!(matches!(first.order, Order::Meet { .. }), "{first:?}");
    api.register_all(3).await;
    let second = next_peers(&mut stream).await;
    let numbers = (first.number, second.number);
    assert!(numbers.0 > took && numbers.1 > numbers.0, "{numbers:?}");

    // Another node's numbers are not raised by it, and none can be brought near overflow.
    let mut other = open(2, control_path(0)).await.unwrap();
    let number = next_peers(&mut other).await.number;
    assert!(number < 2 << 32, "{number}");
    for after in [MAX_ORDER_NUMBER + 1, u64::MAX] {
        let refused = open(2, control_path(after)).await.unwrap();
        assert_eq!(refused.status(), 422);
    }
    let mut last = open(2, control_path(MAX_ORDER_NUMBER)).await.unwrap();
    assert!(next_peers(&mut last).await.number > MAX_ORDER_NUMBER);
    // It is part of what is signed.
    let call = api.signed_get(&key(1), "/control");
    let mut forged = call.build().unwrap();
    forged.url_mut().set_query(Some("after=9"));
    assert_eq!(api.http.execute(forged).await.unwrap().status(), 401);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_noticed_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &unhealthy_after("400ms")).await;
    let api = registry.api();
    api.register_all(2).await;
    api.beat(&key(1), &beat(1, 1, 1)).await;
    let mut stream = api
        .http
        .get(format!("{}/events", api.url))
        .send()
        .await
        .unwrap();
    let text = read_until(&mut stream, "node1 is failed: no heartbeat").await;
    assert!(text.contains("event: unhealthy"), "{text}");
    assert_eq!(api.status().await.healthy_nodes, 0);
    // A peer's word makes it unreachable instead.
    api.beat(&key(1), &beat(1, 2, 1)).await;
    let mut word = beat(2, 1, 1);
    word.reachable = vec![key(1).public()];
    wait_for("node1 unreachable", || async {
        let mut word = word.clone();
        word.seq = now_ms();
        api.beat(&key(2), &word).await;
        let node = api.status().await.nodes[&NodeId::numbered(1)].clone();
        if node.state == NodeState::Unreachable {
            Ok(())
        } else {
            Err(node)
        }
    })
    .await;
    registry.stop().await;
}
