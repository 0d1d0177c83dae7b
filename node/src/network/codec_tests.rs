use axolotl_common::{
    CommitCertificate, EpochRecord, KeyPair, Member, NodeId, PublicKey, Round, Signature, VolumeId,
    membership::RecordKind,
    recovery::{Acknowledgement, Ballot, Handover, RegistryStart, StartId},
};
use libp2p::request_response::Codec;
use proptest::prelude::*;

use super::{super::limits::*, *};

fn status() -> PeerStatus {
    PeerStatus {
        chain: ChainRef {
            id: ChainId(1337),
            genesis: Hash([1; 32]),
        },
        height: Height(300),
        head: Hash([2; 32]),
        epoch: Epoch(4),
        sealed: Some(Epoch(3)),
        unfit: false,
        version: "axolotl/0.1.0".to_owned(),
        highest_vote_of_you: Some(Bytes::from_static(&[9, 8])),
        seal_of_you: Some(Bytes::from_static(&[7])),
    }
}

fn block(height: u64) -> SyncBlock {
    let key = KeyPair::from_seed(&[3; 32]);
    SyncBlock {
        records: Vec::new(),
        block: Bytes::from(vec![5; 3]),
        proof: BlockProof::Certificate(CommitCertificate {
            epoch: Epoch(1),
            height: Height(height),
            round: Round(2),
            block: Hash([6; 32]),
            signatures: vec![(key.public(), key.sign(b"vote"))],
        }),
    }
}

/// A record that adopts block 7, with everything in it that the registry puts there but statements.
fn record() -> SignedRecord {
    let (authority, member) = (KeyPair::from_seed(&[4; 32]), KeyPair::from_seed(&[5; 32]));
    let ballot = Ballot {
        start: RegistryStart {
            counter: 3,
            id: StartId([1; 16]),
        },
        attempt: 2,
    };
    let record = EpochRecord {
        number: Epoch(9),
        kind: RecordKind::Recovery,
        succeeds: Hash([8; 32]),
        members: vec![Member {
            node_id: NodeId::numbered(5),
            public_key: member.public(),
            volume_id: VolumeId([5; 16]),
        }],
        base_height: Height(7),
        expiry_height: None,
        handover: Some(Box::new(Handover {
            ballot,
            statements: Vec::new(),
            base: Hash([6; 32]),
            adopted: true,
        })),
    };
    let chain = status().chain;
    let draft = record.hash(&chain);
    let mut signed = record.sign(&chain, &authority);
    signed.acknowledgements = vec![Acknowledgement::new(&chain, ballot, &draft, &member)];
    signed
}

/// An adopted block with records ahead of it.
fn adopted() -> SyncBlock {
    SyncBlock {
        records: vec![record(), record()],
        block: Bytes::from(vec![5; 3]),
        proof: BlockProof::Record(Box::new(record())),
    }
}

type Statuses = LimitedCodec<WireStatus, WireStatus>;
type Sync = LimitedCodec<SyncRequest, SyncResponse>;

fn name() -> StreamProtocol {
    StreamProtocol::new("/test")
}

fn statuses() -> Statuses {
    LimitedCodec::new(MAX_STATUS_BYTES, MAX_STATUS_BYTES)
}

fn sync() -> Sync {
    LimitedCodec::new(MAX_SYNC_REQUEST_BYTES, MAX_SYNC_RESPONSE_BYTES)
}

#[tokio::test]
async fn golden_status() {
    let mut bytes = Vec::new();
    let wire = WireStatus::from(status());
    statuses()
        .write_request(&name(), &mut bytes, Incoming::Good(wire.clone()))
        .await
        .unwrap();
    let expected = format!(
        "aa68636861696e5f6964190539{}5820{}6668656967687419012c{}5820{}6565706f636804{}{}{}{}420908{}4107",
        "6767656e65736973",
        "01".repeat(32),
        "6468656164",
        "02".repeat(32),
        "667365616c656403",
        "65756e666974f4",
        "6776657273696f6e6d61786f6c6f746c2f302e312e30",
        "64766f7465",
        "647365616c",
    );
    assert_eq!(hex::encode(&bytes), expected);
    let read = statuses()
        .read_request(&name(), &mut bytes.as_slice())
        .await
        .unwrap();
    assert_eq!(read, Incoming::Good(wire.clone()));
    assert_eq!(PeerStatus::try_from(wire), Ok(status()));
}

