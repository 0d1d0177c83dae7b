//! Who is let into the p2p network: what nobody signed lets nobody in, be it an answer of whoever speaks in the
//! registry's place, or the genesis of a first start where its hash is pinned.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, ensure};
use axolotl_common::{
    ChainRef, Epoch, Hash, Height, KeyPair, PublicKey,
    genesis::{DEV_CHAIN_ID, GenesisDocument},
    registry_api::{NodeSelfStatus, Order, PeerEntry, SignedOrder},
};
use axolotl_node::network::{Network, NetworkConfig, PeerStatus};
use tokio::task::JoinHandle;

use crate::{
    chain::{GENESIS_TIME, Solo, genesis_of, with_directory},
    harness::{Node, free_port, until},
    stand_in::{Mind, Registry, lock, newcomer},
};

/// Connections that a stranger begins while it is shown to be kept out.
const ATTEMPTS: u64 = 2;

/// Somebody with a real libp2p identity who speaks the protocol of the chain, and dials the node for ever.
struct Stranger {
    network: Network,
    metrics: prometheus_client::registry::Registry,
    events: JoinHandle<()>,
}

impl Stranger {
    async fn start(seed: u8, chain: ChainRef) -> anyhow::Result<Self> {
        let mut metrics = prometheus_client::registry::Registry::default();
        let config = NetworkConfig {
            key: KeyPair::from_seed(&[seed; 32]),
            chain,
            listen: "127.0.0.1:0".parse()?,
            advertise: Vec::new(),
            max_block_bytes: 2 << 20,
            book: None,
            agent: "stranger".to_owned(),
        };
        let status = Arc::new(move |_: &PublicKey| PeerStatus {
            chain,
            height: Height(0),
            head: Hash([0; 32]),
            epoch: Epoch(0),
            sealed: None,
            unfit: false,
            version: "stranger".to_owned(),
            highest_vote_of_you: None,
            seal_of_you: None,
        });
        let (network, mut events, _task) = Network::start(config, status, &mut metrics).await?;
        let events = tokio::spawn(async move { while events.recv().await.is_some() {} });
        Ok(Self {
            network,
            metrics,
            events,
        })
    }

    fn key(&self) -> PublicKey {
        self.network.key()
    }

    fn entry(&self) -> PeerEntry {
        PeerEntry {
            public_key: self.key(),
            multiaddrs: self.network.local_addresses(),
        }
    }

    async fn dials(&self, node: PublicKey, address: String) {
        let list = BTreeMap::from([(node, vec![address])]);
        self.network.set_allowed(list).await;
    }

    fn attempts(&self) -> anyhow::Result<u64> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics)?;
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.strip_prefix("network_dials_total "));
        Ok(found.context("no counter of dials")?.parse()?)
    }

    /// It tries again, and is not let in.
    async fn stays_out(&self, node: &Node) -> anyhow::Result<()> {
        let before = self.attempts()?;
        until("further attempts", async || {
            let attempts = self.attempts()?;
            let connected = self.network.connected();
            ensure!(
                attempts >= before + ATTEMPTS,
                "{attempts} after {before}, connected to {connected:?}"
            );
            Ok(())
        })
        .await?;
        ensure!(self.network.connected().is_empty(), "it is connected");
        let reached = reachable(node).await?;
        ensure!(reached.is_empty(), "the node has peers: {reached:?}");
        Ok(())
    }

    /// It is connected, as both see it.
    async fn gets_in(&self, node: &Node) -> anyhow::Result<()> {
        until("the stranger to be let in", async || {
            let (here, there) = (self.network.connected(), reachable(node).await?);
            ensure!(
                !here.is_empty() && there == [self.key()],
                "{here:?}, {there:?}"
            );
            Ok(())
        })
        .await
    }

    async fn gets_cut(&self, node: &Node) -> anyhow::Result<()> {
        until("the stranger to be cut off", async || {
            let (here, there) = (self.network.connected(), reachable(node).await?);
            ensure!(here.is_empty() && there.is_empty(), "{here:?}, {there:?}");
            Ok(())
        })
        .await
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.network.shutdown();
        self.events.abort();
    }
}

async fn reachable(node: &Node) -> anyhow::Result<Vec<PublicKey>> {
    let (code, body) = node.http("/status").await?;
    ensure!(code == 200, "{code}: {body}");
    Ok(serde_json::from_str::<NodeSelfStatus>(&body)?.reachable)
}

