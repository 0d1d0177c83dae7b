//! Reading a log.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    LogError, LogOptions, Record, Stretch,
    segment::{
        SEGMENT_HEADER_BYTES, Segment, Step, after, find_record, list_segments, read_record, step,
    },
};

/// Reads a log, also while it is written.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(super) segments: Arc<RwLock<BTreeMap<u64, Arc<Segment>>>>,
    pub(super) max_record_bytes: usize,
}

impl LogReader {
    /// Opens a log for reading alone: nothing is locked, cut or created. For tools and tests that
    /// look at the log of a node that may be running.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, LogError> {
        let segments = list_segments(dir)?;
        Ok(Self {
            segments: Arc::new(RwLock::new(segments)),
            max_record_bytes: options.max_record_bytes,
        })
    }

    pub(super) fn snapshot(&self) -> Vec<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.values().cloned().collect()
    }

    fn segment_of(&self, position: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let (_, segment) = segments.range(..=position).next_back()?;
        (position < segment.end()).then(|| Arc::clone(segment))
    }

    /// The payload of the record at a position.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when there is no whole record there.
    pub fn read(&self, position: u64) -> Result<Vec<u8>, LogError> {
        let Some(segment) = self.segment_of(position) else {
            return Err(LogError::Damaged {
                path: PathBuf::new(),
                position,
                offset: 0,
                why: "no segment holds this position",
            });
        };
        let offset = position - segment.base;
        let file = segment.open()?;
        match read_record(&file, &segment, offset, self.max_record_bytes)? {
            Ok(record) => Ok(record.payload),
            Err(why) => Err(segment.damaged(offset, why)),
        }
    }

    /// Positions of the segments' first bytes, and of the end of the log.
    pub fn bounds(&self) -> (Vec<u64>, u64) {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let end = segments.values().next_back().map_or(0, |s| s.end());
        (segments.keys().copied().collect(), end)
    }

    /// The records from a position on, which must be that of a record or of a segment. Damage is
    /// an item of its own; the records behind it follow. A torn tail of a log that is being
    /// written looks like damage at the end.
    pub fn records(&self, from: u64) -> Records {
        Records {
            segments: self
                .snapshot()
                .into_iter()
                .filter(|segment| segment.end() > from)
                .collect(),
            current: None,
            from,
            max_record_bytes: self.max_record_bytes,
        }
    }

    /// Bytes of all segments.
    pub fn total_bytes(&self) -> u64 {
        self.snapshot().iter().map(|s| s.len()).sum()
    }
}

/// What a scan meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A record.
    Record(Record),
    /// Bytes that cannot be read.
    Damage(Stretch),
}

/// Iterator over the records of a log.
pub struct Records {
    segments: VecDeque<Arc<Segment>>,
    current: Option<(Arc<Segment>, Arc<File>, u64)>,
    from: u64,
    max_record_bytes: usize,
}

impl Records {
    fn advance(&mut self) -> Result<Option<Item>, LogError> {
        loop {
            if self.current.is_none() {
                let Some(segment) = self.segments.pop_front() else {
                    return Ok(None);
                };
                if segment.salt.is_none() {
                    return Ok(Some(Item::Damage(segment.stretch(0, segment.len()))));
                }
                let offset = self
                    .from
                    .saturating_sub(segment.base)
                    .max(SEGMENT_HEADER_BYTES);
                let file = segment.open()?;
                self.current = Some((segment, file, offset));
            }
            let Some((segment, file, offset)) = &mut self.current else {
                return Ok(None);
            };
            match step(file, segment, *offset, self.max_record_bytes)? {
                Step::End => self.current = None,
                Step::Record { offset: at, record } => {
                    *offset = after(at, &record.payload);
                    return Ok(Some(Item::Record(Record {
                        position: segment.base + at,
                        payload: record.payload,
                    })));
                }
                Step::Unreadable { from } => {
                    let next = find_record(file, segment, from + 1, self.max_record_bytes)?;
                    *offset = next.unwrap_or(segment.len());
                    return Ok(Some(Item::Damage(segment.stretch(from, *offset))));
                }
            }
        }
    }
}

impl Iterator for Records {
    type Item = Result<Item, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance();
        if item.is_err() {
            self.segments.clear();
            self.current = None;
        }
        item.transpose()
    }
}
