//! Wire and disk formats: golden bytes, round trips, and what is refused.

#![allow(
    clippy::unwrap_used,
    reason = "a harness outside of the test functions: what fails here is a failed test"
)]

use axolotl_common::{
    CommitCertificate, Epoch, Hash, Height, PublicKey, Round, Signature, VoteKind,
    ids::{MAX_HEIGHT, MAX_ROUND},
};
use axolotl_consensus::{
    DecodeError, LogEntry, LogRecord, Message,
    log_record::{BlockVerdict, StepTimer},
    message::{
        MAX_MESSAGE_OVERHEAD, Payload, PolkaCertificate, Proposal, RoundCertificate,
        RoundCertificateKind, RoundSignature, SignedProposal, SignedVote, Vote,
    },
};
use proptest::{collection::vec, option, prelude::*};

const LIMIT: usize = 100;

fn vote(height: u64, round: u32) -> SignedVote {
    SignedVote {
        vote: Vote {
            epoch: Epoch(3),
            height: Height(height),
            round: Round(round),
            kind: VoteKind::Precommit,
            block: Some(Hash([0xbb; 32])),
            validator: PublicKey([0xaa; 32]),
        },
        signature: Signature([0xcc; 64]),
    }
}

fn proposal(round: u32, valid_round: Option<u32>) -> SignedProposal {
    SignedProposal {
        proposal: Proposal {
            epoch: Epoch(3),
            height: Height(9),
            round: Round(round),
            block: Hash([0xbb; 32]),
            valid_round: valid_round.map(Round),
            proposer: PublicKey([0xaa; 32]),
        },
        signature: Signature([0xcc; 64]),
    }
}

fn message(payload: Payload) -> Message {
    Message { copy: 5, payload }
}

fn hex(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    // Runs of filling are shortened so that the bytes can be read.
    [("aa", 32), ("bb", 32), ("cc", 64)]
        .iter()
        .fold(text, |text, (byte, times)| {
            text.replace(&byte.repeat(*times), &format!("[{byte}*{times}]"))
        })
}

#[test]
fn golden_messages() {
    let signers = || vec![(PublicKey([0xaa; 32]), Signature([0xcc; 64]))];
    let table = [
        (
            Payload::Vote(vote(9, 2)),
            "01050000000000000000030000000000000009000000000000000200000001\
             01[bb*32][aa*32][cc*64]",
        ),
        (
            Payload::Proposal {
                proposal: proposal(2, Some(1)),
                block: vec![1, 2, 3].into(),
            },
            "010500000000000000010300000000000000090000000000000002000000[bb*32]\
             0101000000[aa*32][cc*64]03000000010203",
        ),
        (
            Payload::Polka(PolkaCertificate {
                epoch: Epoch(3),
                height: Height(9),
                round: Round(2),
                block: Hash([0xbb; 32]),
                signatures: signers(),
            }),
            "010500000000000000020300000000000000090000000000000002000000[bb*32]\
             01000000[aa*32][cc*64]",
        ),
        (
            Payload::Round(RoundCertificate {
                epoch: Epoch(3),
                height: Height(9),
                round: Round(2),
                kind: RoundCertificateKind::Precommit,
                signatures: vec![RoundSignature {
                    kind: VoteKind::Precommit,
                    block: None,
                    validator: PublicKey([0xaa; 32]),
                    signature: Signature([0xcc; 64]),
                }],
            }),
            "01050000000000000003030000000000000009000000000000000200000001\
             010000000100[aa*32][cc*64]",
        ),
        (
            Payload::Decided(CommitCertificate {
                epoch: Epoch(3),
                height: Height(9),
                round: Round(2),
                block: Hash([0xbb; 32]),
                signatures: signers(),
            }),
            "010500000000000000040300000000000000090000000000000002000000[bb*32]\
             01000000[aa*32][cc*64]",
        ),
    ];
    for (payload, expected) in table {
        let message = message(payload);
        let bytes = message.encode();
        assert_eq!(hex(&bytes), expected, "{message:?}");
        assert_eq!(Message::decode(&bytes, LIMIT), Ok(message));
    }
}