/// The stand-in is asked where nodes are twice more: what it answered first has been dealt with.
async fn asked_twice(registry: &Registry) -> anyhow::Result<()> {
    let before = lock(&registry.mind).discoveries;
    until("two calls of /discover", async || {
        let calls = lock(&registry.mind).discoveries;
        ensure!(calls >= before + 2, "{calls} after {before}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_list_that_the_authority_signed_lets_a_stranger_in() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let solo = Solo::new(home.path())?;
    let (authority, forger) = (KeyPair::from_seed(&[99; 32]), KeyPair::from_seed(&[98; 32]));
    solo.name_authority(&authority)?;
    let stranger = Stranger::start(66, solo.document()?.chain()).await?;
    let registry = Registry::start(0, Mind::default()).await?;
    let start = solo.start().env("PORT", free_port()?);
    let registered = start.clone().env("REGISTRY_URL", registry.url());
    let node = registered.spawn()?;
    node.ready().await?;
    registry.hears(1).await?;
    let address = lock(&registry.mind).addresses[0].clone();
    let me = solo.public_key();
    stranger.dials(me, address).await;

    // An answer that names the stranger, with an address where it can be reached.
    let reached_at = stranger.network.local_addresses()[0].clone();
    registry.change(|mind| mind.discovered = vec![(stranger.key(), reached_at)]);
    asked_twice(&registry).await?;
    stranger.stays_out(&node).await?;

    // Orders of somebody else, for another node, of another chain.
    let order = |by: &KeyPair, chain, to, number, peers: Vec<PeerEntry>| {
        SignedOrder::new(by, chain, to, number, Order::Peers { peers })
    };
    let with = || vec![stranger.entry()];
    let forged = vec![
        order(&forger, DEV_CHAIN_ID, me, 100, with()),
        order(&authority, DEV_CHAIN_ID, stranger.key(), 101, with()),
        order(&authority, DEV_CHAIN_ID + 1, me, 102, with()),
    ];
    registry.change(|mind| mind.orders = forged);
    let other_chain = format!("it is of chain {}", DEV_CHAIN_ID + 1);
    for said in ["the authority did not sign it", "it is for", &other_chain] {
        node.says(said).await?;
    }
    stranger.stays_out(&node).await?;

    // The authority's own list.
    let good = |number, peers| order(&authority, DEV_CHAIN_ID, me, number, peers);
    let admitting = good(10, with());
    registry.change(|mind| mind.orders = vec![admitting.clone()]);
    stranger.gets_in(&node).await?;
    until("the order to be answered", async || {
        let answers = lock(&registry.mind).answers.clone();
        ensure!(
            answers
                .iter()
                .any(|answer| answer.number == 10 && answer.done),
            "{answers:?}"
        );
        Ok(())
    })
    .await?;

    // The next list revokes it, and the one before is played again.
    registry.change(|mind| mind.orders = vec![good(11, Vec::new())]);
    stranger.gets_cut(&node).await?;
    registry.change(|mind| mind.orders = vec![admitting]);
    node.says("its number 10 is not above 11").await?;
    asked_twice(&registry).await?;
    stranger.stays_out(&node).await?;
    node.stop(&solo.data).await?;

    // Nor after a restart.
    let node = registered.spawn()?;
    node.ready().await?;
    node.says("its number 10 is not above 11").await?;
    stranger.stays_out(&node).await?;
    registry.change(|mind| mind.orders = vec![good(12, with())]);
    stranger.gets_in(&node).await?;
    node.stop(&solo.data).await?;

    // The list outlives the registry, for nodes that have one.
    drop(registry);
    let node = registered.spawn()?;
    node.ready().await?;
    stranger.gets_in(&node).await?;
    node.stop(&solo.data).await?;
    let node = start.spawn()?;
    node.ready().await?;
    stranger.stays_out(&node).await?;
    node.stop(&solo.data).await?;
    Ok(())
}

#[tokio::test]
async fn a_first_start_takes_no_other_genesis_than_the_pinned_one() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    let of = |time| with_directory(&data, |directory| genesis_of(directory, time));
    let (good, forged) = (of(GENESIS_TIME)?, of(GENESIS_TIME + 1)?);
    let hash = |value: &serde_json::Value| -> anyhow::Result<Hash> {
        Ok(GenesisDocument::from_value(value.clone())?.hash())
    };
    let mind = Mind {
        genesis: Some(forged.clone()),
        ..Mind::default()
    };
    let registry = Registry::start(0, mind).await?;
    let start = newcomer(home.path(), &registry.url()).env("GENESIS_HASH", hash(&good)?);
    let said = format!(
        "REGISTRY_URL={}: its genesis has the hash {}, and GENESIS_HASH={};",
        registry.url(),
        hash(&forged)?,
        hash(&good)?
    );
    start.refuses(2, &[&said, "set REGISTRY_URL"]).await?;
    for kept in ["genesis.json", "label"] {
        assert!(!data.join(kept).exists(), "{kept} was kept");
    }
    registry.change(|mind| mind.genesis = Some(good));
    let node = start.spawn()?;
    node.ready().await?;
    node.stop(&data).await?;
    // Later starts believe the directory, whatever the registry says.
    registry.change(|mind| mind.genesis = Some(forged));
    let node = start.spawn()?;
    node.ready().await?;
    node.stop(&data).await?;
    Ok(())
}
