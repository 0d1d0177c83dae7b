//! The composition root: puts the node together, and takes it apart again.
//!
//! ```text
//! data directory ─▶ key, volume, incarnation
//!       │
//!       ├─▶ genesis: on disk, from GENESIS_FILE, or from the registry (which forms it once)
//!       ├─▶ chain: block log, state store, replay
//!       ├─▶ network ──▶ engine, chain sync, transactions   (events, one task)
//!       ├─▶ admission: who may connect                      (epoch + signed lists + configuration)
//!       └─▶ JSON-RPC, heartbeats, control stream
//! ```
//!
//! A critical task that ends ends the process. SIGTERM and SIGINT: unready, stop voting, flush,
//! leave the marker of a clean exit; at most 8 s.

mod admission;
mod events;
mod genesis;
mod node;
mod orders;
mod peer_list;
mod registry;
mod vote_paths;

use std::{
    io::ErrorKind,
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use axolotl_common::{Hash, ProcessId};
use axolotl_ledger::ChainSpec;
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::node::Node;
use crate::{
    admin::{self, Readiness},
    chain_sync,
    config::Config,
    engine::{CONFLICT_RECORD, Engine, EngineParts, StatusBook},
    mempool::{JournalOptions, Mempool, MempoolLimits},
    metrics::Metrics,
    network::{self, Network, NetworkConfig, PeerStatus},
    rpc,
    storage::{Chain, ConsensusLog, DataDir, StorageOptions, record_log::OpenReport},
    transactions::{self, Readmission},
};

/// Longest time that an orderly end may take.
const SHUTDOWN_MAX: Duration = Duration::from_secs(8);

/// How long a task that ended waits for the engine to say that it ended first.
const REASON_WAIT: Duration = Duration::from_millis(500);

/// Tasks whose end ends the process.
type Critical = JoinSet<anyhow::Result<()>>;

/// Runs a node until it is told to stop.
///
/// # Errors
/// When it cannot start or cannot go on; the message says why and what to do.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let outcome = Box::pin(start(config, shutdown.clone())).await;
    shutdown.cancel();
    outcome
}

/// SIGTERM and SIGINT ask for an orderly end; SIGHUP does nothing, so that a node outlives the
/// terminal it was started from.
fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("signal handlers cannot be set")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signal handlers cannot be set")?;
    let mut hangup = signal(SignalKind::hangup()).context("signal handlers cannot be set")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => tracing::info!("SIGHUP is ignored"),
            }
        }
        tracing::info!("asked to stop");
        shutdown.cancel();
    });
    Ok(())
}

/// What to say when an address cannot be listened on.
fn taken(
    what: &'static str,
    address: std::net::SocketAddr,
    flag: &'static str,
) -> impl FnOnce(std::io::Error) -> anyhow::Error {
    move |error| {
        let advice = match error.kind() {
            ErrorKind::AddrNotAvailable => {
                "BIND_ADDR is no address of this machine; 0.0.0.0 listens on all that it has".into()
            }
            ErrorKind::PermissionDenied => {
                format!("Choose another {flag}: this user may not listen on it")
            }
            _ => format!("is another node running? Choose another {flag}"),
        };
        anyhow::anyhow!("{what} cannot listen on {address}: {error}; {advice}")
    }
}

