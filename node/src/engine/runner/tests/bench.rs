//! A node whose engine is driven by hand, one turn after the other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use alloy_primitives::Bytes;
use axolotl_common::{
    Epoch, EpochRecord, Hash, Height, KeyPair, Member, NodeId, PublicKey, Round, SignedRecord,
    VolumeId, VoteKind,
    genesis::{AxolotlGenesis, GenesisDocument, dev_genesis},
    membership::RecordKind,
    recovery::{
        Acknowledgement, Ballot, Handover, RegistryStart, SealNote, SignedStatement, StartId,
        Statement,
    },
    registry_api::{Order, RecoveryAnswer},
};
use axolotl_consensus::{
    Input, Message,
    message::{Payload, SignedVote, Vote},
};
use axolotl_ledger::ChainSpec;
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle as TaskHandle,
    time::timeout,
};

use crate::{
    engine::{
        DONE_QUEUE, EngineParts, Inbound, OrderAnswer, StatusBook, StatusFacts,
        runner::Runner,
        worker::{Done, JOB_QUEUE, Worker},
    },
    mempool::{Mempool, MempoolLimits},
    network::{Network, NetworkConfig, NetworkEvent, PeerStatus},
    storage::{Chain, ConsensusLog, DataDir, StorageOptions},
};

const DEADLINE: Duration = Duration::from_secs(30);
/// How often a turn looks at timers and conditions.
const GLANCE: Duration = Duration::from_millis(20);

pub(super) fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

pub(super) fn start() -> RegistryStart {
    RegistryStart {
        counter: 1,
        id: StartId([1; 16]),
    }
}

pub(super) fn other_start() -> RegistryStart {
    RegistryStart {
        counter: 2,
        id: StartId([2; 16]),
    }
}

pub(super) fn ballot(attempt: u64) -> Ballot {
    Ballot {
        start: start(),
        attempt,
    }
}

fn authority() -> KeyPair {
    key(99)
}

fn member(seed: u8) -> Member {
    Member {
        node_id: NodeId::numbered(u64::from(seed)),
        public_key: key(seed).public(),
        volume_id: VolumeId([seed; 16]),
    }
}

/// The node, with what its engine is connected to.
pub(super) struct Bench {
    pub(super) runner: Runner,
    pub(super) key: KeyPair,
    own: Member,
    dir: tempfile::TempDir,
    document: GenesisDocument,
    book: StatusBook,
    answers: mpsc::Receiver<Done>,
    worker: JoinHandle<()>,
    events: mpsc::Receiver<NetworkEvent>,
    network_task: TaskHandle<()>,
    /// What peers are given who ask for a block that is not final.
    given: Arc<Mutex<Option<Bytes>>>,
    /// Whether timers elapse.
    pub(super) timers: bool,
}

impl Bench {
    /// Validator 1 of 1 to 4, whose key is its directory's; the keys of the others are known.
    pub(super) async fn new() -> Self {
        Self::build(None, None).await
    }

    /// The same, but the genesis names another volume for it.
    pub(super) async fn with_volume(named: VolumeId) -> Self {
        Self::build(Some(named), None).await
    }

    /// A node of the same chain that is no member.
    pub(super) async fn learner(&self) -> Self {
        Self::build(None, Some(self.document.clone())).await
    }

    async fn build(named: Option<VolumeId>, document: Option<GenesisDocument>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let own = Member {
            node_id: NodeId::numbered(1),
            public_key: data.key().public(),
            volume_id: named.unwrap_or(data.volume_id()),
        };
        let document = document.unwrap_or_else(|| {
            let axolotl: AxolotlGenesis = serde_json::from_value(serde_json::json!({
                "validators": [own, member(2), member(3), member(4)],
                "authorityKey": authority().public(),
            }))
            .unwrap();
            GenesisDocument::from_value(dev_genesis(&axolotl, 1)).unwrap()
        });
        Self::open(dir, data, document, own).await
    }

