//! Where a draft or a record stands on the trivial ledger: what the node's chain does on the real one, with
//! the same checks in the same order.

use std::collections::BTreeMap;

use axolotl_common::{
    Epoch, EpochRecord, Hash, Height, SignedRecord, ValidatorSet,
    membership::RecordKind,
    recovery::{Handover, Sets, check_acknowledgements, check_draft},
};
use bytes::Bytes;

use super::ledger::{self, Block, Chain, chain_ref};

/// Why it has no place there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// It does not follow from what it rests on, or does not fit this chain.
    Void(String),
    /// The chain does not reach the base, or the adopted block is not at hand.
    Behind { base: Height, head: Height },
    /// The chain holds another block at the base, or blocks above it.
    Conflict(String),
    /// The adopted block is another one, or invalid.
    Block(String),
}

/// Where it stands.
#[derive(Debug)]
pub(crate) struct Placed {
    /// The block that it adopts, if it is above the head.
    pub(crate) adopted: Option<Bytes>,
    /// The set that it succeeds.
    pub(crate) succeeded: ValidatorSet,
}

/// Verdicts of the pure checks, which many nodes ask for with the same arguments.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    drafts: BTreeMap<Hash, Result<Epoch, String>>,
    acknowledged: BTreeMap<Hash, Result<(), String>>,
}

impl Judged {
    /// The governing epoch of a draft that holds.
    fn draft(&mut self, draft: &EpochRecord, sets: &Sets) -> Result<Epoch, String> {
        let mut asked = borsh::to_vec(draft).unwrap();
        for set in sets.values() {
            asked.extend(set.record_hash().0);
        }
        let judge = || {
            let finding = check_draft(&chain_ref(), draft, sets);
            finding.map(|f| f.governing).map_err(|e| e.to_string())
        };
        let known = self.drafts.entry(Hash::sha256(&asked));
        known.or_insert_with(judge).clone()
    }

    /// Whether enough nodes staged a record.
    pub(crate) fn acknowledged(
        &mut self,
        signed: &SignedRecord,
        old: &ValidatorSet,
    ) -> Result<(), String> {
        let mut asked = borsh::to_vec(signed).unwrap();
        asked.extend(old.record_hash().0);
        let judge = || check_acknowledgements(&chain_ref(), signed, old).map_err(|e| e.to_string());
        let known = self.acknowledged.entry(Hash::sha256(&asked));
        known.or_insert_with(judge).clone()
    }
}

/// Hash of the block that a record adopts.
pub(crate) fn adopted(record: &EpochRecord) -> Option<Hash> {
    let handover = record.handover.as_deref()?;
    handover.adopted.then_some(handover.base)
}

/// Whether a record takes force without a block that carries it.
pub(crate) fn follows_a_seal(record: &EpochRecord) -> bool {
    matches!(record.kind, RecordKind::Recovery | RecordKind::Forced)
}

/// Whether the epoch of this record is or was in force.
pub(crate) fn has_seen(chain: &Chain, record: &EpochRecord) -> bool {
    let known = chain.sets.get(&record.number);
    known.is_some_and(|set| set.record_hash() == record.hash(&chain_ref()))
}

/// Finds where a record stands, and checks everything but signatures of authority and
/// acknowledgements.
pub(crate) fn place(
    chain: &Chain,
    record: &EpochRecord,
    block: Option<&Bytes>,
    judged: &mut Judged,
) -> Result<Placed, Misplaced> {
    let void = |why: &str| Misplaced::Void(why.into());
    let handover = record.handover.as_deref();
    let handover = handover.ok_or_else(|| void("it hands nothing over"))?;
    if record.number <= chain.set.epoch() {
        return Err(void("a later epoch is in force"));
    }
    let (base, head) = (record.base_height, chain.height());
    let (adopted, carried) = if base <= head {
        check_base(chain, base, handover)?;
        (None, None)
    } else {
        let block = block.filter(|_| base == head.next() && handover.adopted);
        let block = block.ok_or(Misplaced::Behind { base, head })?;
        let decoded = execute(chain, handover, block)?;
        (Some(block.clone()), decoded.record)
    };
    let governing = match &adopted {
        None if handover.adopted => chain.previous.as_ref(),
        _ => None,
    };
    let governing = governing.unwrap_or(&chain.set).epoch();
    let carried = carried.map(|record| ValidatorSet::new(&chain_ref(), &record, chain.rule));
    let mut sets = chain.sets.clone();
    if let Some(set) = &carried {
        sets.insert(set.epoch(), set.clone());
    }
    if adopted.is_some() {
        check_locks(handover, carried.as_ref().map(ValidatorSet::epoch))?;
    }
    let succeeded = carried.unwrap_or_else(|| (*chain.set).clone());
    if record.succeeds != succeeded.record_hash() || record.number <= succeeded.epoch() {
        return Err(void("it does not succeed the epoch in force"));
    }
    if record.kind == RecordKind::Recovery {
        let found = judged.draft(record, &sets).map_err(Misplaced::Void)?;
        if found != governing {
            return Err(void("its statements are of another epoch"));
        }
    }
    Ok(Placed { adopted, succeeded })
}

fn check_base(chain: &Chain, base: Height, handover: &Handover) -> Result<(), Misplaced> {
    let own = chain.at(base).map_or(Hash([0; 32]), |stored| stored.hash);
    if own == handover.base && base == chain.height() {
        return Ok(());
    }
    Err(Misplaced::Conflict(format!(
        "the base is {} at {base}; here it is {own}, and the head is {}",
        handover.base,
        chain.height()
    )))
}

fn execute(chain: &Chain, handover: &Handover, bytes: &Bytes) -> Result<Block, Misplaced> {
    if ledger::hash(bytes) != handover.base {
        return Err(Misplaced::Block("it is another one".into()));
    }
    let block = Block::decode(bytes).ok_or_else(|| Misplaced::Block("no block".into()))?;
    chain.check(&block).map_err(Misplaced::Block)?;
    Ok(block)
}

/// Checks that the adopted block carries the planned record that the statements say.
fn check_locks(handover: &Handover, carries: Option<Epoch>) -> Result<(), Misplaced> {
    let locks = handover.statements.iter();
    let locks = locks.filter_map(|signed| signed.statement.lock.as_ref());
    let mut of_base = locks.filter(|lock| lock.block() == handover.base);
    match of_base.find(|lock| lock.carries != carries) {
        None => Ok(()),
        Some(_) => Err(Misplaced::Block("it carries another record".into())),
    }
}
