//! The HTTP contract, against a real server.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use axolotl_common::{
    Epoch, Hash, Height, NodeId, VolumeId,
    genesis::GenesisDocument,
    ids::MAX_HEIGHT,
    registry_api::{
        ConsensusFailure, DiscoverResponse, HealthResponse, MembershipResponse, NodeState,
        RegisterRequest, RegisterResponse, Role, problem,
    },
    signed_request::MAX_CLOCK_SKEW_MS,
};
use reqwest::Method;
use support::{
    Calls, TestRegistry, beat, key, next_counter, now_ms, request, unhealthy_after, wait_for,
};

async fn registry() -> (tempfile::TempDir, TestRegistry, Calls) {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    (dir, registry, api)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_near_overflow_is_refused() {
    let (_dir, registry, api) = registry().await;
    api.register_all(4).await;
    for height in [MAX_HEIGHT + 1, u64::MAX] {
        let refused = api.beat(&key(1), &beat(1, 1, height)).await;
        let detail = refused.problem(422).detail;
        assert!(detail.contains("is above"), "{detail}");
    }
    let beat = beat(1, 2, MAX_HEIGHT);
    assert_eq!(api.beat(&key(1), &beat).await.status, 200);
    assert_eq!(api.status().await.height, Height(MAX_HEIGHT));
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_form_a_genesis_and_are_seen() {
    let (_dir, registry, api) = registry().await;
    api.get("/genesis").await.problem(404);
    // Out of order on purpose; the order of validators is by number, the leader first.
    for (i, missing) in [(3, 3), (2, 2), (4, 1)] {
        let mut request = request(i);
        request.is_leader = i == 2;
        let answer: RegisterResponse = api.register(&key(i), &request).await.json();
        assert_eq!((answer.waiting_for, answer.genesis), (missing, None));
    }
    let found: DiscoverResponse = api.get("/discover").await.json();
    assert_eq!((found.count, found.genesis_hash), (3, None), "{found:?}");
    assert!(
        api.status()
            .await
            .forming
            .unwrap()
            .contains("waiting for 1 more")
    );
    let last = RegisterRequest {
        is_leader: false,
        ..request(1)
    };
    let answer: RegisterResponse = api.register(&key(1), &last).await.json();
    let genesis = GenesisDocument::from_value(answer.genesis.unwrap()).unwrap();
    let names: Vec<String> = genesis
        .axolotl()
        .validators
        .iter()
        .map(|member| member.node_id.to_string())
        .collect();
    assert_eq!(names, ["node2", "node1", "node3", "node4"]);
    let shown = GenesisDocument::parse(&api.get("/genesis").await.body).unwrap();
    assert_eq!(shown.hash(), genesis.hash());

    let membership: MembershipResponse = api.get("/membership").await.json();
    let record = &membership.records[0];
    assert!(record.verify(&genesis.chain(), &answer.authority_key));
    assert_eq!((record.record.number, membership.quorum), (Epoch(0), 3));

    for i in 1..=4 {
        let mut beat = beat(i, 1, 10);
        beat.leader = Some(key(3).public());
        let health: HealthResponse = api.beat(&key(i), &beat).await.json();
        assert_eq!((health.counted, health.state), (true, NodeState::Healthy));
    }
    let status = api.status().await;
    assert_eq!((status.healthy_nodes, status.total_nodes), (4, 4));
    assert!(status.consensus_possible);
    assert_eq!(status.leader, Some(NodeId::numbered(3)));
    assert_eq!((status.height.0, status.chain_id), (10, Some(7777)));
    let text: serde_json::Value = api.get("/status").await.json();
    for name in [
        "id",
        "address",
        "port",
        "is_leader",
        "is_healthy",
        "last_seen",
        "height",
    ] {
        assert!(
            !text["nodes"]["node3"][name].is_null(),
            "{name} in {text:#}"
        );
    }
    assert_eq!(text["nodes"]["node3"]["address"], "127.0.0.1");
    assert_eq!(text["nodes"]["node3"]["is_leader"], true);
    let found: DiscoverResponse = api.get("/discover").await.json();
    let ids: Vec<u64> = found.nodes.iter().filter_map(|n| n.id.number()).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert!(found.nodes[0].multiaddrs[0].contains("/tcp/50051/p2p/12D3KooW"));

    // Too late for the genesis: a learner.
    let answer: RegisterResponse = api.register(&key(5), &request(5)).await.json();
    assert_eq!((answer.role, answer.waiting_for), (Role::Learner, 0));
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_the_nodes_are_refused() {
    let (_dir, registry, api) = registry().await;
    let url = format!("{}/register", api.url);
    let body = serde_json::to_vec(&request(1)).unwrap();

    let unsigned = api
        .http
        .post(&url)
        .header("content-type", "application/json");
    api.send(unsigned.body(body.clone()))
        .await
        .unwrap()
        .problem(401);
    let no_token = api.signed(&key(1), Method::POST, "/register", &request(1));
    let refused = api.send(no_token).await.unwrap().problem(401);
    assert_eq!(refused.kind, problem::JOIN_TOKEN);
    let wrong = api
        .signed(&key(1), Method::POST, "/register", &request(1))
        .header("x-axolotl-join-token", "0".repeat(64));
    assert_eq!(
        api.send(wrong).await.unwrap().problem(401).kind,
        problem::JOIN_TOKEN
    );
    assert!(api.status().await.nodes.is_empty());

    api.register_all(2).await;
    // A known key needs no token.
    let again = api.signed(&key(1), Method::POST, "/register", &request(1));
    assert_eq!(api.send(again).await.unwrap().status, 200);

    api.beat(&key(2), &beat(1, 1, 1)).await.problem(401);
    api.beat(&key(9), &beat(1, 1, 1)).await.problem(401);
    let unknown = api.beat(&key(9), &beat(9, 1, 1)).await.problem(404);
    assert_eq!(unknown.kind, problem::UNKNOWN_NODE);

    let body = serde_json::to_vec(&beat(1, 5, 1)).unwrap();
    let (now, counter) = (now_ms(), next_counter());
    let call = || api.signed_at(&key(1), Method::POST, "/health", &body, now, counter);
    assert_eq!(api.send(call()).await.unwrap().status, 200);
    let replayed = api.send(call()).await.unwrap().problem(409);
    assert_eq!(replayed.kind, problem::REPLAY);
    assert!(
        replayed.detail.starts_with("counter"),
        "{}",
        replayed.detail
    );
    api.beat(&key(1), &beat(1, 5, 1)).await.problem(409);
    let mut restarted = beat(1, 6, 1);
    restarted.incarnation = 2;
    api.beat(&key(1), &restarted).await.problem(409);

    let mut unfit = beat(1, 6, 1);
    unfit.unfit = Some("its log is gone".to_owned());
    assert_eq!(api.beat(&key(1), &unfit).await.status, 200);
    let status = api.status().await;
    let node = &status.nodes[&NodeId::numbered(1)];
    assert_eq!(node.state, NodeState::Unfit);
    assert_eq!(node.detail.as_deref(), Some("its log is gone"));
    assert!(!node.is_healthy);

    let body = serde_json::to_vec(&beat(1, 7, 1)).unwrap();
    for stale in [
        now_ms() - MAX_CLOCK_SKEW_MS - 100,
        now_ms() + MAX_CLOCK_SKEW_MS + 5_000,
    ] {
        let call = api.signed_at(
            &key(1),
            Method::POST,
            "/health",
            &body,
            stale,
            next_counter(),
        );
        let refused = api.send(call).await.unwrap().problem(401);
        assert_eq!(refused.kind, problem::CLOCK);
        assert!(
            refused.detail.contains("server's time"),
            "{}",
            refused.detail
        );
    }
    let before = now_ms() - 25_000;
    let call = api.signed_at(
        &key(1),
        Method::POST,
        "/health",
        &body,
        before,
        next_counter(),
    );
    let refused = api.send(call).await.unwrap().problem(401);
    assert!(
        refused.detail.contains("before this registry's start"),
        "{}",
        refused.detail
    );
    let changed = api
        .signed_at(
            &key(1),
            Method::POST,
            "/health",
            &body,
            now_ms(),
            next_counter(),
        )
        .body(serde_json::to_vec(&beat(1, 8, 1)).unwrap());
    api.send(changed).await.unwrap().problem(401);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_calls_are_problems() {
    let (_dir, registry, api) = registry().await;
    api.get("/nothing").await.problem(404);
    let delete = api.http.delete(format!("{}/status", api.url));
    api.send(delete).await.unwrap().problem(405);
    let post = |body: Vec<u8>, kind: &str| {
        api.signed_at(
            &key(1),
            Method::POST,
            "/register",
            &body,
            now_ms(),
            next_counter(),
        )
        .header(
            "x-axolotl-join-token",
            std::fs::read_to_string(&api.join_token).unwrap(),
        )
        .header("x-test", kind)
    };
    let big = post(vec![b' '; (1 << 20) + 1], "big");
    api.send(big).await.unwrap().problem(413);
    let untyped = api.http.post(format!("{}/register", api.url)).body("{}");
    api.send(untyped).await.unwrap().problem(415);
    let bare = api.http.post(format!("{}/register", api.url));
    api.send(bare).await.unwrap().problem(401);
    api.send(post(b"{".to_vec(), "json"))
        .await
        .unwrap()
        .problem(400);
    api.send(post(b"{}".to_vec(), "empty"))
        .await
        .unwrap()
        .problem(422);
    let foreign = post(b"{}".to_vec(), "origin").header("origin", "http://evil.example");
    api.send(foreign).await.unwrap().problem(403);
    api.get("/health").await.problem(422);
    api.get("/health?node_id=node77").await.problem(404);
    let events = api
        .http
        .get(format!("{}/events", api.url))
        .header("last-event-id", "x");
    api.send(events).await.unwrap().problem(400);

    let cases: [(&str, serde_json::Value); 9] = [
        ("role", "king".into()),
        ("role", "learner".into()),
        ("node_id", "Node 1".into()),
        ("addresses", serde_json::json!([])),
        ("addresses", serde_json::json!(["/ip4/1.2.3.4/udp/1/quic"])),
        ("addresses", serde_json::json!(["/dns4/a<b>/tcp/1"])),
        ("http_url", "javascript:alert(1)".into()),
        ("incarnation", 0.into()),
        ("node_id", "node99999999".into()),
    ];
    for (field, wrong) in cases {
        let mut body = serde_json::to_value(request(1)).unwrap();
        body[field] = wrong.clone();
        let call = post(serde_json::to_vec(&body).unwrap(), field);
        let refused = api.send(call).await.unwrap().problem(422);
        println!("{field} = {wrong}: {}", refused.detail);
    }
    // Of an operator's call the token is asked before anything of the body; where no body is needed,
    // none is asked for.
    for path in ["/scale", "/nodes/node1/drain", "/shutdown"] {
        let url = format!("{}{path}", api.url);
        let nobody = api.http.post(&url).body("no JSON");
        api.send(nobody).await.unwrap().problem(401);
        api.send(api.http.post(&url)).await.unwrap().problem(401);
    }
    let token = std::fs::read_to_string(&api.admin_token).unwrap();
    let operator = |call: reqwest::RequestBuilder| call.bearer_auth(token.trim());
    let url = |path: &str| format!("{}{path}", api.url);
    let drain = operator(api.http.post(url("/nodes/node9/drain")));
    api.send(drain).await.unwrap().problem(404);
    let delete = operator(api.http.delete(url("/nodes/node9")));
    api.send(delete).await.unwrap().problem(404);
    let untyped = operator(api.http.post(url("/scale")).body("{\"target_nodes\":5}"));
    api.send(untyped).await.unwrap().problem(415);
    let bare = operator(api.http.post(url("/scale")));
    api.send(bare).await.unwrap().problem(400);
    // An object, and no list of its fields; a whole number may be written with a fraction.
    let list = operator(api.http.post(url("/scale")));
    let list = list.header("content-type", "application/json").body("[5]");
    api.send(list).await.unwrap().problem(422);
    let whole = operator(api.http.post(url("/scale")));
    let whole = whole.header("content-type", "application/json");
    let whole = whole.body("{\"target_nodes\":5.0}");
    let answer = api.send(whole).await.unwrap().problem(409);
    assert_eq!(answer.kind, problem::FORMING);
    // Unknown fields are ignored.
    let mut body = serde_json::to_value(request(1)).unwrap();
    body["zone"] = "eu".into();
    let call = post(serde_json::to_vec(&body).unwrap(), "zone");
    assert_eq!(api.send(call).await.unwrap().status, 200);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_leaders_and_volumes_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &unhealthy_after("3s")).await;
    let api = registry.api();
    api.register_all(2).await;
    let with = |i: u8, f: &dyn Fn(&mut RegisterRequest)| {
        let mut request = request(i);
        f(&mut request);
        request
    };
    let two_leaders = api
        .register(&key(3), &with(3, &|r| r.is_leader = true))
        .await
        .problem(422);
    assert!(
        two_leaders.detail.contains("node1"),
        "{}",
        two_leaders.detail
    );
    let wished = with(3, &|r| r.node_id = Some(NodeId::numbered(2)));
    let taken = api.register(&key(3), &wished).await.problem(409);
    assert_eq!(taken.kind, problem::LABEL_TAKEN);
    let volume = with(3, &|r| r.volume_id = VolumeId([2; 16]));
    api.register(&key(3), &volume).await.problem(409);
    api.register(&key(2), &with(2, &|r| r.volume_id = VolumeId([7; 16])))
        .await
        .problem(409);
    let back = api
        .register(&key(2), &with(2, &|r| r.incarnation = 5))
        .await;
    assert_eq!(back.status, 200);
    api.register(&key(2), &with(2, &|r| r.incarnation = 4))
        .await
        .problem(409);

    // node2 falls silent; its label with a new key is a wiped volume, and gets a new number.
    wait_for("node2 failed", || async {
        let status = api.status().await;
        let node = &status.nodes[&NodeId::numbered(2)];
        if node.state == NodeState::Failed {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
    let answer: RegisterResponse = api.register(&key(3), &wished).await.json();
    assert_eq!(answer.node_id, NodeId::numbered(3));
    assert!(
        answer.message.contains("node2 was another key"),
        "{}",
        answer.message
    );
    let status = api.status().await;
    assert_eq!(status.nodes[&NodeId::numbered(2)].state, NodeState::Stopped);
    // Without a wish: the next number.
    let answer: RegisterResponse = api
        .register(&key(8), &with(8, &|r| r.node_id = None))
        .await
        .json();
    assert_eq!(answer.node_id, NodeId::numbered(4));
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_node_does_not_shut_out_others() {
    let (_dir, registry, api) = registry().await;
    api.register_all(2).await;
    let mut refused = 0;
    for seq in 1..=300 {
        let answer = api.beat(&key(1), &beat(1, seq, 1)).await;
        if answer.status != 200 {
            answer.problem(429);
            refused += 1;
        }
    }
    assert!(refused > 50, "only {refused} of 300 were refused");
    assert_eq!(api.beat(&key(2), &beat(2, 1, 1)).await.status, 200);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_that_meets_a_chain_forms_no_second_one() {
    let (dir, registry, api) = registry().await;
    api.register_all(3).await;
    let mut stranger = request(4);
    stranger.genesis_hash = Some(Hash([7; 32]));
    let refused = api.register(&key(4), &stranger).await.problem(409);
    assert_eq!(refused.kind, problem::STORE_LOST);
    assert!(
        refused.detail.contains("restore the store, or adopt"),
        "{}",
        refused.detail
    );
    api.get("/readyz").await.problem(503);
    assert_eq!(api.get("/livez").await.status, 200);
    // Enough nodes now, but no genesis; and none after a restart either.
    assert_eq!(api.register(&key(5), &request(5)).await.status, 200);
    api.get("/genesis").await.problem(404);
    registry.stop().await;
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    assert_eq!(api.register(&key(6), &request(6)).await.status, 200);
    api.get("/genesis").await.problem(404);
    api.get("/readyz").await.problem(503);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_is_refused() {
    let (_dir, registry, api) = registry().await;
    api.register_all(4).await;
    let mut stranger = request(5);
    stranger.genesis_hash = Some(Hash([7; 32]));
    let refused = api.register(&key(5), &stranger).await.problem(409);
    assert_eq!(refused.kind, problem::OTHER_CHAIN);
    assert_eq!(api.get("/readyz").await.status, 200);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_heartbeats_count_only_while_registration_is_open() {
    for open in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let word = if open { "open" } else { "token" };
        let registry = TestRegistry::start(dir.path(), &["--registration", word]).await;
        let api = registry.api();
        let join = api.signed(&key(1), Method::POST, "/register", &request(1));
        let joined = api.send(join).await.unwrap();
        assert_eq!(joined.status.is_success(), open, "{joined:?}");
        api.register_all(1).await;
        let health: HealthResponse = api.get("/health?node_id=node1").await.json();
        assert_eq!(health.counted, open);
        let path = "/health?node_id=node1";
        let signed = api.signed_get(&key(1), path);
        let health: HealthResponse = api.send(signed).await.unwrap().json();
        assert!(health.counted);
        assert_eq!(api.status().await.registration, word);
        assert_eq!(api.status().await.warnings.len(), usize::from(open));
        registry.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_taken_from_nodes_and_operators() {
    let (_dir, registry, api) = registry().await;
    api.register_all(4).await;
    api.beat(&key(1), &beat(1, 1, 1)).await;
    let report = ConsensusFailure {
        node_id: Some(NodeId::numbered(1)),
        reason: "no commit".to_owned(),
        epoch: Epoch(0),
        height: 2.into(),
        round: 4.into(),
        last_commit_age_ms: 10_000,
        peers: vec![],
    };
    let call = api.signed(&key(1), Method::POST, "/consensus-failure", &report);
    let answer = api.send(call).await.unwrap();
    assert_eq!(answer.status, 202);
    assert!(String::from_utf8_lossy(&answer.body).contains("1 of 4 validators vote"));
    let call = api.signed(&key(2), Method::POST, "/consensus-failure", &report);
    api.send(call).await.unwrap().problem(401);
    let operator = api
        .http
        .post(format!("{}/consensus-failure", api.url))
        .json(&serde_json::json!({ "reason": "probe" }));
    let token = std::fs::read_to_string(&api.admin_token).unwrap();
    let wrong = operator.try_clone().unwrap().bearer_auth("0".repeat(64));
    api.send(wrong).await.unwrap().problem(401);
    let answer = api.send(operator.bearer_auth(token)).await.unwrap();
    assert_eq!(answer.status, 202, "{answer:?}");
    registry.stop().await;
}
