//! A cluster of real processes: a registry with the process runtime, the nodes that it starts, and
//! nodes started by hand.

mod nodes;

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use axolotl_common::registry_api::{DiscoverResponse, Event, Problem, StatusResponse};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    binaries, calls, events,
    ports::{self, Ports, free_port},
    processes::{self, Process, Signal},
    setup::{HandNode, Options, states, take_turn},
    wait,
};

/// Patience for a cluster to start or to be whole again.
pub const START: Duration = Duration::from_secs(60);
/// Patience for an orderly stop: nodes may take 8 s.
pub const STOP: Duration = Duration::from_secs(20);
/// Most time for one HTTP call.
pub const CALL: Duration = Duration::from_secs(5);

/// A running cluster.
pub struct Cluster {
    home: TempDir,
    options: Options,
    ports: Ports,
    http: reqwest::Client,
    registry: Option<Child>,
    hands: Vec<Child>,
    /// The last status that the registry gave: where nodes are does not change while it is away.
    known: Option<StatusResponse>,
    finished: bool,
    _turn: File,
}

impl Cluster {
    /// Starts a cluster of `nodes` nodes and waits until all are healthy and make blocks.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(nodes: usize) -> anyhow::Result<Self> {
        let options = Options {
            nodes,
            ..Options::default()
        };
        let mut cluster = Self::prepare(options).await?;
        cluster.start_registry()?;
        cluster.wait_healthy(nodes, START).await?;
        cluster.wait_rpc(nodes, START).await?;
        Ok(cluster)
    }

    /// A cluster of which nothing runs yet. Waits for other clusters of this machine to end.
    ///
    /// # Errors
    /// When there is no room on disk or no free port.
    pub async fn prepare(options: Options) -> anyhow::Result<Self> {
        let turn = take_turn("processes").await?;
        let home = tempfile::Builder::new().prefix("axolotl-test-").tempdir()?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(CALL)
            .build()?;
        Ok(Self {
            home,
            options,
            ports: Ports::find(ports::OF_PROCESSES)?,
            http,
            registry: None,
            hands: Vec::new(),
            known: None,
            finished: false,
            _turn: turn,
        })
    }

    /// Directory of everything that belongs to the cluster.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its ports.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The registry's data directory.
    pub fn registry_data(&self) -> PathBuf {
        self.home().join("registry")
    }

    /// The variables that the registry is started with.
    pub fn registry_env(&self) -> Vec<(String, String)> {
        let home = self.home();
        let Ports {
            registry,
            p2p,
            http,
            rpc,
        } = self.ports;
        let minimum = self.options.nodes.min(2);
        let mut env: Vec<(String, String)> = [
            ("PORT", registry.to_string()),
            ("RUNTIME", "process".to_owned()),
            ("DATA_DIR", home.join("registry").display().to_string()),
            ("GENESIS_NODES", self.options.nodes.to_string()),
            ("MIN_NODES", minimum.to_string()),
            ("P2P_PORT_BASE", p2p.to_string()),
            ("HTTP_PORT_BASE", http.to_string()),
            ("RPC_PORT_BASE", rpc.to_string()),
            ("RUST_LOG", "info".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(self.options.registry_env.iter().cloned());
        env
    }

    /// Starts the registry, which starts the nodes.
    ///
    /// # Errors
    /// When its program is missing.
    pub fn start_registry(&mut self) -> anyhow::Result<()> {
        self.start_registry_with(&[])
    }

    /// Starts the registry again, and waits until it answers.
    ///
    /// # Errors
    /// When its program is missing, or it does not answer.
    pub async fn restart_registry(&mut self) -> anyhow::Result<()> {
        self.start_registry()?;
        let this = &*self;
        wait::until("the registry", START, async || {
            this.get::<serde_json::Value>("/status").await.map(drop)
        })
        .await
    }

    /// Starts the registry with further variables, which win over the usual ones.
    ///
    /// # Errors
    /// When its program is missing.
    pub fn start_registry_with(&mut self, more: &[(String, String)]) -> anyhow::Result<()> {
        let mut env = self.registry_env();
        env.extend(more.iter().cloned());
        let child = self.spawn(&binaries::registry()?, &["serve"], &env, "registry.log")?;
        self.registry = Some(child);
        Ok(())
    }

    /// Kills the registry (-9); its nodes go on.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_registry(&mut self) -> anyhow::Result<()> {
        let mut child = self.registry.take().context("the registry does not run")?;
        child.kill().await.context("killing the registry")
    }

    /// Starts a node by hand.
    ///
    /// # Errors
    /// When the node's program is missing.
    pub fn start_hand(&mut self, node: &HandNode) -> anyhow::Result<u32> {
        let mut env: Vec<(String, String)> = [
            ("DATA_DIR", node.data.display().to_string()),
            ("PORT", node.p2p.to_string()),
            ("HTTP_PORT", node.http.to_string()),
            ("RPC_PORT", node.rpc.to_string()),
            ("ADVERTISE_ADDR", "127.0.0.1".to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(node.env.iter().cloned());
        let label = node.data.file_name().unwrap_or_default().to_string_lossy();
        self.spawn_node(&env, &label)
    }

    /// Starts a node that ran before again, as it was, while no registry does it.
    ///
    /// # Errors
    /// When the node's program is missing.
    pub fn start_again(&mut self, node: &Process) -> anyhow::Result<u32> {
        let label = node.variable("NODE_ID").unwrap_or("node");
        self.spawn_node(&node.environment, &format!("{label}-again"))
    }

    fn spawn_node(&mut self, env: &[(String, String)], label: &str) -> anyhow::Result<u32> {
        let log = format!("{label}.log");
        let child = self.spawn(&binaries::axolotl()?, &["node"], env, &log)?;
        let pid = child.id().context("the node ended at once")?;
        self.hands.push(child);
        Ok(pid)
    }

    /// A node that is not one of the registry's, with a directory and ports of its own; it joins
    /// through the registry.
    ///
    /// # Errors
    /// When no port is free.
    pub fn hand(&self, label: &str) -> anyhow::Result<HandNode> {
        let token = self.registry_data().join("join_token");
        Ok(HandNode {
            data: self.home().join(label),
            p2p: free_port()?,
            http: free_port()?,
            rpc: free_port()?,
            env: vec![
                ("REGISTRY_URL".to_owned(), self.registry_url()),
                ("JOIN_TOKEN_FILE".to_owned(), token.display().to_string()),
            ],
        })
    }

    fn spawn(
        &self,
        program: &Path,
        arguments: &[&str],
        env: &[(String, String)],
        log: &str,
    ) -> anyhow::Result<Child> {
        let open = || {
            let path = self.home().join(log);
            File::options().create(true).append(true).open(path)
        };
        Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home())
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))
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

    /// `POST` to the registry with the admin token.
    ///
    /// # Errors
    /// When it does not answer, or not with 2xx: then with status and body.
    pub async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> anyhow::Result<T> {
        let (status, text) = self.send(path, body, Some(&self.admin_token()?)).await?;
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        serde_json::from_str(&text).with_context(|| format!("{path} answered {text}"))
    }

    /// `POST` to the registry that it must refuse, with this token or none; gives status and reason.
    ///
    /// # Errors
    /// When it does not answer, takes the request, or gives no reason.
    pub async fn refused(
        &self,
        path: &str,
        body: &serde_json::Value,
        token: Option<&str>,
    ) -> anyhow::Result<(u16, String)> {
        let (status, text) = self.send(path, body, token).await?;
        ensure!(!status.is_success(), "{path} took {body}: {text}");
        let problem: Problem = serde_json::from_str(&text)
            .with_context(|| format!("{path} answered {status} with {text}"))?;
        Ok((status.as_u16(), problem.detail))
    }

    /// The token of operators.
    ///
    /// # Errors
    /// When the registry has not written it yet.
    pub fn admin_token(&self) -> anyhow::Result<String> {
        let path = self.registry_data().join("admin_token");
        let token = std::fs::read_to_string(&path);
        let token = token.with_context(|| format!("reading {}", path.display()))?;
        Ok(token.trim().to_owned())
    }

    async fn send(
        &self,
        path: &str,
        body: &serde_json::Value,
        token: Option<&str>,
    ) -> anyhow::Result<(reqwest::StatusCode, String)> {
        let url = format!("{}{path}", self.registry_url());
        calls::post(&self.http, &url, body, token).await
    }

    /// Every event that the registry keeps, oldest first.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn events(&self) -> anyhow::Result<Vec<Event>> {
        events::read(&self.http, &self.registry_url()).await
    }

    /// The registry's status.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&mut self) -> anyhow::Result<StatusResponse> {
        let status: StatusResponse = self.get("/status").await?;
        if !status.nodes.is_empty() {
            self.known = Some(status.clone());
        }
        Ok(status)
    }

    /// The registry's list of healthy nodes.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn discover(&self) -> anyhow::Result<DiscoverResponse> {
        self.get("/discover").await
    }

    /// Waits until `nodes` nodes are healthy.
    ///
    /// # Errors
    /// After the deadline.
    pub async fn wait_healthy(
        &mut self,
        nodes: usize,
        deadline: Duration,
    ) -> anyhow::Result<StatusResponse> {
        let this = &*self;
        let status = wait::until(&format!("{nodes} healthy nodes"), deadline, async || {
            let status: StatusResponse = this.get("/status").await?;
            ensure!(
                status.healthy_nodes == nodes,
                "{} healthy: {}",
                status.healthy_nodes,
                states(&status)
            );
            Ok(status)
        })
        .await?;
        self.known = Some(status.clone());
        Ok(status)
    }

    /// Waits until the JSON-RPC of `nodes` nodes answers with at least one block made.
    ///
    /// # Errors
    /// After the deadline.
    pub async fn wait_rpc(&mut self, nodes: usize, deadline: Duration) -> anyhow::Result<()> {
        let clients = self.rpcs()?;
        ensure!(clients.len() >= nodes, "{} RPC addresses", clients.len());
        for client in clients {
            let what = format!("the first block at {}", client.url());
            wait::until(&what, deadline, async || {
                let height = client.block_number().await?;
                ensure!(height > 0, "height {height}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Reads the status again, so that later calls see where the nodes are now.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn refresh(&mut self) -> anyhow::Result<()> {
        self.status().await.map(drop)
    }

    /// Stops everything in order, as the stop script does, and makes sure that no process is left.
    ///
    /// # Errors
    /// When something stays.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.post::<serde_json::Value>("/shutdown", &serde_json::json!({}))
            .await?;
        // Nodes that the test started itself are not the registry's to stop.
        for pid in self.hands.iter().filter_map(Child::id) {
            let _ = processes::signal(pid, Signal::TERM);
        }
        let this = &*self;
        wait::until("the nodes to stop", STOP, async || {
            let left = this.node_processes();
            ensure!(left.is_empty(), "still there: {:?}", left.keys());
            Ok(())
        })
        .await?;
        if let Some(mut registry) = self.registry.take() {
            let pid = registry.id().context("the registry ended by itself")?;
            processes::signal(pid, Signal::TERM)?;
            let ended = tokio::time::timeout(STOP, registry.wait()).await;
            let code = ended.context("the registry does not stop")??;
            ensure!(code.success(), "the registry ended with {code}");
        }
        let left = self.processes();
        ensure!(left.is_empty(), "processes are left: {left:#?}");
        Ok(())
    }

    /// Ends a test that went well: stops everything in order.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub async fn finish(mut self) -> anyhow::Result<()> {
        if self.registry.is_some() {
            self.stop().await?;
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.finished {
            eprintln!(
                "the test did not end well; the ends of its logs:\n{}",
                processes::log_tails(self.home.path())
            );
        }
        processes::kill_all_naming(self.home.path());
    }
}
