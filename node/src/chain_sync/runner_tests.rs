//! Sync over real networks, with certificates that are really checked.

use std::sync::Mutex;

use alloy_primitives::Bytes;
use axolotl_common::{
    BlockProof, ChainId, ChainRef, CommitCertificate, Epoch, EpochRecord, Hash, KeyPair, Member,
    NodeId, QuorumRule, Round, ValidatorSet, VolumeId, VoteKind, certificate::vote_sign_bytes,
};
use prometheus_client::registry::Registry;
use tokio::time::timeout;

use super::*;
use crate::network::{NetworkConfig, NetworkEvent, PeerStatus};

const DEADLINE: Duration = Duration::from_secs(60);

fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

fn chain() -> ChainRef {
    ChainRef {
        id: ChainId(1337),
        genesis: Hash([1; 32]),
    }
}

fn validators() -> ValidatorSet {
    let member = |n: u8| Member {
        node_id: NodeId::numbered(n.into()),
        public_key: key(n).public(),
        volume_id: VolumeId([n; 16]),
    };
    let record = EpochRecord::genesis(&chain(), (1..=4).map(member).collect());
    ValidatorSet::new(&chain(), &record, QuorumRule::Byzantine)
}

/// A block of `bytes` bytes that begins with its height; `tag` makes another chain.
fn block(height: u64, tag: u8, bytes: usize) -> SyncBlock {
    let mut content = vec![tag; bytes.max(8)];
    content[..8].copy_from_slice(&height.to_le_bytes());
    let (epoch, round, hash) = (Epoch(0), Round(0), Hash::sha256(&content));
    let vote = vote_sign_bytes(
        &chain(),
        epoch,
        Height(height),
        round,
        VoteKind::Precommit,
        Some(hash),
    );
    let signatures = (1..=3)
        .map(|n| (key(n).public(), key(n).sign(&vote)))
        .collect();
    SyncBlock {
        records: Vec::new(),
        block: Bytes::from(content),
        proof: BlockProof::Certificate(CommitCertificate {
            epoch,
            height: Height(height),
            round,
            block: hash,
            signatures,
        }),
    }
}

/// A chain in memory: source and applier.
struct Store {
    blocks: Mutex<Vec<SyncBlock>>,
    validators: ValidatorSet,
}

impl Store {
    fn new(blocks: Vec<SyncBlock>) -> Arc<Self> {
        Arc::new(Self {
            blocks: Mutex::new(blocks),
            validators: validators(),
        })
    }
}

impl Applier for Store {
    fn tip_height(&self) -> Height {
        Height(self.blocks.lock().unwrap().len() as u64)
    }

    fn apply(&self, blocks: Vec<SyncBlock>) -> Result<Height, ApplyError> {
        let mut chain_blocks = self.blocks.lock().unwrap();
        for block in blocks {
            let tip = Height(chain_blocks.len() as u64);
            let certificate = block.proof.certificate().expect("none is adopted");
            if certificate.height <= tip {
                continue;
            }
            let fits = certificate.height == tip.next()
                && certificate.block == Hash::sha256(&block.block)
                && block.block[..8] == certificate.height.0.to_le_bytes();
            let proof = certificate.verify(&chain(), &self.validators);
            if !fits || proof.is_err() {
                return Err(ApplyError {
                    tip,
                    peer_fault: true,
                    why: format!("fits: {fits}, certificate: {proof:?}"),
                });
            }
            chain_blocks.push(block);
        }
        Ok(Height(chain_blocks.len() as u64))
    }
}

impl BlockSource for Store {
    fn blocks(&self, first: Height, count: usize, max_bytes: usize) -> Vec<SyncBlock> {
        let blocks = self.blocks.lock().unwrap();
        let (mut answer, mut size) = (Vec::new(), 0);
        for block in blocks.iter().skip(first.0 as usize - 1).take(count) {
            size += block.block.len();
            if size > max_bytes && !answer.is_empty() {
                break;
            }
            answer.push(block.clone());
        }
        answer
    }
}

struct Node {
    network: Network,
    sync: SyncHandle,
    store: Arc<Store>,
}

