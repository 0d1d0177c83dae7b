//! A validator that lies: it speaks the protocol over the real network, follows the chain, never votes, and
//! proposes something bad whenever it is its turn.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_consensus::TxEip1559;
use alloy_primitives::{B256, Bytes, TxKind};
use anyhow::{Context, ensure};
use axolotl_common::{
    Hash, Height, KeyPair, PublicKey, Round, ValidatorSet, crypto::random_bytes,
    genesis::GenesisDocument,
};
use axolotl_consensus::{
    Message,
    message::{Payload, Proposal, SignedProposal},
    proposer_order,
};
use axolotl_ledger::{
    Block, BlockAttributes, ChainSpec, Governance, Interruption, MemoryState, RootCache,
    Transaction, Tx, TxSource, Unlimited, build_block,
};
use axolotl_node::{
    cli::{accounts::Account, json_rpc::JsonRpc},
    network::{Network, NetworkConfig, NetworkEvents, PeerStatus},
};
use tokio::task::JoinSet;

use crate::{load::FEES, wait};

/// Most gas of one transaction at the rules of Osaka.
const TRANSACTION_GAS: u64 = 16_777_216;
/// Development accounts whose transactions fill slow blocks: nobody else may use them.
pub const SLOW_ACCOUNTS: std::ops::Range<usize> = 4..10;
/// Blocks that it signs in one round, when it signs many.
const MANY: usize = 8;
/// Hashes 8 KiB again and again until the gas is used up:
/// `JUMPDEST PUSH2 0x2000 PUSH0 KECCAK256 POP PUSH0 JUMP`.
const HASHES: [u8; 9] = [0x5b, 0x61, 0x20, 0x00, 0x5f, 0x20, 0x50, 0x5f, 0x56];
/// Patience for the honest to make a block.
const NEXT_BLOCK: Duration = Duration::from_secs(60);
/// Patience for a block that a node says it has.
const FETCHED: Duration = Duration::from_secs(10);

/// What it proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// A block with a state root that is not what its execution gives.
    WrongHeader,
    /// A block full of transactions that take longer than a round.
    SlowBody,
    /// Many blocks in one round.
    ManyBodies,
    /// A good block in the place of another one that it signed.
    SwappedBody,
    /// Bytes that are no block.
    NoBody,
}

impl Lie {
    /// All of them. What peers are blamed for as messengers comes last: it gets them cut off for a while.
    pub const ALL: [Self; 5] = [
        Self::WrongHeader,
        Self::SlowBody,
        Self::ManyBodies,
        Self::SwappedBody,
        Self::NoBody,
    ];
}

/// How often it told each lie.
pub type Told = Arc<Mutex<BTreeMap<Lie, u64>>>;

/// The liar.
pub struct Liar {
    key: KeyPair,
    spec: Arc<ChainSpec>,
    set: ValidatorSet,
    /// The state of block 0: enough to make headers that look right.
    state: MemoryState,
    roots: RootCache,
    network: Network,
    /// An honest node, asked for its height.
    node: JsonRpc,
    /// Honest nodes.
    peers: Vec<PublicKey>,
    /// Height of the head, for the status exchange.
    head: Arc<AtomicU64>,
    told: Told,
    _tasks: JoinSet<()>,
}

struct NoTransactions;

impl TxSource for NoTransactions {
    fn next(&mut self) -> Option<Tx> {
        None
    }

    fn skip_sender(&mut self, _: &Tx, _: &str) {}

    fn interrupted(&mut self, _: &Tx, _: Interruption) {}
}

