use axolotl_common::{
    BlockProof, Epoch, KeyPair, Member, NodeId, Signature, VolumeId, VoteKind,
    certificate::vote_sign_bytes,
    genesis::{AxolotlGenesis, GenesisDocument, dev_genesis},
};
use std::time::Instant;

use axolotl_ledger::ChainSpec;

use super::*;
use crate::{mempool::MempoolLimits, storage::StorageOptions};

/// A chain of one validator, and a second one in another directory that has `blocks` blocks.
struct World {
    _dir: tempfile::TempDir,
    worker: Worker,
    answers: mpsc::Receiver<Done>,
    blocks: Vec<SyncBlock>,
}

fn validator() -> KeyPair {
    KeyPair::from_seed(&[1; 32])
}

fn open(dir: &std::path::Path) -> Chain {
    let member = Member {
        node_id: NodeId::numbered(1),
        public_key: validator().public(),
        volume_id: VolumeId([1; 16]),
    };
    let axolotl: AxolotlGenesis =
        serde_json::from_value(serde_json::json!({ "validators": [member] })).unwrap();
    let document = GenesisDocument::from_value(dev_genesis(&axolotl, 1)).unwrap();
    let (spec, diff) = ChainSpec::from_document(document).unwrap();
    Chain::open(dir, spec, diff, StorageOptions::default(), &mut |_| {}).unwrap()
}

fn certify(chain: &Chain, key: &KeyPair, height: Height, block: Hash) -> CommitCertificate {
    let (epoch, round) = (Epoch(0), Round(0));
    let message = vote_sign_bytes(
        &chain.spec().chain,
        epoch,
        height,
        round,
        VoteKind::Precommit,
        Some(block),
    );
    let signatures = vec![(key.public(), key.sign(&message))];
    CommitCertificate {
        epoch,
        height,
        round,
        block,
        signatures,
    }
}

fn grow(chain: &Chain, count: u64, timestamp: u64) -> Vec<SyncBlock> {
    let mempool = Mempool::new(Arc::clone(chain.spec()), MempoolLimits::default());
    let build = |height| {
        let attributes = BlockAttributes {
            timestamp,
            builder: validator().public(),
            requests: Vec::new(),
        };
        let built = chain
            .build(
                attributes,
                &mut mempool.best(base_fee_above(chain)),
                &Unlimited,
            )
            .unwrap();
        let certificate = certify(chain, &validator(), Height(height), Hash(built.hash.0));
        let block = SyncBlock {
            records: Vec::new(),
            block: built.bytes.clone(),
            proof: certificate.clone().into(),
        };
        chain.append(built, certificate).unwrap();
        chain.publish().unwrap();
        block
    };
    (1..=count).map(build).collect()
}

fn world() -> World {
    world_at(unix_now_s())
}

/// As [`world`], with blocks of another time.
fn world_at(timestamp: u64) -> World {
    let dir = tempfile::tempdir().unwrap();
    let blocks = grow(&open(&dir.path().join("other")), 4, timestamp);
    let chain = open(&dir.path().join("own"));
    let mempool = Mempool::new(Arc::clone(chain.spec()), MempoolLimits::default());
    let (done, answers) = mpsc::channel(64);
    let worker = Worker::new(chain, mempool, validator().public(), done);
    World {
        _dir: dir,
        worker,
        answers,
        blocks,
    }
}

impl World {
    fn apply(&mut self, blocks: &[SyncBlock]) -> Result<Height, ApplyError> {
        let (reply, answer) = oneshot::channel();
        assert!(
            self.worker.apply(blocks, reply).is_ok(),
            "nothing of this is fatal"
        );
        answer.blocking_recv().unwrap()
    }

    fn check(&mut self, height: Height, block: Hash, bytes: &[u8]) -> Result<(), Fatal> {
        let limit = CheckLimit {
            control: Arc::default(),
            deadline: Some(Instant::now() + Duration::from_secs(60)),
        };
        self.worker.check((height, Round(0)), block, bytes, &limit)
    }

    fn build(&mut self, height: Height) -> Result<(), Fatal> {
        let budget = Duration::from_millis(150);
        self.worker
            .build((height, Round(0)), budget, None, &Control::default())
    }

    fn head(&self) -> Height {
        self.worker.chain.head().height()
    }
}

/// The certificate of a block that was decided by votes.
fn certificate(block: &mut SyncBlock) -> &mut CommitCertificate {
    match &mut block.proof {
        BlockProof::Certificate(certificate) => certificate,
        BlockProof::Record(_) => panic!("it was adopted"),
    }
}

/// Makes a good block a false one; the key is a stranger's.
type Spoil = fn(&mut SyncBlock, &Chain, &KeyPair);

