//! The world of a run: virtual time, one queue of events, and the nodes.

mod attendance;
mod chaos;
mod effects;
pub(crate) mod executors;
mod lives;
mod loss;
mod orders;
mod phases;
mod records;
mod registries;
mod sync;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use axolotl_common::{
    CommitCertificate, EpochRecord, Hash, Height, QuorumRule, SignedRecord,
    recovery::{RegistryStart, SealNote},
    registry_api::{Order, RecoveryAnswer},
};
use axolotl_consensus::{Admission, Input, Message, SignedVote, TimerId};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    byzantine::ActorKind,
    faults::{Fault, Plan},
    invariants::{Invariants, Violation},
    ledger::{Block, Chain, MAX_BLOCK_BYTES, Stored},
    losses::{Loss, Trap},
    net::{Micros, Network},
    node::Node,
    registry::{Process, Store},
    staging::Judged,
    task::Reply,
};

/// After the faults are lifted, this much time for the progress that must be made.
const GRACE: Micros = 90_000_000;
/// Blocks that every node must add after the faults are lifted.
const PROGRESS: u64 = 3;

/// Pause between two questions of the status exchange.
const STATUS_EVERY: Micros = 2_000_000;
/// Longest trace, bytes; beyond it a run goes round in circles.
const MAX_TRACE: usize = 16 << 20;

/// Most events that may wait.
const MAX_EVENTS: usize = 100_000;

#[derive(Clone, Debug)]
enum Event {
    /// Bytes reach a node.
    Deliver {
        from: usize,
        to: usize,
        bytes: Arc<[u8]>,
        duplicate: bool,
    },
    Timer {
        node: usize,
        boot: u64,
        id: TimerId,
        number: u64,
    },
    /// A node has built or checked a block.
    Executed {
        node: usize,
        boot: u64,
        number: u64,
    },
    /// The block log was synced.
    Written {
        node: usize,
        boot: u64,
        certificate: CommitCertificate,
        bytes: Bytes,
    },
    Transaction(u64),
    Gossip {
        to: usize,
        transaction: u64,
    },
    Record {
        to: usize,
        record: EpochRecord,
    },
    SyncAsked {
        from: usize,
        to: usize,
        above: Height,
    },
    SyncAnswered {
        node: usize,
        boot: u64,
        blocks: Vec<Stored>,
    },
    SyncGivenUp {
        node: usize,
        boot: u64,
    },
    /// The status exchange of the node's engine: asks one peer for its height now and then. Without
    /// it nobody would ever tell a learner that is to be a validator that it lags.
    Status {
        node: usize,
        boot: u64,
    },
    VotesAsked {
        from: usize,
        to: usize,
    },
    VotesAnswered {
        from: usize,
        to: usize,
        vote: Option<SignedVote>,
        seal: Option<SealNote>,
    },
    /// A registry looks at the world.
    Look(Reply),
    /// An order arrives.
    Order {
        from: Reply,
        node: usize,
        boot: u64,
        order: Order,
    },
    /// What became of it.
    Answer {
        to: Reply,
        node: usize,
        answer: Box<RecoveryAnswer>,
        refusal: Option<String>,
    },
    /// A record that followed a seal is passed on.
    Recovered {
        to: usize,
        record: Box<SignedRecord>,
    },
    BlockWanted {
        from: usize,
        to: usize,
        block: Hash,
    },
    BlockGiven {
        to: usize,
        block: Hash,
        bytes: Bytes,
    },
    /// A node has waited for a block for too long.
    TaskLate {
        node: usize,
        boot: u64,
        number: u64,
    },
    /// An operator looks.
    Operator,
    Fault(Fault),
    Heal,
}

