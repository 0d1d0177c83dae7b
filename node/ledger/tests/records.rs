//! The records that blocks may carry, or must.
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails here shows what it saw"
)]

mod support;

use alloy_primitives::{Address, Bytes, TxKind};
use axolotl_common::{
    Epoch, EpochRecord, Hash, Height, SignedRecord, ValidatorSet,
    membership::RecordKind,
    recovery::{Acknowledgement, Ballot, Handover, RegistryStart, StartId},
};
use axolotl_ledger::{Block, BlockAttributes, block::encode_record};
use support::*;

const HERE: TxKind = TxKind::Call(Address::repeat_byte(0x11));

fn record(chain: &TestChain) -> EpochRecord {
    EpochRecord {
        number: Epoch(3),
        kind: RecordKind::Planned,
        succeeds: chain.validators.record_hash(),
        members: (2..=5).map(member).collect(),
        base_height: Height(0),
        expiry_height: Some(Height(2)),
        handover: None,
    }
}

#[test]
fn a_block_carries_a_record_that_succeeds_its_epoch() {
    let chain = TestChain::new(&[]);
    let signed = record(&chain).sign(&chain.spec.chain, &authority());
    let attributes = BlockAttributes {
        requests: vec![encode_record(&signed), encode_record(&signed)],
        ..chain.attributes()
    };
    let built = chain.build_with(attributes, &mut Queue::default()).unwrap();
    assert_eq!(built.block.requests.len(), 1);
    assert_eq!(built.block.record(), Some(signed));
    let received = Block::decode(&built.bytes, chain.spec.chain.id, &|_| None).unwrap();
    assert_same(&built, &chain.execute(received).unwrap());
    // Two are refused when another puts them in.
    let mut requests = built.block.requests.clone();
    requests.push(requests[0].clone());
    let mut header = built.block.header.clone();
    header.requests_hash = Some(axolotl_ledger::block::requests_hash(&requests));
    let error = chain
        .execute(Block::new(header, Vec::new(), requests))
        .unwrap_err();
    assert!(error.to_string().contains("2 requests"), "{error}");
}

