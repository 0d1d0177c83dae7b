//! What goes wrong where quorums are lost, drawn from a seed.

use std::collections::BTreeSet;

use axolotl_common::QuorumRule;
use axolotl_registry::cluster::recovery::Trust;
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    faults::{Fault, Plan},
    net::{Micros, Script},
    world::Setup,
};

const SECOND: Micros = 1_000_000;

/// Faults of recoveries.
#[derive(Clone, Debug)]
pub(crate) enum LossFault {
    /// These are gone, until the very end.
    Lose(Vec<usize>),
    /// One that was gone comes back with its volume and its old votes.
    Return(usize),
    /// Power is lost, and the volume; the key is kept.
    Wipe(usize),
    /// See [`Script`].
    Script(Script),
    /// A registry's process dies.
    KillRegistry(usize),
    /// A registry starts on a store.
    StartRegistry { slot: usize, store: usize },
    /// The first store is copied over another one.
    CopyStore(usize),
    /// A registry hears none of these nodes, nor they it.
    CutRegistry(usize, Vec<usize>),
    /// The registry takes everybody whom it does not hear for dead.
    Deluded,
    /// The registry signs a planned record with the same number of members.
    Planned,
    /// An operator lets a registry take over.
    TakeOver(usize),
    /// An operator accepts that data may be lost.
    AcceptLoss,
}

/// Something that happens at a write of a registry, counted over all of them.
#[derive(Clone, Debug)]
pub(crate) struct Trap {
    pub(crate) write: usize,
    /// Just before the write is durable, or just after.
    pub(crate) before: bool,
    /// Each so long after.
    pub(crate) faults: Vec<(Micros, Fault)>,
}

/// What must come of it before those who are lost return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Blocks come again.
    Blocks,
    /// Nobody seals, no record is signed, and the registry says what is missing.
    Nothing,
    /// It depends; what is done must be safe.
    Either,
}

/// A run in which a quorum is lost, or in which a registry might think so.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) traps: Vec<Trap>,
    pub(crate) expect: Expect,
    pub(crate) trust: Trust,
    /// The operator accepted a loss: then blocks may be missing.
    pub(crate) forced: bool,
}

/// What the generator works with.
struct Draw {
    rng: ChaCha8Rng,
    n: usize,
    /// Those who stay.
    stay: Vec<usize>,
    gone: Vec<usize>,
    spares: usize,
    events: Vec<(Micros, Fault)>,
    traps: Vec<Trap>,
    expect: Expect,
    forced: bool,
    trust: Trust,
    lost_at: Micros,
    /// Which of the complications.
    complication: u32,
}

/// The complication in which a copy of the store takes the place of the store.
const RESTORED: u32 = 6;

/// Numbers of validators, the small ones more often: they cost less, and four is where most can happen.
const SIZES: [usize; 20] = [2, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 6, 7, 8, 9, 10];

/// Writes of a registry from the first intent to the record, with four validators: about as many are drawn
/// from.
const WRITES: usize = 8;

/// A run in which a quorum is lost.
pub(crate) fn random_loss(seed: u64) -> Setup {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x0105_5e5e);
    let (n, s) = sizes(seed, &mut rng);
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut rng);
    let gone = order.split_off(s);
    let lost_at = rng.random_range(2_000_000..4_000_000);
    let mut draw = Draw {
        n,
        spares: gone.len() + 1,
        stay: order,
        gone,
        events: Vec::new(),
        traps: Vec::new(),
        expect: Expect::Either,
        forced: false,
        trust: Trust::Crash,
        lost_at,
        complication: rng.random_range(0..13),
        rng,
    };
    draw.expect = draw.expected();
    draw.lose();
    draw.complicate();
    draw.into_setup(seed)
}

