use std::time::Duration;

use axolotl_common::{
    Epoch, KeyPair,
    genesis::{AxolotlGenesis, GenesisDocument, dev_genesis},
    membership::MAX_MEMBERS,
    registry_api::{ProposalFaultReport, VoteReport},
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
        votes: Vec::new(),
        proposal_faults: Vec::new(),
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

/// A heartbeat of `i` that misses the votes of `missed`, with its head at 100.
fn beat_missing(state: &mut State, now: Now, i: u8, missed: &[u8]) {
    beat_of(state, now, i, missed, |_| {});
}

fn beat_of(state: &mut State, now: Now, i: u8, missed: &[u8], change: impl Fn(&mut Heartbeat)) {
    let report = |other: u8| VoteReport {
        validator: key(other).public(),
        height: Height(if missed.contains(&other) { 90 } else { 100 }),
        age_ms: 9_000,
        missing_ms: missed.contains(&other).then_some(8_500),
    };
    beat(state, now, i, 100);
    let (_, mut beat) = state
        .by_key(&key(i).public())
        .unwrap()
        .live
        .beat
        .clone()
        .unwrap();
    beat.seq += 1;
    beat.votes = (1..=4).filter(|other| *other != i).map(report).collect();
    change(&mut beat);
    state.heartbeat(now, 0, &key(i).public(), beat).unwrap();
}

fn review(state: &mut State, now: Now) -> Vec<(String, bool)> {
    let verdicts = state.verdicts(now);
    let changes = state.review_votes(now, &verdicts);
    let told = |change: crate::cluster::votes::SilenceChange| {
        (change.label.to_string(), change.silence.is_some())
    };
    changes.into_iter().map(told).collect()
}

fn votes_shown(state: &State, now: Now, i: u8) -> (bool, Option<&'static str>) {
    let status = state.status(now, crate::cluster::view::Told::default());
    let node = &status.nodes[&NodeId::numbered(i.into())];
    (
        node.voting,
        node.symptom.as_ref().map(|symptom| symptom.code.code()),
    )
}

/// Four members of which node1 leads, node4 being missed by the two others.
fn not_voting() -> State {
    let mut state = state(4);
    state.leader = Some(NodeId::numbered(1));
    for i in 1..=3 {
        beat_missing(&mut state, AT, i, &[4]);
    }
    beat_missing(&mut state, AT, 4, &[]);
    assert_eq!(review(&mut state, AT), [("node4".to_owned(), true)]);
    state
}

#[test]
fn a_member_whose_votes_do_not_arrive_is_shown_and_not_counted_on_and_not_replaced() {
    let mut state = not_voting();
    assert_eq!(review(&mut state, AT), [], "told once");
    assert_eq!(votes_shown(&state, AT, 4), (false, Some("not_voting")));
    assert_eq!(votes_shown(&state, AT, 3), (true, None));
    let status = state.status(AT, crate::cluster::view::Told::default());
    assert!(status.consensus_possible && status.healthy_nodes == 4);
    let survey = state.survey(AT, None);
    assert_eq!((survey.voting(), survey.voting_lately()), (3, 3));
    let silent: Vec<bool> = survey
        .seats
        .iter()
        .map(|seat| seat.silence.is_some())
        .collect();
    assert_eq!(silent, [false, false, false, true]);
    let plan = state.plan(AT, None);
    assert_eq!(plan.actions, [], "nothing is done about it yet");
    assert_eq!(plan.waits, ["node4: its votes do not reach the others"]);
    // One more that is gone, and the chain stands.
    let later = AT + Duration::from_secs(14);
    for i in [1, 2] {
        beat_missing(&mut state, later, i, &[4]);
    }
    beat_missing(&mut state, later, 4, &[]);
    let after = AT + Duration::from_secs(16);
    let status = state.status(after, crate::cluster::view::Told::default());
    assert!(
        !status.consensus_possible,
        "node4 does not make up for node3"
    );
    // It votes again.
    let mut state = not_voting();
    for i in [2, 3] {
        beat_missing(&mut state, AT + Duration::from_secs(1), i, &[]);
    }
    let now = AT + Duration::from_secs(1);
    assert_eq!(review(&mut state, now), [("node4".to_owned(), false)]);
    assert_eq!(votes_shown(&state, now, 4), (true, None));
    assert_eq!(state.survey(now, None).voting(), 4);
}

#[test]
fn only_fresh_reports_of_level_members_of_the_epoch_count() {
    type Spoil = fn(&mut Heartbeat);
    let spoilt: [(&str, Spoil); 2] = [
        ("it fetches blocks", |beat| beat.syncing = true),
        ("it speaks of another epoch", |beat| beat.epoch = Epoch(1)),
    ];
    for (why, change) in spoilt {
        let mut state = state(4);
        beat_missing(&mut state, AT, 2, &[4]);
        beat_of(&mut state, AT, 3, &[4], change);
        beat_missing(&mut state, AT, 4, &[]);
        assert_eq!(review(&mut state, AT), [], "{why}");
    }
    let mut state = state(4);
    beat_missing(&mut state, AT, 2, &[4]);
    beat_missing(&mut state, AT, 5, &[4]);
    beat_missing(&mut state, AT, 4, &[]);
    let later = AT + Duration::from_secs(8);
    beat_missing(&mut state, later, 3, &[4]);
    assert_eq!(review(&mut state, later), [], "too old, or a learner's");
}

#[test]
fn a_member_that_is_not_heard_any_more_is_left_out_without_a_word() {
    let mut state = not_voting();
    let later = AT + Duration::from_secs(16);
    for i in 1..=3 {
        beat_missing(&mut state, later, i, &[4]);
    }
    assert_eq!(review(&mut state, later), []);
    assert!(state.silences.is_empty());
}

#[test]
fn more_reports_than_a_record_names_members_are_refused() {
    let mut state = state(4);
    beat(&mut state, AT, 1, 100);
    let (_, mut beat) = state
        .by_key(&key(1).public())
        .unwrap()
        .live
        .beat
        .clone()
        .unwrap();
    let report = VoteReport {
        validator: key(2).public(),
        height: Height(1),
        age_ms: 0,
        missing_ms: None,
    };
    beat.seq += 1;
    beat.votes = vec![report.clone(); MAX_MEMBERS];
    state
        .heartbeat(AT, 0, &key(1).public(), beat.clone())
        .unwrap();
    beat.seq += 1;
    beat.votes.push(report);
    let refused = state.heartbeat(AT, 0, &key(1).public(), beat);
    assert!(
        matches!(refused, Err(Refusal::Invalid { field: "votes", .. })),
        "{refused:?}"
    );
}

#[test]
fn proposal_faults_are_shown_as_other_validators_report_them() {
    let mut state = state(4);
    for i in [1, 2, 4] {
        beat(&mut state, AT, i, 100);
    }
    let last_beat = |state: &State, i: u8| {
        let node = state.by_key(&key(i).public()).unwrap();
        node.live.beat.clone().unwrap().1
    };
    let report = |other: u8, invalid, not_in_time| ProposalFaultReport {
        validator: key(other).public(),
        invalid,
        not_in_time,
    };
    let reports = [
        (1, vec![report(4, 3, 0)]),
        (2, vec![report(4, 2, 5), report(1, 0, 0)]),
        // What a node says of itself is not asked, and what it says of others is said to be its word.
        (4, vec![report(4, 9, 9), report(3, 1, 0)]),
    ];
    for (i, reports) in reports {
        let mut beat = last_beat(&state, i);
        beat.seq += 1;
        beat.proposal_faults = reports;
        state.heartbeat(AT, 0, &key(i).public(), beat).unwrap();
    }
    let status = state.status(AT, crate::cluster::view::Told::default());
    let shown = |i: u64| {
        let faults = status.nodes[&NodeId::numbered(i)].proposal_faults.clone()?;
        let reporters: Vec<String> = faults.reporters.iter().map(ToString::to_string).collect();
        Some((faults.invalid, faults.not_in_time, reporters.join(" ")))
    };
    assert_eq!(shown(1), None);
    assert_eq!(shown(3), Some((1, 0, "node4".into())));
    assert_eq!(shown(4), Some((3, 5, "node1 node2".into())));
    let mut beat = last_beat(&state, 1);
    beat.seq += 1;
    beat.proposal_faults = vec![report(4, 1, 1); MAX_MEMBERS + 1];
    let refused = state.heartbeat(AT, 0, &key(1).public(), beat);
    let field = "proposal_faults";
    assert!(
        matches!(refused, Err(Refusal::Invalid { field: found, .. }) if found == field),
        "{refused:?}"
    );
}
