//! Small tables of steps. What needs time, loss and crashes is in `tests/simulation.rs`.

use std::{collections::VecDeque, sync::Arc};

use axolotl_common::{CommitCertificate, ValidatorSet, genesis::Timing};

use super::*;
use crate::{
    input::{BlockSummary, Verdict},
    test_support::{chain, key, set},
};

/// A block is its height, its builder and filling.
fn block(height: Height, builder: PublicKey, filling: u8) -> (Hash, Bytes) {
    let mut bytes = height.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(&builder.0);
    bytes.push(filling);
    (Hash::sha256(&bytes), bytes.into())
}

fn summary(bytes: &[u8]) -> Option<BlockSummary> {
    Some(BlockSummary {
        hash: Hash::sha256(bytes),
        height: Height(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?)),
        builder: PublicKey(bytes.get(8..40)?.try_into().ok()?),
    })
}

fn config(number: u8) -> Config {
    Config {
        chain: chain(),
        key: key(number),
        volume: VolumeId([number; 16]),
        incarnation: 1,
        timing: Timing::default(),
        leader_term_blocks: 1_000,
        max_block_bytes: 1_000,
        summary,
    }
}

fn start(height: u64, validators: &Arc<ValidatorSet>, builder: Option<PublicKey>) -> HeightStart {
    HeightStart {
        height: Height(height),
        validators: Arc::clone(validators),
        last_builder: builder,
        previous_validators: None,
        last_certificate: None,
    }
}

/// Nodes in one process whose messages arrive at once.
struct Loopback {
    set: Arc<ValidatorSet>,
    drivers: Vec<Driver>,
    queue: VecDeque<(usize, Input)>,
    committed: Vec<Vec<(CommitCertificate, Bytes)>>,
    target: u64,
}

impl Loopback {
    fn new(n: u8, target: u64) -> Self {
        let members: Vec<u8> = (1..=n).collect();
        let set = Arc::new(set(0, &members));
        let mut this = Self {
            drivers: members.iter().map(|m| Driver::new(config(*m))).collect(),
            queue: VecDeque::new(),
            committed: vec![Vec::new(); usize::from(n)],
            set,
            target,
        };
        for node in 0..this.drivers.len() {
            this.queue.push_back((node, Input::Work(true)));
            let start = start(1, &this.set, None);
            let effects = this.drivers[node].replay(Now::ZERO, start, Vec::new());
            this.perform(node, effects);
        }
        this
    }

    fn run(&mut self) {
        while let Some((node, input)) = self.queue.pop_front() {
            let effects = self.drivers[node].step(Now::ZERO, input);
            self.perform(node, effects);
        }
    }

    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        let me = key(u8::try_from(node).unwrap() + 1).public();
        let mut dirty = false;
        for effect in effects {
            match effect {
                Effect::Append(_) => dirty = true,
                Effect::Flush => dirty = false,
                Effect::Broadcast(message) => {
                    assert!(!dirty, "{message:?} left before its record was flushed");
                    for other in (0..self.drivers.len()).filter(|other| *other != node) {
                        self.queue
                            .push_back((other, Input::Message(message.clone())));
                    }
                }
                Effect::BuildBlock { height, round, .. } => {
                    let (hash, bytes) = block(height, me, 0);
                    let built = Input::Built {
                        height,
                        round,
                        block: hash,
                        bytes,
                    };
                    self.queue.push_back((node, built));
                }
                Effect::CheckBlock {
                    height,
                    round,
                    block,
                    ..
                } => {
                    let verdict = Verdict::Valid;
                    self.queue.push_back((
                        node,
                        Input::Checked {
                            height,
                            round,
                            block,
                            verdict,
                        },
                    ));
                }
                Effect::Commit { certificate, bytes } => {
                    assert!(!dirty, "committed before the log was flushed");
                    assert_eq!(certificate.verify(&chain(), &self.set), Ok(()));
                    let next = certificate.height.next().0;
                    let builder = summary(&bytes).map(|s| s.builder);
                    self.committed[node].push((certificate, bytes));
                    if next <= self.target {
                        let begin = Input::Begin(start(next, &self.set, builder));
                        self.queue.push_back((node, begin));
                    }
                }
                Effect::AskHighestVotes => {
                    for other in 0..self.drivers.len() {
                        let vote = self.drivers[other].highest_vote_of(&me).copied();
                        let from = key(u8::try_from(other).unwrap() + 1).public();
                        self.queue
                            .push_back((node, Input::HighestVoteSeen { from, vote }));
                    }
                }
                Effect::Fatal(reason) => panic!("node {node}: {reason}"),
                _ => {}
            }
        }
    }
}

