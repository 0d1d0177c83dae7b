//! A store, nodes that obey the rules of `docs/recovery.md`, and a registry that can crash between any two
//! steps.

use std::collections::{BTreeMap, BTreeSet};

use axolotl_common::{
    ChainId, ChainRef, Epoch, EpochRecord, Hash, Height, KeyPair, Member, NodeId, PublicKey,
    QuorumRule, Round, SignedRecord, ValidatorSet, VolumeId, VoteKind,
    membership::RecordKind,
    recovery::{
        Acknowledgement, Ballot, RegistryStart, Sets, StartId, StatedLock, Statement,
        check_acknowledgements, check_draft,
    },
    registry_api::{Order, RecoverRequest, RecoveryAnswer, StagedDraft, Survey},
    votes::{PolkaCertificate, Vote},
};

use crate::cluster::{
    Now,
    recovery::{Change, Epochs, Facts, Memory, Recovery, Refused, Seen, Step, Trust, sign_record},
};

pub(super) const CHAIN: ChainRef = ChainRef {
    id: ChainId(7),
    genesis: Hash([7; 32]),
};
pub(super) const TICK: Now = Now::from_millis(500);
const HEAD: Hash = Hash([0x99; 32]);

fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

pub(super) fn public(seed: u8) -> PublicKey {
    key(seed).public()
}

fn member(seed: u8) -> Member {
    Member {
        node_id: NodeId::numbered(seed.into()),
        public_key: public(seed),
        volume_id: VolumeId([seed; 16]),
    }
}

/// A node: what its disk holds, and whether it can be reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) up: bool,
    stream: u64,
    met: Option<RegistryStart>,
    promised: Option<Ballot>,
    pub(super) sealed: Option<Epoch>,
    pub(super) staged: Option<StagedDraft>,
    lock: Option<StatedLock>,
    pub(super) record: Option<SignedRecord>,
}

/// The world.
pub(super) struct World {
    pub(super) now: Now,
    pub(super) n: u8,
    pub(super) nodes: BTreeMap<u8, Node>,
    /// The store: what is durable.
    pub(super) memory: Memory,
    pub(super) records: BTreeMap<Epoch, SignedRecord>,
    pub(super) in_force: Epoch,
    pub(super) signed: Option<Epoch>,
    pub(super) planned: Option<Epoch>,
    sets: Sets,
    bases: BTreeSet<(Height, Hash)>,
    pub(super) trust: Trust,
    /// The process.
    pub(super) registry: Recovery,
    /// Writes so far.
    pub(super) writes: usize,
    /// Crash before or after this write.
    pub(super) crash: Option<(usize, bool)>,
    pub(super) crashes: usize,
    streams: u64,
}

impl World {
    /// `n` validators, as many learners, all up, and a registry that everybody has met.
    pub(super) fn new(n: u8) -> Self {
        let record = EpochRecord::genesis(&CHAIN, (1..=n).map(member).collect());
        let set = ValidatorSet::new(&CHAIN, &record, QuorumRule::Byzantine);
        let mut world = Self {
            now: Now::ZERO,
            n,
            nodes: (1..=2 * n)
                .map(|seed| {
                    let node = Node {
                        up: seed <= n,
                        stream: seed.into(),
                        ..Node::default()
                    };
                    (seed, node)
                })
                .collect(),
            memory: Memory::default(),
            records: BTreeMap::new(),
            in_force: Epoch(0),
            signed: None,
            planned: None,
            sets: [(Epoch(0), set)].into(),
            bases: BTreeSet::new(),
            trust: Trust::Crash,
            registry: Recovery::new(Memory::default()),
            writes: 0,
            crash: None,
            crashes: 0,
            streams: 100,
        };
        world.restart(1);
        world
    }

    /// A new process on the same store.
    pub(super) fn restart(&mut self, id: u8) {
        let last = self.memory.starts.last();
        let counter = last.map_or(0, |start| start.counter) + 1;
        let id = StartId([id; 16]);
        self.memory.starts.push(RegistryStart { counter, id });
        self.registry = Recovery::new(self.memory.clone());
        self.meet_all();
    }

