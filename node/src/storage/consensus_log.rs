//! The log of consensus: what a validator must not forget.
//!
//! A thin layer over [`record_log`](super::record_log): each record carries the epoch and the
//! height that it belongs to, so that a restart reads back those of one height, and a test reads
//! all of them to look for double signs. Records are opaque here. Segments are dropped once all of
//! their heights lie more than [`KEPT_HEIGHTS`] below the newest.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::Path,
};

use axolotl_common::{Epoch, Height};

use super::record_log::{
    Item, LogError, LogOptions, LogReader, OpenReport, Record, RecordLog, Records, Stretch,
};

/// Heights below the newest whose records are kept.
pub const KEPT_HEIGHTS: u64 = 1_000;
/// Largest record: a block of 8 MiB, the largest that a genesis allows, and what stands around it.
pub const MAX_CONSENSUS_RECORD_BYTES: usize = 9 << 20;
const SEGMENT_BYTES: u64 = 16 << 20;
const PREFIX_BYTES: usize = 16;

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
        let (log, report) = RecordLog::open(dir, options, newest, &mut |_| {})?;
        let reader = log.reader();
        let mut first_heights = BTreeMap::new();
        for segment in reader.bounds().0 {
            if let Some(height) = first_height(&reader, segment)? {
                first_heights.insert(segment, height);
            }
        }
        let log = Self {
            log,
            options,
            first_heights,
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

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// Every error is final: the process must end.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.log.sync()
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