#[tokio::test]
async fn golden_sync() {
    let mut bytes = Vec::new();
    let request = SyncRequest::blocks(Height(300), 128);
    sync()
        .write_request(&name(), &mut bytes, Incoming::Good(request))
        .await
        .unwrap();
    assert_eq!(hex::encode(&bytes), "a26466726f6d19012c65636f756e741880");
    let read = sync()
        .read_request(&name(), &mut bytes.as_slice())
        .await
        .unwrap();
    assert_eq!(read, Incoming::Good(request));

    let mut bytes = Vec::new();
    let response = SyncResponse::from(vec![block(7)]);
    sync()
        .write_response(&name(), &mut bytes, response)
        .await
        .unwrap();
    let (key, signature) = block(7).proof.certificate().unwrap().signatures[0];
    let proof = format!(
        "00{}{}{}{}01000000{}{}",
        "0100000000000000",
        "0700000000000000",
        "02000000",
        "06".repeat(32),
        hex::encode(key.0),
        hex::encode(signature.0),
    );
    let expected = format!(
        "a166626c6f636b7381a265626c6f636b43050505{}5899{proof}",
        "6570726f6f66"
    );
    assert_eq!(hex::encode(&bytes), expected);
    let read = sync()
        .read_response(&name(), &mut bytes.as_slice())
        .await
        .unwrap();
    assert_eq!(Vec::try_from(read), Ok(vec![block(7)]));
}

#[tokio::test]
async fn golden_transactions() {
    let message = encode_transactions(
        &[Bytes::from_static(&[1, 2]), Bytes::from_static(&[3])],
        MAX_TRANSACTIONS_MESSAGE_BYTES,
        MAX_TRANSACTIONS_PER_MESSAGE,
    );
    assert_eq!(
        hex::encode(&message[0]),
        "02000000020000000102010000 0003".replace(' ', "")
    );
    let mut codec = LimitedCodec::<TransactionsRequest, TransactionsResponse>::new(1_000, 64);
    let request = TransactionsRequest {
        transactions: vec![WireBytes(Bytes::from_static(&[1, 2]))],
    };
    let mut bytes = Vec::new();
    codec
        .write_request(&name(), &mut bytes, Incoming::Good(request.clone()))
        .await
        .unwrap();
    assert_eq!(hex::encode(&bytes), "a16c7472616e73616374696f6e7381420102");
    let read = codec
        .read_request(&name(), &mut bytes.as_slice())
        .await
        .unwrap();
    assert_eq!(read, Incoming::Good(request));
    let mut bytes = Vec::new();
    codec
        .write_response(&name(), &mut bytes, TransactionsResponse { taken: 1 })
        .await
        .unwrap();
    assert_eq!(hex::encode(&bytes), "a16574616b656e01");
}

#[tokio::test]
async fn too_long_and_malformed_messages_are_told_from_broken_streams() {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let kind = |result: io::Result<WireStatus>| result.unwrap_err().kind();
    let long = vec![0; MAX_STATUS_BYTES + 1];
    for bad in [long.as_slice(), &[0xff; 40]] {
        let read = statuses().read_request(&name(), &mut &*bad).await.unwrap();
        assert!(matches!(read, Incoming::Bad(_)), "{read:?}");
    }
    let read = statuses().read_request(&name(), &mut [].as_slice()).await;
    assert_eq!(read.unwrap_err().kind(), UnexpectedEof);
    let read = statuses()
        .read_response(&name(), &mut long.as_slice())
        .await;
    assert_eq!(kind(read), InvalidData);
    let read = statuses()
        .read_response(&name(), &mut [0xff; 40].as_slice())
        .await;
    assert_eq!(kind(read), InvalidData);
    let read = statuses().read_response(&name(), &mut [].as_slice()).await;
    assert_eq!(kind(read), UnexpectedEof);
}

