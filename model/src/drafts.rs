//! What a registry may hand over, given the statements that it has: one draft for each set of them that
//! fulfils the conditions.

use crate::{
    bounds::{Bounds, Second},
    rules::{self, Mutant},
    state::{Draft, Lock, MAX_BALLOTS, MAX_NODES, Node, State, Value},
};

/// The block of the first height that carries the planned record.
pub(crate) const PLANNED_BLOCK: Value = 2;

/// The model: bounds, and the rule that is broken.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// How far it goes.
    pub bounds: Bounds,
    /// What is broken.
    pub mutant: Mutant,
}

/// A draft and the new set, a bit for each node.
pub(crate) type Drafted = (Draft, u8);

impl Recovery {
    /// Nodes, learners included.
    pub(crate) fn nodes(&self) -> usize {
        self.bounds.members + self.bounds.learners
    }

    /// The highest ballot of the first registry, where there is a second one.
    pub(crate) fn first_ones(&self) -> u8 {
        MAX_BALLOTS as u8 - self.bounds.second_ballots
    }

    /// Whose ballot it is.
    pub(crate) fn owner(&self, ballot: u8) -> usize {
        usize::from(self.bounds.second != Second::None && ballot > self.first_ones())
    }

    /// The draft of a signed record with this number.
    pub(crate) fn record(&self, state: &State, number: u8) -> Option<(u8, Draft)> {
        self.records(state)
            .find(|(_, draft)| draft.number == number)
    }

