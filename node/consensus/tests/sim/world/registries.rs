//! What a registry's process does around the real machine: it looks, writes down, and sends.

use std::{collections::BTreeMap, time::Duration};

use axolotl_common::{
    Epoch, Member, PublicKey,
    membership::RecordKind,
    recovery::{StartId, fewest_survivors},
    registry_api::{Order, RecoverRequest, RecoveryAnswer},
};
use axolotl_registry::cluster::{
    chain::EpochNews,
    recovery::{Change, Facts, Seen, Step},
    survey::LEVEL_BLOCKS,
};
use rand::Rng;

use super::{Event, World};
use crate::sim::{
    invariants::Violation,
    ledger::{self, authority, number_of},
    net::Micros,
    registry::{Link, Process, View, adopt},
    task::Reply,
};

/// Pause between two looks.
const LOOK: Micros = 250_000;
/// Writes of one look, more than any recovery has in a row.
const STEPS_PER_LOOK: usize = 300;

impl World {
    pub(super) fn kill_registry(&mut self, slot: usize) {
        if self.registries[slot].take().is_some() {
            self.log(format_args!("registry {slot} dies"));
        }
    }

    pub(super) fn start_registry(&mut self, slot: usize, store: usize) {
        self.kill_registry(slot);
        self.lives += 1;
        let life = self.lives;
        self.stores[store].start(self.rng.random());
        self.registries[slot] = Some(Process::new(store, &self.stores[store], life));
        self.log(format_args!("registry {slot} starts on store {store}"));
        self.after(1_000, Event::Look(Reply { slot, life }));
    }

    fn lives(&self, which: Reply) -> bool {
        let process = self.registries[which.slot].as_ref();
        process.is_some_and(|process| process.view.life == which.life)
    }

    /// One look: streams, epochs, then steps until nothing is left to be written down.
    pub(super) fn look(&mut self, which: Reply) -> Result<(), Violation> {
        if !self.lives(which) {
            return Ok(());
        }
        self.after(LOOK, Event::Look(which));
        self.follow_epochs(which.slot);
        for _ in 0..STEPS_PER_LOOK {
            if !self.lives(which) {
                return Ok(());
            }
            match self.next_step(which.slot) {
                Step::Rest => break,
                Step::Send(orders) => {
                    self.give_all(which, orders)?;
                    break;
                }
                Step::Write { change, told } => self.carry_out(which, &change, &told)?,
            }
        }
        self.relink(which);
        Ok(())
    }

    fn next_step(&mut self, slot: usize) -> Step {
        let Some(mut process) = self.registries[slot].take() else {
            return Step::Rest;
        };
        let now = Duration::from_micros(self.now);
        let seen = self.seen(slot, &process.view);
        let step = process.recovery.step(&seen, now);
        self.registries[slot] = Some(process);
        step
    }

    fn hears(&self, slot: usize, node: usize) -> bool {
        self.nodes[node].running.is_some() && !self.net.unheard.contains(&(slot, node))
    }

