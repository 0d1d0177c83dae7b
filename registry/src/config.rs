//! Settings: every one is a flag and an environment variable; all faults are reported at once.
//!
//! Only this module reads the environment, through clap.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use axolotl_common::genesis::Timing;
use clap::{Args, Parser, Subcommand};

mod docker;
mod environment;

pub use docker::{DockerArgs, DockerConfig};
pub use environment::unknown_variables;

use crate::{
    cluster::{Rules, recovery::Trust},
    runtime::PortBases,
};

/// A peer's word that it reaches a node counts for this long.
const PEER_WORD: Duration = Duration::from_secs(10);
/// Most nodes that MAX_NODES may allow.
const MAX_MAX_NODES: usize = axolotl_common::membership::MAX_MEMBERS;

/// The registry of an Axolotl network: introduces nodes, watches them, starts them.
#[derive(Debug, Parser)]
#[command(name = "axolotl-registry", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the registry.
    #[command(after_help = "Examples:
  axolotl-registry serve --runtime process       # starts four nodes on this machine
  axolotl-registry serve --bind-addr 0.0.0.0     # you start the nodes, on other machines")]
    Serve(Box<ServeArgs>),
    /// Ask the registry on this machine whether it lives; the exit code says.
    Health(HealthArgs),
    /// Print the admin token, which operators' calls (scale, drain, shutdown) show.
    AdminToken(TokenArgs),
    /// Make a new store for a chain that exists, from its genesis and the back-up of its authority key.
    Adopt(AdoptArgs),
    /// Print the OpenAPI document.
    Openapi,
}

/// Arguments of `adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// Genesis document of the chain; every node keeps it as genesis.json.
    #[arg(long)]
    pub genesis: PathBuf,
    /// Back-up of the authority key.
    #[arg(long)]
    pub authority_key: PathBuf,
    /// Directory for the registry's data: empty, or begun with this authority key and without another
    /// chain.
    #[arg(long, env = "DATA_DIR", default_value = "registry-data")]
    pub data_dir: PathBuf,
    /// Where `serve` will look for the authority key [default: <DATA_DIR>/authority_key].
    #[arg(long, env = "AUTHORITY_KEY_FILE")]
    pub authority_key_file: Option<PathBuf>,
}

/// Arguments of `health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Port of the registry.
    #[arg(long, env = "PORT", default_value_t = 9090)]
    pub port: u16,
    /// Address of the registry.
    #[arg(long, env = "HEALTH_ADDR", default_value = "127.0.0.1")]
    pub addr: IpAddr,
}

/// Arguments of `admin-token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Directory of the registry's data.
    #[arg(long, env = "DATA_DIR", default_value = "registry-data")]
    pub data_dir: PathBuf,
    /// File with the admin token [default: <DATA_DIR>/admin_token].
    #[arg(long, env = "ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// Where the admin token is.
    pub fn path(&self) -> PathBuf {
        admin_token_path(&self.data_dir, self.admin_token_file.as_deref())
    }
}

fn admin_token_path(data_dir: &Path, file: Option<&Path>) -> PathBuf {
    file.map_or_else(|| data_dir.join("admin_token"), Path::to_owned)
}

impl AdoptArgs {
    /// Where the authority key will be.
    pub fn key_path(&self) -> PathBuf {
        let file = self.authority_key_file.clone();
        file.unwrap_or_else(|| self.data_dir.join("authority_key"))
    }
}

