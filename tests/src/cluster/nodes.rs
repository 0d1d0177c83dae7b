//! The nodes of a cluster: who they are, and what is done to them.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, anyhow, ensure};
use axolotl_common::{
    PublicKey,
    registry_api::{MembershipResponse, NodeSelfStatus, NodeStatus, RuntimeInfo, StatusResponse},
};
use axolotl_node::cli::json_rpc::JsonRpc;

use super::{CALL, Cluster};
use crate::{
    membership,
    processes::{self, Process, Signal},
};

impl Cluster {
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

    /// Labels of the validators of the epoch in force, in list order.
    ///
    /// # Errors
    /// When the registry does not answer, or there is no epoch yet.
    pub async fn validators(&self) -> anyhow::Result<Vec<String>> {
        membership::validators(self.get::<MembershipResponse>("/membership").await?)
    }

    /// JSON-RPC clients of the validators of the epoch in force, in list order.
    ///
    /// # Errors
    /// As [`Self::validators`].
    pub async fn voters(&mut self) -> anyhow::Result<Vec<JsonRpc>> {
        self.refresh().await?;
        let labels = self.validators().await?;
        labels.iter().map(|label| self.rpc(label)).collect()
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn own_status(&self, label: &str) -> anyhow::Result<NodeSelfStatus> {
        let url = format!("{}/status", self.node(label)?.http_url);
        self.own_status_at(&url).await
    }

    /// What the node at this address says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn own_status_at(&self, url: &str) -> anyhow::Result<NodeSelfStatus> {
        let answer = self.http.get(url).send().await?.error_for_status()?;
        Ok(answer.json().await?)
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

    /// The node with this key votes in this start of its data directory or a later one: its own word in a
    /// heartbeat that the registry took.
    ///
    /// # Errors
    /// While it does not.
    pub async fn votes(&self, key: &PublicKey, start: u64) -> anyhow::Result<()> {
        let status: StatusResponse = self.get("/status").await?;
        let node = status
            .nodes
            .values()
            .find(|node| node.peer_id == key.peer_id());
        let node = node.with_context(|| format!("the registry knows no {key}"))?;
        ensure!(
            node.voting && node.incarnation >= start,
            "{} is {:?} in its start {}; votes: {}",
            node.id,
            node.state,
            node.incarnation,
            node.voting
        );
        Ok(())
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

    /// Process id of a node: as the registry said last, or of one that the test started under this label.
    ///
    /// # Errors
    /// When there is none.
    pub fn pid(&self, label: &str) -> anyhow::Result<u32> {
        match &self.node(label)?.runtime {
            Some(RuntimeInfo::Process { pid }) => Ok(*pid),
            None => {
                let process = self.node_processes().remove(label);
                Ok(process
                    .with_context(|| format!("{label} does not run"))?
                    .pid)
            }
            other => Err(anyhow!("{label} is no process: {other:?}")),
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

    /// Takes a node's volume away for good.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn wipe(&self, label: &str) -> anyhow::Result<()> {
        let directory = self.registry_data().join("nodes").join(label).join("data");
        match std::fs::remove_dir_all(&directory) {
            // The registry was faster.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("removing {}", directory.display())),
        }
    }
}