async fn start(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut data = DataDir::open(&config.data_dir)?;
    let key = data.key().clone();
    tracing::info!(
        peer_id = %key.public().peer_id(), volume = %data.volume_id(), incarnation = data.incarnation(),
        version = env!("CARGO_PKG_VERSION"), "node starts"
    );
    let mut critical = Critical::new();

    // Probes are answered from the first moment on.
    let (readiness, ready) = watch::channel(Readiness::Starting("starting".into()));
    let status: Arc<OnceLock<Arc<Node>>> = Arc::new(OnceLock::new());
    let http = TcpListener::bind(config.http).await.map_err(taken(
        "the node's HTTP",
        config.http,
        "HTTP_PORT",
    ))?;
    let rpc_listener = rpc::bind(config.rpc).map_err(taken("JSON-RPC", config.rpc, "RPC_PORT"))?;
    // Taken by the network later on; that somebody else has it is told now, before the registry
    // counts on this node. Of PORT=0 the system chooses here, since it is advertised before that.
    let p2p = TcpListener::bind(config.p2p)
        .await
        .map_err(taken("libp2p", config.p2p, "PORT"))?
        .local_addr()?;
    let http_address = http.local_addr()?;
    tracing::info!(address = %http_address, "the node's HTTP is open");
    let rpc_address = rpc_listener.local_addr()?;
    let metrics: Arc<OnceLock<Arc<Metrics>>> = Arc::new(OnceLock::new());
    {
        let (node, metrics) = (Arc::clone(&status), Arc::clone(&metrics));
        let source: admin::StatusSource = Arc::new(move || node.get().map(|node| node.status()));
        let read = Arc::clone(&source);
        let text: admin::MetricsSource = Arc::new(move || {
            metrics
                .get()
                .map_or_else(String::new, |metrics| metrics.text(read().as_ref()))
        });
        let (ready, shutdown) = (ready.clone(), shutdown.clone());
        critical.spawn(async move {
            rpc::serve_probes(http, admin::router(ready, source, text), shutdown).await;
            Ok(())
        });
    }

    let me = registry::Identity {
        key: key.clone(),
        volume_id: data.volume_id(),
        incarnation: data.incarnation(),
        process: ProcessId::generate(),
        http_url: format!("http://{}:{}", config.advertise_host, http_address.port()),
        rpc_url: format!("http://{}:{}", config.advertise_host, rpc_address.port()),
        address: multiaddr(&config.advertise_host, p2p.port()),
    };
    let registry = match &config.registry {
        Some(settings) => Some(registry::Registry::new(settings, &config, me.clone())?),
        None => None,
    };

    let Some((document, label)) =
        genesis::obtain(&config, &mut data, registry.as_ref(), &readiness, &shutdown).await?
    else {
        return finish(&data);
    };
    let data = Arc::new(data);
    let (spec, genesis_diff) = ChainSpec::from_document(document)?;
    genesis::warn_about(&spec);

    readiness.send_replace(Readiness::Starting("replaying blocks".into()));
    let Some(chain) = open_chain(&config, &spec, genesis_diff, &readiness, &shutdown).await? else {
        return finish(&data);
    };
    let (log, report) = ConsensusLog::open(&data.consensus_dir())?;
    let unfit = fitness(&data, &report)?;
    if let Some(reason) = &unfit {
        tracing::error!(%reason, "this node follows and does not vote; wipe its data directory to let it join anew");
    }
    readiness.send_replace(Readiness::Starting("reading the pool's journal".into()));
    let (mempool, readmission) = open_pool(&config, &data, &chain).await?;

    if let Some(registry) = &registry {
        let genesis = &spec.genesis;
        let alone = registry.await_own_key(&label, genesis, &readiness, &shutdown);
        let alone = alone.await;
        if !matches!(alone, Ok(true)) {
            stop(critical, chain, mempool).await;
            alone?;
            return finish(&data);
        }
    }
    let mut metrics_registry = MetricsRegistry::default();
    let book = StatusBook::default();
    let (network, network_events, network_task) = Network::start(
        NetworkConfig {
            key: key.clone(),
            chain: spec.chain,
            listen: p2p,
            advertise: vec![me.address.clone()],
            max_block_bytes: spec.max_block_bytes,
            book: Some(data.peers_path()),
            agent: AGENT.to_owned(),
        },
        status_source(chain.clone(), Arc::clone(&book)),
        &mut metrics_registry,
    )
    .await
    .context("the network does not start; is another node running? Choose another PORT")?;
    critical.spawn(async move { network_task.await.context("the network failed") });
    mempool.counters().register(&mut metrics_registry);
    drop(metrics.set(Metrics::new(metrics_registry)));
    for peer in &config.bootstrap_peers {
        network.dial(peer).await?;
    }

    let (engine, engine_end) = Engine::start(
        EngineParts {
            key: key.clone(),
            chain: chain.clone(),
            mempool: mempool.clone(),
            log,
            network: network.clone(),
            incarnation: data.incarnation(),
            unfit,
            volume: data.volume_id(),
            book,
            data: Arc::clone(&data),
        },
        shutdown.clone(),
    )?;
    let (transactions, transaction_tasks) =
        transactions::new(chain.clone(), mempool.clone(), network.clone());
    let caught_up = {
        let mut readiness = readiness.subscribe();
        async move {
            let ready = readiness
                .wait_for(|readiness| *readiness == Readiness::Ready)
                .await;
            if ready.is_err() {
                tracing::debug!("the node ended before it had caught up");
            }
        }
    };
    critical.spawn(async move {
        transaction_tasks.run(readmission, caught_up).await;
        Ok(())
    });
    let synced = Arc::new(events::SyncedChain {
        chain: chain.clone(),
        engine: engine.clone(),
    });
    let (sync, sync_task) =
        chain_sync::start(network.clone(), synced.clone(), synced, shutdown.clone());
    critical.spawn(async move { Ok(sync_task.await.context("sync failed")??) });
    critical.spawn(events::follow(chain.clone(), engine.clone(), sync.clone()));

    let node = Arc::new(Node {
        label: label.clone(),
        volume_id: data.volume_id(),
        incarnation: data.incarnation(),
        key: key.public(),
        chain: chain.clone(),
        mempool: mempool.clone(),
        network: network.clone(),
        engine: engine.clone(),
        sync: sync.clone(),
    });
    drop(status.set(Arc::clone(&node)));

    let dispatch = events::Dispatch {
        engine: engine.clone(),
        transactions: transactions.clone(),
        sync,
        network: network.clone(),
        serving: Arc::new(tokio::sync::Semaphore::new(events::LOCKED_SERVED_MAX)),
    };
    critical.spawn(dispatch.run(network_events));
    let orders = match &registry {
        Some(registry) => registry.order_context(&spec.genesis, &data)?,
        None => None,
    };
    let peers = Arc::new(peer_list::PeerList::open(
        Arc::clone(&data),
        orders.as_ref(),
    ));
    critical.spawn(admission::run(admission::Admission {
        chain: chain.clone(),
        network: network.clone(),
        registered: peers.subscribe(),
        configured: admission::configured(&config)?,
    }));
    if let Some(registry) = registry {
        critical.spawn(registry.report(registry::Report {
            node: Arc::clone(&node),
            peers,
            orders,
            consensus_timeout: config.consensus_timeout,
            data: Arc::clone(&data),
            shutdown: shutdown.clone(),
        }));
    }
    {
        let node = Arc::clone(&node);
        let context = rpc::RpcContext {
            chain: chain.clone(),
            mempool,
            submit: Arc::new(move |tx| transactions.announce(tx)),
            highest_known: Arc::new({
                let node = Arc::clone(&node);
                move || node.highest_known()
            }),
            status: Arc::new(move || node.status()),
            limits: rpc::RpcLimits::default(),
        };
        let shutdown = shutdown.clone();
        critical.spawn(async move {
            rpc::serve(rpc_listener, context, shutdown)
                .await
                .context("JSON-RPC failed")
        });
    }
    critical.spawn(vote_paths::run(Arc::clone(&node)));
    critical.spawn(events::readiness(Arc::clone(&node), readiness.clone()));
    tracing::info!(node = %label, rpc = %rpc_address, height = chain.head().header.number, "node is up");

    let mut engine_end = std::pin::pin!(wait_for(engine_end));
    let outcome = tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        ended = &mut engine_end => ended,
        Some(ended) = critical.join_next() => {
            let error = match ended {
                Ok(Ok(())) => anyhow::anyhow!("a task of the node ended by itself"),
                Ok(Err(error)) => error,
                Err(error) => error.into(),
            };
            // What listens to the engine ends with it: then the engine's reason is the one to tell.
            match tokio::time::timeout(REASON_WAIT, engine_end).await {
                Ok(Err(reason)) => Err(reason),
                _ => Err(error),
            }
        },
    };
    readiness.send_replace(Readiness::Stopping);
    shutdown.cancel();
    stop(critical, chain, node.mempool.clone()).await;
    outcome?;
    finish(&data)
}

