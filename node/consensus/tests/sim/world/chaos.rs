//! Faults, and their end.

use axolotl_common::{Epoch, Height};
use rand::{Rng, seq::IndexedRandom};

use super::{PROGRESS, World};
use crate::sim::{faults::Fault, invariants::Violation, ledger::Record};

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        self.log(format_args!("fault {fault:?}"));
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
            Fault::Slow(longest) => self.net.delay.1 = longest,
            Fault::HealNetwork => {
                self.net.cut.clear();
                self.net.only_prevotes_of = None;
                self.net.no_proposals_to.clear();
                self.net.relays = false;
            }
            Fault::NewEpoch => self.new_epoch()?,
        }
        Ok(())
    }

    /// The registry issues a record that puts a learner in the place of a validator, or rotates the
    /// list when there is none, and shows it to all.
    pub(super) fn new_epoch(&mut self) -> Result<(), Violation> {
        let newest = self
            .nodes
            .iter()
            .max_by_key(|node| node.disk.chain.height())
            .map(|node| (node.disk.chain.set.epoch(), node.disk.chain.members.clone()));
        let Some((succeeds, mut members)) = newest else {
            return Ok(());
        };
        let outside: Vec<u8> = (0..self.nodes.len())
            .map(|node| u8::try_from(node).unwrap())
            .filter(|node| !members.contains(node))
            .collect();
        // A liar is never swapped for an honest node, nor the other way: the number of liars stays.
        let honest: Vec<usize> = (0..members.len())
            .filter(|place| self.nodes[usize::from(members[*place])].is_honest())
            .collect();
        match (outside.first(), honest.choose(&mut self.rng)) {
            (Some(learner), Some(place)) => members[*place] = *learner,
            _ => members.rotate_left(1),
        }
        let number = Epoch(succeeds.0 + self.rng.random_range(1..4));
        self.record = Some(Record {
            succeeds,
            number,
            members,
        });
        for node in 0..self.nodes.len() {
            self.tell_work(node)?;
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
            self.boot(node)?;
        }
        let highest = self.nodes.iter().map(|n| n.disk.chain.height().0).max();
        self.goal = highest.map(|h| Height(h + PROGRESS));
        Ok(())
    }
}