/// Validators and survivors: with one seed in eight all pairs in turn, else mostly enough to recover.
fn sizes(seed: u64, rng: &mut ChaCha8Rng) -> (usize, usize) {
    if seed.is_multiple_of(8) {
        let pairs: Vec<(usize, usize)> =
            (2..=10).flat_map(|n| (0..n).map(move |s| (n, s))).collect();
        let place = usize::try_from(seed / 8).unwrap() % pairs.len();
        return pairs[place];
    }
    let n = SIZES[rng.random_range(0..SIZES.len())];
    let quorum = QuorumRule::Byzantine.quorum(n);
    let s = match rng.random_range(0..6) {
        0 => quorum - 1,
        _ => rng.random_range(n - quorum + 1..quorum),
    };
    (n, s)
}

impl Draw {
    fn quorum(&self) -> usize {
        QuorumRule::Byzantine.quorum(self.n)
    }

    fn fewest(&self) -> usize {
        self.n - self.quorum() + 1
    }

    fn expected(&self) -> Expect {
        match self.stay.len() >= self.fewest() {
            true => Expect::Blocks,
            false => Expect::Nothing,
        }
    }

    fn is_safe(&self) -> bool {
        self.stay.len() >= self.fewest()
    }

    fn at(&mut self, at: Micros, fault: LossFault) {
        self.events.push((at, Fault::Loss(fault)));
    }

    fn soon(&mut self, low: Micros, high: Micros) -> Micros {
        self.lost_at + self.rng.random_range(low..high)
    }

    /// The loss itself, in half of the runs with a block that only the lost ones know to be decided.
    fn lose(&mut self) {
        if self.rng.random_bool(0.5) && !self.stay.is_empty() {
            let script = self.script();
            let from = self.lost_at - 1_500_000;
            self.at(from, LossFault::Script(script));
            // Long enough for two rounds.
            self.lost_at += 2 * SECOND;
        }
        // A store that is older than a planned epoch cannot go on: that is another story.
        if self.complication != RESTORED && self.rng.random_bool(0.25) {
            let at = self.lost_at - self.rng.random_range(0..3 * SECOND / 2);
            self.at(at, LossFault::Planned);
            self.expect = Expect::Either;
        }
        let gone = self.gone.clone();
        if self.rng.random_bool(0.2) {
            // Not all at once.
            for node in gone {
                let at = self.soon(0, 4 * SECOND);
                self.at(at, LossFault::Lose(vec![node]));
            }
        } else {
            self.at(self.lost_at, LossFault::Lose(gone));
        }
        // A partition heals with it: those who stay see each other.
        self.events.push((self.lost_at, Fault::HealNetwork));
    }

    /// Locks in two rounds where there are enough validators for it, else in one.
    fn script(&mut self) -> Script {
        let (n, quorum) = (self.n, self.quorum());
        let decides = self.gone[self.rng.random_range(0..self.gone.len())];
        let two_rounds = n >= 4 && self.rng.random_bool(0.6);
        let early = self.stay[self.rng.random_range(0..self.stay.len())];
        let early = two_rounds.then_some(early);
        let mut others: Vec<usize> = (0..n)
            .filter(|node| *node != decides && Some(*node) != early)
            .collect();
        others.shuffle(&mut self.rng);
        others.truncate((n - quorum).saturating_sub(usize::from(two_rounds)));
        Script {
            early,
            decides,
            unlocked: others.into_iter().collect(),
        }
    }

    /// What else happens.
    fn complicate(&mut self) {
        match self.complication {
            0 | 1 => self.registry_dies(),
            2 | 3 => self.second_loss(),
            4 => self.zombies(),
            5 => self.two_on_one_store(),
            RESTORED => self.restored(),
            7 => self.cloned(),
            8 | 12 => self.forgetful(),
            9 => self.trust_or_force(),
            10 => self.flicker(),
            _ => {}
        }
    }

