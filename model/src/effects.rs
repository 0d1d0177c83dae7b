//! What each step changes.

use crate::{
    bounds::Second,
    drafts::{PLANNED_BLOCK, Recovery},
    properties,
    rules::{self, Mutant},
    state::{Draft, Node, State},
    steps::Step,
};

impl Recovery {
    pub(crate) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Advance { node, epoch } => state.nodes[node].advance(epoch),
            Step::Lock {
                node,
                epoch,
                round,
                value,
            } => {
                state.polka[usize::from(epoch)][usize::from(round)] = value;
                state.nodes[node].vote(epoch, round, value);
            }
            Step::Commit { node, epoch, value } => {
                let node = &mut state.nodes[node];
                state.extended_after_seal |= node.sealed() > epoch;
                match (epoch, self.bounds.planned) {
                    (1, true) => node.set_second(value),
                    _ => node.set_first(value),
                }
                if epoch == 0 && self.bounds.planned && value == PLANNED_BLOCK {
                    node.set_epoch(1);
                }
            }
            Step::Open { registry } => self.open(state, registry),
            Step::Meet { node } => state.nodes[node].set_met(2),
            Step::Seal {
                node,
                ballot,
                epochs,
            } => self.seal(state, node, ballot, epochs),
            Step::Draft {
                ballot,
                drafted: (draft, set),
            } => {
                state.drafts[usize::from(ballot) - 1] = draft;
                for (index, node) in state.nodes.iter_mut().enumerate() {
                    if set >> index & 1 == 1 {
                        node.set_drafts(node.drafts() | 1 << (ballot - 1));
                    }
                }
                if !self.is_staged(draft.succeeds) {
                    self.sign(state, ballot);
                }
            }
            Step::Stage { node, ballot } => self.stage(state, node, ballot),
            Step::Sign { ballot } => self.sign(state, ballot),
            Step::Sync => state.synced += 1,
            Step::Learn { node, ballot } => self.learn(state, node, ballot),
            Step::Fetch { node, ballot } => {
                let record = state.drafts[usize::from(ballot) - 1];
                state.nodes[node].set_first(record.first);
            }
            Step::Crash { node } => self.crash(&mut state.nodes[node]),
            Step::Wipe { node } => {
                state.accidents -= 1;
                let node = &mut state.nodes[node];
                node.forget_votes(0);
                node.set_first(0);
                node.set_sealed(0);
                node.set_sealed_on_disk(0);
                node.set_wiped(1);
            }
            Step::RollBack { node } => {
                state.accidents -= 1;
                let node = &mut state.nodes[node];
                node.forget_votes(0);
                node.set_sealed(0);
                node.set_sealed_on_disk(0);
                node.set_rolled_back(1);
            }
            Step::Cut { node } => {
                state.nodes[node].set_cut(1);
                let live = |node: &&Node| node.cut() == 0 && node.sealed() == 0;
                let members = &state.nodes[..self.bounds.members];
                let live = members.iter().filter(live).count();
                state.quorum_was_lost |= live < rules::quorum(self.bounds.members);
            }
            Step::Return { node } => state.nodes[node].set_cut(0),
        }
    }

    /// A registry goes on under its next ballot. Acknowledgements of the one before count no more.
    fn open(&self, state: &mut State, registry: usize) {
        let before = state.current[registry];
        state.current[registry] = match registry {
            0 => before + 1,
            // Ballots rise from registry to registry, whatever the first one opens later.
            _ => before.max(self.first_ones()) + 1,
        };
        let counted = rules::may_sign_under(self.mutant, state.current[registry], before);
        if before > 0 && !counted && state.signed >> (before - 1) & 1 == 0 {
            if registry == 0 {
                let staged = state.nodes.iter().any(|node| node.staged() == before);
                let drafted = state.drafts[usize::from(before) - 1].number > 0;
                state.crashed_with = 1 + u8::from(drafted) + u8::from(staged);
            }
            for node in &mut state.nodes {
                node.set_acks(node.acks() & !(1 << (before - 1)));
            }
        }
    }

    fn seal(&self, state: &mut State, index: usize, ballot: u8, epochs: u8) {
        let n = self.bounds.members;
        if self.bounds.cuts && state.nodes[index].sealed() == 0 {
            let reached = state.nodes[..n].iter().filter(|node| node.cut() == 0);
            state.sealed_in_vain |= reached.count() + usize::from(state.synced) < rules::quorum(n);
        }
        let node = &mut state.nodes[index];
        if matches!(self.bounds.second, Second::Restored | Second::Cloned) {
            node.set_met(self.owner(ballot) as u8 + 1);
        }
        node.set_promised(node.promised().max(ballot));
        node.set_sealed(epochs);
        if self.mutant != Mutant::SealNotDurable {
            node.set_sealed_on_disk(epochs);
        }
        node.set_said(epochs);
        node.set_said_first(node.first());
        node.set_said_second(node.second());
        // The newest lock of the sealed epochs: that of an older epoch is in the log still, and says so.
        let (older, newer) = (node.lock(0), node.lock(1).filter(|_| epochs > 1));
        let lock = match (older, newer) {
            (Some(older), Some(newer)) if self.mutant == Mutant::LocksAcrossEpochs => {
                Some(if older.round > newer.round {
                    older
                } else {
                    newer
                })
            }
            _ => newer.or(older),
        };
        // What is final needs no lock.
        let stated = match (self.bounds.planned, node.first()) {
            (false, 1..) => None,
            (true, PLANNED_BLOCK) => newer,
            (true, 1..) => None,
            _ => lock,
        };
        node.state_lock(stated);
        node.set_said_stale(u8::from(node.has_lost_votes()));
    }

    fn stage(&self, state: &mut State, index: usize, ballot: u8) {
        let draft = state.drafts[usize::from(ballot) - 1];
        let registry = self.owner(ballot);
        let node = &mut state.nodes[index];
        if matches!(self.bounds.second, Second::Restored | Second::Cloned) {
            node.set_met(self.owner(ballot) as u8 + 1);
        }
        node.set_promised(node.promised().max(ballot));
        node.set_staged(ballot);
        if rules::may_sign_under(self.mutant, state.current[registry], ballot) {
            node.set_acks(node.acks() | 1 << (ballot - 1));
        }
        if self.mutant == Mutant::StagedInBlockLog && draft.first > 0 {
            node.set_first(draft.first);
        }
    }

    /// The record is written and leaves.
    ///
    /// Where the old epoch is silent afterwards, what must hold is asked once more with all its votes, and
    /// then nothing of it is kept but locks and what is staged: equal futures come together.
    fn sign(&self, state: &mut State, ballot: u8) {
        state.signed |= 1 << (ballot - 1);
        let first = state.drafts[usize::from(ballot) - 1].succeeds == 0;
        if !first || !self.bounds.silent_after || self.mutant == Mutant::RecordNotDurable {
            return;
        }
        state.broken |= !properties::votes_agree(self, state);
        for (other, draft) in (1..).zip(&mut state.drafts) {
            if other != ballot && state.signed >> (other - 1) & 1 == 0 {
                *draft = Draft::default();
            }
        }
        state.polka[0] = [0; 2];
        for node in &mut state.nodes {
            let named = node.is_in_draft(ballot);
            node.set_drafts(node.drafts() & state.signed);
            node.set_acks(0);
            node.set_promised(0);
            node.set_said(0);
            node.set_said_first(0);
            node.set_said_lock(0);
            let lock = node
                .lock(0)
                .filter(|_| named && self.bounds.rounds_after > 0);
            node.forget_epoch(0);
            if let Some(lock) = lock {
                node.vote(0, lock.round, lock.value);
            }
            if !named {
                node.set_first(0);
            }
            if !named || node.staged() != ballot {
                node.set_staged(0);
            }
        }
    }

    fn learn(&self, state: &mut State, index: usize, ballot: u8) {
        let record: Draft = state.drafts[usize::from(ballot) - 1];
        let staged = state.nodes[index].staged();
        let has_staged = staged > 0 && state.drafts[usize::from(staged) - 1].root == record.root;
        let node = &mut state.nodes[index];
        node.set_epoch(record.number);
        node.set_staged(0);
        // A block with a certificate comes by sync; an adopted one is there if it was staged, and where
        // staging is no step of its own it was.
        if !record.adopted || has_staged || !self.is_staged(record.succeeds) {
            node.set_first(record.first);
        }
    }

    /// The correct rules keep nothing in memory that a crash could take.
    fn crash(&self, node: &mut Node) {
        node.set_sealed(node.sealed_on_disk());
        match self.mutant {
            Mutant::LockNotDurable => node.forget_votes(0),
            Mutant::StagingNotDurable => node.set_staged(0),
            _ => {}
        }
    }
}
