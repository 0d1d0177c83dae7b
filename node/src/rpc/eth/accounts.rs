//! Balances, nonces, code, storage.

use alloy_primitives::{B256, Bytes, U64, U256};
use axolotl_ledger::state::{account_key, slot_key};

use crate::rpc::{
    Answer,
    call::RpcCall,
    error::RpcError,
    params::{AddressParam, BlockParam, Params, Slot},
};

/// `eth_getBalance`.
pub(in crate::rpc) fn balance(rpc: &RpcCall, params: &Params<'_>) -> Answer {
    params.at_most(2)?;
    let AddressParam(address) = params.required(0)?;
    let block: BlockParam = params.optional(1)?.unwrap_or_default();
    let account = rpc.view(block)?.account(&address)?;
    rpc.json(&account.map_or(U256::ZERO, |account| account.balance))
}

/// `eth_getTransactionCount`. `pending` counts the transactions that wait, too.
pub(in crate::rpc) fn transaction_count(rpc: &RpcCall, params: &Params<'_>) -> Answer {
    params.at_most(2)?;
    let AddressParam(address) = params.required(0)?;
    let block: BlockParam = params.optional(1)?.unwrap_or_default();
    // The mempool first: what leaves it for a block in the meantime is then counted by the state.
    let waiting = match block {
        BlockParam::Pending => rpc.context.mempool.pending_nonce(&address),
        _ => None,
    };
    let account = rpc.view(block)?.account(&address)?;
    let nonce = account.map_or(0, |account| account.nonce);
    rpc.json(&U64::from(nonce.max(waiting.unwrap_or(0))))
}

/// `eth_getCode`.
pub(in crate::rpc) fn code(rpc: &RpcCall, params: &Params<'_>) -> Answer {
    params.at_most(2)?;
    let AddressParam(address) = params.required(0)?;
    let view = rpc.view(params.optional(1)?.unwrap_or_default())?;
    let code = match view.account(&address)? {
        Some(account) if account.has_code() => view
            .state
            .code(&account.code_hash)
            .map_err(RpcError::internal)?
            .ok_or_else(|| {
                RpcError::internal(format!(
                    "the code {} of {address} is missing",
                    account.code_hash
                ))
            })?,
        _ => Bytes::new(),
    };
    rpc.json(&code)
}

/// `eth_getStorageAt`.
pub(in crate::rpc) fn storage(rpc: &RpcCall, params: &Params<'_>) -> Answer {
    params.at_most(3)?;
    let AddressParam(address) = params.required(0)?;
    let Slot(slot) = params.required(1)?;
    let view = rpc.view(params.optional(2)?.unwrap_or_default())?;
    let value = view
        .state
        .storage(&account_key(&address), &slot_key(&slot.into()))
        .map_err(RpcError::internal)?;
    rpc.json(&B256::from(value))
}
