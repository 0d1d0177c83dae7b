use std::collections::VecDeque;

use alloy_primitives::Bytes;
use axolotl_common::{BlockProof, CommitCertificate, Epoch, Hash, KeyPair, Round};
use proptest::prelude::*;

use super::*;

fn peer(n: u8) -> PublicKey {
    KeyPair::from_seed(&[n; 32]).public()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A block that the applier of these tests takes if its first byte is 1.
fn block(height: u64, good: bool, bytes: usize) -> SyncBlock {
    let mut content = vec![0; bytes.max(1)];
    content[0] = u8::from(good);
    SyncBlock {
        records: Vec::new(),
        block: Bytes::from(content),
        proof: BlockProof::Certificate(CommitCertificate {
            epoch: Epoch(0),
            height: Height(height),
            round: Round(0),
            block: Hash([0; 32]),
            signatures: Vec::new(),
        }),
    }
}

fn blocks(heights: std::ops::RangeInclusive<u64>) -> Vec<SyncBlock> {
    heights.map(|height| block(height, true, 1)).collect()
}

fn request(action: &Action) -> (RequestId, PublicKey, u64, u32) {
    match action {
        Action::Request {
            id,
            peer,
            from,
            count,
        } => (*id, *peer, from.0, *count),
        other => panic!("not a request: {other:?}"),
    }
}

/// A state at height 0 that has just asked peer 1 for blocks 1 to `count`.
fn asked(count: u64) -> (State, RequestId) {
    let mut state = State::new(Height(0));
    let actions = state.step(ms(0), Input::Claim(peer(1), Height(count)));
    let (id, whom, from, asked) = request(&actions[0]);
    assert_eq!((whom, from, u64::from(asked)), (peer(1), 1, count));
    (state, id)
}

#[test]
fn a_claim_of_any_height_is_a_claim_and_no_more() {
    for claim in [axolotl_common::ids::MAX_HEIGHT, u64::MAX] {
        let mut state = State::new(Height(5));
        state.step(ms(0), Input::Behind(Height(claim)));
        let actions = state.step(ms(600), Input::Claim(peer(1), Height(claim)));
        assert_eq!(request(&actions[0]), (0, peer(1), 6, 128), "{actions:?}");
        assert!(!state.status(ms(600)).caught_up());
    }
}

#[test]
fn far_behind_it_fetches_from_several_peers_at_once_and_applies_in_order() {
    let mut state = State::new(Height(0));
    let mut open = Vec::new();
    for n in 1..=2 {
        open.extend(state.step(ms(0), Input::Claim(peer(n), Height(512))));
    }
    let requests: Vec<_> = open.iter().map(request).collect();
    assert_eq!(requests.len(), 4);
    assert_eq!(
        requests.iter().map(|r| (r.1, r.2)).collect::<Vec<_>>(),
        [(peer(1), 1), (peer(1), 129), (peer(2), 257), (peer(2), 385)]
    );
    assert!(state.status(ms(0)).syncing);
    assert!(
        state
            .step(ms(1), Input::Answer(requests[1].0, blocks(129..=256)))
            .is_empty()
    );
    let actions = state.step(ms(1), Input::Answer(requests[0].0, blocks(1..=128)));
    assert_eq!(actions, [Action::Apply(blocks(1..=128))]);
    let tip = Height(128);
    let actions = state.step(
        ms(2),
        Input::Applied {
            tip,
            refused: false,
        },
    );
    assert_eq!(
        actions,
        [Action::Apply(blocks(129..=256))],
        "the next was there already"
    );
}

#[test]
fn a_few_blocks_behind_it_leaves_consensus_a_moment() {
    let mut state = State::new(Height(10));
    assert!(
        state
            .step(ms(0), Input::Claim(peer(1), Height(12)))
            .is_empty()
    );
    assert!(state.step(ms(499), Input::Tick).is_empty());
    assert_eq!(state.step(ms(499), Input::Committed(Height(11))), []);
    assert_eq!(state.step(ms(900), Input::Tick), [], "it moves");
    let actions = state.step(ms(1_000), Input::Tick);
    assert_eq!(request(&actions[0]).2, 12);
}

#[test]
fn a_hint_of_consensus_makes_it_hurry_and_ask_for_statuses() {
    let mut state = State::new(Height(10));
    state.step(ms(0), Input::Claim(peer(1), Height(11)));
    assert!(state.step(ms(50), Input::Behind(Height(14))).is_empty());
    let actions = state.step(ms(100), Input::Tick);
    assert_eq!(actions[0], Action::Refresh(peer(1)));
    assert_eq!(request(&actions[1]).2, 11);
    let actions = state.step(ms(200), Input::Tick);
    assert_eq!(actions, [], "not again at once");
}

#[test]
fn a_short_answer_is_taken_and_the_rest_asked_for() {
    let (mut state, id) = asked(100);
    let actions = state.step(ms(1), Input::Answer(id, blocks(1..=40)));
    let (_, _, from, count) = request(&actions[0]);
    assert_eq!((from, count), (41, 60));
    assert_eq!(actions[1], Action::Apply(blocks(1..=40)));
}

#[test]
fn whoever_has_not_what_it_claims_rests_and_is_charged() {
    let (mut state, id) = asked(100);
    let actions = state.step(ms(0), Input::Answer(id, Vec::new()));
    assert_eq!(actions, [Action::Charge(peer(1), Fault::Unanswered)]);
    assert!(!state.status(ms(0)).syncing, "nobody else claims more");
    assert!(
        state
            .step(ms(50), Input::Claim(peer(1), Height(100)))
            .is_empty(),
        "it rests"
    );
    assert_eq!(request(&state.step(REST_MIN, Input::Tick)[0]).1, peer(1));
}

#[test]
fn wrong_heights_are_refused_whole() {
    for wrong in [
        blocks(2..=101),
        blocks(1..=101),
        vec![block(1, true, 1), block(1, true, 1)],
    ] {
        let (mut state, id) = asked(100);
        let actions = state.step(ms(0), Input::Answer(id, wrong));
        assert_eq!(actions, [Action::Charge(peer(1), Fault::InvalidBlock)]);
    }
}

#[test]
fn a_silent_peer_is_replaced_and_its_late_answer_ignored() {
    let (mut state, id) = asked(100);
    state.step(ms(0), Input::Claim(peer(2), Height(100)));
    let actions = state.step(ANSWER_TIMEOUT, Input::Tick);
    assert_eq!(request(&actions[0]).1, peer(2));
    assert_eq!(
        state.step(ANSWER_TIMEOUT, Input::Answer(id, blocks(1..=100))),
        []
    );
}

#[test]
fn a_peer_that_goes_is_replaced() {
    let (mut state, _) = asked(100);
    state.step(ms(0), Input::Claim(peer(2), Height(100)));
    let actions = state.step(ms(1), Input::Gone(peer(1)));
    assert_eq!(request(&actions[0]).1, peer(2));
    assert_eq!(state.status(ms(1)).peers, 1);
}

#[test]
fn a_refused_block_costs_its_giver_and_is_asked_of_another() {
    let (mut state, id) = asked(100);
    state.step(ms(0), Input::Answer(id, blocks(1..=100)));
    state.step(ms(0), Input::Claim(peer(2), Height(100)));
    let applied = Input::Applied {
        tip: Height(30),
        refused: true,
    };
    let actions = state.step(ms(1), applied);
    assert_eq!(actions[0], Action::Charge(peer(1), Fault::InvalidBlock));
    let (_, whom, from, count) = request(&actions[1]);
    assert_eq!((whom, from, count), (peer(2), 31, 70));
}

#[test]
fn what_consensus_commits_is_not_applied_again() {
    let (mut state, id) = asked(100);
    state.step(ms(0), Input::Committed(Height(60)));
    let actions = state.step(ms(1), Input::Answer(id, blocks(1..=100)));
    assert_eq!(actions, [Action::Apply(blocks(61..=100))]);
    assert_eq!(state.step(ms(2), Input::Committed(Height(100))), []);
    let tip = Height(100);
    assert_eq!(
        state.step(
            ms(3),
            Input::Applied {
                tip,
                refused: false
            }
        ),
        []
    );
    assert!(state.status(ms(3)).caught_up());
}

#[test]
fn alone_it_is_not_caught_up() {
    let state = State::new(Height(5));
    assert!(!state.status(ms(0)).caught_up());
}

#[test]
fn big_blocks_are_not_hoarded() {
    let mut state = State::new(Height(0));
    let mut open: VecDeque<_> = VecDeque::new();
    for n in 1..=8 {
        open.extend(state.step(ms(0), Input::Claim(peer(n), Height(100_000))));
    }
    // The first range stays open, so that nothing can be applied.
    let mut most = 0;
    open.pop_front();
    while let Some(action) = open.pop_front() {
        let (id, _, from, _) = request(&action);
        let answer = vec![block(from, true, MAX_SYNC_RESPONSE_BYTES - 1_000)];
        open.extend(state.step(ms(1), Input::Answer(id, answer)));
        most = most.max(state.buffered_bytes());
    }
    assert!(most <= MAX_BUFFERED_BYTES, "{most}");
}

/// How a peer of the simulation behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Honest,
    /// Claims more than it has, and answers with what it has.
    Boaster,
    /// Gives blocks that will be refused.
    Forger,
    /// Gives blocks of other heights.
    Garbler,
    /// Never answers.
    Silent,
    /// Says that it has nothing.
    Empty,
    /// Fails each request.
    Failing,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Honest),
        Just(Kind::Boaster),
        Just(Kind::Forger),
        Just(Kind::Garbler),
        Just(Kind::Silent),
        Just(Kind::Empty),
        Just(Kind::Failing),
    ]
}

