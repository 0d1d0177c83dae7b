use std::fs;

use alloy_consensus::TxType;
use axolotl_common::{CommitCertificate, Epoch, Hash, Round};

use super::*;

const SMALL: LogOptions = LogOptions {
    segment_bytes: 4 << 10,
    max_record_bytes: 2 << 10,
};

fn proof(height: u64) -> BlockProof {
    BlockProof::Certificate(CommitCertificate {
        epoch: Epoch(0),
        height: Height(height),
        round: Round(0),
        block: Hash([height as u8; 32]),
        signatures: Vec::new(),
    })
}

fn receipt(height: u64) -> Receipt {
    Receipt {
        tx_type: TxType::Eip1559,
        success: true,
        gas_used: height,
        cumulative_gas_used: height,
        logs: Vec::new(),
        contract_address: None,
        effective_gas_price: 7,
    }
}

fn append(log: &BlockLog, height: u64, receipts: bool) {
    log.append(&NewBlock {
        height: Height(height),
        block: &vec![height as u8; 100 + height as usize],
        proof: &proof(height),
        receipts: receipts.then_some(&[receipt(height)]),
        senders: &[Address::repeat_byte(height as u8)],
    })
    .unwrap();
}

fn check(log: &BlockLog, height: u64) {
    let record = log.read(Height(height)).unwrap().unwrap();
    assert_eq!(record.block(), vec![height as u8; 100 + height as usize]);
    assert_eq!(record.proof().unwrap(), proof(height));
    assert_eq!(record.receipts().unwrap().unwrap(), [receipt(height)]);
    assert_eq!(record.senders(), [Address::repeat_byte(height as u8)]);
}

fn open(dir: &Path, checkpoint: u64, position: u64) -> (BlockLog, BlockLogReport) {
    BlockLog::open(dir, SMALL, Height(checkpoint), position).unwrap()
}

/// Forty blocks, each synced. Gives the end of the log after each.
fn filled(dir: &Path) -> Vec<u64> {
    let (log, report) = open(dir, 0, 0);
    assert_eq!(report, BlockLogReport::default());
    let mut ends = vec![log.end()];
    for height in 1..=40 {
        append(&log, height, true);
        log.sync().unwrap();
        ends.push(log.end());
    }
    log.sync_index().unwrap();
    ends
}

#[test]
fn blocks_come_back_with_and_without_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let ends = filled(dir.path());
    for checkpoint in [0, 1, 17, 39, 40] {
        let (log, report) = open(dir.path(), checkpoint, ends[checkpoint as usize]);
        assert_eq!(report, BlockLogReport::default(), "checkpoint {checkpoint}");
        assert_eq!(log.top(), Height(40));
        (1..=40).for_each(|height| check(&log, height));
        assert!(log.read(Height(0)).unwrap().is_none());
        assert!(log.read(Height(41)).unwrap().is_none());
    }
}

#[test]
fn the_index_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let ends = filled(dir.path());
    let index = dir.path().join("heights.idx");
    for bytes in [&b""[..], b"short", b"AXHEIGH1", b"otherthing and more"] {
        fs::write(&index, bytes).unwrap();
        let (log, report) = open(dir.path(), 30, ends[30]);
        assert!(report.rebuilt);
        assert_eq!((log.top(), report.missing.len()), (Height(40), 0));
        (1..=40).for_each(|height| check(&log, height));
    }
}

#[test]
fn a_torn_tail_leaves_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let ends = filled(dir.path());
    let newest = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .max()
        .unwrap();
    let base: u64 = newest
        .file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let whole = fs::read(&newest).unwrap();
    let first = ends.iter().position(|end| *end > base).unwrap();
    for len in 32..=whole.len() {
        fs::write(&newest, &whole[..len]).unwrap();
        let (log, report) = open(dir.path(), first as u64 - 1, ends[first - 1]);
        let kept = ends
            .iter()
            .rposition(|end| *end <= base + len as u64)
            .unwrap()
            .max(first - 1);
        assert_eq!(log.top(), Height(kept as u64), "cut at {len}");
        assert!(report.missing.is_empty() && report.damage.is_empty());
        check(&log, kept as u64);
    }
}

#[test]
fn a_damaged_block_is_named_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let ends = filled(dir.path());
    // In the middle of block 12, wherever its segment is.
    let target = ends[11] + 60;
    let segment = fs::read_dir(dir.path())
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let base: u64 = path.file_stem()?.to_str()?.parse().ok()?;
            (base <= target).then_some((base, path))
        })
        .max()
        .unwrap();
    let mut bytes = fs::read(&segment.1).unwrap();
    bytes[(target - segment.0) as usize] ^= 1;
    fs::write(&segment.1, bytes).unwrap();

    // Behind the checkpoint it is found when it is read; after it, at open.
    for checkpoint in [20, 5] {
        let (log, report) = open(dir.path(), checkpoint, ends[checkpoint as usize]);
        let error = log.read(Height(12)).unwrap_err();
        assert!(
            matches!(
                error,
                BlockLogError::Damaged {
                    height: Height(12),
                    ..
                }
            ),
            "{error}"
        );
        let expected = if checkpoint < 12 {
            vec![(Height(12), Height(12))]
        } else {
            vec![]
        };
        assert_eq!(report.missing, expected);
        (1..=40)
            .filter(|h| *h != 12)
            .for_each(|height| check(&log, height));
    }
    let (log, _) = open(dir.path(), 20, ends[20]);
    append(&log, 12, false);
    log.sync().unwrap();
    let record = log.read(Height(12)).unwrap().unwrap();
    assert_eq!(
        (record.block().len(), record.receipts().unwrap()),
        (112, None)
    );
    drop(log);
    for checkpoint in [0, 5, 20] {
        let (log, report) = open(dir.path(), checkpoint, ends[checkpoint as usize]);
        assert!(report.missing.is_empty());
        assert_eq!(log.read(Height(12)).unwrap().unwrap().block().len(), 112);
        assert_eq!(log.top(), Height(40));
    }
}