#[test]
fn a_record_that_means_nothing_here_is_refused() {
    let chain = TestChain::new(&[]);
    let spec = &chain.spec;
    let change = |f: &dyn Fn(&mut EpochRecord)| {
        let mut record = record(&chain);
        f(&mut record);
        encode_record(&record.sign(&spec.chain, &authority()))
    };
    let by_another =
        record(&chain).sign(&spec.chain, &axolotl_common::KeyPair::from_seed(&[1; 32]));
    let cases: [(Bytes, &str); 9] = [
        (change(&|r| r.kind = RecordKind::Recovery), "only planned"),
        (change(&|r| r.succeeds = Hash([1; 32])), "succeeds"),
        (change(&|r| r.number = Epoch(0)), "does not come after"),
        (change(&|r| r.expiry_height = Some(Height(1))), "expired"),
        (change(&|r| r.members.clear()), "0 members"),
        (change(&|r| r.members[1] = r.members[0].clone()), "shares"),
        (encode_record(&by_another), "not signed by the authority"),
        (Bytes::from_static(&[0xa1]), "not an epoch record"),
        (Bytes::from_static(&[0x00, 1, 2]), "not an epoch record"),
    ];
    for (request, why) in cases {
        // The builder leaves it out ...
        let attributes = BlockAttributes {
            requests: vec![request.clone()],
            ..chain.attributes()
        };
        let built = chain.build_with(attributes, &mut Queue::default()).unwrap();
        assert_eq!(built.block.requests, Vec::<Bytes>::new(), "{why}");
        // ... and a validator refuses a block with it.
        let mut header = built.block.header.clone();
        let requests = vec![request];
        header.requests_hash = Some(axolotl_ledger::block::requests_hash(&requests));
        let error = chain
            .execute(Block::new(header, Vec::new(), requests))
            .unwrap_err();
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

/// A record by which epoch 5 of members 1, 2, 5 and 6 succeeds this chain's; with acknowledgements.
fn recovery(chain: &TestChain, kind: RecordKind, by: &[u8]) -> SignedRecord {
    let ballot = Ballot {
        start: RegistryStart {
            counter: 1,
            id: StartId([1; 16]),
        },
        attempt: 1,
    };
    let record = EpochRecord {
        number: Epoch(5),
        kind,
        members: [1, 2, 5, 6].map(member).to_vec(),
        expiry_height: None,
        handover: Some(Box::new(Handover {
            ballot,
            statements: Vec::new(),
            base: Hash(chain.hash.0),
            adopted: false,
        })),
        ..record(chain)
    };
    let name = &chain.spec.chain;
    let draft = record.hash(name);
    let mut signed = record.sign(name, &authority());
    let acknowledge = |i: &u8| {
        let key = axolotl_common::KeyPair::from_seed(&[*i; 32]);
        Acknowledgement::new(name, ballot, &draft, &key)
    };
    signed.acknowledgements = by.iter().map(acknowledge).collect();
    signed
}

/// The chain when this record has taken force.
fn under(mut chain: TestChain, signed: SignedRecord) -> TestChain {
    let set = ValidatorSet::new(&chain.spec.chain, &signed.record, chain.validators.rule());
    let succeeded = std::mem::replace(&mut chain.validators, set);
    chain.due = Some((signed, succeeded));
    chain
}

#[test]
fn the_first_block_of_a_recovery_epoch_carries_its_record() {
    for kind in [RecordKind::Recovery, RecordKind::Forced] {
        let chain = TestChain::new(&[]);
        let planned = record(&chain).sign(&chain.spec.chain, &authority());
        let good = recovery(&chain, kind, &[1, 2, 5]);
        let chain = under(chain, good.clone());
        // Whatever its builder offers.
        let attributes = BlockAttributes {
            requests: vec![encode_record(&planned)],
            ..chain.attributes()
        };
        let built = chain.build_with(attributes, &mut Queue::default()).unwrap();
        assert_eq!(built.block.record(), Some(good.clone()));
        let received = Block::decode(&built.bytes, chain.spec.chain.id, &|_| None).unwrap();
        assert_same(&built, &chain.execute(received).unwrap());

        let with = |requests: Vec<Bytes>| {
            let mut header = built.block.header.clone();
            header.requests_hash = Some(axolotl_ledger::block::requests_hash(&requests));
            chain.execute(Block::new(header, Vec::new(), requests))
        };
        // Another node may know it with other acknowledgements, if they are enough.
        let elsewhere = TestChain::new(&[]);
        let others = |by: &[u8]| encode_record(&recovery(&elsewhere, kind, by));
        with(vec![others(&[1, 2, 6])]).unwrap();
        let mut another = good.clone();
        another.record.number = Epoch(6);
        let forged = {
            let mut forged = good.clone();
            forged.signature = planned.signature;
            forged
        };
        let mut cases = vec![
            (Vec::new(), "lacks its record"),
            (vec![encode_record(&planned)], "another record"),
            (vec![encode_record(&another)], "another record"),
            (vec![encode_record(&forged)], "not signed by the authority"),
            (vec![Bytes::from_static(&[0xa1, 7])], "not an epoch record"),
            (
                vec![encode_record(&good), encode_record(&planned)],
                "2 requests",
            ),
        ];
        if kind == RecordKind::Recovery {
            cases.push((vec![others(&[1, 5, 6])], "must"));
        }
        for (requests, why) in cases {
            let error = with(requests).unwrap_err();
            assert!(error.to_string().contains(why), "{why}: {error}");
        }
    }
}

#[test]
fn a_record_takes_no_room_from_transactions() {
    let mut chain = TestChain::of({
        let mut document = genesis(&[]);
        document["axolotl"]["maxBlockBytes"] = (64 << 10).into();
        document
    });
    let txs: Vec<_> = (0..6)
        .map(|_| chain.tx(0, HERE, 0, Bytes::from(vec![1; 9_000]), 400_000))
        .collect();
    let plain = chain.build(&mut Queue::new(txs.clone()));
    let mut large = recovery(&chain, RecordKind::Forced, &[]);
    // 100,000 bytes of acknowledgements: more than the block's limit.
    let one = recovery(&chain, RecordKind::Recovery, &[1]).acknowledgements[0].clone();
    large.acknowledgements = vec![one; 800];
    let chain = under(chain, large.clone());
    let built = chain.build(&mut Queue::new(txs));
    assert_eq!(built.block.transactions, plain.block.transactions);
    assert!(plain.block.transactions.len() > 4);
    assert!(built.bytes.len() > 100_000 && built.bytes.len() <= chain.spec.max_encoded_bytes());
    chain.execute(built.block.clone()).unwrap();

    // But the record has a limit of its own.
    large.acknowledgements = vec![large.acknowledgements[0].clone(); 10_000];
    let requests = vec![encode_record(&large)];
    let mut header = built.block.header.clone();
    header.requests_hash = Some(axolotl_ledger::block::requests_hash(&requests));
    let error = chain
        .execute(Block::new(header, built.block.transactions, requests))
        .unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");
}
