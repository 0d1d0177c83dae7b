//! A stand-in for the registry, whose answers a test decides.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::ensure;
use axolotl_common::{
    Epoch, Height, KeyPair, Member, NodeId, PublicKey,
    genesis::{DEV_CHAIN_ID, dev_genesis},
    registry_api::{
        ControlAnswer, DiscoverResponse, DiscoveredNode, HealthResponse, Heartbeat, NodeState,
        Problem, RegisterRequest, RegisterResponse, Role, SignedOrder, problem, refuse_process,
    },
    signed_request::{HEADER_JOIN_TOKEN, RequestSignature, RequestSignatureError},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    chain::GENESIS_TIME,
    harness::{Start, until},
};

/// What the stand-in thinks and has seen.
#[derive(Default)]
pub(crate) struct Mind {
    /// How far its clock is ahead.
    pub(crate) ahead_ms: i64,
    /// Token that it asks for.
    pub(crate) token: Option<String>,
    /// Refuses every node as one of another chain.
    pub(crate) other_chain: bool,
    /// Who signs that another process has the key of each node that comes.
    pub(crate) other_process: Option<KeyPair>,
    /// Hands out this genesis instead of one with the caller as its only validator.
    pub(crate) genesis: Option<Value>,
    pub(crate) registered: usize,
    /// Addresses of the last registration.
    pub(crate) addresses: Vec<String>,
    pub(crate) beats: usize,
    /// Nodes that `/discover` lists, by key and address.
    pub(crate) discovered: Vec<(PublicKey, String)>,
    /// How often it was asked for them.
    pub(crate) discoveries: usize,
    /// What each control stream brings, which then ends.
    pub(crate) orders: Vec<SignedOrder>,
    /// What became of orders.
    pub(crate) answers: Vec<ControlAnswer>,
}

/// A stand-in for the registry: signatures and clocks are checked as the real one does.
pub(crate) struct Registry {
    pub(crate) mind: Arc<Mutex<Mind>>,
    port: u16,
    task: JoinHandle<()>,
}

type Shared = State<Arc<Mutex<Mind>>>;

pub(crate) fn lock(mind: &Mutex<Mind>) -> MutexGuard<'_, Mind> {
    mind.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Starts it on a port, or on one that the system chooses.
    pub(crate) async fn start(port: u16, mind: Mind) -> anyhow::Result<Self> {
        let mind = Arc::new(Mutex::new(mind));
        let router = Router::new()
            .route("/register", post(register))
            .route("/health", post(heartbeat))
            .route("/discover", get(discover))
            .route("/control", get(control))
            .route("/control/answers", post(answers))
            .with_state(Arc::clone(&mind));
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { mind, port, task })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes its mind.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Mind)) {
        change(&mut lock(&self.mind));
    }

    /// Waits until it has heard this many heartbeats in all.
    pub(crate) async fn hears(&self, beats: usize) -> anyhow::Result<()> {
        until(&format!("{beats} heartbeats"), async || {
            let heard = lock(&self.mind).beats;
            ensure!(heard >= beats, "{heard}");
            Ok(())
        })
        .await
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn refusal(status: StatusCode, kind: &str, detail: String) -> Response {
    let body = Problem {
        kind: kind.to_owned(),
        title: String::new(),
        status: status.as_u16(),
        detail,
        proof: None,
    };
    (status, Json(body)).into_response()
}

/// Who called, if the call is signed and the clocks agree.
fn caller(
    mind: &Mind,
    method: &str,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<RequestSignature, Box<Response>> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall = i64::try_from(wall.unwrap_or_default().as_millis()).unwrap_or(0);
    let now = u64::try_from(wall + mind.ahead_ms).unwrap_or(0);
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let checked = RequestSignature::from_headers(header).and_then(|signature| {
        signature.verify(method, path, body, now)?;
        Ok(signature)
    });
    checked.map_err(|error| {
        let kind = match error {
            RequestSignatureError::Clock { .. } => problem::CLOCK,
            _ => "about:blank",
        };
        Box::new(refusal(StatusCode::UNAUTHORIZED, kind, error.to_string()))
    })
}

async fn register(State(mind): Shared, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut mind = lock(&mind);
    let signature = match caller(&mind, "POST", &uri, &headers, &body) {
        Ok(signature) => signature,
        Err(refusal) => return *refusal,
    };
    let shown = headers.get(HEADER_JOIN_TOKEN).map(|value| value.as_bytes());
    if let Some(token) = &mind.token
        && shown != Some(token.as_bytes())
    {
        let detail = match shown {
            None => "this key is not known here and shows no join token",
            Some(_) => "the join token is not this registry's",
        };
        return refusal(StatusCode::UNAUTHORIZED, problem::JOIN_TOKEN, detail.into());
    }
    if mind.other_chain {
        let detail = "the node belongs to another chain than this registry".to_owned();
        return refusal(StatusCode::CONFLICT, problem::OTHER_CHAIN, detail);
    }
    let request: RegisterRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, "about:blank", error.to_string()),
    };
    if let Some(authority) = &mind.other_process {
        let key = &signature.key;
        let proof = refuse_process(authority, DEV_CHAIN_ID, key, &request.process);
        let body = Problem {
            kind: problem::OTHER_PROCESS.to_owned(),
            title: String::new(),
            status: StatusCode::CONFLICT.as_u16(),
            detail: "the node is alive in another process".to_owned(),
            proof: Some(Box::new(proof)),
        };
        return (StatusCode::CONFLICT, Json(body)).into_response();
    }
    mind.registered += 1;
    mind.addresses = request.addresses.clone();
    let node_id = NodeId::numbered(1);
    let member = Member {
        node_id: node_id.clone(),
        public_key: signature.key,
        volume_id: request.volume_id,
    };
    let axolotl = json!({
        "validators": [member],
        "timing": { "emptyBlockIntervalMs": 50 },
    });
    let genesis = match (&mind.genesis, serde_json::from_value(axolotl)) {
        (Some(genesis), _) => genesis.clone(),
        (None, Ok(axolotl)) => dev_genesis(&axolotl, GENESIS_TIME),
        (None, Err(error)) => {
            return refusal(StatusCode::BAD_REQUEST, "about:blank", error.to_string());
        }
    };
    Json(RegisterResponse {
        node_id,
        role: request.role,
        genesis: Some(genesis),
        waiting_for: 0,
        message: "welcome".to_owned(),
        authority_key: KeyPair::from_seed(&[9; 32]).public(),
        heartbeat_interval_ms: 100,
    })
    .into_response()
}

