//! What `doctor` sees.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use axolotl_common::{
    Hash,
    genesis::GenesisDocument,
    registry_api::{NodeSelfStatus, StatusResponse},
};
use tokio::net::{TcpStream, lookup_host};

use super::DoctorArgs;
use crate::{
    cli::{
        self,
        json_rpc::{JsonRpc, RpcError},
        nodes::{self, Membership},
        options::asked_at,
        registry,
    },
    storage::{data_dir::MAX_GENESIS_BYTES, files::read_if_there},
};

/// Everything that is judged.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The registry's answer; `None` when the node lives without one.
    pub registry: Option<RegistryFacts>,
    /// The node's ports.
    pub ports: PortFacts,
    /// What the node says about itself and its epoch.
    pub node: Result<(NodeSelfStatus, Members), String>,
    /// The disk.
    pub disk: DiskFacts,
    /// Hash of the genesis in the data directory, if a directory is named and holds one.
    pub stored_genesis: Option<Result<Hash, String>>,
}

/// The validators, and how many must agree.
#[derive(Clone, Debug)]
pub struct Members {
    /// Votes that finalise a block.
    pub quorum: usize,
    /// Keys of the validators.
    pub keys: Vec<axolotl_common::PublicKey>,
}

/// What is known of the registry.
#[derive(Clone, Debug)]
pub struct RegistryFacts {
    /// Its address.
    pub url: String,
    /// Its status.
    pub status: Result<Box<StatusResponse>, String>,
    /// How far this machine's clock is ahead of the registry's, milliseconds.
    pub ahead_ms: Option<i64>,
    /// Addresses of its name; the reason when there is none.
    pub resolved: Result<Vec<IpAddr>, String>,
    /// Whether its name is a name, not an address.
    pub is_name: bool,
    /// Host names of nodes that this machine cannot resolve.
    pub unresolved_nodes: Vec<String>,
}

/// What listens where.
#[derive(Clone, Debug)]
pub struct PortFacts {
    /// Read-only HTTP: port, and what answered.
    pub http: (u16, Listener),
    /// JSON-RPC.
    pub rpc: (u16, Listener),
    /// libp2p.
    pub p2p: (u16, Listener),
}

/// What a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The node's.
    Node,
    /// Nothing answers.
    Nobody,
    /// Something else, in words.
    Other(String),
}

/// The disk below a directory.
#[derive(Clone, Debug)]
pub struct DiskFacts {
    /// The directory.
    pub path: PathBuf,
    /// Whether it was named as a data directory.
    pub is_data_dir: bool,
    /// Free bytes; the reason when they are not known.
    pub free_bytes: Result<u64, String>,
    /// Whether this user may write there.
    pub writable: bool,
}

/// Looks at everything.
///
/// # Errors
/// When the HTTP client cannot be set up.
pub async fn observe(args: &DoctorArgs) -> anyhow::Result<Facts> {
    let host = asked_at(args.bind_addr);
    let at = |port: u16| std::net::SocketAddr::new(host, port);
    let node = JsonRpc::new(&format!("http://{}", at(args.rpc_port)), args.timeout)?;
    let (registry, http, p2p, answer) = tokio::join!(
        async {
            match args.without_registry {
                true => None,
                false => Some(look_at_registry(args.registry.url(), args.timeout).await),
            }
        },
        http_listener(format!("http://{}/livez", at(args.http_port)), args.timeout),
        tokio::time::timeout(args.timeout, TcpStream::connect(at(args.port))),
        node_answer(&node),
    );
    let (rpc, node) = answer;
    let p2p = match p2p {
        Ok(Ok(_)) => Listener::Node,
        Ok(Err(_)) | Err(_) => Listener::Nobody,
    };
    Ok(Facts {
        registry,
        ports: PortFacts {
            http: (args.http_port, http?),
            rpc: (args.rpc_port, rpc),
            p2p: (args.port, p2p),
        },
        node,
        disk: disk(args.data_dir.as_deref()),
        stored_genesis: args.data_dir.as_deref().and_then(stored_genesis),
    })
}

