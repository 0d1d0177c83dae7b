//! The client against a small registry that checks signatures and counters.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axolotl_common::{
    Epoch, Height, Member, NodeId, ProcessId, VolumeId,
    genesis::{AxolotlGenesis, dev_genesis},
    registry_api::{NodeState, Order, Role, SignedOrder},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{control::OrderContext, *};

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Seen {
    counter: u64,
    registrations: usize,
    beats: Vec<u64>,
    streams: u64,
    /// What each stream was opened with.
    queries: Vec<String>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Seen>>);

fn authority() -> KeyPair {
    KeyPair::from_seed(&[99; 32])
}

fn me() -> KeyPair {
    KeyPair::from_seed(&[1; 32])
}

fn problem_of(status: StatusCode, kind: &str) -> Response {
    let body = Problem {
        kind: kind.to_owned(),
        title: "x".to_owned(),
        status: status.as_u16(),
        detail: "x".to_owned(),
        proof: None,
    };
    (status, Json(body)).into_response()
}

impl Fake {
    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) {
        let get = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let signature = RequestSignature::from_headers(get).unwrap();
        let path = uri.path_and_query().unwrap().as_str();
        signature
            .verify(method.as_str(), path, body, wall_ms())
            .unwrap();
        let mut seen = self.0.lock().unwrap();
        assert!(signature.counter > seen.counter, "counters must grow");
        seen.counter = signature.counter;
    }
}

fn genesis() -> serde_json::Value {
    let axolotl: AxolotlGenesis = serde_json::from_value(serde_json::json!({
        "validators": [Member {
            node_id: NodeId::numbered(1),
            public_key: me().public(),
            volume_id: VolumeId([1; 16]),
        }],
    }))
    .unwrap();
    dev_genesis(&axolotl, 1)
}

async fn register(
    State(fake): State<Fake>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    fake.check(&method, &uri, &headers, &body);
    let mut seen = fake.0.lock().unwrap();
    seen.registrations += 1;
    let n = seen.registrations;
    if n == 1 {
        assert_eq!(headers[HEADER_JOIN_TOKEN], "the-join-token-of-a-test");
        return problem_of(StatusCode::UNAUTHORIZED, problem::JOIN_TOKEN);
    }
    Json(RegisterResponse {
        node_id: NodeId::numbered(1),
        role: Role::Validator,
        genesis: (n > 2).then(genesis),
        waiting_for: usize::from(n == 2),
        message: "waiting for 1 more node".to_owned(),
        authority_key: authority().public(),
        heartbeat_interval_ms: 1,
    })
    .into_response()
}

async fn heartbeat(
    State(fake): State<Fake>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    fake.check(&method, &uri, &headers, &body);
    let beat: Heartbeat = serde_json::from_slice(&body).unwrap();
    let mut seen = fake.0.lock().unwrap();
    seen.beats.push(beat.seq);
    if seen.beats.len() == 2 {
        // The store was lost: the node must register again.
        return problem_of(StatusCode::NOT_FOUND, problem::UNKNOWN_NODE);
    }
    Json(HealthResponse {
        node_id: beat.node_id,
        counted: true,
        state: NodeState::Healthy,
        last_seen: String::new(),
        epoch: Epoch(3),
        role: Role::Validator,
        heartbeat_interval_ms: 0,
    })
    .into_response()
}