/// A broken rule that the simulator must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Every node prevotes as if it had no lock.
    LockIgnored,
    /// A flush of the log does nothing.
    LogNotFlushed,
    /// One vote less makes a quorum.
    QuorumMinusOne,
    /// This node takes a new set one height after the block with the record.
    SetTakenLate(usize),
    /// A seal is told, and not in the log.
    SealNotDurable,
    /// A node seals whatever it sees of its chain.
    VetoIgnored,
    /// Locks of later rounds than the first are kept from the registry.
    LowestRoundAdopted,
    /// Nodes obey any registry and any ballot, whatever they promised before.
    FenceIgnored,
    /// A node keeps what it built and what it found valid across a change of epoch at one height.
    VerdictKeptAcrossEpochs,
    /// A block that a quorum stands behind is executed for a limited time only.
    BudgetOnPolka,
    /// Timeouts never exceed the cap of the genesis, however long an execution takes.
    TimeoutCapped,
    /// Every signed block of a round is executed, not the first one only.
    EverySignedBlockExecuted,
    /// An execution has no limit, and is not cancelled when its round is over.
    ChecksWithoutEnd,
}

/// What is run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    /// Validators.
    pub(crate) n: usize,
    /// Further nodes that follow and can be put in for a validator.
    pub(crate) learners: usize,
    pub(crate) plan: Plan,
    pub(crate) mutant: Option<Mutant>,
    /// Invariants that the mutant breaks by construction and that are not what it is hunted by.
    pub(crate) not_checked: &'static [&'static str],
    pub(crate) term: u64,
    /// Quorums are lost, and registries recover them.
    pub(crate) loss: Option<Loss>,
    /// Nodes that do not come back when the faults are lifted, and need not add blocks.
    pub(crate) gone: Vec<usize>,
    /// Whether a trace is kept.
    pub(crate) traced: bool,
}

/// What a run leaves.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) trace: String,
    pub(crate) height: Height,
    /// Blocks decided in a later round than the first.
    pub(crate) late_rounds: usize,
    pub(crate) misbehaviours: usize,
    pub(crate) unfit: BTreeSet<usize>,
    /// Number of the last epoch.
    pub(crate) epochs: u64,
    /// From the end of the faults to the next block, microseconds.
    pub(crate) recovered_in: Option<Micros>,
    /// What happened in recoveries.
    pub(crate) tally: Tally,
    /// For how long each node at most missed the votes of each other while faults went on.
    pub(crate) missing: BTreeMap<(usize, usize), Duration>,
    /// Who was found at fault, by honest nodes: see [`Shown`].
    pub(crate) shown: Shown,
}

/// Validators with what others found of them ("equivocates", or the code of a fault of a proposal), and
/// the honest nodes that found it.
pub(crate) type Shown = BTreeMap<usize, BTreeMap<&'static str, BTreeSet<usize>>>;

/// How often each thing worth a look happened.
pub(crate) type Tally = BTreeMap<String, usize>;

/// How far a run in which a quorum is lost has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Anything may go wrong.
    Faults,
    /// Nothing does any more; who is lost stays away.
    Survivors,
    /// All are back.
    Whole,
}