async fn heartbeat(State(mind): Shared, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut mind = lock(&mind);
    if let Err(refusal) = caller(&mind, "POST", &uri, &headers, &body) {
        return *refusal;
    }
    let beat: Heartbeat = match serde_json::from_slice(&body) {
        Ok(beat) => beat,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, "about:blank", error.to_string()),
    };
    mind.beats += 1;
    let answer = json!({
        "node_id": beat.node_id,
        "counted": true,
        "state": NodeState::Healthy,
        "last_seen": "",
        "epoch": Epoch(0),
        "heartbeat_interval_ms": 100,
    });
    match serde_json::from_value::<HealthResponse>(answer) {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => refusal(StatusCode::BAD_REQUEST, "about:blank", error.to_string()),
    }
}

async fn discover(State(mind): Shared) -> Response {
    let mut mind = lock(&mind);
    mind.discoveries += 1;
    let entry = |(key, address): &(PublicKey, String)| DiscoveredNode {
        id: NodeId::numbered(9),
        peer_id: key.peer_id(),
        address: String::new(),
        port: 0,
        multiaddrs: vec![address.clone()],
        role: Role::Learner,
        is_leader: false,
        height: Height(0),
    };
    let nodes: Vec<DiscoveredNode> = mind.discovered.iter().map(entry).collect();
    Json(DiscoverResponse {
        count: nodes.len(),
        nodes,
        genesis_hash: None,
    })
    .into_response()
}

async fn control(State(mind): Shared, uri: Uri, headers: HeaderMap) -> Response {
    let mind = lock(&mind);
    if let Err(refusal) = caller(&mind, "GET", &uri, &headers, b"") {
        return *refusal;
    }
    let event = |order: &SignedOrder| {
        let data = serde_json::to_string(order).unwrap_or_default();
        format!("event: order\nid: {}\ndata: {data}\n\n", order.number)
    };
    // An empty stream would count as a failure, and be opened again later and later.
    let events: String = mind.orders.iter().map(event).collect();
    format!(": alive\n\n{events}").into_response()
}

async fn answers(State(mind): Shared, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut mind = lock(&mind);
    if let Err(refusal) = caller(&mind, "POST", &uri, &headers, &body) {
        return *refusal;
    }
    match serde_json::from_slice(&body) {
        Ok(answer) => mind.answers.push(answer),
        Err(error) => return refusal(StatusCode::BAD_REQUEST, "about:blank", error.to_string()),
    }
    Json(json!({ "message": "noted" })).into_response()
}

/// A node of this registry that has no genesis yet.
pub(crate) fn newcomer(home: &std::path::Path, url: &str) -> Start {
    Start::node(home)
        .env("DATA_DIR", home.join("data").display())
        .env("REGISTRY_URL", url)
        .env("HEARTBEAT_INTERVAL", "100ms")
}
