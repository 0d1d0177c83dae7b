//! The node's side of the registry's HTTP contract.
//!
//! [`RegistryClient`] signs and sends single calls; [`presence`] keeps the node registered and its
//! heartbeats going; [`control`] reads orders. Every call has a timeout of [`CALL_TIMEOUT`]; none
//! of this ever stops the node from ordering transactions: with the registry gone it only retries.

pub mod control;
pub mod presence;
mod sse;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axolotl_common::{
    KeyPair, PublicKey,
    genesis::{GenesisDocument, GenesisError},
    registry_api::{
        ConsensusFailure, ControlAnswer, DiscoverResponse, HealthResponse, Heartbeat,
        MembershipResponse, Problem, RegisterRequest, RegisterResponse, control_path, problem,
    },
    signed_request::{HEADER_JOIN_TOKEN, RequestSignature},
};
use reqwest::{Method, Response, StatusCode, Url, header};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Mutex;

pub use presence::{
    Authority, Backoff, Presence, PresenceUpdate, RegisterOutcome, register_until_alone,
    register_until_genesis,
};

/// A call, connecting included, must be answered in this time.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer that is read, bytes: a genesis document with many accounts.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Why a call brought nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The registry answered, and refused.
    #[error("the registry refuses ({}): {}", .0.status, .0.detail)]
    Refused(Problem),
    /// No answer.
    #[error("the registry cannot be reached: {0}")]
    Unreachable(String),
    /// An answer that cannot be read.
    #[error("the registry's answer cannot be read: {0}")]
    Unreadable(String),
}

impl CallError {
    /// Whether the same call may succeed later without anything being changed at this node.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Unreadable(_) => true,
            // 401: a clock that is being set, a token file that is being written.
            Self::Refused(problem) => {
                problem.status >= 500
                    || matches!(problem.status, 401 | 403 | 404 | 408 | 429)
                    || problem.kind == problem::REPLAY
            }
        }
    }

    /// Whether the registry does not know this node (any more): it must register.
    pub fn unknown_node(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.kind == problem::UNKNOWN_NODE)
    }
}

/// Why there is no client.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address of a registry.
    #[error("REGISTRY_URL={url:?}: {why}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up: {0}")]
    Setup(String),
}

struct Inner {
    http: reqwest::Client,
    base: Url,
    key: KeyPair,
    join_token_file: Option<PathBuf>,
    /// Counter of the last signed call. Held while a signed call is under way, because the
    /// registry takes counters only in order.
    counter: Mutex<u64>,
}

/// Calls one registry in the name of one key. Clones are cheap and share the counter.
#[derive(Clone)]
pub struct RegistryClient(Arc<Inner>);

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn unreachable(error: &reqwest::Error) -> CallError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    if let Some(url) = error.url() {
        text = format!("{}: {text}", url.origin().ascii_serialization());
    }
    CallError::Unreachable(text)
}

impl RegistryClient {
    /// A client of the registry at `url` (`http://host:port`). The join token is read from its
    /// file at each registration: it may be written after the node has started.
    ///
    /// # Errors
    /// When the address is none, or not plain HTTP.
    pub fn new(
        url: &str,
        key: KeyPair,
        join_token_file: Option<PathBuf>,
    ) -> Result<Self, ClientError> {
        let fault = |why: String| ClientError::Url {
            url: url.to_owned(),
            why,
        };
        let base = Url::parse(url).map_err(|e| fault(e.to_string()))?;
        if base.scheme() != "http" || base.host_str().is_none() {
            return Err(fault("expected http://host:port".to_owned()));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CALL_TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("axolotl/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| ClientError::Setup(e.to_string()))?;
        Ok(Self(Arc::new(Inner {
            http,
            base,
            key,
            join_token_file,
            counter: Mutex::new(0),
        })))
    }

    /// The key in whose name it calls.
    pub fn public_key(&self) -> PublicKey {
        self.0.key.public()
    }

    /// Where the registry is.
    pub fn url(&self) -> &Url {
        &self.0.base
    }

    /// The join token; or why the file that should hold it does not.
    fn join_token(&self) -> Result<Option<String>, String> {
        let Some(file) = self.0.join_token_file.as_ref() else {
            return Ok(None);
        };
        let fault = |why: String| Err(format!("JOIN_TOKEN_FILE={}: {why}", file.display()));
        match std::fs::read_to_string(file) {
            Err(error) => fault(error.to_string()),
            Ok(text) => match text.trim() {
                token if !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) => {
                    Ok(Some(token.to_owned()))
                }
                _ => fault("expected a token on one line".to_owned()),
            },
        }
    }

    fn endpoint(&self, path: &str) -> Result<Url, CallError> {
        let joined = self.0.base.join(path);
        joined.map_err(|e| CallError::Unreachable(e.to_string()))
    }

    /// Sends a signed request and returns when its head was answered.
    async fn send_signed(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        token: Option<String>,
    ) -> Result<Response, CallError> {
        let mut counter = self.0.counter.lock().await;
        let now_ms = wall_ms();
        *counter = (*counter + 1).max(now_ms);
        let signed_body = body.as_deref().unwrap_or_default();
        let signature = RequestSignature::new(
            &self.0.key,
            method.as_str(),
            path,
            signed_body,
            now_ms,
            *counter,
        );
        let mut request = self.0.http.request(method, self.endpoint(path)?);
        for (name, value) in signature.headers() {
            request = request.header(name, value);
        }
        if let Some(token) = token {
            request = request.header(HEADER_JOIN_TOKEN, token);
        }
        if let Some(body) = body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        let answer = tokio::time::timeout(CALL_TIMEOUT, request.send()).await;
        drop(counter);
        let response = answer
            .map_err(|_| CallError::Unreachable("no answer in time".to_owned()))?
            .map_err(|e| unreachable(&e))?;
        refused(response).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let request = self.0.http.get(self.endpoint(path)?).timeout(CALL_TIMEOUT);
        let response = request.send().await.map_err(|e| unreachable(&e))?;
        read(refused(response).await?).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        token: Option<String>,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).map_err(|e| CallError::Unreadable(e.to_string()))?;
        let response = self
            .send_signed(Method::POST, path, Some(body), token)
            .await?;
        read(response).await
    }

