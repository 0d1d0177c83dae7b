use super::*;
use crate::{
    certificate::{CertificateError, CommitCertificate, VoteKind, vote_sign_bytes},
    crypto::KeyPair,
    ids::{ChainId, ChainRef, Epoch, Hash, Height, NodeId, Round, VolumeId},
    membership::{EpochRecord, Member, RecordKind, ValidatorSet},
    quorum::QuorumRule,
    votes::{PolkaCertificate, SignedVote, Vote},
};

const CHAIN: ChainRef = ChainRef {
    id: ChainId(7),
    genesis: Hash([7; 32]),
};
const A: Hash = Hash([0xa; 32]);
const B: Hash = Hash([0xb; 32]);
const HEAD: Hash = Hash([0x99; 32]);
const H: Height = Height(9);

fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

fn member(seed: u8) -> Member {
    Member {
        node_id: NodeId::numbered(seed.into()),
        public_key: key(seed).public(),
        volume_id: VolumeId([seed; 16]),
    }
}

fn record(number: u64, seeds: &[u8]) -> EpochRecord {
    EpochRecord {
        number: Epoch(number),
        ..EpochRecord::genesis(&CHAIN, seeds.iter().map(|seed| member(*seed)).collect())
    }
}

fn set(number: u64, seeds: &[u8]) -> ValidatorSet {
    ValidatorSet::new(&CHAIN, &record(number, seeds), QuorumRule::Byzantine)
}

/// Epoch 0 with members 1 to n; epoch 1, planned, with 2 to n + 1.
fn sets(n: u8) -> Sets {
    let first: Vec<u8> = (1..=n).collect();
    let next: Vec<u8> = (2..=n + 1).collect();
    [(Epoch(0), set(0, &first)), (Epoch(1), set(1, &next))].into()
}

fn ballot(attempt: u64) -> Ballot {
    let start = RegistryStart {
        counter: 1,
        id: StartId([1; 16]),
    };
    Ballot { start, attempt }
}

fn vote(seed: u8, epoch: u64, round: u32, kind: VoteKind, block: Hash) -> SignedVote {
    let vote = Vote {
        epoch: Epoch(epoch),
        height: H.next(),
        round: Round(round),
        kind,
        block: Some(block),
        validator: key(seed).public(),
    };
    let signature = key(seed).sign(&vote.sign_bytes(&CHAIN));
    SignedVote { vote, signature }
}

fn lock(epoch: u64, round: u32, block: Hash, voters: &[u8]) -> StatedLock {
    let votes = voters.iter().map(|seed| {
        let vote = vote(*seed, epoch, round, VoteKind::Prevote, block);
        (vote.vote.validator, vote.signature)
    });
    StatedLock {
        proof: PolkaCertificate {
            epoch: Epoch(epoch),
            height: H.next(),
            round: Round(round),
            block,
            signatures: votes.collect(),
        },
        carries: None,
    }
}

fn commit(voters: &[u8]) -> CommitCertificate {
    let message = vote_sign_bytes(
        &CHAIN,
        Epoch(0),
        H,
        Round(0),
        VoteKind::Precommit,
        Some(HEAD),
    );
    CommitCertificate {
        epoch: Epoch(0),
        height: H,
        round: Round(0),
        block: HEAD,
        signatures: voters
            .iter()
            .map(|seed| (key(*seed).public(), key(*seed).sign(&message)))
            .collect(),
    }
}

fn statement(seed: u8, lock: Option<StatedLock>) -> Statement {
    Statement {
        author: key(seed).public(),
        volume: VolumeId([seed; 16]),
        sealed: Epoch(0),
        ballot: ballot(1),
        head: H,
        head_hash: HEAD,
        certificate: Some(commit(&[1, 2, 3])),
        governing: Epoch(0),
        lock,
        last_vote: None,
        seen: Vec::new(),
    }
}

fn judged(statements: &[Statement], sets: &Sets) -> Result<Finding, Obstacle> {
    judge(&statements.iter().collect::<Vec<_>>(), sets)
}