/// Arguments of `serve`, as they were written: they are read later, so that every fault is found.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Port of the HTTP API.
    #[arg(long, env = "PORT", default_value = "9090")]
    pub port: String,
    /// Address to listen on; local nodes that the registry starts listen there too.
    #[arg(long, env = "BIND_ADDR", default_value = "127.0.0.1")]
    pub bind_addr: String,
    /// Fewest nodes that scaling may ask for.
    #[arg(long, env = "MIN_NODES", default_value = "2")]
    pub min_nodes: String,
    /// Most nodes that scaling may ask for; a replacement under way is one more.
    #[arg(long, env = "MAX_NODES", default_value = "10")]
    pub max_nodes: String,
    /// Wanted number of voting nodes [default: GENESIS_NODES].
    #[arg(long, env = "TARGET_NODES")]
    pub target_nodes: Option<String>,
    /// Nodes that must register before the genesis is built.
    #[arg(long, env = "GENESIS_NODES", default_value = "4")]
    pub genesis_nodes: String,
    /// What starts nodes: process (on this machine), docker (containers) or none (you do).
    #[arg(long, env = "RUNTIME", default_value = "none")]
    pub runtime: String,
    /// Directory of the registry's data: store, keys, tokens.
    #[arg(long, env = "DATA_DIR", default_value = "registry-data")]
    pub data_dir: PathBuf,
    /// Nodes report this often.
    #[arg(long, env = "HEALTH_CHECK_INTERVAL", default_value = "5s")]
    pub health_check_interval: String,
    /// A node that is silent for this long is no longer healthy.
    #[arg(long, env = "UNHEALTHY_AFTER", default_value = "15s")]
    pub unhealthy_after: String,
    /// What runs is compared with what is wanted at least this often.
    #[arg(long, env = "SCALE_INTERVAL", default_value = "10s")]
    pub scale_interval: String,
    /// How far the survivors of a lost quorum are trusted: crash (they do not lie; a recovery runs by itself
    /// when survivors + quorum > validators) or byzantine (as many as the chain bears may lie; it takes so many
    /// more survivors).
    #[arg(long, env = "RECOVERY_TRUST", default_value = "crash")]
    pub recovery_trust: String,
    /// Who may join: token (whoever shows the join token) or open (whoever reaches the port).
    #[arg(long, env = "REGISTRATION", default_value = "token")]
    pub registration: String,
    /// File with the join token: read when it is there, else written for the nodes to read.
    #[arg(long, env = "JOIN_TOKEN_FILE")]
    pub join_token_file: Option<PathBuf>,
    /// File with the admin token [default: <DATA_DIR>/admin_token]; made when it is not there.
    #[arg(long, env = "ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// File with the authority key [default: <DATA_DIR>/authority_key]; made at the first start.
    #[arg(long, env = "AUTHORITY_KEY_FILE")]
    pub authority_key_file: Option<PathBuf>,
    /// An idle chain makes an empty block this often (part of a genesis formed here).
    #[arg(long, env = "EMPTY_BLOCK_INTERVAL", default_value = "5s")]
    pub empty_block_interval: String,
    /// RUNTIME=process: the node's program [default: `axolotl` beside this program].
    #[arg(long, env = "NODE_BINARY")]
    pub node_binary: Option<PathBuf>,
    /// RUNTIME=process: directory of the nodes' data and logs [default: <DATA_DIR>/nodes].
    #[arg(long, env = "NODES_DIR")]
    pub nodes_dir: Option<PathBuf>,
    /// Further environment of nodes that the registry starts, as KEY=VALUE, several with commas.
    #[arg(long, env = "NODE_ENV", value_delimiter = ',')]
    pub node_env: Vec<String>,
    /// RUNTIME=process: libp2p port of node1; node k has the first free one from k - 1 above it.
    #[arg(long, env = "P2P_PORT_BASE", default_value = "50051")]
    pub p2p_port_base: String,
    /// RUNTIME=process: HTTP port of node1.
    #[arg(long, env = "HTTP_PORT_BASE", default_value = "8080")]
    pub http_port_base: String,
    /// RUNTIME=process: JSON-RPC port of node1.
    #[arg(long, env = "RPC_PORT_BASE", default_value = "8545")]
    pub rpc_port_base: String,
    /// Settings of containers.
    #[command(flatten)]
    pub docker: DockerArgs,
    /// How log lines are written: text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: String,
    /// What is logged, such as `info` or `axolotl_registry=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub rust_log: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What starts nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeKind {
    /// Children of the registry.
    Process,
    /// Containers of a Docker engine.
    Docker,
    /// Nobody: the registry only watches.
    None,
}

/// Settings of local nodes.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// The node's program.
    pub binary: PathBuf,
    /// Directory of the nodes' data and logs.
    pub nodes_dir: PathBuf,
    /// Ports of node1.
    pub ports: PortBases,
}

