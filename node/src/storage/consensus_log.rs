//! The log of consensus: what a validator must not forget.
//!
//! A thin layer over [`record_log`](super::record_log): each record carries the epoch and the
//! height that it belongs to, so that a restart reads back those of one height, and a test reads
//! all of them to look for double signs. Records are opaque here. Segments are dropped once all of
//! their heights lie more than [`KEPT_HEIGHTS`] below the newest.
//!
//! One record is never dropped: the last that was appended with [`ConsensusLog::append_kept`]. It lies in
//! the log like any other, and once more in a file of its own (magic, CRC-32C, epoch, height, record),
//! replaced as a whole by the sync that makes it durable. A seal is such a record.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::{Path, PathBuf},
};

use axolotl_common::{
    Epoch, Height,
    limits::{MAX_MAX_BLOCK_BYTES, RLP_HEAD_BYTES},
    membership::MAX_RECORD_BYTES,
};
use axolotl_consensus::message::MAX_MESSAGE_OVERHEAD;

use super::{
    files::{read_if_there, write_atomic},
    record_log::{
        Item, LogError, LogOptions, LogReader, OpenReport, Record, RecordLog, Records, Stretch,
    },
};

/// Heights below the newest whose records are kept.
pub const KEPT_HEIGHTS: u64 = 1_000;
/// Largest record: a block of 8 MiB, the largest that a genesis allows, the epoch record that it carries,
/// and what stands around it.
pub const MAX_CONSENSUS_RECORD_BYTES: usize = 10 << 20;
const _: () = assert!(
    MAX_CONSENSUS_RECORD_BYTES
        >= MAX_MAX_BLOCK_BYTES as usize + MAX_RECORD_BYTES + RLP_HEAD_BYTES + MAX_MESSAGE_OVERHEAD,
    "the largest block that can be decided fits into a record"
);
const SEGMENT_BYTES: u64 = 16 << 20;
const PREFIX_BYTES: usize = 16;
/// The file with the record that is never dropped.
const KEPT_FILE: &str = "kept";
const KEPT_MAGIC: &[u8] = b"AXKEPT1\0";

const OPTIONS: LogOptions = LogOptions {
    segment_bytes: SEGMENT_BYTES,
    max_record_bytes: MAX_CONSENSUS_RECORD_BYTES + PREFIX_BYTES,
};

/// A record of the consensus log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusRecord {
    /// Epoch that it belongs to.
    pub epoch: Epoch,
    /// Height that it belongs to.
    pub height: Height,
    /// What was appended.
    pub bytes: Vec<u8>,
}

impl ConsensusRecord {
    fn read(mut payload: Vec<u8>) -> Option<Self> {
        let (epoch, height) = prefix(&payload)?;
        payload.drain(..PREFIX_BYTES);
        Some(Self {
            epoch,
            height,
            bytes: payload,
        })
    }
}

fn prefix(payload: &[u8]) -> Option<(Epoch, Height)> {
    let (epoch, rest) = payload.split_first_chunk()?;
    let (height, _) = rest.split_first_chunk()?;
    Some((
        Epoch(u64::from_le_bytes(*epoch)),
        Height(u64::from_le_bytes(*height)),
    ))
}

/// The consensus log of a data directory.
#[derive(Debug)]
pub struct ConsensusLog {
    log: RecordLog,
    options: LogOptions,
    /// Height of the first record of each segment that has one.
    first_heights: BTreeMap<u64, Height>,
    /// The record that is never dropped.
    kept: Option<ConsensusRecord>,
    kept_path: PathBuf,
    /// Whether the kept record waits for its sync.
    kept_unsynced: bool,
}

impl ConsensusLog {
    /// Opens or creates the log. Only the newest segment is verified here; the others when they are
    /// read. A report with damage means that the validator may have forgotten a vote: it must not
    /// sign.
    ///
    /// # Errors
    /// When a file operation fails.
    pub fn open(dir: &Path) -> Result<(Self, OpenReport), LogError> {
        Self::open_with(dir, OPTIONS)
    }

