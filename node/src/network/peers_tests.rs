use axolotl_common::{ChainId, ChainRef, Epoch, Hash, Height, KeyPair};

use super::*;

fn key(seed: u8) -> PublicKey {
    KeyPair::from_seed(&[seed; 32]).public()
}

fn peers(now: Instant) -> Peers {
    Peers::new(key(0), now, 1, Book::new(Vec::new()))
}

fn list(entries: &[(u8, &[&str])]) -> BTreeMap<PublicKey, Vec<String>> {
    let entry = |(seed, addresses): &(u8, &[&str])| {
        (
            key(*seed),
            addresses.iter().map(|a| (*a).to_owned()).collect(),
        )
    };
    entries.iter().map(entry).collect()
}

fn status() -> PeerStatus {
    PeerStatus {
        chain: ChainRef {
            id: ChainId(1),
            genesis: Hash([0; 32]),
        },
        height: Height(0),
        head: Hash([0; 32]),
        epoch: Epoch(0),
        sealed: None,
        unfit: false,
        version: String::new(),
        highest_vote_of_you: None,
        seal_of_you: None,
    }
}

const A: &str = "/ip4/10.0.0.1/tcp/1";
const B: &str = "/dns4/node1/tcp/2";

fn connection(id: usize) -> ConnectionId {
    ConnectionId::new_unchecked(id)
}

#[test]
fn dials_back_off_between_their_bounds_and_begin_anew_with_new_addresses() {
    let start = Instant::now();
    let mut peers = peers(start);
    peers.set_allowed(start, &list(&[(1, &[A])]));
    let mut now = start;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(peers.dials(now).len(), 1);
        assert!(peers.dials(now).is_empty(), "one dial at a time");
        peers.dial_failed(now, &key(1));
        let begin = now;
        while peers.map[&key(1)].dial_due > now {
            assert!(peers.dials(now).is_empty());
            now += Duration::from_millis(10);
        }
        pauses.push(now - begin);
    }
    assert!(
        pauses[0] >= DIAL_BACKOFF_MIN && pauses[0] < DIAL_BACKOFF_MIN * 2,
        "{pauses:?}"
    );
    assert!(
        pauses[7] >= DIAL_BACKOFF_MAX && pauses[7] < DIAL_BACKOFF_MAX * 2,
        "{pauses:?}"
    );
    peers.dials(now);
    peers.dial_failed(now, &key(1));
    peers.set_allowed(now, &list(&[(1, &[A])]));
    assert!(peers.dials(now).is_empty(), "the same list changes nothing");
    peers.set_allowed(now, &list(&[(1, &[B])]));
    assert_eq!(peers.dials(now), [(key(1), vec![B.parse().unwrap()])]);
}

#[test]
fn a_peer_is_connected_after_status_and_pong_and_until_pongs_stop() {
    let start = Instant::now();
    let mut peers = peers(start);
    peers.set_allowed(start, &list(&[(1, &[A])]));
    peers.connected(start, &key(1), connection(1), None);
    peers.pong(start, &key(1), connection(1), Duration::from_millis(1));
    assert_eq!(peers.changes(start), []);
    peers.status(start, 5, &key(1), status());
    assert_eq!(peers.changes(start), [Change::Connected(key(1))]);
    assert_eq!(peers.changes(start + PONG_FRESH), []);
    let late = start + PONG_FRESH + Duration::from_millis(1);
    assert_eq!(peers.changes(late), [Change::Disconnected(key(1))]);
    peers.pong(late, &key(1), connection(1), Duration::from_millis(1));
    assert_eq!(peers.changes(late), [Change::Connected(key(1))]);
    peers.disconnected(late, &key(1), connection(1));
    assert_eq!(peers.changes(late), [Change::Disconnected(key(1))]);
}

#[test]
fn a_connection_without_pongs_is_gone_whatever_the_others_of_its_peer_give() {
    let start = Instant::now();
    let mut peers = peers(start);
    peers.set_allowed(start, &list(&[(1, &[A])]));
    let second = start + Duration::from_secs(1);
    peers.connected(start, &key(1), connection(1), None);
    peers.connected(second, &key(1), connection(2), None);
    let early = start + PONG_OVERDUE - Duration::from_millis(1);
    assert_eq!(peers.take_overdue(early), []);
    peers.pong(early, &key(1), connection(2), Duration::from_millis(1));
    let due = start + PONG_OVERDUE;
    assert_eq!(peers.take_overdue(due), [connection(1)]);
    assert_eq!(peers.take_overdue(due), [], "once");
    assert!(peers.dials(due).is_empty(), "the other one lives");
    // The library says later that it is closed.
    peers.disconnected(due, &key(1), connection(1));
    assert_eq!(peers.take_overdue(early + PONG_OVERDUE), [connection(2)]);
    let again = early + PONG_OVERDUE + 2 * DIAL_BACKOFF_MIN;
    assert_eq!(
        peers.dials(again).len(),
        1,
        "whether it is closed by then or not"
    );
}