    async fn open(
        dir: tempfile::TempDir,
        data: DataDir,
        document: GenesisDocument,
        own: Member,
    ) -> Self {
        let data = Arc::new(data);
        let key = data.key().clone();
        let (spec, diff) = ChainSpec::from_document(document.clone()).unwrap();
        let options = StorageOptions::default();
        let chain = Chain::open(dir.path(), spec, diff, options, &mut |_| {}).unwrap();
        let (log, report) = ConsensusLog::open(&data.consensus_dir()).unwrap();
        assert!(report.damage.is_empty());
        let mempool = Mempool::new(Arc::clone(chain.spec()), MempoolLimits::default());
        let book = StatusBook::default();
        let (shown, facts) = (chain.clone(), Arc::clone(&book));
        let (network, mut incoming, network_task) = Network::start(
            NetworkConfig {
                key: key.clone(),
                chain: chain.spec().chain,
                listen: "127.0.0.1:0".parse().unwrap(),
                advertise: Vec::new(),
                max_block_bytes: chain.spec().max_block_bytes,
                book: None,
                agent: "axolotl/test".to_owned(),
            },
            Arc::new(move |peer: &PublicKey| {
                let (head, facts) = (shown.head(), facts.lock().unwrap());
                PeerStatus {
                    chain: shown.spec().chain,
                    height: head.height(),
                    head: Hash(head.hash.0),
                    epoch: head.validators.epoch(),
                    sealed: facts.sealed,
                    unfit: facts.unfit,
                    version: String::new(),
                    highest_vote_of_you: facts.votes.get(peer).cloned(),
                    seal_of_you: facts.seals.get(peer).cloned(),
                }
            }),
            &mut Registry::default(),
        )
        .await
        .unwrap();
        let given: Arc<Mutex<Option<Bytes>>> = Arc::default();
        let (sender, events) = mpsc::channel(1_024);
        let gives = Arc::clone(&given);
        tokio::spawn(async move {
            while let Some(event) = incoming.recv().await {
                match event {
                    NetworkEvent::LockedWanted { reply, .. } => {
                        reply.send_locked(gives.lock().unwrap().clone());
                    }
                    event => drop(sender.send(event).await),
                }
            }
        });
        let (jobs, queue) = mpsc::channel(JOB_QUEUE);
        let (done, answers) = mpsc::channel(DONE_QUEUE);
        let worker = Worker::new(chain.clone(), mempool.clone(), key.public(), done);
        let worker = std::thread::spawn(move || worker.run(queue));
        let parts = EngineParts {
            key: key.clone(),
            chain,
            mempool,
            log,
            unfit: None,
            volume: data.volume_id(),
            network,
            incarnation: data.incarnation(),
            book: Arc::clone(&book),
            data,
        };
        let (runner, status) = Runner::new(parts, jobs).unwrap();
        drop(status);
        let mut bench = Self {
            runner,
            key,
            own,
            dir,
            document,
            book,
            answers,
            worker,
            events,
            network_task,
            given,
            timers: false,
        };
        bench.settle();
        bench.runner.replay().await.unwrap();
        bench
    }

    /// The process ends, and starts again on the same directory.
    pub(super) async fn restarted(self) -> Self {
        let Self {
            runner,
            dir,
            document,
            own,
            worker,
            network_task,
            answers,
            ..
        } = self;
        runner.network.shutdown();
        drop((runner, answers));
        worker.join().unwrap();
        network_task.await.unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        Self::open(dir, data, document, own).await
    }

    /// The process has run for a while.
    pub(super) fn settle(&mut self) {
        let minute = Duration::from_secs(60);
        self.runner.start = Instant::now().checked_sub(minute).unwrap();
    }