/// Each stream brings an old order, a forged one and a good one, then ends.
async fn control(
    State(fake): State<Fake>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> impl IntoResponse {
    fake.check(&method, &uri, &headers, b"");
    let mut seen = fake.0.lock().unwrap();
    seen.queries.push(uri.query().unwrap().to_owned());
    seen.streams += 1;
    let n = seen.streams;
    let stop = |why: &str| Order::Stop { reason: why.into() };
    let to = me().public();
    let forger = KeyPair::from_seed(&[5; 32]);
    [
        SignedOrder::new(&authority(), 7777, to, 1, stop("old")),
        SignedOrder::new(&forger, 7777, to, 100 * n, stop("forged")),
        SignedOrder::new(&authority(), 7777, to, 10 + n, stop("good")),
    ]
    .iter()
    .map(|order| {
        let data = serde_json::to_string(order).unwrap();
        format!(
            ": alive\n\nevent: order\nid: {}\ndata: {data}\n\n",
            order.number
        )
    })
    .collect::<String>()
}

async fn start() -> (Fake, RegistryClient, tempfile::TempDir) {
    let fake = Fake::default();
    let router = Router::new()
        .route("/register", post(register))
        .route("/health", post(heartbeat))
        .route("/control", get(control))
        .route(
            "/genesis",
            get(|| async { problem_of(StatusCode::NOT_FOUND, problem::FORMING) }),
        )
        .with_state(fake.clone());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("join_token");
    std::fs::write(&token, "the-join-token-of-a-test\n").unwrap();
    let client = RegistryClient::new(&url, me(), Some(token)).unwrap();
    (fake, client, dir)
}

fn request() -> RegisterRequest {
    RegisterRequest {
        node_id: None,
        is_leader: false,
        role: Role::Validator,
        volume_id: VolumeId([1; 16]),
        incarnation: 1,
        process: ProcessId([1; 16]),
        genesis_hash: None,
        addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
        http_url: "http://127.0.0.1:1".to_owned(),
        rpc_url: "http://127.0.0.1:2".to_owned(),
        version: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_registers_until_the_genesis_is_known() {
    let (fake, client, _dir) = start().await;
    assert!(client.genesis().await.unwrap().is_none());
    let mut told = Vec::new();
    let shutdown = CancellationToken::new();
    let progress = |text: &str| told.push(text.to_owned());
    let work = register_until_genesis(&client, request(), progress, &shutdown);
    let outcome = tokio::time::timeout(DEADLINE, work).await.unwrap();
    let outcome = outcome.unwrap().unwrap();
    assert_eq!(outcome.genesis.chain().id.0, 7777);
    assert_eq!(outcome.response.node_id, NodeId::numbered(1));
    assert_eq!(fake.0.lock().unwrap().registrations, 3);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("waiting for 1 more"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_node_registers_again_and_its_heartbeats_go_on() {
    let (fake, client, _dir) = start().await;
    let (updates, mut heard) = mpsc::channel(16);
    let (admitted, admission) = watch::channel(false);
    let shutdown = CancellationToken::new();
    let presence = Presence {
        client,
        authority: None,
        request,
        heartbeat: |seq| Heartbeat {
            node_id: NodeId::numbered(1),
            incarnation: 1,
            seq,
            height: Height(1),
            epoch: Epoch(0),
            leader: None,
            tx_pool_size: 0,
            peers: 0,
            reachable: vec![],
            syncing: false,
            last_commit_age_ms: None,
            voting: false,
            unfit: None,
            sealed: None,
            votes: Vec::new(),
            proposal_faults: Vec::new(),
        },
        updates,
        interval: Some(Duration::from_millis(20)),
        prompt: Arc::default(),
        admitted,
    };
    assert!(!*admission.borrow());
    let task = tokio::spawn(presence.run(shutdown.clone()));
    let mut registered = 0;
    let mut newer = false;
    while registered < 2 || !newer {
        match tokio::time::timeout(DEADLINE, heard.recv()).await.unwrap() {
            Some(PresenceUpdate::Registered(_)) => registered += 1,
            Some(PresenceUpdate::NewerEpoch(epoch)) => newer = epoch == Epoch(3),
            other => panic!("{other:?}"),
        }
    }
    assert!(*admission.borrow());
    shutdown.cancel();
    tokio::time::timeout(DEADLINE, task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let beats = fake.0.lock().unwrap().beats.clone();
    assert!(beats.is_sorted() && beats.len() >= 2, "{beats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_at_once_and_not_with_the_next_turn() {
    let (fake, client, _dir) = start().await;
    let (updates, _heard) = mpsc::channel(16);
    let shutdown = CancellationToken::new();
    let prompt = Arc::new(tokio::sync::Notify::new());
    let presence = Presence {
        client,
        authority: None,
        request,
        heartbeat: |seq| Heartbeat {
            node_id: NodeId::numbered(1),
            incarnation: 1,
            seq,
            height: Height(1),
            epoch: Epoch(3),
            leader: None,
            tx_pool_size: 0,
            peers: 0,
            reachable: vec![],
            syncing: false,
            last_commit_age_ms: None,
            voting: true,
            unfit: None,
            sealed: None,
            votes: Vec::new(),
            proposal_faults: Vec::new(),
        },
        updates,
        interval: Some(Duration::from_secs(3_600)),
        prompt: Arc::clone(&prompt),
        admitted: watch::Sender::new(false),
    };
    let task = tokio::spawn(presence.run(shutdown.clone()));
    // The second one is answered with a 404, after which the node registers and beats again.
    for wanted in [1, 3, 4, 5] {
        let reached = async {
            while fake.0.lock().unwrap().beats.len() < wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, reached).await;
        assert!(
            waited.is_ok(),
            "{wanted}: {:?}",
            fake.0.lock().unwrap().beats
        );
        prompt.notify_one();
    }
    shutdown.cancel();
    tokio::time::timeout(DEADLINE, task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_good_orders_arrive_each_once_and_numbered_durably() {
    let (fake, client, _dir) = start().await;
    let (orders, mut heard) = mpsc::channel(16);
    let shutdown = CancellationToken::new();
    let stored = Arc::new(Mutex::new(Vec::new()));
    let persist = {
        let stored = stored.clone();
        move |number| {
            stored.lock().unwrap().push(number);
            Ok(())
        }
    };
    let context = OrderContext {
        key: me().public(),
        authority: authority().public(),
        chain_id: Some(7777),
        last: 5,
    };
    let task = tokio::spawn(control::run(
        client,
        context,
        persist,
        orders,
        shutdown.clone(),
    ));
    for number in [11, 12, 13] {
        let order = tokio::time::timeout(DEADLINE, heard.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(order.number, number);
        assert!(
            stored.lock().unwrap().contains(&number),
            "handed on before it was durable"
        );
    }
    let queries = fake.0.lock().unwrap().queries.clone();
    assert_eq!(queries[..3], ["after=5", "after=11", "after=12"]);
    shutdown.cancel();
    tokio::time::timeout(DEADLINE, task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_registry_is_unreachable_and_a_bad_address_none() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = RegistryClient::new(&url, me(), None).unwrap();
    let error = client.discover().await.unwrap_err();
    assert!(
        matches!(error, CallError::Unreachable(_)) && error.retryable(),
        "{error}"
    );
    for bad in ["", "registry:9090", "https://x", "ftp://x"] {
        assert!(RegistryClient::new(bad, me(), None).is_err(), "{bad:?}");
    }
}
