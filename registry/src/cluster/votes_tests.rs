use std::time::Duration;

use axolotl_common::{
    ChainId, ChainRef, Epoch, EpochRecord, Hash, KeyPair, Member, QuorumRule, VolumeId,
    membership::RecordKind,
};

use super::*;

/// The head of everybody.
const HEAD: Height = Height(100);

/// Who reports, and whose votes it misses.
type Missed<'a> = &'a [(u8, &'a [u8])];

fn at(seconds: u64) -> Now {
    Duration::from_secs(seconds)
}

fn key(i: u8) -> PublicKey {
    KeyPair::from_seed(&[i; 32]).public()
}

fn set(n: u8, rule: QuorumRule) -> ValidatorSet {
    let chain = ChainRef {
        id: ChainId(7),
        genesis: Hash([9; 32]),
    };
    let record = EpochRecord {
        number: Epoch(0),
        kind: RecordKind::Planned,
        succeeds: Hash([0; 32]),
        members: (1..=n)
            .map(|i| Member {
                node_id: NodeId::numbered(i.into()),
                public_key: key(i),
                volume_id: VolumeId([i; 16]),
            })
            .collect(),
        base_height: Height(0),
        expiry_height: None,
        handover: None,
    };
    ValidatorSet::new(&chain, &record, rule)
}

fn silent(i: u8) -> VoteReport {
    VoteReport {
        validator: key(i),
        height: Height(90),
        age_ms: 9_000,
        missing_ms: Some(8_500),
    }
}

fn heard(i: u8) -> VoteReport {
    VoteReport {
        validator: key(i),
        height: HEAD,
        age_ms: 20,
        missing_ms: None,
    }
}

/// What each reports: itself, and whom it misses. It receives the votes of all others.
fn reports(n: u8, missed: Missed<'_>) -> Vec<(u8, Vec<VoteReport>)> {
    let of = |(reporter, missed): &(u8, &[u8])| {
        let report = |i| match missed.contains(&i) {
            true => silent(i),
            false => heard(i),
        };
        (*reporter, (1..=n).map(report).collect())
    };
    missed.iter().map(of).collect()
}

/// Who is not voting; 1 leads.
fn judged(
    set: &ValidatorSet,
    reports: &[(u8, Vec<VoteReport>)],
    known: &BTreeMap<PublicKey, Silence>,
) -> BTreeMap<PublicKey, Silence> {
    let labels: Vec<NodeId> = reports
        .iter()
        .map(|(i, _)| NodeId::numbered((*i).into()))
        .collect();
    let reporters: Vec<Reporter<'_>> = reports
        .iter()
        .zip(&labels)
        .map(|((i, votes), label)| Reporter {
            label,
            key: key(*i),
            leads: *i == 1,
            head: HEAD,
            at: at(50),
            votes,
        })
        .collect();
    judge(set, &reporters, known, at(50))
}

fn numbers(silences: &BTreeMap<PublicKey, Silence>) -> Vec<u8> {
    let mut numbers: Vec<u8> = (1..=20)
        .filter(|i| silences.contains_key(&key(*i)))
        .collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn f_plus_one_others_must_report_it_and_not_so_many_the_contrary() {
    use QuorumRule::{Byzantine, Majority};
    let none: &[u8] = &[];
    let table: &[(&str, u8, QuorumRule, Missed<'_>, &[u8])] = &[
        ("nobody reports", 4, Byzantine, &[], &[]),
        (
            "all is well",
            4,
            Byzantine,
            &[(1, none), (2, none), (3, none), (4, none)],
            &[],
        ),
        (
            "both others miss it",
            4,
            Byzantine,
            &[(1, &[4]), (2, &[4]), (3, &[4]), (4, none)],
            &[4],
        ),
        (
            "one of two others",
            4,
            Byzantine,
            &[(1, &[4]), (2, &[4]), (3, none), (4, none)],
            &[],
        ),
        (
            "the leader's report counts for nothing",
            4,
            Byzantine,
            &[(1, &[4]), (2, &[4])],
            &[],
        ),
        (
            "nor does its own",
            4,
            Byzantine,
            &[(2, &[4]), (4, &[4])],
            &[],
        ),
        (
            "two of three others miss the leader",
            4,
            Byzantine,
            &[(2, &[1]), (3, &[1]), (4, none)],
            &[1],
        ),
        (
            "one who misses everybody speaks of itself",
            4,
            Byzantine,
            &[(2, &[1, 3, 4]), (3, &[4])],
            &[],
        ),
        (
            "everybody about everybody",
            4,
            Byzantine,
            &[
                (1, &[2, 3, 4]),
                (2, &[1, 3, 4]),
                (3, &[1, 2, 4]),
                (4, &[1, 2, 3]),
            ],
            &[],
        ),
        (
            "too many to have decided blocks",
            4,
            Byzantine,
            &[(2, &[3, 4]), (3, &[2, 4]), (4, &[2, 3])],
            &[],
        ),
        (
            "seven: two are too few",
            7,
            Byzantine,
            &[(2, &[7]), (3, &[7]), (4, none), (5, none)],
            &[],
        ),
        (
            "seven: three suffice",
            7,
            Byzantine,
            &[(2, &[7]), (3, &[7]), (4, &[7]), (5, none), (6, none)],
            &[7],
        ),
        (
            "seven: two at once",
            7,
            Byzantine,
            &[
                (2, &[6, 7]),
                (3, &[6, 7]),
                (4, &[6, 7]),
                (5, &[7]),
                (1, none),
            ],
            &[6, 7],
        ),
        (
            "ten: three contrary reports are too few",
            10,
            Byzantine,
            &[
                (2, &[10]),
                (3, &[10]),
                (4, &[10]),
                (5, &[10]),
                (6, none),
                (7, none),
                (8, none),
            ],
            &[10],
        ),
        (
            "ten: four contrary reports",
            10,
            Byzantine,
            &[
                (2, &[10]),
                (3, &[10]),
                (4, &[10]),
                (5, &[10]),
                (6, none),
                (7, none),
                (8, none),
                (9, none),
            ],
            &[],
        ),
        (
            "three: all others that are heard",
            3,
            Majority,
            &[(1, none), (2, &[3])],
            &[3],
        ),
        ("three: the leader alone", 3, Majority, &[(1, &[3])], &[]),
        (
            "three: the leader is missed by one",
            3,
            Majority,
            &[(2, &[1]), (3, none)],
            &[],
        ),
        (
            "three: the leader is missed by both",
            3,
            Majority,
            &[(2, &[1]), (3, &[1])],
            &[1],
        ),
        (
            "three: a quorum of three decided nothing without it",
            3,
            Byzantine,
            &[(2, &[3])],
            &[],
        ),
        (
            "two: who misses the other misses everybody",
            2,
            Majority,
            &[(2, &[1]), (1, &[2])],
            &[],
        ),
        ("one", 1, Byzantine, &[(1, none)], &[]),
        (
            "a stranger's report",
            4,
            Byzantine,
            &[(9, &[4]), (8, &[4])],
            &[],
        ),
    ];
    for (what, n, rule, missed, expected) in table {
        let silences = judged(&set(*n, *rule), &reports(*n, missed), &BTreeMap::new());
        assert_eq!(&numbers(&silences), expected, "{what}");
    }
}

#[test]
fn a_report_that_names_a_member_many_times_counts_once() {
    let of = |i| (i, vec![silent(4), silent(4), silent(4), heard(3), heard(2)]);
    let silences = judged(&set(4, QuorumRule::Byzantine), &[of(2)], &BTreeMap::new());
    assert_eq!(numbers(&silences), [0_u8; 0]);
    let silences = judged(
        &set(4, QuorumRule::Byzantine),
        &[of(2), of(3)],
        &BTreeMap::new(),
    );
    assert_eq!(numbers(&silences), [4]);
    assert_eq!(silences[&key(4)].reporters.len(), 2);
}

#[test]
fn what_is_known_stays_until_enough_others_receive_its_votes_again() {
    let set = set(4, QuorumRule::Byzantine);
    let known = BTreeMap::from([(
        key(4),
        Silence {
            since: at(10),
            height: Height(80),
            last_vote: at(1),
            reporters: vec![NodeId::numbered(2), NodeId::numbered(3)],
        },
    )]);
    let table: [(Missed<'_>, &[u8]); 6] = [
        (&[], &[4]),
        (&[(2, &[])], &[4]),
        (&[(4, &[])], &[4]),
        (&[(2, &[]), (3, &[4])], &[4]),
        // Two others, one of which may lie; the leader may be one of them.
        (&[(2, &[]), (3, &[])], &[]),
        (&[(1, &[]), (3, &[])], &[]),
    ];
    for (missed, expected) in table {
        let silences = judged(&set, &reports(4, missed), &known);
        assert_eq!(numbers(&silences), expected, "{missed:?}");
    }
    let silences = judged(&set, &reports(4, &[(2, &[4]), (3, &[4])]), &known);
    let silence = &silences[&key(4)];
    assert_eq!((silence.since, silence.height), (at(10), Height(90)));
    assert_eq!(silence.last_vote, at(41));
}

#[test]
fn the_symptom_says_who_misses_it_since_when() {
    let silence = Silence {
        since: at(10),
        height: Height(80),
        last_vote: at(1),
        reporters: vec![NodeId::numbered(2), NodeId::numbered(3)],
    };
    let symptom = silence.symptom(at(13));
    assert_eq!(symptom.code.code(), "not_voting");
    assert_eq!((symptom.height, symptom.age_ms), (Height(80), 12_000));
    assert_eq!(symptom.reporters, silence.reporters);
    let said = "no vote of it reached node2, node3 for 12 s, the last was for height 80";
    assert!(symptom.text.starts_with(said), "{}", symptom.text);
}
