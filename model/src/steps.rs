//! Every step that a node, the registry or bad luck may take next.

use stateright::{Model, Property};

use crate::{
    bounds::{Bounds, Second},
    drafts::{Drafted, PLANNED_BLOCK, Recovery},
    properties,
    rules::{self, Acknowledged},
    state::{Draft, MAX_BALLOTS, MAX_NODES, Node, State, Value},
};

/// One step. Nodes are named by their place, epochs and ballots by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A member goes to round 1 of an epoch and prevotes there.
    Advance {
        /// Who.
        node: usize,
        /// In which epoch.
        epoch: u8,
    },
    /// A member locks a block and precommits it.
    Lock {
        /// Who.
        node: usize,
        /// In which epoch.
        epoch: u8,
        /// In which round.
        round: u8,
        /// Which block.
        value: Value,
    },
    /// A member appends a block with its commit certificate.
    Commit {
        /// Who.
        node: usize,
        /// Whose certificate.
        epoch: u8,
        /// Which block.
        value: Value,
    },
    /// A registry opens its next ballot, after a crash or an attempt that came to nothing.
    Open {
        /// Which registry.
        registry: usize,
    },
    /// A node meets the start of the second registry.
    Meet {
        /// Who.
        node: usize,
    },
    /// A member seals and answers with its statement, or answers again.
    Seal {
        /// Who.
        node: usize,
        /// Under which ballot.
        ballot: u8,
        /// Epochs sealed: 1 is epoch 0 alone, 2 both.
        epochs: u8,
    },
    /// A registry makes a draft; without staging it is a record at once.
    Draft {
        /// Under which ballot.
        ballot: u8,
        /// What it hands over, and the new set.
        drafted: Drafted,
    },
    /// A member of the new set stages a draft and acknowledges it.
    Stage {
        /// Who.
        node: usize,
        /// Whose draft.
        ballot: u8,
    },
    /// A registry signs a draft as a record.
    Sign {
        /// Which draft.
        ballot: u8,
    },
    /// A node learns a record, and takes what it staged for it.
    Learn {
        /// Who.
        node: usize,
        /// Which record, by its ballot.
        ballot: u8,
    },
    /// A node fetches the adopted block from another that holds it.
    Fetch {
        /// Who.
        node: usize,
        /// Of which record, by its ballot.
        ballot: u8,
    },
    /// A node stops and starts again from its disk.
    Crash {
        /// Who.
        node: usize,
    },
    /// A node loses its volume.
    Wipe {
        /// Who.
        node: usize,
    },
    /// A node's volume is replaced by an older copy.
    RollBack {
        /// Who.
        node: usize,
    },
    /// A learner has caught up.
    Sync,
    /// A node is cut off from all others.
    Cut {
        /// Who.
        node: usize,
    },
    /// A node is reached again.
    Return {
        /// Who.
        node: usize,
    },
}

impl Model for Recovery {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let members = self.bounds.members as u8;
        let all = self.nodes() as u8;
        let mut nodes = [Node::default(); MAX_NODES];
        if matches!(self.bounds.second, Second::Restored | Second::Cloned) {
            for node in &mut nodes[..self.bounds.members] {
                node.set_met(1);
            }
        }
        // A planned record takes the first member out, and a liar is the first: it is not like the others.
        let first = u8::from(self.bounds.planned || self.bounds.liar);
        let state = State {
            nodes,
            polka: [[0; 2]; 2],
            drafts: [Draft::default(); 3],
            signed: 0,
            current: [0; 2],
            quorum_was_lost: false,
            sealed_in_vain: false,
            broken: false,
            extended_after_seal: false,
            accidents: self.bounds.accidents,
            synced: 0,
            crashed_with: 0,
            groups: [first, members, members + u8::from(self.bounds.planned), all],
            values_alike: self.bounds.values == 2 && !self.bounds.planned,
        };
        match self.bounds.in_flight {
            true => self.in_flight(&state),
            false => vec![state],
        }
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for node in 0..self.nodes() {
            for epoch in [0, 1] {
                self.votes(state, node, epoch, steps);
            }
            self.recovery_steps_of(state, node, steps);
            self.accidents_of(state, node, steps);
        }
        for registry in [0, 1] {
            self.steps_of_registry(state, registry, steps);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.take(&mut state, step);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}

impl Recovery {
    /// The states in which a planned record is in flight.
    fn in_flight(&self, from: &State) -> Vec<State> {
        let members = self.bounds.members;
        let states = (0..1u8 << members).map(|appended| {
            let mut state = from.clone();
            state.polka[0][0] = PLANNED_BLOCK;
            for node in &mut state.nodes[..members] {
                node.vote(0, 0, PLANNED_BLOCK);
            }
            // The first member is the one that the record takes out.
            for (index, node) in state.nodes[1..=members].iter_mut().enumerate() {
                if appended >> index & 1 == 1 {
                    node.set_first(PLANNED_BLOCK);
                    node.set_epoch(1);
                }
            }
            state
        });
        states.collect()
    }

