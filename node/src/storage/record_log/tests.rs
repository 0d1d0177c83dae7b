use std::fs::OpenOptions;

use proptest::prelude::*;

use super::*;

const OPTIONS: LogOptions = LogOptions {
    segment_bytes: 4 << 10,
    max_record_bytes: 1 << 10,
};

fn open(dir: &Path) -> (RecordLog, OpenReport, Vec<Vec<u8>>) {
    let mut seen = Vec::new();
    let (log, report) =
        RecordLog::open(dir, OPTIONS, 0, &mut |record| seen.push(record.payload)).unwrap();
    (log, report, seen)
}

fn payload(i: usize) -> Vec<u8> {
    let mut bytes = format!("record {i} ").into_bytes();
    bytes.resize(20 + i * 7 % 300, i as u8);
    bytes
}

/// Writes `count` records, synced after every `batch`.
fn filled(dir: &Path, count: usize, batch: usize) -> Vec<u64> {
    let (mut log, ..) = open(dir);
    (0..count)
        .map(|i| {
            let position = log.append(&[&payload(i)]).unwrap();
            if (i + 1) % batch == 0 {
                log.sync().unwrap();
            }
            position
        })
        .collect()
}

fn last_segment(dir: &Path) -> PathBuf {
    list_segments(dir)
        .unwrap()
        .values()
        .next_back()
        .unwrap()
        .path
        .clone()
}

#[test]
fn what_was_appended_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let positions = filled(dir.path(), 100, 10);
    let (mut log, report, seen) = open(dir.path());
    assert_eq!(report, OpenReport::default());
    assert_eq!(seen, (0..100).map(payload).collect::<Vec<_>>());
    let (segments, end) = log.reader().bounds();
    assert!(
        segments.len() > 2,
        "expected several segments: {segments:?}"
    );
    assert_eq!(end, log.end());
    for (i, position) in positions.iter().enumerate() {
        assert_eq!(log.reader().read(*position).unwrap(), payload(i));
    }
    let next = log.append(&[b"a", b"bc"]).unwrap();
    assert_eq!(log.reader().read(next).unwrap(), b"abc");
    assert!(log.reader().read(next + 1).is_err());
    assert!(log.reader().read(u64::MAX / 2).is_err());
}

#[test]
fn a_scan_can_begin_at_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let positions = filled(dir.path(), 60, 1);
    for from in [0, 1, 30, 59] {
        let mut seen = Vec::new();
        RecordLog::open(dir.path(), OPTIONS, positions[from], &mut |r| {
            seen.push(r.position);
        })
        .unwrap();
        assert_eq!(seen, positions[from..]);
        let items: Vec<_> = LogReader::open(dir.path(), OPTIONS)
            .unwrap()
            .records(positions[from])
            .map(|item| item.unwrap())
            .collect();
        assert_eq!(items.len(), 60 - from);
    }
}

#[test]
fn sizes_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = open(dir.path());
    for bytes in [0, 1025] {
        let error = log.append(&[&vec![1; bytes]]).unwrap_err();
        assert!(matches!(error, LogError::Size { .. }), "{error}");
        assert!(!error.is_fatal());
    }
    log.append(&[&[1; 1024]]).unwrap();
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let positions = filled(dir.path(), 12, 4);
    let path = last_segment(dir.path());
    let whole = fs::read(&path).unwrap();
    let ends: Vec<u64> = positions
        .iter()
        .skip(1)
        .copied()
        .chain([whole.len() as u64])
        .collect();
    for len in SEGMENT_HEADER_BYTES as usize..=whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        let (mut log, report, seen) = open(dir.path());
        let kept = ends.iter().filter(|end| **end <= len as u64).count();
        assert_eq!(seen.len(), kept, "cut at {len}");
        assert!(report.damage.is_empty(), "cut at {len}: {report:?}");
        let torn = len as u64
            - if kept == 0 {
                SEGMENT_HEADER_BYTES
            } else {
                ends[kept - 1]
            };
        assert_eq!(report.cut.map_or(0, |cut| cut.bytes), torn, "cut at {len}");
        log.append(&[b"next"]).unwrap();
        log.sync().unwrap();
        drop(log);
        let (_, report, seen) = open(dir.path());
        assert_eq!((report, seen.len()), (OpenReport::default(), kept + 1));
    }
}

#[test]
fn a_tail_of_zeros_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 5, 5);
    let path = last_segment(dir.path());
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() + 999).unwrap();
    let (_, report, seen) = open(dir.path());
    assert_eq!((seen.len(), report.cut.unwrap().bytes), (5, 999));
}

