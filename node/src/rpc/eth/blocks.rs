//! Blocks, transactions, receipts.

use alloy_primitives::{B256, U64};
use serde_json::Value;

use crate::{
    rpc::{
        Answer,
        answers::AnswerBuffer,
        call::RpcCall,
        convert,
        error::RpcError,
        params::{BlockParam, HashParam, NumberOrTag, Params, Quantity},
    },
    storage::StoredBlock,
};

/// The block that the parameter at `index` names, for methods that come in two forms.
pub(in crate::rpc) fn by_number(params: &Params<'_>, index: usize) -> Result<BlockParam, RpcError> {
    let NumberOrTag(block) = params.required(index)?;
    Ok(block)
}

/// As [`by_number`], for a hash.
pub(in crate::rpc) fn by_hash(params: &Params<'_>, index: usize) -> Result<BlockParam, RpcError> {
    let HashParam(hash) = params.required(index)?;
    Ok(BlockParam::Hash(hash))
}

/// `eth_getBlockByNumber`, `eth_getBlockByHash`.
pub(in crate::rpc) fn block(rpc: &RpcCall, block: BlockParam, full: bool) -> Answer {
    let stored = rpc.block(block)?;
    rpc.json(&stored.map(|stored| convert::block(&stored, full)))
}

/// `eth_getBlockReceipts`.
pub(in crate::rpc) fn receipts(rpc: &RpcCall, block: BlockParam) -> Answer {
    match rpc.block(block)? {
        Some(stored) => {
            need_receipts(&stored)?;
            rpc.json(&convert::Receipts(&stored))
        }
        None => rpc.json(&Value::Null),
    }
}

/// `eth_getBlockTransactionCountBy{Number,Hash}`.
pub(in crate::rpc) fn transaction_count(rpc: &RpcCall, block: BlockParam) -> Answer {
    let stored = rpc.block(block)?;
    rpc.json(&stored.map(|stored| U64::from(stored.block.transactions.len())))
}

/// `eth_getUncleCountBy{Number,Hash}`: there are no uncles.
pub(in crate::rpc) fn uncle_count(rpc: &RpcCall, block: BlockParam) -> Answer {
    rpc.json(&rpc.height(block)?.map(|_| U64::ZERO))
}

/// `eth_getTransactionByBlock{Number,Hash}AndIndex`.
pub(in crate::rpc) fn transaction_at(rpc: &RpcCall, block: BlockParam, index: Quantity) -> Answer {
    let stored = rpc.block(block)?;
    let index = usize::try_from(index.0).unwrap_or(usize::MAX);
    let found = stored.and_then(|stored| {
        let tx = stored.block.transactions.get(index)?;
        Some(convert::mined(&stored, index, tx))
    });
    rpc.json(&found)
}

/// `eth_getTransactionByHash`: of a block, or waiting.
pub(in crate::rpc) fn transaction(rpc: &RpcCall, hash: &B256) -> Answer {
    if let Some(answer) = mined(rpc, hash)? {
        return Ok(answer);
    }
    if let Some(tx) = rpc.context.mempool.get(hash) {
        return rpc.json(&convert::pending(&tx));
    }
    // It may have gone from the mempool into a block between the two looks.
    match mined(rpc, hash)? {
        Some(answer) => Ok(answer),
        None => rpc.json(&Value::Null),
    }
}

fn mined(rpc: &RpcCall, hash: &B256) -> Result<Option<AnswerBuffer>, RpcError> {
    let Some((height, index)) = rpc.final_transaction(hash)? else {
        return Ok(None);
    };
    let Some(stored) = rpc.block_at(height)? else {
        return Ok(None);
    };
    match stored.block.transactions.get(index) {
        Some(tx) => rpc.json(&convert::mined(&stored, index, tx)).map(Some),
        None => Ok(None),
    }
}

/// `eth_getRawTransactionByHash`.
pub(in crate::rpc) fn raw_transaction(rpc: &RpcCall, hash: &B256) -> Answer {
    if let Some(tx) = rpc.context.mempool.get(hash) {
        return rpc.json(tx.raw());
    }
    let Some((height, index)) = rpc.final_transaction(hash)? else {
        return rpc.json(&Value::Null);
    };
    let stored = rpc.block_at(height)?;
    let raw = stored.and_then(|stored| Some(stored.block.transactions.get(index)?.raw().clone()));
    rpc.json(&raw)
}

/// `eth_getTransactionReceipt`: `null` until the transaction is final.
pub(in crate::rpc) fn receipt(rpc: &RpcCall, height: u64, index: usize) -> Answer {
    match rpc.block_at(height)? {
        Some(stored) => {
            need_receipts(&stored)?;
            let logs = stored.receipts.get(index).map_or(0, |r| r.logs.len());
            let _logs = rpc.reserve(logs.saturating_mul(convert::LOG_BYTES))?;
            rpc.json(&convert::receipt(&stored, index))
        }
        None => rpc.json(&Value::Null),
    }
}

/// Refuses where an answer without receipts would be a wrong one.
pub(in crate::rpc) fn need_receipts(stored: &StoredBlock) -> Result<(), RpcError> {
    if stored.receipts_lost {
        return Err(RpcError::Server(format!(
            "the receipts of block {} are not available on this node: ask another one",
            stored.block.header.number
        )));
    }
    Ok(())
}