    fn rounds(&self, epoch: u8) -> u8 {
        match epoch {
            0 => self.bounds.rounds,
            _ => self.bounds.rounds_after,
        }
    }

    /// Whether a member takes part in the voting of an epoch.
    fn votes_in(&self, state: &State, index: usize, epoch: u8) -> bool {
        let node = state.nodes[index];
        let height_is_open = match (epoch, self.bounds.planned) {
            (0, _) => node.first() == 0,
            (_, true) => node.first() == PLANNED_BLOCK && node.second() == 0,
            (_, false) => {
                self.bounds.rounds_after > 0
                    && node.first() == 0
                    && self
                        .record(state, epoch)
                        .is_some_and(|(_, record)| record.first == 0)
            }
        };
        let over = epoch == 0 && self.bounds.silent_after && state.signed > 0;
        height_is_open
            && !over
            && !self.is_liar(index)
            && self.is_member(state, index, epoch)
            && node.epoch() == epoch
            && rules::volume_votes(
                self.mutant,
                node.wiped() == 1,
                node.has_lost_votes(),
                node.has_lost_its_seal(),
            )
            && rules::core_is_open(self.mutant, node.sealed(), epoch)
    }

    fn votes(&self, state: &State, index: usize, epoch: u8, steps: &mut Vec<Step>) {
        let node = state.nodes[index];
        if self.votes_in(state, index, epoch) {
            if self.rounds(epoch) > 1 && node.round(epoch) == 0 {
                steps.push(Step::Advance { node: index, epoch });
            }
            for round in 0..self.rounds(epoch) {
                if round != node.round(epoch) || node.precommit(epoch, round) > 0 {
                    continue;
                }
                for value in 1..=self.bounds.values {
                    if self.has_polka(state, epoch, round, value) {
                        steps.push(Step::Lock {
                            node: index,
                            epoch,
                            round,
                            value,
                        });
                    }
                }
            }
        }
        let knows_height = match (epoch, self.bounds.planned) {
            (1, true) => node.first() == PLANNED_BLOCK && node.second() == 0,
            _ => node.first() == 0,
        };
        let follows = self.is_member(state, index, epoch) || self.is_planned_member(index);
        let sound = self.bounds.certificates && node.wiped() == 0 && node.rolled_back() == 0;
        if knows_height && follows && sound && !self.is_liar(index) && node.epoch() == epoch {
            for value in 1..=self.bounds.values {
                if self.is_certified(state, epoch, value) {
                    steps.push(Step::Commit {
                        node: index,
                        epoch,
                        value,
                    });
                }
            }
        }
    }

    /// Whether a quorum prevoted a block in a round, or may have.
    ///
    /// One block per round can have that. In round 0 nobody is locked, so any quorum may have prevoted
    /// it, its votes being under way still; in round 1 those that reached it and whose lock, if any,
    /// is on that block.
    fn has_polka(&self, state: &State, epoch: u8, round: u8, value: Value) -> bool {
        match state.polka[usize::from(epoch)][usize::from(round)] {
            0 if round == 0 => true,
            0 => {
                let prevoted = (0..self.nodes()).filter(|&index| {
                    let node = state.nodes[index];
                    let honest =
                        node.round(epoch) == 1 && [0, value].contains(&node.precommit(epoch, 0));
                    self.is_member(state, index, epoch) && (honest || self.is_liar(index))
                });
                prevoted.count() >= rules::quorum(self.bounds.members)
            }
            other => other == value,
        }
    }