    /// The registry dies at a write, and comes back on its store.
    fn registry_dies(&mut self) {
        let (write, before) = (self.rng.random_range(1..=WRITES), self.rng.random_bool(0.5));
        let back = self.rng.random_range(100_000..6 * SECOND);
        // A start that no quorum met goes on only with an intent in its store.
        if write == 1 && before && self.expect == Expect::Blocks {
            self.expect = Expect::Either;
        }
        let faults = vec![
            (0, Fault::Loss(LossFault::KillRegistry(0))),
            (
                back,
                Fault::Loss(LossFault::StartRegistry { slot: 0, store: 0 }),
            ),
        ];
        self.traps.push(Trap {
            write,
            before,
            faults,
        });
    }

    /// One more is lost at a write of the registry or at a deed of its own, and comes back.
    fn second_loss(&mut self) {
        let candidates = self.n + self.spares;
        let mut node = self.rng.random_range(0..candidates);
        if self.gone.contains(&node) {
            node = self.stay.first().copied().unwrap_or(node);
        }
        let deeds = self.rng.random_range(0..14);
        let back = self.rng.random_range(SECOND..12 * SECOND);
        let (write, before) = (self.rng.random_range(1..=WRITES), self.rng.random_bool(0.5));
        let faults = match self.rng.random_bool(0.5) {
            true => vec![(0, Fault::Crash(node)), (back, Fault::Restart(node))],
            false => vec![
                (0, Fault::CrashAfter(node, deeds)),
                (back, Fault::Restart(node)),
            ],
        };
        self.traps.push(Trap {
            write,
            before,
            faults,
        });
    }

    /// Some of the lost ones come back while it goes on, under the old epoch.
    fn zombies(&mut self) {
        let count = self.rng.random_range(1..=self.gone.len());
        let mut back = self.gone.clone();
        back.shuffle(&mut self.rng);
        let together = self.rng.random_bool(0.5);
        let write = self.rng.random_range(1..=WRITES);
        for node in back.into_iter().take(count) {
            let fault = Fault::Loss(LossFault::Return(node));
            if together {
                let faults = vec![(self.rng.random_range(0..SECOND), fault)];
                self.traps.push(Trap {
                    write,
                    before: false,
                    faults,
                });
            } else {
                let at = self.soon(3 * SECOND, 30 * SECOND);
                self.events.push((at, fault));
            }
        }
        if self.expect == Expect::Nothing {
            self.expect = Expect::Either;
        }
    }

    fn two_on_one_store(&mut self) {
        let write = self.rng.random_range(1..=WRITES);
        let second = Fault::Loss(LossFault::StartRegistry { slot: 1, store: 0 });
        self.traps.push(Trap {
            write,
            before: false,
            faults: vec![(self.rng.random_range(0..3 * SECOND), second)],
        });
        self.split_registries(1);
        self.expect = Expect::Either;
    }

    /// A copy of the store from before the newest start takes the place of the store.
    fn restored(&mut self) {
        self.at(300_000, LossFault::CopyStore(1));
        self.at(400_000, LossFault::KillRegistry(0));
        let again = LossFault::StartRegistry { slot: 0, store: 0 };
        self.at(500_000, again);
        let write = self.rng.random_range(1..=WRITES);
        let before = self.rng.random_bool(0.5);
        let mut faults = vec![
            (0, Fault::Loss(LossFault::KillRegistry(0))),
            (
                self.rng.random_range(0..4 * SECOND),
                Fault::Loss(LossFault::StartRegistry { slot: 1, store: 1 }),
            ),
        ];
        if self.rng.random_bool(0.5) {
            // Enough of the lost ones come back for an operator's take-over.
            let missing = self.quorum().saturating_sub(self.stay.len());
            for node in self.gone.iter().take(missing) {
                faults.push((4 * SECOND, Fault::Loss(LossFault::Return(*node))));
            }
            faults.push((14 * SECOND, Fault::Loss(LossFault::TakeOver(1))));
            // The lost store turns up again, and its registry speaks.
            if self.rng.random_bool(0.5) {
                let again = LossFault::StartRegistry { slot: 0, store: 0 };
                faults.push((
                    self.rng.random_range(5 * SECOND..25 * SECOND),
                    Fault::Loss(again),
                ));
            }
        }
        self.traps.push(Trap {
            write,
            before,
            faults,
        });
        self.expect = Expect::Either;
    }

