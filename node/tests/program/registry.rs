//! A registry that is away, has a wrong clock, another token, another chain: the node says what it
//! waits for, and once it knows its chain it needs no registry.

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::ensure;
use axolotl_common::{
    Epoch, KeyPair, Member, NodeId,
    genesis::{DEV_CHAIN_ID, dev_genesis},
    registry_api::{
        DiscoverResponse, HealthResponse, Heartbeat, NodeState, Problem, RegisterRequest,
        RegisterResponse, problem, refuse_process,
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
    chain::{GENESIS_TIME, Solo},
    harness::{Start, free_port, until},
};

const HOUR_MS: i64 = 3_600_000;

/// What the stand-in thinks and has seen.
#[derive(Default)]
struct Mind {
    /// How far its clock is ahead.
    ahead_ms: i64,
    /// Token that it asks for.
    token: Option<String>,
    /// Refuses every node as one of another chain.
    other_chain: bool,
    /// Who signs that another process has the key of each node that comes.
    other_process: Option<KeyPair>,
    /// Hands out this genesis instead of one with the caller as its only validator.
    genesis: Option<Value>,
    registered: usize,
    /// Addresses of the last registration.
    addresses: Vec<String>,
    beats: usize,
}

/// A stand-in for the registry: signatures and clocks are checked as the real one does.
struct Registry {
    mind: Arc<Mutex<Mind>>,
    port: u16,
    task: JoinHandle<()>,
}

type Shared = State<Arc<Mutex<Mind>>>;

fn lock(mind: &Mutex<Mind>) -> MutexGuard<'_, Mind> {
    mind.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    async fn start(port: u16, mind: Mind) -> anyhow::Result<Self> {
        let mind = Arc::new(Mutex::new(mind));
        let router = Router::new()
            .route("/register", post(register))
            .route("/health", post(heartbeat))
            .route("/discover", get(discover))
            .with_state(Arc::clone(&mind));
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { mind, port, task })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn change(&self, change: impl FnOnce(&mut Mind)) {
        change(&mut lock(&self.mind));
    }

    /// Waits until it has heard this many heartbeats in all.
    async fn hears(&self, beats: usize) -> anyhow::Result<()> {
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
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<RequestSignature, Box<Response>> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall = i64::try_from(wall.unwrap_or_default().as_millis()).unwrap_or(0);
    let now = u64::try_from(wall + mind.ahead_ms).unwrap_or(0);
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let checked = RequestSignature::from_headers(header).and_then(|signature| {
        signature.verify("POST", uri.path(), body, now)?;
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
    let signature = match caller(&mind, &uri, &headers, &body) {
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
    if let Err(refusal) = caller(&mind, &uri, &headers, &body) {
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

async fn discover(State(_): Shared) -> Response {
    match serde_json::from_value::<DiscoverResponse>(json!({ "nodes": [] })) {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => refusal(StatusCode::BAD_REQUEST, "about:blank", error.to_string()),
    }
}

/// A node of this registry that has no genesis yet.
fn newcomer(home: &std::path::Path, url: &str) -> Start {
    Start::node(home)
        .env("DATA_DIR", home.join("data").display())
        .env("REGISTRY_URL", url)
        .env("HEARTBEAT_INTERVAL", "100ms")
}

#[tokio::test]
async fn a_registry_may_come_late_and_go_for_ever() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    let port = free_port()?;
    let start = newcomer(home.path(), &format!("http://127.0.0.1:{port}"));
    let node = start.spawn()?;
    node.waits_for("the registry cannot be reached").await?;
    let registry = Registry::start(port, Mind::default()).await?;
    node.ready().await?;
    registry.hears(3).await?;
    drop(registry);
    node.says("a heartbeat failed, tried again; blocks go on")
        .await?;
    node.goes_on(5).await?;
    node.stop(&data).await?;

    // Without a registry from the first moment on.
    let node = start.spawn()?;
    node.ready().await?;
    node.says("not registered, tried again; blocks go on")
        .await?;
    node.goes_on(5).await?;
    // And it comes back after all.
    let registry = Registry::start(port, Mind::default()).await?;
    registry.hears(3).await?;
    node.stop(&data).await?;
    Ok(())
}

#[tokio::test]
async fn of_port_0_the_port_that_was_got_is_advertised() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let registry = Registry::start(0, Mind::default()).await?;
    let data = home.path().join("data");
    let node = Start::node(home.path())
        .env("DATA_DIR", data.display())
        .env("REGISTRY_URL", registry.url())
        .spawn()?;
    node.up().await?;
    let addresses = lock(&registry.mind).addresses.clone();
    let port = addresses[0].rsplit('/').next().unwrap_or_default();
    ensure!(port.parse::<u16>()? > 0, "{addresses:?}");
    // Somebody listens there.
    tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await?;
    node.stop(&data).await?;
    Ok(())
}

#[tokio::test]
async fn clocks_an_hour_apart_are_told_and_do_not_stop_a_chain() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    for ahead_ms in [HOUR_MS, -HOUR_MS] {
        let mind = Mind {
            ahead_ms,
            ..Mind::default()
        };
        let registry = Registry::start(0, mind).await?;
        let node = newcomer(home.path(), &registry.url()).spawn()?;
        if ahead_ms > 0 {
            // It has no chain yet, and waits.
            node.waits_for("set the clock").await?;
            registry.change(|mind| mind.ahead_ms = 0);
            node.ready().await?;
            registry.hears(2).await?;
            registry.change(|mind| mind.ahead_ms = ahead_ms);
            node.says("a heartbeat failed, tried again; blocks go on")
                .await?;
        }
        node.ready().await?;
        node.says("set the clock").await?;
        node.goes_on(3).await?;
        node.stop(&data).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_told_and_may_be_put_right() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let token = home.path().join("join_token");
    let mind = Mind {
        token: Some("right".to_owned()),
        ..Mind::default()
    };
    let registry = Registry::start(0, mind).await?;
    let node = newcomer(home.path(), &registry.url())
        .env("JOIN_TOKEN_FILE", token.display())
        .spawn()?;
    node.waits_for("shows no join token").await?;
    node.waits_for(&format!(
        "JOIN_TOKEN_FILE={}: No such file",
        token.display()
    ))
    .await?;
    fs::write(&token, "wrong\n")?;
    node.waits_for("the join token is not this registry's")
        .await?;
    fs::write(&token, "right\n")?;
    node.ready().await?;
    assert!(
        !node.log().contains("wrong"),
        "a token in the log:\n{}",
        node.log()
    );
    node.stop(&home.path().join("data")).await?;
    Ok(())
}

#[tokio::test]
async fn a_registry_of_another_chain_changes_nothing() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let mind = Mind {
        other_chain: true,
        ..Mind::default()
    };
    let registry = Registry::start(0, mind).await?;
    // It knows its chain, but not its label: it needs the registry, which refuses for good.
    let nameless =
        newcomer(home.path(), &registry.url()).env("GENESIS_FILE", solo.genesis.display());
    let words = [
        "does not take this node",
        "another chain than this registry",
    ];
    nameless.refuses(1, &words).await?;
    // It hands out another genesis: refused, and the own one is kept.
    let other = tempfile::tempdir()?;
    let foreign = fs::read(Solo::new(other.path())?.genesis)?;
    registry.change(|mind| mind.other_chain = false);
    registry.change(|mind| mind.genesis = serde_json::from_slice(&foreign).ok());
    nameless
        .refuses(1, &["holds chain 7777", "was told to join"])
        .await?;
    assert_eq!(
        fs::read(solo.data.join("genesis.json"))?,
        fs::read(&solo.genesis)?
    );

    // It runs already: it says so, and goes on.
    registry.change(|mind| mind.other_chain = true);
    let node = solo.start().env("REGISTRY_URL", registry.url()).spawn()?;
    node.says("the registry does not take this node").await?;
    node.ready().await?;
    node.goes_on(3).await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_waits_while_another_process_has_its_key() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let (authority, stranger) = (KeyPair::from_seed(&[99; 32]), KeyPair::from_seed(&[98; 32]));
    let mut genesis: Value = serde_json::from_slice(&fs::read(&solo.genesis)?)?;
    genesis["axolotl"]["authorityKey"] = json!(authority.public());
    fs::write(&solo.genesis, genesis.to_string())?;
    let mind = Mind {
        other_process: Some(stranger),
        ..Mind::default()
    };
    let registry = Registry::start(0, mind).await?;
    let start = || solo.start().env("REGISTRY_URL", registry.url()).spawn();
    // Who is not the authority of this chain stops nobody.
    let node = start()?;
    node.says("the registry does not take this node").await?;
    node.ready().await?;
    node.goes_on(3).await?;
    node.stop(&solo.data).await?;

    // It can be stopped while it waits, and has signed nothing.
    registry.change(|mind| mind.other_process = Some(authority.clone()));
    let node = start()?;
    node.waits_for("alive in another process").await?;
    assert!(!node.log().contains("consensus begins"), "{}", node.log());
    node.stop(&solo.data).await?;

    // The other one ends: it goes on.
    let node = start()?;
    node.waits_for("alive in another process").await?;
    registry.change(|mind| mind.other_process = None);
    node.ready().await?;
    node.goes_on(3).await?;
    node.stop(&solo.data).await?;

    // The other one stays: it ends.
    registry.change(|mind| mind.other_process = Some(authority.clone()));
    let words = ["does not take this node", "alive in another process"];
    solo.start()
        .env("REGISTRY_URL", registry.url())
        .refuses(1, &words)
        .await?;
    Ok(())
}