impl Node {
    async fn start(seed: u8, store: Arc<Store>) -> Self {
        let shown = store.clone();
        let (network, mut events, _) = Network::start(
            NetworkConfig {
                key: key(seed),
                chain: chain(),
                listen: "127.0.0.1:0".parse().unwrap(),
                advertise: Vec::new(),
                max_block_bytes: 2 << 20,
                book: None,
                agent: "axolotl/test".to_owned(),
            },
            Arc::new(move |_| PeerStatus {
                chain: chain(),
                height: shown.tip_height(),
                head: Hash([0; 32]),
                epoch: Epoch(0),
                sealed: None,
                unfit: false,
                version: String::new(),
                highest_vote_of_you: None,
                seal_of_you: None,
            }),
            &mut Registry::default(),
        )
        .await
        .unwrap();
        let shutdown = CancellationToken::new();
        let (sync, task) = start(network.clone(), store.clone(), store.clone(), shutdown);
        let handle = sync.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    NetworkEvent::StatusOf { peer, status } => {
                        handle.peer_height(peer, status.height);
                    }
                    NetworkEvent::Disconnected(peer) => handle.peer_gone(peer),
                    NetworkEvent::BlocksWanted {
                        first,
                        count,
                        reply,
                        ..
                    } => {
                        handle.serve(first, count, reply);
                    }
                    _ => {}
                }
            }
            task.await.unwrap().unwrap();
        });
        Self {
            network,
            sync,
            store,
        }
    }

    async fn reaches(&self, height: u64) {
        let mut status = self.sync.status();
        let wait = status.wait_for(|s| s.tip.0 >= height && s.caught_up());
        let done = timeout(DEADLINE, wait).await.is_ok();
        assert!(
            done,
            "not at {height}: {:?}, peers {:#?}",
            self.sync.status().borrow(),
            self.network.peers()
        );
    }
}

async fn connect(nodes: &[&Node]) {
    let list = nodes
        .iter()
        .map(|node| (node.network.key(), node.network.local_addresses()))
        .collect::<std::collections::BTreeMap<_, _>>();
    for node in nodes {
        node.network.set_allowed(list.clone()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_node_fetches_a_long_chain_quickly() {
    const LENGTH: u64 = 10_000;
    let chain: Vec<_> = (1..=LENGTH).map(|h| block(h, 0, 600)).collect();
    let mut full = Vec::new();
    for seed in 1..=3 {
        full.push(Node::start(seed, Store::new(chain.clone())).await);
    }
    let empty = Node::start(9, Store::new(Vec::new())).await;
    let all: Vec<_> = full.iter().chain([&empty]).collect();
    let begin = Instant::now();
    connect(&all).await;
    empty.reaches(LENGTH).await;
    let rate = LENGTH as f64 / begin.elapsed().as_secs_f64();
    println!("{rate:.0} blocks/s, three signatures checked per block");
    assert_eq!(*empty.store.blocks.lock().unwrap(), chain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_of_the_largest_size_are_fetched() {
    let chain: Vec<_> = (1..=12).map(|h| block(h, 0, 2 << 20)).collect();
    let full = Node::start(1, Store::new(chain)).await;
    let empty = Node::start(9, Store::new(Vec::new())).await;
    connect(&[&full, &empty]).await;
    empty.reaches(12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forger_is_cut_off_and_the_honest_chain_is_reached() {
    let chain: Vec<_> = (1..=1_000).map(|h| block(h, 0, 100)).collect();
    let mut forged = chain.clone();
    for height in 300..=1_000 {
        // Another block under the right certificate.
        forged[height - 1].block = block(height as u64, 1, 100).block;
    }
    let honest = Node::start(1, Store::new(chain.clone())).await;
    let forger = Node::start(2, Store::new(forged)).await;
    let empty = Node::start(9, Store::new(Vec::new())).await;
    connect(&[&forger, &empty]).await;
    let mut status = empty.sync.status();
    let stuck = timeout(DEADLINE, status.wait_for(|s| s.tip.0 == 299))
        .await
        .is_ok();
    assert!(stuck, "{:?}", empty.sync.status().borrow());
    let mut peers = empty.network.watch_peers();
    let cut = peers.wait_for(|all| {
        all.iter()
            .any(|peer| peer.key == forger.network.key() && peer.banned)
    });
    let cut = timeout(DEADLINE, cut).await.is_ok();
    assert!(cut, "{:#?}", empty.network.peers());
    connect(&[&honest, &forger, &empty]).await;
    empty.reaches(1_000).await;
    assert_eq!(*empty.store.blocks.lock().unwrap(), chain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_level_follows_when_consensus_stands_still() {
    let chain: Vec<_> = (1..=50).map(|h| block(h, 0, 100)).collect();
    let full = Node::start(1, Store::new(chain[..40].to_vec())).await;
    let late = Node::start(9, Store::new(chain[..38].to_vec())).await;
    connect(&[&full, &late]).await;
    late.reaches(40).await;
    full.store.apply(chain[40..42].to_vec()).unwrap();
    full.sync.committed(Height(42));
    late.sync.behind(Height(43));
    late.reaches(42).await;
}