#[test]
fn nodes_decide_block_after_block() {
    for n in [1, 2, 3, 4, 7] {
        let mut net = Loopback::new(n, 20);
        net.run();
        let chain: Vec<_> = net.committed[0].iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(chain.len(), 20, "n = {n}");
        let leader = key(1).public();
        for (certificate, bytes) in &net.committed[0] {
            assert_eq!(certificate.round, Round(0));
            assert_eq!(
                summary(bytes).unwrap().builder,
                leader,
                "the leader is sticky"
            );
        }
        for other in &net.committed {
            let theirs: Vec<_> = other.iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(theirs, chain, "n = {n}");
        }
    }
}

/// It fetched ten blocks while the others made the next ones: what it heard meanwhile must take it on, or
/// it would fetch again and again while blocks are made quickly.
#[test]
fn a_node_that_fetched_blocks_goes_on_with_what_it_heard_meanwhile() {
    let mut net = Loopback::new(4, 20);
    let mut heard = Vec::new();
    while let Some((node, input)) = net.queue.pop_front() {
        if node == 3 {
            heard.push(input);
            continue;
        }
        let effects = net.drivers[node].step(Now::ZERO, input);
        net.perform(node, effects);
    }
    assert_eq!(net.committed[0].len(), 20);
    let missed = |input: &Input| matches!(input, Input::Message(m) if m.height() == Height(1));
    for input in heard.into_iter().filter(|input| !missed(input)) {
        let effects = net.drivers[3].step(Now::ZERO, input);
        net.perform(3, effects);
    }
    assert!(net.committed[3].is_empty());
    let leader = Some(key(1).public());
    net.queue
        .push_back((3, Input::Begin(start(12, &net.set, leader))));
    net.run();
    let committed = net.committed[3].iter().map(|(c, _)| c.height.0);
    assert_eq!(committed.collect::<Vec<_>>(), (12..=20).collect::<Vec<_>>());
}

/// A driver of validator 1 of four, through its amnesia check, at height 5.
fn at_height_five() -> (Driver, Arc<ValidatorSet>) {
    let set = Arc::new(set(3, &[1, 2, 3, 4]));
    let mut driver = Driver::new(config(1));
    let leader = Some(key(2).public());
    driver.replay(Now::ZERO, start(5, &set, leader), Vec::new());
    for other in [2, 3] {
        let from = key(other).public();
        driver.step(Now::ZERO, Input::HighestVoteSeen { from, vote: None });
    }
    assert!(!driver.awaits_answers());
    (driver, set)
}

fn vote(epoch: u64, height: u64, round: u32, validator: u8) -> Message {
    let mut signer = Signer::new(chain(), key(validator));
    let vote = crate::message::Vote {
        epoch: Epoch(epoch),
        height: Height(height),
        round: Round(round),
        kind: axolotl_common::VoteKind::Prevote,
        block: None,
        validator: key(validator).public(),
    };
    let payload = Payload::Vote(signer.sign_vote(vote).unwrap());
    Message { copy: 0, payload }
}

fn proposal(round: u32, proposer: u8, builder: u8, height: u64) -> (Message, Hash, Bytes) {
    let (hash, bytes) = block(Height(height), key(builder).public(), 1);
    let mut signer = Signer::new(chain(), key(proposer));
    let proposal = crate::message::Proposal {
        epoch: Epoch(3),
        height: Height(5),
        round: Round(round),
        block: hash,
        valid_round: None,
        proposer: key(proposer).public(),
    };
    let payload = Payload::Proposal {
        proposal: signer.sign_proposal(proposal).unwrap(),
        block: bytes.clone(),
    };
    (Message { copy: 0, payload }, hash, bytes)
}

