//! The three parts of an encoded block, before any transaction is decoded.

use alloy_consensus::Header;
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_primitives::Bytes;
use alloy_rlp::{Decodable, Header as RlpHeader};
use alloy_trie::root::ordered_trie_root_encoded;

use crate::block::{BlockError, MAX_ENCODED_BYTES, MAX_REQUESTS, requests_hash};

/// An encoded block taken apart.
pub(crate) struct Parts<'a> {
    pub(crate) header: Header,
    /// EIP-2718 encodings.
    pub(crate) transactions: Vec<&'a [u8]>,
    /// EIP-7685 requests.
    pub(crate) requests: Vec<Bytes>,
}

impl<'a> Parts<'a> {
    /// Takes bytes apart that are exactly one block.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, BlockError> {
        if bytes.len() > MAX_ENCODED_BYTES {
            return Err(BlockError::TooLong(bytes.len()));
        }
        let mut rest = bytes;
        let mut body = RlpHeader::decode_bytes(&mut rest, true)?;
        if !rest.is_empty() {
            return Err(BlockError::Malformed("bytes after its end".into()));
        }
        let before = body;
        let header = Header::decode(&mut body)?;
        // Another encoding of the same header would be another block of the same hash.
        let raw_header = &before[..before.len() - body.len()];
        if alloy_rlp::encode(&header) != raw_header {
            return Err(BlockError::Malformed(
                "the header's encoding is not canonical".into(),
            ));
        }
        let mut list = RlpHeader::decode_bytes(&mut body, true)?;
        let mut transactions = Vec::new();
        while !list.is_empty() {
            transactions.push(RlpHeader::decode_bytes(&mut list, false)?);
        }
        let mut list = RlpHeader::decode_bytes(&mut body, true)?;
        let mut requests = Vec::new();
        while !list.is_empty() {
            if requests.len() == MAX_REQUESTS {
                return Err(BlockError::Malformed(format!(
                    "more than {MAX_REQUESTS} requests"
                )));
            }
            requests.push(Bytes::copy_from_slice(RlpHeader::decode_bytes(
                &mut list, false,
            )?));
        }
        if !body.is_empty() {
            return Err(BlockError::Malformed("more than three parts".into()));
        }
        Ok(Self {
            header,
            transactions,
            requests,
        })
    }
}

/// Reads the header of an encoded block and checks that it commits to the rest, without decoding a
/// transaction or executing anything. So bytes that came with a signed hash are known to be that
/// block's, whoever passed them on.
///
/// # Errors
/// When the bytes are not exactly one block, or the header commits to another body.
pub fn read_header(bytes: &[u8]) -> Result<Header, BlockError> {
    let parts = Parts::read(bytes)?;
    let commits = parts.header.transactions_root == ordered_trie_root_encoded(&parts.transactions)
        && parts.header.requests_hash.unwrap_or(EMPTY_REQUESTS_HASH)
            == requests_hash(&parts.requests);
    if commits {
        Ok(parts.header)
    } else {
        Err(BlockError::Malformed(
            "the header commits to another body".into(),
        ))
    }
}

/// Number of the planned epoch whose record an encoded block carries, without executing it.
pub fn read_planned(bytes: &[u8]) -> Option<axolotl_common::Epoch> {
    let parts = Parts::read(bytes).ok()?;
    let mut records = parts
        .requests
        .iter()
        .filter_map(|r| crate::block::decode_record(r));
    let planned = |signed: &axolotl_common::SignedRecord| {
        signed.record.kind == axolotl_common::membership::RecordKind::Planned
    };
    records.find(planned).map(|signed| signed.record.number)
}
