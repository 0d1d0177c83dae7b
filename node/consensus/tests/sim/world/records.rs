//! Drafts and records on their way into a node's volume.

use axolotl_common::{
    BlockProof, Epoch, Hash, SignedRecord,
    membership::RecordKind,
    recovery::{Acknowledgement, Ballot},
    registry_api::RecoveryAnswer,
};
use bytes::Bytes;

use super::{Event, Mutant, World, orders::Done};
use crate::sim::{
    disk::Staged,
    invariants::Violation,
    ledger::{self, authority, chain_ref},
    net::Micros,
    staging::{Misplaced, adopted, has_seen, place},
    task::{Reply, Task, Work},
};

/// Fetching a block is given up after so long.
const PATIENCE: Micros = 6_000_000;
const BUSY: &str = "this node is busy; send it again";

/// Whether a record is in force since now, or was before.
type Taken = Result<bool, Misplaced>;

impl World {
    fn is_busy(&self, node: usize) -> bool {
        let running = self.nodes[node].running.as_ref();
        running.is_none_or(|running| running.task.is_some() || running.storing)
    }

    pub(super) fn begin_staging(&mut self, node: usize, ballot: &Ballot, work: &Work) -> Done {
        let in_force = self.nodes[node].disk.chain.set.epoch();
        if in_force >= work.record().number {
            return Err(format!("epoch {in_force} is in force here"));
        }
        if self.is_busy(node) {
            return Err(BUSY.to_owned());
        }
        self.promise(node, ballot)
    }

    pub(super) fn ordered_record(
        &mut self,
        node: usize,
        record: SignedRecord,
        reply: Reply,
    ) -> Result<(), Violation> {
        let number = record.record.number;
        let chain = &self.nodes[node].disk.chain;
        let done = if chain.set.record_hash() == record.record.hash(&chain_ref()) {
            self.tell_recovery(node);
            Ok(())
        } else if self.is_busy(node) {
            Err(BUSY.to_owned())
        } else {
            let work = Work::Activate {
                record: Box::new(record),
                reply: Some(reply),
            };
            return self.begin_work(node, work);
        };
        self.reply(reply, node, RecoveryAnswer::default(), Some(number), done);
        Ok(())
    }

    /// A peer passed on a record that follows a seal.
    pub(super) fn pass_on(&mut self, node: usize, record: SignedRecord) -> Result<(), Violation> {
        let known = record.record.number <= self.nodes[node].disk.chain.set.epoch();
        if known || self.is_busy(node) {
            return Ok(());
        }
        let work = Work::Activate {
            record: Box::new(record),
            reply: None,
        };
        self.begin_work(node, work)
    }

    pub(super) fn begin_work(&mut self, node: usize, work: Work) -> Result<(), Violation> {
        let base = work.record().handover.as_deref().map(|h| h.base);
        let block = base.and_then(|base| self.locked_block(node, base));
        self.work(node, work, block)
    }

    /// The block that a node is locked on or has staged, if it is this one.
    fn locked_block(&self, node: usize, hash: Hash) -> Option<Bytes> {
        let running = self.nodes[node].running.as_ref()?;
        let lock = running.driver.lock().filter(|lock| lock.block == hash);
        let staged = || {
            let block = self.nodes[node].disk.staged.as_ref()?.block.clone()?;
            (ledger::hash(&block) == hash).then_some(block)
        };
        lock.and_then(|lock| lock.bytes).or_else(staged)
    }

    fn work(&mut self, node: usize, work: Work, block: Option<Bytes>) -> Result<(), Violation> {
        let taken = match &work {
            Work::Stage { ballot, .. } => self.stage(node, *ballot, &work, block.as_ref()),
            Work::Activate { record, .. } => self.activate(node, record, block.as_ref())?,
        };
        let Err(Misplaced::Behind { base, head }) = taken else {
            return self.finish(node, work, taken);
        };
        match adopted(work.record()) {
            Some(hash) if block.is_none() && base == head.next() => {
                self.fetch(node, work, hash);
                Ok(())
            }
            _ => {
                self.sync(node, base.next());
                self.finish(node, work, Err(Misplaced::Behind { base, head }))
            }
        }
    }

