//! The journal's bytes, written and read without a file.
//!
//! ```text
//! file:   magic 8 | salt 8 | crc32c 4 | salt 8 | crc32c 4 | records …
//! record: marker 4 | crc32c 4 | length 4 | kind 1 | body (length counts kind and body)
//! kind 1: a transaction as clients send it
//! kind 2: hash 32 | sender 20 | nonce 8 | standing 1 | milliseconds 8   (an interrupted transaction)
//! ```
//!
//! Numbers are little-endian. The checksum of a record covers salt, length, kind and body; that of the
//! header covers magic and salt. The salt is random, the marker is a part of it: what a stranger put
//! into a transaction does not read as a record when the reader looks for the next one behind damage.
//! The salt is there twice, so that one damaged place loses one record at most.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};

use crate::mempool::{
    interrupted::{InterruptReason, Interrupted, Standing},
    queue::TX_OVERHEAD_BYTES,
};

const MAGIC: [u8; 8] = *b"AXPOOL1\n";
const SALT_BYTES: usize = 8;
const HEADER_BYTES: usize = MAGIC.len() + 2 * (SALT_BYTES + 4);
const RECORD_HEADER_BYTES: usize = 12;
// The pool's count of a transaction, overhead and twice its bytes, bounds twice its record.
const _: () = assert!(TX_OVERHEAD_BYTES >= 2 * (RECORD_HEADER_BYTES + 1));
/// A longer record is damage: the largest transaction has 128 KiB.
const RECORD_MAX_BYTES: usize = 1 << 20;

const KIND_TRANSACTION: u8 = 1;
const KIND_INTERRUPTED: u8 = 2;
const INTERRUPTED_BYTES: usize = 32 + 20 + 8 + 1 + 8;
/// Bytes of the record of an interrupted transaction.
pub(super) const INTERRUPTED_RECORD_BYTES: usize = RECORD_HEADER_BYTES + 1 + INTERRUPTED_BYTES;

const STANDING_HEAVY: u8 = 0;
const STANDING_EXECUTION_TIME: u8 = 1;
const STANDING_BLOCK_NOT_DECIDED: u8 = 2;
const STANDING_STATE_SIZE: u8 = 3;

/// What one record of the journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A transaction, as clients send it.
    Transaction(Bytes),
    /// An interrupted transaction.
    Interrupted(Interrupted),
}

impl Entry {
    /// Bytes of its record.
    pub(super) fn record_bytes(&self) -> usize {
        let body = match self {
            Self::Transaction(raw) => raw.len(),
            Self::Interrupted(_) => INTERRUPTED_BYTES,
        };
        RECORD_HEADER_BYTES + 1 + body
    }
}

/// Random number of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt(pub(super) [u8; SALT_BYTES]);

impl Salt {
    fn marker(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }

    fn checksum(self, length: [u8; 4], payload: &[u8]) -> u32 {
        let crc = crc32c::crc32c(&self.0);
        crc32c::crc32c_append(crc32c::crc32c_append(crc, &length), payload)
    }
}

/// The first bytes of a file.
pub(super) fn header(salt: Salt) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let copy = salt_with_checksum(salt);
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[MAGIC.len()..MAGIC.len() + copy.len()].copy_from_slice(&copy);
    header[MAGIC.len() + copy.len()..].copy_from_slice(&copy);
    header
}

fn salt_with_checksum(salt: Salt) -> [u8; SALT_BYTES + 4] {
    let mut copy = [0; SALT_BYTES + 4];
    let crc = crc32c::crc32c_append(crc32c::crc32c(&MAGIC), &salt.0);
    copy[..SALT_BYTES].copy_from_slice(&salt.0);
    copy[SALT_BYTES..].copy_from_slice(&crc.to_le_bytes());
    copy
}

/// The salt of a file, from whichever copy is whole.
fn read_salt(bytes: &[u8]) -> Option<Salt> {
    let copies = bytes.get(MAGIC.len()..)?.chunks(SALT_BYTES + 4).take(2);
    copies
        .filter_map(|copy| copy.first_chunk().map(|salt| (Salt(*salt), copy)))
        .find(|(salt, copy)| salt_with_checksum(*salt) == **copy)
        .map(|(salt, _)| salt)
}