    fn seen<'p>(&self, slot: usize, process: &'p View) -> Seen<'p> {
        let heard: Vec<usize> = (0..self.nodes.len())
            .filter(|node| self.hears(slot, *node) && process.links.contains_key(node))
            .collect();
        let height = |node: usize| self.nodes[node].disk.chain.height();
        let highest = heard.iter().map(|node| height(*node).0).max().unwrap_or(0);
        let set = &process.chain.validators;
        let pending = process.planned().map(|signed| &signed.record.members);
        let known = self.stores[process.store].known.iter().copied();
        let facts = known
            .filter(|node| !self.nodes[*node].is_unfit())
            .map(|node| {
                let member = Member {
                    volume_id: self.nodes[node].disk.volume,
                    ..ledger::member(node)
                };
                let key = member.public_key;
                let heard_here = heard.contains(&node);
                let reached = |other: &usize| self.net.joins(node, *other);
                let up = self.nodes[node].running.is_some();
                let by_peers = up && heard.iter().any(reached) && !self.deluded;
                let votes = set.contains(&key)
                    || pending.is_some_and(|members| members.iter().any(|m| m.public_key == key));
                let link = process.links.get(&node).filter(|_| heard_here);
                let facts = Facts {
                    member,
                    stream: link.map_or(0, |link| link.number),
                    heard: heard_here,
                    live: heard_here || by_peers,
                    candidate: heard_here && !votes,
                    level: heard_here && height(node).0 + LEVEL_BLOCKS >= highest,
                    height: height(node),
                };
                (key, facts)
            });
        let nodes: BTreeMap<PublicKey, Facts> = facts.collect();
        Seen {
            epochs: process.chain.epochs(authority().public()),
            nodes,
            trust: self
                .setup
                .loss
                .as_ref()
                .map(|l| l.trust)
                .unwrap_or_default(),
            obstacle: self.obstacle(process, &heard),
        }
    }

    fn obstacle(&self, process: &View, heard: &[usize]) -> Option<String> {
        let reports = self.reports(heard);
        if let Some(epoch) = process.chain.is_outdated(&reports) {
            return Some(format!("epoch {epoch} was never signed here"));
        }
        let members = || process.chain.validators.members().iter().map(number_of);
        let runs = members().any(|node| self.nodes[node].running.is_some());
        let silent = !members().any(|node| heard.contains(&node));
        (runs && silent && !self.deluded).then(|| "this registry seems to be cut off".to_owned())
    }

    fn reports(&self, heard: &[usize]) -> Vec<(PublicKey, axolotl_common::Height, Epoch)> {
        let report = |node: &usize| {
            let chain = &self.nodes[*node].disk.chain;
            (
                self.nodes[*node].key.public(),
                chain.height(),
                chain.set.epoch(),
            )
        };
        heard.iter().map(report).collect()
    }

    /// Looks whether the pending record is in force or void by now.
    fn follow_epochs(&mut self, slot: usize) {
        let heard: Vec<usize> = (0..self.nodes.len())
            .filter(|node| self.hears(slot, *node))
            .collect();
        let reports = self.reports(&heard);
        let Some(process) = self.registries[slot].as_mut() else {
            return;
        };
        let Some(news) = process.view.chain.news(&reports) else {
            return;
        };
        let store = &mut self.stores[process.view.store].chain;
        match news {
            EpochNews::InForce(epoch) => {
                process.view.chain.enter(epoch);
                store.enter(epoch);
            }
            EpochNews::Void(_) => {
                process.view.chain.pending = None;
                store.pending = None;
            }
        }
        self.log(format_args!("registry {slot}: {news:?}"));
    }

    /// Opens and closes control streams, and sends on each what is news on it.
    fn relink(&mut self, which: Reply) {
        for node in 0..self.nodes.len() {
            let boot = self.nodes[node].boot;
            let reached = self.hears(which.slot, node);
            self.number += 1;
            let number = self.number;
            let Some(process) = self.registries[which.slot].as_mut() else {
                return;
            };
            process
                .view
                .links
                .retain(|other, link| *other != node || (reached && link.boot == boot));
            if !reached {
                continue;
            }
            self.stores[process.view.store].known.insert(node);
            let link = process.view.links.entry(node).or_insert(Link {
                number,
                boot,
                met: None,
                recovered: None,
                pending: None,
                last: 0,
            });
            let mut orders = Vec::new();
            let start = process.recovery.memory().starts.last().copied();
            if link.met != start {
                link.met = start;
                orders.push(process.recovery.introduction());
            }
            let recovered = process.view.chain.newest_recovery();
            let number = recovered.map(|signed| signed.record.number);
            if link.recovered != number {
                link.recovered = number;
                let record = recovered.cloned();
                orders.extend(record.map(|record| Order::EpochRecord { record }));
            }
            let pending = process.view.chain.pending.as_ref();
            let number = pending.map(|signed| signed.record.number);
            if link.pending != number {
                link.pending = number;
                let record = pending.cloned();
                orders.extend(record.map(|record| Order::EpochRecord { record }));
            }
            for order in orders {
                self.give(which, node, order);
            }
        }
    }

    /// An order on a node's control stream.
    fn give(&mut self, which: Reply, node: usize, order: Order) {
        let delay = self.rng.random_range(500..20_000);
        let at = self.now + delay;
        let process = self.registries[which.slot].as_mut();
        let Some(link) = process.and_then(|process| process.view.links.get_mut(&node)) else {
            return;
        };
        link.last = at.max(link.last + 1);
        let (at, boot) = (link.last, link.boot);
        self.at(
            at,
            Event::Order {
                from: which,
                node,
                boot,
                order,
            },
        );
    }

    fn give_all(&mut self, which: Reply, orders: Vec<(PublicKey, Order)>) -> Result<(), Violation> {
        self.check_entitled(which.slot)?;
        for (key, order) in orders {
            let to = self.nodes.iter().find(|node| node.key.public() == key);
            let Some(to) = to.map(|node| node.number) else {
                continue;
            };
            self.give(which, to, order);
        }
        Ok(())
    }

    /// A copy of a store that no quorum has met does nothing by itself.
    fn check_entitled(&self, slot: usize) -> Result<(), Violation> {
        let Some(process) = &self.registries[slot] else {
            return Ok(());
        };
        let memory = process.recovery.memory();
        let set = &process.view.chain.validators;
        let met = memory.starts.last().and_then(|start| self.met.get(start));
        let members = set.members().iter().map(number_of);
        let met = members.filter(|node| met.is_some_and(|met| met.contains(node)));
        let by_word = process.view.took_over.is_some();
        if self.stores[process.view.store].copied && !by_word && met.count() < set.quorum() {
            return Err(Violation {
                invariant: "copies",
                what: format!("registry {slot} on a copy of the store acts by itself"),
            });
        }
        Ok(())
    }

    /// Makes a change durable and takes it over; before and after it the process may die.
    fn carry_out(&mut self, which: Reply, change: &Change, told: &str) -> Result<(), Violation> {
        self.writes += 1;
        let write = self.writes;
        self.log(format_args!(
            "registry {} writes {write}: {told}",
            which.slot
        ));
        self.spring(true)?;
        if !self.lives(which) {
            return Ok(());
        }
        self.check_entitled(which.slot)?;
        let Some(process) = self.registries[which.slot].as_mut() else {
            return Ok(());
        };
        let store = &mut self.stores[process.view.store];
        let Some(signed) = store.write(change) else {
            self.log(format_args!("registry {}: its store refuses", which.slot));
            self.count("store refused a record");
            self.kill_registry(which.slot);
            return Ok(());
        };
        if let Some(signed) = signed {
            adopt(&mut process.view.chain, &signed);
            if matches!(change, Change::Record { .. }) {
                self.check_record(which.slot, &signed.record)?;
            }
        }
        if let Change::Propose { members } = change {
            self.count("given up and healed");
            self.propose(which.slot, members.clone());
        }
        self.spring(false)?;
        if self.lives(which)
            && let Some(process) = self.registries[which.slot].as_mut()
        {
            process.recovery.apply(change);
        }
        Ok(())
    }

    /// A record is durable: whatever reads it from here on finds it.
    fn check_record(
        &mut self,
        slot: usize,
        record: &axolotl_common::EpochRecord,
    ) -> Result<(), Violation> {
        self.invariants.signed(record)?;
        let forced = record.kind == RecordKind::Forced;
        let handover = record.handover.as_deref();
        if handover.is_some_and(|handover| handover.adopted) {
            self.count("adopted block in a record");
        }
        self.count(if forced {
            "forced record"
        } else {
            "recovery record"
        });
        if self.registries[slot]
            .as_ref()
            .is_some_and(|p| p.view.took_over.is_some())
        {
            self.count("record after a take-over");
        }
        let fail = |what: String| {
            Err(Violation {
                invariant: "condition",
                what: format!("epoch {}: {what}", record.number),
            })
        };
        let allowed = self.setup.loss.as_ref().is_some_and(|loss| loss.forced);
        if forced && !allowed {
            return fail("nobody accepted a loss of data".into());
        }
        let Some(process) = self.registries[slot].as_ref().filter(|_| !forced) else {
            return Ok(());
        };
        // By the intact volumes alone.
        let set = process
            .view
            .chain
            .epochs(authority().public())
            .governing()
            .cloned();
        let spoke = |set: &axolotl_common::ValidatorSet| {
            let statements = handover.iter().flat_map(|handover| &handover.statements);
            let statements = statements.map(|signed| &signed.statement);
            let of_set = statements.filter(|s| {
                let member = set.member(&s.author);
                member.is_some_and(|member| member.volume_id == s.volume)
            });
            of_set.filter(|s| s.sealed >= set.epoch()).count()
        };
        match set {
            Some(set) if spoke(&set) < fewest_survivors(&set) => {
                fail(format!("only {} survivors", spoke(&set)))
            }
            _ => Ok(()),
        }
    }

    fn propose(&mut self, slot: usize, members: Vec<Member>) {
        let highest = self.nodes.iter().map(|node| node.disk.chain.height()).max();
        let Some(process) = self.registries[slot].as_mut() else {
            return;
        };
        let head = highest.unwrap_or_default();
        if let Some(signed) = process.view.chain.sign_next(members, head, &authority()) {
            adopt(&mut process.view.chain, &signed);
            adopt(&mut self.stores[process.view.store].chain, &signed);
            self.log(format_args!(
                "registry {slot} signs epoch {}",
                signed.record.number
            ));
        }
    }

    /// A planned record: another order of the members, or a learner among them.
    pub(super) fn plan_record(&mut self) {
        let Some(process) = self.registries[0].as_ref() else {
            return;
        };
        let recovers = process.recovery.is_open() || process.recovery.shown().is_some();
        let mut members = process.view.chain.validators.members().to_vec();
        let outside = (0..self.nodes.len()).map(ledger::member);
        let outside: Vec<Member> = outside
            .filter(|member| !members.iter().any(|m| m.public_key == member.public_key))
            .collect();
        if recovers || process.view.chain.pending.is_some() {
            return;
        }
        if self.rng.random_bool(0.7)
            && let Some(learner) = outside.first()
        {
            let place = self.rng.random_range(0..members.len());
            members[place] = learner.clone();
        } else {
            members.rotate_left(1);
        }
        self.count("planned record");
        self.propose(0, members);
    }

    /// What a node answered reaches the machine.
    pub(super) fn hear(
        &mut self,
        to: Reply,
        node: usize,
        answer: RecoveryAnswer,
        refusal: Option<String>,
    ) {
        if !self.lives(to) {
            return;
        }
        let now = Duration::from_micros(self.now);
        let key = self.nodes[node].key.public();
        if let Some(process) = self.registries[to.slot].as_mut() {
            let epochs = process.view.chain.epochs(authority().public());
            let faults = process.recovery.take(&epochs, key, answer, refusal, now);
            for fault in faults {
                self.log(format_args!("{node} answers what does not hold: {fault}"));
            }
        }
    }

    pub(super) fn take_over(&mut self, slot: usize) {
        let Some(process) = &self.registries[slot] else {
            return;
        };
        let request = RecoverRequest {
            epoch: process.view.chain.validators.epoch(),
            accept_data_loss: false,
            take_over: true,
        };
        if self.grant(slot, &request) {
            self.count("take-over");
        }
    }

    pub(super) fn accept_loss(&mut self) {
        let Some(process) = &self.registries[0] else {
            return;
        };
        let request = RecoverRequest {
            epoch: process.view.chain.validators.epoch(),
            accept_data_loss: true,
            take_over: false,
        };
        if self.grant(0, &request) {
            self.count("loss accepted");
        }
    }

    /// An operator's word. Returns whether it was taken.
    fn grant(&mut self, slot: usize, request: &RecoverRequest) -> bool {
        let fresh = StartId(self.rng.random());
        let Some(mut process) = self.registries[slot].take() else {
            return false;
        };
        let seen = self.seen(slot, &process.view);
        let granted = process.recovery.grant(&seen, request, fresh);
        let taken = granted.is_ok();
        match granted {
            Ok(granted) => {
                self.log(format_args!("registry {slot}: {}", granted.told));
                let memory = &mut self.stores[process.view.store].memory;
                memory.ledger = granted.ledger.clone();
                if !granted.starts.is_empty() {
                    memory.starts.extend(&granted.starts);
                    memory.starts.sort_unstable();
                    process.view.took_over = granted.starts.last().copied();
                    process.recovery.take_over_as(memory.starts.clone());
                }
                process.recovery.apply(&Change::Ledger(granted.ledger));
            }
            Err(why) => self.log(format_args!("registry {slot} refuses the operator: {why}")),
        }
        self.registries[slot] = Some(process);
        taken
    }
}