async fn wait_for(
    end: tokio::sync::oneshot::Receiver<Result<(), crate::engine::EngineError>>,
) -> anyhow::Result<()> {
    match end.await {
        Ok(outcome) => outcome.context("consensus cannot go on"),
        Err(_) => bail!("the engine's thread is gone"),
    }
}

/// Ends tasks, then writes a checkpoint so that the next start has nothing to replay.
async fn stop(mut critical: Critical, chain: Chain, mempool: Mempool) {
    let orderly = async {
        critical.abort_all();
        while critical.join_next().await.is_some() {}
        let close = move || {
            if let Err(error) = mempool.flush() {
                tracing::warn!(%error, "the journal of accepted transactions lacks the last ones");
            }
            chain.close()
        };
        match tokio::task::spawn_blocking(close).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "no checkpoint was written; the next start replays");
            }
            Err(error) => {
                tracing::warn!(%error, "no checkpoint was written; the next start replays");
            }
        }
    };
    if tokio::time::timeout(SHUTDOWN_MAX, orderly).await.is_err() {
        tracing::warn!("the orderly end took too long; the next start replays");
    }
}

/// Leaves the marker that tells a stop from a crash.
fn finish(data: &DataDir) -> anyhow::Result<()> {
    data.mark_stopped()?;
    tracing::info!("stopped");
    Ok(())
}

