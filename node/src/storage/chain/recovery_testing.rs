//! A chain of four validators that loses some of them: drafts, acknowledgements, records.

use std::path::Path;

use alloy_primitives::Bytes;
use axolotl_common::{
    CommitCertificate, Epoch, EpochRecord, Hash, Height, KeyPair, PublicKey, Round, Signature,
    SignedRecord, VoteKind,
    certificate::vote_sign_bytes,
    ids::MAX_HEIGHT,
    membership::RecordKind,
    recovery::{
        Acknowledgement, Ballot, Handover, RegistryStart, SignedStatement, StartId, StatedLock,
        Statement,
    },
    votes::PolkaCertificate,
};
use axolotl_ledger::{BlockAttributes, ExecutedBlock, Tx, Unlimited};

use super::{Chain, Replay, StorageOptions, testing::*};

pub(crate) fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

pub(crate) fn ballot(attempt: u64) -> Ballot {
    let start = RegistryStart {
        counter: 1,
        id: StartId([1; 16]),
    };
    Ballot { start, attempt }
}

/// Opens a chain of validators 1 to 4.
pub(crate) fn open_four(dir: &Path, options: StorageOptions) -> Chain {
    let (spec, diff) = spec_of(1_000, &[1, 2, 3, 4]);
    Chain::open(dir, spec, diff, options, &mut |_: Replay| {}).unwrap()
}

fn signed_votes(
    chain: &Chain,
    epoch: Epoch,
    height: Height,
    kind: VoteKind,
    block: Hash,
    voters: &[u8],
) -> Vec<(PublicKey, Signature)> {
    let chain = &chain.spec().chain;
    let message = vote_sign_bytes(chain, epoch, height, Round(0), kind, Some(block));
    let vote = |seed: &u8| (key(*seed).public(), key(*seed).sign(&message));
    voters.iter().map(vote).collect()
}

/// The certificate of a block on the tip.
pub(crate) fn decided(chain: &Chain, block: &ExecutedBlock, voters: &[u8]) -> CommitCertificate {
    let (epoch, height) = (chain.tip().validators.epoch(), chain.tip().height().next());
    let hash = Hash(block.hash.0);
    CommitCertificate {
        epoch,
        height,
        round: Round(0),
        block: hash,
        signatures: signed_votes(chain, epoch, height, VoteKind::Precommit, hash, voters),
    }
}

/// Builds a block on the tip.
pub(crate) fn built(chain: &Chain, txs: Vec<Tx>, requests: Vec<Bytes>) -> ExecutedBlock {
    let attributes = BlockAttributes {
        timestamp: 1_000 + chain.tip().header.number,
        builder: validator(),
        requests,
    };
    chain
        .build(attributes, &mut List(txs.into()), &Unlimited)
        .unwrap()
}

/// Decides blocks up to a height by these votes.
pub(crate) fn grow_by(chain: &Chain, to: u64, voters: &[u8]) {
    for height in chain.tip().header.number + 1..=to {
        let block = built(chain, block_txs(height), Vec::new());
        let certificate = decided(chain, &block, voters);
        chain.append(block, certificate).unwrap();
        chain.publish().unwrap();
    }
}

/// A lock of validators 1 to 3 on a block above the head.
pub(crate) fn lock_on(chain: &Chain, block: Hash, carries: Option<Epoch>) -> StatedLock {
    let (epoch, height) = (
        chain.head().validators.epoch(),
        chain.head().height().next(),
    );
    StatedLock {
        proof: PolkaCertificate {
            epoch,
            height,
            round: Round(0),
            block,
            signatures: signed_votes(chain, epoch, height, VoteKind::Prevote, block, &[1, 2, 3]),
        },
        carries,
    }
}

/// What a validator says that stands where this chain does and is sealed in every epoch.
pub(crate) fn statement(chain: &Chain, seed: u8, lock: Option<StatedLock>) -> SignedStatement {
    let head = chain.head();
    let statement = Statement {
        author: key(seed).public(),
        volume: member(seed).volume_id,
        sealed: Epoch(MAX_HEIGHT),
        ballot: ballot(1),
        head: head.height(),
        head_hash: Hash(head.hash.0),
        certificate: head.certificate.clone(),
        governing: head.validators.epoch(),
        lock,
        last_vote: None,
        seen: Vec::new(),
    };
    statement.sign(&chain.spec().chain, &key(seed))
}

/// The draft of an epoch by two survivors of the epoch in force, which adopts the block of the lock.
/// `succeeds` is the epoch in force, or that of the planned record in the block.
pub(crate) fn draft(
    chain: &Chain,
    number: u64,
    succeeds: Hash,
    survivors: &[u8],
    members: &[u8],
    lock: Option<StatedLock>,
) -> EpochRecord {
    let head = chain.head();
    let (base_height, base) = match &lock {
        Some(lock) => (lock.proof.height, lock.block()),
        None => (head.height(), Hash(head.hash.0)),
    };
    EpochRecord {
        number: Epoch(number),
        kind: RecordKind::Recovery,
        succeeds,
        members: members.iter().map(|seed| member(*seed)).collect(),
        base_height,
        expiry_height: None,
        handover: Some(Box::new(Handover {
            ballot: ballot(1),
            statements: survivors
                .iter()
                .map(|seed| statement(chain, *seed, lock.clone()))
                .collect(),
            base,
            adopted: lock.is_some(),
        })),
    }
}

/// The draft of epoch `number` in which 1 and 2 survive epoch 0, with 5 and 6 in the place of 3 and 4.
pub(crate) fn two_survive(chain: &Chain, number: u64, lock: Option<StatedLock>) -> EpochRecord {
    let succeeds = chain.head().validators.record_hash();
    draft(chain, number, succeeds, &[1, 2], &[1, 2, 5, 6], lock)
}

/// Signs a draft, acknowledged by these.
pub(crate) fn sign(chain: &Chain, draft: EpochRecord, by: &[u8]) -> SignedRecord {
    let chain = &chain.spec().chain;
    let hash = draft.hash(chain);
    let mut signed = draft.sign(chain, &authority());
    signed.acknowledgements = by
        .iter()
        .map(|seed| Acknowledgement::new(chain, ballot(1), &hash, &key(*seed)))
        .collect();
    signed
}
