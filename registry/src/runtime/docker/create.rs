//! Makes containers: network, volume and ports first, then the container, then its start.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use axolotl_common::NodeId;
use bollard::{
    models::{
        ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
        NetworkCreateRequest, PortBinding, RestartPolicy, RestartPolicyNameEnum,
        VolumeCreateRequest,
    },
    query_parameters::{CreateContainerOptions, InspectNetworkOptions, ListContainersOptions},
};

use super::{
    Inner, Life,
    container::{Container, GENERATION, NETWORK, NODE, PORTS, RPC_PORT, STORE},
    engine::EngineError,
};
use crate::runtime::{Instance, Origin, RuntimeError, SpawnSpec};

/// Ports that are tried before giving up.
const PORT_ATTEMPTS: usize = 64;
/// libp2p inside of a container.
const P2P_PORT: u16 = 50_051;
/// User and group of the images.
const USER: &str = "65532:65532";
/// Most processes and threads in a container.
const MAX_PIDS: i64 = 256;
/// The binary asks itself whether it lives; each time costs 70 ms of a processor.
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
/// Failed health checks in a row before the engine shows a container as unhealthy.
const HEALTH_RETRIES: i64 = 3;
/// Logs of a container: `json-file`, so much in each of so many files.
const LOG_LIMITS: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "3")];
/// Letters of the store's name in a volume's, where the short name is somebody else's.
const STORE_LETTERS: usize = 8;

/// Ports of the host for one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    p2p: u16,
    rpc: u16,
}

impl Inner {
    /// Starts a node: what is there of it, or a new container.
    pub(super) async fn spawn(&self, spec: &SpawnSpec) -> Result<Instance, RuntimeError> {
        let _turn = self.making.lock().await;
        let what = format!("starting {}", spec.node);
        let fault = |e: EngineError| e.during(&*what);
        let containers = self.containers(Some(&spec.node)).await.map_err(fault)?;
        if let Some(running) = containers.iter().find(|c| c.life == Life::Runs) {
            return Ok(running.instance());
        }
        if let Some(given) = newest(&containers, Origin::Given) {
            match self.start(&given.id).await {
                Err(e) if e.is_port_taken() => {
                    return Err(RuntimeError::new(
                        what,
                        format!(
                            "container {}: {e}; stop what uses the port, or change the port in the \
                             compose file",
                            given.name
                        ),
                    ));
                }
                started => started.map_err(fault)?,
            }
            return self.started(&spec.node, &what).await;
        }
        let wanted_image = self.wanted_image().await;
        // What is kept of ours: at most one container, of the wanted image, that has been up.
        let best = newest(&containers, Origin::Registry).filter(|c| {
            c.life == Life::Ended
                && wanted_image
                    .as_ref()
                    .map_or(true, |image| *image == c.image_id)
        });
        let ours = containers.iter().filter(|c| c.origin == Origin::Registry);
        for old in ours.filter(|c| best.is_none_or(|best| best.id != c.id)) {
            self.discard(&old.id).await.map_err(fault)?;
        }
        if let Some(best) = best {
            match self.start(&best.id).await {
                Ok(()) => return self.started(&spec.node, &what).await,
                Err(e) if e.is_open() => return Err(fault(e)),
                // Its ports were taken meanwhile, or it cannot be started any more.
                Err(error) => {
                    tracing::info!(node = %spec.node, %error, "{} is made anew on its volume", spec.node);
                    self.discard(&best.id).await.map_err(fault)?;
                }
            }
        }
        wanted_image.map_err(fault)?;
        self.make_network().await.map_err(fault)?;
        let volume = self.make_volume(&spec.node).await.map_err(fault)?;
        self.make_container(spec, &volume, &what).await?;
        self.started(&spec.node, &what).await
    }

    /// What runs of a node now.
    async fn started(&self, node: &NodeId, what: &str) -> Result<Instance, RuntimeError> {
        let containers = self
            .containers(Some(node))
            .await
            .map_err(|e| e.during(what))?;
        match newest(&containers, Origin::Registry).or_else(|| newest(&containers, Origin::Given)) {
            // One that has ended by now was started all the same; its end is told.
            Some(container) => Ok(container.instance()),
            None => Err(RuntimeError::new(
                what,
                "its container was removed while it started",
            )),
        }
    }

    /// Id of the image that nodes are to run.
    async fn wanted_image(&self) -> Result<String, EngineError> {
        let image = &self.options.image;
        let name = image.clone();
        let inspected = self
            .engine
            .call(|docker| async move { docker.inspect_image(&name).await })
            .await;
        match inspected {
            Ok(inspected) => Ok(inspected.id.unwrap_or_default()),
            Err(error) if error.is_missing() => Err(EngineError::Refused {
                status: 404,
                message: format!(
                    "there is no image {image}; build it with ./scripts/build-images.sh, or name \
                     another in DOCKER_IMAGE"
                ),
            }),
            Err(error) => Err(error),
        }
    }

