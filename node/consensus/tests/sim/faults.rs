//! What goes wrong in a run, drawn from its seed.

use std::collections::BTreeMap;

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{byzantine::ActorKind, losses::LossFault, net::Micros};

/// One thing that happens at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Power is lost now.
    Crash(usize),
    /// Power is lost after this many more effects were performed: between a record and its flush,
    /// between a flush and its messages, between a commit and its block.
    CrashAfter(usize, u32),
    /// Power is lost everywhere.
    CrashAll,
    /// A copy of the volume is put aside.
    Snapshot(usize),
    /// Power is lost, and the copy of the volume takes the place of the volume.
    RollBack(usize),
    /// Starts again what is down.
    Restart(usize),
    /// Two groups that do not hear each other.
    CutHalf,
    /// Each node hears its two neighbours.
    CutRing,
    /// One node alone.
    CutOne(usize),
    /// One node hears but is not heard.
    CutOneWay(usize),
    /// A scheduler with a plan: one node may decide alone, because nothing but its prevotes gets out,
    /// and others lock nothing, because no proposals get in.
    Starve {
        decides: usize,
        unlocked: Vec<usize>,
    },
    /// Loss, duplication, corruption in percent.
    Noise(u8, u8, u8),
    /// Longest delay of a message.
    Slow(Micros),
    /// One node is so far away that its votes come after the quorum.
    Far(usize, Micros),
    /// Of one node everything but its votes arrives.
    Voiceless(usize),
    /// The network is well again; nodes stay as they are.
    HealNetwork,
    /// Two groups that do not hear each other, one of them given.
    CutGroups(Vec<usize>),
    /// The registry signs a record for the next validator set.
    NewEpoch(Change),
    /// What happens where quorums are lost.
    Loss(LossFault),
}

/// What a record changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A learner in the place of a validator; without a learner the list turns.
    Swap,
    /// A learner more.
    Grow,
    /// A validator less.
    Shrink,
    /// The leader goes.
    LeaderOut,
    /// A swap that is void a few blocks later.
    Expires,
}

impl Change {
    pub(crate) const ALL: [Self; 5] = [
        Self::Swap,
        Self::Grow,
        Self::Shrink,
        Self::LeaderOut,
        Self::Expires,
    ];
}

/// All faults of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) events: Vec<(Micros, Fault)>,
    /// From here on nothing goes wrong any more.
    pub(crate) heal_at: Micros,
    pub(crate) actors: BTreeMap<usize, ActorKind>,
    /// Speed of each node's clock.
    pub(crate) drift: Vec<f64>,
    /// Pause between two transactions.
    pub(crate) transaction_every: Micros,
    /// Longest time to build or check a block, for all nodes alike.
    pub(crate) execution: Micros,
    /// What a node needs of each cost below, as a multiple; 1 where none is given.
    pub(crate) speeds: Vec<Micros>,
    /// What an empty block costs the fastest node, and each of its transactions.
    pub(crate) block_cost: Micros,
    pub(crate) transaction_cost: Micros,
}

const SECOND: Micros = 1_000_000;

impl Plan {
    /// Nothing goes wrong but what is added.
    pub(crate) fn quiet(nodes: usize) -> Self {
        Self {
            events: Vec::new(),
            heal_at: 2 * SECOND,
            actors: BTreeMap::new(),
            drift: vec![1.0; nodes],
            transaction_every: 150_000,
            execution: 5_000,
            speeds: Vec::new(),
            block_cost: 0,
            transaction_cost: 0,
        }
    }

    /// Anything may go wrong. `byzantine` nodes of the `n` validators lie.
    pub(crate) fn random(rng: &mut ChaCha8Rng, n: usize, nodes: usize, byzantine: usize) -> Self {
        let heal_at = rng.random_range(3..7) * SECOND;
        let mut events = Vec::new();
        let noisy = rng.random_bool(0.6);
        if noisy {
            let (loss, twice, corrupt) = (
                rng.random_range(0..20),
                rng.random_range(0..20),
                rng.random_range(0..3),
            );
            events.push((0, Fault::Noise(loss, twice, corrupt)));
        }
        if rng.random_bool(0.2) {
            events.push((0, Fault::Slow(rng.random_range(20_000..900_000))));
        }
        for _ in 0..rng.random_range(2..9) {
            let at = rng.random_range(0..heal_at);
            let node = rng.random_range(0..nodes);
            let down = rng.random_range(20_000..2 * SECOND);
            let fault = match rng.random_range(0..12) {
                0 => Fault::Crash(node),
                1..=4 => Fault::CrashAfter(node, rng.random_range(0..25)),
                5 => Fault::CrashAll,
                6 => Fault::CutHalf,
                7 => Fault::CutRing,
                8 => Fault::CutOne(node),
                9 => Fault::CutOneWay(node),
                10 => Fault::Starve {
                    decides: node,
                    unlocked: (0..nodes).filter(|_| rng.random_bool(0.2)).collect(),
                },
                _ => Fault::HealNetwork,
            };
            match &fault {
                Fault::Crash(node) | Fault::CrashAfter(node, _) => {
                    events.push((at + down, Fault::Restart(*node)));
                }
                Fault::CrashAll => {
                    for node in 0..nodes {
                        let down = rng.random_range(1_000..2 * SECOND);
                        events.push((at + down, Fault::Restart(node)));
                    }
                }
                Fault::CutHalf
                | Fault::CutRing
                | Fault::CutOne(_)
                | Fault::CutOneWay(_)
                | Fault::Starve { .. } => {
                    events.push((at + down, Fault::HealNetwork));
                }
                _ => {}
            }
            events.push((at, fault));
        }
        if rng.random_bool(0.6) {
            for _ in 0..rng.random_range(1..5) {
                let change = *Change::ALL.choose(rng).unwrap();
                events.push((rng.random_range(0..heal_at), Fault::NewEpoch(change)));
            }
        }
        events.retain(|(at, _)| *at < heal_at);
        events.sort_by_key(|(at, _)| *at);
        let liars: Vec<usize> = (0..n).collect();
        let actors = liars
            .choose_multiple(rng, byzantine)
            .map(|node| (*node, ActorKind::random(rng)))
            .collect();
        Self {
            events,
            heal_at,
            actors,
            drift: (0..nodes).map(|_| rng.random_range(0.85..1.15)).collect(),
            transaction_every: rng.random_range(40_000..400_000),
            execution: *[3_000, 3_000, 30_000, 100_000, 900_000]
                .choose(rng)
                .unwrap(),
            speeds: Vec::new(),
            block_cost: 0,
            transaction_cost: 0,
        }
    }
}