/// Settings of `serve`, read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Settings of the rules.
    pub rules: Rules,
    /// Timing of a genesis formed here.
    pub timing: Timing,
    /// Heartbeats are asked for this often.
    pub heartbeat_interval: Duration,
    /// Pause between two looks of the reconciler.
    pub scale_interval: Duration,
    /// What starts nodes.
    pub runtime: RuntimeKind,
    /// Settings of local nodes.
    pub process: ProcessConfig,
    /// Settings of containers.
    pub docker: DockerConfig,
    /// Further environment of nodes that the registry starts.
    pub node_environment: Vec<(String, String)>,
    /// Directory of the registry's data.
    pub data_dir: PathBuf,
    /// Where nodes read the join token, if elsewhere than in the data directory.
    pub join_token_file: Option<PathBuf>,
    /// Where the admin token is.
    pub admin_token_file: PathBuf,
    /// Where the authority key is.
    pub authority_key_file: PathBuf,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub rust_log: String,
}

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for fault in &self.0 {
            writeln!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl Faults {
    fn add(&mut self, fault: String) {
        self.0.push(fault);
    }

    fn parse<T: FromStr>(&mut self, name: &str, text: &str, expected: &str) -> Option<T> {
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.add(format!("{name}={text:?}: expected {expected}"));
        }
        parsed
    }

    fn duration(&mut self, name: &str, text: &str, min: Duration) -> Option<Duration> {
        match humantime::parse_duration(text.trim()) {
            Ok(duration) if duration >= min => Some(duration),
            Ok(_) => {
                self.add(format!(
                    "{name}={text:?}: must be at least {}",
                    humantime::format_duration(min)
                ));
                None
            }
            Err(e) => {
                self.add(format!("{name}={text:?}: {e}; expected a time such as 5s"));
                None
            }
        }
    }

    fn port(&mut self, name: &str, text: &str) -> Option<u16> {
        let expected = "a port from 1024 to 65000";
        let port = self.parse::<u16>(name, text, expected)?;
        if !(1_024..=65_000).contains(&port) {
            self.add(format!("{name}={text:?}: expected {expected}"));
            return None;
        }
        Some(port)
    }

    fn choice<T: Copy>(&mut self, name: &str, text: &str, choices: &[(&str, T)]) -> Option<T> {
        let chosen = choices.iter().find(|(word, _)| *word == text.trim());
        if chosen.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.add(format!("{name}={text:?}: expected {}", words.join(" or ")));
        }
        chosen.map(|(_, value)| *value)
    }
}

fn default_binary() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("axolotl-registry"));
    own.with_file_name("axolotl")
}