    pub(super) fn book(&self) -> MutexGuard<'_, StatusFacts> {
        self.book.lock().unwrap()
    }

    pub(super) async fn input(&mut self, input: Input) {
        self.runner.input(input).await.unwrap();
    }

    /// Handles one thing that happened, or waits for a moment.
    pub(super) async fn turn(&mut self) {
        tokio::select! {
            Some(done) = self.answers.recv() => self.runner.on_done(done).await.unwrap(),
            Some(task) = self.runner.tasks.join_next() => self.runner.on_task(task.unwrap()),
            Some(event) = self.events.recv() => self.event(event).await,
            // A poll of timers that are due.
            () = tokio::time::sleep(GLANCE) => {
                if self.timers {
                    self.runner.on_timers().await.unwrap();
                }
            }
        }
    }

    async fn event(&mut self, event: NetworkEvent) {
        let inbound = match event {
            NetworkEvent::Record { from, bytes, token } => {
                Inbound::RecordGossiped { from, bytes, token }
            }
            NetworkEvent::Connected(peer) => Inbound::Connected(peer),
            _ => return,
        };
        self.runner.on_inbound(inbound).await.unwrap();
    }

    /// Carries an order out to its answer.
    pub(super) async fn answer(&mut self, order: Order) -> OrderAnswer {
        let (reply, mut answer) = oneshot::channel();
        let what = format!("{order:.60?}");
        self.runner.on_order(order, reply).await.unwrap();
        let answered = async {
            loop {
                tokio::select! {
                    biased;
                    answer = &mut answer => return answer.unwrap(),
                    () = self.turn() => {}
                }
            }
        };
        let answered = timeout(DEADLINE, answered).await;
        answered.unwrap_or_else(|_| panic!("no answer to {what}"))
    }

    pub(super) async fn obeyed(&mut self, order: Order) -> RecoveryAnswer {
        let answer = self.answer(order).await;
        answer.outcome.unwrap();
        *answer.recovery
    }

    pub(super) async fn refused(&mut self, order: Order) -> String {
        let answer = self.answer(order).await;
        assert!(answer.recovery.statement.is_none() && answer.recovery.survey.is_none());
        assert!(answer.recovery.acknowledgement.is_none());
        answer.outcome.unwrap_err()
    }

    /// Carries out an order that ends the engine, and gives its reason.
    pub(super) async fn ended(&mut self, order: Order) -> String {
        let (reply, _answer) = oneshot::channel();
        self.runner.on_order(order, reply).await.unwrap();
        loop {
            let done = timeout(DEADLINE, self.answers.recv()).await.unwrap();
            if let Err(error) = self.runner.on_done(done.unwrap()).await {
                return error.0;
            }
        }
    }

    /// A vote of round 0 of the present height arrives.
    pub(super) async fn vote(&mut self, key: &KeyPair, kind: VoteKind, block: Option<Hash>) {
        let vote = Vote {
            epoch: self.runner.driver.epoch().unwrap(),
            height: self.runner.driver.height().unwrap(),
            round: Round(0),
            kind,
            block,
            validator: key.public(),
        };
        let signature = key.sign(&vote.sign_bytes(&self.runner.chain.spec().chain));
        let payload = Payload::Vote(SignedVote { vote, signature });
        self.input(Input::Message(Message { copy: 0, payload }))
            .await;
    }

    /// Proposes a block, and precommits to it with the prevotes of 2 and 3.
    pub(super) async fn lock(&mut self) -> Hash {
        for peer in [2, 3] {
            let (from, vote) = (key(peer).public(), None);
            self.input(Input::HighestVoteSeen { from, vote }).await;
        }
        let me = self.key.public();
        assert_eq!(self.runner.driver.proposer(), Some(me));
        self.input(Input::Work(true)).await;
        let prevoted = |bench: &Self| {
            let vote = bench.runner.driver.highest_vote_of(&me);
            vote.and_then(|signed| signed.vote.block)
        };
        wait("its own prevote", self, |bench| prevoted(bench).is_some()).await;
        let block = prevoted(self).unwrap();
        for peer in [2, 3] {
            self.vote(&key(peer), VoteKind::Prevote, Some(block)).await;
        }
        assert_eq!(
            self.runner.driver.lock().map(|lock| lock.block),
            Some(block)
        );
        block
    }

    /// Votes decide a block.
    pub(super) async fn decide(&mut self) {
        let block = self.lock().await;
        for peer in [2, 3] {
            self.vote(&key(peer), VoteKind::Precommit, Some(block))
                .await;
        }
        wait("the block", self, |b| {
            b.runner.chain.head().height() == Height(1)
        })
        .await;
    }

    /// What validator `seed` states at height 0, with the last vote that is known of it.
    pub(super) fn statement_of(&self, seed: u8, ballot: Ballot) -> SignedStatement {
        let chain = &self.runner.chain;
        let author = key(seed).public();
        let statement = Statement {
            author,
            volume: VolumeId([seed; 16]),
            sealed: Epoch(0),
            ballot,
            head: Height(0),
            head_hash: Hash(chain.spec().genesis_hash_block().0),
            certificate: None,
            governing: Epoch(0),
            lock: None,
            last_vote: self.runner.driver.highest_vote_of(&author).copied(),
            seen: Vec::new(),
        };
        statement.sign(&chain.spec().chain, &key(seed))
    }

    /// The node's own word that it is sealed, as if it had said so before.
    pub(super) fn own_seal_note(&self, epoch: Epoch) -> SealNote {
        let mut statement = self.statement_of(2, ballot(1)).statement;
        statement.author = self.key.public();
        statement.sealed = epoch;
        let chain = &self.runner.chain.spec().chain;
        statement.sign(chain, &self.key).seal_note()
    }

    /// The draft of epoch 1: the authors of the statements, 5 and 6.
    pub(super) fn draft(
        &self,
        ballot: Ballot,
        statements: &[SignedStatement],
        adopted: Option<Hash>,
    ) -> EpochRecord {
        let chain = &self.runner.chain;
        let head = chain.head();
        let known = [self.own.clone(), member(2), member(3), member(4)];
        let authors = known.into_iter().filter(|member| {
            let mut authors = statements.iter().map(|s| s.statement.author);
            authors.any(|author| author == member.public_key)
        });
        let base = adopted.unwrap_or(statements[0].statement.head_hash);
        EpochRecord {
            number: Epoch(1),
            kind: RecordKind::Recovery,
            succeeds: head.validators.record_hash(),
            members: authors.chain([member(5), member(6)]).collect(),
            base_height: Height(u64::from(adopted.is_some())),
            expiry_height: None,
            handover: Some(Box::new(Handover {
                ballot,
                statements: statements.to_vec(),
                base,
                adopted: adopted.is_some(),
            })),
        }
    }

    /// The record, acknowledged by this node, if it is a member, and by `others`.
    pub(super) fn sign(&self, draft: &EpochRecord, ballot: Ballot, others: &[u8]) -> SignedRecord {
        let chain = &self.runner.chain.spec().chain;
        let hash = draft.hash(chain);
        let mut keys: Vec<KeyPair> = others.iter().map(|seed| key(*seed)).collect();
        let me = self.key.public();
        if draft.members.iter().any(|member| member.public_key == me) {
            keys.insert(0, self.key.clone());
        }
        let mut signed = draft.clone().sign(chain, &authority());
        let acknowledged = keys
            .iter()
            .map(|key| Acknowledgement::new(chain, ballot, &hash, key));
        signed.acknowledgements = acknowledged.collect();
        signed
    }

    /// From now on this is what peers get who ask for a block that is not final.
    pub(super) fn give_locked(&self, bytes: Bytes) {
        *self.given.lock().unwrap() = Some(bytes);
    }

    /// The two nodes let each other in and are connected.
    pub(super) async fn connect(&mut self, other: &Self) {
        let (one, two) = (&self.runner.network, &other.runner.network);
        for (here, there) in [(one, two), (two, one)] {
            let list = BTreeMap::from([(there.key(), there.local_addresses())]);
            here.set_allowed(list).await;
        }
        let begin = Instant::now();
        let well = |here: &Network, there: &Network| {
            let peers = here.peers();
            peers
                .iter()
                .any(|p| p.key == there.key() && p.connected && p.subscribed)
        };
        while !(well(one, two) && well(two, one)) {
            assert!(
                begin.elapsed() < DEADLINE,
                "not connected: {:#?}",
                one.peers()
            );
            // A poll of the condition above.
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// Turns until the condition holds.
pub(super) async fn wait(what: &str, bench: &mut Bench, condition: impl Fn(&Bench) -> bool) {
    let begin = Instant::now();
    while !condition(bench) {
        assert!(
            begin.elapsed() < DEADLINE,
            "no {what}: {:?}",
            bench.runner.status.borrow()
        );
        bench.turn().await;
    }
}
