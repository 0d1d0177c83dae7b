//! The way to the Docker engine: one client, a time limit on every call, faults in words that say
//! what to do.

use std::{
    error::Error as _,
    future::Future,
    io,
    os::unix::fs::MetadataExt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error};
use tokio::time::timeout;

use crate::runtime::RuntimeError;

/// An ordinary call may take this long.
pub(super) const CALL: Duration = Duration::from_secs(5);
/// Longest wait of the client itself: above every limit that is set here.
const CLIENT_PATIENCE_S: u64 = 60;
/// How the address of a local engine begins.
const UNIX: &str = "unix://";

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// It cannot be reached; the text says what to do.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the Docker engine at {host} did not answer within {} s; is it overloaded?", patience.as_secs())]
    Silent {
        /// Its address.
        host: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// It refused.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// Its answer made no sense.
    #[error("the Docker engine's answer was not understood: {0}")]
    Strange(Error),
}

impl EngineError {
    /// There is no such container, image, network or volume.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// A name is taken, or something is in use.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }

    /// Somebody else has a port that was to be published.
    pub(super) fn is_port_taken(&self) -> bool {
        let taken = ["port is already allocated", "address already in use"];
        matches!(self, Self::Refused { message, .. } if taken.iter().any(|words| message.contains(words)))
    }

    /// Whether what was asked for may be happening all the same.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }

    /// As the error of something that was tried.
    pub(super) fn during(self, what: impl Into<String>) -> RuntimeError {
        RuntimeError::new(what, self)
    }
}

/// The engine, connected when it is needed: it may come and go.
pub(super) struct Engine {
    host: String,
    client: Mutex<Option<Docker>>,
}

impl Engine {
    /// The engine at an address as in `DOCKER_HOST`.
    pub(super) fn new(host: String) -> Self {
        Self {
            host,
            client: Mutex::default(),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Docker>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that speaks the engine's version of the API.
    pub(super) async fn client(&self) -> Result<Docker, EngineError> {
        if let Some(client) = self.kept().clone() {
            return Ok(client);
        }
        let connected = match self.host.strip_prefix(UNIX) {
            Some(_) => {
                Docker::connect_with_unix(&self.host, CLIENT_PATIENCE_S, API_DEFAULT_VERSION)
            }
            None => Docker::connect_with_http(&self.host, CLIENT_PATIENCE_S, API_DEFAULT_VERSION),
        };
        let client = connected.map_err(|e| self.explain(e))?;
        let client = self.timed(CALL, client.negotiate_version()).await?;
        *self.kept() = Some(client.clone());
        Ok(client)
    }

    /// A call with the usual limit.
    pub(super) async fn call<T, F>(&self, ask: impl FnOnce(Docker) -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.call_within(CALL, ask).await
    }

    /// A call with a limit of its own.
    pub(super) async fn call_within<T, F>(
        &self,
        patience: Duration,
        ask: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let client = self.client().await?;
        let answer = self.timed(patience, ask(client)).await;
        if let Err(EngineError::Unreachable(_)) = &answer {
            // What comes back may be another version.
            *self.kept() = None;
        }
        answer
    }

    async fn timed<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        match timeout(patience, call).await {
            Ok(answer) => answer.map_err(|e| self.explain(e)),
            Err(_) => Err(EngineError::Silent {
                host: self.host.clone(),
                patience,
            }),
        }
    }

    /// An error of the client in words that say what to do.
    pub(super) fn explain(&self, error: Error) -> EngineError {
        let host = &self.host;
        let cause = match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => {
                return EngineError::Refused {
                    status: status_code,
                    message: message.trim().to_owned(),
                };
            }
            Error::SocketNotFoundError(path) => {
                return EngineError::Unreachable(format!(
                    "there is no {path}: start the Docker engine, and if this registry is a \
                     container, mount the engine's socket into it; DOCKER_HOST names another one"
                ));
            }
            Error::RequestTimeoutError => {
                return EngineError::Silent {
                    host: host.clone(),
                    patience: Duration::from_secs(CLIENT_PATIENCE_S),
                };
            }
            Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } => io_cause(&error),
            Error::IOError { err } => Some((err.kind(), err.to_string())),
            other => return EngineError::Strange(other),
        };
        EngineError::Unreachable(match cause {
            Some((io::ErrorKind::PermissionDenied, _)) => self.not_permitted(),
            Some((_, why)) => {
                format!("no Docker engine answers at {host} ({why}); start it, or set DOCKER_HOST")
            }
            None => format!(
                "no Docker engine answers at {host} (the connection broke); start it, or set \
                 DOCKER_HOST"
            ),
        })
    }

    /// What to do when this process may not use the socket.
    fn not_permitted(&self) -> String {
        let path = self.host.strip_prefix(UNIX).unwrap_or(&self.host);
        match std::fs::metadata(path) {
            Ok(socket) => format!(
                "this process may not use {path}, which belongs to group {gid}. In containers: set \
                 DOCKER_GID={gid} (a line in the file .env beside docker-compose.registry.yml) and \
                 run docker-compose up again; otherwise join that group",
                gid = socket.gid()
            ),
            Err(e) => format!("this process may not use {path} ({e})"),
        }
    }
}

/// The error of the operating system below an error of the client.
fn io_cause(error: &Error) -> Option<(io::ErrorKind, String)> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some((error.kind(), error.to_string()));
        }
        cause = error.source();
    }
    None
}
