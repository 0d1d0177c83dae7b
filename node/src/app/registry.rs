//! The node's dealings with its registry: being admitted, reporting, taking orders.
//!
//! The registry is needed to join and to heal, never to order transactions: nothing that it does not say
//! stops a node that knows its chain. What it says stops one in two cases only, each signed by the authority:
//! an order, and that another process has this node's key.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axolotl_common::{
    Epoch, Height, KeyPair, NodeId, ProcessId, PublicKey, VolumeId,
    genesis::GenesisDocument,
    registry_api::{
        ConsensusFailure, DiscoverResponse, Heartbeat, PeerEntry, RegisterRequest, Role,
    },
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Node,
    orders::{ORDER_RECORD, Servant, last_order},
    peer_list::PeerList,
};
use crate::{
    admin::Readiness,
    config::{Config, RegistrySettings},
    registry_client::{
        Authority, CallError, Presence, PresenceUpdate, RegistryClient,
        control::{self, OrderContext},
        register_until_alone, register_until_genesis,
    },
    storage::DataDir,
};

/// Updates and orders that may wait; further updates are dropped, further orders wait in the stream.
const QUEUE: usize = 64;
/// How often the registry is asked where nodes are, beside the signed list on the control stream.
const DISCOVER_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest pause between two looks at what changed.
const CHANGES_PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked whose votes cease to arrive.
const SILENCE_LOOK: Duration = Duration::from_millis(500);
/// How often it is looked whether blocks come.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// A failure that goes on is reported again this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// What the node tells about itself.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) key: KeyPair,
    pub(super) volume_id: VolumeId,
    pub(super) incarnation: u64,
    pub(super) process: ProcessId,
    pub(super) http_url: String,
    pub(super) rpc_url: String,
    pub(super) address: String,
}

/// The registry, as the configuration names it.
pub(super) struct Registry {
    client: RegistryClient,
    me: Identity,
    is_leader: bool,
    role: Role,
    settings: RegistrySettings,
}

/// What reporting needs.
pub(super) struct Report {
    pub(super) node: Arc<Node>,
    /// The nodes that the registry admitted.
    pub(super) peers: Arc<PeerList>,
    /// Whose orders count; none where the chain has no authority.
    pub(super) orders: Option<OrderContext>,
    pub(super) consensus_timeout: Duration,
    /// Keeps the number of the last order taken.
    pub(super) data: Arc<DataDir>,
    /// Asks the whole node to stop.
    pub(super) shutdown: CancellationToken,
}

impl Registry {
    /// Sets up the client; calls nothing yet.
    pub(super) fn new(
        settings: &RegistrySettings,
        config: &Config,
        me: Identity,
    ) -> anyhow::Result<Self> {
        let client = RegistryClient::new(
            &settings.url,
            me.key.clone(),
            settings.join_token_file.clone(),
        )?;
        Ok(Self {
            client,
            me,
            is_leader: config.is_leader,
            role: config.role,
            settings: settings.clone(),
        })
    }

