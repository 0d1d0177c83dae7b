//! Configuration of the node: flags and environment variables, read here and nowhere else.
//!
//! Every value is taken as text first and judged afterwards, so that all faults are reported at
//! once; the process ends with exit code 2 then. A variable that is set to nothing counts as not
//! set where a setting may be absent, and is a fault elsewhere: it is mostly a slip in a template.

pub(crate) mod checks;
mod line;

use std::{
    ffi::OsString,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use axolotl_common::{Hash, NodeId, PublicKey, registry_api::Role};
use clap::Args;

pub use line::{Line, unknown_variables};

use crate::telemetry::LogFormat;

/// A value as it was given, with what became of it.
#[derive(Clone, Debug)]
pub struct Given<T> {
    text: String,
    value: Result<T, String>,
}

impl<T> FromStr for Given<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let value = match text {
            "" => Err("it is empty; leave it out to get the default".to_owned()),
            text => text.parse().map_err(|e: T::Err| e.to_string()),
        };
        Ok(Self {
            text: text.to_owned(),
            value,
        })
    }
}

/// A duration with its unit, such as `5s` or `250ms`.
#[derive(Clone, Copy, Debug)]
pub struct Span(Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(span)
                if span >= Duration::from_millis(50) && span <= Duration::from_secs(86_400) =>
            {
                Ok(Self(span))
            }
            Ok(_) => Err("expected a time from 50ms to 24h".into()),
            Err(_) => Err("expected a time with its unit, such as 5s or 250ms".into()),
        }
    }
}

/// `axolotl node`: run a node.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Label of this node; unset: the registry assigns the next number.
    #[arg(long, env = "NODE_ID")]
    node_id: Option<Given<NodeId>>,
    /// Be the first leader of the genesis: `true` on one node at most.
    #[arg(long, env = "IS_LEADER", default_value = "false")]
    is_leader: Given<bool>,
    /// Port of libp2p.
    #[arg(long, env = "PORT", default_value = "50051")]
    port: Given<u16>,
    /// Port of /livez, /readyz, /metrics and /status.
    #[arg(long, env = "HTTP_PORT", default_value = "8080")]
    http_port: Given<u16>,
    /// Port of JSON-RPC.
    #[arg(long, env = "RPC_PORT", default_value = "8545")]
    rpc_port: Given<u16>,
    /// Address that all three listen on; 0.0.0.0 inside a container, or for nodes of other machines.
    #[arg(long, env = "BIND_ADDR", default_value = "127.0.0.1")]
    bind_addr: Given<IpAddr>,
    /// Host name or address under which others reach this node; unset: the address it listens on, or
    /// the machine's name where that is 0.0.0.0.
    #[arg(long, env = "ADVERTISE_ADDR")]
    advertise_addr: Option<String>,
    /// The registry; unset: the node lives without one, from GENESIS_FILE and BOOTSTRAP_PEERS.
    #[arg(long, env = "REGISTRY_URL")]
    registry_url: Option<String>,
    /// Ask the registry for addresses of admitted nodes: `true` or `false`.
    #[arg(long, env = "AUTO_DISCOVER", default_value = "true")]
    auto_discover: Given<bool>,
    /// File with the token that admits a new key to the registry.
    #[arg(long, env = "JOIN_TOKEN_FILE")]
    join_token_file: Option<OsString>,
    /// Peers to dial at start: libp2p addresses with /p2p/…, separated by commas.
    #[arg(long, env = "BOOTSTRAP_PEERS", value_delimiter = ',')]
    bootstrap_peers: Vec<String>,
    /// Genesis document (geth's JSON with an `axolotl` object); `axolotl genesis make` writes one.
    #[arg(long, env = "GENESIS_FILE")]
    genesis_file: Option<OsString>,
    /// SHA-256 of the genesis, as `axolotl genesis show` prints it: any other one is refused. Unset, the
    /// first start believes whoever answers at REGISTRY_URL.
    #[arg(long, env = "GENESIS_HASH")]
    genesis_hash: Option<Given<Hash>>,
    /// Peer ids let in beside members and registered nodes, separated by commas: observers, where there
    /// is no registry.
    #[arg(long, env = "ALLOW_PEERS", value_delimiter = ',')]
    allow_peers: Vec<String>,
    /// `validator`, or `observer`: follows and serves reads, never put forward.
    #[arg(long, env = "ROLE", default_value = "validator")]
    role: Given<RoleName>,
    /// Directory of key, logs and state.
    #[arg(long, env = "DATA_DIR", default_value = "data")]
    data_dir: OsString,
    /// Time between heartbeats to the registry.
    #[arg(long, env = "HEARTBEAT_INTERVAL", default_value = "5s")]
    heartbeat_interval: Given<Span>,
    /// No block for so long although there is work: report it to the registry.
    #[arg(long, env = "CONSENSUS_TIMEOUT", default_value = "10s")]
    consensus_timeout: Given<Span>,
    /// Most transactions in the pool.
    #[arg(long, env = "MEMPOOL_MAX_TRANSACTIONS", default_value = "20000")]
    mempool_max_transactions: Given<usize>,
    /// Most transactions of one sender in the pool.
    #[arg(long, env = "MEMPOOL_MAX_PER_SENDER", default_value = "1024")]
    mempool_max_per_sender: Given<usize>,
    /// Form of log lines: `text` or `json`.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    log_format: Given<LogFormat>,
    /// What is logged, such as `info` or `axolotl_node=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
}