    /// Announces the node.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn register(&self, request: &RegisterRequest) -> Result<RegisterResponse, CallError> {
        let (token, fault) = match self.join_token() {
            Ok(token) => (token, None),
            Err(fault) => (None, Some(fault)),
        };
        let mut answer = self.post("/register", request, token).await;
        // Only a key that the registry does not know needs the token: then its lack is told.
        if let (Err(CallError::Refused(problem)), Some(fault)) = (&mut answer, fault)
            && problem.kind == problem::JOIN_TOKEN
        {
            problem.detail = format!("{}; {fault}", problem.detail);
        }
        answer
    }

    /// Sends a heartbeat.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn heartbeat(&self, beat: &Heartbeat) -> Result<HealthResponse, CallError> {
        self.post("/health", beat, None).await
    }

    /// Nodes that the registry hears.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn discover(&self) -> Result<DiscoverResponse, CallError> {
        self.get("/discover").await
    }

    /// The genesis document; `None` while it is forming.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn genesis(&self) -> Result<Option<GenesisDocument>, CallError> {
        match self.get::<serde_json::Value>("/genesis").await {
            Ok(value) => GenesisDocument::from_value(value)
                .map(Some)
                .map_err(|e: GenesisError| CallError::Unreadable(e.to_string())),
            Err(CallError::Refused(p)) if p.kind == problem::FORMING => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every epoch record.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn membership(&self) -> Result<MembershipResponse, CallError> {
        self.get("/membership").await
    }

    /// Reports that no block comes about; returns what the registry does about it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn report_failure(&self, report: &ConsensusFailure) -> Result<String, CallError> {
        let answer = self.post("/consensus-failure", report, None).await;
        answer.map(|accepted: axolotl_common::registry_api::Accepted| accepted.message)
    }

    /// Answers an order.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn answer(&self, answer: &ControlAnswer) -> Result<(), CallError> {
        let accepted = self.post("/control/answers", answer, None).await;
        accepted.map(|_: axolotl_common::registry_api::Accepted| ())
    }

    /// Opens the control stream, for orders with numbers above `after`.
    async fn open_control(&self, after: u64) -> Result<Response, CallError> {
        let path = control_path(after);
        self.send_signed(Method::GET, &path, None, None).await
    }
}

/// Turns an answer that is no success into its problem.
async fn refused(response: Response) -> Result<Response, CallError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = tokio::time::timeout(CALL_TIMEOUT, body(response, 64 << 10)).await;
    let problem = body
        .ok()
        .and_then(Result::ok)
        .and_then(|body| serde_json::from_slice::<Problem>(&body).ok());
    Err(CallError::Refused(
        problem.unwrap_or_else(|| blank_problem(status)),
    ))
}

fn blank_problem(status: StatusCode) -> Problem {
    Problem {
        kind: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail: format!("status {status} without a problem document"),
        proof: None,
    }
}

async fn body(mut response: Response, max_bytes: usize) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| unreachable(&e))? {
        if body.len() + chunk.len() > max_bytes {
            return Err(CallError::Unreadable(format!("above {max_bytes} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, CallError> {
    let body = tokio::time::timeout(CALL_TIMEOUT, body(response, MAX_ANSWER_BYTES)).await;
    let body = body.map_err(|_| CallError::Unreachable("no whole answer in time".to_owned()))??;
    serde_json::from_slice(&body).map_err(|e| CallError::Unreadable(e.to_string()))
}