fn environment(faults: &mut Faults, entries: &[String]) -> Vec<(String, String)> {
    let mut environment = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.is_empty()) {
        match entry.split_once('=').filter(|(key, _)| !key.is_empty()) {
            Some((key, value)) => environment.push((key.to_owned(), value.to_owned())),
            None => faults.add(format!("NODE_ENV: {entry:?} is not of the form KEY=VALUE")),
        }
    }
    environment
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl Config {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// Names every fault.
    pub fn read(args: &ServeArgs) -> Result<Self, Faults> {
        let mut faults = Faults(Vec::new());
        let f = &mut faults;
        let port = f.parse::<u16>("PORT", &args.port, "a port, 0 to 65535");
        let ip = f.parse::<IpAddr>("BIND_ADDR", &args.bind_addr, "an IP address");
        let count = "a whole number";
        let min = f.parse::<usize>("MIN_NODES", &args.min_nodes, count);
        let max = f.parse::<usize>("MAX_NODES", &args.max_nodes, count);
        let genesis = f.parse::<usize>("GENESIS_NODES", &args.genesis_nodes, count);
        let target = match &args.target_nodes {
            Some(text) => f.parse::<usize>("TARGET_NODES", text, count),
            None => genesis,
        };
        if let (Some(min), Some(genesis), Some(target), Some(max)) = (min, genesis, target, max) {
            if !(1 <= min && min <= genesis && genesis <= target && target <= max) {
                f.add(format!(
                    "expected 1 <= MIN_NODES <= GENESIS_NODES <= TARGET_NODES <= MAX_NODES, got \
                     MIN_NODES={min}, GENESIS_NODES={genesis}, TARGET_NODES={target}, \
                     MAX_NODES={max}"
                ));
            }
            if max > MAX_MAX_NODES {
                f.add(format!("MAX_NODES={max}: at most {MAX_MAX_NODES}"));
            }
        }
        let kinds = [
            ("process", RuntimeKind::Process),
            ("docker", RuntimeKind::Docker),
            ("none", RuntimeKind::None),
        ];
        let runtime = f.choice("RUNTIME", &args.runtime, &kinds);
        let least = Duration::from_millis(10);
        let heartbeat = f.duration("HEALTH_CHECK_INTERVAL", &args.health_check_interval, least);
        let unhealthy = f.duration("UNHEALTHY_AFTER", &args.unhealthy_after, least);
        if let (Some(heartbeat), Some(unhealthy)) = (heartbeat, unhealthy)
            && unhealthy < heartbeat * 2
        {
            f.add(format!(
                "UNHEALTHY_AFTER={}: must be at least twice HEALTH_CHECK_INTERVAL ({}), or one \
                 lost heartbeat is a failure",
                args.unhealthy_after, args.health_check_interval
            ));
        }
        let scale = f.duration("SCALE_INTERVAL", &args.scale_interval, least);
        let trusts = [("crash", Trust::Crash), ("byzantine", Trust::Byzantine)];
        let trust = f.choice("RECOVERY_TRUST", &args.recovery_trust, &trusts);
        let open = f.choice(
            "REGISTRATION",
            &args.registration,
            &[("token", false), ("open", true)],
        );
        let mut timing = Timing::default();
        if let Some(empty) = f.duration("EMPTY_BLOCK_INTERVAL", &args.empty_block_interval, least) {
            timing.empty_block_interval_ms = empty.as_millis() as u64;
            if timing.empty_block_interval_ms > timing.seal_veto_ms / 3 {
                f.add(format!(
                    "EMPTY_BLOCK_INTERVAL={}: at most {} s, or a living chain would be taken for one that \
                     stopped",
                    args.empty_block_interval,
                    timing.seal_veto_ms / 3 / 1_000
                ));
            }
        }
        let p2p = f.port("P2P_PORT_BASE", &args.p2p_port_base);
        let http = f.port("HTTP_PORT_BASE", &args.http_port_base);
        let rpc = f.port("RPC_PORT_BASE", &args.rpc_port_base);
        let environment = environment(f, &args.node_env);
        let docker = DockerConfig::read(&args.docker, f);
        let genesis_timeout = f.duration("GENESIS_TIMEOUT", &args.docker.genesis_timeout, least);
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let log_format = f.choice("LOG_FORMAT", &args.log_format, &formats);
        if let Err(e) = crate::telemetry::filter(&args.rust_log) {
            f.add(format!("RUST_LOG={:?}: {e}", args.rust_log));
        }
        let binary = args.node_binary.clone().unwrap_or_else(default_binary);
        if runtime == Some(RuntimeKind::Process) && !binary.is_file() {
            f.add(format!(
                "NODE_BINARY={}: there is no such program, and RUNTIME=process starts it",
                binary.display()
            ));
        }
        let data_dir = absolute(&args.data_dir);
        let config = (|| {
            Some(Self {
                listen: SocketAddr::new(ip?, port?),
                rules: Rules {
                    min_nodes: min?,
                    max_nodes: max?,
                    target_nodes: target?,
                    genesis_nodes: genesis?,
                    heartbeat_interval: heartbeat?,
                    // Whoever runs the nodes of the genesis itself waits for nobody else.
                    genesis_timeout: match runtime? {
                        RuntimeKind::Docker => genesis_timeout?,
                        RuntimeKind::Process | RuntimeKind::None => Duration::ZERO,
                    },
                    unhealthy_after: unhealthy?,
                    peer_word: PEER_WORD,
                    trust: trust?,
                    open_registration: open?,
                },
                timing,
                heartbeat_interval: heartbeat?,
                scale_interval: scale?,
                runtime: runtime?,
                process: ProcessConfig {
                    binary: absolute(&binary),
                    nodes_dir: args
                        .nodes_dir
                        .as_deref()
                        .map_or_else(|| data_dir.join("nodes"), absolute),
                    ports: PortBases {
                        p2p: p2p?,
                        http: http?,
                        rpc: rpc?,
                    },
                },
                docker: docker?,
                node_environment: environment,
                join_token_file: args.join_token_file.as_deref().map(absolute),
                admin_token_file: absolute(&admin_token_path(
                    &data_dir,
                    args.admin_token_file.as_deref(),
                )),
                authority_key_file: args
                    .authority_key_file
                    .as_deref()
                    .map_or_else(|| data_dir.join("authority_key"), absolute),
                data_dir,
                log_format: log_format?,
                rust_log: args.rust_log.clone(),
            })
        })();
        match config {
            Some(config) if faults.0.is_empty() => Ok(config),
            _ => Err(faults),
        }
    }
}

#[cfg(test)]
mod tests;
