//! The thread of each node that builds and checks blocks, one after the other, at a speed of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use axolotl_common::{Epoch, Hash, Height, Round};
use axolotl_consensus::{Input, Verdict};
use bytes::Bytes;
use rand::Rng;

use super::{Event, Mutant, World};
use crate::sim::{
    invariants::Violation,
    ledger::{self, Block},
    net::Micros,
};

/// The limit that the mutant "budget on a block with a polka" puts on its execution.
const MUTANT_LIMIT: Micros = 500_000;

/// What is under way and waits on one node.
#[derive(Debug, Default)]
pub(crate) struct Executor {
    jobs: VecDeque<Job>,
    /// When the first job was begun.
    started: Option<Micros>,
    /// Verdicts of this start, by block: what the log may say of it.
    pub(crate) verdicts: BTreeMap<Hash, bool>,
    /// Rounds in which a block was executed that only its proposer stood behind.
    first_hand: BTreeSet<(Epoch, Height, Round)>,
    /// For the mutant "verdict kept across epochs": what was built at a height.
    built: BTreeMap<Height, Bytes>,
}

#[derive(Clone, Debug)]
struct Job {
    number: u64,
    what: What,
    cost: Micros,
    limit: Option<Micros>,
}

#[derive(Clone, Debug)]
enum What {
    Build {
        height: Height,
        round: Round,
        bytes: Bytes,
    },
    Check {
        height: Height,
        round: Round,
        block: Hash,
        bytes: Bytes,
    },
}

impl World {
    /// Time that a node needs for a block of so many transactions.
    fn cost(&mut self, node: usize, transactions: usize) -> Micros {
        let plan = &self.setup.plan;
        let speed = plan.speeds.get(node).copied().unwrap_or(1);
        let work = plan.block_cost + plan.transaction_cost * transactions as u64;
        speed * work + self.rng.random_range(100..self.setup.plan.execution)
    }

    pub(super) fn order_build(
        &mut self,
        node: usize,
        height: Height,
        round: Round,
        budget: std::time::Duration,
    ) -> Result<(), Violation> {
        let plan = &self.setup.plan;
        let speed = plan.speeds.get(node).copied().unwrap_or(1);
        let budget = Micros::try_from(budget.as_micros()).unwrap();
        let most = match speed * plan.transaction_cost {
            _ if budget == 0 => 0,
            0 => usize::MAX,
            // One transaction at least, as long as there is a budget at all.
            each => usize::try_from(budget / each).unwrap().max(1),
        };
        let nonce = self.rng.random();
        let block = self.nodes[node].build(nonce, most);
        let cost = self.cost(node, block.transactions.len());
        let mut bytes = block.encode();
        if self.setup.mutant == Some(Mutant::VerdictKeptAcrossEpochs)
            && let Some(running) = self.nodes[node].running.as_mut()
        {
            bytes = running
                .executor
                .built
                .entry(height)
                .or_insert(bytes)
                .clone();
        }
        let what = What::Build {
            height,
            round,
            bytes,
        };
        self.order(node, what, cost, None)
    }

    pub(super) fn order_check(
        &mut self,
        node: usize,
        (height, round, block): (Height, Round, Hash),
        bytes: Bytes,
        limit: Option<std::time::Duration>,
    ) -> Result<(), Violation> {
        if ledger::hash(&bytes) != block {
            return Err(Violation {
                invariant: "bodies",
                what: format!("node {node} executes bytes that are not block {block}"),
            });
        }
        let (transactions, extra) =
            Block::decode(&bytes).map_or((0, 0), |block| (block.transactions.len(), block.extra));
        let cost = self.cost(node, transactions) + extra;
        if limit.is_some() {
            self.note_first_hand(node, height, round)?;
        }
        let what = What::Check {
            height,
            round,
            block,
            bytes,
        };
        let limit = limit.map(|limit| Micros::try_from(limit.as_micros()).unwrap());
        let limit = match self.setup.mutant {
            Some(Mutant::BudgetOnPolka) => limit.or(Some(MUTANT_LIMIT)),
            Some(Mutant::ChecksWithoutEnd) => None,
            _ => limit,
        };
        self.order(node, what, cost, limit)
    }

    /// A node begins to execute a block that only its proposer stands behind: one a round.
    fn note_first_hand(
        &mut self,
        node: usize,
        height: Height,
        round: Round,
    ) -> Result<(), Violation> {
        let honest = self.nodes[node].is_honest();
        let epoch = self.nodes[node].disk.chain.set.epoch();
        let Some(running) = self.nodes[node].running.as_mut() else {
            return Ok(());
        };
        let is_first = running.executor.first_hand.insert((epoch, height, round));
        if honest && !is_first {
            return Err(Violation {
                invariant: "executions",
                what: format!("node {node} executes a second block of {height}/{round}"),
            });
        }
        Ok(())
    }