/// Opens the chain on the blocking pool, showing how far the replay is. `None`: asked to stop.
async fn open_chain(
    config: &Config,
    spec: &Arc<ChainSpec>,
    genesis: axolotl_ledger::StateDiff,
    readiness: &watch::Sender<Readiness>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Chain>> {
    let (dir, spec, readiness) = (config.data_dir.clone(), Arc::clone(spec), readiness.clone());
    let opened = tokio::task::spawn_blocking(move || {
        Chain::open(
            &dir,
            spec,
            genesis,
            StorageOptions::default(),
            &mut |replay| {
                let progress = format!("replaying block {} of {}", replay.done, replay.total);
                if replay.done % REPLAY_LOG_INTERVAL == 0 {
                    tracing::info!("{progress}");
                }
                readiness.send_replace(Readiness::Starting(progress));
            },
        )
    });
    tokio::select! {
        opened = opened => Ok(Some(opened??)),
        // What is left of the replay is done again at the next start.
        () = shutdown.cancelled() => Ok(None),
    }
}

/// Opens the pool with its journal, and admits again what that holds, on the blocking pool: senders are
/// recovered.
async fn open_pool(
    config: &Config,
    data: &DataDir,
    chain: &Chain,
) -> anyhow::Result<(Mempool, Readmission)> {
    let limits = MempoolLimits {
        max_count: config.mempool_max_transactions,
        max_per_sender: config.mempool_max_per_sender,
        ..MempoolLimits::default()
    };
    let (path, chain) = (data.pool_journal_path(), chain.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let spec = Arc::clone(chain.spec());
        let (mempool, recovered) = Mempool::open(spec, limits, &path, JournalOptions::default());
        let readmission = Readmission::begin(&chain, &mempool, recovered);
        (mempool, readmission)
    });
    opened.await.context("the pool cannot be opened")
}

/// A line of the log for so many blocks replayed.
const REPLAY_LOG_INTERVAL: u64 = 1_000;

/// The libp2p address of a host name or an IP address.
fn multiaddr(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => format!("/ip4/{ip}/tcp/{port}"),
        Ok(std::net::IpAddr::V6(ip)) => format!("/ip6/{ip}/tcp/{port}"),
        Err(_) => format!("/dns4/{host}/tcp/{port}"),
    }
}

/// Name and version of the program, as peers are told.
const AGENT: &str = concat!("axolotl/", env!("CARGO_PKG_VERSION"));

/// Why this node must not vote in any epoch: its log is not the one that belongs to its key, or lost
/// records, or its chain contradicts a record of the authority. Whether an epoch names this volume is for
/// consensus to see, epoch by epoch.
fn fitness(data: &DataDir, report: &OpenReport) -> anyhow::Result<Option<String>> {
    Ok(if !data.log_matches_volume() {
        Some("the consensus log is missing or belongs to another volume".into())
    } else if !report.damage.is_empty() {
        Some("the consensus log is damaged".into())
    } else {
        let conflict = data.record(CONFLICT_RECORD)?;
        conflict.map(|why| String::from_utf8_lossy(&why).into_owned())
    })
}

/// Answers the status exchange from what is durable.
fn status_source(chain: Chain, book: StatusBook) -> network::StatusSource {
    Arc::new(move |peer| {
        let head = chain.head();
        let facts = book.lock().unwrap_or_else(PoisonError::into_inner);
        PeerStatus {
            chain: chain.spec().chain,
            height: head.height(),
            head: Hash(head.hash.0),
            epoch: head.validators.epoch(),
            sealed: facts.sealed,
            unfit: facts.unfit,
            version: AGENT.to_owned(),
            highest_vote_of_you: facts.votes.get(peer).cloned(),
            seal_of_you: facts.seals.get(peer).cloned(),
        }
    })
}
