//! Puts the parts together: store, secrets, runtime, reconciler, HTTP.

use std::{io::ErrorKind, net::SocketAddr, os::unix::fs::DirBuilderExt, sync::Arc};

use anyhow::Context;
use tokio::task::JoinSet;

use crate::{
    authority::{Token, load_or_make_key},
    config::{Config, LogFormat, RuntimeKind},
    http::{self, Api},
    reconciler::Reconciler,
    registry::{Registry, Setup},
    runtime::{
        DockerOptions, DockerRuntime, NoRuntime, ProcessOptions, ProcessRuntime, Runtime,
        change_queue,
    },
    store::{self, Store},
};

/// A registry that runs.
pub struct App {
    registry: Registry,
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl App {
    /// Opens the store, listens, and begins to work.
    ///
    /// # Errors
    /// When a directory, file or port cannot be used.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.data_dir)
            .with_context(|| format!("DATA_DIR {}", config.data_dir.display()))?;
        let store = Store::open(&store::directory(&config.data_dir))?;
        let store_id = store.store_id()?;
        let authority = load_or_make_key(&config.authority_key_file, store.authority()?)?;
        let own_token = config.data_dir.join("join_token");
        let join_token = Token::join(&own_token, config.join_token_file.as_deref())?;
        let admin_token = Token::read_or_make(&config.admin_token_file)?;
        let listener = http::bind(config.listen).map_err(|error| taken(config.listen, &error))?;
        let address = listener.local_addr()?;

        let setup = Setup {
            rules: config.rules.clone(),
            timing: config.timing.clone(),
            heartbeat_interval: config.heartbeat_interval,
            authority,
            join_token,
            admin_token,
        };
        let registry = {
            let opened = tokio::task::spawn_blocking(move || Registry::open(store, setup));
            opened.await??
        };
        tracing::info!(%address, authority = %registry.authority_key(), "listening on http://{address}");
        if config.rules.open_registration {
            tracing::warn!(
                "REGISTRATION=open: whoever reaches this port may join the network; set \
                 REGISTRATION=token for anything but a trial"
            );
        }

        let (changes, heard) = change_queue();
        let runtime: Arc<dyn Runtime> = match config.runtime {
            RuntimeKind::None => Arc::new(NoRuntime),
            RuntimeKind::Process => {
                let options = process_options(&config, store_id, address, own_token);
                Arc::new(ProcessRuntime::new(options, changes.clone()))
            }
            RuntimeKind::Docker => {
                let options = docker_options(&config, store_id);
                Arc::new(DockerRuntime::new(options, changes.clone()))
            }
        };
        let reconciler = Reconciler::new(registry.clone(), runtime, heard, config.scale_interval);
        let mut tasks = JoinSet::new();
        tasks.spawn(reconciler.run());
        tasks.spawn(registry.clone().watch_deadlines());
        tasks.spawn(registry.clone().run_recovery());
        let router = http::router(Api::new(registry.clone()));
        let ending = registry.ending().clone();
        tasks.spawn(http::serve(listener, router, ending));
        // The queue stays open for as long as the reconciler listens.
        tasks.spawn({
            let ending = registry.ending().clone();
            async move {
                ending.cancelled().await;
                drop(changes);
            }
        });
        Ok(Self {
            registry,
            address,
            tasks,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The registry itself.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Runs until `stop` resolves or a part ends. Nodes that were started go on running.
    ///
    /// # Errors
    /// When the registry had to end.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let ending = self.registry.ending().clone();
        tokio::select! {
            () = stop => tracing::info!("the registry ends; its nodes go on"),
            () = ending.cancelled() => {}
            Some(ended) = self.tasks.join_next() => {
                ending.cancel();
                ended.context("a part of the registry ended")?;
            }
        }
        ending.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a part of the registry ended badly")?;
        }
        if let Some(why) = self.registry.fatal() {
            anyhow::bail!("{why}");
        }
        self.registry.close().await?;
        Ok(())
    }
}

/// What to say when an address cannot be listened on.
fn taken(address: SocketAddr, error: &std::io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        ErrorKind::AddrNotAvailable => {
            "BIND_ADDR is no address of this machine; 0.0.0.0 listens on all that it has"
        }
        ErrorKind::PermissionDenied => "choose another PORT: this user may not listen on it",
        _ => "is another registry running? Choose another PORT",
    };
    anyhow::anyhow!("listening on {address}: {error}; {advice}")
}

fn process_options(
    config: &Config,
    store_id: String,
    address: SocketAddr,
    own_token: std::path::PathBuf,
) -> ProcessOptions {
    let host = config.listen.ip();
    let host = if host.is_unspecified() {
        [127, 0, 0, 1].into()
    } else {
        host
    };
    ProcessOptions {
        binary: config.process.binary.clone(),
        nodes_dir: config.process.nodes_dir.clone(),
        store_id,
        host,
        ports: config.process.ports,
        registry_url: format!("http://{}", SocketAddr::new(host, address.port())),
        join_token_file: config.join_token_file.clone().unwrap_or(own_token),
        environment: node_environment(config),
    }
}

fn docker_options(config: &Config, store_id: String) -> DockerOptions {
    let docker = config.docker.clone();
    DockerOptions {
        host: docker.host,
        network: docker.network,
        image: docker.image,
        join_volume: docker.join_volume,
        name_prefix: docker.name_prefix,
        store_id,
        registry_url: docker.registry_url,
        p2p_port: docker.p2p_port,
        rpc_port: docker.rpc_port,
        memory: docker.memory,
        environment: node_environment(config),
    }
}

/// What nodes of every runtime are told: how to log, and what NODE_ENV says.
fn node_environment(config: &Config) -> Vec<(String, String)> {
    let format = match config.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let mut environment = vec![
        ("LOG_FORMAT".to_owned(), format.to_owned()),
        ("RUST_LOG".to_owned(), config.rust_log.clone()),
    ];
    environment.extend(config.node_environment.iter().cloned());
    environment
}