pub(crate) struct World {
    setup: Setup,
    rng: ChaCha8Rng,
    now: Micros,
    number: u64,
    events: BTreeMap<(Micros, u64), Event>,
    net: Network,
    pub(crate) nodes: Vec<Node>,
    invariants: Invariants,
    submitted: BTreeSet<u64>,
    /// The newest record that the registry has signed.
    record: Option<EpochRecord>,
    /// Registries by their slots, and what is left of each when it dies.
    registries: Vec<Option<Process>>,
    stores: Vec<Store>,
    lives: u64,
    /// Nodes that ever met each start.
    met: BTreeMap<RegistryStart, BTreeSet<usize>>,
    /// Who is gone until the end.
    lost: BTreeSet<usize>,
    /// Since when a node or the network was left in peace.
    steady: BTreeMap<usize, Micros>,
    net_changed: Micros,
    /// The registry takes for dead whom it does not hear.
    deluded: bool,
    writes: usize,
    traps: Vec<Trap>,
    judged: Judged,
    tally: Tally,
    phase: Phase,
    healed_at: Micros,
    healed: bool,
    goal: Option<Height>,
    trace: String,
    /// Blocks that were ever proposed.
    proposed: BTreeMap<Hash, Block>,
    late: BTreeSet<Height>,
    /// When the first block was stored after the faults were lifted.
    first_block: Option<Micros>,
    misbehaviours: usize,
    unfit: BTreeSet<usize>,
    missing: BTreeMap<(usize, usize), Duration>,
    shown: Shown,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        let nodes = setup.n + setup.learners;
        // With n = 7 the majority rule asks for one vote less than the byzantine one: 4, not 5.
        let rule = match setup.mutant {
            Some(Mutant::QuorumMinusOne) => QuorumRule::Majority,
            _ => QuorumRule::Byzantine,
        };
        let nodes = (0..nodes)
            .map(|number| {
                let kind = setup.plan.actors.get(&number).copied();
                let chain = Chain::new(setup.n, rule);
                let mut node = Node::new(number, chain, kind, setup.plan.drift[number]);
                node.disk.ignores_flush = setup.mutant == Some(Mutant::LogNotFlushed);
                node.disk.chain.takes_sets_late =
                    setup.mutant == Some(Mutant::SetTakenLate(number));
                if setup.mutant == Some(Mutant::LockIgnored) {
                    // It behaves like that liar, and is held to be honest.
                    node.actor
                        .get_or_insert_with(|| ActorKind::LyingAboutLock.actor());
                }
                node
            })
            .collect();
        let mut world = Self {
            rng: ChaCha8Rng::seed_from_u64(setup.seed),
            now: 0,
            number: 0,
            events: BTreeMap::new(),
            net: Network::healthy(),
            nodes,
            invariants: Invariants::without(setup.not_checked, setup.loss.is_some()),
            submitted: BTreeSet::new(),
            record: None,
            registries: vec![None, None],
            stores: vec![Store::new(setup.n), Store::new(setup.n)],
            lives: 0,
            met: BTreeMap::new(),
            lost: BTreeSet::new(),
            steady: BTreeMap::new(),
            net_changed: 0,
            deluded: false,
            writes: 0,
            traps: setup
                .loss
                .iter()
                .flat_map(|loss| loss.traps.clone())
                .collect(),
            judged: Judged::default(),
            tally: Tally::new(),
            phase: Phase::Faults,
            healed_at: 0,
            healed: false,
            goal: None,
            trace: String::new(),
            proposed: BTreeMap::new(),
            late: BTreeSet::new(),
            first_block: None,
            misbehaviours: 0,
            unfit: BTreeSet::new(),
            missing: BTreeMap::new(),
            shown: Shown::new(),
            setup,
        };
        for (at, fault) in world.setup.plan.events.clone() {
            world.at(at, Event::Fault(fault));
        }
        world.at(world.setup.plan.heal_at, Event::Heal);
        world.at(50_000, Event::Transaction(1));
        world
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first broken invariant.
    pub(crate) fn run(mut self) -> Result<Outcome, (Violation, String)> {
        match self.run_to_end() {
            Ok(()) => Ok(Outcome {
                height: self.nodes[0].disk.chain.height(),
                trace: self.trace,
                late_rounds: self.late.len(),
                misbehaviours: self.misbehaviours,
                epochs: self.nodes[0].disk.chain.set.epoch().0,
                unfit: self.unfit,
                recovered_in: self.first_block.map(|at| at.saturating_sub(self.healed_at)),
                tally: self.tally,
                missing: self.missing,
                shown: self.shown,
            }),
            Err(violation) => Err((violation, self.trace)),
        }
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.number += 1;
        self.events.insert((at, self.number), event);
    }

    fn after(&mut self, delay: Micros, event: Event) {
        self.at(self.now + delay, event);
    }

    fn log(&mut self, line: std::fmt::Arguments<'_>) {
        if !self.setup.traced {
            return;
        }
        let _ = writeln!(self.trace, "{:>9} {line}", self.now);
    }

    /// The node's own clock.
    fn clock(&self, node: usize) -> Duration {
        Duration::from_micros(self.now).mul_f64(self.nodes[node].drift)
    }