    fn request(
        &self,
        node_id: Option<NodeId>,
        genesis: Option<&GenesisDocument>,
    ) -> RegisterRequest {
        RegisterRequest {
            node_id,
            is_leader: self.is_leader,
            role: self.role,
            volume_id: self.me.volume_id,
            incarnation: self.me.incarnation,
            process: self.me.process,
            genesis_hash: genesis.map(GenesisDocument::hash),
            addresses: vec![self.me.address.clone()],
            http_url: self.me.http_url.clone(),
            rpc_url: self.me.rpc_url.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whose orders to this node count; `None` where the genesis names no authority.
    pub(super) fn order_context(
        &self,
        genesis: &GenesisDocument,
        data: &DataDir,
    ) -> anyhow::Result<Option<OrderContext>> {
        let Some(authority) = Authority::of(genesis) else {
            tracing::warn!(
                "the genesis names no authority key: the registry can admit no peers; name them in ALLOW_PEERS"
            );
            return Ok(None);
        };
        Ok(Some(OrderContext {
            key: self.me.key.public(),
            authority: authority.key,
            chain_id: Some(authority.chain_id),
            last: last_order(data)?,
        }))
    }

    /// Address of the registry.
    pub(super) fn url(&self) -> &str {
        &self.settings.url
    }

    /// Registers until the genesis is known; `None` when asked to stop before.
    pub(super) async fn await_genesis(
        &self,
        known: Option<&GenesisDocument>,
        label: Option<NodeId>,
        readiness: &watch::Sender<Readiness>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<(GenesisDocument, NodeId)>> {
        let progress = |text: &str| {
            tracing::info!("waiting for the genesis: {text}");
            readiness.send_replace(Readiness::Starting(text.to_owned()));
        };
        let outcome =
            register_until_genesis(&self.client, self.request(label, known), progress, shutdown)
                .await
                .with_context(|| self.not_taken())?;
        Ok(outcome.map(|outcome| (outcome.genesis, outcome.response.node_id)))
    }

    /// Waits while another process has this node's key; `false` when asked to stop before.
    pub(super) async fn await_own_key(
        &self,
        label: &NodeId,
        genesis: &GenesisDocument,
        readiness: &watch::Sender<Readiness>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<bool> {
        let Some(authority) = Authority::of(genesis) else {
            return Ok(true);
        };
        let request = self.request(Some(label.clone()), Some(genesis));
        let progress = |error: &CallError| {
            tracing::warn!("this process waits and does not vote: {error}");
            readiness.send_replace(Readiness::Starting(error.to_string()));
        };
        register_until_alone(&self.client, &authority, &request, progress, shutdown)
            .await
            .with_context(|| self.not_taken())
    }

    fn not_taken(&self) -> String {
        format!("the registry {} does not take this node", self.settings.url)
    }

    /// Stays registered, reports, and takes orders, until `shutdown`.
    pub(super) async fn report(self, report: Report) -> anyhow::Result<()> {
        let this = Arc::new(self);
        let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
        let (updates, told) = mpsc::channel(QUEUE);
        let (node, registry) = (Arc::clone(&report.node), Arc::clone(&this));
        let genesis = Arc::clone(node.chain.spec());
        let prompt = Arc::new(Notify::new());
        let (admitted, mut admission) = watch::channel(false);
        tasks.spawn(watch_changes(Arc::clone(&node), Arc::clone(&prompt)));
        let authority = Authority::of(&genesis.genesis);
        let presence = Presence {
            client: this.client.clone(),
            authority,
            request: {
                let node = Arc::clone(&node);
                move || registry.request(Some(node.label.clone()), Some(&genesis.genesis))
            },
            heartbeat: move |seq| heartbeat(&node, seq),
            updates,
            interval: Some(this.settings.heartbeat_interval),
            prompt: Arc::clone(&prompt),
            admitted,
        };
        let (registry, shutdown) = (Arc::clone(&this), report.shutdown.clone());
        tasks.spawn(async move {
            let outcome = presence.run(shutdown).await;
            outcome.with_context(|| registry.not_taken())
        });
        tasks.spawn(listen(told));
        let peers = report.peers;
        if this.settings.auto_discover {
            tasks.spawn(discover(this.client.clone(), Arc::clone(&peers)));
        }
        tasks.spawn(watch_blocks(
            this.client.clone(),
            Arc::clone(&report.node),
            report.consensus_timeout,
        ));
        if let Some(context) = report.orders {
            let (orders, received) = mpsc::channel(QUEUE);
            let (client, data, shutdown) =
                (this.client.clone(), report.data, report.shutdown.clone());
            tasks.spawn(async move {
                // A second process with this key, which the registry refuses, must not take the stream
                // from the first one.
                if admission.wait_for(|admitted| *admitted).await.is_err() {
                    return Ok(());
                }
                let persist = move |number: u64| {
                    data.write_record(ORDER_RECORD, &number.to_le_bytes())
                        .map_err(std::io::Error::other)
                };
                control::run(client, context, persist, orders, shutdown)
                    .await
                    .context("the control stream failed")
            });
            let servant = Servant {
                client: this.client.clone(),
                node: report.node,
                peers,
                prompt,
                shutdown: report.shutdown,
                refused: None,
            };
            tasks.spawn(servant.obey(received));
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// A node that is at most so many blocks behind is level with the others: under load every node is, now
/// and then, a block behind what it heard of.
const LEVEL_BLOCKS: u64 = 5;

/// Whether the node is on its way to the others, by more than the block or two of every day.
fn is_behind(node: &Node, syncing: bool, height: Height) -> bool {
    syncing && node.highest_known().0 > height.0 + LEVEL_BLOCKS
}

fn heartbeat(node: &Node, seq: u64) -> Heartbeat {
    let status = node.status();
    Heartbeat {
        node_id: node.label.clone(),
        incarnation: node.incarnation,
        seq,
        height: status.height,
        epoch: status.epoch,
        leader: status.leader,
        tx_pool_size: status.tx_pool_size,
        peers: status.peers,
        reachable: status.reachable,
        syncing: is_behind(node, status.syncing, status.height),
        last_commit_age_ms: status.last_commit_age_ms,
        voting: status.voting,
        unfit: status.unfit,
        sealed: status.sealed,
        votes: status.votes,
        proposal_faults: status.proposal_faults,
    }
}

/// What the registry is to hear of at once.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    epoch: Epoch,
    voting: bool,
    unfit: bool,
    sealed: Option<Epoch>,
    syncing: bool,
    reachable: Vec<PublicKey>,
    /// Whose votes do not arrive here.
    silent: Vec<PublicKey>,
}

impl Told {
    fn of(node: &Node) -> Self {
        let status = node.status();
        Self {
            epoch: status.epoch,
            voting: status.voting,
            unfit: status.unfit.is_some(),
            sealed: status.sealed,
            syncing: is_behind(node, status.syncing, status.height),
            reachable: status.reachable,
            silent: status
                .votes
                .iter()
                .filter(|report| report.is_silent(status.height))
                .map(|report| report.validator)
                .collect(),
        }
    }
}

/// Asks for a heartbeat whenever something changed that the registry acts on.
async fn watch_changes(node: Arc<Node>, prompt: Arc<Notify>) -> anyhow::Result<()> {
    let (mut engine, mut sync) = (node.engine.status(), node.sync.status());
    let mut peers = node.network.watch_peers();
    let mut told = Told::of(&node);
    // That votes cease to arrive changes nothing of the above.
    let mut look = tokio::time::interval(SILENCE_LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            changed = engine.changed() => changed.context("the engine ended")?,
            changed = sync.changed() => changed.context("sync ended")?,
            changed = peers.changed() => changed.context("the network ended")?,
        }
        engine.borrow_and_update();
        sync.borrow_and_update();
        peers.borrow_and_update();
        let now = Told::of(&node);
        if now != told {
            told = now;
            prompt.notify_one();
        }
        // The engine's status changes with every round and height: look at it now and then.
        tokio::time::sleep(CHANGES_PAUSE).await;
    }
}

/// Tells what the registry said about this node.
async fn listen(mut told: mpsc::Receiver<PresenceUpdate>) -> anyhow::Result<()> {
    while let Some(update) = told.recv().await {
        match update {
            PresenceUpdate::Registered(response) => {
                tracing::debug!(role = ?response.role, "registered");
            }
            PresenceUpdate::NewerEpoch(epoch) => {
                tracing::info!(%epoch, "the registry knows a newer epoch; sync will bring it");
            }
            PresenceUpdate::Refused(error) => tracing::debug!(%error, "refused"),
        }
    }
    Ok(())
}

/// Asks where nodes are. The answer is not signed: it admits nobody.
async fn discover(client: RegistryClient, peers: Arc<PeerList>) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(DISCOVER_INTERVAL);
    loop {
        tick.tick().await;
        match client.discover().await {
            Ok(found) => peers.hint(&entries(found)),
            Err(error) => tracing::debug!(%error, "discovery failed"),
        }
    }
}

fn entries(found: DiscoverResponse) -> Vec<PeerEntry> {
    let entry = |node: axolotl_common::registry_api::DiscoveredNode| {
        let public_key = PublicKey::from_peer_id(&node.peer_id).ok()?;
        Some(PeerEntry {
            public_key,
            multiaddrs: node.multiaddrs,
        })
    };
    found.nodes.into_iter().filter_map(entry).collect()
}

/// Reports when no block comes although there is work.
async fn watch_blocks(
    client: RegistryClient,
    node: Arc<Node>,
    patience: Duration,
) -> anyhow::Result<()> {
    let mut reported: Option<tokio::time::Instant> = None;
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let engine = node.engine.status().borrow().clone();
        // A round that was made longer by slow executions, three steps of it, is no failure.
        let patience = patience + 3 * engine.stretch;
        let stalled = engine
            .work_since
            .map(|since| since.elapsed())
            .filter(|age| *age >= patience);
        let Some(age) = stalled else {
            reported = None;
            continue;
        };
        if reported.is_some_and(|at| at.elapsed() < REPORT_INTERVAL) {
            continue;
        }
        reported = Some(tokio::time::Instant::now());
        let report = ConsensusFailure {
            node_id: Some(node.label.clone()),
            reason: format!(
                "no block for {:.1} s although there is work",
                age.as_secs_f64()
            ),
            epoch: engine.epoch,
            height: engine.height,
            round: engine.round,
            last_commit_age_ms: engine
                .last_decided
                .map_or(age, |at| at.elapsed())
                .as_millis() as u64,
            peers: node.network.connected(),
        };
        tracing::warn!(height = %report.height, round = %report.round, reachable = report.peers.len(), "{}", report.reason);
        match client.report_failure(&report).await {
            Ok(answer) => tracing::info!("the registry: {answer}"),
            Err(error) => tracing::warn!(%error, "the failure could not be reported"),
        }
    }
}
