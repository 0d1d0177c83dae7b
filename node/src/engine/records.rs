//! The planned record that waits for a block.
//!
//! A record reaches a node as an order of the registry or by gossip from another node, and is kept
//! in memory until a block carries it, a newer one takes its place, or it expires. One at most: only
//! one record can succeed the epoch in force. The registry, and every node that holds it, tell it
//! again, so that nothing is lost with a restart. Pure: the network and the worker act on it.
//!
//! A gossip message is the borsh form of a copy number and the EIP-7685 request as a block carries
//! it. The copy number lets the same record be sent again: gossip passes equal bytes on once only.

use std::sync::Arc;

use alloy_primitives::Bytes;
use axolotl_common::{Epoch, Height, SignedRecord, ValidatorSet};
use axolotl_ledger::{
    ChainSpec,
    block::{decode_record, encode_record},
    check_request,
};

use crate::network::limits::MAX_RECORD_BYTES;

/// Where the chain stands: what a record is checked against.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Validators of the next block.
    pub(super) validators: Arc<ValidatorSet>,
    /// Its height.
    pub(super) height: Height,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It waits for a block now.
    New,
    /// It waits for a block already.
    Known,
    /// It is the record of the epoch in force.
    InForce,
}

/// Why a record is not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// Not a record, or not signed by the authority: whoever passed it on did wrong.
    #[error("{0}")]
    False(String),
    /// A record of the authority that no block on top of this chain may carry.
    #[error("{0}")]
    Void(String),
}

/// The record that waits.
#[derive(Debug, Default)]
pub(super) struct PendingRecord {
    pending: Option<(Epoch, Bytes)>,
}

impl PendingRecord {
    /// The request that a block is to carry.
    pub(super) fn request(&self) -> Option<&Bytes> {
        self.pending.as_ref().map(|(_, request)| request)
    }

    /// Number of the epoch that waits.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.pending.as_ref().map(|(epoch, _)| *epoch)
    }

    /// Takes a record from the registry.
    ///
    /// # Errors
    /// Says why no block may carry it, or that a newer one waits.
    pub(super) fn offer(
        &mut self,
        spec: &ChainSpec,
        standing: &Standing,
        record: &SignedRecord,
    ) -> Result<Taken, RecordError> {
        self.take(spec, standing, encode_record(record))
    }

    /// Takes a record as a block carries it, from whomever.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub(super) fn take(
        &mut self,
        spec: &ChainSpec,
        standing: &Standing,
        request: Bytes,
    ) -> Result<Taken, RecordError> {
        if self.request() == Some(&request) {
            return Ok(Taken::Known);
        }
        if request.len() > MAX_RECORD_BYTES {
            return Err(RecordError::False(format!(
                "a record of {} bytes, at most {MAX_RECORD_BYTES} allowed",
                request.len()
            )));
        }
        let Some(signed) = decode_record(&request) else {
            return Err(RecordError::False("not an epoch record".into()));
        };
        let authority = spec.authority_key.as_ref();
        if !authority.is_some_and(|key| signed.verify(&spec.chain, key)) {
            return Err(RecordError::False(
                "the record is not signed by the authority of this chain".into(),
            ));
        }
        if signed.record.hash(&spec.chain) == standing.validators.record_hash() {
            return Ok(Taken::InForce);
        }
        check_request(spec, &standing.validators, standing.height.0, &request)
            .map_err(|error| RecordError::Void(error.to_string()))?;
        let number = signed.record.number;
        if let Some(newer) = self.epoch().filter(|waiting| *waiting >= number) {
            return Err(RecordError::Void(format!(
                "epoch {newer} waits for a block already; a record in its place needs a higher number than {number}"
            )));
        }
        self.pending = Some((number, request));
        Ok(Taken::New)
    }

    /// Forgets the record when no block above the new head may carry it: it is in force, another is,
    /// or it has expired. Says why.
    pub(super) fn on_head(&mut self, spec: &ChainSpec, standing: &Standing) -> Option<String> {
        let (number, request) = self.pending.as_ref()?;
        let error = check_request(spec, &standing.validators, standing.height.0, request).err()?;
        let in_force = standing.validators.epoch() == *number;
        self.pending = None;
        Some(if in_force {
            "it is in force".into()
        } else {
            error.to_string()
        })
    }
}

/// A record on its way from node to node.
#[derive(Clone, Debug, PartialEq, Eq, borsh::BorshSerialize, borsh::BorshDeserialize)]
struct RecordMessage {
    copy: u64,
    request: Vec<u8>,
}

/// Encodes a gossip message.
pub(super) fn encode_message(copy: u64, request: &Bytes) -> Vec<u8> {
    let message = RecordMessage {
        copy,
        request: request.to_vec(),
    };
    borsh::to_vec(&message).expect("writing to a Vec does not fail")
}

/// The request in a gossip message.
pub(super) fn decode_message(bytes: &[u8]) -> Option<Bytes> {
    let message: RecordMessage = borsh::from_slice(bytes).ok()?;
    Some(message.request.into())
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