    fn open_with(dir: &Path, options: LogOptions) -> Result<(Self, OpenReport), LogError> {
        let newest = if dir.is_dir() {
            let (segments, _) = LogReader::open(dir, options)?.bounds();
            segments.last().copied().unwrap_or(0)
        } else {
            0
        };
        let (log, mut report) = RecordLog::open(dir, options, newest, &mut |_| {})?;
        let reader = log.reader();
        let mut first_heights = BTreeMap::new();
        for segment in reader.bounds().0 {
            if let Some(height) = first_height(&reader, segment)? {
                first_heights.insert(segment, height);
            }
        }
        let kept_path = dir.join(KEPT_FILE);
        let log = Self {
            log,
            options,
            first_heights,
            kept: read_kept(&kept_path, &mut report)?,
            kept_path,
            kept_unsynced: false,
        };
        Ok((log, report))
    }

    /// Appends a record. It is durable after [`Self::sync`].
    ///
    /// # Errors
    /// See [`RecordLog::append`].
    pub fn append(&mut self, epoch: Epoch, height: Height, bytes: &[u8]) -> Result<(), LogError> {
        let (epoch, number) = (epoch.0.to_le_bytes(), height.0.to_le_bytes());
        self.log.append(&[&epoch, &number, bytes])?;
        let segment = self.log.segment();
        if let Entry::Vacant(first) = self.first_heights.entry(segment) {
            first.insert(height);
            self.drop_old(height)?;
        }
        Ok(())
    }

