//! Receipts: what became of each transaction.

use alloy_consensus::{Eip658Value, Receipt as ConsensusReceipt, ReceiptEnvelope, TxType};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bloom, Log};
use alloy_rlp::{Decodable, RlpDecodable, RlpEncodable};
use alloy_trie::root::ordered_trie_root_with_encoder;

/// What became of a transaction, with what JSON-RPC tells beside Ethereum's receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// EIP-2718 type of the transaction.
    pub tx_type: TxType,
    /// Whether its effects stand. A failed one only paid its gas.
    pub success: bool,
    /// Gas that it used.
    pub gas_used: u64,
    /// Gas used in the block up to and with it.
    pub cumulative_gas_used: u64,
    /// What its contracts logged.
    pub logs: Vec<Log>,
    /// The contract that it created.
    pub contract_address: Option<Address>,
    /// What a gas cost, wei.
    pub effective_gas_price: u128,
}

/// The stored form.
#[derive(RlpEncodable, RlpDecodable)]
struct Stored {
    tx_type: u8,
    success: bool,
    gas_used: u64,
    cumulative_gas_used: u64,
    logs: Vec<Log>,
    /// One address or none.
    contract_address: Vec<Address>,
    effective_gas_price: u128,
}

/// A stored receipt that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("receipt: {0}")]
pub struct ReceiptError(pub String);

impl Receipt {
    /// Ethereum's receipt, as the receipts trie holds it.
    pub fn envelope(&self) -> ReceiptEnvelope {
        let receipt = ConsensusReceipt {
            status: Eip658Value::Eip658(self.success),
            cumulative_gas_used: self.cumulative_gas_used,
            logs: self.logs.clone(),
        }
        .with_bloom();
        match self.tx_type {
            TxType::Legacy => ReceiptEnvelope::Legacy(receipt),
            TxType::Eip2930 => ReceiptEnvelope::Eip2930(receipt),
            TxType::Eip1559 => ReceiptEnvelope::Eip1559(receipt),
            TxType::Eip4844 => ReceiptEnvelope::Eip4844(receipt),
            TxType::Eip7702 => ReceiptEnvelope::Eip7702(receipt),
        }
    }

    /// The form that a node stores; everything is in it that cannot be had from the block.
    pub fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            tx_type: self.tx_type.into(),
            success: self.success,
            gas_used: self.gas_used,
            cumulative_gas_used: self.cumulative_gas_used,
            logs: self.logs.clone(),
            contract_address: self.contract_address.into_iter().collect(),
            effective_gas_price: self.effective_gas_price,
        };
        alloy_rlp::encode(stored)
    }

    /// Reads what [`Receipt::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let error = |e: &dyn std::fmt::Display| ReceiptError(e.to_string());
        let mut rest = bytes;
        let stored = Stored::decode(&mut rest).map_err(|e| error(&e))?;
        if !rest.is_empty() {
            return Err(error(&"bytes after its end"));
        }
        if stored.contract_address.len() > 1 {
            return Err(error(&"two contract addresses"));
        }
        Ok(Self {
            tx_type: TxType::try_from(stored.tx_type).map_err(|e| error(&e))?,
            success: stored.success,
            gas_used: stored.gas_used,
            cumulative_gas_used: stored.cumulative_gas_used,
            logs: stored.logs,
            contract_address: stored.contract_address.first().copied(),
            effective_gas_price: stored.effective_gas_price,
        })
    }
}

/// What logs count in a chain's `maxLogBytes`: the address, the topics and the data of each.
pub fn log_bytes(logs: &[Log]) -> u64 {
    let one = |log: &Log| Address::len_bytes() + 32 * log.topics().len() + log.data.data.len();
    logs.iter().map(|log| one(log) as u64).sum()
}

/// Root of the receipts trie, and the bloom filter over all logs of a block.
pub fn receipts_root_and_bloom(receipts: &[Receipt]) -> (B256, Bloom) {
    let envelopes: Vec<ReceiptEnvelope> = receipts.iter().map(Receipt::envelope).collect();
    let bloom = envelopes
        .iter()
        .fold(Bloom::ZERO, |all, receipt| all | *receipt.logs_bloom());
    let root = ordered_trie_root_with_encoder(&envelopes, |receipt, out| receipt.encode_2718(out));
    (root, bloom)
}