#[test]
fn golden_records() {
    let verdict = BlockVerdict {
        round: Round(2),
        valid_round: None,
        proposer: PublicKey([0xaa; 32]),
        block: Hash([0xbb; 32]),
        valid: true,
    };
    let timeout = LogEntry::Timeout {
        kind: StepTimer::Precommit,
        round: Round(2),
    };
    let block = LogEntry::Block {
        block: Hash([0xbb; 32]),
        bytes: vec![1, 2, 3].into(),
    };
    let head = "0103000000000000000900000000000000";
    let table = [
        (
            LogEntry::Vote(vote(9, 2)),
            "0003000000000000000900000000000000020000000101[bb*32][aa*32][cc*64]",
        ),
        (
            LogEntry::Proposal(proposal(2, None)),
            "010300000000000000090000000000000002000000[bb*32]00[aa*32][cc*64]",
        ),
        (LogEntry::Verdict(verdict), "020200000000[aa*32][bb*32]01"),
        (timeout, "030202000000"),
        (block, "05[bb*32]03000000010203"),
        (LogEntry::Seal, "06"),
    ];
    for (entry, expected) in table {
        let record = LogRecord {
            epoch: Epoch(3),
            height: Height(9),
            entry,
        };
        let bytes = record.encode();
        assert_eq!(hex(&bytes), format!("{head}{expected}"), "{record:?}");
        assert_eq!(LogRecord::decode(&bytes), Ok(record));
    }
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let block = |length: usize| Payload::Proposal {
        proposal: proposal(2, None),
        block: vec![7; length].into(),
    };
    let polka = |signers: usize| {
        Payload::Polka(PolkaCertificate {
            epoch: Epoch(3),
            height: Height(9),
            round: Round(2),
            block: Hash([0xbb; 32]),
            signatures: vec![(PublicKey([0xaa; 32]), Signature([0xcc; 64])); signers],
        })
    };
    let backwards = Payload::Proposal {
        proposal: proposal(2, Some(2)),
        block: vec![].into(),
    };
    let table = [
        (block(LIMIT), None),
        (block(LIMIT + 1), Some("length of the block")),
        (polka(128), None),
        (polka(129), Some("number of signatures")),
        (Payload::Vote(vote(MAX_HEIGHT, MAX_ROUND)), None),
        (backwards, Some("valid round of the proposal")),
    ];
    for (payload, refused) in table {
        let message = message(payload);
        let expected = match refused {
            Some(what) => Err(DecodeError::OutOfBounds(what)),
            None => Ok(message.clone()),
        };
        assert_eq!(Message::decode(&message.encode(), LIMIT), expected);
    }

    for (beyond, what) in [
        (vote(MAX_HEIGHT + 1, 0), "height"),
        (vote(1, MAX_ROUND + 1), "round"),
    ] {
        let record = LogRecord {
            epoch: Epoch(3),
            height: Height(9),
            entry: LogEntry::Vote(beyond),
        };
        let message = message(Payload::Vote(beyond));
        let read = Message::decode(&message.encode(), LIMIT).map(drop);
        for refused in [read, LogRecord::decode(&record.encode()).map(drop)] {
            let why = refused.unwrap_err().to_string();
            assert!(why.contains(what) && why.contains("is above"), "{why}");
        }
    }

    let good = message(Payload::Vote(vote(9, 2))).encode();
    let mut longer = good.clone();
    longer.push(0);
    let mut other_version = good.clone();
    other_version[0] = 2;
    assert!(matches!(
        Message::decode(&longer, LIMIT),
        Err(DecodeError::Malformed(_))
    ));
    assert!(matches!(
        Message::decode(&good[..good.len() - 1], LIMIT),
        Err(DecodeError::Malformed(_))
    ));
    for bytes in [&other_version[..], &[]] {
        assert_eq!(
            Message::decode(bytes, LIMIT),
            Err(DecodeError::Version { expected: 1 })
        );
    }
    let long = vec![1; LIMIT + MAX_MESSAGE_OVERHEAD + 1];
    assert!(matches!(
        Message::decode(&long, LIMIT),
        Err(DecodeError::TooLong { .. })
    ));
    // A length that no message has, at the place of the block's.
    let mut hostile = message(block(0)).encode();
    let at = hostile.len() - 4;
    hostile[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        Message::decode(&hostile, LIMIT),
        Err(DecodeError::Malformed(_))
    ));
}

prop_compose! {
    fn any_vote()(
        epoch in 0..=MAX_HEIGHT, height in 0..=MAX_HEIGHT, round in 0..=MAX_ROUND, second: bool,
        block in option::of(any::<[u8; 32]>()), validator: [u8; 32], signature in vec(any::<u8>(), 64),
    ) -> SignedVote {
        let kind = if second { VoteKind::Precommit } else { VoteKind::Prevote };
        SignedVote {
            vote: Vote {
                epoch: Epoch(epoch), height: Height(height), round: Round(round), kind,
                block: block.map(Hash), validator: PublicKey(validator),
            },
            signature: Signature(signature.try_into().unwrap()),
        }
    }
}

proptest! {
    #[test]
    fn votes_survive_wire_and_disk(vote in any_vote(), copy: u64) {
        let message = Message { copy, payload: Payload::Vote(vote) };
        prop_assert_eq!(Message::decode(&message.encode(), LIMIT), Ok(message));
        let record = LogRecord {
            epoch: vote.vote.epoch,
            height: vote.vote.height,
            entry: LogEntry::Vote(vote),
        };
        prop_assert_eq!(LogRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn proposals_survive_wire_and_disk(
        round in 1..=MAX_ROUND, valid in option::of(0u32..1), block in vec(any::<u8>(), 0..LIMIT),
    ) {
        let payload = Payload::Proposal {
            proposal: proposal(round, valid),
            block: block.clone().into(),
        };
        let message = message(payload);
        prop_assert_eq!(Message::decode(&message.encode(), LIMIT), Ok(message));
        let entry = LogEntry::Block { block: Hash([1; 32]), bytes: block.into() };
        let record = LogRecord { epoch: Epoch(1), height: Height(2), entry };
        prop_assert_eq!(LogRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn garbage_is_refused_and_never_panics(bytes in vec(any::<u8>(), 0..400)) {
        if let Ok(message) = Message::decode(&bytes, LIMIT) {
            prop_assert_eq!(message.encode(), bytes.clone());
        }
        if let Ok(record) = LogRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }
}
