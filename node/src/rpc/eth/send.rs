//! Transactions from clients.

use std::sync::Arc;

use alloy_primitives::{Bytes, U256};
use axolotl_ledger::Transaction;

use crate::{
    mempool::{Origin, SenderState},
    rpc::{Answer, Rpc, error::RpcError, eth::fees::next_fee, json, params::BlockParam},
};

/// First bytes of code that only points to other code (EIP-7702): such an account may send.
const DELEGATION_PREFIX: [u8; 3] = [0xef, 0x01, 0x00];

/// `eth_sendRawTransaction`: keeps a transaction that can be in a block and hands it on. The sender
/// is recovered here, once; the mempool has the other rules.
pub(in crate::rpc) fn raw_transaction(rpc: &Rpc, raw: &Bytes) -> Answer {
    let refused = |why: &dyn std::fmt::Display| RpcError::Server(why.to_string());
    let spec = rpc.chain().spec();
    let tx = Transaction::decode(raw, spec.chain.id).map_err(|e| refused(&e))?;
    let head = rpc.chain().head();
    let view = rpc.view(BlockParam::Latest)?;
    let account = view.account(&tx.sender())?;
    if let Some(account) = &account
        && account.has_code()
    {
        let code = view.state.code(&account.code_hash);
        let code = code.map_err(RpcError::internal)?.unwrap_or_default();
        if !code.starts_with(&DELEGATION_PREFIX) {
            return Err(RpcError::Server(format!(
                "sender not an eoa: address {}, codehash: {}",
                tx.sender(),
                account.code_hash
            )));
        }
    }
    let sender = SenderState {
        nonce: account.as_ref().map_or(0, |account| account.nonce),
        balance: account.map_or(U256::ZERO, |account| account.balance),
    };
    let tx = Arc::new(tx);
    rpc.context
        .mempool
        .add(Arc::clone(&tx), Origin::Local, sender, next_fee(rpc, &head))
        .map_err(|e| refused(&e))?;
    let hash = tx.hash();
    (rpc.context.submit)(tx);
    json(&hash)
}