    /// Every signed record, with its ballot.
    pub(crate) fn records<'a>(&self, state: &'a State) -> impl Iterator<Item = (u8, Draft)> + 'a {
        (1..)
            .zip(state.drafts)
            .filter(|(ballot, _)| state.signed >> (ballot - 1) & 1 == 1)
    }

    /// Whether a node votes in an epoch.
    pub(crate) fn is_member(&self, state: &State, node: usize, epoch: u8) -> bool {
        if epoch == 0 {
            return node < self.bounds.members;
        }
        if self.bounds.planned {
            return epoch == 1 && self.is_planned_member(node);
        }
        self.record(state, epoch)
            .is_some_and(|(ballot, _)| state.nodes[node].is_in_draft(ballot))
    }

    /// Whether it is the member that lies.
    pub(crate) fn is_liar(&self, node: usize) -> bool {
        self.bounds.liar && node == 0
    }

    /// Whether the planned record names a node: all but the first member, and the learner.
    pub(crate) fn is_planned_member(&self, node: usize) -> bool {
        self.bounds.planned && (1..=self.bounds.members).contains(&node)
    }

    /// The epoch that a registry recovers: that of the newest record in its store.
    pub(crate) fn recovered_epoch(&self, state: &State, registry: usize) -> u8 {
        if self.bounds.planned || self.mutant == Mutant::RecordNotDurable {
            return 0;
        }
        self.records(state)
            .filter(|(ballot, _)| self.owner(*ballot) == registry)
            .map(|(_, draft)| draft.number)
            .max()
            .unwrap_or(0)
    }

    /// Whether a recovery's steps are taken one by one.
    pub(crate) fn is_staged(&self, epoch: u8) -> bool {
        self.bounds.staging && (epoch == 0 || self.bounds.planned)
    }

    /// Whether a registry may recover at all with fewer members than a quorum.
    pub(crate) fn may_recover(&self, state: &State, registry: usize) -> bool {
        if registry == 0 || self.bounds.second != Second::Cloned {
            return true;
        }
        let met = |node: &&Node| node.met() == 2;
        let members = || state.nodes[..self.bounds.members].iter().filter(met);
        let foreign = members().any(|node| (1..3).contains(&node.promised()));
        rules::start_is_enrolled(self.mutant, members().count(), foreign, self.bounds.members)
    }

    /// Every draft that a registry may make under a ballot.
    pub(crate) fn drafts(&self, state: &State, ballot: u8) -> Vec<Drafted> {
        let registry = self.owner(ballot);
        let epoch = self.recovered_epoch(state, registry);
        if epoch >= self.bounds.recoveries || !self.may_recover(state, registry) {
            return Vec::new();
        }
        let takes_over = registry == 1 && self.bounds.second == Second::TakeOver;
        let usable = |index: usize| {
            let node = state.nodes[index];
            let member = self.is_member(state, index, epoch) || self.is_planned_member(index);
            let said = node.said() > epoch || self.is_liar(index);
            member
                && said
                && rules::statement_counts(self.mutant, node.said_stale() == 1)
                // The second registry has only what was answered to itself.
                && (registry == 0 || node.promised() == ballot)
        };
        let usable = mask((0..self.nodes()).filter(|&index| usable(index)));
        if usable == 0 {
            return Vec::new();
        }
        let mut drafts = Vec::new();
        for used in 1..=usable {
            if used & !usable != 0 {
                continue;
            }
            let found = match takes_over {
                true => self.taken_over(state, ballot, used),
                false => self.with_lies(state, ballot, epoch, used),
            };
            for drafted in found {
                if !drafts.contains(&drafted) {
                    drafts.push(drafted);
                }
            }
        }
        drafts
    }

    /// What follows from one set of statements, for everything that a liar in it may state: no lock, or a
    /// lock with a proof, which takes a quorum of prevotes.
    fn with_lies(&self, state: &State, ballot: u8, epoch: u8, used: u8) -> Vec<Drafted> {
        let mut drafts = self.handed_over(state, ballot, epoch, used);
        if self.bounds.liar && used & 1 == 1 {
            for (round, value) in (0..).zip(state.polka[0]).filter(|(_, value)| *value > 0) {
                let mut lied = state.clone();
                lied.nodes[0].state_lock(Some(Lock {
                    epoch: 0,
                    round,
                    value,
                }));
                drafts.extend(self.handed_over(&lied, ballot, epoch, used));
            }
        }
        drafts
    }

    /// What follows from one set of statements.
    fn handed_over(&self, state: &State, ballot: u8, epoch: u8, used: u8) -> Vec<Drafted> {
        let n = self.bounds.members;
        let holds = |epoch: u8| {
            let sealed = members(used).filter(|&index| {
                let said = state.nodes[index].said() > epoch || self.is_liar(index);
                self.is_member(state, index, epoch) && said
            });
            let liars = usize::from(self.bounds.liar);
            rules::condition_holds(self.mutant, sealed.count(), n, liars)
        };
        let stated = || members(used).map(|index| state.nodes[index]);
        let lock = |epoch: u8| {
            let locks = stated().filter_map(Node::stated_lock);
            rules::adopted(self.mutant, epoch, locks).unwrap_or(0)
        };
        let final_first = stated().map(Node::said_first).max().unwrap_or(0);
        let final_second = stated().map(Node::said_second).max().unwrap_or(0);
        let mut draft = Draft {
            number: epoch + 1,
            succeeds: epoch,
            first: final_first,
            second: final_second,
            adopted: false,
            root: ballot,
        };
        if self.bounds.planned {
            draft.number = 2;
        }
        let allowed = if self.bounds.planned && final_first == PLANNED_BLOCK {
            // The planned epoch is in force: it is the one to recover.
            if final_second == 0 {
                draft.second = lock(1);
                draft.adopted = draft.second > 0;
            }
            draft.succeeds = 1;
            holds(1)
        } else if final_first > 0 {
            holds(epoch)
        } else {
            draft.first = lock(epoch);
            draft.adopted = draft.first > 0;
            let planned = self.bounds.planned && draft.first == PLANNED_BLOCK;
            if planned {
                draft.succeeds = 1;
            }
            let in_flight = !planned || !rules::planned_epoch_is_sealed_too(self.mutant);
            holds(epoch) && (in_flight || holds(1))
        };
        if !allowed {
            return Vec::new();
        }
        self.new_sets(state, draft.succeeds, used)
            .into_iter()
            .map(|set| (draft, set))
            .collect()
    }

    /// What a take-over goes on with: what was staged under the highest ballot, else a draft of its own.
    fn taken_over(&self, state: &State, ballot: u8, used: u8) -> Vec<Drafted> {
        let answered = || members(used).map(|index| state.nodes[index]);
        let knows_record = answered().any(|node| node.epoch() > u8::from(self.bounds.planned));
        if knows_record || !self.may_take_over(state, ballot, used) {
            return Vec::new();
        }
        let staged = answered()
            .map(Node::staged)
            .filter(|&staged| staged != ballot)
            .max()
            .unwrap_or(0);
        if staged == 0 || self.mutant == Mutant::TakeOverAnew {
            return self.handed_over(state, ballot, 0, used);
        }
        let set = (0..self.nodes()).filter(|&index| state.nodes[index].is_in_draft(staged));
        vec![(state.drafts[usize::from(staged) - 1], mask(set))]
    }

    /// Whether enough members of each epoch that may have a draft answered.
    fn may_take_over(&self, state: &State, ballot: u8, used: u8) -> bool {
        let count = |epoch: u8, wanted: &dyn Fn(usize) -> bool| {
            (0..self.nodes())
                .filter(|&index| self.is_member(state, index, epoch) && wanted(index))
                .count()
        };
        let enough = |epoch: u8| {
            let now = |index: usize| used >> index & 1 == 1;
            let earlier = |index: usize| {
                let promised = state.nodes[index].promised();
                promised > self.first_ones() && promised < ballot
            };
            rules::may_take_over(
                self.mutant,
                count(epoch, &now),
                count(epoch, &earlier),
                self.bounds.members,
            )
        };
        let has_planned = |of: fn(Node) -> Value| {
            self.bounds.planned
                && members(used).any(|index| of(state.nodes[index]) == PLANNED_BLOCK)
        };
        if has_planned(Node::said_first) {
            return enough(1);
        }
        let in_flight = has_planned(|node| node.stated_lock().map_or(0, |lock| lock.value));
        let asked = in_flight && rules::take_over_asks_planned_epoch(self.mutant);
        enough(0) && (!asked || enough(1))
    }

    /// The new sets that may follow: as large as the old one, the survivors used and as many learners as
    /// there is room for.
    fn new_sets(&self, state: &State, epoch: u8, used: u8) -> Vec<u8> {
        let n = self.bounds.members;
        if !self.bounds.staging && self.bounds.rounds_after == 0 {
            // Nobody looks at the new set.
            return vec![0];
        }
        let is_member = |index: &usize| self.is_member(state, *index, epoch);
        let survivors = used & mask((0..self.nodes()).filter(is_member));
        let outside = mask((0..self.nodes()).filter(|index| !is_member(index)));
        // Old members beside the survivors: those that sealed unheard, or, where idle members count,
        // those that never sealed.
        let others = mask((0..self.nodes()).filter(|&index| {
            let sealed = state.nodes[index].sealed() > epoch;
            is_member(&index)
                && survivors >> index & 1 == 0
                && match self.mutant {
                    Mutant::IdleMembersCount => !sealed,
                    _ => sealed && self.bounds.unheard_members,
                }
        }));
        let mut sets = Vec::new();
        for more in subsets(others) {
            let old = survivors | more;
            let room = n - old.count_ones() as usize;
            let wanted = room.min(outside.count_ones() as usize);
            sets.extend(
                subsets(outside)
                    .filter(|learners| learners.count_ones() as usize == wanted)
                    .map(|learners| old | learners),
            );
        }
        sets
    }
}

fn mask(nodes: impl Iterator<Item = usize>) -> u8 {
    nodes.fold(0, |mask, index| mask | 1 << index)
}

fn members(mask: u8) -> impl Iterator<Item = usize> {
    (0..MAX_NODES).filter(move |index| mask >> index & 1 == 1)
}

fn subsets(of: u8) -> impl Iterator<Item = u8> {
    (0..=of).filter(move |subset| subset & !of == 0)
}
