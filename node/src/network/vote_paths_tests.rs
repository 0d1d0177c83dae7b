use super::*;

fn key(i: u8) -> PublicKey {
    PublicKey([i; 32])
}

fn place(height: u64) -> Place {
    (Epoch(0), Height(height))
}

/// A node with the other validators 2 to n, looked at twice a second.
struct World {
    start: Instant,
    now: Instant,
    paths: VotePaths,
    view: View,
    /// Whose statuses follow what this node signs.
    hears: Vec<u8>,
    taken: Vec<(u64, Step)>,
}

impl World {
    fn new(n: u8, quorum: usize) -> Self {
        let start = Instant::now();
        let seen = |i| Seen {
            key: key(i),
            connected: true,
            missing_since: None,
            holds: Some((start, Some(place(1)))),
        };
        Self {
            start,
            now: start,
            paths: VotePaths::new(0),
            view: View {
                signed: Some((place(1), start)),
                quorum,
                others: (2..=n).map(seen).collect(),
            },
            hears: (2..=n).collect(),
            taken: Vec::new(),
        }
    }

    fn peer(&mut self, i: u8) -> &mut Seen {
        let mut others = self.view.others.iter_mut();
        others.find(|seen| seen.key == key(i)).unwrap()
    }

    /// Time passes in which this node signs twice a second, and each step is performed.
    fn run(&mut self, seconds: u64) -> Vec<(u64, Step)> {
        self.taken.clear();
        for _ in 0..2 * seconds {
            self.now += Duration::from_millis(500);
            for seen in &mut self.view.others {
                if let Some((at, holds)) = &mut seen.holds {
                    *at = self.now;
                    if self.hears.iter().any(|i| key(*i) == seen.key) {
                        *holds = self.view.signed.map(|(place, _)| place);
                    }
                }
            }
            let elapsed = (self.now - self.start).as_millis() as u64 / 500;
            self.view.signed = self.view.signed.map(|_| (place(1 + elapsed), self.now));
            for step in self.paths.step(self.now, &self.view) {
                let at = (self.now - self.start).as_secs();
                self.taken.push((at, step));
            }
        }
        self.taken.clone()
    }
}

#[test]
fn nothing_is_done_while_votes_pass() {
    let mut world = World::new(4, 3);
    assert_eq!(world.run(120), []);
    // Nor while nobody is to be expected to vote, or there is nobody.
    world.peer(2).holds = None;
    assert_eq!(world.run(120), []);
    assert_eq!(World::new(1, 1).run(120), []);
}

#[test]
fn a_peer_that_lacks_our_votes_is_told_our_subscriptions_then_dialled_anew() {
    use Step::{Announce, Reconnect};
    let mut world = World::new(4, 3);
    world.run(10);
    world.hears.retain(|i| *i != 3);
    let steps = world.run(40);
    let expected = [
        (13, Announce(key(3))),
        (15, Reconnect(key(3))),
        (18, Announce(key(3))),
        (25, Reconnect(key(3))),
        (28, Announce(key(3))),
        (45, Reconnect(key(3))),
        (48, Announce(key(3))),
    ];
    assert_eq!(steps, expected);
    world.hears.push(3);
    assert_eq!(world.run(60), [], "all is well again");
    world.hears.retain(|i| *i != 3);
    let steps = world.run(6);
    let expected = [(113, Announce(key(3))), (115, Reconnect(key(3)))];
    assert_eq!(steps, expected, "from the beginning");
}

#[test]
fn a_peer_whose_votes_are_missing_is_dealt_with_alike() {
    use Step::{Announce, Reconnect};
    let mut world = World::new(4, 3);
    world.run(1);
    world.peer(2).missing_since = Some(world.now);
    let steps = world.run(6);
    assert_eq!(steps, [(4, Announce(key(2))), (6, Reconnect(key(2)))]);
    // A vote now and then: no trouble of three seconds.
    let mut world = World::new(4, 3);
    for _ in 0..20 {
        world.peer(2).missing_since = Some(world.now);
        assert_eq!(world.run(2), []);
    }
}

#[test]
fn a_fresh_connection_has_its_time() {
    let mut world = World::new(4, 3);
    world.peer(2).missing_since = Some(world.start);
    world.peer(2).connected = false;
    assert_eq!(world.run(60), [], "it is dialled anyway");
    world.peer(2).connected = true;
    assert_eq!(world.run(3), []);
    assert_eq!(world.run(1), [(63, Step::Announce(key(2)))]);
}

#[test]
fn an_old_status_shows_nothing() {
    let mut world = World::new(4, 3);
    world.run(1);
    let old = world.now;
    for _ in 0..60 {
        world.now += Duration::from_millis(500);
        world.view.signed = Some((place(500), old));
        assert_eq!(world.paths.step(world.now, &world.view), []);
    }
}

#[test]
fn the_network_is_restarted_where_a_quorum_is_out_of_reach_and_not_more_often_than_once_a_minute() {
    let restarts = |steps: &[(u64, Step)]| -> Vec<u64> {
        let restarts = steps.iter().filter(|(_, step)| *step == Step::Restart);
        restarts.map(|(at, _)| *at).collect()
    };
    // (validators, quorum, who lacks our votes, restarts)
    let table: [(u8, usize, &[u8], bool); 7] = [
        (4, 3, &[2], false),
        (4, 3, &[2, 3], true),
        (4, 3, &[2, 3, 4], true),
        (7, 5, &[2, 3], false),
        (7, 5, &[2, 3, 4], true),
        (3, 2, &[2], false),
        (3, 3, &[2], true),
    ];
    for (n, quorum, deaf, restarted) in table {
        let mut world = World::new(n, quorum);
        world.hears.retain(|i| !deaf.contains(i));
        let times = restarts(&world.run(60));
        let expected: &[u64] = if restarted { &[10] } else { &[] };
        assert_eq!(times, expected, "{n}, {quorum}, {deaf:?}");
        let times = restarts(&world.run(1_000));
        for pair in times.windows(2) {
            assert!(pair[1] - pair[0] >= 60, "{times:?}");
        }
        assert_eq!(times.first(), restarted.then_some(&70), "{times:?}");
        assert!(times.len() < 8, "ever more seldom: {times:?}");
    }
}

#[test]
fn who_is_gone_is_not_brought_back_by_a_restart() {
    let mut world = World::new(4, 3);
    for gone in [2, 3] {
        world.peer(gone).connected = false;
    }
    assert_eq!(world.run(120), [], "the third one is reached");
    world.peer(4).connected = false;
    assert_eq!(world.run(3), [(120, Step::Restart)], "nobody is");
    // A node that does not vote leaves its network alone.
    let mut world = World::new(4, 3);
    world.view.signed = None;
    for i in 2..=4 {
        world.peer(i).connected = false;
    }
    assert_eq!(world.run(120), []);
}

#[test]
fn the_jitter_is_each_nodes_own_and_bounded() {
    let at = |seed| {
        let mut world = World::new(4, 3);
        world.paths = VotePaths::new(seed);
        world.hears.clear();
        let steps = world.run(30);
        let restart = steps.iter().find(|(_, step)| *step == Step::Restart);
        restart.unwrap().0
    };
    let times: Vec<u64> = (0..50).map(|i| at(i * 1_234_567)).collect();
    assert!(times.iter().all(|at| (10..=15).contains(at)), "{times:?}");
    assert!(times.iter().any(|at| *at != times[0]), "{times:?}");
}