#[tokio::test]
async fn a_status_or_a_request_near_overflow_does_not_decode() {
    let most = axolotl_common::ids::MAX_HEIGHT;
    let with = |height, epoch, sealed| {
        WireStatus::from(PeerStatus {
            height: Height(height),
            epoch: Epoch(epoch),
            sealed: Some(Epoch(sealed)),
            ..status()
        })
    };
    for (wire, good) in [
        (with(most, most, most), true),
        (with(most + 1, 0, 0), false),
        (with(u64::MAX, 0, 0), false),
        (with(0, u64::MAX, 0), false),
        (with(0, 0, u64::MAX), false),
    ] {
        let mut bytes = Vec::new();
        statuses()
            .write_request(&name(), &mut bytes, Incoming::Good(wire.clone()))
            .await
            .unwrap();
        let read = statuses()
            .read_request(&name(), &mut bytes.as_slice())
            .await
            .unwrap();
        assert_eq!(read == Incoming::Good(wire), good, "{read:?}");
        assert_eq!(matches!(&read, Incoming::Bad(_)), !good, "{read:?}");
    }
    let mut bytes = Vec::new();
    let request = SyncRequest::blocks(Height(u64::MAX), 1);
    sync()
        .write_request(&name(), &mut bytes, Incoming::Good(request))
        .await
        .unwrap();
    let read = sync()
        .read_request(&name(), &mut bytes.as_slice())
        .await
        .unwrap();
    assert!(matches!(read, Incoming::Bad(_)), "{read:?}");
}

#[tokio::test]
async fn lists_stop_at_their_bound() {
    // 0x9a: a list with a length of four bytes; its elements are one byte each, and no blocks.
    let mut bytes = hex::decode("a166626c6f636b739a00100000").unwrap();
    bytes.extend_from_slice(&[0xa0; 1 << 20]);
    assert!(
        sync()
            .read_response(&name(), &mut bytes.as_slice())
            .await
            .is_err()
    );
    let wire = SyncResponse::from(vec![block(1); MAX_SYNC_BLOCKS + 1]);
    let mut bytes = Vec::new();
    sync()
        .write_response(&name(), &mut bytes, wire)
        .await
        .unwrap();
    let error = sync()
        .read_response(&name(), &mut bytes.as_slice())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("at most 512"), "{error}");
}

#[test]
fn a_long_version_is_cut_by_the_sender_and_refused_by_the_receiver() {
    let long = PeerStatus {
        version: "ä".repeat(MAX_VERSION_LEN),
        ..status()
    };
    let mut wire = WireStatus::from(long);
    assert_eq!(wire.version.len(), MAX_VERSION_LEN);
    assert!(PeerStatus::try_from(wire.clone()).is_ok());
    wire.version.push('x');
    assert!(matches!(
        PeerStatus::try_from(wire.clone()),
        Err(WireError::TooLarge { .. })
    ));
    wire.version.clear();
    wire.vote = Some(ByteBuf::from(vec![0; MAX_VOTE_BYTES + 1]));
    assert!(matches!(
        PeerStatus::try_from(wire),
        Err(WireError::TooLarge { .. })
    ));
}

#[test]
fn proofs_and_records_are_bounded_and_checked() {
    let with = |records: Vec<Vec<u8>>, proof: Vec<u8>| {
        let wire = WireBlock {
            records: records
                .into_iter()
                .map(|record| WireBytes(record.into()))
                .collect(),
            block: Bytes::new(),
            proof: proof.into(),
        };
        Vec::<SyncBlock>::try_from(SyncResponse { blocks: vec![wire] })
    };
    let good = borsh::to_vec(&block(1).proof).unwrap();
    assert!(with(Vec::new(), good.clone()).is_ok());
    for long in [
        with(Vec::new(), vec![0; MAX_PROOF_BYTES + 1]),
        with(vec![vec![0; MAX_RECORD_BYTES + 1]], good.clone()),
    ] {
        assert!(matches!(long, Err(WireError::TooLarge { .. })), "{long:?}");
    }
    for bad in [vec![], vec![0], vec![1; 200], vec![0xff; 100]] {
        let as_record = with(vec![bad.clone()], good.clone());
        for read in [with(Vec::new(), bad), as_record] {
            assert!(matches!(read, Err(WireError::Malformed(_))), "{read:?}");
        }
    }
    let most = CommitCertificate {
        signatures: vec![
            (PublicKey([0; 32]), Signature([0; 64]));
            axolotl_common::membership::MAX_MEMBERS
        ],
        ..block(1).proof.certificate().unwrap().clone()
    };
    let wire = SyncResponse::from(vec![SyncBlock {
        proof: most.into(),
        ..block(1)
    }]);
    assert!(
        Vec::<SyncBlock>::try_from(wire).is_ok(),
        "the largest certificate fits"
    );
}