    async fn make_network(&self) -> Result<(), EngineError> {
        let name = self.options.network.clone();
        let looked = self
            .engine
            .call(|docker| async move {
                docker
                    .inspect_network(&name, None::<InspectNetworkOptions>)
                    .await
            })
            .await;
        match looked {
            Ok(_) => return Ok(()),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        let network = NetworkCreateRequest {
            name: self.options.network.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(HashMap::from([(
                NETWORK.to_owned(),
                self.options.network.clone(),
            )])),
            ..NetworkCreateRequest::default()
        };
        let made = self
            .engine
            .call(|docker| async move { docker.create_network(network).await })
            .await;
        match made {
            // Somebody was quicker.
            Err(error) if error.is_conflict() => Ok(()),
            made => made.map(drop),
        }
    }

    /// The node's volume: the one that it has, or a new one under a name that is nobody else's.
    async fn make_volume(&self, node: &NodeId) -> Result<String, EngineError> {
        if let Some(volume) = self.own_volumes(node).await?.into_iter().next() {
            return Ok(volume);
        }
        let options = &self.options;
        let short = format!("axolotl_{}{node}_data", options.name_prefix);
        let looked = {
            let name = short.clone();
            self.engine
                .call(|docker| async move { docker.inspect_volume(&name).await })
                .await
        };
        let name = match looked {
            // Another chain's data, which its node may still want.
            Ok(_) => {
                let store: String = options.store_id.chars().take(STORE_LETTERS).collect();
                format!("{short}_{store}")
            }
            Err(error) if error.is_missing() => short,
            Err(error) => return Err(error),
        };
        let volume = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(self.labels(node)),
            ..VolumeCreateRequest::default()
        };
        self.engine
            .call(|docker| async move { docker.create_volume(volume).await })
            .await?;
        Ok(name)
    }

