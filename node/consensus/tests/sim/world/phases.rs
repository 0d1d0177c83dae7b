//! From the first event to the last: faults, their end, and what must come of it.

use axolotl_common::{Height, registry_api::RecoveryPhase};

use super::{Event, GRACE, MAX_EVENTS, MAX_TRACE, Phase, World};
use crate::sim::{
    invariants::Violation,
    losses::{Expect, LossFault},
    net::Micros,
};

/// Blocks that every node must add in each phase of a run in which a quorum was lost.
const PROGRESS: u64 = 2;
/// With the faults lifted, blocks must come again within this time.
const PATIENCE: Micros = 120_000_000;
/// Where nothing is to happen, or where it depends, this long is waited.
const LULL: Micros = 15_000_000;
/// Where blocks are slow, the slowest node has time for so many more.
const SLOWEST_BLOCKS: u64 = 40;
/// An operator looks this often.
const OPERATOR: Micros = 4_000_000;

impl World {
    pub(super) fn run_to_end(&mut self) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            self.boot(node)?;
        }
        if self.setup.loss.is_some() {
            self.start_registry(0, 0);
        }
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            if self.trace.len() > MAX_TRACE || self.events.len() > MAX_EVENTS {
                return Err(Violation {
                    invariant: "progress",
                    what: "events without end".into(),
                });
            }
            self.handle(event)?;
            if self.is_over()? {
                let chains: Vec<_> = self
                    .nodes
                    .iter()
                    .filter(|node| node.is_honest() && !node.disk.conflict)
                    .map(|node| (node.number, &node.disk.chain))
                    .collect();
                return self.invariants.end(&chains);
            }
            let grace = match self.setup.loss {
                Some(_) => PATIENCE,
                None => GRACE,
            };
            let plan = &self.setup.plan;
            let slowest = plan.speeds.iter().max().copied().unwrap_or_default();
            let grace = grace + SLOWEST_BLOCKS * slowest * plan.block_cost;
            if self.healed && self.now > self.healed_at + grace {
                break;
            }
        }
        Err(self.no_progress())
    }

    fn no_progress(&self) -> Violation {
        let of_node = |n: &super::Node| {
            let driver = n.running.as_ref().map(|r| &r.driver);
            format!(
                "node {} at {} epoch {} round {:?} unfit {:?} held {:?} sealed {:?}",
                n.number,
                n.disk.chain.height(),
                n.disk.chain.set.epoch(),
                driver.and_then(|d| d.round()),
                driver.map(|d| d.is_unfit()),
                driver.map(|d| d.awaits_answers()),
                driver.and_then(|d| d.sealed()),
            )
        };
        let nodes: Vec<_> = self.nodes.iter().map(of_node).collect();
        let registries: Vec<_> = self
            .registries
            .iter()
            .flatten()
            .map(|process| format!("{:?}", process.recovery.shown()))
            .collect();
        Violation {
            invariant: "progress",
            what: format!(
                "{:?}, goal {:?} not reached: {nodes:#?} {registries:?}",
                self.phase, self.goal
            ),
        }
    }

    fn reached_goal(&self) -> bool {
        let counts = |node: &&super::Node| match self.setup.loss {
            None => node.is_honest() && !self.setup.gone.contains(&node.number),
            Some(_) => node.running.is_some(),
        };
        self.goal.is_some_and(|goal| {
            let mut heights = self.nodes.iter().filter(counts);
            heights.all(|node| node.disk.chain.height() >= goal)
        })
    }

    /// Whether the run is over; goes from one phase to the next.
    fn is_over(&mut self) -> Result<bool, Violation> {
        let reached = self.healed && self.reached_goal();
        let Some(loss) = &self.setup.loss else {
            return Ok(reached);
        };
        match self.phase {
            Phase::Faults => Ok(false),
            Phase::Whole => Ok(reached),
            Phase::Survivors => {
                let waited = self.now > self.healed_at + LULL;
                let due = match loss.expect {
                    Expect::Blocks => reached,
                    Expect::Nothing => waited,
                    Expect::Either => reached || waited,
                };
                if due {
                    if loss.expect == Expect::Nothing {
                        self.check_nothing_done()?;
                    }
                    self.log(format_args!("all return"));
                    self.whole()?;
                }
                Ok(false)
            }
        }
    }

    /// Fewer than enough survive: nobody has sealed, nothing is signed, and the registry says so.
    fn check_nothing_done(&mut self) -> Result<(), Violation> {
        let fail = |what: String| {
            Err(Violation {
                invariant: "nothing",
                what,
            })
        };
        let sealed = |node: &&super::Node| {
            let driver = node.running.as_ref().map(|running| &running.driver);
            driver.is_some_and(|driver| driver.sealed().is_some())
        };
        if let Some(node) = self.nodes.iter().find(sealed) {
            return fail(format!("node {} has sealed", node.number));
        }
        let Some(process) = self.registries[0].as_ref() else {
            return fail("the registry is dead".into());
        };
        if process.view.chain.records.len() > 1 {
            return fail("a record is signed".into());
        }
        let shown = process.recovery.shown();
        let says = shown.is_some_and(|shown| {
            shown.phase == RecoveryPhase::Waiting && shown.survivors < shown.needed
        });
        if !says {
            return fail(format!("the registry says {shown:?}"));
        }
        self.count("too few");
        Ok(())
    }

    /// The faults are lifted: one registry is left, the newest.
    pub(super) fn heal_registries(&mut self) -> Result<(), Violation> {
        if self.setup.loss.is_none() {
            return Ok(());
        }
        self.phase = Phase::Survivors;
        self.traps.clear();
        self.deluded = false;
        self.net_changed = self.now;
        let newest = |process: &crate::sim::registry::Process| {
            process.view.store == 0 || process.view.took_over.is_some()
        };
        let second = self.registries[1].as_ref().is_some_and(newest);
        match (second, self.registries[0].is_some()) {
            (true, _) => self.kill_registry(0),
            (false, true) => self.kill_registry(1),
            (false, false) if self.registries[1].is_none() => self.start_registry(0, 0),
            (false, false) => {}
        }
        self.set_goal();
        Ok(())
    }

    fn set_goal(&mut self) {
        let highest = self.nodes.iter().map(|n| n.disk.chain.height().0).max();
        self.goal = highest.map(|height| Height(height + PROGRESS));
    }

    /// Whoever was lost returns, with what its volume holds.
    fn whole(&mut self) -> Result<(), Violation> {
        self.phase = Phase::Whole;
        self.healed_at = self.now;
        for node in std::mem::take(&mut self.lost) {
            self.loss_fault(LossFault::Return(node))?;
        }
        for node in 0..self.nodes.len() {
            self.boot(node)?;
        }
        self.set_goal();
        self.after(OPERATOR, Event::Operator);
        Ok(())
    }

    /// An operator lets a registry take over that is refused.
    pub(super) fn operate(&mut self) {
        self.after(OPERATOR, Event::Operator);
        for slot in 0..self.registries.len() {
            let process = self.registries[slot].as_ref();
            let shown = process.and_then(|process| process.recovery.shown());
            if shown.is_some_and(|shown| shown.phase == RecoveryPhase::Waiting) {
                self.take_over(slot);
            }
        }
    }
}
