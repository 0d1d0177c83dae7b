//! The network: loss, duplication, delay and with it reordering, corruption, and partitions that are
//! sets of directed links that are cut.

use std::collections::BTreeSet;

use axolotl_common::Round;
use axolotl_consensus::MessageKind;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Microseconds of virtual time.
pub(crate) type Micros = u64;

/// A schedule that leaves locks of two rounds, and a block that one node alone knows to be decided.
///
/// In the first round `early` alone sees a quorum's prevotes and locks; nothing of what it says gets out, and of
/// later rounds it hears nothing. In the next round the others lock another block, and of `decides` nothing but
/// prevotes gets out. Who is
/// `unlocked` gets no proposals at all, so that nobody else has a quorum's precommits.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) early: Option<usize>,
    pub(crate) decides: usize,
    pub(crate) unlocked: BTreeSet<usize>,
}

impl Script {
    fn admits(&self, from: usize, to: usize, kind: MessageKind, round: Round) -> bool {
        let first = self.early.is_some() && round == Round(0);
        let starved = self.unlocked.contains(&to) || (first && to == self.decides);
        let muted = from == self.decides && !first && kind != MessageKind::Prevote;
        // It proposes where it is its turn.
        let muted = muted && kind != MessageKind::Proposal;
        let deaf = self.early == Some(to) && !first;
        let starved = starved && kind == MessageKind::Proposal;
        !(self.early == Some(from) || muted || deaf || starved)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
    pub(crate) delay: (Micros, Micros),
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// A scheduler with a plan: of this node nothing but prevotes gets out, so that it may decide
    /// alone.
    pub(crate) only_prevotes_of: Option<usize>,
    /// A scheduler with a plan: no proposals reach these, so that they lock nothing.
    pub(crate) no_proposals_to: BTreeSet<usize>,
    /// A scheduler with a longer plan.
    pub(crate) script: Option<Script>,
    /// Nodes that a registry does not hear, nor they it.
    pub(crate) unheard: BTreeSet<(usize, usize)>,
    /// Nodes forward what they found good, as gossip does.
    pub(crate) relays: bool,
    /// Everything to and from this node takes so much longer.
    pub(crate) far: Option<(usize, Micros)>,
    /// Votes of this node are lost, whatever else gets through.
    pub(crate) voiceless: Option<usize>,
}

/// One copy on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) delay: Micros,
    pub(crate) corrupt: bool,
    /// Made by the network, not by the sender: arrives although its bytes were seen.
    pub(crate) duplicate: bool,
}

impl Network {
    pub(crate) fn healthy() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            delay: (500, 20_000),
            cut: BTreeSet::new(),
            only_prevotes_of: None,
            no_proposals_to: BTreeSet::new(),
            script: None,
            unheard: BTreeSet::new(),
            relays: false,
            far: None,
            voiceless: None,
        }
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Whether the scheduler lets a message of this kind through.
    pub(crate) fn admits(&self, from: usize, to: usize, kind: MessageKind, round: Round) -> bool {
        if self
            .script
            .as_ref()
            .is_some_and(|s| !s.admits(from, to, kind, round))
        {
            return false;
        }
        let vote = matches!(kind, MessageKind::Prevote | MessageKind::Precommit);
        if vote && self.voiceless == Some(from) {
            return false;
        }
        let muted = self.only_prevotes_of == Some(from) && kind != MessageKind::Prevote;
        let starved = kind == MessageKind::Proposal && self.no_proposals_to.contains(&to);
        !muted && !starved
    }

    /// Whether two nodes answer each other at once.
    pub(crate) fn joins(&self, a: usize, b: usize) -> bool {
        !self.is_cut(a, b) && !self.is_cut(b, a)
    }

    /// The copies of one message that arrive.
    pub(crate) fn route(&self, rng: &mut ChaCha8Rng, from: usize, to: usize) -> Vec<Copy> {
        let mut copies = Vec::new();
        // The same draws whatever is cut, so that a change of the cut changes nothing else.
        let lost = rng.random_bool(self.loss);
        let twice = rng.random_bool(self.duplicate);
        let corrupt = rng.random_bool(self.corrupt);
        for number in 0..=usize::from(twice) {
            let mut delay = rng.random_range(self.delay.0..=self.delay.1);
            if let Some((node, longer)) = self.far
                && (node == from || node == to)
            {
                delay += longer;
            }
            if !lost && !self.is_cut(from, to) {
                copies.push(Copy {
                    delay,
                    corrupt,
                    duplicate: number > 0,
                });
            }
        }
        copies
    }

    /// Cuts every link between the two groups.
    pub(crate) fn cut_groups(&mut self, left: &[usize], right: &[usize]) {
        for a in left {
            for b in right {
                self.cut.insert((*a, *b));
                self.cut.insert((*b, *a));
            }
        }
    }

    /// Leaves each node its two neighbours.
    pub(crate) fn cut_to_ring(&mut self, nodes: usize) {
        for a in 0..nodes {
            for b in 0..nodes {
                let apart = a.abs_diff(b);
                if a != b && apart != 1 && apart != nodes - 1 {
                    self.cut.insert((a, b));
                }
            }
        }
        self.relays = true;
    }

    pub(crate) fn heal(&mut self) {
        *self = Self::healthy();
    }
}
