//! The disk of a simulated node: a consensus log of which only the flushed part is sure to survive a
//! crash, and the durable block log.

use axolotl_common::{
    EpochRecord, Hash, VolumeId,
    recovery::{Ballot, Promises},
};
use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::ledger::Chain;

/// Length of the frame before each record: length and checksum.
const FRAME: usize = 8;

/// A draft of a record that is not signed yet.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) ballot: Ballot,
    pub(crate) draft: EpochRecord,
    /// The block that it adopts, if the chain does not hold it anyway.
    pub(crate) block: Option<Bytes>,
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    log: Vec<u8>,
    flushed: usize,
    pub(crate) chain: Chain,
    /// The mutant "log not flushed": a flush does nothing.
    pub(crate) ignores_flush: bool,
    pub(crate) volume: VolumeId,
    /// What registries were promised.
    pub(crate) promises: Promises,
    pub(crate) staged: Option<Staged>,
    /// The chain contradicts a record of the authority: this volume is kept, and never votes again.
    pub(crate) conflict: bool,
}

impl Disk {
    pub(crate) fn new(chain: Chain, volume: VolumeId) -> Self {
        Self {
            log: Vec::new(),
            flushed: 0,
            chain,
            ignores_flush: false,
            volume,
            promises: Promises::default(),
            staged: None,
            conflict: false,
        }
    }

    pub(crate) fn append(&mut self, record: &[u8]) {
        let length = u32::try_from(record.len()).unwrap();
        self.log.extend_from_slice(&length.to_le_bytes());
        self.log.extend_from_slice(&Hash::sha256(record).0[..4]);
        self.log.extend_from_slice(record);
    }

    pub(crate) fn flush(&mut self) {
        if !self.ignores_flush {
            self.flushed = self.log.len();
        }
    }

    /// A crash: of what was not flushed an arbitrary number of bytes survives.
    pub(crate) fn crash(&mut self, rng: &mut ChaCha8Rng) {
        let survives = rng.random_range(self.flushed..=self.log.len());
        self.log.truncate(survives);
    }

    /// Reads the records back and cuts a torn tail off.
    pub(crate) fn open(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let mut at = 0;
        while let Some(frame) = self.log.get(at..at + FRAME) {
            let length = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
            let Some(record) = self.log.get(at + FRAME..at + FRAME + length) else {
                break;
            };
            if Hash::sha256(record).0[..4] != frame[4..] {
                break;
            }
            records.push(record.to_vec());
            at += FRAME + length;
        }
        self.log.truncate(at);
        self.flushed = at;
        records
    }
}
