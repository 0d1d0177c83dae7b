//! The chain as the registry knows it: its genesis and its epoch records.

use std::collections::{BTreeMap, BTreeSet};

use axolotl_common::{
    Epoch, EpochRecord, Hash, Height, KeyPair, Member, PublicKey, SignedRecord, ValidatorSet,
    genesis::GenesisDocument, ids::MAX_HEIGHT, membership::RecordKind, recovery::Sets,
};

use super::recovery::Epochs;

/// Blocks in which a planned record must be carried, from the head when it is signed; afterwards it
/// is void. Many more than it takes, few enough that a record that was lost does not block the next
/// for long.
pub const RECORD_LIFETIME_BLOCKS: u64 = 1_000;
/// A record is only given up when the chain is so far beyond its expiry: a heartbeat's height and
/// epoch are not read in the same instant.
const EXPIRY_SLACK_BLOCKS: u64 = 5;

/// The chain, once its genesis is formed.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Genesis document.
    pub document: GenesisDocument,
    /// Every record that was ever signed, by number; some are void.
    pub records: BTreeMap<Epoch, SignedRecord>,
    /// The validator set of each.
    sets: Sets,
    /// Blocks that recovery and forced records made final.
    bases: BTreeSet<(Height, Hash)>,
    /// Validators of the epoch in force.
    pub validators: ValidatorSet,
    /// A signed record that no block carries yet.
    pub pending: Option<SignedRecord>,
}

/// What nodes say of the epoch, taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EpochNews {
    /// The pending record governs.
    InForce(Epoch),
    /// The pending record expired.
    Void(Epoch),
}

impl Chain {
    /// The chain of a genesis document and its signed record.
    pub fn new(document: GenesisDocument, record: SignedRecord) -> Self {
        let rule = document.axolotl().quorum;
        let validators = ValidatorSet::new(&document.chain(), &record.record, rule);
        Self {
            sets: [(record.record.number, validators.clone())].into(),
            bases: BTreeSet::new(),
            document,
            records: [(record.record.number, record)].into(),
            validators,
            pending: None,
        }
    }

    /// Adds a record that was signed after the genesis.
    pub fn add(&mut self, record: SignedRecord) {
        let rule = self.validators.rule();
        let set = ValidatorSet::new(&self.document.chain(), &record.record, rule);
        self.sets.insert(record.record.number, set);
        if let Some(handover) = &record.record.handover {
            self.bases
                .insert((record.record.base_height, handover.base));
        }
        self.records.insert(record.record.number, record);
    }

    /// Lets a record that was signed govern; its number stays the pending one's no longer.
    pub fn enter(&mut self, epoch: Epoch) {
        if let Some(set) = self.sets.get(&epoch) {
            self.validators = set.clone();
        }
        self.pending = None;
    }

    /// What a recovery looks at.
    pub fn epochs(&self, authority: PublicKey) -> Epochs<'_> {
        let pending = self.pending.as_ref().map(|signed| &signed.record);
        let number = |planned: bool| {
            let is = |record: &&EpochRecord| (record.kind == RecordKind::Planned) == planned;
            pending.filter(is).map(|record| record.number)
        };
        Epochs {
            chain: self.document.chain(),
            sets: &self.sets,
            bases: &self.bases,
            in_force: self.validators.epoch(),
            planned: number(true),
            signed: number(false),
            authority,
        }
    }

    /// The newest recovery or forced record up to the epoch in force: members that come back from before
    /// it are told.
    pub fn newest_recovery(&self) -> Option<&SignedRecord> {
        let records = self.records.range(..=self.validators.epoch());
        records.map(|(_, signed)| signed).rev().find(|signed| {
            matches!(
                signed.record.kind,
                RecordKind::Recovery | RecordKind::Forced
            )
        })
    }

    /// Whether a recovery brought the epoch in force, and it has finalised nothing up to `head`.
    pub fn awaits_first_block(&self, head: Height) -> bool {
        self.record().is_some_and(|signed| {
            let recovered = matches!(
                signed.record.kind,
                RecordKind::Recovery | RecordKind::Forced
            );
            recovered && head <= signed.record.base_height
        })
    }

    /// The signed record of the epoch in force.
    pub fn record(&self) -> Option<&SignedRecord> {
        self.records.get(&self.validators.epoch())
    }

    /// Signs the record of the next epoch, unless one is pending. Its number is above every one that
    /// was ever signed.
    pub fn sign_next(
        &self,
        members: Vec<Member>,
        head: Height,
        authority: &KeyPair,
    ) -> Option<SignedRecord> {
        if self.pending.is_some() {
            return None;
        }
        let newest = self.records.keys().next_back().copied().unwrap_or_default();
        let record = EpochRecord {
            number: Epoch(newest.0 + 1),
            kind: RecordKind::Planned,
            succeeds: self.validators.record_hash(),
            members,
            base_height: head,
            expiry_height: Some(Height((head.0 + RECORD_LIFETIME_BLOCKS).min(MAX_HEIGHT))),
            handover: None,
        };
        Some(record.sign(&self.document.chain(), authority))
    }

    /// Validators of `set` that may lie, and one more: so many must say a thing for it to be so.
    fn enough(&self, n: usize) -> usize {
        self.validators.rule().byzantine_faults(n) + 1
    }

    /// What the heads and epochs that nodes report mean for the pending record.
    pub fn news(&self, reports: &[(PublicKey, Height, Epoch)]) -> Option<EpochNews> {
        let signed = self.pending.as_ref()?;
        let next = &signed.record;
        let is_next = |key: &PublicKey| next.members.iter().any(|m| m.public_key == *key);
        let of_next = reports.iter().filter(|(key, ..)| is_next(key));
        let entered = of_next.filter(|(.., epoch)| *epoch >= next.number).count();
        // A record of a recovery is in force as soon as it is signed: one that holds it is enough to go on,
        // and if it is the last one left, an operator must be able to.
        let enough = match next.kind {
            RecordKind::Recovery | RecordKind::Forced => 1,
            _ => self.enough(next.members.len()),
        };
        if entered >= enough {
            return Some(EpochNews::InForce(next.number));
        }
        let expiry = next.expiry_height?.0 + EXPIRY_SLACK_BLOCKS;
        let beyond = reports
            .iter()
            .filter(|(key, height, epoch)| {
                self.validators.contains(key)
                    && height.0 >= expiry
                    && *epoch == self.validators.epoch()
            })
            .count();
        let void = beyond >= self.enough(self.validators.len());
        void.then_some(EpochNews::Void(next.number))
    }

    /// Whether nodes report an epoch that this registry never signed: its store is older than the
    /// chain.
    pub fn is_outdated(&self, reports: &[(PublicKey, Height, Epoch)]) -> Option<Epoch> {
        let newest = self.records.keys().next_back().copied().unwrap_or_default();
        let mut ahead: Vec<Epoch> = reports
            .iter()
            .filter(|(key, _, epoch)| self.validators.contains(key) && *epoch > newest)
            .map(|(.., epoch)| *epoch)
            .collect();
        ahead.sort_unstable();
        (ahead.len() >= self.enough(self.validators.len()))
            .then(|| ahead.last().copied())
            .flatten()
    }
}