    /// Asks the others for a block that is in no chain.
    fn fetch(&mut self, node: usize, work: Work, block: Hash) {
        self.number += 1;
        let (number, boot) = (self.number, self.nodes[node].boot);
        if let Some(running) = self.nodes[node].running.as_mut() {
            running.task = Some(Task {
                number,
                block,
                work,
            });
        }
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.send_own(node, other, |from, to| Event::BlockWanted {
                from,
                to,
                block,
            });
        }
        self.after(PATIENCE, Event::TaskLate { node, boot, number });
    }

    pub(super) fn give_block(&mut self, from: usize, to: usize, block: Hash) {
        if let Some(bytes) = self.locked_block(to, block) {
            self.send_own(to, from, |_, to| Event::BlockGiven { to, block, bytes });
        }
    }

    pub(super) fn block_given(
        &mut self,
        node: usize,
        block: Hash,
        bytes: Bytes,
    ) -> Result<(), Violation> {
        let Some(running) = self.nodes[node].running.as_mut() else {
            return Ok(());
        };
        let waits = |task: &Task| task.block == block && ledger::hash(&bytes) == block;
        if !running.task.as_ref().is_some_and(waits) {
            return Ok(());
        }
        match running.task.take() {
            Some(task) => self.work(node, task.work, Some(bytes)),
            None => Ok(()),
        }
    }

    pub(super) fn task_late(&mut self, node: usize, number: u64) {
        let Some(running) = self.nodes[node].running.as_mut() else {
            return;
        };
        if running
            .task
            .as_ref()
            .is_none_or(|task| task.number != number)
        {
            return;
        }
        if let Some(task) = running.task.take() {
            let why = "no peer gave the adopted block".to_owned();
            self.answer_work(node, &task.work, RecoveryAnswer::default(), Err(why));
        }
    }

    fn answer_work(&mut self, node: usize, work: &Work, said: RecoveryAnswer, done: Done) {
        let number = work.record().number;
        let (reply, epoch) = match work {
            Work::Stage { reply, .. } => (Some(*reply), Epoch(number.0.saturating_sub(1))),
            Work::Activate { reply, .. } => (*reply, number),
        };
        if let Some(reply) = reply {
            self.reply(reply, node, said, Some(epoch), done);
        }
    }

    fn finish(&mut self, node: usize, work: Work, taken: Taken) -> Result<(), Violation> {
        let mut said = RecoveryAnswer::default();
        let done = taken.map_err(|why| format!("{why:?}"));
        let done = match (&work, done) {
            (Work::Stage { ballot, draft, .. }, Ok(_)) => {
                // An order of a higher ballot may have come meanwhile.
                self.check_ballot(node, ballot).map(|()| {
                    let hash = draft.hash(&chain_ref());
                    let key = &self.nodes[node].key;
                    let word = Acknowledgement::new(&chain_ref(), *ballot, &hash, key);
                    said.acknowledgement = Some(word);
                })
            }
            (Work::Activate { .. }, Ok(now)) => {
                if now {
                    self.begin(node)?;
                    self.tell_recovery(node);
                }
                Ok(())
            }
            (_, Err(why)) => Err(why),
        };
        self.answer_work(node, &work, said, done);
        Ok(())
    }

    /// Keeps a draft and the block that it adopts, durably.
    fn stage(&mut self, node: usize, ballot: Ballot, work: &Work, block: Option<&Bytes>) -> Taken {
        let draft = work.record();
        let Self { nodes, judged, .. } = self;
        let disk = &mut nodes[node].disk;
        let fenced = self.setup.mutant != Some(Mutant::FenceIgnored);
        let higher = disk.staged.as_ref().filter(|staged| staged.ballot > ballot);
        if fenced && higher.is_some() {
            return Err(Misplaced::Void(
                "a draft of a higher ballot is staged".into(),
            ));
        }
        if has_seen(&disk.chain, draft) {
            return Err(Misplaced::Void("it is in force already".into()));
        }
        let placed = place(&disk.chain, draft, block, judged)?;
        let lost = || Misplaced::Void("power is lost".into());
        if !self.survives(node) {
            return Err(lost());
        }
        self.nodes[node].disk.staged = Some(Staged {
            ballot,
            draft: draft.clone(),
            block: placed.adopted,
        });
        self.log(format_args!("{node} has staged epoch {}", draft.number));
        match self.survives(node) {
            true => Ok(true),
            false => Err(lost()),
        }
    }

    /// Puts a record into force.
    pub(super) fn activate(
        &mut self,
        node: usize,
        signed: &SignedRecord,
        given: Option<&Bytes>,
    ) -> Result<Taken, Violation> {
        if !signed.verify(&chain_ref(), &authority().public()) {
            return Ok(Err(Misplaced::Void("not the authority's".into())));
        }
        let record = &signed.record;
        let Self { nodes, judged, .. } = self;
        let disk = &nodes[node].disk;
        if has_seen(&disk.chain, record) {
            return Ok(Ok(false));
        }
        let base = record.handover.as_deref().map(|handover| handover.base);
        let staged = disk
            .staged
            .as_ref()
            .and_then(|staged| staged.block.as_ref());
        let staged = staged.filter(|block| Some(ledger::hash(block)) == base);
        let placed = match place(&disk.chain, record, given.or(staged), judged) {
            Ok(placed) => placed,
            Err(why) => return self.misplaced(node, why).map(Err),
        };
        if record.kind == RecordKind::Recovery
            && let Err(why) = self.judged.acknowledged(signed, &placed.succeeded)
        {
            return Ok(Err(Misplaced::Void(why)));
        }
        if !self.survives(node) {
            return Ok(Err(Misplaced::Void("power is lost".into())));
        }
        match placed.adopted {
            Some(block) => {
                self.count("adopted block in force");
                self.store(node, block, BlockProof::Record(Box::new(signed.clone())))?;
            }
            None => self.nodes[node].disk.chain.enter(signed),
        }
        self.log(format_args!("{node}: epoch {} is in force", record.number));
        if !self.survives(node) {
            return Ok(Err(Misplaced::Void("power is lost".into())));
        }
        self.nodes[node].disk.staged = None;
        Ok(Ok(true))
    }

    /// A node that holds what contradicts a record of the authority stops for good. That may only be after
    /// an operator's word, or where a volume forgot something.
    fn misplaced(&mut self, node: usize, why: Misplaced) -> Result<Misplaced, Violation> {
        if let Misplaced::Conflict(what) = &why {
            let forced = self.setup.loss.as_ref().is_some_and(|loss| loss.forced);
            if !forced && !self.nodes[node].has_forgotten() {
                return Err(Violation {
                    invariant: "agreement",
                    what: format!("node {node} against a record: {what}"),
                });
            }
            self.count("conflict after force");
            self.nodes[node].disk.conflict = true;
            self.crash(node);
        }
        Ok(why)
    }

    fn recovery_in_force(&self, node: usize) -> Option<&SignedRecord> {
        let chain = &self.nodes[node].disk.chain;
        let newest = chain.newest.as_ref();
        newest.filter(|signed| signed.record.number == chain.set.epoch())
    }

    /// Tells the record in force to all.
    fn tell_recovery(&mut self, node: usize) {
        let Some(record) = self.recovery_in_force(node).cloned() else {
            return;
        };
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let record = Box::new(record.clone());
            self.send_own(node, other, |_, to| Event::Recovered { to, record });
        }
    }

    /// Tells it again while somebody in reach lacks it.
    pub(super) fn greet_with_recovery(&mut self, node: usize) {
        let Some(record) = self.recovery_in_force(node).map(|signed| &signed.record) else {
            return;
        };
        let (number, base) = (record.number, record.base_height);
        let lacks = |other: &usize| {
            let chain = &self.nodes[*other].disk.chain;
            let behind = chain.set.epoch() < number && chain.height().next() >= base;
            behind && self.nodes[*other].running.is_some() && self.net.joins(node, *other)
        };
        if (0..self.nodes.len()).any(|other| lacks(&other)) {
            self.tell_recovery(node);
        }
    }
}
