//! Faults, and their end.

use axolotl_common::{Epoch, EpochRecord, Height, membership::RecordKind};
use rand::{Rng, seq::IndexedRandom};

use super::{PROGRESS, World};
use crate::sim::{
    faults::{Change, Fault},
    invariants::Violation,
    ledger::{member, number_of},
};

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.setup.loss.is_some() && self.healed {
            return Ok(());
        }
        self.log(format_args!("fault {fault:?}"));
        self.note_fault(&fault);
        let nodes = self.nodes.len();
        let all: Vec<usize> = (0..nodes).collect();
        match fault {
            Fault::Crash(node) => self.crash(node),
            Fault::CrashAfter(node, effects) => {
                if let Some(running) = self.nodes[node].running.as_mut() {
                    running.crash_in = Some(effects);
                }
            }
            Fault::Snapshot(node) => {
                let disk = self.nodes[node].disk.clone();
                self.nodes[node].snapshot = Some(disk);
            }
            Fault::RollBack(node) => {
                self.crash(node);
                if let Some(disk) = self.nodes[node].snapshot.take() {
                    self.nodes[node].rolled_back = Some(disk.chain.height());
                    self.nodes[node].disk = disk;
                    self.count("volume rolled back");
                }
            }
            Fault::CrashAll => all.iter().for_each(|node| self.crash(*node)),
            Fault::Restart(node) => self.boot(node)?,
            Fault::CutHalf => {
                let rng = &mut self.rng;
                let (left, right): (Vec<_>, Vec<_>) =
                    all.iter().partition(|_| rng.random_bool(0.5));
                self.net.cut_groups(&left, &right);
            }
            Fault::CutRing => self.net.cut_to_ring(nodes),
            Fault::CutOne(node) => {
                let others: Vec<_> = all.into_iter().filter(|other| *other != node).collect();
                self.net.cut_groups(&[node], &others);
            }
            Fault::CutGroups(left) => {
                let right: Vec<_> = all
                    .into_iter()
                    .filter(|node| !left.contains(node))
                    .collect();
                self.net.cut_groups(&left, &right);
            }
            Fault::CutOneWay(node) => {
                self.net.cut.extend(all.iter().map(|other| (node, *other)));
            }
            Fault::Starve { decides, unlocked } => {
                self.net.only_prevotes_of = Some(decides);
                self.net.no_proposals_to = unlocked.into_iter().collect();
            }
            Fault::Noise(loss, duplicate, corrupt) => {
                self.net.loss = f64::from(loss) / 100.0;
                self.net.duplicate = f64::from(duplicate) / 100.0;
                self.net.corrupt = f64::from(corrupt) / 100.0;
            }
            Fault::Far(node, longer) => self.net.far = Some((node, longer)),
            Fault::Voiceless(node) => self.net.voiceless = Some(node),
            Fault::Slow(longest) => self.net.delay.1 = longest,
            Fault::HealNetwork => {
                self.net.cut.clear();
                self.net.only_prevotes_of = None;
                self.net.no_proposals_to.clear();
                self.net.script = None;
                self.net.relays = false;
            }
            Fault::NewEpoch(change) => self.new_epoch(change)?,
            Fault::Loss(fault) => self.loss_fault(fault)?,
        }
        Ok(())
    }

    /// The registry signs a record, and orders every node that it reaches to carry it.
    ///
    /// A liar neither enters nor leaves, and the set always bears those that are in it.
    pub(super) fn new_epoch(&mut self, change: Change) -> Result<(), Violation> {
        let Some(newest) = self
            .nodes
            .iter()
            .max_by_key(|node| node.disk.chain.height())
        else {
            return Ok(());
        };
        let chain = &newest.disk.chain;
        let (succeeds, epoch) = (chain.set.record_hash(), chain.set.epoch());
        let height = chain.height();
        let leader = chain.blocks.last().map(|stored| stored.block.builder);
        let mut members: Vec<usize> = chain.set.members().iter().map(number_of).collect();
        let outside: Vec<usize> = (0..self.nodes.len())
            .filter(|node| !members.contains(node))
            .collect();
        let honest: Vec<usize> = (0..members.len())
            .filter(|place| self.nodes[members[*place]].is_honest())
            .collect();
        let liars = members.len() - honest.len();
        let leads = |place: &&usize| Some(self.nodes[members[**place]].key.public()) == leader;
        let leads = honest.iter().find(leads).copied();
        let place = match change {
            Change::LeaderOut => leads.or_else(|| honest.choose(&mut self.rng).copied()),
            _ => honest.choose(&mut self.rng).copied(),
        };
        let may_shrink = 3 * liars < members.len() - 1;
        match (change, outside.choose(&mut self.rng), place) {
            (Change::Grow, Some(learner), _) => {
                let at = self.rng.random_range(0..=members.len());
                members.insert(at, *learner);
            }
            (Change::Shrink, _, Some(place)) | (Change::LeaderOut, None, Some(place))
                if may_shrink =>
            {
                members.remove(place);
            }
            (Change::Swap | Change::LeaderOut | Change::Expires, Some(learner), Some(place)) => {
                members[place] = *learner;
            }
            _ => members.rotate_left(1),
        }
        let expiry = match change {
            Change::Expires => Some(Height(height.0 + self.rng.random_range(1..4))),
            _ if self.rng.random_bool(0.5) => Some(Height(height.0 + 100)),
            _ => None,
        };
        // A number is never used twice, whether its record came into a block or not.
        let above = self.record.as_ref().map_or(epoch, |r| r.number.max(epoch));
        let number = Epoch(above.0 + self.rng.random_range(1..4));
        let record = EpochRecord {
            number,
            kind: RecordKind::Planned,
            succeeds,
            members: members.into_iter().map(member).collect(),
            base_height: height,
            expiry_height: expiry,
            handover: None,
        };
        self.log(format_args!("the registry signs epoch {number}"));
        self.record = Some(record);
        for node in 0..self.nodes.len() {
            self.order_record(node)?;
        }
        Ok(())
    }

    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.log(format_args!("all faults are lifted"));
        self.net.heal();
        self.healed = true;
        for node in 0..self.nodes.len() {
            if let Some(running) = self.nodes[node].running.as_mut() {
                running.crash_in = None;
            }
            if self.lost.contains(&node) || self.setup.gone.contains(&node) {
                continue;
            }
            self.boot(node)?;
            self.order_record(node)?;
        }
        let highest = self.nodes.iter().map(|n| n.disk.chain.height().0).max();
        self.goal = highest.map(|h| Height(h + PROGRESS));
        self.healed_at = self.now;
        self.heal_registries()
    }
}