impl Liar {
    /// Connects to these honest nodes, keys with libp2p addresses, as the validator with this key.
    ///
    /// # Errors
    /// When the genesis is wrong or the network does not start.
    pub async fn start(
        key: KeyPair,
        document: GenesisDocument,
        peers: BTreeMap<PublicKey, Vec<String>>,
        node: JsonRpc,
    ) -> anyhow::Result<Self> {
        let record = document.epoch();
        let set = ValidatorSet::new(&document.chain(), &record, document.axolotl().quorum);
        let (spec, state) = ChainSpec::from_document(document)?;
        let state = MemoryState::from_diff(&state);
        let roots = RootCache::build(&state)?;
        let head = Arc::new(AtomicU64::new(0));
        let source = {
            let (head, chain) = (Arc::clone(&head), spec.chain);
            let genesis = Hash(spec.genesis_hash_block().0);
            let epoch = set.epoch();
            move |_: &PublicKey| PeerStatus {
                chain,
                height: Height(head.load(Ordering::Relaxed)),
                head: genesis,
                epoch,
                sealed: None,
                unfit: false,
                version: "liar".to_owned(),
                highest_vote_of_you: None,
                seal_of_you: None,
            }
        };
        let config = NetworkConfig {
            key: key.clone(),
            chain: spec.chain,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            advertise: Vec::new(),
            max_block_bytes: spec.max_block_bytes,
            book: None,
            agent: "liar".to_owned(),
        };
        let mut metrics = prometheus_client::registry::Registry::default();
        let (network, events, task) =
            Network::start(config, Arc::new(source), &mut metrics).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = task.await;
        });
        tasks.spawn(forget(events));
        network.set_allowed(peers.clone()).await;
        Ok(Self {
            key,
            spec,
            set,
            state,
            roots,
            network,
            node,
            peers: peers.into_keys().collect(),
            head,
            told: Told::default(),
            _tasks: tasks,
        })
    }

    /// How often it told each lie so far.
    pub fn told(&self) -> Told {
        Arc::clone(&self.told)
    }

    /// Lies for ever, one kind after the other.
    ///
    /// # Errors
    /// When it cannot follow the chain.
    pub async fn run(self) -> anyhow::Result<()> {
        wait::until("connections with all", FETCHED, async || {
            let connected = self.network.connected().len();
            ensure!(connected == self.peers.len(), "{connected} peers");
            Ok(())
        })
        .await?;
        let mut lies = Lie::ALL.into_iter().cycle();
        let mut seen: Option<u64> = None;
        loop {
            let height = wait::until("another block", NEXT_BLOCK, async || {
                let height = self.node.block_number().await?;
                ensure!(Some(height) != seen, "still at {height}");
                Ok(height)
            })
            .await?;
            seen = Some(height);
            self.head.store(height, Ordering::Relaxed);
            let parent = self.block(height).await?;
            let builder = parent.builder();
            let builder = Some(&builder).filter(|_| height > 0);
            let next = Height(height + 1);
            let term = self.spec.genesis.axolotl().leader_term_blocks;
            let order = proposer_order(next, &self.set, builder, None, term);
            if order.first() == Some(&self.key.public())
                && let Some(lie) = lies.next()
            {
                self.tell(lie, next, &parent)?;
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                *told.entry(lie).or_default() += 1;
            }
        }
    }

    /// A block of the chain, from whoever has it.
    async fn block(&self, height: u64) -> anyhow::Result<Block> {
        if height == 0 {
            return Ok(self.spec.genesis_block.clone());
        }
        let what = format!("block {height}");
        wait::until(&what, FETCHED, async || {
            let mut last = anyhow::anyhow!("no peers");
            for peer in &self.peers {
                let answer = self.network.request_blocks(*peer, Height(height), 1);
                match answer.await {
                    Ok(blocks) if !blocks.is_empty() => {
                        let block = Block::decode(&blocks[0].block, self.spec.chain.id, &|_| None);
                        return Ok(block?);
                    }
                    Ok(_) => {}
                    Err(error) => last = error.into(),
                }
            }
            Err(last)
        })
        .await
    }

    fn tell(&self, lie: Lie, height: Height, parent: &Block) -> anyhow::Result<()> {
        match lie {
            Lie::WrongHeader => {
                let block = self.draft(parent)?;
                self.propose(height, block.hash(), block.encode())
            }
            Lie::SlowBody => {
                let block = self.slow(parent)?;
                self.propose(height, block.hash(), block.encode())
            }
            Lie::ManyBodies => {
                for _ in 0..MANY {
                    let block = self.draft(parent)?;
                    self.propose(height, block.hash(), block.encode())?;
                }
                Ok(())
            }
            Lie::SwappedBody => {
                let (signed, sent) = (self.draft(parent)?, self.draft(parent)?);
                self.propose(height, signed.hash(), sent.encode())
            }
            Lie::NoBody => {
                let signed = self.draft(parent)?;
                self.propose(height, signed.hash(), vec![0; 64])
            }
        }
    }

    /// An empty block that is right but for its state root, which is drawn.
    fn draft(&self, parent: &Block) -> anyhow::Result<Block> {
        let attributes = BlockAttributes {
            timestamp: parent.header.timestamp,
            builder: self.key.public(),
            requests: Vec::new(),
        };
        let built = build_block(
            &self.spec,
            &parent.header,
            parent.hash(),
            &self.state,
            &self.roots,
            Governance::from(&self.set),
            attributes,
            &mut NoTransactions,
            &Unlimited,
        )?;
        let mut header = built.block.header.clone();
        header.state_root = B256::from(random_bytes());
        Ok(Block::new(header, Vec::new(), Vec::new()))
    }

    /// A block as full of hashing as its gas limit allows.
    fn slow(&self, parent: &Block) -> anyhow::Result<Block> {
        let mut header = self.draft(parent)?.header;
        let count = usize::try_from(self.spec.gas_limit / TRANSACTION_GAS)?;
        let accounts = SLOW_ACCOUNTS.len();
        let mut transactions = Vec::with_capacity(count);
        for index in 0..count {
            let signed = Account::dev(SLOW_ACCOUNTS.start + index % accounts).sign(TxEip1559 {
                chain_id: self.spec.chain_id(),
                nonce: (index / accounts) as u64,
                gas_limit: TRANSACTION_GAS,
                max_fee_per_gas: FEES.max_fee,
                max_priority_fee_per_gas: FEES.tip,
                to: TxKind::Create,
                input: Bytes::from_static(&HASHES),
                ..TxEip1559::default()
            });
            let tx = Transaction::decode(&signed.raw, self.spec.chain.id)?;
            transactions.push(Arc::new(tx));
        }
        header.gas_used = count as u64 * TRANSACTION_GAS;
        let block = Block::new(header, transactions, Vec::new());
        let mut header = block.header.clone();
        header.transactions_root = block.transactions_root();
        Ok(Block::new(header, block.transactions, Vec::new()))
    }

    /// Signs a block for round 0 and sends these bytes for it.
    fn propose(&self, height: Height, block: B256, bytes: Vec<u8>) -> anyhow::Result<()> {
        let proposal = Proposal {
            epoch: self.set.epoch(),
            height,
            round: Round(0),
            block: Hash(block.0),
            valid_round: None,
            proposer: self.key.public(),
        };
        let signature = self.key.sign(&proposal.sign_bytes(&self.spec.chain));
        let message = Message {
            copy: u64::from_le_bytes(random_bytes()),
            payload: Payload::Proposal {
                proposal: SignedProposal {
                    proposal,
                    signature,
                },
                block: bytes.into(),
            },
        };
        let sent = self.network.publish_consensus(message.encode());
        sent.with_context(|| format!("a proposal for height {height}"))
    }
}

/// Takes what peers send and does nothing with it.
async fn forget(mut events: NetworkEvents) {
    while events.recv().await.is_some() {}
}