#[test]
fn statuses_are_exchanged_once_a_second_by_whoever_is_first() {
    let start = Instant::now();
    let mut peers = peers(start);
    peers.set_allowed(start, &list(&[(1, &[]), (2, &[])]));
    peers.connected(start, &key(1), connection(1), Some(A.parse().unwrap()));
    peers.connected(start, &key(2), connection(2), None);
    assert_eq!(peers.statuses(start), [key(1)], "the dialling side begins");
    assert!(peers.statuses(start).is_empty());
    peers.status(start, 5, &key(1), status());
    peers.status_closed(start, &key(1));
    assert_eq!(peers.statuses(start + STATUS_PATIENCE), [key(2)]);
    peers.status_closed(start + STATUS_PATIENCE, &key(2));
    assert_eq!(
        peers.statuses(start + STATUS_PATIENCE * 2),
        [key(2)],
        "again after a failure"
    );
    assert_eq!(peers.statuses(start + STATUS_INTERVAL), [key(1)]);
}

#[test]
fn the_allow_list_decides() {
    let start = Instant::now();
    let mut peers = peers(start);
    let (added, removed) = peers.set_allowed(start, &list(&[(0, &[A]), (1, &[A]), (2, &[])]));
    let mut expected = vec![key(1), key(2)];
    expected.sort();
    assert_eq!(
        (added, removed),
        (expected, vec![]),
        "a node does not list itself"
    );
    let (added, removed) = peers.set_allowed(start, &list(&[(2, &[]), (3, &["nonsense"])]));
    assert_eq!((added, removed), (vec![key(3)], vec![key(1)]));
    assert!(!peers.admitted(start, &key(1)) && peers.admitted(start, &key(3)));
    assert!(peers.dials(start).is_empty(), "no usable address");
    peers.learn(&key(9), std::iter::once(A.parse().unwrap()));
    assert!(!peers.map.contains_key(&key(9)), "strangers leave no trace");
}

#[test]
fn bans_end() {
    let start = Instant::now();
    let mut peers = peers(start);
    peers.set_allowed(start, &list(&[(1, &[A])]));
    let ban = peers.charge(start, &key(1), Fault::WrongChain).unwrap();
    assert!(!peers.admitted(start, &key(1)) && peers.dials(start).is_empty());
    assert!(peers.admitted(start + ban, &key(1)));
    assert_eq!(peers.dials(start + ban).len(), 1);
}

#[test]
fn what_was_learned_outlives_a_restart() {
    let start = Instant::now();
    let mut peers = peers(start);
    peers.set_allowed(start, &list(&[(1, &[])]));
    peers.find(&key(1), "/ip4/10.0.0.9/tcp/9".parse().unwrap());
    peers.connected(start, &key(1), connection(1), None);
    let own = [A, "/ip4/0.0.0.0/tcp/1", B].map(|text| text.parse().unwrap());
    peers.learn(&key(1), own.into_iter());
    peers.find(&key(1), "/ip4/10.0.0.8/tcp/8".parse().unwrap());
    peers.status(start, 77, &key(1), status());
    let book = peers.take_book().unwrap();
    assert!(peers.take_book().is_none());
    let mut again = Peers::new(key(0), start, 1, book);
    assert!(
        again.dials(start).is_empty(),
        "in the book, but not allowed yet"
    );
    again.set_allowed(start, &list(&[(1, &[])]));
    let addresses = vec![A.parse().unwrap(), B.parse().unwrap()];
    assert_eq!(again.dials(start), [(key(1), addresses)]);
}

#[test]
fn too_many_addresses_are_left_out() {
    let start = Instant::now();
    let mut peers = peers(start);
    let many: Vec<_> = (1..100)
        .map(|port| format!("/ip4/10.0.0.1/tcp/{port}"))
        .collect();
    peers.set_allowed(start, &BTreeMap::from([(key(1), many.clone())]));
    peers.learn(&key(1), many.iter().map(|text| text.parse().unwrap()));
    let (_, addresses) = peers.dials(start).pop().unwrap();
    assert_eq!(addresses.len(), MAX_ADDRESSES_PER_PEER);
}