/// The roles a node may ask for.
#[derive(Clone, Copy, Debug)]
struct RoleName(Role);

impl FromStr for RoleName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "validator" => Ok(Self(Role::Validator)),
            "observer" => Ok(Self(Role::Observer)),
            _ => Err("expected `validator` or `observer`"),
        }
    }
}

/// Where the registry is and how to be admitted.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Base URL without a trailing slash.
    pub url: String,
    /// Whether to ask for addresses of admitted nodes.
    pub auto_discover: bool,
    /// File with the join token.
    pub join_token_file: Option<PathBuf>,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
}

/// What the node runs with; every value was checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Wished label.
    pub node_id: Option<NodeId>,
    /// Whether to be first in the genesis.
    pub is_leader: bool,
    /// Where libp2p listens.
    pub p2p: SocketAddr,
    /// Where the read-only HTTP listens.
    pub http: SocketAddr,
    /// Where JSON-RPC listens.
    pub rpc: SocketAddr,
    /// Host under which others reach the node.
    pub advertise_host: String,
    /// The registry, if any.
    pub registry: Option<RegistrySettings>,
    /// Peers to dial at start.
    pub bootstrap_peers: Vec<String>,
    /// Genesis document.
    pub genesis_file: Option<PathBuf>,
    /// Hash of the only genesis that is taken, if it is pinned.
    pub genesis_hash: Option<Hash>,
    /// Peers let in beside members and registered nodes.
    pub allow_peers: Vec<PublicKey>,
    /// Role asked for.
    pub role: Role,
    /// Data directory.
    pub data_dir: PathBuf,
    /// Patience before a failure of consensus is reported.
    pub consensus_timeout: Duration,
    /// Most transactions in the pool.
    pub mempool_max_transactions: usize,
    /// Most transactions of one sender in the pool.
    pub mempool_max_per_sender: usize,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: String,
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Collects faults, so that all are reported.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn take<T: Clone>(&mut self, name: &str, given: &Given<T>) -> Option<T> {
        match &given.value {
            Ok(value) => Some(value.clone()),
            Err(why) => {
                self.0.push(format!("{name}={}: {why}", given.text));
                None
            }
        }
    }

    /// As [`Self::take`], of a type whose own words for a fault do not say what is expected.
    fn expect<T: Clone>(&mut self, name: &str, given: &Given<T>, expected: &str) -> Option<T> {
        let value = given.value.as_ref().ok().cloned();
        if value.is_none() && !given.text.is_empty() {
            self.0
                .push(format!("{name}={}: expected {expected}", given.text));
            return None;
        }
        self.take(name, given)
    }

    fn check(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.0.push(fault());
        }
    }

    fn add(&mut self, checked: Result<(), String>) {
        self.0.extend(checked.err());
    }
}

impl NodeArgs {
    /// Checks every value and how they fit together.
    ///
    /// # Errors
    /// All faults at once.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let mut faults = Faults::default();
        let node_id = self.node_id.as_ref().filter(|given| !given.text.is_empty());
        let is_named = node_id.is_some();
        let node_id = node_id.and_then(|given| faults.take("NODE_ID", given));
        let (a_port, a_truth, a_count) = ("a port, 0 to 65535", "true or false", "a whole number");
        let is_leader = faults.expect("IS_LEADER", &self.is_leader, a_truth);
        let bind = faults.expect("BIND_ADDR", &self.bind_addr, "an IP address");
        let port = faults.expect("PORT", &self.port, a_port);
        let http_port = faults.expect("HTTP_PORT", &self.http_port, a_port);
        let rpc_port = faults.expect("RPC_PORT", &self.rpc_port, a_port);
        let auto_discover = faults.expect("AUTO_DISCOVER", &self.auto_discover, a_truth);
        let role = faults.take("ROLE", &self.role);
        let heartbeat = faults.take("HEARTBEAT_INTERVAL", &self.heartbeat_interval);
        let consensus_timeout = faults.take("CONSENSUS_TIMEOUT", &self.consensus_timeout);
        let (all, each) = (&self.mempool_max_transactions, &self.mempool_max_per_sender);
        let pool_max = faults.expect("MEMPOOL_MAX_TRANSACTIONS", all, a_count);
        let pool_sender = faults.expect("MEMPOOL_MAX_PER_SENDER", each, a_count);
        let log_format = faults.take("LOG_FORMAT", &self.log_format);