#[test]
fn the_condition_is_that_of_the_table() {
    for (n, crash, byzantine) in [(3, 1, 1), (4, 2, 3), (5, 2, 3), (7, 3, 5), (10, 4, 7)] {
        let seeds: Vec<u8> = (1..=n).collect();
        let set = set(0, &seeds);
        assert_eq!(fewest_survivors(&set), crash, "n = {n}");
        assert_eq!(condition_margin(crash, &set), 0, "n = {n}");
        assert!(condition_margin(crash - 1, &set) < 0, "n = {n}");
        let faults = i64::try_from(set.rule().byzantine_faults(set.len())).unwrap();
        let fewest = (1..=set.len()).find(|s| condition_margin(*s, &set) >= faults);
        assert_eq!(fewest, Some(byzantine), "n = {n}");
    }
}

#[test]
fn the_highest_lock_of_the_governing_epoch_is_adopted() {
    let sets = sets(4);
    let nothing = judged(&[statement(1, None), statement(2, None)], &sets).unwrap();
    assert_eq!((nothing.base(), nothing.margin), ((H, HEAD), 0));
    let voters = [1, 2, 3];
    let low = statement(1, Some(lock(0, 0, A, &voters)));
    let high = statement(2, Some(lock(0, 1, B, &voters)));
    // Rounds of another epoch do not compare.
    let other = statement(3, Some(lock(1, 7, A, &[2, 3, 4])));
    let found = judged(&[low, high, other], &sets).unwrap();
    assert_eq!(found.base(), (H.next(), B));
    assert_eq!(found.holders, [key(2).public()]);
    assert_eq!((found.survivors.len(), found.margin), (3, 1));
}

#[test]
fn what_does_not_count_is_not_counted() {
    let sets = sets(4);
    let too_few = |have| {
        Err(Obstacle::TooFew {
            epoch: Epoch(0),
            have,
            needed: 2,
            n: 4,
        })
    };
    assert_eq!(judged(&[], &sets), Err(Obstacle::Nobody));
    assert_eq!(judged(&[statement(1, None)], &sets), too_few(1));
    let twice = [statement(1, None), statement(1, None)];
    assert_eq!(judged(&twice, &sets), too_few(1), "one author twice");
    let mut wiped = statement(2, None);
    wiped.volume = VolumeId([99; 16]);
    assert_eq!(judged(&[statement(1, None), wiped], &sets), too_few(1));
    assert_eq!(
        judged(&[statement(1, None), statement(5, None)], &sets),
        too_few(1),
        "a learner"
    );
    // Others saw a precommit of it that it does not own to.
    let mut witness = statement(1, None);
    witness.seen = vec![vote(2, 0, 1, VoteKind::Precommit, A)];
    let mut stale = statement(2, None);
    stale.last_vote = Some(vote(2, 0, 0, VoteKind::Precommit, A));
    let all = [witness.clone(), stale.clone(), statement(3, None)];
    let found = judged(&all, &sets).unwrap();
    assert_eq!(found.ignored.len(), 1);
    assert!(!found.survivors.contains(&key(2).public()));
    stale.last_vote = Some(vote(2, 0, 1, VoteKind::Precommit, A));
    assert_eq!(judged(&[witness, stale], &sets).unwrap().survivors.len(), 2);
}

#[test]
fn votes_of_a_superseded_epoch_make_nobody_stale() {
    // Epoch 1 took force by a record with the base H. Member 2 voted above H in epoch 0, which it sealed
    // then; after a restart it knows of its vote at H only.
    let sets = sets(4);
    let stated = |seed| Statement {
        governing: Epoch(1),
        sealed: Epoch(1),
        ..statement(seed, None)
    };
    let mut at_head = vote(2, 0, 0, VoteKind::Precommit, HEAD);
    at_head.vote.height = H;
    let survivors = |seen: SignedVote, governing| {
        let mut witness = stated(3);
        witness.seen = vec![seen];
        let mut restarted = stated(2);
        restarted.last_vote = Some(at_head);
        restarted.governing = governing;
        judged(&[witness, restarted], &sets).map(|found| found.survivors.len())
    };
    let (before, since) = (
        vote(2, 0, 3, VoteKind::Precommit, A),
        vote(2, 1, 0, VoteKind::Prevote, A),
    );
    assert_eq!(survivors(before, Epoch(1)), Ok(2));
    let alone = Err(Obstacle::TooFew {
        epoch: Epoch(1),
        have: 1,
        needed: 2,
        n: 4,
    });
    assert_eq!(survivors(since, Epoch(1)), alone, "it forgot a vote");
    // Its chain was rolled back along with its log.
    assert_eq!(survivors(before, Epoch(0)), alone);
}