#[tokio::test]
async fn golden_adopted_block() {
    let mut bytes = Vec::new();
    sync()
        .write_response(&name(), &mut bytes, SyncResponse::from(vec![adopted()]))
        .await
        .unwrap();
    let record = borsh::to_vec(&record()).unwrap();
    let length = record.len();
    assert!(length > 0xff, "two bytes of length in what follows");
    let record = hex::encode(&record);
    let expected = format!(
        "a166626c6f636b7381a3{}8259{length:04x}{record}59{length:04x}{record}{}43050505{}59{:04x}01{record}",
        "677265636f726473",
        "65626c6f636b",
        "6570726f6f66",
        length + 1,
    );
    assert_eq!(hex::encode(&bytes), expected);
    let read = sync()
        .read_response(&name(), &mut bytes.as_slice())
        .await
        .unwrap();
    assert_eq!(Vec::try_from(read), Ok(vec![adopted()]));
    assert_eq!(adopted().height(), Height(7));
    let wire = SyncResponse::from(vec![SyncBlock {
        records: vec![self::record(); MAX_SYNC_RECORDS + 1],
        ..adopted()
    }]);
    let mut bytes = Vec::new();
    sync()
        .write_response(&name(), &mut bytes, wire)
        .await
        .unwrap();
    let refused = sync().read_response(&name(), &mut bytes.as_slice()).await;
    assert!(refused.is_err(), "too many records");
}

#[test]
fn batches_of_transactions_are_bounded() {
    let sizes = [10usize, 400, 90, 90, 3, 2_000, 1];
    let transactions: Vec<_> = sizes
        .iter()
        .map(|size| Bytes::from(vec![1; *size]))
        .collect();
    let messages = encode_transactions(&transactions, 500, 2);
    let decoded: Vec<_> = messages
        .iter()
        .map(|message| decode_transactions(message, 500, 2).unwrap())
        .map(|batch| batch.iter().map(|tx| tx.len()).collect::<Vec<_>>())
        .collect();
    assert_eq!(
        decoded,
        [vec![10, 400], vec![90, 90], vec![3, 1]],
        "2,000 is left out"
    );
    assert!(encode_transactions(&[], 500, 2).is_empty());
    let error = |bytes: &[u8]| decode_transactions(bytes, 500, 2).unwrap_err();
    assert!(matches!(error(&[0; 501]), WireError::TooLarge { .. }));
    assert!(matches!(error(&[3, 0, 0, 0]), WireError::TooLarge { .. }));
    for bad in [
        "",
        "01",
        "01000000",
        "01000000ffffffff",
        "0100000002000000aa",
        "00000000aa",
    ] {
        let bytes = hex::decode(bad).unwrap();
        assert!(matches!(error(&bytes), WireError::Malformed(_)), "{bad}");
    }
}

proptest! {
    #[test]
    fn transactions_survive_the_wire(
        list in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50),
        max_bytes in 300..2_000usize,
        max_count in 1..20usize,
    ) {
        let list: Vec<Bytes> = list.into_iter().map(Bytes::from).collect();
        let mut read = Vec::new();
        for message in encode_transactions(&list, max_bytes, max_count) {
            read.extend(decode_transactions(&message, max_bytes, max_count).unwrap());
        }
        prop_assert_eq!(read, list);
    }

    /// A bit that was flipped on the way is refused or gives another value, and never panics.
    #[test]
    fn damaged_records_never_pass_for_whole(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let proof = BlockProof::Record(Box::new(record()));
        let mut bytes = borsh::to_vec(&proof).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_ne!(borsh::from_slice::<BlockProof>(&bytes).ok(), Some(proof));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_transactions(&bytes, 1_000, 100);
        let _ = borsh::from_slice::<BlockProof>(&bytes);
        let _ = borsh::from_slice::<SignedRecord>(&bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let _ = statuses().read_request(&name(), &mut bytes.as_slice()).await;
            let _ = sync().read_response(&name(), &mut bytes.as_slice()).await;
            let _ = sync().read_request(&name(), &mut bytes.as_slice()).await;
        });
    }
}