    fn labels(&self, node: &NodeId) -> HashMap<String, String> {
        let options = &self.options;
        [
            (NETWORK, options.network.clone()),
            (NODE, node.to_string()),
            (STORE, options.store_id.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Ports of the host that containers have or may want back.
    async fn taken_ports(&self) -> Result<BTreeSet<u16>, EngineError> {
        let own = self.containers(None).await?;
        let running = self
            .engine
            .call(
                |docker| async move { docker.list_containers(None::<ListContainersOptions>).await },
            )
            .await?;
        let published = running
            .into_iter()
            .flat_map(|c| c.ports.unwrap_or_default());
        let published = published.filter_map(|port| port.public_port);
        Ok(own
            .into_iter()
            .flat_map(|c| c.ports)
            .chain(published)
            .collect())
    }

    /// Makes and starts a container, on the next ports as long as somebody has these.
    async fn make_container(
        &self,
        spec: &SpawnSpec,
        volume: &str,
        what: &str,
    ) -> Result<(), RuntimeError> {
        let fault = |e: EngineError| e.during(what);
        let mut taken = self.taken_ports().await.map_err(fault)?;
        let mut last = None;
        for _ in 0..PORT_ATTEMPTS {
            let Some(ports) = self.choose(&taken) else {
                break;
            };
            let id = self.create(spec, volume, ports).await.map_err(fault)?;
            let Err(error) = self.start(&id).await else {
                return Ok(());
            };
            if error.is_open() {
                // It may be starting: the next call or look finds it by its labels.
                return Err(fault(error));
            }
            self.discard(&id).await.map_err(fault)?;
            if !error.is_port_taken() {
                return Err(fault(error));
            }
            taken.extend(ports_in(&error.to_string(), ports));
            last = Some(error);
        }
        let last = last.map_or(String::new(), |error| {
            format!("; the last attempt: {error}")
        });
        Err(RuntimeError::new(
            what,
            format!(
                "no free port of this machine from PORT_START={} and RPC_PORT_START={}{last}",
                self.options.p2p_port, self.options.rpc_port
            ),
        ))
    }

    fn choose(&self, taken: &BTreeSet<u16>) -> Option<Ports> {
        let free = |start: u16, other: Option<u16>| {
            (start..=u16::MAX).find(|port| !taken.contains(port) && Some(*port) != other)
        };
        let p2p = free(self.options.p2p_port, None)?;
        let rpc = free(self.options.rpc_port, Some(p2p))?;
        Some(Ports { p2p, rpc })
    }

    /// Makes a container under the node's own name, or, where somebody else has that, under the
    /// network's with it.
    async fn create(
        &self,
        spec: &SpawnSpec,
        volume: &str,
        ports: Ports,
    ) -> Result<String, EngineError> {
        let own = format!("{}{}", self.options.name_prefix, spec.node);
        let long = format!("{}-{}", self.options.network, spec.node);
        for name in [&own, &long] {
            let body = self.body(spec, name, volume, ports);
            let options = CreateContainerOptions {
                name: Some(name.clone()),
                ..CreateContainerOptions::default()
            };
            let created = self
                .engine
                .call(|docker| async move { docker.create_container(Some(options), body).await })
                .await;
            match created {
                Ok(created) => return Ok(created.id),
                Err(error) if error.is_conflict() && *name == own => {
                    tracing::warn!(
                        node = %spec.node,
                        "a container named {own} exists that is none of network {}; {} becomes {long}",
                        self.options.network,
                        spec.node
                    );
                }
                Err(error) if error.is_conflict() => {
                    return Err(EngineError::Refused {
                        status: 409,
                        message: format!(
                            "containers named {own} and {long} exist that are none of network {}; \
                             remove or rename one of them",
                            self.options.network
                        ),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Err(EngineError::Refused {
            status: 409,
            message: format!("no name is free for {}", spec.node),
        })
    }

    fn body(
        &self,
        spec: &SpawnSpec,
        name: &str,
        volume: &str,
        ports: Ports,
    ) -> ContainerCreateBody {
        let options = &self.options;
        let mut environment: Vec<(String, String)> = [
            ("NODE_ID", spec.node.to_string()),
            ("IS_LEADER", spec.leader.to_string()),
            ("REGISTRY_URL", options.registry_url.clone()),
            ("JOIN_TOKEN_FILE", "/join/token".to_owned()),
            ("PORT", P2P_PORT.to_string()),
            ("RPC_PORT", RPC_PORT.to_string()),
            ("BIND_ADDR", "0.0.0.0".to_owned()),
            ("ADVERTISE_ADDR", name.to_owned()),
            ("DATA_DIR", "/data".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        environment.extend(options.environment.iter().cloned());
        let environment = environment.iter().map(|(k, v)| format!("{k}={v}"));
        let published = [(P2P_PORT, ports.p2p), (RPC_PORT, ports.rpc)];
        let mut labels = self.labels(&spec.node);
        labels.insert(GENERATION.to_owned(), spec.generation.to_string());
        labels.insert(PORTS.to_owned(), format!("{},{}", ports.p2p, ports.rpc));
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let memory = i64::try_from(options.memory).unwrap_or(i64::MAX);
        ContainerCreateBody {
            image: Some(options.image.clone()),
            user: Some(USER.to_owned()),
            env: Some(environment.collect()),
            labels: Some(labels),
            exposed_ports: Some(published.map(|(inner, _)| format!("{inner}/tcp")).into()),
            healthcheck: Some(HealthConfig {
                test: Some(["CMD", "/bin/axolotl", "health"].map(str::to_owned).into()),
                interval: Some(nanos(HEALTH_INTERVAL)),
                timeout: Some(nanos(HEALTH_TIMEOUT)),
                retries: Some(HEALTH_RETRIES),
                ..HealthConfig::default()
            }),
            host_config: Some(HostConfig {
                network_mode: Some(options.network.clone()),
                port_bindings: Some(
                    published
                        .map(|(inner, outer)| {
                            let binding = PortBinding {
                                host_ip: Some("127.0.0.1".to_owned()),
                                host_port: Some(outer.to_string()),
                            };
                            (format!("{inner}/tcp"), Some(vec![binding]))
                        })
                        .into(),
                ),
                mounts: Some(vec![
                    mount(volume, "/data", false),
                    mount(&options.join_volume, "/join", true),
                ]),
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::NO),
                    maximum_retry_count: None,
                }),
                readonly_rootfs: Some(true),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
                memory: Some(memory),
                // No swap beside it.
                memory_swap: Some(memory),
                pids_limit: Some(MAX_PIDS),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: Some(
                        LOG_LIMITS
                            .map(|(name, value)| (name.to_owned(), value.to_owned()))
                            .into(),
                    ),
                }),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }
}

fn mount(volume: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// The newest container of this origin, first among those that ran.
fn newest(containers: &[Container], origin: Origin) -> Option<&Container> {
    let ours = containers.iter().filter(|c| c.origin == origin);
    ours.max_by_key(|c| (c.life != Life::Made, c.created))
}

/// Which of the ports the engine complains about; both, when it does not say.
fn ports_in(message: &str, ports: Ports) -> Vec<u16> {
    let both = [ports.p2p, ports.rpc];
    let named = both
        .iter()
        .filter(|port| message.contains(&format!(":{port}")));
    let named: Vec<u16> = named.copied().collect();
    if named.is_empty() { both.into() } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_port_that_is_taken_is_given_up() {
        let ports = Ports {
            p2p: 50_054,
            rpc: 8_549,
        };
        let words = "Bind for 127.0.0.1:8549 failed: port is already allocated";
        assert_eq!(ports_in(words, ports), [8_549]);
        assert_eq!(
            ports_in("port is already allocated", ports),
            [50_054, 8_549]
        );
    }
}