    fn order(
        &mut self,
        node: usize,
        what: What,
        cost: Micros,
        limit: Option<Micros>,
    ) -> Result<(), Violation> {
        self.number += 1;
        let number = self.number;
        if let Some(running) = self.nodes[node].running.as_mut() {
            running.executor.jobs.push_back(Job {
                number,
                what,
                cost,
                limit,
            });
        }
        self.begin_job(node);
        Ok(())
    }

    /// Begins the first job, if none is under way.
    fn begin_job(&mut self, node: usize) {
        let (now, boot) = (self.now, self.nodes[node].boot);
        let Some(running) = self.nodes[node].running.as_mut() else {
            return;
        };
        let executor = &mut running.executor;
        if executor.started.is_some() {
            return;
        }
        let Some(job) = executor.jobs.front() else {
            return;
        };
        executor.started = Some(now);
        let number = job.number;
        let takes = job.limit.map_or(job.cost, |limit| job.cost.min(limit));
        self.after(takes, Event::Executed { node, boot, number });
    }

    /// A job has ended, by itself or by its limit.
    pub(super) fn executed(&mut self, node: usize, number: u64) -> Result<(), Violation> {
        let Some(running) = self.nodes[node].running.as_mut() else {
            return Ok(());
        };
        let executor = &mut running.executor;
        if executor.jobs.front().is_none_or(|job| job.number != number) {
            return Ok(()); // cancelled, or its limit was lifted
        }
        let Some(job) = executor.jobs.pop_front() else {
            return Ok(());
        };
        executor.started = None;
        let input = match job.what {
            What::Build {
                height,
                round,
                bytes,
            } => {
                let block = ledger::hash(&bytes);
                executor.verdicts.insert(block, true);
                Input::Built {
                    height,
                    round,
                    block,
                    bytes,
                }
            }
            What::Check {
                height,
                round,
                block,
                bytes,
            } => {
                let verdict = if job.limit.is_some_and(|limit| limit < job.cost) {
                    *self.tally.entry("not yet".into()).or_default() += 1;
                    Verdict::NotYet
                } else {
                    self.verdict(node, block, &bytes)
                };
                Input::Checked {
                    height,
                    round,
                    block,
                    verdict,
                }
            }
        };
        self.begin_job(node);
        self.step(node, input)
    }

    fn verdict(&mut self, node: usize, block: Hash, bytes: &[u8]) -> Verdict {
        let kept = self.setup.mutant == Some(Mutant::VerdictKeptAcrossEpochs);
        let chain = &self.nodes[node].disk.chain;
        let verdict = match Block::decode(bytes).map(|decoded| chain.check(&decoded)) {
            Some(Ok(())) => Verdict::Valid,
            Some(Err(why)) => Verdict::Invalid(why),
            None => Verdict::Invalid("not a block".into()),
        };
        let Some(running) = self.nodes[node].running.as_mut() else {
            return verdict;
        };
        let verdicts = &mut running.executor.verdicts;
        if kept && verdicts.get(&block) == Some(&true) {
            return Verdict::Valid;
        }
        verdicts.insert(block, verdict == Verdict::Valid);
        verdict
    }

    pub(super) fn lift_limit(&mut self, node: usize, block: Hash) {
        let (now, boot) = (self.now, self.nodes[node].boot);
        if self.setup.mutant == Some(Mutant::BudgetOnPolka) {
            return;
        }
        self.number += 1;
        let number = self.number;
        let Some(running) = self.nodes[node].running.as_mut() else {
            return;
        };
        let executor = &mut running.executor;
        let of_block =
            |job: &&mut Job| matches!(&job.what, What::Check { block: of, .. } if *of == block);
        let first = executor.jobs.front().map(|job| job.number);
        let Some(job) = executor.jobs.iter_mut().find(of_block) else {
            return;
        };
        let is_first = first == Some(job.number);
        job.limit = None;
        job.number = number;
        if let Some(started) = executor.started.filter(|_| is_first) {
            let left = (started + job.cost).saturating_sub(now);
            self.after(left, Event::Executed { node, boot, number });
        }
    }

    pub(super) fn cancel_build(&mut self, node: usize, height: Height, round: Round) {
        self.cancel(node, |what| {
            matches!(what, What::Build { height: h, round: r, .. } if (*h, *r) == (height, round))
        });
    }

    pub(super) fn cancel_check(&mut self, node: usize, block: Hash) {
        if self.setup.mutant == Some(Mutant::ChecksWithoutEnd) {
            return;
        }
        self.cancel(
            node,
            |what| matches!(what, What::Check { block: of, .. } if *of == block),
        );
    }

    fn cancel(&mut self, node: usize, which: impl Fn(&What) -> bool) {
        let Some(running) = self.nodes[node].running.as_mut() else {
            return;
        };
        let executor = &mut running.executor;
        let first = executor.jobs.front().map(|job| job.number);
        executor.jobs.retain(|job| !which(&job.what));
        if executor.jobs.front().map(|job| job.number) != first {
            executor.started = None;
        }
        self.begin_job(node);
    }
}
