//! Real networks on 127.0.0.1.

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_primitives::Bytes;
use axolotl_common::{ChainId, ChainRef, Epoch, Hash, Height, KeyPair, PublicKey};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::*;

mod half_dead;
mod hostile;
mod mesh;

/// Everything here is over long before this.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// Block limit of the test chain.
pub(super) const MAX_BLOCK_BYTES: usize = 2 << 20;

pub(super) fn chain(tag: u8) -> ChainRef {
    ChainRef {
        id: ChainId(1337),
        genesis: Hash([tag; 32]),
    }
}

pub(super) fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

/// A started network with what its node would do.
pub(super) struct Node {
    pub(super) network: Network,
    pub(super) events: mpsc::Receiver<NetworkEvent>,
    pub(super) height: Arc<Mutex<u64>>,
    pub(super) metrics: Registry,
    task: JoinHandle<()>,
}

impl Node {
    pub(super) async fn start(seed: u8) -> Self {
        Self::with(seed, chain(1), None).await
    }

    pub(super) async fn with(seed: u8, chain: ChainRef, book: Option<PathBuf>) -> Self {
        let height = Arc::new(Mutex::new(u64::from(seed)));
        let shown = height.clone();
        let status: StatusSource = Arc::new(move |_| PeerStatus {
            chain,
            height: Height(*shown.lock().unwrap()),
            head: Hash([2; 32]),
            epoch: Epoch(0),
            sealed: None,
            unfit: false,
            version: "axolotl/test".to_owned(),
            highest_vote_of_you: Some(Bytes::from_static(b"vote")),
            seal_of_you: None,
        });
        let mut metrics = Registry::default();
        let config = NetworkConfig {
            key: key(seed),
            chain,
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: Vec::new(),
            max_block_bytes: MAX_BLOCK_BYTES,
            book,
            agent: "axolotl/test".to_owned(),
        };
        let (network, mut incoming, task) =
            Network::start(config, status, &mut metrics).await.unwrap();
        // A node always takes its events; tests look at what they wait for.
        let (sender, events) = mpsc::channel(16_384);
        tokio::spawn(async move {
            while let Some(event) = incoming.recv().await {
                if sender.try_send(event).is_err() {
                    break;
                }
            }
        });
        Self {
            network,
            events,
            height,
            metrics,
            task,
        }
    }

    pub(super) fn key(&self) -> PublicKey {
        self.network.key()
    }

    pub(super) async fn allow(&self, others: &[&Node]) {
        let list = others
            .iter()
            .map(|node| (node.key(), node.network.local_addresses()));
        self.network.set_allowed(list.collect()).await;
    }

    /// The next event that `wanted` takes; the others before it are dropped.
    pub(super) async fn expect<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(NetworkEvent) -> Option<T>,
    ) -> T {
        let mut seen = Vec::new();
        let wait = async {
            while let Some(event) = self.events.recv().await {
                seen.push(format!("{event:.80?}"));
                if let Some(found) = wanted(event) {
                    return Some(found);
                }
            }
            None
        };
        match timeout(DEADLINE, wait).await {
            Ok(Some(found)) => found,
            _ => panic!(
                "no {what}; saw {seen:#?}, peers {:#?}",
                self.network.peers()
            ),
        }
    }

    pub(super) async fn expect_consensus(&mut self) -> (PublicKey, Bytes, MessageToken) {
        self.expect("consensus message", |event| match event {
            NetworkEvent::Consensus { from, bytes, token } => Some((from, bytes, token)),
            _ => None,
        })
        .await
    }

    /// These are connected, and gossip reaches them.
    pub(super) async fn expect_connected(&self, keys: &[PublicKey]) {
        let well = |key: &PublicKey, peers: &[PeerInfo]| {
            let reached = |peer: &PeerInfo| peer.key == *key && peer.connected && peer.subscribed;
            peers.iter().any(reached)
        };
        self.until("connections", |peers| {
            keys.iter().all(|key| well(key, peers))
        })
        .await;
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&[PeerInfo]) -> bool) {
        let mut peers = self.network.watch_peers();
        let wait = peers.wait_for(|peers| condition(peers));
        let done = timeout(DEADLINE, wait).await.is_ok();
        assert!(done, "no {what}: {:#?}", self.network.peers());
    }

    /// It listens on the same addresses as before.
    pub(super) async fn until_listening(&self, addresses: &[String]) {
        let mut now = self.network.addresses.clone();
        let wait = now.wait_for(|now| addresses.iter().all(|address| now.contains(address)));
        let done = timeout(DEADLINE, wait).await.is_ok();
        assert!(
            done,
            "{:?}, not {addresses:?}",
            self.network.local_addresses()
        );
    }

    pub(super) async fn stop(self) {
        self.network.shutdown();
        timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }

    pub(super) fn metric(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line));
        found.map_or(0, |value| value.trim().parse().unwrap())
    }
}

/// Nodes that all let each other in and are connected.
pub(super) async fn mesh(seeds: &[u8]) -> Vec<Node> {
    let mut nodes = Vec::new();
    for seed in seeds {
        nodes.push(Node::start(*seed).await);
    }
    let all: Vec<&Node> = nodes.iter().collect();
    for node in &all {
        node.allow(&all).await;
    }
    for node in &all {
        let others = all.iter().map(|n| n.key()).filter(|k| *k != node.key());
        let others: Vec<_> = others.collect();
        node.expect_connected(&others).await;
    }
    nodes
}

/// Repeats an action until it has its effect: gossip reaches only whoever subscribed already.
pub(super) async fn eventually<F: Future<Output = bool>>(
    what: &str,
    mut action: impl FnMut() -> F,
) {
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let attempt = async {
        loop {
            pause.tick().await;
            if action().await {
                return;
            }
        }
    };
    assert!(timeout(DEADLINE, attempt).await.is_ok(), "never: {what}");
}

pub(super) fn no_peers() -> BTreeMap<PublicKey, Vec<String>> {
    BTreeMap::new()
}