    /// Whether the precommits sent by an epoch's members make a certificate, whoever holds them.
    pub(crate) fn is_certified(&self, state: &State, epoch: u8, value: Value) -> bool {
        (0..self.rounds(epoch)).any(|round| {
            let sent = (0..self.nodes()).filter(|&index| {
                (state.nodes[index].has_sent(epoch, round, value) || self.is_liar(index))
                    && self.is_member(state, index, epoch)
            });
            sent.count() >= rules::quorum(self.bounds.members)
        })
    }

    fn recovery_steps_of(&self, state: &State, index: usize, steps: &mut Vec<Step>) {
        let node = state.nodes[index];
        if !rules::volume_seals(self.mutant, node.wiped() == 1) {
            return;
        }
        let copied = matches!(self.bounds.second, Second::Restored | Second::Cloned);
        if copied && self.accepts(node, 1) && node.met() != 2 {
            steps.push(Step::Meet { node: index });
        }
        for registry in [0, 1] {
            let ballot = state.current[registry];
            let works = ballot > 0 || (registry == 0 && !self.bounds.staging);
            if works && self.accepts(node, registry) && self.may_recover(state, registry) {
                self.seals(state, index, registry, steps);
            }
        }
        for (ballot, draft) in (1..).zip(state.drafts) {
            let waits = draft.number > node.epoch() && node.is_in_draft(ballot);
            let learner = !self.is_member(state, index, draft.succeeds);
            let sealed = node.sealed() > draft.succeeds || learner;
            if waits
                && sealed
                && self.is_staged(draft.succeeds)
                && node.staged() != ballot
                && self.accepts(node, self.owner(ballot))
                && rules::takes_order(self.mutant, node.promised(), ballot)
            {
                steps.push(Step::Stage {
                    node: index,
                    ballot,
                });
            }
        }
        if self.bounds.recoveries < 2 && !self.bounds.staging {
            return;
        }
        for (ballot, record) in self.records(state) {
            // Who is not in the new set falls silent at most by learning of it: the worst is that it does not.
            let named = node.is_in_draft(ballot) && node.epoch() < record.number;
            if named && [0, record.first].contains(&node.first()) {
                steps.push(Step::Learn {
                    node: index,
                    ballot,
                });
            }
            let lacks = node.epoch() == record.number && node.first() == 0 && record.first > 0;
            let holds = |other: &Node| {
                let staged = other.staged();
                let same = |staged: u8| state.drafts[usize::from(staged) - 1].root == record.root;
                other.first() == record.first || (staged > 0 && same(staged))
            };
            if lacks && state.nodes.iter().any(holds) {
                steps.push(Step::Fetch {
                    node: index,
                    ballot,
                });
            }
        }
    }

    fn seals(&self, state: &State, index: usize, registry: usize, steps: &mut Vec<Step>) {
        let node = state.nodes[index];
        let ballot = state.current[registry];
        let recovered = self.recovered_epoch(state, registry);
        for epochs in [1, 2] {
            let wanted = match self.bounds {
                Bounds {
                    in_flight: true, ..
                } => epochs == 2,
                Bounds { planned: true, .. } => true,
                _ => epochs == recovered + 1,
            };
            let member = self.is_member(state, index, epochs - 1)
                || (self.bounds.planned && self.is_member(state, index, 0));
            // Whoever knows a newer epoch says so and seals nothing.
            let knows = node.epoch() == recovered || (self.bounds.planned && epochs > node.epoch());
            let in_bounds = epochs <= self.bounds.recoveries || self.bounds.planned;
            if wanted
                && !self.is_liar(index)
                && member
                && knows
                && in_bounds
                && node.sealed() <= epochs
                && rules::takes_order(self.mutant, node.promised(), ballot)
                && (!self.bounds.cuts || self.lets_seal(state, index))
            {
                steps.push(Step::Seal {
                    node: index,
                    ballot,
                    epochs,
                });
            }
        }
    }

