use axolotl_common::{KeyPair, PublicKey, Round, Signature};
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
        sealed: false,
        version: "axolotl/0.1.0".to_owned(),
        highest_vote_of_you: Some(Bytes::from_static(&[9, 8])),
    }
}

fn block(height: u64) -> SyncBlock {
    let key = KeyPair::from_seed(&[3; 32]);
    SyncBlock {
        block: Bytes::from(vec![5; 3]),
        certificate: CommitCertificate {
            epoch: Epoch(1),
            height: Height(height),
            round: Round(2),
            block: Hash([6; 32]),
            signatures: vec![(key.public(), key.sign(b"vote"))],
        },
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
        "a868636861696e5f6964190539{}5820{}6668656967687419012c{}5820{}6565706f636804{}{}{}420908",
        "6767656e65736973",
        "01".repeat(32),
        "6468656164",
        "02".repeat(32),
        "667365616c6564f4",
        "6776657273696f6e6d61786f6c6f746c2f302e312e30",
        "64766f7465",
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
    let request = SyncRequest {
        from: 300,
        count: 128,
    };
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
    let (key, signature) = block(7).certificate.signatures[0];
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
fn proofs_are_bounded_and_checked() {
    let with = |proof: Vec<u8>| SyncResponse {
        blocks: vec![WireBlock {
            block: Bytes::new(),
            proof: proof.into(),
        }],
    };
    let long = Vec::<SyncBlock>::try_from(with(vec![0; MAX_PROOF_BYTES + 1]));
    assert!(matches!(long, Err(WireError::TooLarge { .. })));
    for bad in [vec![], vec![0], vec![1; 200], vec![0xff; 100]] {
        let read = Vec::<SyncBlock>::try_from(with(bad));
        assert!(matches!(read, Err(WireError::Malformed(_))), "{read:?}");
    }
    let most = CommitCertificate {
        signatures: vec![
            (PublicKey([0; 32]), Signature([0; 64]));
            axolotl_common::membership::MAX_MEMBERS
        ],
        ..block(1).certificate
    };
    let wire = SyncResponse::from(vec![SyncBlock {
        certificate: most,
        ..block(1)
    }]);
    assert!(
        Vec::<SyncBlock>::try_from(wire).is_ok(),
        "the largest certificate fits"
    );
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

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_transactions(&bytes, 1_000, 100);
        let _ = borsh::from_slice::<BlockProof>(&bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let _ = statuses().read_request(&name(), &mut bytes.as_slice()).await;
            let _ = sync().read_response(&name(), &mut bytes.as_slice()).await;
            let _ = sync().read_request(&name(), &mut bytes.as_slice()).await;
        });
    }
}
