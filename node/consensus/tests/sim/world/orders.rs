//! What a node does about a registry's orders, as the node's engine does: the real promises, the real veto,
//! the real driver.

use std::time::Duration;

use axolotl_common::{
    Epoch, PublicKey,
    genesis::Timing,
    recovery::{Ballot, Promises, SealNote, Sight, SignedStatement, Statement, veto},
    registry_api::{Order, RecoveryAnswer, StagedDraft, Survey},
};
use axolotl_consensus::StatedHead;

use super::{Event, Mutant, World};
use crate::sim::{
    invariants::Violation,
    ledger::{Block, chain_ref, number_of},
    staging::follows_a_seal,
    task::{Reply, Work},
};

/// What became of an order; why not, in words.
pub(super) type Done = Result<(), String>;

impl World {
    pub(super) fn obey(
        &mut self,
        reply: Reply,
        node: usize,
        order: Order,
    ) -> Result<(), Violation> {
        let mut said = RecoveryAnswer::default();
        let (epoch, done) = match order {
            Order::Meet { starts, take_over } => {
                let promises = self.nodes[node].disk.promises;
                let fenced = self.setup.mutant != Some(Mutant::FenceIgnored);
                let met = promises.meet(&starts, take_over || !fenced);
                if let (Ok(_), Some(start)) = (&met, starts.last()) {
                    self.met.entry(*start).or_default().insert(node);
                }
                (None, self.keep(node, met))
            }
            Order::Survey { ballot, epoch } => {
                let survey = self.survey(node, ballot, epoch);
                let survey = survey.map(|survey| said.survey = Some(Box::new(survey)));
                (Some(epoch), survey)
            }
            Order::Seal { ballot, epoch, .. } => {
                let sealed = self.seal(node, ballot, epoch)?;
                let sealed = sealed.map(|signed| said.statement = Some(Box::new(signed)));
                (Some(epoch), sealed)
            }
            Order::Stage { ballot, draft, .. } => {
                let epoch = Epoch(draft.number.0.saturating_sub(1));
                let work = Work::Stage {
                    ballot,
                    draft,
                    reply,
                };
                match self.begin_staging(node, &ballot, &work) {
                    Ok(()) => return self.begin_work(node, work),
                    Err(why) => (Some(epoch), Err(why)),
                }
            }
            Order::EpochRecord { record } if follows_a_seal(&record.record) => {
                return self.ordered_record(node, record, reply);
            }
            Order::EpochRecord { record } => return self.hear_record(node, &record.record),
            _ => return Ok(()),
        };
        self.reply(reply, node, said, epoch, done);
        Ok(())
    }

    /// Answers with the facts that a registry may lack.
    pub(super) fn reply(
        &mut self,
        reply: Reply,
        node: usize,
        mut said: RecoveryAnswer,
        epoch: Option<Epoch>,
        done: Done,
    ) {
        let from = &self.nodes[node];
        let Some(running) = &from.running else {
            return;
        };
        let disk = &from.disk;
        if self.setup.mutant == Some(Mutant::FenceIgnored) {
            let asks = self.registries[reply.slot].as_ref();
            said.met = asks.and_then(|p| p.recovery.memory().starts.last().copied());
        } else {
            said.met = disk.promises.met;
            said.promised = disk.promises.promised;
        }
        said.sealed = running.driver.sealed();
        said.staged = disk.staged.as_ref().map(|staged| StagedDraft {
            ballot: staged.ballot,
            draft: Box::new(staged.draft.clone()),
        });
        let newer = |number: Epoch| epoch.is_none_or(|epoch| number > epoch);
        let newest = disk.chain.newest.as_ref();
        let newest = newest.filter(|signed| newer(signed.record.number));
        said.record = newest.cloned().map(Box::new);
        if let Err(why) = &done {
            self.log(format_args!("{node} refuses: {why}"));
        }
        if !self.net.unheard.contains(&(reply.slot, node)) {
            let answer = Event::Answer {
                to: reply,
                node,
                answer: Box::new(said),
                refusal: done.err(),
            };
            let delay = rand::Rng::random_range(&mut self.rng, 500..20_000);
            self.after(delay, answer);
        }
    }

    /// Makes a promise durable. Power may be lost before and after it.
    fn keep(&mut self, node: usize, made: Result<Promises, String>) -> Done {
        let made = made?;
        let lost = || Err("power is lost".to_owned());
        if self.nodes[node].disk.promises == made {
            return Ok(());
        }
        if !self.survives(node) {
            return lost();
        }
        self.nodes[node].disk.promises = made;
        match self.survives(node) {
            true => Ok(()),
            false => lost(),
        }
    }

    pub(super) fn check_ballot(&self, node: usize, ballot: &Ballot) -> Done {
        match self.setup.mutant {
            Some(Mutant::FenceIgnored) => Ok(()),
            _ => self.nodes[node].disk.promises.check(ballot),
        }
    }