/// What the world holds back, to be delivered in any order.
enum Pending {
    Request(RequestId, PublicKey, u64, u32),
    Apply(Vec<SyncBlock>),
}

struct World {
    state: State,
    now: Duration,
    tip: u64,
    peers: Vec<(PublicKey, Kind, u64)>,
    pending: Vec<Pending>,
}

impl World {
    fn step(&mut self, input: Input) {
        for action in self.state.step(self.now, input) {
            match action {
                Action::Request {
                    id,
                    peer,
                    from,
                    count,
                } => {
                    self.pending.push(Pending::Request(id, peer, from.0, count));
                }
                Action::Apply(blocks) => {
                    assert!(!self.pending.iter().any(|p| matches!(p, Pending::Apply(_))));
                    self.pending.push(Pending::Apply(blocks));
                }
                Action::Charge(charged, _) => {
                    let (_, kind, _) = self.peers.iter().find(|p| p.0 == charged).unwrap();
                    assert_ne!(*kind, Kind::Honest, "an honest peer was charged");
                }
                Action::Refresh(_) => {}
            }
        }
        let end = self.state.ranges.values().map(|range| range.end).max();
        let window = end.unwrap_or(0).saturating_sub(self.tip);
        assert!(window <= (MAX_RANGES as u64 + 2) * RANGE_BLOCKS, "{window}");
        assert!(self.state.buffered_bytes() <= MAX_BUFFERED_BYTES + MAX_SYNC_RESPONSE_BYTES);
        for peer in self.state.peers.values() {
            assert!(peer.open <= MAX_OPEN_PER_PEER);
        }
    }