    fn is_up(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].boot == boot && self.nodes[node].running.is_some()
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Deliver {
                from,
                to,
                bytes,
                duplicate,
            } => self.deliver(from, to, &bytes, duplicate),
            Event::Timer {
                node,
                boot,
                id,
                number,
            } => {
                let running = self.nodes[node].running.as_mut();
                let current = running.and_then(|running| running.timers.get(&id).copied());
                if !self.is_up(node, boot) || current != Some(number) {
                    return Ok(());
                }
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.timers.remove(&id);
                }
                self.log(format_args!(
                    "{node} timer {:?} {}/{}",
                    id.kind, id.height, id.round
                ));
                self.step(node, Input::Timer(id))
            }
            Event::Executed { node, boot, number } if self.is_up(node, boot) => {
                self.executed(node, number)
            }
            Event::Written {
                node,
                boot,
                certificate,
                bytes,
            } if self.is_up(node, boot) => {
                let now = self.now;
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.storing = false;
                    running.decided = Some(now);
                }
                self.store(node, bytes, certificate.into())?;
                self.begin(node)
            }
            Event::Transaction(transaction) => self.submit(transaction),
            Event::Gossip { to, transaction } => {
                self.pool(to, transaction);
                self.tell_work(to)
            }
            Event::Record { to, record } => self.hear_record(to, &record),
            Event::SyncAsked { from, to, above } => {
                self.answer_sync(from, to, above);
                Ok(())
            }
            Event::SyncAnswered { node, boot, blocks } if self.is_up(node, boot) => {
                self.synced(node, blocks)
            }
            Event::SyncGivenUp { node, boot } if self.is_up(node, boot) => {
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.syncing = false;
                }
                Ok(())
            }
            Event::Status { node, boot } if self.is_up(node, boot) => {
                self.after(STATUS_EVERY, Event::Status { node, boot });
                self.gossip_record(node);
                self.greet_with_recovery(node);
                let peer = self.rng.random_range(0..self.nodes.len());
                let height = self.nodes[peer].disk.chain.height();
                let reached = self.nodes[peer].running.is_some()
                    && !self.net.is_cut(node, peer)
                    && !self.net.is_cut(peer, node);
                if reached && height > self.nodes[node].disk.chain.height() {
                    self.sync(node, height.next());
                }
                Ok(())
            }
            Event::VotesAsked { from, to } => {
                let asker = self.nodes[from].key.public();
                if let Some(running) = &self.nodes[to].running {
                    let vote = running.driver.highest_vote_of(&asker).copied();
                    let seal = self.seal_held(to, &asker);
                    self.send_own(to, from, |from, to| Event::VotesAnswered {
                        from,
                        to,
                        vote,
                        seal,
                    });
                }
                Ok(())
            }
            Event::VotesAnswered {
                from,
                to,
                vote,
                seal,
            } => {
                let from = self.nodes[from].key.public();
                if let Some(seal) = seal {
                    self.step(to, Input::SealSeen(seal))?;
                }
                self.step(to, Input::HighestVoteSeen { from, vote })
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Heal => self.heal(),
            Event::Executed { .. }
            | Event::Written { .. }
            | Event::SyncAnswered { .. }
            | Event::SyncGivenUp { .. }
            | Event::Status { .. } => Ok(()),
            of_a_recovery => self.handle_recovery(of_a_recovery),
        }
    }

    fn deliver(
        &mut self,
        from: usize,
        to: usize,
        bytes: &Arc<[u8]>,
        duplicate: bool,
    ) -> Result<(), Violation> {
        let Some(running) = self.nodes[to].running.as_mut() else {
            return Ok(());
        };
        let first = running.seen.insert(Hash::sha256(bytes));
        if !first && !duplicate {
            return Ok(());
        }
        let Ok(message) = Message::decode(bytes, MAX_BLOCK_BYTES) else {
            self.log(format_args!("{to} garbage from {from}"));
            return Ok(());
        };
        let judgement = running.driver.judge(&message);
        self.log(format_args!(
            "{to} gets {} {}/{}/{} from {from}: {judgement:?}",
            message.kind(),
            message.epoch(),
            message.height(),
            message.round()
        ));
        if first && self.net.relays && judgement == Admission::Accept {
            let others: Vec<_> = (0..self.nodes.len())
                .filter(|o| *o != to && *o != from)
                .collect();
            for other in others {
                self.send_bytes(to, other, (message.kind(), message.round()), bytes);
            }
        }
        if let Admission::Reject(why) = judgement
            && self.nodes[to].is_honest()
        {
            *self.tally.entry(format!("rejected: {why}")).or_default() += 1;
        }
        self.execute_every(to, &message, judgement)?;
        if let Some(actor) = self.nodes[to].actor.as_mut() {
            actor.hears(&message);
        }
        self.step(to, Input::Message(message))
    }
}
