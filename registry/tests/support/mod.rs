//! What the tests of the registry share: a registry on port 0, signed calls, waiting.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::{
    fmt::Debug,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axolotl_common::{
    Epoch, Height, KeyPair, NodeId, ProcessId, VolumeId,
    registry_api::{Heartbeat, Problem, RegisterRequest, RegisterResponse, Role, StatusResponse},
    signed_request::{HEADER_JOIN_TOKEN, RequestSignature},
};
use axolotl_registry::{
    app::App,
    config::{Cli, Command, Config},
};
use clap::Parser;
use reqwest::{Method, StatusCode};
use tokio::{sync::oneshot, task::JoinHandle};

/// Longest time that anything may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

static COUNTER: AtomicU64 = AtomicU64::new(0);

pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

/// Above every counter before.
pub fn next_counter() -> u64 {
    COUNTER.fetch_max(now_ms(), Ordering::Relaxed);
    COUNTER.fetch_add(1, Ordering::Relaxed) + 1
}

/// Flags of a registry that notices silence after a time, and soon after it.
pub fn unhealthy_after(time: &str) -> [&str; 4] {
    [
        "--unhealthy-after",
        time,
        "--health-check-interval",
        "100ms",
    ]
}

/// Asks again and again until there is an answer; fails with what was seen last.
pub async fn wait_for<T, S: Debug, F: Future<Output = Result<T, S>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let begin = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(
                begin.elapsed() < DEADLINE,
                "{what} did not come about in {DEADLINE:?}; seen last: {seen:#?}"
            ),
        }
        // The pause of the poll.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn config(dir: &Path, flags: &[&str]) -> Config {
    let data = dir.join("data");
    let data = data.to_str().unwrap();
    let words = [
        "axolotl-registry",
        "serve",
        "--port",
        "0",
        "--data-dir",
        data,
    ];
    let cli = Cli::try_parse_from(words.iter().chain(flags)).unwrap();
    let Command::Serve(args) = cli.command else {
        panic!("not serve");
    };
    Config::read(&args).unwrap()
}

/// A registry inside this process.
pub struct TestRegistry {
    pub address: SocketAddr,
    pub dir: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl TestRegistry {
    pub async fn start(dir: &Path, flags: &[&str]) -> Self {
        // The store of an earlier registry in this process is closed a moment after its end.
        let app = wait_for("a start", || async { App::start(config(dir, flags)).await }).await;
        let address = app.address();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(app.run_until(async {
            let _ = stopped.await;
        }));
        Self {
            address,
            dir: dir.to_owned(),
            stop,
            task,
        }
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    pub fn api(&self) -> Calls {
        Calls::new(self.address, &self.dir)
    }
}

/// Calls of a registry.
#[derive(Clone)]
pub struct Calls {
    pub http: reqwest::Client,
    pub url: String,
    pub join_token: PathBuf,
    pub admin_token: PathBuf,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub kind: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The problem document, which must have this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Problem {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{text}");
        assert_eq!(self.kind, "application/problem+json", "{text}");
        let problem: Problem = self.json();
        assert_eq!(problem.status, status);
        assert!(!problem.detail.is_empty());
        problem
    }
}

impl Calls {
    pub fn new(address: SocketAddr, dir: &Path) -> Self {
        Self {
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(DEADLINE)
                .build()
                .unwrap(),
            url: format!("http://{address}"),
            join_token: dir.join("data/join_token"),
            admin_token: dir.join("data/admin_token"),
        }
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let kind = response.headers().get("content-type");
        Ok(Answer {
            status: response.status(),
            kind: kind.map_or("", |v| v.to_str().unwrap()).to_owned(),
            body: response.bytes().await?.to_vec(),
        })
    }

    pub async fn get(&self, path: &str) -> Answer {
        let request = self.http.get(format!("{}{path}", self.url));
        self.send(request).await.unwrap()
    }

    pub async fn status(&self) -> StatusResponse {
        self.get("/status").await.json()
    }

    pub fn signed_at(
        &self,
        key: &KeyPair,
        method: Method,
        path: &str,
        body: &[u8],
        timestamp_ms: u64,
        counter: u64,
    ) -> reqwest::RequestBuilder {
        let signature =
            RequestSignature::new(key, method.as_str(), path, body, timestamp_ms, counter);
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .body(body.to_vec())
            .header("content-type", "application/json");
        for (name, value) in signature.headers() {
            request = request.header(name, value);
        }
        request
    }

    /// A signed GET, of now.
    pub fn signed_get(&self, key: &KeyPair, path: &str) -> reqwest::RequestBuilder {
        self.signed_at(key, Method::GET, path, b"", now_ms(), next_counter())
    }

    pub fn signed(
        &self,
        key: &KeyPair,
        method: Method,
        path: &str,
        body: &impl serde::Serialize,
    ) -> reqwest::RequestBuilder {
        let body = serde_json::to_vec(body).unwrap();
        self.signed_at(key, method, path, &body, now_ms(), next_counter())
    }

    pub async fn try_register(
        &self,
        key: &KeyPair,
        request: &RegisterRequest,
    ) -> Result<Answer, reqwest::Error> {
        let token = std::fs::read_to_string(&self.join_token).unwrap_or_default();
        let request = self
            .signed(key, Method::POST, "/register", request)
            .header(HEADER_JOIN_TOKEN, token);
        self.send(request).await
    }

    pub async fn register(&self, key: &KeyPair, request: &RegisterRequest) -> Answer {
        self.try_register(key, request).await.unwrap()
    }

    pub async fn beat(&self, key: &KeyPair, beat: &Heartbeat) -> Answer {
        let request = self.signed(key, Method::POST, "/health", beat);
        self.send(request).await.unwrap()
    }

    pub async fn admin(&self, path: &str) -> Answer {
        let token = std::fs::read_to_string(&self.admin_token).unwrap();
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .bearer_auth(token);
        self.send(request).await.unwrap()
    }

    /// Registers `n` nodes as node1 to node`n`.
    pub async fn register_all(&self, n: u8) {
        for i in 1..=n {
            let answer = self.register(&key(i), &request(i)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let answer: RegisterResponse = answer.json();
            assert_eq!(answer.node_id, NodeId::numbered(i.into()));
        }
    }
}

pub fn key(i: u8) -> KeyPair {
    KeyPair::from_seed(&[i; 32])
}

pub fn request(i: u8) -> RegisterRequest {
    RegisterRequest {
        node_id: Some(NodeId::numbered(i.into())),
        is_leader: i == 1,
        role: Role::Validator,
        volume_id: VolumeId([i; 16]),
        incarnation: 1,
        process: ProcessId([i; 16]),
        genesis_hash: None,
        addresses: vec![format!("/ip4/127.0.0.1/tcp/{}", 50_050 + u16::from(i))],
        http_url: format!("http://127.0.0.1:{}", 8_079 + u16::from(i)),
        rpc_url: format!("http://127.0.0.1:{}", 8_544 + u16::from(i)),
        version: "test".to_owned(),
    }
}

pub fn beat(i: u8, seq: u64, height: u64) -> Heartbeat {
    Heartbeat {
        node_id: NodeId::numbered(i.into()),
        incarnation: 1,
        seq,
        height: Height(height),
        epoch: Epoch(0),
        leader: (height > 0).then(|| key(2).public()),
        tx_pool_size: 3,
        peers: 3,
        reachable: Vec::new(),
        syncing: false,
        last_commit_age_ms: None,
        voting: true,
        unfit: None,
        sealed: None,
        votes: Vec::new(),
        proposal_faults: Vec::new(),
    }
}