    fn deliver(&mut self, choice: usize, short: u64) {
        if self.pending.is_empty() {
            return;
        }
        match self.pending.swap_remove(choice % self.pending.len()) {
            Pending::Apply(blocks) => {
                let mut refused = false;
                for block in blocks {
                    let height = block.height().0;
                    if height <= self.tip {
                        continue;
                    }
                    assert_eq!(height, self.tip + 1, "a gap");
                    if block.block[0] == 0 {
                        refused = true;
                        break;
                    }
                    self.tip = height;
                }
                let tip = Height(self.tip);
                self.step(Input::Applied { tip, refused });
            }
            Pending::Request(id, key, from, count) => {
                let (_, kind, has) = *self.peers.iter().find(|p| p.0 == key).unwrap();
                let end = has.min(from + u64::from(count) - 1).min(from + short);
                let range = from..=end;
                let input = match kind {
                    Kind::Silent => return,
                    Kind::Failing => Input::Failed(id),
                    Kind::Empty => Input::Answer(id, Vec::new()),
                    Kind::Honest | Kind::Boaster => Input::Answer(id, blocks(range)),
                    Kind::Garbler => Input::Answer(id, blocks(from + 1..=from + 3)),
                    Kind::Forger => {
                        Input::Answer(id, range.map(|h| block(h, h % 7 != 0, 1)).collect())
                    }
                };
                self.step(input);
            }
        }
    }

    fn claims(&mut self) {
        for (key, kind, has) in self.peers.clone() {
            let claim = if kind == Kind::Honest {
                has
            } else {
                has + 1_000
            };
            self.step(Input::Claim(key, Height(claim)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever the others do, and in whatever order things happen, the node ends at the head of the
    /// best honest peer; on the way nothing grows beyond its bound and no honest peer is charged.
    #[test]
    fn it_ends_at_the_best_honest_head(
        others in prop::collection::vec((kinds(), 0..2_000u64), 0..6),
        head in 1..1_500u64,
        choices in prop::collection::vec((0..8usize, any::<usize>(), 0..200u64), 200),
    ) {
        let mut world = World {
            state: State::new(Height(0)),
            now: Duration::ZERO,
            tip: 0,
            peers: vec![(peer(100), Kind::Honest, head)],
            pending: Vec::new(),
        };
        for (n, (kind, has)) in others.into_iter().enumerate() {
            world.peers.push((peer(n as u8 + 1), kind, has));
        }
        let best = world.peers.iter().filter(|p| p.1 == Kind::Honest).map(|p| p.2).max().unwrap();
        // At first anything goes; honest peers keep their deadlines.
        for (what, which, short) in choices {
            match what {
                0 => {
                    world.now += ms(which as u64 % 500);
                    world.step(Input::Tick);
                }
                1 => world.claims(),
                2 => {
                    let (key, kind, _) = world.peers[which % world.peers.len()];
                    if kind != Kind::Honest {
                        world.step(Input::Gone(key));
                    }
                }
                3 => {
                    let committed = (world.tip + short % 5).min(best);
                    world.tip = committed.max(world.tip);
                    world.step(Input::Committed(Height(committed)));
                }
                _ => world.deliver(which, short),
            }
            // Nothing honest stays open long enough to be late.
            while let Some(honest) = world.pending.iter().position(|p| match p {
                Pending::Request(_, key, ..) =>
                    world.peers.iter().any(|p| p.0 == *key && p.1 == Kind::Honest),
                Pending::Apply(_) => false,
            }) {
                if world.now < ms(5_000) { break; }
                world.deliver(honest, short);
            }
        }
        // Then everything is delivered, time passes, statuses come.
        for _ in 0..2_000 {
            if world.tip >= best { break; }
            while !world.pending.is_empty() {
                world.deliver(0, 1_000);
            }
            world.now += ms(1_000);
            world.claims();
            world.step(Input::Tick);
        }
        prop_assert!(world.tip >= best, "stuck at {} of {best}: {:?}", world.tip, world.state);
    }
}