/// Appends an entry's record to `out`.
pub(super) fn encode(salt: Salt, entry: &Entry, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&salt.marker());
    out.extend_from_slice(&[0; 8]);
    match entry {
        Entry::Transaction(raw) => {
            out.push(KIND_TRANSACTION);
            out.extend_from_slice(raw);
        }
        Entry::Interrupted(noted) => {
            out.push(KIND_INTERRUPTED);
            out.extend_from_slice(noted.hash.as_slice());
            out.extend_from_slice(noted.sender.as_slice());
            out.extend_from_slice(&noted.nonce.to_le_bytes());
            let (standing, limit) = match noted.standing {
                Standing::Heavy => (STANDING_HEAVY, Duration::ZERO),
                Standing::SetAside(InterruptReason::ExecutionTime { limit }) => {
                    (STANDING_EXECUTION_TIME, limit)
                }
                Standing::SetAside(InterruptReason::BlockNotDecided) => {
                    (STANDING_BLOCK_NOT_DECIDED, Duration::ZERO)
                }
                Standing::SetAside(InterruptReason::StateSize) => {
                    (STANDING_STATE_SIZE, Duration::ZERO)
                }
            };
            let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            out.push(standing);
            out.extend_from_slice(&limit.to_le_bytes());
        }
    }
    let payload = start + RECORD_HEADER_BYTES;
    let length = ((out.len() - payload) as u32).to_le_bytes();
    let crc = salt.checksum(length, &out[payload..]).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&crc);
    out[start + 8..payload].copy_from_slice(&length);
}

/// What a file's bytes hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// Whole records, in order.
    pub(super) entries: Vec<Entry>,
    /// Stretches of damage between whole records, and records of an unknown kind.
    pub(super) damaged: usize,
    /// Bytes behind the last whole record: a write that the end of the process cut off.
    pub(super) torn_bytes: usize,
    /// Whether it is no journal, or one without a readable header.
    pub(super) unreadable: bool,
}

/// Reads everything that is whole.
pub(super) fn parse(bytes: &Bytes) -> Parsed {
    let mut parsed = Parsed::default();
    if bytes.is_empty() {
        return parsed;
    }
    let Some(salt) = read_salt(bytes) else {
        parsed.unreadable = true;
        return parsed;
    };
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        if let Some(end) = record_end(bytes, at, salt) {
            match read_payload(bytes, at + RECORD_HEADER_BYTES, end) {
                Some(entry) => parsed.entries.push(entry),
                None => parsed.damaged += 1,
            }
            at = end;
        } else if let Some(next) = find_record(bytes, at + 1, salt) {
            parsed.damaged += 1;
            at = next;
        } else {
            parsed.torn_bytes = bytes.len() - at;
            break;
        }
    }
    parsed
}

/// Where the record at `at` ends, if there is a whole one.
fn record_end(bytes: &[u8], at: usize, salt: Salt) -> Option<usize> {
    let header = bytes.get(at..)?.first_chunk::<RECORD_HEADER_BYTES>()?;
    let [m0, m1, m2, m3, c0, c1, c2, c3, l0, l1, l2, l3] = *header;
    if [m0, m1, m2, m3] != salt.marker() {
        return None;
    }
    let length = [l0, l1, l2, l3];
    let bytes_long = u32::from_le_bytes(length) as usize;
    if bytes_long == 0 || bytes_long > RECORD_MAX_BYTES {
        return None;
    }
    let start = at + RECORD_HEADER_BYTES;
    let payload = bytes.get(start..start + bytes_long)?;
    (salt.checksum(length, payload) == u32::from_le_bytes([c0, c1, c2, c3]))
        .then_some(start + bytes_long)
}

fn find_record(bytes: &[u8], from: usize, salt: Salt) -> Option<usize> {
    let marker = salt.marker();
    let rest = bytes.get(from..)?;
    let places = rest.windows(marker.len()).enumerate();
    places
        .filter(|(_, window)| *window == marker)
        .map(|(offset, _)| from + offset)
        .find(|at| record_end(bytes, *at, salt).is_some())
}

fn read_payload(bytes: &Bytes, start: usize, end: usize) -> Option<Entry> {
    let (kind, body) = bytes.get(start..end)?.split_first()?;
    match *kind {
        KIND_TRANSACTION => Some(Entry::Transaction(bytes.slice(start + 1..end))),
        KIND_INTERRUPTED => read_interrupted(body).map(Entry::Interrupted),
        _ => None,
    }
}

fn read_interrupted(body: &[u8]) -> Option<Interrupted> {
    let body: &[u8; INTERRUPTED_BYTES] = body.try_into().ok()?;
    let (hash, rest) = body.split_first_chunk::<32>()?;
    let (sender, rest) = rest.split_first_chunk::<20>()?;
    let (nonce, rest) = rest.split_first_chunk::<8>()?;
    let (standing, limit) = rest.split_first()?;
    let limit = Duration::from_millis(u64::from_le_bytes(limit.try_into().ok()?));
    Some(Interrupted {
        hash: B256::from(*hash),
        sender: Address::from(*sender),
        nonce: u64::from_le_bytes(*nonce),
        standing: match *standing {
            STANDING_HEAVY => Standing::Heavy,
            STANDING_EXECUTION_TIME => Standing::SetAside(InterruptReason::ExecutionTime { limit }),
            STANDING_BLOCK_NOT_DECIDED => Standing::SetAside(InterruptReason::BlockNotDecided),
            STANDING_STATE_SIZE => Standing::SetAside(InterruptReason::StateSize),
            _ => return None,
        },
    })
}
