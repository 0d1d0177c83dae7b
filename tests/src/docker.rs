//! A cluster of real containers: the compose file as it stands, under a project, names, a network and
//! ports of its own, so that it meets neither another test nor somebody's own chain.

mod chain;
mod faults;
pub mod loss;

use std::{
    fs::File,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use axolotl_common::registry_api::{NodeStatus, StatusResponse};
use axolotl_node::cli::json_rpc::JsonRpc;
use tempfile::{NamedTempFile, TempDir};
use tokio::{process::Command, sync::OnceCell};

use crate::{
    binaries, calls,
    cluster::CALL,
    ports::{self, Ports, SPAN},
    setup::{states, take_turn},
    wait,
};

/// Most time for a command of Docker.
const COMMAND: Duration = Duration::from_secs(60);
/// Tag of the images of the programs under test.
const TAG: &str = "test";
/// Nodes of the compose file.
pub const COMPOSE_NODES: u16 = 4;
/// Lines of each container's log that a failed test prints, and of so many nodes.
const TAIL: &str = "40";
const LOGS: u16 = 8;

static IMAGES: OnceCell<()> = OnceCell::const_new();

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// When it fails, with what it said.
pub async fn run(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{:?}", command.as_std());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND, command.output())
        .await
        .with_context(|| format!("{shown} does not end"))?
        .with_context(|| format!("{shown}: is Docker installed? scripts/test.sh installs it"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(
        output.status.success(),
        "{shown}: {}: {}{text}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// Runs `docker`.
///
/// # Errors
/// As [`run`].
pub async fn docker(arguments: &[&str]) -> anyhow::Result<String> {
    run(Command::new("docker").args(arguments)).await
}

/// Builds the images of the programs under test, once for each test program.
///
/// # Errors
/// When the programs are not built, or no engine answers.
pub async fn images() -> anyhow::Result<()> {
    IMAGES
        .get_or_try_init(|| async {
            binaries::axolotl()?;
            binaries::registry()?;
            let script = binaries::repository().join("scripts/build-images.sh");
            let mut command = Command::new(script);
            command.args(["--tag", TAG]);
            command.env("AXOLOTL_BIN", binaries::directory()?);
            run(&mut command).await.map(drop)
        })
        .await
        .copied()
}

/// A chain of containers.
pub struct DockerCluster {
    prefix: String,
    ports: Ports,
    environment: Vec<(String, String)>,
    /// An empty file.
    no_settings: NamedTempFile,
    /// What the scripts keep beside the containers.
    home: TempDir,
    http: reqwest::Client,
    finished: bool,
    _turn: File,
}

impl DockerCluster {
    /// Starts the whole compose file and waits until `nodes` nodes are healthy and answer.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start() -> anyhow::Result<Self> {
        let cluster = Self::prepare(&[]).await?;
        cluster.up(&[]).await?;
        cluster
            .wait_healthy(COMPOSE_NODES.into(), crate::cluster::START)
            .await?;
        Ok(cluster)
    }

    /// A cluster of which nothing runs yet; `more` are further variables of the compose file. Waits for
    /// other clusters of this machine to end.
    ///
    /// # Errors
    /// When there is no image, socket or free port.
    pub async fn prepare(more: &[(&str, &str)]) -> anyhow::Result<Self> {
        let turn = take_turn("containers").await?;
        images().await?;
        let prefix = format!("axt{}-", std::process::id());
        let ports = Ports::find(ports::OF_CONTAINERS)?;
        let socket = std::fs::metadata("/var/run/docker.sock").context("the engine's socket")?;
        let group = std::os::unix::fs::MetadataExt::gid(&socket);
        let mut environment: Vec<(String, String)> = [
            (
                "COMPOSE_PROJECT_NAME",
                prefix.trim_end_matches('-').to_owned(),
            ),
            ("AXOLOTL_PREFIX", prefix.clone()),
            ("DOCKER_NETWORK", format!("{prefix}net")),
            ("DOCKER_IMAGE", format!("axolotl-node:{TAG}")),
            ("REGISTRY_IMAGE", format!("axolotl-registry:{TAG}")),
            ("DOCKER_GID", group.to_string()),
            ("REGISTRY_PORT", ports.registry.to_string()),
            ("PORT_START", ports.p2p.to_string()),
            ("RPC_PORT_START", (ports.rpc + COMPOSE_NODES).to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for number in 0..COMPOSE_NODES {
            let name = format!("NODE{}_RPC_PORT", number + 1);
            environment.push((name, (ports.rpc + number).to_string()));
        }
        const { assert!(COMPOSE_NODES < SPAN, "ports of started nodes lie above") };
        let more = more.iter();
        environment.extend(more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(CALL)
            .build()?;
        Ok(Self {
            prefix,
            ports,
            environment,
            no_settings: NamedTempFile::new()?,
            home: tempfile::tempdir()?,
            http,
            finished: false,
            _turn: turn,
        })
    }

    /// `docker-compose` for this cluster.
    fn compose_command(&self, arguments: &[&str]) -> Command {
        let file = binaries::repository().join("docker-compose.registry.yml");
        let mut command = Command::new("docker-compose");
        // No .env of the repository counts here.
        command
            .arg("--env-file")
            .arg(self.no_settings.path())
            .arg("-f")
            .arg(file)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `docker-compose -f docker-compose.registry.yml …`.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn compose(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(&mut self.compose_command(arguments)).await
    }

    /// Variables that a script of the repository needs to work on this cluster.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Starts services, or all.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn up(&self, services: &[&str]) -> anyhow::Result<()> {
        let arguments = [&["up", "-d"], services].concat();
        self.compose(&arguments).await.map(drop)
    }

    /// Stops services, as an operator does.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn stop(&self, services: &[&str]) -> anyhow::Result<()> {
        self.compose(&[&["stop"], services].concat())
            .await
            .map(drop)
    }

    /// Starts stopped services again.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn start_again(&self, services: &[&str]) -> anyhow::Result<()> {
        self.compose(&[&["start"], services].concat())
            .await
            .map(drop)
    }

    /// The container of a node or of the `registry`.
    pub fn container(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// `docker VERB … CONTAINER`: `kill`, `pause`, `unpause`, `stop`, `start`, `rm`.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn do_to(&self, verb: &[&str], name: &str) -> anyhow::Result<()> {
        let container = self.container(name);
        docker(&[verb, &[&*container]].concat()).await.map(drop)
    }

    /// Runs a program inside of a container.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn exec(&self, name: &str, words: &[&str]) -> anyhow::Result<String> {
        let container = self.container(name);
        docker(&[&["exec", &*container], words].concat()).await
    }

    /// Labels of the nodes whose containers run, by number.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn running(&self) -> anyhow::Result<Vec<String>> {
        self.nodes_where(&["--filter", "status=running"]).await
    }

    /// Labels of all nodes that have a container.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn present(&self) -> anyhow::Result<Vec<String>> {
        self.nodes_where(&["-a"]).await
    }

    async fn nodes_where(&self, filters: &[&str]) -> anyhow::Result<Vec<String>> {
        let network = format!("label=org.axolotl.network={}net", self.prefix);
        let format = "{{.Label \"org.axolotl.node\"}}";
        let base = ["ps", "--format", format, "--filter", &network];
        let text = docker(&[&base, filters].concat()).await?;
        let labels = text.lines().filter(|line| !line.is_empty());
        let mut labels: Vec<String> = labels.map(str::to_owned).collect();
        labels.sort_by_key(|label| (label.len(), label.clone()));
        Ok(labels)
    }

    /// Names of the volumes of this cluster.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn volumes(&self) -> anyhow::Result<Vec<String>> {
        let name = format!("name=axolotl_{}", self.prefix);
        let text = docker(&["volume", "ls", "-q", "--filter", &name]).await?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Address of the registry.
    pub fn registry_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.registry)
    }

    /// `GET` of the registry, as JSON.
    ///
    /// # Errors
    /// When it does not answer, or not with 200.
    pub async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        calls::get(&self.http, &format!("{}{path}", self.registry_url())).await
    }

    /// `POST` of the registry with the admin token; gives status and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn post(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> anyhow::Result<(u16, String)> {
        let token = self
            .exec("registry", &["axolotl-registry", "admin-token"])
            .await?;
        let url = format!("{}{path}", self.registry_url());
        let (status, text) = calls::post(&self.http, &url, body, Some(token.trim())).await?;
        Ok((status.as_u16(), text))
    }

    /// The registry's status.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> anyhow::Result<StatusResponse> {
        self.get("/status").await
    }

    /// What the registry says of a node.
    ///
    /// # Errors
    /// When it does not answer, or does not know the node.
    pub async fn node(&self, label: &str) -> anyhow::Result<NodeStatus> {
        let status = self.status().await?;
        let node = status
            .nodes
            .into_values()
            .find(|node| node.id.as_str() == label);
        node.with_context(|| format!("the registry knows no {label}"))
    }

    /// Waits until the status is as `wanted` says; it fails with what is missing.
    ///
    /// # Errors
    /// After the deadline, with what was seen.
    pub async fn wait(
        &self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&StatusResponse) -> anyhow::Result<()>,
    ) -> anyhow::Result<StatusResponse> {
        wait::until(what, deadline, async || {
            let status = self.status().await?;
            wanted(&status).with_context(|| states(&status))?;
            Ok(status)
        })
        .await
    }

    /// Waits until `nodes` nodes are healthy.
    ///
    /// # Errors
    /// After the deadline.
    pub async fn wait_healthy(
        &self,
        nodes: usize,
        deadline: Duration,
    ) -> anyhow::Result<StatusResponse> {
        let what = format!("{nodes} healthy nodes");
        self.wait(&what, deadline, |status| {
            ensure!(
                status.healthy_nodes == nodes,
                "{} healthy",
                status.healthy_nodes
            );
            Ok(())
        })
        .await
    }

    /// Waits until a node votes in this start of its volume or a later one; gives how long that took.
    ///
    /// # Errors
    /// After the deadline.
    pub async fn wait_voting(
        &self,
        label: &str,
        start: u64,
        deadline: Duration,
    ) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.wait(&format!("{label} to vote"), deadline, |status| {
            let node = status.nodes.values().find(|node| node.id.as_str() == label);
            let node = node.with_context(|| format!("there is no {label}"))?;
            ensure!(
                node.voting && node.incarnation >= start,
                "{label} is {:?} in its start {}; votes: {}",
                node.state,
                node.incarnation,
                node.voting
            );
            Ok(())
        })
        .await?;
        Ok(begin.elapsed())
    }

    /// A JSON-RPC client of a node, as the host reaches it.
    ///
    /// # Errors
    /// When the registry does not know that.
    pub async fn rpc(&self, label: &str) -> anyhow::Result<JsonRpc> {
        let url = self.node(label).await?.public_rpc_url;
        let url = url.with_context(|| format!("{label} publishes no JSON-RPC"))?;
        Ok(JsonRpc::new(&url, CALL)?)
    }

    /// JSON-RPC clients of these nodes.
    ///
    /// # Errors
    /// As [`Self::rpc`].
    pub async fn rpcs(&self, labels: &[&str]) -> anyhow::Result<Vec<JsonRpc>> {
        let mut clients = Vec::new();
        for label in labels {
            clients.push(self.rpc(label).await?);
        }
        Ok(clients)
    }

    /// What a container wrote to its log.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn log(&self, name: &str) -> anyhow::Result<String> {
        let container = self.container(name);
        let mut command = Command::new("sh");
        command.args(["-c", "docker logs \"$0\" 2>&1", &container]);
        run(&mut command).await
    }

    /// Runs a script of the repository on this cluster; gives its output, whether it went well or not.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn script(
        &self,
        name: &str,
        arguments: &[&str],
    ) -> anyhow::Result<std::process::Output> {
        let script = binaries::repository().join("scripts").join(name);
        Command::new(script)
            .args(arguments)
            .env("AXOLOTL_BIN", binaries::directory()?)
            .env("AXOLOTL_HOME", self.home.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("running {name}"))
    }

    /// Ends a test that went well; makes sure that nothing is left.
    ///
    /// # Errors
    /// When something stays.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        self.finished = true;
        self.remove_all();
        let (containers, volumes) = (self.present().await?, self.volumes().await?);
        ensure!(
            containers.is_empty() && volumes.is_empty(),
            "left: {containers:?} {volumes:?}"
        );
        Ok(())
    }

    /// Removes containers, volumes and the network. For `Drop`, so it uses the blocking way.
    fn remove_all(&self) {
        let list = |words: &[&str]| {
            let output = std::process::Command::new("docker").args(words).output();
            let text = output.map(|output| output.stdout).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        let remove = |verb: &[&str], ids: String| {
            let ids: Vec<&str> = ids.lines().collect();
            if !ids.is_empty() {
                let _ = std::process::Command::new("docker")
                    .args(verb)
                    .args(ids)
                    .output();
            }
        };
        // The registry first: it would replace what is removed before it.
        remove(&["rm", "-f"], self.container("registry"));
        let network = format!("label=org.axolotl.network={}net", self.prefix);
        remove(&["rm", "-f"], list(&["ps", "-aq", "--filter", &network]));
        let volumes = format!("name=axolotl_{}", self.prefix);
        remove(
            &["volume", "rm", "-f"],
            list(&["volume", "ls", "-q", "--filter", &volumes]),
        );
        let networks = format!("name={}net", self.prefix);
        remove(
            &["network", "rm"],
            list(&["network", "ls", "-q", "--filter", &networks]),
        );
    }

    fn print_logs(&self) {
        let names = (1..=LOGS).map(|number| format!("node{number}"));
        for name in ["registry".to_owned()].into_iter().chain(names) {
            let name = self.container(&name);
            let output = std::process::Command::new("docker")
                .args(["logs", "--tail", TAIL, &name])
                .output();
            if let Ok(output) = output {
                eprintln!(
                    "---- {name}\n{}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    }
}

impl Drop for DockerCluster {
    fn drop(&mut self) {
        if !self.finished {
            eprintln!("the test did not end well; the ends of its containers' logs:");
            self.print_logs();
        }
        self.remove_all();
    }
}