    /// A copy of the store is started while the original lives, before anything was begun.
    fn cloned(&mut self) {
        let copied = self.rng.random_range(300_000..self.lost_at);
        self.at(copied, LossFault::CopyStore(1));
        let started = self.rng.random_range(copied + 1..self.lost_at + 8 * SECOND);
        self.at(started, LossFault::StartRegistry { slot: 1, store: 1 });
        self.split_registries(1);
        self.expect = Expect::Either;
    }

    /// Two registries each hear a part of the nodes.
    fn split_registries(&mut self, other: usize) {
        if self.rng.random_bool(0.3) {
            return;
        }
        let all = self.n + self.spares;
        let (left, right): (Vec<usize>, Vec<usize>) =
            (0..all).partition(|_| self.rng.random_bool(0.5));
        let at = self.soon(0, 9 * SECOND);
        self.at(at, LossFault::CutRegistry(0, left));
        self.at(at, LossFault::CutRegistry(other, right));
    }

    /// A survivor loses its volume, or gets an old one back, where the margin bears it; or a lost one does.
    fn forgetful(&mut self) {
        let spare = self.stay.len() > self.fewest();
        let group = match spare && self.rng.random_bool(0.7) {
            true => &self.stay,
            false => &self.gone,
        };
        let Some(node) = group.first().copied() else {
            return;
        };
        let is_gone = self.gone.contains(&node);
        let at = match is_gone {
            true => self.lost_at + 100_000,
            false => self.soon(0, 25 * SECOND),
        };
        if self.rng.random_bool(0.5) {
            self.at(at, LossFault::Wipe(node));
        } else {
            let copied = self.rng.random_range(500_000..at);
            self.events.push((copied, Fault::Snapshot(node)));
            self.events.push((at, Fault::RollBack(node)));
        }
        if !is_gone {
            self.events.push((at + 500_000, Fault::Restart(node)));
        }
        // Found out or not, it may be one survivor less.
        if self.expect == Expect::Blocks && !is_gone {
            self.expect = Expect::Either;
        }
    }

    fn trust_or_force(&mut self) {
        if self.is_safe() {
            self.trust = Trust::Byzantine;
            let liars = QuorumRule::Byzantine.byzantine_faults(self.n);
            if self.stay.len() < self.fewest() + liars {
                self.expect = Expect::Either;
            }
        } else if !self.stay.is_empty() {
            self.forced = true;
            self.expect = Expect::Blocks;
            let at = self.soon(18 * SECOND, 25 * SECOND);
            self.at(at, LossFault::AcceptLoss);
        }
    }

    /// Survivors come and go, and are cut off from one another.
    fn flicker(&mut self) {
        for _ in 0..self.rng.random_range(1..4) {
            let at = self.soon(0, 28 * SECOND);
            let node = self.rng.random_range(0..self.n + self.spares);
            if self.gone.contains(&node) {
                continue;
            }
            let for_ = self.rng.random_range(100_000..8 * SECOND);
            match self.rng.random_range(0..5) {
                3 => {
                    let all = 0..self.n + self.spares;
                    let left = all.filter(|_| self.rng.random_bool(0.5)).collect();
                    self.events.push((at, Fault::CutGroups(left)));
                    self.events.push((at + for_, Fault::HealNetwork));
                }
                0 => {
                    self.events.push((at, Fault::Crash(node)));
                    self.events.push((at + for_, Fault::Restart(node)));
                }
                1 => {
                    self.events.push((at, Fault::CutOne(node)));
                    self.events.push((at + for_, Fault::HealNetwork));
                }
                2 => {
                    let deeds = self.rng.random_range(0..20);
                    self.events.push((at, Fault::CrashAfter(node, deeds)));
                    self.events.push((at + for_ + SECOND, Fault::Restart(node)));
                }
                _ => self.at(at, LossFault::CutRegistry(0, vec![node])),
            }
        }
    }

