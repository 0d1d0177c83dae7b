//! From the ledger's types to the answers of JSON-RPC.

use alloy_consensus::{Header, ReceiptEnvelope, Transaction as _, transaction::Recovered};
use alloy_primitives::{B256, U256};
use alloy_rpc_types_eth::{
    Block, BlockTransactions, Header as RpcHeader, Log, Transaction, TransactionReceipt,
};
use axolotl_ledger::{Receipt, Tx};
use serde::{Serialize, Serializer};

use crate::storage::StoredBlock;

/// About what a log takes in memory beside its data, bytes: [`Log`] and a list of up to four topics.
pub(super) const LOG_BYTES: usize = 320;

/// A block, with whole transactions or their hashes.
pub(super) fn block(stored: &StoredBlock, full: bool) -> Block {
    let transactions = &stored.block.transactions;
    let transactions = if full {
        let whole = transactions
            .iter()
            .enumerate()
            .map(|(index, tx)| mined(stored, index, tx));
        BlockTransactions::Full(whole.collect())
    } else {
        BlockTransactions::Hashes(transactions.iter().map(|tx| tx.hash()).collect())
    };
    Block {
        header: RpcHeader {
            hash: stored.hash,
            inner: stored.block.header.clone(),
            total_difficulty: None,
            size: Some(U256::from(stored.block.encode().len())),
        },
        uncles: Vec::new(),
        transactions,
        withdrawals: Some(alloy_eips::eip4895::Withdrawals::default()),
    }
}

/// A transaction of a block.
pub(super) fn mined(stored: &StoredBlock, index: usize, tx: &Tx) -> Transaction {
    let header = &stored.block.header;
    let price = tx.envelope().effective_gas_price(header.base_fee_per_gas);
    Transaction {
        inner: Recovered::new_unchecked(tx.envelope().clone(), tx.sender()),
        block_hash: Some(stored.hash),
        block_number: Some(header.number),
        transaction_index: Some(index as u64),
        effective_gas_price: Some(price),
        block_timestamp: Some(header.timestamp),
    }
}

/// A transaction that waits in the mempool.
pub(super) fn pending(tx: &Tx) -> Transaction {
    Transaction {
        inner: Recovered::new_unchecked(tx.envelope().clone(), tx.sender()),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        effective_gas_price: Some(tx.max_fee_per_gas()),
        block_timestamp: None,
    }
}

/// Where in the chain logs and receipts stand.
#[derive(Clone, Copy)]
struct Place {
    block_hash: B256,
    block_number: u64,
    block_timestamp: u64,
    transaction_hash: B256,
    transaction_index: u64,
}

impl Place {
    fn new(header: &Header, block_hash: B256, index: usize, tx: &Tx) -> Self {
        Self {
            block_hash,
            block_number: header.number,
            block_timestamp: header.timestamp,
            transaction_hash: tx.hash(),
            transaction_index: index as u64,
        }
    }

    fn log(self, log_index: u64, log: alloy_primitives::Log) -> Log {
        Log {
            inner: log,
            block_hash: Some(self.block_hash),
            block_number: Some(self.block_number),
            block_timestamp: Some(self.block_timestamp),
            transaction_hash: Some(self.transaction_hash),
            transaction_index: Some(self.transaction_index),
            log_index: Some(log_index),
            removed: false,
        }
    }
}

/// The receipt of the transaction at `index`; `None` when there is none there.
pub(super) fn receipt(stored: &StoredBlock, index: usize) -> Option<TransactionReceipt> {
    let before = stored.receipts.get(..index)?;
    let first_log = before.iter().map(|receipt| receipt.logs.len() as u64).sum();
    one_receipt(stored, index, first_log)
}

/// All receipts of a block. They are made one by one while they are written: a block may hold some
/// hundred thousand logs.
pub(super) struct Receipts<'a>(pub(super) &'a StoredBlock);

impl Serialize for Receipts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stored = self.0;
        let mut first_log = 0;
        let receipts = stored.receipts.iter().enumerate();
        serializer.collect_seq(receipts.filter_map(|(index, receipt)| {
            let made = one_receipt(stored, index, first_log);
            first_log += receipt.logs.len() as u64;
            made
        }))
    }
}

fn one_receipt(stored: &StoredBlock, index: usize, first_log: u64) -> Option<TransactionReceipt> {
    let tx = stored.block.transactions.get(index)?;
    let receipt = stored.receipts.get(index)?;
    let place = Place::new(&stored.block.header, stored.hash, index, tx);
    let mut log_index = first_log;
    let inner: ReceiptEnvelope<Log> = receipt.envelope().map_logs(|log| {
        let log = place.log(log_index, log);
        log_index += 1;
        log
    });
    Some(TransactionReceipt {
        inner,
        transaction_hash: place.transaction_hash,
        transaction_index: Some(place.transaction_index),
        block_hash: Some(place.block_hash),
        block_number: Some(place.block_number),
        gas_used: receipt.gas_used,
        effective_gas_price: receipt.effective_gas_price,
        blob_gas_used: None,
        blob_gas_price: None,
        from: tx.sender(),
        to: tx.envelope().to(),
        contract_address: receipt.contract_address,
    })
}

/// The logs of a block that `wanted` picks, in order.
pub(super) fn logs<'a>(
    stored: &'a StoredBlock,
    wanted: impl Fn(&alloy_primitives::Log) -> bool + 'a,
) -> impl Iterator<Item = Log> + 'a {
    let header = &stored.block.header;
    let places = stored
        .block
        .transactions
        .iter()
        .enumerate()
        .map(|(index, tx)| Place::new(header, stored.hash, index, tx));
    places
        .zip(stored.receipts.iter())
        .flat_map(|(place, receipt): (Place, &Receipt)| {
            receipt.logs.iter().map(move |log| (place, log))
        })
        .zip(0_u64..)
        .filter(move |((_, log), _)| wanted(log))
        .map(|((place, log), log_index)| place.log(log_index, log.clone()))
}