#[test]
fn blocks_from_sync_are_taken_up_to_the_first_that_is_false() {
    let stranger = KeyPair::from_seed(&[9; 32]);
    let spoil: [(&str, Spoil); 6] = [
        ("no signature", |block, _, _| {
            certificate(block).signatures.clear();
        }),
        ("a signature that does not hold", |block, _, _| {
            certificate(block).signatures[0].1 = Signature([7; 64]);
        }),
        ("signed by a stranger", |block, chain, stranger| {
            let (height, hash) = (block.height(), certificate(block).block);
            block.proof = certify(chain, stranger, height, hash).into();
        }),
        ("another block's certificate", |block, chain, _| {
            let height = block.height();
            block.proof = certify(chain, &validator(), height, Hash([3; 32])).into();
        }),
        ("garbage under a good certificate", |block, _, _| {
            block.block = vec![0xc0; 40].into();
        }),
        ("a gap", |block, chain, _| {
            let hash = certificate(block).block;
            block.proof = certify(chain, &validator(), Height(9), hash).into();
        }),
    ];
    for (what, spoil) in spoil {
        let mut world = world();
        let mut blocks = world.blocks.clone();
        spoil(&mut blocks[2], &world.worker.chain, &stranger);
        let refused = world.apply(&blocks).unwrap_err();
        assert!(refused.peer_fault, "{what}: {refused}");
        assert_eq!(refused.tip, Height(2), "{what}: the blocks before it stay");
        assert_eq!(world.head(), Height(2), "{what}");
        let honest = world.blocks.clone();
        assert_eq!(
            world.apply(&honest).ok(),
            Some(Height(4)),
            "{what}: an honest peer goes on"
        );
    }
}

#[test]
fn consensus_and_sync_may_bring_the_same_block() {
    let mut world = world();
    let blocks = world.blocks.clone();
    assert_eq!(world.apply(&blocks[..2]).ok(), Some(Height(2)));
    let mut again = blocks[1].clone();
    let decided = certificate(&mut again).clone();
    let same = world.worker.commit(decided.clone(), &again.block);
    assert!(same.is_ok(), "the block is there already");
    let other = CommitCertificate {
        block: Hash([4; 32]),
        ..decided
    };
    assert!(
        world.worker.commit(other, &again.block).is_err(),
        "two blocks at one height"
    );
    let heads = std::iter::from_fn(|| world.answers.try_recv().ok());
    assert!(matches!(
        heads.last(),
        Some(Done::Head { decided: false, .. })
    ));
}

#[test]
fn a_proposed_block_is_judged() {
    let mut world = world();
    let good = world.blocks[0].clone();
    let hash = good.proof.block().unwrap();
    for (bytes, block, valid) in [
        (good.block.to_vec(), hash, true),
        (good.block.to_vec(), Hash([1; 32]), false),
        (vec![1, 2, 3], hash, false),
    ] {
        assert!(world.check(Height(1), block, &bytes).is_ok());
        match world.answers.try_recv() {
            Ok(Done::Checked { verdict, .. }) => {
                assert_eq!(verdict == Verdict::Valid, valid, "{verdict:?}");
            }
            _ => panic!("no judgement"),
        }
    }
}

#[test]
fn a_proposer_whose_clock_is_an_hour_ahead_is_voted_against() {
    let far = unix_now_s() + 3_600;
    let mut world = world_at(far);
    let blocks = world.blocks.clone();
    let (bytes, hash) = (blocks[0].block.to_vec(), blocks[0].proof.block().unwrap());
    assert!(world.check(Height(1), hash, &bytes).is_ok());
    match world.answers.try_recv() {
        Ok(Done::Checked {
            verdict: Verdict::NotYet,
            ..
        }) => {}
        _ => panic!("it was not put off"),
    }
    // With a quorum behind it no clock is asked.
    assert!(world.answers.try_recv().is_err(), "one answer");
    let unlimited = CheckLimit {
        control: Arc::default(),
        deadline: None,
    };
    let checked = world
        .worker
        .check((Height(1), Round(0)), hash, &bytes, &unlimited);
    assert!(checked.is_ok());
    assert!(matches!(
        world.answers.try_recv(),
        Ok(Done::Checked {
            verdict: Verdict::Valid,
            ..
        })
    ));
    // What a quorum decided all the same is final, and the chain goes on above it.
    assert_eq!(world.apply(&blocks).ok(), Some(Height(4)));
    assert!(world.build(Height(5)).is_ok());
    let built = std::iter::from_fn(|| world.answers.try_recv().ok()).find_map(|done| match done {
        Done::Built { bytes, .. } => Some(bytes),
        _ => None,
    });
    let block = world
        .worker
        .execute_with(&built.unwrap(), &Unlimited)
        .ok()
        .unwrap();
    assert_eq!(block.block.header.timestamp, far, "time never runs back");
}

#[test]
fn a_proposer_whose_clock_is_an_hour_behind_is_no_trouble() {
    let mut world = world_at(unix_now_s() - 3_600);
    let blocks = world.blocks.clone();
    for block in &blocks {
        let (height, hash) = (block.height(), block.proof.block().unwrap());
        let checked = world.check(height, hash, &block.block);
        assert!(checked.is_ok());
        assert!(matches!(
            world.answers.try_recv(),
            Ok(Done::Checked {
                verdict: Verdict::Valid,
                ..
            })
        ));
        assert_eq!(world.apply(std::slice::from_ref(block)).ok(), Some(height));
        while world.answers.try_recv().is_ok() {}
    }
}