    fn into_setup(self, seed: u64) -> Setup {
        let last = self.events.iter().map(|(at, _)| *at).max();
        let traps = match self.complication {
            RESTORED => 30 * SECOND,
            _ if self.traps.is_empty() => SECOND,
            _ => 22 * SECOND,
        };
        let heal_at = (self.lost_at + traps).max(last.unwrap_or(0) + SECOND);
        let loss = Loss {
            traps: self.traps,
            expect: self.expect,
            trust: self.trust,
            forced: self.forced,
        };
        setup(seed, (self.n, self.spares), heal_at, self.events, loss)
    }
}

fn setup(
    seed: u64,
    (n, spares): (usize, usize),
    heal_at: Micros,
    mut events: Vec<(Micros, Fault)>,
    loss: Loss,
) -> Setup {
    events.sort_by_key(|(at, _)| *at);
    Setup {
        seed,
        n,
        learners: spares,
        plan: Plan {
            events,
            heal_at,
            transaction_every: 4_000_000,
            ..Plan::quiet(n + spares)
        },
        mutant: None,
        not_checked: match loss.forced {
            true => &["agreement", "acknowledged"],
            false => &[],
        },
        term: 1_000,
        loss: Some(loss),
        gone: Vec::new(),
        traced: false,
    }
}

fn plain(traps: Vec<Trap>, expect: Expect) -> Loss {
    Loss {
        traps,
        expect,
        trust: Trust::Crash,
        forced: false,
    }
}

fn after(write: usize, faults: Vec<(Micros, Fault)>) -> Trap {
    Trap {
        write,
        before: false,
        faults,
    }
}

/// Two of four seal and lose power, and the registry dies; the two that were lost come back at once.
pub(crate) fn sealed_then_down(seed: u64) -> Setup {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut faults = vec![(0, Fault::Loss(LossFault::KillRegistry(0)))];
    for node in [0, 1] {
        faults.push((0, Fault::Crash(node)));
        let back = rng.random_range(200_000..SECOND);
        faults.push((back, Fault::Restart(node)));
    }
    for node in [2, 3] {
        let back = rng.random_range(100_000..2 * SECOND);
        faults.push((back, Fault::Loss(LossFault::Return(node))));
    }
    let events = vec![(2 * SECOND, Fault::Loss(LossFault::Lose(vec![2, 3])))];
    let loss = plain(vec![after(4, faults)], Expect::Either);
    setup(seed, (4, 2), 30 * SECOND, events, loss)
}

/// A copy of the store is started before two of four are lost; both registries hear all.
pub(crate) fn two_registries_hear_all(seed: u64) -> Setup {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let events = vec![
        (300_000, Fault::Loss(LossFault::CopyStore(1))),
        (
            rng.random_range(SECOND..2 * SECOND),
            Fault::Loss(LossFault::StartRegistry { slot: 1, store: 1 }),
        ),
        (3 * SECOND, Fault::Loss(LossFault::Lose(vec![2, 3]))),
    ];
    let loss = plain(Vec::new(), Expect::Either);
    setup(seed, (4, 2), 25 * SECOND, events, loss)
}

/// A chain that is well, and a registry that hears only some of its nodes or nobody.
pub(crate) fn cut_off_registry(seed: u64) -> Setup {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x00c0_70ff);
    let n = *[3, 4, 4, 5, 7].get(rng.random_range(0..5)).unwrap_or(&4);
    let hears: BTreeSet<usize> = (0..n).filter(|_| rng.random_bool(0.5)).collect();
    let unheard = (0..n).filter(|node| !hears.contains(node)).collect();
    let at = rng.random_range(SECOND..3 * SECOND);
    let mut events = vec![(at, Fault::Loss(LossFault::CutRegistry(0, unheard)))];
    if rng.random_bool(0.7) {
        events.push((0, Fault::Loss(LossFault::Deluded)));
    }
    let loss = plain(Vec::new(), Expect::Blocks);
    setup(seed, (n, 2), 25 * SECOND, events, loss)
}
