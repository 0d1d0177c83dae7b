//! Faults of recoveries, and what is checked when somebody seals.

use axolotl_common::Epoch;
use axolotl_consensus::{Message, message::Payload};

use super::{Event, World};
use crate::sim::{
    disk::Disk,
    faults::Fault,
    invariants::Violation,
    ledger::{self, Chain, number_of},
    losses::{LossFault, Trap},
    net::Micros,
};

/// For so long nothing must have happened to a node or to the network before it is sure that others see
/// the node alive.
const PEACE: Micros = 6_000_000;

impl World {
    pub(super) fn count(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_default() += 1;
    }

    pub(super) fn handle_recovery(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Look(which) => self.look(which),
            Event::Order {
                from,
                node,
                boot,
                order,
            } if self.is_up(node, boot) => self.obey(from, node, order),
            Event::Answer {
                to,
                node,
                answer,
                refusal,
            } => {
                self.hear(to, node, *answer, refusal);
                Ok(())
            }
            Event::Recovered { to, record } => self.pass_on(to, *record),
            Event::BlockWanted { from, to, block } => {
                self.give_block(from, to, block);
                Ok(())
            }
            Event::BlockGiven { to, block, bytes } => self.block_given(to, block, bytes),
            Event::TaskLate { node, boot, number } if self.is_up(node, boot) => {
                self.task_late(node, number);
                Ok(())
            }
            Event::Operator => {
                self.operate();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn loss_fault(&mut self, fault: LossFault) -> Result<(), Violation> {
        match fault {
            LossFault::Lose(nodes) => {
                let (n, gone) = (self.setup.n, self.lost.len() + nodes.len());
                self.count(format!("{} of {n} stay", n - gone));
                for node in nodes {
                    self.crash(node);
                    self.lost.insert(node);
                }
            }
            LossFault::Return(node) => {
                self.lost.remove(&node);
                self.note_return(node);
                self.boot(node)?;
            }
            LossFault::Wipe(node) => self.wipe(node),
            LossFault::Script(script) => self.net.script = Some(script),
            LossFault::KillRegistry(slot) => {
                self.kill_registry(slot);
            }
            LossFault::StartRegistry { slot, store } => self.start_registry(slot, store),
            LossFault::CopyStore(to) => {
                self.stores[to] = self.stores[0].clone();
                self.stores[to].copied = true;
            }
            LossFault::CutRegistry(slot, nodes) => {
                self.net
                    .unheard
                    .extend(nodes.iter().map(|node| (slot, *node)));
            }
            LossFault::Deluded => self.deluded = true,
            LossFault::Planned => self.plan_record(),
            LossFault::TakeOver(slot) => self.take_over(slot),
            LossFault::AcceptLoss => self.accept_loss(),
        }
        Ok(())
    }

    /// The network is another one.
    pub(super) fn note_fault(&mut self, fault: &Fault) {
        match fault {
            Fault::Crash(_) | Fault::CrashAfter(..) | Fault::Restart(_) | Fault::Loss(_) => {}
            _ => self.net_changed = self.now,
        }
    }

    fn wipe(&mut self, node: usize) {
        self.crash(node);
        let volume = ledger::new_volume(node);
        let rule = self.nodes[node].disk.chain.rule;
        self.nodes[node].disk = Disk::new(Chain::new(self.setup.n, rule), volume);
        self.count("volume wiped");
    }

    fn note_return(&mut self, node: usize) {
        let key = self.nodes[node].key.public();
        let mine = self.nodes[node].disk.chain.set.epoch();
        let newer = |n: &&super::Node| {
            let set = &n.disk.chain.set;
            set.epoch() > mine && !set.contains(&key) && n.disk.chain.newest.is_some()
        };
        if self.nodes.iter().any(|n| newer(&n)) {
            self.count("zombie after the record");
        } else if self.nodes.iter().any(|n| {
            let driver = n.running.as_ref().map(|running| &running.driver);
            driver.is_some_and(|driver| driver.sealed() >= Some(mine))
        }) {
            self.count("zombie between seal and record");
        }
    }

    /// A registry is about to write something down, or has.
    pub(super) fn spring(&mut self, before: bool) -> Result<(), Violation> {
        let (now, write) = (self.now, self.writes);
        let due = |trap: &Trap| trap.write == write && trap.before == before;
        let (sprung, left) = std::mem::take(&mut self.traps).into_iter().partition(due);
        self.traps = left;
        let sprung: Vec<Trap> = sprung;
        for (delay, fault) in sprung.into_iter().flat_map(|trap| trap.faults) {
            let when = if before { "before" } else { "after" };
            match &fault {
                Fault::Loss(LossFault::KillRegistry(_)) => {
                    self.count(format!("registry dies {when} write {write}"));
                }
                Fault::Crash(_) | Fault::CrashAfter(..) => {
                    self.count(format!("second loss {when} write {write}"));
                }
                _ => {}
            }
            match delay {
                0 => self.fault(fault)?,
                _ => self.at(now + delay, Event::Fault(fault)),
            }
        }
        Ok(())
    }

    /// A node has sealed an epoch: no quorum may be alive that has not.
    pub(super) fn sealed(&mut self, node: usize, epoch: Epoch) -> Result<(), Violation> {
        if self.setup.loss.is_none() {
            return Err(Violation {
                invariant: "sealed",
                what: format!("node {node} sealed {epoch}, which nobody asked for"),
            });
        }
        self.log(format_args!("{node} has sealed epoch {epoch}"));
        self.count("seal");
        self.invariants.sealed(node, epoch)?;
        let now = self.now;
        let set = &self.nodes[node].disk.chain.set;
        let peaceful = |at: Micros| now.saturating_sub(at) >= PEACE;
        let lives = |other: usize| {
            let Some(running) = &self.nodes[other].running else {
                return false;
            };
            let unsealed = running.driver.sealed() < Some(set.epoch()) || other == node;
            let joined = other == node || self.net.joins(node, other);
            unsealed && joined && peaceful(running.since) && !self.nodes[other].is_unfit()
        };
        let members = set.members().iter().map(number_of);
        let alive = members.filter(|member| lives(*member)).count();
        if alive >= set.quorum() && peaceful(self.net_changed) {
            return Err(Violation {
                invariant: "healthy",
                what: format!(
                    "node {node} seals epoch {epoch} while {alive} unsealed members live"
                ),
            });
        }
        Ok(())
    }

    /// The node's log lacks a seal.
    pub(super) fn seal_lost(&mut self, node: usize, epoch: Epoch) -> Result<(), Violation> {
        self.log(format_args!("{node} lost its seal of epoch {epoch}"));
        self.unfit.insert(node);
        self.count("lost seal found out");
        let forgot = self.nodes[node].has_forgotten() || self.setup.mutant.is_some();
        match forgot {
            true => Ok(()),
            false => Err(Violation {
                invariant: "fitness",
                what: format!("node {node} lost nothing, and is told of a seal of {epoch}"),
            }),
        }
    }

    /// Nobody votes with another volume than the record names.
    pub(super) fn check_wiped(&self, node: usize, message: &Message) -> Result<(), Violation> {
        let vote = matches!(message.payload, Payload::Vote(_) | Payload::Proposal { .. });
        let set = self.nodes[node].disk.chain.sets.get(&message.epoch());
        let member = set.and_then(|set| set.member(&self.nodes[node].key.public()));
        let other = member.is_some_and(|member| member.volume_id != self.nodes[node].disk.volume);
        if vote && other {
            return Err(Violation {
                invariant: "wiped",
                what: format!("node {node} votes with another volume"),
            });
        }
        Ok(())
    }
}
