use std::time::Duration;

use axolotl_common::{
    Epoch, KeyPair,
    genesis::{AxolotlGenesis, GenesisDocument, dev_genesis},
};

use super::*;
use crate::cluster::recovery::Trust;

const AT: Now = Duration::from_secs(100);

fn key(i: u8) -> KeyPair {
    KeyPair::from_seed(&[i; 32])
}

fn member(i: u8) -> Member {
    Member {
        node_id: NodeId::numbered(i.into()),
        public_key: key(i).public(),
        volume_id: VolumeId([i; 16]),
    }
}

/// `n` validators and a learner with the number after theirs.
fn state(n: u8) -> State {
    let validators: Vec<Member> = (1..=n).map(member).collect();
    let axolotl: AxolotlGenesis = serde_json::from_value(serde_json::json!({
        "validators": validators, "authorityKey": key(99).public(),
    }))
    .unwrap();
    let document = GenesisDocument::from_value(dev_genesis(&axolotl, 1)).unwrap();
    let record = document.epoch().sign(&document.chain(), &key(99));
    let mut state = State::new(Rules {
        min_nodes: 1,
        max_nodes: 10,
        target_nodes: n.into(),
        genesis_nodes: n.into(),
        heartbeat_interval: Duration::from_secs(5),
        genesis_timeout: Duration::ZERO,
        unhealthy_after: Duration::from_secs(15),
        peer_word: Duration::from_secs(10),
        trust: Trust::Crash,
        open_registration: false,
    });
    state.chain = Some(Chain::new(document, record));
    for i in 1..=n + 1 {
        state.apply_record(NodeRecord::of_member(&member(i), i.into()), None);
    }
    state
}

fn beat(state: &mut State, now: Now, i: u8, height: u64) {
    beat_reaching(state, now, i, height, &[]);
}

fn beat_reaching(state: &mut State, now: Now, i: u8, height: u64, others: &[u8]) {
    let beat = Heartbeat {
        node_id: NodeId::numbered(i.into()),
        incarnation: 0,
        seq: now.as_millis() as u64,
        height: Height(height),
        epoch: Epoch(0),
        leader: None,
        tx_pool_size: 0,
        peers: 0,
        reachable: others.iter().map(|other| key(*other).public()).collect(),
        syncing: false,
        last_commit_age_ms: None,
        voting: true,
        unfit: None,
        sealed: None,
    };
    state.heartbeat(now, 0, &key(i).public(), beat).unwrap();
}

#[test]
fn the_head_is_what_more_validators_say_than_may_lie() {
    const LIE: u64 = 1 << 60;
    let table: [(u8, &[u64], u64); 11] = [
        (1, &[7], 7),
        (2, &[7, 9], 9),
        (3, &[7, 9, 8], 9),
        (4, &[7, 9, 8, LIE], 9),
        (4, &[7, 9, 8, 0], 8),
        (7, &[9, 8, 7, 6, 5, LIE, LIE], 9),
        // The others are silent.
        (3, &[7], 7),
        (4, &[7], 7),
        (4, &[7, LIE], 7),
        (7, &[8, LIE], 8),
        (4, &[], 0),
    ];
    for (n, heights, head) in table {
        let mut state = state(n);
        for (i, height) in (1..).zip(heights) {
            beat(&mut state, AT, i, *height);
        }
        // A learner's word is none.
        beat(&mut state, AT, n + 1, LIE);
        assert_eq!(state.head(AT), Height(head), "n = {n}: {heights:?}");
        assert_eq!(state.head(AT * 2), Height(0), "nobody lives any more");
    }
}

#[test]
fn a_liar_does_not_keep_a_learner_from_being_level() {
    let mut state = state(4);
    for (i, height) in [(1, 100), (2, 101), (3, 101), (4, 1 << 60)] {
        beat(&mut state, AT, i, height);
    }
    let level = |state: &State| state.nodes[&NodeId::numbered(5)].live.level_since.is_some();
    beat(&mut state, AT, 5, 95);
    assert!(!level(&state));
    beat(&mut state, AT + Duration::from_secs(1), 5, 96);
    assert!(level(&state));
}

#[test]
fn news_of_a_validator_is_its_own_word_or_that_of_peers_and_grows_old() {
    let mut state = state(4);
    let at = |seconds| AT + Duration::from_secs(seconds);
    for i in 1..=4 {
        beat(&mut state, at(0), i, 1);
    }
    beat_reaching(&mut state, at(5), 1, 1, &[3]);
    // A heartbeat comes every 5 s, and may be 2 s late.
    let table = [
        (6, [true, true, true, true]),
        (8, [true, false, true, false]),
        (13, [false, false, false, false]),
    ];
    for (seconds, expected) in table {
        let survey = state.survey(at(seconds), None);
        let lately: Vec<bool> = survey.seats.iter().map(|seat| seat.lately).collect();
        assert_eq!(lately, expected, "after {seconds} s");
        assert_eq!(survey.voting(), 4, "none has failed after {seconds} s");
    }
}