    /// Appends a record that is never dropped, in place of the last one of that kind. It is durable
    /// after [`Self::sync`].
    ///
    /// # Errors
    /// See [`RecordLog::append`].
    pub fn append_kept(
        &mut self,
        epoch: Epoch,
        height: Height,
        bytes: &[u8],
    ) -> Result<(), LogError> {
        self.append(epoch, height, bytes)?;
        self.kept_unsynced = true;
        self.kept = Some(ConsensusRecord {
            epoch,
            height,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    /// The record that is never dropped.
    pub fn kept(&self) -> Option<&ConsensusRecord> {
        self.kept.as_ref()
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// Every error is final: the process must end.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.log.sync()?;
        if let Some(kept) = self.kept.as_ref().filter(|_| self.kept_unsynced) {
            let payload = [
                &kept.epoch.0.to_le_bytes(),
                &kept.height.0.to_le_bytes(),
                &*kept.bytes,
            ]
            .concat();
            let crc = crc32c::crc32c(&payload).to_le_bytes();
            let file = [KEPT_MAGIC, &crc, &payload].concat();
            write_atomic(&self.kept_path, &file)?;
            self.kept_unsynced = false;
        }
        Ok(())
    }

    /// The records of one height of one epoch, in order: what the core replays after a restart.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when a part that may hold such records is unreadable: the validator
    /// must not sign.
    pub fn records_of(&self, epoch: Epoch, height: Height) -> Result<Vec<Vec<u8>>, LogError> {
        // Heights only grow along the log, so the first segment of interest is the last one that
        // begins below `height`.
        let from = self
            .first_heights
            .iter()
            .filter(|(_, first)| **first < height)
            .map(|(segment, _)| *segment)
            .next_back()
            .unwrap_or(0);
        let mut found = Vec::new();
        for item in self.log.reader().records(from) {
            match item? {
                Item::Damage(stretch) => return Err(damaged(stretch)),
                Item::Record(Record { payload, .. }) => {
                    if prefix(&payload) == Some((epoch, height)) {
                        found.extend(ConsensusRecord::read(payload).map(|record| record.bytes));
                    }
                }
            }
        }
        Ok(found)
    }

    /// All records that are still kept, oldest first.
    pub fn all(&self) -> ConsensusRecords {
        ConsensusRecords(self.log.reader().records(0))
    }

    /// All records in a directory, without locking or changing anything. A log that is being
    /// written may seem damaged at its end.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn read_all(dir: &Path) -> Result<ConsensusRecords, LogError> {
        Ok(ConsensusRecords(LogReader::open(dir, OPTIONS)?.records(0)))
    }

    /// Bytes on disk.
    pub fn total_bytes(&self) -> u64 {
        self.log.reader().total_bytes()
    }

    fn drop_old(&mut self, newest: Height) -> Result<(), LogError> {
        let keep_from = Height(newest.0.saturating_sub(KEPT_HEIGHTS));
        // All heights of a segment are at or below the first one of the next.
        let droppable = self
            .first_heights
            .iter()
            .filter(|(_, first)| **first < keep_from)
            .map(|(segment, _)| *segment)
            .next_back();
        if let Some(boundary) = droppable {
            self.log.drop_below(boundary)?;
            self.first_heights = self.first_heights.split_off(&boundary);
        }
        Ok(())
    }

    /// Sizes in use.
    pub fn options(&self) -> LogOptions {
        self.options
    }
}

/// Reads the kept record; damage to it goes into the report.
fn read_kept(path: &Path, report: &mut OpenReport) -> Result<Option<ConsensusRecord>, LogError> {
    let max = (MAX_CONSENSUS_RECORD_BYTES + PREFIX_BYTES) as u64 + 64;
    let Some(file) = read_if_there(path, max)? else {
        return Ok(None);
    };
    let kept = file
        .strip_prefix(KEPT_MAGIC)
        .and_then(|rest| rest.split_first_chunk::<4>())
        .filter(|(crc, payload)| **crc == crc32c::crc32c(payload).to_le_bytes())
        .and_then(|(_, payload)| ConsensusRecord::read(payload.to_vec()));
    if kept.is_none() {
        report.damage.push(Stretch {
            path: path.to_owned(),
            position: 0,
            bytes: file.len() as u64,
        });
    }
    Ok(kept)
}

fn first_height(reader: &LogReader, segment: u64) -> Result<Option<Height>, LogError> {
    for item in reader.records(segment) {
        if let Item::Record(record) = item? {
            return Ok(prefix(&record.payload).map(|(_, height)| height));
        }
    }
    Ok(None)
}

fn damaged(stretch: Stretch) -> LogError {
    LogError::Damaged {
        path: stretch.path,
        position: stretch.position,
        offset: 0,
        why: "records of consensus are unreadable; this validator may have forgotten a vote",
    }
}

/// Iterator over a consensus log.
pub struct ConsensusRecords(Records);

impl Iterator for ConsensusRecords {
    type Item = Result<ConsensusRecord, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.0.next()? {
            Err(e) => Err(e),
            Ok(Item::Damage(stretch)) => Err(damaged(stretch)),
            Ok(Item::Record(record)) => {
                let position = record.position;
                ConsensusRecord::read(record.payload).ok_or(LogError::Damaged {
                    path: std::path::PathBuf::new(),
                    position,
                    offset: 0,
                    why: "a record without epoch and height",
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: LogOptions = LogOptions {
        segment_bytes: 2 << 10,
        max_record_bytes: 1 << 10,
    };

    fn open(dir: &Path) -> ConsensusLog {
        let (log, report) = ConsensusLog::open_with(dir, SMALL).unwrap();
        assert_eq!(report, OpenReport::default());
        log
    }

    #[test]
    fn records_of_a_height_come_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        for height in 1..=50u64 {
            for i in 0..5u8 {
                let epoch = Epoch(height / 20);
                log.append(epoch, Height(height), &[i; 50]).unwrap();
            }
            log.sync().unwrap();
        }
        let check = |log: &ConsensusLog| {
            for height in 1..=50u64 {
                let records = log.records_of(Epoch(height / 20), Height(height)).unwrap();
                let expected: Vec<_> = (0..5u8).map(|i| vec![i; 50]).collect();
                assert_eq!(records, expected, "height {height}");
                assert!(log.records_of(Epoch(9), Height(height)).unwrap().is_empty());
            }
            assert!(log.records_of(Epoch(2), Height(51)).unwrap().is_empty());
            assert_eq!(log.all().filter(Result::is_ok).count(), 250);
        };
        check(&log);
        drop(log);
        check(&open(dir.path()));
        assert_eq!(ConsensusLog::read_all(dir.path()).unwrap().count(), 250);
    }

    #[test]
    fn a_thousand_heights_are_kept_and_not_many_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        for height in 1..=5_000u64 {
            log.append(Epoch(0), Height(height), &[7; 30]).unwrap();
        }
        log.sync().unwrap();
        for reopened in [false, true] {
            if reopened {
                drop(log);
                log = open(dir.path());
            }
            let heights: Vec<_> = log.all().map(|r| r.unwrap().height.0).collect();
            assert!(heights.windows(2).all(|w| w[0] + 1 == w[1]));
            assert!((1_000..1_200).contains(&heights.len()), "{}", heights.len());
        }
    }

    #[test]
    fn the_kept_record_outlives_every_segment() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        log.append(Epoch(0), Height(1), &[1; 30]).unwrap();
        log.append_kept(Epoch(0), Height(1), b"sealed").unwrap();
        log.sync().unwrap();
        let expected = ConsensusRecord {
            epoch: Epoch(0),
            height: Height(1),
            bytes: b"sealed".to_vec(),
        };
        assert_eq!(log.records_of(Epoch(0), Height(1)).unwrap().len(), 2);
        for height in 2..=5_000u64 {
            log.append(Epoch(1), Height(height), &[7; 30]).unwrap();
            if height % 1_000 == 0 {
                log.sync().unwrap();
                assert_eq!(log.kept(), Some(&expected), "height {height}");
                drop(log);
                log = open(dir.path());
            }
        }
        let in_log = log.all().any(|record| record.unwrap() == expected);
        assert!(!in_log, "its segment is long gone");
        assert_eq!(log.kept(), Some(&expected));
        // A later one takes its place, once it is durable.
        log.append_kept(Epoch(1), Height(5_000), b"again").unwrap();
        log.sync().unwrap();
        drop(log);
        let log = open(dir.path());
        assert_eq!(log.kept().unwrap().bytes, b"again");
        assert_eq!(log.kept().unwrap().epoch, Epoch(1));
    }

    #[test]
    fn a_kept_record_counts_after_its_sync_only_and_damage_to_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        log.append_kept(Epoch(0), Height(1), b"first").unwrap();
        drop(log);
        assert_eq!(open(dir.path()).kept(), None);
        let mut log = open(dir.path());
        log.append_kept(Epoch(0), Height(1), b"first").unwrap();
        log.sync().unwrap();
        drop(log);
        let path = dir.path().join(KEPT_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (log, report) = ConsensusLog::open_with(dir.path(), SMALL).unwrap();
        assert_eq!(log.kept(), None);
        assert_eq!(report.damage.len(), 1, "and so the node does not vote");
    }

    #[test]
    fn damage_is_no_silence() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        for height in 1..=3u64 {
            log.append(Epoch(0), Height(height), &[7; 30]).unwrap();
            log.sync().unwrap();
        }
        drop(log);
        let path = dir.path().join(format!("{:020}.log", 0));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[32 + 66 + 40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (log, report) = ConsensusLog::open_with(dir.path(), SMALL).unwrap();
        assert_eq!(report.damage.len(), 1);
        assert!(matches!(
            log.records_of(Epoch(0), Height(3)),
            Err(LogError::Damaged { .. })
        ));
        assert_eq!(log.all().filter(Result::is_err).count(), 1);
    }
}
