//! EIP-7685 requests: the epoch record that a block may carry, or must.

use std::collections::BTreeSet;

use alloy_primitives::Bytes;
use axolotl_common::{
    EpochRecord, SignedRecord, ValidatorSet,
    membership::{MAX_MEMBERS, MAX_RECORD_BYTES, RecordKind},
    recovery::check_acknowledgements,
};

use super::InvalidBlock;
use crate::{
    block::{MAX_REQUESTS, decode_record, encode_record},
    genesis::ChainSpec,
};

/// Under whom a block stands.
#[derive(Clone, Copy, Debug)]
pub struct Governance<'a> {
    /// The set that votes on the block.
    pub validators: &'a ValidatorSet,
    /// Where the block is the first of a recovery or forced epoch: what it must carry.
    pub due: Option<DueRecord<'a>>,
}

/// The record of a recovery or forced epoch that has no block yet.
#[derive(Clone, Copy, Debug)]
pub struct DueRecord<'a> {
    /// The record.
    pub signed: &'a SignedRecord,
    /// The set that it succeeds.
    pub succeeded: &'a ValidatorSet,
}

impl<'a> From<&'a ValidatorSet> for Governance<'a> {
    fn from(validators: &'a ValidatorSet) -> Self {
        Self {
            validators,
            due: None,
        }
    }
}

fn fault<T>(why: String) -> Result<T, InvalidBlock> {
    Err(InvalidBlock::Request(why))
}

/// Checks that the members of a record make a validator set: neither none nor too many, and none
/// twice.
///
/// # Errors
/// When they do not, with the reason.
pub fn check_members(record: &EpochRecord) -> Result<(), InvalidBlock> {
    if record.members.is_empty() || record.members.len() > MAX_MEMBERS {
        return fault(format!(
            "{} members, 1 to {MAX_MEMBERS} allowed",
            record.members.len()
        ));
    }
    let (mut ids, mut keys, mut volumes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for member in &record.members {
        let fresh = ids.insert(&member.node_id)
            & keys.insert(member.public_key)
            & volumes.insert(member.volume_id);
        if !fresh {
            return fault(format!(
                "member {} shares its id, key or volume",
                member.node_id
            ));
        }
    }
    Ok(())
}

fn decode(request: &[u8]) -> Result<SignedRecord, InvalidBlock> {
    if request.len() > MAX_RECORD_BYTES {
        return fault(format!(
            "a record of {} bytes, at most {MAX_RECORD_BYTES} allowed",
            request.len()
        ));
    }
    match decode_record(request) {
        Some(signed) => Ok(signed),
        None => fault("not an epoch record".into()),
    }
}

fn check_authority(spec: &ChainSpec, signed: &SignedRecord) -> Result<(), InvalidBlock> {
    match &spec.authority_key {
        None => fault("the membership of this chain is fixed".into()),
        Some(authority) if !signed.verify(&spec.chain, authority) => {
            fault("the record is not signed by the authority".into())
        }
        Some(_) => Ok(()),
    }
}

/// Checks that a request is a record which the block at `height` may carry, when `validators` vote
/// on that block: a planned record that succeeds their epoch, has not expired, names validators
/// that make sense, and is signed by the authority.
///
/// # Errors
/// When it is not, with the reason.
pub fn check_request(
    spec: &ChainSpec,
    validators: &ValidatorSet,
    height: u64,
    request: &[u8],
) -> Result<SignedRecord, InvalidBlock> {
    let signed = decode(request)?;
    let record = &signed.record;
    if record.kind != RecordKind::Planned || record.handover.is_some() {
        return fault(format!(
            "a {:?} record, only planned ones may be put into a block",
            record.kind
        ));
    }
    if record.succeeds != validators.record_hash() {
        return fault(format!(
            "the record succeeds {}, in force is {}",
            record.succeeds,
            validators.record_hash()
        ));
    }
    if record.number <= validators.epoch() {
        return fault(format!(
            "epoch {} does not come after epoch {}",
            record.number,
            validators.epoch()
        ));
    }
    if let Some(expiry) = record.expiry_height.filter(|expiry| height >= expiry.0) {
        return fault(format!("the record expired at height {expiry}"));
    }
    check_members(record)?;
    check_authority(spec, &signed)?;
    Ok(signed)
}

/// Checks that a request carries the record that is due. Its acknowledgements may be others than
/// those that this node knows, but must be enough.
fn check_due(
    spec: &ChainSpec,
    due: &DueRecord<'_>,
    request: Option<&Bytes>,
) -> Result<(), InvalidBlock> {
    let number = due.signed.record.number;
    let Some(request) = request else {
        return fault(format!(
            "the first block of epoch {number} lacks its record"
        ));
    };
    let signed = decode(request)?;
    if signed.record != due.signed.record {
        return fault(format!(
            "the first block of epoch {number} carries another record"
        ));
    }
    check_authority(spec, &signed)?;
    if signed.record.kind == RecordKind::Recovery {
        check_acknowledgements(&spec.chain, &signed, due.succeeded)
            .map_err(|error| InvalidBlock::Request(error.to_string()))?;
    }
    Ok(())
}

/// Checks what the block at `height` carries.
pub(super) fn check_requests(
    spec: &ChainSpec,
    governance: Governance<'_>,
    height: u64,
    requests: &[Bytes],
) -> Result<(), InvalidBlock> {
    if requests.len() > MAX_REQUESTS {
        return fault(format!(
            "{} requests, at most {MAX_REQUESTS} allowed",
            requests.len()
        ));
    }
    if let Some(due) = &governance.due {
        return check_due(spec, due, requests.first());
    }
    for request in requests {
        check_request(spec, governance.validators, height, request)?;
    }
    Ok(())
}

/// What the block at `height` carries of what its builder offers.
pub(super) fn requests_of(
    spec: &ChainSpec,
    governance: Governance<'_>,
    height: u64,
    mut offered: Vec<Bytes>,
) -> Vec<Bytes> {
    if let Some(due) = &governance.due {
        return vec![encode_record(due.signed)];
    }
    offered.retain(|request| check_request(spec, governance.validators, height, request).is_ok());
    offered.truncate(MAX_REQUESTS);
    offered
}
