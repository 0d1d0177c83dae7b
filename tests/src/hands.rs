//! A cluster whose nodes the test starts and stops itself: its registry runs none (`RUNTIME=none`).

use std::path::PathBuf;

use crate::{
    Cluster, HandNode, Options,
    cluster::START,
    processes::{self, Signal},
};

/// Nodes `node1`, `node2`, … on the ports that a runtime would give them, and their registry.
pub struct Hands {
    /// The registry, and everything that is asked of it.
    pub cluster: Cluster,
}

impl Hands {
    /// Starts a registry and the nodes of a genesis, and waits until all are healthy and make blocks.
    ///
    /// # Errors
    /// When they do not come up.
    pub async fn start(nodes: usize) -> anyhow::Result<Self> {
        let options = Options {
            nodes,
            registry_env: vec![("RUNTIME".to_owned(), "none".to_owned())],
        };
        let mut cluster = Cluster::prepare(options).await?;
        // It answers once the tokens are there.
        cluster.restart_registry().await?;
        let mut hands = Self { cluster };
        for number in 1..=nodes {
            hands.run(&format!("node{number}"))?;
        }
        hands.cluster.wait_healthy(nodes, START).await?;
        hands.cluster.wait_rpc(nodes, START).await?;
        Ok(hands)
    }

    /// Data directory of a node.
    pub fn data(&self, label: &str) -> PathBuf {
        self.cluster.home().join(label)
    }

    /// How a node is started: with its directory, its ports, and its label as the one that it wishes.
    ///
    /// # Errors
    /// When the label has no number.
    pub fn node(&self, label: &str) -> anyhow::Result<HandNode> {
        let place: u16 = label.trim_start_matches("node").parse()?;
        let (ports, place) = (self.cluster.ports(), place.saturating_sub(1));
        let mut node = self.cluster.hand(label)?;
        node.p2p = ports.p2p + place;
        node.http = ports.http + place;
        node.rpc = ports.rpc + place;
        node.env.push(("NODE_ID".to_owned(), label.to_owned()));
        Ok(node)
    }

    /// Starts a node, for the first time or again.
    ///
    /// # Errors
    /// When the node's program is missing.
    pub fn run(&mut self, label: &str) -> anyhow::Result<u32> {
        let node = self.node(label)?;
        self.cluster.start_hand(&node)
    }

    /// Ends a node in order, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run or does not end.
    pub async fn stop(&self, label: &str) -> anyhow::Result<()> {
        let pid = self.cluster.pid(label)?;
        processes::signal(pid, Signal::TERM)?;
        processes::wait_gone(pid).await
    }
}
