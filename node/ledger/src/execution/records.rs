//! EIP-7685 requests: the epoch record that a block may carry.

use alloy_primitives::Bytes;
use axolotl_common::{
    SignedRecord, ValidatorSet,
    membership::{MAX_MEMBERS, RecordKind},
};

use super::InvalidBlock;
use crate::{
    block::{MAX_REQUESTS, decode_record},
    genesis::ChainSpec,
};

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
    let fault = |why: String| Err(InvalidBlock::Request(why));
    let Some(signed) = decode_record(request) else {
        return fault("not an epoch record".into());
    };
    let record = &signed.record;
    if record.kind != RecordKind::Planned {
        return fault(format!(
            "a {:?} record, only planned ones travel in blocks",
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
    if record.members.is_empty() || record.members.len() > MAX_MEMBERS {
        return fault(format!(
            "{} members, 1 to {MAX_MEMBERS} allowed",
            record.members.len()
        ));
    }
    for (i, member) in record.members.iter().enumerate() {
        let twice = record.members[..i].iter().any(|other| {
            other.public_key == member.public_key
                || other.node_id == member.node_id
                || other.volume_id == member.volume_id
        });
        if twice {
            return fault(format!(
                "member {} shares its id, key or volume",
                member.node_id
            ));
        }
    }
    match &spec.authority_key {
        None => fault("the membership of this chain is fixed".into()),
        Some(authority) if !signed.verify(&spec.chain, authority) => {
            fault("the record is not signed by the authority".into())
        }
        Some(_) => Ok(signed),
    }
}

pub(super) fn check_requests(
    spec: &ChainSpec,
    validators: &ValidatorSet,
    height: u64,
    requests: &[Bytes],
) -> Result<(), InvalidBlock> {
    if requests.len() > MAX_REQUESTS {
        return Err(InvalidBlock::Request(format!(
            "{} requests, at most {MAX_REQUESTS} allowed",
            requests.len()
        )));
    }
    for request in requests {
        check_request(spec, validators, height, request)?;
    }
    Ok(())
}