#[test]
fn a_planned_record_in_flight_needs_its_own_members() {
    let sets = sets(4);
    let carrying = |seed, sealed| {
        let mut lock = lock(0, 0, A, &[1, 2, 3]);
        lock.carries = Some(Epoch(1));
        let mut statement = statement(seed, Some(lock));
        statement.sealed = Epoch(sealed);
        statement
    };
    let found = judged(&[carrying(2, 1), carrying(3, 1)], &sets).unwrap();
    assert_eq!(
        (found.planned, found.succeeded()),
        (Some(Epoch(1)), Epoch(1))
    );
    // Member 1 is not of epoch 1, and who sealed epoch 0 only may vote in epoch 1.
    for pair in [
        [carrying(1, 1), carrying(2, 1)],
        [carrying(2, 0), carrying(3, 1)],
    ] {
        let refused = judged(&pair, &sets);
        assert!(
            matches!(
                refused,
                Err(Obstacle::TooFew {
                    epoch: Epoch(1),
                    have: 1,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
}

#[test]
fn two_proofs_of_one_round_stop_everything() {
    let lies = [
        statement(1, Some(lock(0, 3, A, &[1, 2, 3]))),
        statement(2, Some(lock(0, 3, B, &[1, 2, 3]))),
    ];
    let refused = judged(&lies, &sets(4));
    assert!(
        matches!(refused, Err(Obstacle::Misbehaviour { .. })),
        "{refused:?}"
    );
    let mut fork = statement(2, None);
    fork.head_hash = A;
    let refused = judged(&[statement(1, None), fork], &sets(4));
    assert!(
        matches!(refused, Err(Obstacle::TwoHeads { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_statement_must_hold() {
    let sets = sets(4);
    let check =
        |statement: Statement, seed: u8| statement.sign(&CHAIN, &key(seed)).check(&CHAIN, &sets);
    let voters = [1, 2, 3];
    assert_eq!(check(statement(1, Some(lock(0, 0, A, &voters))), 1), Ok(()));
    let author = key(1).public();
    assert_eq!(
        check(statement(1, None), 2),
        Err(StatementError::Signature(author))
    );
    let mut unknown = statement(1, None);
    unknown.governing = Epoch(9);
    assert_eq!(
        check(unknown, 1),
        Err(StatementError::UnknownEpoch(Epoch(9)))
    );
    let no_quorum = CertificateError::NoQuorum {
        found: 2,
        quorum: 3,
    };
    let mut early = statement(1, None);
    early.certificate = Some(commit(&[1, 2]));
    assert_eq!(
        check(early, 1),
        Err(StatementError::Certificate(no_quorum.clone()))
    );
    let unproven = statement(1, Some(lock(0, 0, A, &[1, 2])));
    assert_eq!(check(unproven, 1), Err(StatementError::Proof(no_quorum)));
    let mut elsewhere = statement(1, None);
    elsewhere.head_hash = A;
    let mut old_lock = statement(1, Some(lock(0, 0, A, &voters)));
    old_lock.head = Height(8);
    old_lock.certificate = None;
    let mut not_own = statement(1, None);
    not_own.last_vote = Some(vote(2, 0, 0, VoteKind::Prevote, A));
    let mut forged = statement(1, None);
    forged.seen = vec![SignedVote {
        signature: vote(3, 0, 0, VoteKind::Prevote, A).signature,
        ..vote(2, 0, 0, VoteKind::Prevote, A)
    }];
    for bad in [elsewhere, old_lock, not_own, forged] {
        let refused = check(bad, 1);
        assert!(
            matches!(refused, Err(StatementError::Malformed(_))),
            "{refused:?}"
        );
    }
}

fn draft(seeds: &[u8], adopted: Option<StatedLock>) -> EpochRecord {
    let base = adopted
        .as_ref()
        .map_or((H, HEAD), |lock| (H.next(), lock.block()));
    let said = [statement(1, adopted.clone()), statement(2, None)];
    EpochRecord {
        kind: RecordKind::Recovery,
        succeeds: sets(4)[&Epoch(0)].record_hash(),
        base_height: base.0,
        handover: Some(Box::new(Handover {
            ballot: ballot(1),
            statements: [1, 2]
                .iter()
                .zip(said)
                .map(|(seed, said)| said.sign(&CHAIN, &key(*seed)))
                .collect(),
            base: base.1,
            adopted: adopted.is_some(),
        })),
        ..record(5, seeds)
    }
}

#[test]
fn a_draft_follows_from_its_statements() {
    let check = |draft: &EpochRecord| check_draft(&CHAIN, draft, &sets(4));
    let voters = [1, 2, 3];
    let good = draft(&[1, 2, 5, 6], Some(lock(0, 0, A, &voters)));
    assert_eq!(check(&good).unwrap().base(), (H.next(), A));
    assert_eq!(
        check(&draft(&[1, 2, 5, 6], None)).unwrap().base(),
        (H, HEAD)
    );
    let mut wrong = vec![
        draft(&[1, 2, 3, 5], None), // 3 has not sealed
        draft(&[1, 2, 5], None),
        draft(&[1, 2, 5, 5], None),
    ];
    let mut change = |with: fn(&mut EpochRecord)| {
        let mut changed = good.clone();
        with(&mut changed);
        wrong.push(changed);
    };
    change(|draft| draft.succeeds = Hash([1; 32]));
    change(|draft| draft.number = Epoch(0));
    change(|draft| draft.base_height = H);
    change(|draft| draft.handover.as_mut().unwrap().base = B);
    change(|draft| draft.handover.as_mut().unwrap().adopted = false);
    for draft in &wrong {
        let refused = check(draft);
        assert!(
            matches!(refused, Err(DraftError::Contradiction(_))),
            "{refused:?}"
        );
    }
    let mut alone = good.clone();
    alone.handover.as_mut().unwrap().statements.pop();
    assert!(matches!(check(&alone), Err(DraftError::Obstacle(_))));
    let mut planned = good.clone();
    planned.kind = RecordKind::Planned;
    assert_eq!(check(&planned), Err(DraftError::NoHandover));
    let mut forged = good;
    forged.handover.as_mut().unwrap().statements[0]
        .statement
        .head = Height(3);
    assert!(matches!(check(&forged), Err(DraftError::Statement(_))));
}

#[test]
fn a_record_needs_a_quorum_of_the_new_and_enough_of_the_old() {
    let old = set(0, &[1, 2, 3, 4]);
    let authority = key(100);
    let acknowledged = |seeds: &[u8], ballots: &[u64]| {
        let draft = draft(&[1, 2, 5, 6], None);
        let hash = draft.hash(&CHAIN);
        let mut signed = draft.sign(&CHAIN, &authority);
        signed.acknowledgements = seeds
            .iter()
            .zip(ballots)
            .map(|(seed, attempt)| {
                Acknowledgement::new(&CHAIN, ballot(*attempt), &hash, &key(*seed))
            })
            .collect();
        let identity = signed.record.hash(&CHAIN);
        assert_eq!(
            identity, hash,
            "acknowledgements are no part of the identity"
        );
        check_acknowledgements(&CHAIN, &signed, &old)
    };
    assert_eq!(acknowledged(&[1, 2, 5], &[1, 1, 1]), Ok(()));
    assert_eq!(acknowledged(&[1, 2, 6], &[3, 3, 3]), Ok(()));
    for (seeds, ballots) in [
        (&[1, 5, 6][..], &[1, 1, 1][..]), // one old member only
        (&[1, 2][..], &[1, 1][..]),
        (&[1, 2, 2][..], &[1, 1, 1][..]),
        (&[1, 2, 9][..], &[1, 1, 1][..]),
        (&[1, 2, 5][..], &[1, 2, 1][..]),
        (&[1, 2, 5][..], &[0, 0, 0][..]),
    ] {
        let refused = acknowledged(seeds, ballots);
        assert!(
            matches!(refused, Err(DraftError::Acknowledgements(_))),
            "{seeds:?}: {refused:?}"
        );
    }
}

#[test]
fn ballots_are_ordered_by_start_and_attempt() {
    let of = |counter, id, attempt| Ballot {
        start: RegistryStart {
            counter,
            id: StartId([id; 16]),
        },
        attempt,
    };
    let order = [
        of(1, 9, 9),
        of(2, 1, 1),
        of(2, 1, 2),
        of(2, 2, 1),
        of(3, 0, 0),
    ];
    assert!(order.is_sorted(), "{order:?}");
}