#[test]
fn messages_are_judged_by_epoch_height_and_signature() {
    let forged = |mut message: Message| {
        if let Payload::Vote(vote) = &mut message.payload {
            vote.vote.round = Round(7);
        }
        message
    };
    let swapped = |(mut message, _, _): (Message, Hash, Bytes), bytes: Vec<u8>| {
        if let Payload::Proposal { block, .. } = &mut message.payload {
            *block = bytes.into();
        }
        message
    };
    use Admission::{Accept, Ignore, Reject};
    let table = [
        (vote(3, 5, 0, 2), Accept),
        (vote(3, 6, 0, 2), Accept),
        (vote(3, 37, 0, 2), Accept),
        (vote(3, 38, 0, 2), Ignore("about a height far ahead")),
        (vote(3, 4, 0, 2), Ignore("about a height that is decided")),
        (vote(2, 5, 0, 2), Ignore("of a superseded epoch")),
        (vote(4, 5, 0, 2), Ignore("of an unknown newer epoch")),
        (
            vote(3, 5, 0, 9),
            Reject("author is not a validator of the epoch"),
        ),
        (forged(vote(3, 5, 0, 2)), Reject("signature does not hold")),
        (proposal(0, 2, 2, 5).0, Accept),
        (
            proposal(0, 3, 3, 5).0,
            Reject("not the proposer of the round"),
        ),
        (proposal(1, 3, 3, 5).0, Accept),
        (
            proposal(0, 2, 3, 5).0,
            Reject("builder of the block is not its proposer"),
        ),
        (proposal(0, 2, 2, 6).0, Reject("block is of another height")),
        (
            swapped(proposal(0, 2, 2, 5), vec![0; 60]),
            Reject("block is not the proposed one"),
        ),
        (
            swapped(proposal(0, 2, 2, 5), vec![0; 4]),
            Reject("block is malformed"),
        ),
        (
            swapped(proposal(0, 2, 2, 5), vec![0; 1_001]),
            Reject("block is too large"),
        ),
    ];
    for (message, expected) in table {
        let (mut driver, _) = at_height_five();
        assert_eq!(driver.judge(&message), expected, "{message:?}");
        // Whatever is refused changes nothing.
        let effects = driver.step(Now::ZERO, Input::Message(message.clone()));
        let started = driver.round().is_some();
        let current = expected == Accept && message.height() == Height(5);
        assert_eq!(started, current, "{message:?}: {effects:?}");
    }
}

#[test]
fn an_idle_chain_waits_for_a_reason() {
    let (mut driver, set) = at_height_five();
    let timers = |effects: &[Effect]| -> Vec<TimerKind> {
        let kinds = effects.iter().filter_map(|effect| match effect {
            Effect::SetTimer { id, .. } => Some(id.kind),
            _ => None,
        });
        kinds.collect()
    };
    let effects = driver.step(Now::ZERO, Input::Begin(start(6, &set, None)));
    assert_eq!(timers(&effects), [TimerKind::EmptyBlock]);
    assert_eq!(driver.round(), None);
    assert!(driver.step(Now::ZERO, Input::Work(false)).is_empty());
    let effects = driver.step(Now::ZERO, Input::Work(true));
    assert!(timers(&effects).contains(&TimerKind::Propose));
    assert!(
        effects.contains(&Effect::BuildBlock {
            height: Height(6),
            round: Round(0),
            budget: Duration::from_millis(150),
        }),
        "{effects:?}"
    );
    // Sync got there first: nothing of the abandoned height stays.
    let effects = driver.step(
        Now::ZERO,
        Input::Begin(start(8, &set, Some(key(3).public()))),
    );
    assert_eq!(driver.height(), Some(Height(8)));
    let (hash, bytes) = block(Height(6), key(1).public(), 0);
    let late = Input::Built {
        height: Height(6),
        round: Round(0),
        block: hash,
        bytes,
    };
    assert!(driver.step(Now::ZERO, late).is_empty(), "{effects:?}");
}

#[test]
fn later_heights_and_newer_epochs_start_a_sync() {
    let behind = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Behind { height_seen } => Some(height_seen.0),
            _ => None,
        })
    };
    for (message, expected) in [
        (vote(3, 5, 0, 2), None),
        (vote(3, 6, 0, 2), None),
        (vote(3, 7, 0, 2), Some(7)),
        (vote(3, 90, 0, 2), Some(90)),
        (vote(4, 5, 0, 2), Some(5)),
        (vote(2, 90, 0, 2), None),
    ] {
        let (mut driver, _) = at_height_five();
        let effects = driver.step(Now::ZERO, Input::Message(message.clone()));
        assert_eq!(behind(&effects), expected, "{message:?}");
    }
    // One height ahead: after some patience.
    let (mut driver, _) = at_height_five();
    driver.step(Now::ZERO, Input::Message(vote(3, 6, 0, 2)));
    let id = TimerId {
        height: Height(5),
        round: Round(0),
        kind: TimerKind::Behind,
    };
    let effects = driver.step(Now::ZERO, Input::Timer(id));
    assert_eq!(behind(&effects), Some(6));
}

