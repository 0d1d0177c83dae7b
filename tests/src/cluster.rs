//! A cluster of real processes: a registry with the process runtime, the nodes that it starts, and
//! nodes started by hand.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use axolotl_common::{
    PublicKey,
    registry_api::{DiscoverResponse, NodeStatus, RuntimeInfo, StatusResponse},
};
use axolotl_node::cli::json_rpc::JsonRpc;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    binaries,
    ports::{Ports, free_port},
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
        let turn = take_turn().await?;
        let home = tempfile::Builder::new().prefix("axolotl-test-").tempdir()?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(CALL)
            .build()?;
        Ok(Self {
            home,
            options,
            ports: Ports::find()?,
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
        let url = format!("{}{path}", self.registry_url());
        let response = self.http.get(&url).send().await?;
        let status = response.status();
        let body = response.text().await?;
        ensure!(status.is_success(), "{url} answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("{url} answered {body}"))
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

    fn known(&self) -> anyhow::Result<&StatusResponse> {
        let known = self.known.as_ref();
        known.context("the registry's status was not read yet")
    }

    /// Labels of all nodes that the registry knew when it was asked last, by number.
    ///
    /// # Errors
    /// When it was not asked yet.
    pub fn labels(&self) -> anyhow::Result<Vec<String>> {
        let mut nodes: Vec<_> = self.known()?.nodes.keys().collect();
        nodes.sort_by_key(|id| id.number());
        Ok(nodes.iter().map(ToString::to_string).collect())
    }

    /// What the registry said last about a node.
    ///
    /// # Errors
    /// When it does not know the node.
    pub fn node(&self, label: &str) -> anyhow::Result<&NodeStatus> {
        let nodes = &self.known()?.nodes;
        let node = nodes.values().find(|node| node.id.as_str() == label);
        node.with_context(|| format!("the registry knows no {label}"))
    }

    /// A JSON-RPC client of a node.
    ///
    /// # Errors
    /// When the registry does not know the node.
    pub fn rpc(&self, label: &str) -> anyhow::Result<JsonRpc> {
        let node = self.node(label)?;
        let url = node.public_rpc_url.as_ref().unwrap_or(&node.rpc_url);
        Ok(JsonRpc::new(url, CALL)?)
    }

    /// JSON-RPC clients of all nodes, by number.
    ///
    /// # Errors
    /// When the registry was not asked yet.
    pub fn rpcs(&self) -> anyhow::Result<Vec<JsonRpc>> {
        self.labels()?.iter().map(|label| self.rpc(label)).collect()
    }

    /// Label of the node that built the head block, from what a node says.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn leader(&self) -> anyhow::Result<String> {
        let mut last = anyhow!("there are no nodes");
        for client in self.rpcs()? {
            match client.latest_block().await {
                Ok(block) => {
                    let key = block.builder.context("only the genesis is there")?;
                    return self.label_of(&key);
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// Label of the node with this key.
    ///
    /// # Errors
    /// When there is none.
    pub fn label_of(&self, key: &PublicKey) -> anyhow::Result<String> {
        let peer_id = key.peer_id();
        let nodes = &self.known()?.nodes;
        let node = nodes.values().find(|node| node.peer_id == peer_id);
        node.map(|node| node.id.to_string())
            .with_context(|| format!("no node has the key {key}"))
    }

    /// Key of a node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn key_of(&self, label: &str) -> anyhow::Result<PublicKey> {
        Ok(PublicKey::from_peer_id(&self.node(label)?.peer_id)?)
    }

    /// All living processes of the cluster.
    pub fn processes(&self) -> Vec<Process> {
        processes::naming(self.home())
    }

    /// The living node processes by label; one without a label by its data directory's name.
    pub fn node_processes(&self) -> BTreeMap<String, Process> {
        let nodes = self.processes().into_iter();
        nodes
            .filter(|process| process.program == "axolotl")
            .filter_map(|process| {
                let data = PathBuf::from(process.variable("DATA_DIR")?);
                let label = match process.variable("NODE_ID") {
                    Some(label) => label.to_owned(),
                    None => data.file_name()?.to_string_lossy().into_owned(),
                };
                Some((label, process))
            })
            .collect()
    }

    /// Process id of a node, as the registry said last.
    ///
    /// # Errors
    /// When it is no process.
    pub fn pid(&self, label: &str) -> anyhow::Result<u32> {
        match &self.node(label)?.runtime {
            Some(RuntimeInfo::Process { pid }) => Ok(*pid),
            other => Err(anyhow!("{label} is no process of the registry: {other:?}")),
        }
    }

    /// Kills a node (-9). The registry starts it again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self, label: &str) -> anyhow::Result<()> {
        if self.registry.is_some() {
            self.status().await?;
        }
        let pid = self.pid(label)?;
        processes::kill(pid).await
    }

    /// Stops a node (SIGSTOP): it answers nothing until [`Self::resume`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, label: &str) -> anyhow::Result<()> {
        processes::signal(self.pid(label)?, Signal::STOP)
    }

    /// Ends a [`Self::pause`].
    ///
    /// # Errors
    /// When the node does not run.
    pub fn resume(&self, label: &str) -> anyhow::Result<()> {
        processes::signal(self.pid(label)?, Signal::CONT)
    }

    /// Stops everything in order, as the stop script does, and makes sure that no process is left.
    ///
    /// # Errors
    /// When something stays.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let token_file = self.registry_data().join("admin_token");
        let token = std::fs::read_to_string(&token_file)
            .with_context(|| format!("reading {}", token_file.display()))?;
        let response = self
            .http
            .post(format!("{}/shutdown", self.registry_url()))
            .bearer_auth(token.trim())
            .json(&serde_json::json!({}))
            .send()
            .await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "POST /shutdown: {status}: {text}");
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