async fn look_at_registry(url: &str, timeout: Duration) -> RegistryFacts {
    let parsed = reqwest::Url::parse(url).ok();
    let host = parsed
        .as_ref()
        .and_then(|url| url.host_str())
        .unwrap_or_default();
    let bare = host.trim_matches(['[', ']']);
    let is_name = bare.parse::<IpAddr>().is_err();
    let resolved = resolve(bare, timeout).await;
    let asked = SystemTime::now();
    let answer = registry::status_and_date(url, timeout).await;
    // The answer was written about half-way between question and answer.
    let half = asked.elapsed().unwrap_or_default() / 2;
    let (status, ahead_ms) = match answer {
        Err(error) => (Err(format!("{error:#}")), None),
        Ok((value, date)) => {
            let ahead = date.map(|date| ahead_ms(asked + half, date));
            let status = registry::read_status(value).map(Box::new);
            (status.map_err(|error| format!("{error:#}")), ahead)
        }
    };
    let mut unresolved_nodes = Vec::new();
    if let Ok(status) = &status {
        let names: BTreeSet<&str> = status
            .nodes
            .values()
            .flat_map(|node| &node.addresses)
            .filter_map(|address| address.strip_prefix("/dns4/")?.split('/').next())
            .collect();
        for name in names {
            if resolve(name, timeout).await.is_err() {
                unresolved_nodes.push(name.to_owned());
            }
        }
    }
    RegistryFacts {
        url: url.to_owned(),
        status,
        ahead_ms,
        resolved,
        is_name,
        unresolved_nodes,
    }
}

/// By how much `here` is ahead of `there`, which is given in whole seconds: anything within its
/// second counts as level.
fn ahead_ms(here: SystemTime, there: SystemTime) -> i64 {
    let until = there + Duration::from_secs(1);
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match (here.duration_since(until), there.duration_since(here)) {
        (Ok(ahead), _) => ms(ahead),
        (_, Ok(behind)) => -ms(behind),
        _ => 0,
    }
}

async fn resolve(host: &str, timeout: Duration) -> Result<Vec<IpAddr>, String> {
    let found = tokio::time::timeout(timeout, lookup_host((host, 0))).await;
    let addresses: Vec<IpAddr> = match found {
        Err(_) => {
            return Err(format!(
                "no answer within {}",
                humantime::format_duration(timeout)
            ));
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
    };
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    Ok(addresses)
}

async fn http_listener(url: String, timeout: Duration) -> anyhow::Result<Listener> {
    let response = match cli::http_client(timeout)?.get(url).send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Ok(Listener::Nobody),
        Err(error) => return Ok(Listener::Other(cli::cause(&error))),
    };
    let code = response.status();
    let body = response.text().await.unwrap_or_default();
    if code.is_success() && body.trim() == "ok" {
        return Ok(Listener::Node);
    }
    Ok(Listener::Other(format!("it answers {code} to /livez")))
}

async fn node_answer(node: &JsonRpc) -> (Listener, Result<(NodeSelfStatus, Members), String>) {
    match node.chain_id().await {
        Ok(_) => {}
        Err(RpcError::Unreachable { why, .. }) => {
            // A port where nothing listens, or a program that does not speak HTTP.
            let listener = match why.contains("Connection refused") || why.contains("timed out") {
                true => Listener::Nobody,
                false => Listener::Other(why.clone()),
            };
            return (listener, Err(why));
        }
        Err(error) => return (Listener::Other(error.to_string()), Err(error.to_string())),
    }
    match nodes::view(node).await {
        Ok((status, Membership { quorum, validators })) => {
            let keys = validators
                .into_iter()
                .map(|member| member.public_key)
                .collect();
            (Listener::Node, Ok((status, Members { quorum, keys })))
        }
        Err(error) => {
            let why = "a node of another kind: it knows no axolotl_status".to_owned();
            (Listener::Other(why), Err(format!("{error:#}")))
        }
    }
}

fn disk(data_dir: Option<&Path>) -> DiskFacts {
    let path = data_dir.unwrap_or(Path::new("."));
    let free_bytes = rustix::fs::statvfs(path)
        .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
        .map_err(|error| std::io::Error::from(error).to_string());
    DiskFacts {
        path: path.to_owned(),
        is_data_dir: data_dir.is_some(),
        free_bytes,
        writable: rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok(),
    }
}

fn stored_genesis(data_dir: &Path) -> Option<Result<Hash, String>> {
    let path = data_dir.join("genesis.json");
    match read_if_there(&path, MAX_GENESIS_BYTES) {
        Ok(None) => None,
        Ok(Some(text)) => Some(
            GenesisDocument::parse(&text)
                .map(|document| document.hash())
                .map_err(|error| format!("{}: {error}", path.display())),
        ),
        Err(error) => Some(Err(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_within_the_second_is_level() {
        let there = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        for (here_ms, expected) in [
            (100_000, 0),
            (100_999, 0),
            (101_000, 0),
            (103_500, 2_500),
            (97_000, -3_000),
        ] {
            let here = SystemTime::UNIX_EPOCH + Duration::from_millis(here_ms);
            assert_eq!(ahead_ms(here, there), expected, "{here_ms}");
        }
    }
}