#[test]
fn a_replay_sends_the_same_votes_in_other_copies() {
    let (mut driver, set) = at_height_five();
    let (message, hash, _) = proposal(0, 2, 2, 5);
    let mut effects = driver.step(Now::ZERO, Input::Message(message));
    effects.extend(driver.step(
        Now::ZERO,
        Input::Checked {
            height: Height(5),
            round: Round(0),
            block: hash,
            verdict: Verdict::Valid,
        },
    ));
    let records: Vec<LogRecord> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Append(record) => Some(record.clone()),
            _ => None,
        })
        .collect();
    let sent = |effects: &[Effect]| -> Vec<Message> {
        let messages = effects.iter().filter_map(|effect| match effect {
            Effect::Broadcast(message) => Some(message.clone()),
            _ => None,
        });
        messages.collect()
    };
    let before = sent(&effects);
    assert_eq!(before.len(), 1, "a prevote");
    let flush = effects.iter().position(|e| *e == Effect::Flush);
    let broadcast = effects
        .iter()
        .position(|e| matches!(e, Effect::Broadcast(_)));
    assert!(flush < broadcast, "{effects:?}");

    // Started again, with every prefix of the log.
    for survived in 0..=records.len() {
        let mut config = config(1);
        config.incarnation = 2;
        let mut driver = Driver::new(config);
        let kept = records[..survived].to_vec();
        let leader = Some(key(2).public());
        let mut effects = driver.replay(Now::ZERO, start(5, &set, leader), kept);
        assert!(sent(&effects).is_empty(), "signed before the amnesia check");
        for other in [2, 3] {
            let from = key(other).public();
            effects.extend(driver.step(Now::ZERO, Input::HighestVoteSeen { from, vote: None }));
        }
        for message in sent(&effects) {
            assert_eq!(message.payload, before[0].payload);
            assert_ne!(message.copy, before[0].copy);
        }
        let complete = survived == records.len();
        assert!(!complete || sent(&effects).len() == 1, "{effects:?}");
    }
}

#[test]
fn a_vote_above_the_log_makes_unfit() {
    let set = Arc::new(set(3, &[1, 2, 3, 4]));
    let Payload::Vote(own) = vote(3, 5, 4, 1).payload else {
        unreachable!("a vote");
    };
    let mut driver = Driver::new(config(1));
    driver.replay(Now::ZERO, start(5, &set, Some(key(1).public())), Vec::new());
    let from = key(2).public();
    let shown = Input::HighestVoteSeen {
        from,
        vote: Some(own),
    };
    let effects = driver.step(Now::ZERO, shown);
    assert!(effects.contains(&Effect::Unfit { vote: own }));
    assert!(driver.is_unfit());
    // It follows, but proposes and signs nothing.
    let effects = driver.step(Now::ZERO, Input::Work(true));
    assert_eq!(driver.round(), Some(Round(0)));
    assert!(
        !effects
            .iter()
            .any(|e| matches!(e, Effect::BuildBlock { .. }))
    );
}

#[test]
fn a_log_that_contradicts_itself_is_fatal() {
    let set = Arc::new(set(3, &[1]));
    let record = |block: Option<Hash>| {
        let mut signer = Signer::new(chain(), key(1));
        let vote = crate::message::Vote {
            epoch: Epoch(3),
            height: Height(5),
            round: Round(0),
            kind: axolotl_common::VoteKind::Prevote,
            block,
            validator: key(1).public(),
        };
        LogRecord {
            epoch: Epoch(3),
            height: Height(5),
            entry: LogEntry::Vote(signer.sign_vote(vote).unwrap()),
        }
    };
    let records = vec![record(None), record(Some(Hash([1; 32])))];
    let mut driver = Driver::new(config(1));
    let effects = driver.replay(Now::ZERO, start(5, &set, None), records);
    assert!(matches!(effects[..], [Effect::Fatal(_)]), "{effects:?}");
    assert!(driver.step(Now::ZERO, Input::Work(true)).is_empty(), "dead");
}