    /// Dry run and veto.
    fn lets_seal(&self, state: &State, index: usize) -> bool {
        let n = self.bounds.members;
        let members = &state.nodes[..n];
        let reached = members.iter().filter(|node| node.cut() == 0);
        let unsealed = reached.clone().filter(|node| node.sealed() == 0).count();
        let reached = reached.count();
        state.nodes[index].cut() == 0
            && !rules::seal_is_vetoed(self.mutant, unsealed, n)
            && rules::dry_run_passes(
                self.mutant,
                reached,
                n - reached,
                usize::from(state.synced),
                n,
            )
    }

    /// Whether a node takes orders of a registry at all.
    fn accepts(&self, node: Node, registry: usize) -> bool {
        let start = registry as u8 + 1;
        if !matches!(self.bounds.second, Second::Restored | Second::Cloned)
            || [0, start].contains(&node.met())
        {
            return true;
        }
        let list_holds_it = registry == 1 && self.bounds.second == Second::Cloned;
        rules::accepts_start(self.mutant, list_holds_it, registry == 1)
    }

    fn accidents_of(&self, state: &State, index: usize, steps: &mut Vec<Step>) {
        let node = state.nodes[index];
        if self.is_liar(index) {
            return;
        }
        let member = index < self.bounds.members;
        steps.push(Step::Crash { node: index });
        if state.accidents > 0 && member {
            steps.push(Step::Wipe { node: index });
            if node.lock(0).is_some() || node.sealed() > 0 {
                steps.push(Step::RollBack { node: index });
            }
        }
        if self.bounds.cuts && member {
            steps.push(match node.cut() {
                0 => Step::Cut { node: index },
                _ => Step::Return { node: index },
            });
        }
    }

    fn steps_of_registry(&self, state: &State, registry: usize, steps: &mut Vec<Step>) {
        if registry == 0 && self.bounds.cuts && usize::from(state.synced) < self.bounds.learners {
            steps.push(Step::Sync);
        }
        let current = state.current[registry];
        let epoch = self.recovered_epoch(state, registry);
        if epoch >= self.bounds.recoveries {
            return;
        }
        if !self.bounds.staging {
            if registry == 0 {
                let ballot = epoch + 1;
                let drafts = self.drafts(state, ballot).into_iter();
                let signed = state.signed >> (ballot - 1) & 1 == 1;
                steps.extend(
                    drafts
                        .filter(|_| !signed)
                        .map(|drafted| Step::Draft { ballot, drafted }),
                );
            }
            return;
        }
        let may_open = match registry {
            0 => current < self.bounds.ballots + epoch,
            _ => self.bounds.second != Second::None && usize::from(current) < MAX_BALLOTS,
        };
        if may_open {
            steps.push(Step::Open { registry });
        }
        if current == 0 {
            return;
        }
        let draft = state.drafts[usize::from(current) - 1];
        if draft.number == 0 {
            let drafts = self.drafts(state, current).into_iter();
            steps.extend(drafts.map(|drafted| Step::Draft {
                ballot: current,
                drafted,
            }));
        }
        for (ballot, draft) in (1..).zip(state.drafts) {
            let waits = draft.number > epoch
                && self.is_staged(draft.succeeds)
                && self.owner(ballot) == registry
                && state.signed >> (ballot - 1) & 1 == 0
                && rules::may_sign_under(self.mutant, current, ballot);
            if waits {
                let by = self.acknowledged(state, ballot, draft);
                if rules::may_sign(self.mutant, by, self.bounds.members) {
                    steps.push(Step::Sign { ballot });
                }
            }
        }
    }

    fn acknowledged(&self, state: &State, ballot: u8, draft: Draft) -> Acknowledged {
        let count = |wanted: &dyn Fn(usize, Node) -> bool| {
            (0..self.nodes())
                .filter(|&index| wanted(index, state.nodes[index]))
                .count()
        };
        Acknowledged {
            new_members: count(&|_, node| node.has_acknowledged(ballot)),
            idle_members: count(&|_, node| {
                node.is_in_draft(ballot) && !node.has_acknowledged(ballot)
            }),
            old_members: count(&|index, node| {
                node.has_acknowledged(ballot) && self.is_member(state, index, draft.succeeds)
            }),
        }
    }
}