#[test]
fn each_flipped_byte_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let positions = filled(dir.path(), 8, 1);
    let path = last_segment(dir.path());
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        let (mut log, report, seen) = open(dir.path());
        let hit = positions
            .iter()
            .rposition(|position| *position <= at as u64);
        match hit {
            // Only the last record has nobody to say that it was durable.
            Some(7) => assert_eq!((seen.len(), report.cut.is_some()), (7, true), "byte {at}"),
            Some(i) => {
                let expected: Vec<_> = (0..8).filter(|j| *j != i).map(payload).collect();
                assert_eq!(seen, expected, "byte {at}");
                assert_eq!(report.damage.len(), 1, "byte {at}");
                assert_eq!(report.damage[0].position, positions[i], "byte {at}");
                let error = log.reader().read(positions[i]).unwrap_err();
                assert!(matches!(error, LogError::Damaged { .. }) && !error.is_fatal());
                assert_eq!(log.reader().read(positions[7]).unwrap(), payload(7));
            }
            // Bytes 28 to 31 of the header are unused.
            None if at >= 28 => assert_eq!(seen.len(), 8),
            None => {
                assert_eq!((seen.len(), report.damage.len()), (0, 1), "byte {at}");
                log.append(&[b"goes on in a new segment"]).unwrap();
                log.sync().unwrap();
                let (segments, _) = log.reader().bounds();
                fs::remove_file(segment::segment_path(dir.path(), segments[1])).unwrap();
            }
        }
        drop(log);
    }
}

#[test]
fn records_that_were_never_synced_may_be_lost_out_of_order() {
    let dir = tempfile::tempdir().unwrap();
    let positions = filled(dir.path(), 9, 3);
    let path = last_segment(dir.path());
    let whole = fs::read(&path).unwrap();
    // Records 6, 7 and 8 were written in one batch: 6 lost with 7 and 8 whole is a torn tail.
    let mut bytes = whole.clone();
    bytes[positions[6] as usize + 25] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (_, report, seen) = open(dir.path());
    assert_eq!((seen.len(), report.damage.len()), (6, 0));
    assert_eq!(report.cut.unwrap().position, positions[6]);
    // Record 5 was synced before 6 was written.
    let mut bytes = whole;
    bytes[positions[5] as usize + 25] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (_, report, seen) = open(dir.path());
    assert_eq!((seen.len(), report.cut, report.damage.len()), (8, None, 1));
}

#[test]
fn a_closed_segment_is_never_cut() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 60, 1);
    let first = list_segments(dir.path())
        .unwrap()
        .values()
        .next()
        .unwrap()
        .path
        .clone();
    let len = fs::metadata(&first).unwrap().len();
    let file = OpenOptions::new().write(true).open(&first).unwrap();
    file.set_len(len - 5).unwrap();
    let (_, report, seen) = open(dir.path());
    assert_eq!((seen.len(), report.cut, report.damage.len()), (59, None, 1));
}

#[test]
fn old_segments_go() {
    let dir = tempfile::tempdir().unwrap();
    let positions = filled(dir.path(), 60, 1);
    let (mut log, ..) = open(dir.path());
    let (segments, _) = log.reader().bounds();
    log.drop_below(segments[2] + 1).unwrap();
    assert_eq!(log.reader().bounds().0, segments[2..]);
    assert!(log.reader().read(positions[0]).is_err());
    log.drop_below(u64::MAX).unwrap();
    assert_eq!(log.reader().bounds().0.len(), 1);
    drop(log);
    let (log, report, _) = open(dir.path());
    assert_eq!(report, OpenReport::default());
    assert_eq!(log.reader().read(positions[59]).unwrap(), payload(59));
}

#[test]
fn after_a_failed_write_nothing_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = open(dir.path());
    log.append(&[b"one"]).unwrap();
    log.sync().unwrap();
    log.break_writes();
    assert!(log.append(&[b"two"]).unwrap_err().is_fatal());
    assert!(matches!(log.append(&[b"three"]), Err(LogError::Refused(_))));
    assert!(matches!(log.sync(), Err(LogError::Refused(_))));
    drop(log);
    assert_eq!(open(dir.path()).2, vec![b"one".to_vec()]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the files, opening neither fails nor panics nor invents a record.
    #[test]
    fn garbage_never_reads_as_a_record(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 40, 3);
        let segments = list_segments(dir.path()).unwrap();
        let paths: Vec<_> = segments.values().map(|s| s.path.clone()).collect();
        for (index, byte) in flips {
            let path = index.get(&paths);
            let mut bytes = fs::read(path).unwrap();
            let at = index.index(bytes.len());
            bytes[at] = byte;
            fs::write(path, bytes).unwrap();
        }
        let path = cut.get(&paths);
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..cut.index(bytes.len())]).unwrap();
        let (_, _, seen) = open(dir.path());
        let mut known = (0..40).map(payload);
        for record in seen {
            prop_assert!(known.any(|payload| payload == record), "unknown or out of order");
        }
    }
}