    pub(super) fn promise(&mut self, node: usize, ballot: &Ballot) -> Done {
        match self.setup.mutant {
            Some(Mutant::FenceIgnored) => Ok(()),
            _ => {
                let made = self.nodes[node].disk.promises.promise(ballot);
                self.keep(node, made)
            }
        }
    }

    fn sealed_up_to(&self, node: usize) -> Option<Epoch> {
        let running = self.nodes[node].running.as_ref();
        running.and_then(|running| running.driver.sealed())
    }

    fn may_obey(&self, node: usize, ballot: &Ballot, epoch: Epoch) -> Done {
        self.check_ballot(node, ballot)?;
        let in_force = self.nodes[node].disk.chain.set.epoch();
        if in_force > epoch {
            return Err(format!("epoch {in_force} is in force here"));
        }
        match self.nodes[node].is_unfit() {
            true => Err("this node is no survivor".into()),
            false => Ok(()),
        }
    }

    fn survey(&self, node: usize, ballot: Ballot, epoch: Epoch) -> Result<Survey, String> {
        self.may_obey(node, &ballot, epoch)?;
        let sealed = self.sealed_up_to(node) >= Some(epoch);
        Ok(Survey {
            statement: self.statement(node, ballot, epoch)?,
            veto: self.veto(node).filter(|_| !sealed),
        })
    }

    fn seal(
        &mut self,
        node: usize,
        ballot: Ballot,
        epoch: Epoch,
    ) -> Result<Result<SignedStatement, String>, Violation> {
        let ready = self
            .may_obey(node, &ballot, epoch)
            .and_then(|()| self.promise(node, &ballot));
        if let Err(why) = ready {
            return Ok(Err(why));
        }
        if self.sealed_up_to(node) < Some(epoch) {
            if let Some(why) = self.veto(node) {
                return Ok(Err(why));
            }
            if let Err(why) = self.statement(node, ballot, epoch) {
                return Ok(Err(why));
            }
            if let Some(running) = self.nodes[node].running.as_mut() {
                let effects = running.driver.seal(epoch);
                self.perform(node, effects)?;
            }
        }
        let statement = self.statement(node, ballot, epoch);
        let key = &self.nodes[node].key;
        Ok(statement.map(|statement| statement.sign(&chain_ref(), key)))
    }

    fn statement(&self, node: usize, ballot: Ballot, epoch: Epoch) -> Result<Statement, String> {
        let chain = &self.nodes[node].disk.chain;
        let running = self.nodes[node].running.as_ref().ok_or("it is down")?;
        let last = chain.blocks.last();
        let head = StatedHead {
            height: chain.height(),
            hash: chain.head(),
            certificate: last.and_then(|stored| stored.proof.certificate().cloned()),
            governing: chain.set.epoch(),
        };
        let sealed = running.driver.sealed();
        let epoch = sealed.map_or(epoch, |sealed| sealed.max(epoch));
        let carries = |bytes: &[u8]| Some(Block::decode(bytes)?.record?.number);
        let mut statement = running.driver.statement(epoch, ballot, head, carries)?;
        if self.setup.mutant == Some(Mutant::LowestRoundAdopted) {
            statement.lock = statement.lock.filter(|lock| lock.round().0 == 0);
        }
        Ok(statement)
    }

    /// Why this node does not seal now.
    fn veto(&self, node: usize) -> Option<String> {
        if self.setup.mutant == Some(Mutant::VetoIgnored) {
            return None;
        }
        let running = self.nodes[node].running.as_ref()?;
        let set = &self.nodes[node].disk.chain.set;
        let live = |other: &usize| {
            let unsealed = self.sealed_up_to(*other) < Some(set.epoch());
            let up = self.nodes[*other].running.is_some() && !self.nodes[*other].is_unfit();
            up && unsealed && (*other == node || self.net.joins(node, *other))
        };
        let unsealed = set.members().iter().map(number_of).filter(live).count();
        let since = |at: u64| {
            Duration::from_micros(self.now.saturating_sub(at)).mul_f64(self.nodes[node].drift)
        };
        veto(&Sight {
            running: since(running.since),
            decided: running.decided.map(since),
            patience: Duration::from_millis(Timing::default().seal_veto_ms),
            unsealed,
            quorum: set.quorum(),
        })
    }

    /// A validator's own word that it is sealed, as this node holds it in a draft or a record.
    pub(super) fn seal_held(&self, holder: usize, author: &PublicKey) -> Option<SealNote> {
        let disk = &self.nodes[holder].disk;
        let staged = disk.staged.iter().map(|staged| &staged.draft);
        let newest = disk.chain.newest.iter().map(|signed| &signed.record);
        let handovers = staged
            .chain(newest)
            .filter_map(|record| record.handover.as_deref());
        handovers
            .flat_map(|handover| &handover.statements)
            .filter(|signed| signed.statement.author == *author)
            .map(|signed| signed.seal_note())
            .max_by_key(|note| note.epoch)
    }
}