        let ports = [port, http_port, rpc_port];
        let distinct = ports.iter().enumerate().all(|(i, port)| {
            port.is_none_or(|port| port == 0 || !ports[..i].contains(&Some(port)))
        });
        faults.check(distinct, || {
            "PORT, HTTP_PORT and RPC_PORT must differ".into()
        });
        for limit in [
            ("MEMPOOL_MAX_TRANSACTIONS", pool_max),
            ("MEMPOOL_MAX_PER_SENDER", pool_sender),
        ] {
            faults.check(limit.1 != Some(0), || {
                format!("{}=0: must be above 0", limit.0)
            });
        }
        let registry_url = self.registry_url.filter(|url| !url.is_empty());
        match &registry_url {
            Some(url) => faults.add(checks::registry_url(url)),
            None => faults.check(is_named, || {
                "NODE_ID is not set, and without REGISTRY_URL nobody assigns one".into()
            }),
        }
        let advertise_addr = self.advertise_addr.filter(|host| !host.is_empty());
        if let Some(host) = &advertise_addr {
            faults.check(host.len() <= 253 && !host.contains(['/', ' ']), || {
                format!("ADVERTISE_ADDR={host}: expected a host name or an address")
            });
        }
        let genesis_hash = self.genesis_hash.as_ref();
        let genesis_hash = genesis_hash.filter(|given| !given.text.is_empty());
        let genesis_hash = genesis_hash.and_then(|given| {
            let expected = "64 hexadecimal digits, as `axolotl genesis show` prints them";
            faults.expect("GENESIS_HASH", given, expected)
        });
        if let Some(pinned) = genesis_hash {
            faults.add(checks::kept_genesis_is(&self.data_dir, pinned));
        }
        let genesis_file = path(self.genesis_file);
        match &genesis_file {
            Some(path) => faults.add(checks::genesis_file(path, genesis_hash)),
            None if registry_url.is_none() => faults.add(checks::kept_genesis(&self.data_dir)),
            None => {}
        }
        faults.check(!self.data_dir.is_empty(), || {
            "DATA_DIR is empty; leave it out to get the default".into()
        });
        faults.check(
            tracing_subscriber::EnvFilter::try_new(&self.log).is_ok(),
            || {
                format!(
                    "RUST_LOG={}: expected a level or target=level, separated by commas",
                    self.log
                )
            },
        );
        let non_empty = |list: Vec<String>| list.into_iter().filter(|item| !item.is_empty());
        let mut allow_peers = Vec::new();
        for peer in non_empty(self.allow_peers) {
            match PublicKey::from_peer_id(&peer) {
                Ok(key) => allow_peers.push(key),
                Err(e) => faults.0.push(format!(
                    "ALLOW_PEERS={peer}: {e}; expected a peer id (12D3KooW…), as `axolotl keys show` prints it"
                )),
            }
        }
        let bootstrap_peers: Vec<String> = non_empty(self.bootstrap_peers).collect();
        for peer in &bootstrap_peers {
            faults.add(checks::peer_address(peer));
        }

        let checked = (|| {
            let bind = bind?;
            let listens_everywhere = bind.is_unspecified();
            Some(Config {
                node_id,
                is_leader: is_leader?,
                p2p: SocketAddr::new(bind, port?),
                http: SocketAddr::new(bind, http_port?),
                rpc: SocketAddr::new(bind, rpc_port?),
                advertise_host: advertise_addr.unwrap_or_else(|| {
                    if listens_everywhere {
                        host_name()
                    } else {
                        bind.to_string()
                    }
                }),
                registry: match registry_url {
                    Some(url) => Some(RegistrySettings {
                        url: url.trim_end_matches('/').to_owned(),
                        auto_discover: auto_discover?,
                        join_token_file: path(self.join_token_file),
                        heartbeat_interval: heartbeat?.0,
                    }),
                    None => None,
                },
                bootstrap_peers,
                genesis_file,
                genesis_hash,
                allow_peers,
                role: role?.0,
                data_dir: self.data_dir.into(),
                consensus_timeout: consensus_timeout?.0,
                mempool_max_transactions: pool_max?,
                mempool_max_per_sender: pool_sender?,
                log_format: log_format?,
                log: self.log,
            })
        })();
        match checked {
            Some(config) if faults.0.is_empty() => Ok(config),
            _ => Err(ConfigError(faults.0)),
        }
    }
}