    pub(super) fn set(&self) -> ValidatorSet {
        self.sets[&self.in_force].clone()
    }

    /// Signs a planned record with these members; it is in flight.
    pub(super) fn plan(&mut self, seeds: &[u8]) {
        let number = Epoch(self.epochs().newest().0 + 1);
        let record = EpochRecord {
            number,
            ..EpochRecord::genesis(&CHAIN, seeds.iter().copied().map(member).collect())
        };
        let set = ValidatorSet::new(&CHAIN, &record, QuorumRule::Byzantine);
        self.sets.insert(number, set);
        self.planned = Some(number);
    }

    /// A block carries the planned record.
    pub(super) fn carry(&mut self) {
        self.in_force = self.planned.take().expect("one is in flight");
    }

    /// The store is an older copy, and a new process runs on it.
    pub(super) fn restore(&mut self, copy: Memory, id: u8) {
        self.memory = copy;
        self.restart(id);
    }

    fn epochs(&self) -> Epochs<'_> {
        Epochs {
            chain: CHAIN,
            sets: &self.sets,
            bases: &self.bases,
            in_force: self.in_force,
            planned: self.planned,
            signed: self.signed,
            authority: public(200),
        }
    }

    pub(super) fn seen(&self) -> Seen<'_> {
        let governing = &self.sets[&self.in_force];
        let nodes = self.nodes.iter().map(|(seed, node)| {
            let is_member = governing.contains(&public(*seed));
            let facts = Facts {
                member: member(*seed),
                stream: if node.up { node.stream } else { 0 },
                heard: node.up,
                live: node.up,
                candidate: node.up && !is_member,
                level: node.up && !is_member,
                height: Height(9),
            };
            (public(*seed), facts)
        });
        Seen {
            epochs: self.epochs(),
            nodes: nodes.collect(),
            trust: self.trust,
            obstacle: None,
        }
    }

    fn meet_all(&mut self) {
        let seeds: Vec<u8> = self.nodes.keys().copied().collect();
        for seed in seeds {
            self.meet(seed);
        }
    }

    fn meet(&mut self, seed: u8) {
        let order = self.registry.introduction();
        self.obey(seed, &order);
    }

    /// Changes whether a node can be reached.
    pub(super) fn turn(&mut self, seed: u8, up: bool) {
        self.streams += 1;
        let stream = self.streams;
        if let Some(node) = self.nodes.get_mut(&seed)
            && node.up != up
        {
            node.up = up;
            node.stream = stream;
            self.meet(seed);
        }
    }

    fn statement(&self, seed: u8, ballot: Ballot, sealed: Epoch) -> Statement {
        Statement {
            author: public(seed),
            volume: VolumeId([seed; 16]),
            sealed: self.nodes[&seed].sealed.map_or(sealed, |s| s.max(sealed)),
            ballot,
            head: Height(0),
            head_hash: HEAD,
            certificate: None,
            // Whoever comes back is told of the newest record before anything else.
            governing: self.in_force,
            lock: self.nodes[&seed].lock.clone(),
            last_vote: None,
            seen: Vec::new(),
        }
    }

    /// What a node does about an order, durably, and what it answers.
    fn obey(&mut self, seed: u8, order: &Order) {
        if !self.nodes[&seed].up {
            return;
        }
        let mut answer = RecoveryAnswer::default();
        let mut refusal = None;
        let ballot = match order {
            Order::Survey { ballot, .. }
            | Order::Seal { ballot, .. }
            | Order::Stage { ballot, .. } => Some(*ballot),
            _ => None,
        };
        let node = self.nodes.get_mut(&seed).expect("it is there");
        if let Order::Meet { starts, take_over } = order {
            if node
                .met
                .is_none_or(|met| *take_over || starts.contains(&met))
            {
                node.met = starts.last().copied();
            } else {
                refusal = Some("another registry".to_owned());
            }
        }
        let fenced = node.met != self.registry.memory().starts.last().copied()
            || (ballot.is_some() && ballot < node.promised);
        if fenced {
            refusal = Some("fenced".to_owned());
        } else {
            node.promised = node.promised.max(ballot);
            match order {
                Order::Survey { ballot, epoch } => {
                    let statement = self.statement(seed, *ballot, *epoch);
                    let veto = None;
                    answer.survey = Some(Box::new(Survey { statement, veto }));
                }
                Order::Seal { ballot, epoch, .. } => {
                    let alive = self.unsealed();
                    assert!(
                        alive < self.set().quorum() || self.nodes[&seed].sealed.is_some(),
                        "sealed while {alive} unsealed members live"
                    );
                    let statement = self.statement(seed, *ballot, *epoch);
                    answer.statement = Some(Box::new(statement.sign(&CHAIN, &key(seed))));
                    let node = self.nodes.get_mut(&seed).expect("it is there");
                    node.sealed = node.sealed.max(Some(*epoch));
                }
                Order::Stage { ballot, draft, .. } => {
                    if let Err(error) = check_draft(&CHAIN, draft, &self.sets) {
                        panic!("a draft that does not hold: {error}");
                    }
                    let hash = draft.hash(&CHAIN);
                    answer.acknowledgement =
                        Some(Acknowledgement::new(&CHAIN, *ballot, &hash, &key(seed)));
                    let node = self.nodes.get_mut(&seed).expect("it is there");
                    node.staged = Some(StagedDraft {
                        ballot: *ballot,
                        draft: draft.clone(),
                    });
                }
                _ => {}
            }
        }
        let node = &self.nodes[&seed];
        answer.met = node.met;
        answer.promised = node.promised;
        answer.sealed = node.sealed;
        answer.staged = node.staged.clone();
        let epochs = Epochs {
            chain: CHAIN,
            sets: &self.sets,
            bases: &self.bases,
            in_force: self.in_force,
            planned: self.planned,
            signed: self.signed,
            authority: public(200),
        };
        let faults = self
            .registry
            .take(&epochs, public(seed), answer, refusal, self.now);
        assert!(faults.is_empty(), "{faults:?}");
    }

    /// Members in force that can be reached and have not sealed it.
    pub(super) fn unsealed(&self) -> usize {
        let members = self.nodes.iter().filter(|(seed, _)| {
            let set = &self.sets[&self.in_force];
            set.contains(&public(**seed))
        });
        members
            .filter(|(_, node)| node.up && node.sealed < Some(self.in_force))
            .count()
    }

    fn write(&mut self, change: &Change) {
        match change {
            Change::Ledger(ledger) => self.memory.ledger = ledger.clone(),
            Change::Statement(signed) => {
                let author = signed.statement.author;
                self.memory.statements.insert(author, (**signed).clone());
            }
            Change::Record {
                ballot,
                draft,
                acknowledgements,
            } => {
                assert_eq!(self.memory.ledger.newest(), Some(*ballot));
                assert_eq!(draft.kind == RecordKind::Forced, self.is_forced());
                let draft = (**draft).clone();
                let signed = sign_record(&CHAIN, &key(200), draft, acknowledgements.clone());
                check_acknowledgements(&CHAIN, &signed, &self.set()).expect("enough staged it");
                let number = signed.record.number;
                assert!(!self.records.contains_key(&number), "{number} twice");
                let base = signed.record.handover.as_ref().map(|h| h.base);
                self.bases
                    .extend(base.map(|base| (signed.record.base_height, base)));
                self.sets.insert(
                    number,
                    ValidatorSet::new(&CHAIN, &signed.record, QuorumRule::Byzantine),
                );
                self.records.insert(number, signed);
                self.signed = Some(number);
                self.memory.ledger = self.memory.ledger.closed();
            }
            Change::Propose { members } => {
                let seed_of = |m: &Member| (1..=2 * self.n).find(|s| public(*s) == m.public_key);
                let seeds: Vec<u8> = members.iter().filter_map(seed_of).collect();
                self.plan(&seeds);
                // A quorum lives: it finalises the record.
                self.carry();
            }
            Change::Adopt(_) => unreachable!("nobody else signs in this world"),
        }
    }

    fn is_forced(&self) -> bool {
        let intent = self.memory.ledger.intent;
        intent.is_some_and(|intent| intent.forced)
    }

    /// The registry looks once, and every node does what it is told.
    pub(super) fn tick(&mut self) {
        self.now += TICK;
        for _ in 0..100 {
            let mut registry = self.registry.clone();
            let step = registry.step(&self.seen(), self.now);
            self.registry = registry;
            match step {
                Step::Rest => break,
                Step::Send(orders) => {
                    for (to, order) in orders {
                        let seed = (1..=2 * self.n).find(|seed| public(*seed) == to);
                        self.obey(seed.expect("orders go to nodes"), &order);
                    }
                    break;
                }
                Step::Write { change, .. } => {
                    self.writes += 1;
                    let crash = self.crash.filter(|(at, _)| *at == self.writes);
                    if crash.is_some_and(|(_, before)| before) {
                        return self.fall();
                    }
                    self.write(&change);
                    if crash.is_some() {
                        return self.fall();
                    }
                    self.registry.apply(&change);
                }
            }
        }
        self.hand_out();
    }

    fn fall(&mut self) {
        self.crashes += 1;
        let id = 50 + u8::try_from(self.crashes % 100).expect("below 100");
        self.restart(id);
    }

    /// The record reaches whoever can be reached; it is in force once more than may lie hold it.
    fn hand_out(&mut self) {
        let Some(number) = self.signed else { return };
        let signed = self.records[&number].clone();
        let mut holders = 0;
        for (seed, node) in &mut self.nodes {
            if node.up && self.sets[&number].contains(&public(*seed)) {
                node.record = Some(signed.clone());
                holders += 1;
            }
        }
        if holders > QuorumRule::Byzantine.byzantine_faults(self.n.into()) {
            self.in_force = number;
            self.signed = None;
        }
    }

    /// An operator's word.
    pub(super) fn recover(&mut self, request: &RecoverRequest) -> Result<(), Refused> {
        let fresh = StartId([99; 16]);
        let granted = self.registry.grant(&self.seen(), request, fresh)?;
        self.memory.ledger = granted.ledger.clone();
        if !granted.starts.is_empty() {
            self.memory.starts.extend(&granted.starts);
            self.memory.starts.sort_unstable();
            self.registry.take_over_as(self.memory.starts.clone());
        }
        self.registry.apply(&Change::Ledger(granted.ledger));
        self.meet_all();
        Ok(())
    }

    /// Locks a node above the head on a block for which all validators prevoted in this round.
    pub(super) fn lock(&mut self, seed: u8, round: u32, block: Hash) {
        let vote = |voter: u8| {
            let vote = Vote {
                epoch: Epoch(0),
                height: Height(1),
                round: Round(round),
                kind: VoteKind::Prevote,
                block: Some(block),
                validator: public(voter),
            };
            (public(voter), key(voter).sign(&vote.sign_bytes(&CHAIN)))
        };
        let proof = PolkaCertificate {
            epoch: Epoch(0),
            height: Height(1),
            round: Round(round),
            block,
            signatures: (1..=self.n).map(vote).collect(),
        };
        let node = self.nodes.get_mut(&seed).expect("it is there");
        node.lock = Some(StatedLock {
            proof,
            carries: None,
        });
    }

    /// The records that are signed and in nobody's hands are lost with the store.
    pub(super) fn forget_records(&mut self) {
        for number in std::mem::take(&mut self.records).into_keys() {
            self.sets.remove(&number);
        }
        self.signed = None;
    }

    /// A node has answered another registry, which this one does not see.
    pub(super) fn promise(&mut self, seed: u8, start: RegistryStart) {
        let node = self.nodes.get_mut(&seed).expect("it is there");
        node.promised = Some(Ballot { start, attempt: 1 });
    }

    /// A process of its own on a copy of the store, or the one of before: all nodes that can be reached
    /// meet it.
    pub(super) fn swap(&mut self, memory: &Memory) {
        self.memory = memory.clone();
        self.registry = Recovery::new(memory.clone());
        self.meet_all();
    }

    /// Looks until `done`, at most for so many ticks.
    pub(super) fn until(&mut self, ticks: usize, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..ticks {
            if done(self) {
                return true;
            }
            self.tick();
        }
        done(self)
    }
}
