//! Containers of nodes, as the engine lists them; labels say whose they are.

use std::collections::HashMap;

use axolotl_common::{NodeId, registry_api::RuntimeInfo};
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State, PortSummary};

use crate::runtime::{Exit, Found, Instance, Origin};

/// Names the network that a container or volume belongs to.
pub(super) const NETWORK: &str = "org.axolotl.network";
/// Names the node that a container runs or a volume is of.
pub(super) const NODE: &str = "org.axolotl.node";
/// Names the store of the registry that made a container or volume; others carry none.
pub(super) const STORE: &str = "org.axolotl.store";
/// Which start of the node a container was made for.
pub(super) const GENERATION: &str = "org.axolotl.generation";
/// Ports of the host that a container publishes, also while it does not run.
pub(super) const PORTS: &str = "org.axolotl.ports";

/// JSON-RPC inside of a container.
pub(super) const RPC_PORT: u16 = 8545;

/// How far a container came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It was made and never ran.
    Made,
    /// It runs; a paused one does too.
    Runs,
    /// It ended.
    Ended,
}

/// A container of a node.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) origin: Origin,
    pub(super) life: Life,
    pub(super) image_id: String,
    /// When it was made, in seconds since 1970.
    pub(super) created: i64,
    /// The engine's words, such as `Exited (137) 2 minutes ago`.
    pub(super) status: String,
    /// Ports of the host that are its own.
    pub(super) ports: Vec<u16>,
    generation: u64,
    public_rpc_url: Option<String>,
}

/// What labels say.
pub(super) struct Labels<'a> {
    labels: &'a HashMap<String, String>,
    store: &'a str,
}

impl<'a> Labels<'a> {
    /// The labels of something, read by the registry with this store.
    pub(super) fn new(labels: &'a HashMap<String, String>, store: &'a str) -> Self {
        Self { labels, store }
    }

    /// Which node it is of.
    pub(super) fn node(&self) -> Option<NodeId> {
        self.labels.get(NODE)?.parse().ok()
    }

    /// Whether this registry made it.
    pub(super) fn origin(&self) -> Origin {
        match self.labels.get(STORE).is_some_and(|id| id == self.store) {
            true => Origin::Registry,
            false => Origin::Given,
        }
    }

    /// Which start of the node it was made for; 0 when nobody says.
    pub(super) fn generation(&self) -> u64 {
        let label = self.labels.get(GENERATION);
        label.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn ports(&self) -> Vec<u16> {
        let label = self.labels.get(PORTS).map_or("", String::as_str);
        label.split(',').filter_map(|p| p.parse().ok()).collect()
    }
}

impl Container {
    /// Reads a line of the engine's list; `None` when it is no node's.
    pub(super) fn read(summary: ContainerSummary, store: &str) -> Option<Self> {
        let labels = summary.labels.unwrap_or_default();
        let labels = Labels::new(&labels, store);
        let published = summary.ports.unwrap_or_default();
        let mut ports = labels.ports();
        ports.extend(published.iter().filter_map(|port| port.public_port));
        Some(Self {
            id: summary.id?,
            name: own_name(&summary.names?)?,
            node: labels.node()?,
            origin: labels.origin(),
            life: match summary.state {
                Some(State::CREATED) => Life::Made,
                Some(State::RUNNING | State::PAUSED | State::RESTARTING | State::STOPPING) => {
                    Life::Runs
                }
                _ => Life::Ended,
            },
            image_id: summary.image_id.unwrap_or_default(),
            created: summary.created.unwrap_or(0),
            status: summary.status.unwrap_or_default(),
            ports,
            generation: labels.generation(),
            public_rpc_url: published.iter().find_map(rpc_url),
        })
    }

    /// As the registry knows it.
    pub(super) fn instance(&self) -> Instance {
        Instance {
            node: self.node.clone(),
            generation: self.generation,
            info: RuntimeInfo::Docker {
                container: self.name.clone(),
            },
            token: self.id.clone(),
            public_rpc_url: self.public_rpc_url.clone(),
        }
    }

    /// As it was found; `seen` is its end, where somebody looked.
    pub(super) fn found(&self, seen: Option<&Exit>) -> Found {
        let unseen = || {
            Exit::Crash(match self.life {
                Life::Made => "its container was never started".to_owned(),
                _ => format!("it ended while nobody looked: {}", self.status),
            })
        };
        Found {
            instance: self.instance(),
            origin: self.origin,
            ended: (self.life != Life::Runs).then(|| seen.cloned().unwrap_or_else(unseen)),
        }
    }
}

/// One container for each node that does not run, the newest that got furthest; all that run.
pub(super) fn one_each(mut containers: Vec<Container>) -> Vec<Container> {
    containers.sort_by_key(|c| {
        let rank = match c.life {
            Life::Runs => 0,
            Life::Ended => 1,
            Life::Made => 2,
        };
        (c.node.number(), c.node.clone(), rank, -c.created)
    });
    let mut kept: Vec<Container> = Vec::new();
    for container in containers {
        let another = kept.last().is_some_and(|last| last.node == container.node);
        if container.life == Life::Runs || !another {
            kept.push(container);
        }
    }
    kept
}

/// A container's own name: those with a second slash are links of others.
fn own_name(names: &[String]) -> Option<String> {
    let mut names = names.iter().filter_map(|name| name.strip_prefix('/'));
    names.find(|name| !name.contains('/')).map(str::to_owned)
}

fn rpc_url(port: &PortSummary) -> Option<String> {
    let public = port.public_port.filter(|_| port.private_port == RPC_PORT)?;
    let host = match port.ip.as_deref() {
        None | Some("" | "0.0.0.0" | "::") => "127.0.0.1",
        Some(ip) => ip,
    };
    Some(format!("http://{host}:{public}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(node: &str, life: Life, created: i64) -> Container {
        Container {
            id: format!("{node}-{created}"),
            name: node.to_owned(),
            node: node.parse().unwrap(),
            origin: Origin::Given,
            life,
            image_id: String::new(),
            created,
            status: "Exited (0)".to_owned(),
            ports: Vec::new(),
            generation: 0,
            public_rpc_url: None,
        }
    }

    #[test]
    fn of_a_node_that_does_not_run_the_newest_container_counts() {
        let kept = one_each(vec![
            container("node10", Life::Runs, 1),
            container("node2", Life::Ended, 1),
            container("node2", Life::Made, 3),
            container("node2", Life::Ended, 2),
            container("node1", Life::Ended, 5),
            container("node1", Life::Runs, 1),
            container("node1", Life::Runs, 2),
        ]);
        let ids: Vec<&str> = kept.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["node1-2", "node1-1", "node2-2", "node10-1"]);
    }

    #[test]
    fn an_end_that_nobody_saw_is_a_crash_whatever_its_code() {
        let ended = container("node1", Life::Ended, 1);
        let found = ended.found(None).ended;
        assert!(
            matches!(&found, Some(Exit::Crash(why)) if why.contains("Exited (0)")),
            "{found:?}"
        );
        assert_eq!(ended.found(Some(&Exit::Clean)).ended, Some(Exit::Clean));
        let runs = container("node1", Life::Runs, 1);
        assert_eq!(runs.found(Some(&Exit::Clean)).ended, None);
    }

    #[test]
    fn links_of_other_containers_are_not_a_name() {
        let names = ["/other/node1".to_owned(), "/axolotl-node1".to_owned()];
        assert_eq!(own_name(&names).as_deref(), Some("axolotl-node1"));
    }
}