/// A path that was given and is not empty. (clap refuses empty paths by itself, one fault at a time.)
fn path(given: Option<OsString>) -> Option<PathBuf> {
    given.filter(|text| !text.is_empty()).map(PathBuf::from)
}

/// The name of this machine, which is a container's name inside its network.
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Node {
        #[command(flatten)]
        node: NodeArgs,
    }

    fn read(args: &[&str]) -> Result<Config, ConfigError> {
        let line = std::iter::once("axolotl").chain(args.iter().copied());
        Node::try_parse_from(line).unwrap().node.into_config()
    }

    #[test]
    fn defaults_need_only_a_name_or_a_registry() {
        let config = read(&["--registry-url", "http://registry:9090/"]).unwrap();
        assert_eq!(config.registry.unwrap().url, "http://registry:9090");
        assert_eq!(
            (config.p2p.port(), config.http.port(), config.rpc.port()),
            (50051, 8080, 8545)
        );
        let error = read(&["--data-dir", "/nowhere"]).unwrap_err();
        assert_eq!(error.0.len(), 2, "{error}");
        assert!(error.0[0].contains("NODE_ID"), "{error}");
        assert!(error.0[1].contains("GENESIS_FILE"), "{error}");
        // A node that has begun keeps its genesis.
        let home = tempfile::tempdir().unwrap();
        let data = home.path().to_str().unwrap();
        std::fs::write(home.path().join("genesis.json"), "{}").unwrap();
        let config = read(&["--node-id", "node1", "--data-dir", data]).unwrap();
        assert!(config.registry.is_none());
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let error = read(&[
            "--node-id",
            "Node 1",
            "--port",
            "70000",
            "--http-port",
            "8545",
            "--role",
            "king",
            "--heartbeat-interval",
            "5",
            "--registry-url",
            "registry",
            "--allow-peers",
            "x",
            "--bootstrap-peers",
            "node1",
            "--genesis-file",
            "/nowhere/genesis.json",
            "--genesis-hash",
            "0x12",
            "--data-dir",
            "",
            "--advertise-addr",
            "a b",
            "--log-format",
            "xml",
            "--mempool-max-per-sender",
            "0",
            "--log",
            "=",
        ])
        .unwrap_err();
        for name in [
            "NODE_ID",
            "PORT=70000: expected a port, 0 to 65535",
            "must differ",
            "ROLE",
            "HEARTBEAT_INTERVAL",
            "REGISTRY_URL",
            "ALLOW_PEERS",
            "BOOTSTRAP_PEERS",
            "GENESIS_FILE=/nowhere/genesis.json",
            "GENESIS_HASH=0x12: expected 64 hexadecimal digits",
            "DATA_DIR",
            "ADVERTISE_ADDR",
            "LOG_FORMAT",
            "MEMPOOL_MAX_PER_SENDER",
            "RUST_LOG",
        ] {
            assert!(
                error.0.iter().any(|line| line.contains(name)),
                "{name} is missing in:\n{error}"
            );
        }
    }
    #[test]
    fn empty_values_are_none_or_faults() {
        let line = [
            "--node-id=",
            "--registry-url=http://registry:9090",
            "--join-token-file=",
            "--genesis-hash=",
        ];
        let config = read(&line).unwrap();
        assert_eq!(config.genesis_hash, None);
        assert_eq!(config.registry.unwrap().join_token_file, None);
        let line = [
            "--node-id=",
            "--genesis-file=",
            "--registry-url=",
            "--data-dir=/nowhere",
        ];
        let error = read(&line).unwrap_err();
        assert_eq!(error.0.len(), 2, "{error}");
        assert!(error.0[0].contains("NODE_ID is not set"), "{error}");
        let error =
            read(&["--registry-url=http://registry:9090", "--port=", "--role="]).unwrap_err();
        assert_eq!(error.0.len(), 2, "{error}");
        assert!(error.0[0].contains("PORT=: it is empty"), "{error}");
    }
}
