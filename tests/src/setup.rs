//! What a cluster is made of, and the turns that clusters take.

use std::{fs::File, path::PathBuf};

use anyhow::Context;
use axolotl_common::registry_api::{NodeState, StatusResponse};
use rustix::fs::{FlockOperation, flock};

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes in the genesis.
    pub nodes: usize,
    /// Further variables of the registry's environment.
    pub registry_env: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 4,
            registry_env: Vec::new(),
        }
    }
}

/// A node that a test started itself.
#[derive(Clone, Debug)]
pub struct HandNode {
    /// Its data directory.
    pub data: PathBuf,
    /// Its libp2p port.
    pub p2p: u16,
    /// Its HTTP port.
    pub http: u16,
    /// Its JSON-RPC port.
    pub rpc: u16,
    /// Further variables of its environment.
    pub env: Vec<(String, String)>,
}

/// Node by node: state and height.
pub(crate) fn states(status: &StatusResponse) -> String {
    let nodes: Vec<String> = status
        .nodes
        .values()
        .map(|node| {
            let state = if node.state == NodeState::Healthy {
                "healthy".to_owned()
            } else {
                format!("{:?} {:?}", node.state, node.detail)
            };
            format!("{} {state} at {}", node.id, node.height)
        })
        .collect();
    format!("[{}] {:?}", nodes.join(", "), status.forming)
}

/// Holds a lock on a file until it is dropped, so that one cluster of a kind (`processes`, `containers`)
/// runs at a time.
pub(crate) async fn take_turn(kind: &str) -> anyhow::Result<File> {
    let path = std::env::temp_dir().join(format!("axolotl-tests-{kind}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    tokio::task::spawn_blocking(move || {
        flock(&file, FlockOperation::LockExclusive)?;
        anyhow::Ok(file)
    })
    .await?
}
