//! Settings of RUNTIME=docker.

use clap::Args;

use super::Faults;

/// Least memory that a node's container may be limited to: it needs that much at rest.
const MIN_MEMORY: u64 = 64 << 20;
/// Addresses of engines that are spoken to: no TLS stack is linked, and no ssh.
const HOSTS: [&str; 3] = ["unix://", "tcp://", "http://"];

/// Arguments of RUNTIME=docker, as they were written.
#[derive(Debug, Args)]
pub struct DockerArgs {
    /// RUNTIME=docker: address of the Docker engine.
    #[arg(
        long,
        env = "DOCKER_HOST",
        default_value = "unix:///var/run/docker.sock"
    )]
    pub docker_host: String,
    /// RUNTIME=docker: network of the nodes' containers; made when it is not there.
    #[arg(long, env = "DOCKER_NETWORK", default_value = "axolotl_blockchain")]
    pub docker_network: String,
    /// RUNTIME=docker: image of nodes.
    #[arg(long, env = "DOCKER_IMAGE", default_value = "axolotl-node:latest")]
    pub docker_image: String,
    /// RUNTIME=docker: volume in which nodes find the join token.
    #[arg(long, env = "DOCKER_JOIN_VOLUME", default_value = "axolotl_join")]
    pub docker_join_volume: String,
    /// RUNTIME=docker: begins the names of containers and volumes that the registry makes.
    #[arg(long, env = "DOCKER_NAME_PREFIX", default_value = "")]
    pub docker_name_prefix: String,
    /// RUNTIME=docker: most memory of a node's container, such as 512m.
    #[arg(long, env = "DOCKER_NODE_MEMORY", default_value = "512m")]
    pub docker_node_memory: String,
    /// RUNTIME=docker: where nodes find this registry.
    #[arg(
        long,
        env = "NODE_REGISTRY_URL",
        default_value = "http://registry:9090"
    )]
    pub node_registry_url: String,
    /// RUNTIME=docker: libp2p of started nodes is published on the first free port of 127.0.0.1 from here.
    #[arg(long, env = "PORT_START", default_value = "50054")]
    pub port_start: String,
    /// RUNTIME=docker: the same for JSON-RPC.
    #[arg(long, env = "RPC_PORT_START", default_value = "8549")]
    pub rpc_port_start: String,
    /// RUNTIME=docker: nodes are missing from the genesis for so long before they are started.
    #[arg(long, env = "GENESIS_TIMEOUT", default_value = "30s")]
    pub genesis_timeout: String,
}

/// Settings of containers.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// Address of the engine.
    pub host: String,
    /// Network of the containers.
    pub network: String,
    /// Image of nodes.
    pub image: String,
    /// Volume with the join token.
    pub join_volume: String,
    /// Begins the names of containers and volumes.
    pub name_prefix: String,
    /// Most memory of a container, in bytes.
    pub memory: u64,
    /// Where nodes find the registry.
    pub registry_url: String,
    /// First port for libp2p.
    pub p2p_port: u16,
    /// First port for JSON-RPC.
    pub rpc_port: u16,
}

impl DockerConfig {
    /// Reads and checks the settings; `None` when one is wrong.
    pub(super) fn read(args: &DockerArgs, faults: &mut Faults) -> Option<Self> {
        let before = faults.0.len();
        let host = args.docker_host.trim();
        if !HOSTS.iter().any(|scheme| host.starts_with(scheme)) {
            faults.add(format!(
                "DOCKER_HOST={host:?}: expected unix:///path or tcp://host:port"
            ));
        }
        for (name, text, may_be_empty) in [
            ("DOCKER_NETWORK", &args.docker_network, false),
            ("DOCKER_JOIN_VOLUME", &args.docker_join_volume, false),
            ("DOCKER_NAME_PREFIX", &args.docker_name_prefix, true),
        ] {
            if !(is_name(text) || may_be_empty && text.is_empty()) {
                faults.add(format!(
                    "{name}={text:?}: expected letters, digits, '_', '.' and '-', a letter or \
                     digit first"
                ));
            }
        }
        if args.docker_image.trim().is_empty() {
            faults.add("DOCKER_IMAGE is empty: expected the name of an image".to_owned());
        }
        if !args.node_registry_url.starts_with("http://") {
            faults.add(format!(
                "NODE_REGISTRY_URL={:?}: expected http://host:port",
                args.node_registry_url
            ));
        }
        let memory = bytes(args.docker_node_memory.trim());
        if memory.is_none_or(|memory| memory < MIN_MEMORY) {
            faults.add(format!(
                "DOCKER_NODE_MEMORY={:?}: expected a size such as 512m or 2g, {} MiB at least",
                args.docker_node_memory,
                MIN_MEMORY >> 20
            ));
        }
        let p2p = faults.port("PORT_START", &args.port_start);
        let rpc = faults.port("RPC_PORT_START", &args.rpc_port_start);
        if faults.0.len() > before {
            return None;
        }
        Some(Self {
            host: host.to_owned(),
            network: args.docker_network.clone(),
            image: args.docker_image.trim().to_owned(),
            join_volume: args.docker_join_volume.clone(),
            name_prefix: args.docker_name_prefix.clone(),
            memory: memory?,
            registry_url: args.node_registry_url.clone(),
            p2p_port: p2p?,
            rpc_port: rpc?,
        })
    }
}

/// What the engine accepts as a name.
fn is_name(text: &str) -> bool {
    let first = text.chars().next();
    let plain = |c: char| c.is_ascii_alphanumeric() || ['_', '.', '-'].contains(&c);
    first.is_some_and(|c| c.is_ascii_alphanumeric()) && text.chars().all(plain)
}

/// A size as Docker writes it: a number and b, k, m or g.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_writes_them() {
        let cases = [
            ("512m", Some(512 << 20)),
            ("2G", Some(2 << 30)),
            ("100", Some(100)),
            ("1.5g", None),
            ("m", None),
            ("512x", None),
            ("99999999999g", None),
        ];
        for (text, size) in cases {
            assert_eq!(bytes(text), size, "{text}");
        }
    }

    #[test]
    fn names_are_those_of_the_engine() {
        assert!(is_name("axolotl_blockchain") && is_name("a-1.b"));
        assert!(!is_name("") && !is_name("-a") && !is_name("a b") && !is_name("a/b"));
    }
}
