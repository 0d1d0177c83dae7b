//! How large drafts and answers can be.

use super::*;
use crate::{
    certificate::{CommitCertificate, VoteKind},
    crypto::{PublicKey, Signature},
    ids::{Epoch, Hash, Height, MAX_HEIGHT, MAX_ROUND, NodeId, Round, VolumeId},
    membership::{
        EpochRecord, MAX_DRAFT_BYTES, MAX_MEMBERS, MAX_RECORD_BYTES, Member, RecordKind,
        SignedRecord,
    },
    quorum::QuorumRule,
    registry_api::{ControlAnswer, MAX_ANSWER_BYTES, RecoveryAnswer, StagedDraft},
    votes::{PolkaCertificate, SignedVote, Vote},
};

const KEY: PublicKey = PublicKey([0xff; 32]);
const SIGNATURE: Signature = Signature([0xff; 64]);
const HASH: Hash = Hash([0xff; 32]);
const BALLOT: Ballot = Ballot {
    start: RegistryStart {
        counter: u64::MAX,
        id: StartId([0xff; 16]),
    },
    attempt: u64::MAX,
};

fn vote(block: Option<Hash>) -> SignedVote {
    let vote = Vote {
        epoch: Epoch(MAX_HEIGHT),
        height: Height(MAX_HEIGHT),
        round: Round(MAX_ROUND),
        kind: VoteKind::Precommit,
        block,
        validator: KEY,
    };
    SignedVote {
        vote,
        signature: SIGNATURE,
    }
}

/// The longest statement of one of `n` validators: all of them signed the last block and the lock, and
/// it saw a vote of each.
fn statement(n: usize, seen: Option<Hash>) -> SignedStatement {
    let (epoch, height, round) = (Epoch(MAX_HEIGHT), Height(MAX_HEIGHT), Round(MAX_ROUND));
    let signatures = vec![(KEY, SIGNATURE); n];
    let statement = Statement {
        author: KEY,
        volume: VolumeId([0xff; 16]),
        sealed: epoch,
        ballot: BALLOT,
        head: height,
        head_hash: HASH,
        certificate: Some(CommitCertificate {
            epoch,
            height,
            round,
            block: HASH,
            signatures: signatures.clone(),
        }),
        governing: epoch,
        lock: Some(StatedLock {
            proof: PolkaCertificate {
                epoch,
                height,
                round,
                block: HASH,
                signatures,
            },
            carries: Some(epoch),
        }),
        last_vote: Some(vote(seen)),
        seen: vec![vote(seen); n - 1],
    };
    SignedStatement {
        statement,
        signature: SIGNATURE,
        seal_signature: SIGNATURE,
    }
}

/// The largest draft of `n` validators that rests on so many statements.
fn draft(n: usize, statements: usize, seen: Option<Hash>) -> EpochRecord {
    let member = Member {
        node_id: "n".repeat(NodeId::MAX_LEN).parse().unwrap(),
        public_key: KEY,
        volume_id: VolumeId([0xff; 16]),
    };
    EpochRecord {
        number: Epoch(MAX_HEIGHT),
        kind: RecordKind::Recovery,
        succeeds: HASH,
        members: vec![member; n],
        base_height: Height(MAX_HEIGHT),
        expiry_height: None,
        handover: Some(Box::new(Handover {
            ballot: BALLOT,
            statements: vec![statement(n, seen); statements],
            base: HASH,
            adopted: true,
        })),
    }
}

/// Largest number of validators whose draft is not too large.
fn most(statements: impl Fn(usize) -> usize) -> usize {
    let fits = |n: &usize| draft(*n, statements(*n), Some(HASH)).size() <= MAX_DRAFT_BYTES;
    (1..=MAX_MEMBERS).take_while(fits).count()
}

fn json_length(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).unwrap().len()
}

fn fewest(n: usize) -> usize {
    n - QuorumRule::Byzantine.quorum(n) + 1
}

#[test]
fn drafts_of_52_validators_always_fit_and_of_90_with_the_fewest_survivors() {
    // As docs/recovery.md has it.
    assert_eq!((most(|n| n), most(fewest)), (52, 90));
}

#[test]
fn every_answer_fits_its_bound_and_every_record_of_a_draft_is_one() {
    for seen in [None, Some(HASH)] {
        for n in [40, 52, 70, 90, MAX_MEMBERS] {
            let fits = |statements: &usize| draft(n, *statements, seen).size() <= MAX_DRAFT_BYTES;
            let statements = (1..=n).take_while(fits).count();
            let draft = draft(n, statements, seen);
            let acknowledgement = Acknowledgement {
                member: KEY,
                ballot: BALLOT,
                signature: SIGNATURE,
            };
            let record = SignedRecord {
                record: draft.clone(),
                signature: SIGNATURE,
                acknowledgements: vec![acknowledgement.clone(); 2 * n],
            };
            assert!(record.size() <= MAX_RECORD_BYTES, "{n}: {}", record.size());
            let length = json_length(&record);
            assert!(length < 3 * record.size(), "{n}: {length}");
            let answer = ControlAnswer {
                node_id: NodeId::numbered(u64::MAX),
                number: u64::MAX,
                done: false,
                detail: "x".repeat(1 << 10),
                recovery: Some(Box::new(RecoveryAnswer {
                    met: Some(BALLOT.start),
                    promised: Some(BALLOT),
                    sealed: Some(Epoch(MAX_HEIGHT)),
                    staged: Some(StagedDraft {
                        ballot: BALLOT,
                        draft: Box::new(draft),
                    }),
                    record: Some(Box::new(record)),
                    survey: None,
                    statement: Some(Box::new(statement(n, seen))),
                    acknowledgement: Some(acknowledgement),
                })),
            };
            let length = json_length(&answer);
            assert!(length <= MAX_ANSWER_BYTES, "{n}: {length}");
        }
    }
}
