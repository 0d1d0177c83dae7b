//! Blocks and their encoding.

use std::sync::{Arc, OnceLock};

use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_rlp::{Encodable, Header as RlpHeader};
use alloy_trie::root::ordered_trie_root_encoded;
use axolotl_common::{ChainId, PublicKey, SignedRecord};
use borsh::BorshDeserialize;
use sha2::{Digest, Sha256};

use crate::{
    parts::Parts,
    transaction::{Transaction, TransactionError, Tx},
};

/// Type byte of the EIP-7685 request that carries an epoch record: the rest of the request is the
/// borsh form of a [`SignedRecord`].
pub const RECORD_REQUEST_TYPE: u8 = 0xa1;
/// Most requests in one block: one epoch record.
pub const MAX_REQUESTS: usize = 1;
/// Room that the header and the frame of lists may take in an encoded block, bytes. A header is
/// about 700 bytes long.
pub const MAX_FRAME_BYTES: usize = 1 << 10;
/// Most bytes that a decoder looks at, whatever a chain's own limit is.
pub const MAX_ENCODED_BYTES: usize = 16 << 20;

/// Why bytes are not a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Longer than any chain allows.
    #[error("block of {0} bytes")]
    TooLong(usize),
    /// Not the RLP of a block.
    #[error("block: {0}")]
    Malformed(String),
    /// A transaction in it is not valid.
    #[error("transaction {index} of the block: {source}")]
    Transaction {
        /// Its place in the block.
        index: usize,
        /// What is wrong with it.
        source: TransactionError,
    },
}

impl From<alloy_rlp::Error> for BlockError {
    fn from(error: alloy_rlp::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A block: Ethereum's header, the transactions, and the EIP-7685 requests.
///
/// [`Block::hash`] is remembered when it was asked for once; whoever changes the header of a block
/// makes a new one with [`Block::new`].
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Ethereum's header.
    pub header: Header,
    /// The transactions in their order.
    pub transactions: Vec<Tx>,
    /// EIP-7685 requests: type byte and data.
    pub requests: Vec<Bytes>,
    hash: OnceLock<B256>,
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.header == other.header
            && self.transactions == other.transactions
            && self.requests == other.requests
    }
}

impl Eq for Block {}

impl Block {
    /// Puts a block together.
    pub fn new(header: Header, transactions: Vec<Tx>, requests: Vec<Bytes>) -> Self {
        Self {
            header,
            transactions,
            requests,
            hash: OnceLock::new(),
        }
    }

    /// Keccak-256 of the header.
    pub fn hash(&self) -> B256 {
        *self.hash.get_or_init(|| self.header.hash_slow())
    }

    /// RLP of `[header, [transaction...], [request...]]`; each transaction is a string that holds
    /// its EIP-2718 encoding.
    pub fn encode(&self) -> Vec<u8> {
        let transactions = list_payload(self.transactions.iter().map(|tx| &tx.raw()[..]));
        let requests = list_payload(self.requests.iter().map(|request| &request[..]));
        let list = |payload_length| RlpHeader {
            list: true,
            payload_length,
        };
        let payload = self.header.length()
            + list(transactions).length_with_payload()
            + list(requests).length_with_payload();
        let mut out = Vec::with_capacity(list(payload).length_with_payload());
        list(payload).encode(&mut out);
        self.header.encode(&mut out);
        list(transactions).encode(&mut out);
        for tx in &self.transactions {
            tx.raw()[..].encode(&mut out);
        }
        list(requests).encode(&mut out);
        for request in &self.requests {
            request[..].encode(&mut out);
        }
        out
    }

    /// Decodes a block. `lookup` gives transactions that were decoded before, by hash, so that
    /// their senders are recovered once; the others are decoded here.
    ///
    /// # Errors
    /// When the bytes are not exactly one block, or a transaction in it is not valid.
    pub fn decode(
        bytes: &[u8],
        chain_id: ChainId,
        lookup: &dyn Fn(&B256) -> Option<Tx>,
    ) -> Result<Self, BlockError> {
        let parts = Parts::read(bytes)?;
        let mut transactions = Vec::with_capacity(parts.transactions.len());
        for raw in parts.transactions {
            let tx = match lookup(&keccak256(raw)) {
                Some(tx) => tx,
                None => Transaction::decode(raw, chain_id)
                    .map(Arc::new)
                    .map_err(|source| BlockError::Transaction {
                        index: transactions.len(),
                        source,
                    })?,
            };
            transactions.push(tx);
        }
        Ok(Self::new(parts.header, transactions, parts.requests))
    }

    /// The validator that built the block, which is its `extraData`. Of block 0, the hash of the
    /// genesis document is there instead.
    pub fn builder(&self) -> PublicKey {
        builder_of(&self.header).unwrap_or(PublicKey([0; 32]))
    }

    /// The epoch record that the block carries.
    pub fn record(&self) -> Option<SignedRecord> {
        self.requests
            .iter()
            .find_map(|request| decode_record(request))
    }

    /// Root of the transactions trie.
    pub fn transactions_root(&self) -> B256 {
        let raw: Vec<&[u8]> = self.transactions.iter().map(|tx| &tx.raw()[..]).collect();
        ordered_trie_root_encoded(&raw)
    }
}

/// Length of the strings inside an RLP list.
fn list_payload<'a>(items: impl Iterator<Item = &'a [u8]>) -> usize {
    items.map(|item| item.length()).sum()
}

/// The builder named in a header, if its `extraData` is a key's length.
pub fn builder_of(header: &Header) -> Option<PublicKey> {
    header.extra_data[..].try_into().ok().map(PublicKey)
}

/// The account that earns the tips of the blocks of this validator: the last 20 bytes of the
/// Keccak-256 of its key.
pub fn beneficiary_of(builder: &PublicKey) -> Address {
    Address::from_word(keccak256(builder.0))
}

/// The request that carries a record.
pub fn encode_record(record: &SignedRecord) -> Bytes {
    let mut request = vec![RECORD_REQUEST_TYPE];
    borsh::BorshSerialize::serialize(record, &mut request).expect("writing to a Vec does not fail");
    request.into()
}

/// The record that a request carries.
pub fn decode_record(request: &[u8]) -> Option<SignedRecord> {
    let data = request.strip_prefix(&[RECORD_REQUEST_TYPE])?;
    SignedRecord::try_from_slice(data).ok()
}

/// EIP-7685's commitment: SHA-256 over the SHA-256 of each request that is more than its type.
pub fn requests_hash(requests: &[Bytes]) -> B256 {
    let mut all = Sha256::new();
    for request in requests.iter().filter(|request| request.len() > 1) {
        all.update(Sha256::digest(request));
    }
    B256::from_slice(&all.finalize())
}
