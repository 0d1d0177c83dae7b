//! Who votes, over HTTP: nodes that only send heartbeats play the chain.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use axolotl_common::{
    Epoch, Height, SignedRecord,
    registry_api::{Heartbeat, MembershipResponse, PlanResponse, VoteReport, problem},
};
use reqwest::{Method, StatusCode};
use support::{Answer, Calls, TestRegistry, beat, key, request, wait_for};

/// The chain as the registry hears of it: which nodes beat, and under which epoch.
struct Nodes {
    api: Calls,
    seq: u64,
    epoch: Epoch,
}

impl Nodes {
    async fn beat(&mut self, nodes: &[u8]) {
        self.seq += 1;
        for i in nodes {
            let beat = Heartbeat {
                epoch: self.epoch,
                ..beat(*i, self.seq, 100)
            };
            let answer = self.api.beat(&key(*i), &beat).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }

    async fn membership(&self) -> MembershipResponse {
        self.api.get("/membership").await.json()
    }

    /// Beats until a record is pending, and returns it.
    async fn pending(&mut self, nodes: &[u8]) -> SignedRecord {
        let begin = std::time::Instant::now();
        loop {
            self.beat(nodes).await;
            let membership = self.membership().await;
            if let Some(number) = membership.pending {
                let records = membership.records;
                assert_eq!(records[0].record.number, number);
                return records[0].clone();
            }
            assert!(
                begin.elapsed() < support::DEADLINE,
                "no record was signed: {:#?}",
                self.api.status().await
            );
            // The pause of the poll.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn admin(&self, method: Method, path: &str, body: &str) -> Answer {
        let token = std::fs::read_to_string(&self.api.admin_token).unwrap();
        let call = self
            .api
            .http
            .request(method, format!("{}{path}", self.api.url))
            .header("content-type", "application/json")
            .bearer_auth(token)
            .body(body.to_owned());
        self.api.send(call).await.unwrap()
    }
}

async fn four(dir: &std::path::Path) -> (TestRegistry, Nodes) {
    let registry = TestRegistry::start(dir, &["--scale-interval", "100ms"]).await;
    let api = registry.api();
    api.register_all(4).await;
    let mut nodes = Nodes {
        api,
        seq: 0,
        epoch: Epoch(0),
    };
    nodes.beat(&[1, 2, 3, 4]).await;
    (registry, nodes)
}

fn names(record: &SignedRecord) -> Vec<String> {
    let members = &record.record.members;
    members
        .iter()
        .map(|member| member.node_id.to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_outside_of_the_limits_is_refused_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, nodes) = four(dir.path()).await;
    for target in ["0", "1", "11"] {
        let body = format!("{{\"target_nodes\":{target}}}");
        let refused = nodes
            .admin(Method::POST, "/scale", &body)
            .await
            .problem(422);
        assert_eq!(refused.kind, problem::LIMITS);
        assert!(
            refused.detail.contains("MIN_NODES 2 to MAX_NODES 10"),
            "{refused:?}"
        );
    }
    for body in [
        "",
        "{}",
        "{\"target_nodes\":-1}",
        "{\"target_nodes\":\"5\"}",
    ] {
        let answer = nodes.admin(Method::POST, "/scale", body).await;
        assert!(answer.status.is_client_error(), "{body}: {answer:?}");
    }
    let call = nodes
        .api
        .http
        .post(format!("{}/scale", nodes.api.url))
        .json(&serde_json::json!({ "target_nodes": 5 }));
    let refused = nodes.api.send(call).await.unwrap().problem(401);
    assert!(
        refused.detail.contains("axolotl-registry admin-token"),
        "{refused:?}"
    );
    assert_eq!(nodes.api.status().await.target_nodes, 4);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_added_once_it_is_level_and_the_wish_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, mut nodes) = four(dir.path()).await;
    let answer = nodes
        .admin(Method::POST, "/scale", "{\"target_nodes\":5}")
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let answer: PlanResponse = answer.json();
    assert_eq!((answer.target_nodes, answer.voting_nodes), (5, 4));
    assert!(
        answer
            .plan
            .iter()
            .any(|line| line.contains("this registry starts none")),
        "{answer:?}"
    );
    registry.stop().await;
    let registry = TestRegistry::start(dir.path(), &["--scale-interval", "100ms"]).await;
    nodes.api = registry.api();
    nodes.seq += 1_000;
    assert_eq!(nodes.api.status().await.target_nodes, 5);

    let joined = nodes.api.register(&key(5), &request(5)).await;
    assert_eq!(joined.status, 200, "{joined:?}");
    let syncing = Heartbeat {
        syncing: true,
        voting: false,
        ..beat(5, 1, 0)
    };
    nodes.api.beat(&key(5), &syncing).await;
    nodes.beat(&[1, 2, 3, 4]).await;
    assert_eq!(nodes.membership().await.pending, None, "it is not level");
    let record = nodes.pending(&[1, 2, 3, 4, 5]).await;
    assert_eq!(
        names(&record),
        ["node1", "node2", "node3", "node4", "node5"]
    );
    let (chain, authority) = (
        nodes.membership().await,
        nodes.membership().await.authority_key,
    );
    let reference = axolotl_common::ChainRef {
        id: chain.chain_id.unwrap().into(),
        genesis: chain.genesis_hash.unwrap(),
    };
    assert!(record.verify(&reference, &authority));
    assert_eq!(chain.epoch, Some(Epoch(0)));

    // Killed while it is pending: the next start goes on with the same record.
    registry.stop().await;
    let registry = TestRegistry::start(dir.path(), &["--scale-interval", "100ms"]).await;
    nodes.api = registry.api();
    assert_eq!(nodes.membership().await.pending, Some(record.record.number));
    nodes.epoch = record.record.number;
    nodes.seq += 1_000;
    // One that may lie does not make it true.
    nodes.beat(&[5]).await;
    assert_eq!(nodes.membership().await.epoch, Some(Epoch(0)));
    nodes.beat(&[1]).await;
    let membership = nodes.membership().await;
    assert_eq!(membership.epoch, Some(record.record.number));
    assert_eq!((membership.pending, membership.quorum), (None, 4));
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_validator_is_swapped_for_a_standby_and_a_raise_waits() {
    let dir = tempfile::tempdir().unwrap();
    let flags = [
        "--scale-interval",
        "100ms",
        "--unhealthy-after",
        "3s",
        "--health-check-interval",
        "200ms",
    ];
    let registry = TestRegistry::start(dir.path(), &flags).await;
    let api = registry.api();
    api.register_all(5).await;
    let mut nodes = Nodes {
        api,
        seq: 0,
        epoch: Epoch(0),
    };
    nodes.beat(&[1, 2, 3, 4, 5]).await;
    let record = nodes.pending(&[1, 2, 4, 5]).await;
    assert_eq!(names(&record), ["node1", "node2", "node5", "node4"]);
    let answer: PlanResponse = nodes
        .admin(Method::POST, "/scale", "{\"target_nodes\":6}")
        .await
        .json();
    assert!(
        answer.message.contains("deferred until node3"),
        "{answer:?}"
    );
    nodes.epoch = record.record.number;
    nodes.beat(&[1, 2, 4, 5]).await;
    let epoch = nodes.membership().await.epoch;
    assert_eq!(epoch, Some(record.record.number));
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_leaves_and_is_told_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, mut nodes) = four(dir.path()).await;
    let unknown = nodes.admin(Method::POST, "/nodes/node9/drain", "").await;
    unknown.problem(404);
    let answer = nodes.admin(Method::POST, "/nodes/node2/drain", "").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let record = nodes.pending(&[1, 2, 3, 4]).await;
    assert_eq!(names(&record), ["node1", "node3", "node4"]);
    let stream = nodes.api.signed_get(&key(2), "/control");
    let mut stream = stream.send().await.unwrap();
    nodes.epoch = record.record.number;
    nodes.beat(&[1, 2, 3, 4]).await;
    let mut text = String::new();
    let told = async {
        while !text.contains("took this node out") {
            let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    let told = tokio::time::timeout(support::DEADLINE, told).await;
    assert!(told.is_ok(), "no order to stop: {text}");
    // Three of three are needed: nobody else may go.
    let refused = nodes.admin(Method::DELETE, "/nodes/node3", "").await;
    assert_eq!(
        refused.status,
        StatusCode::ACCEPTED,
        "MIN_NODES is 2: {refused:?}"
    );
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_older_than_the_chain_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, mut nodes) = four(dir.path()).await;
    nodes.epoch = Epoch(3);
    nodes.beat(&[1, 2, 3, 4]).await;
    wait_for("a warning", || async {
        let status = nodes.api.status().await;
        let told = status
            .warnings
            .iter()
            .any(|line| line.contains("never signed"));
        if told { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(nodes.api.get("/readyz").await.status, 503);
    let answer = nodes
        .admin(Method::POST, "/scale", "{\"target_nodes\":3}")
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    nodes.beat(&[1, 2, 3, 4]).await;
    assert_eq!(nodes.membership().await.pending, None);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_votes_do_not_arrive_is_shown_until_they_do() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, mut nodes) = four(dir.path()).await;
    let reports = async |nodes: &mut Nodes, missed: bool| {
        nodes.seq += 1;
        for i in 1..=4_u8 {
            let report = |other: u8| VoteReport {
                validator: key(other).public(),
                height: Height(if other == 4 && missed { 90 } else { 100 }),
                age_ms: 9_000,
                missing_ms: (other == 4 && missed).then_some(8_500),
            };
            let beat = Heartbeat {
                votes: (1..=4).filter(|other| *other != i).map(report).collect(),
                ..beat(i, nodes.seq, 100)
            };
            let answer = nodes.api.beat(&key(i), &beat).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    reports(&mut nodes, true).await;
    let status: serde_json::Value = nodes.api.get("/status").await.json();
    let node = &status["nodes"]["node4"];
    assert_eq!(node["voting"], false, "{node}");
    assert_eq!(node["state"], "healthy");
    assert_eq!(node["symptom"]["code"], "not_voting");
    assert_eq!(node["symptom"]["height"], 90);
    // node2 leads, and its report counts for nothing.
    let expected = serde_json::json!(["node1", "node3"]);
    assert_eq!(node["symptom"]["reporters"], expected);
    let text = node["symptom"]["text"].as_str().unwrap();
    let page = nodes.api.get("/").await.body;
    let page = String::from_utf8_lossy(&page);
    assert!(page.contains(", not voting: "), "{page}");
    assert!(text.contains("node1, node3"), "{text}");
    let others = &status["nodes"]["node3"];
    assert_eq!(
        (&others["voting"], others.get("symptom")),
        (&true.into(), None)
    );
    reports(&mut nodes, false).await;
    let status: serde_json::Value = nodes.api.get("/status").await.json();
    let node = &status["nodes"]["node4"];
    assert_eq!((&node["voting"], node.get("symptom")), (&true.into(), None));
    let call = nodes.api.http.get(format!("{}/events", nodes.api.url));
    let mut stream = call.send().await.unwrap();
    let mut text = String::new();
    let told = async {
        while !text.contains("node4 votes again") {
            let chunk = stream.chunk().await.unwrap().expect("the stream goes on");
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    let told = tokio::time::timeout(support::DEADLINE, told).await;
    assert!(told.is_ok(), "no end of it: {text}");
    assert!(text.contains("node4 is not voting"), "{text}");
    registry.stop().await;
}
