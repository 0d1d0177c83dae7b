//! Transactions from clients.

use std::sync::Arc;

use alloy_primitives::{Bytes, U256};
use axolotl_ledger::{Transaction, TransactionError};

use crate::{
    mempool::{JournalFailure, MempoolError, Origin, SenderState},
    rpc::{Answer, call::RpcCall, error::RpcError, eth::fees::next_fee, params::BlockParam},
};

/// First bytes of code that only points to other code (EIP-7702): such an account may send.
const DELEGATION_PREFIX: [u8; 3] = [0xef, 0x01, 0x00];

/// `eth_sendRawTransaction`: keeps a transaction that can be in a block and hands it on. The sender
/// is recovered here, once; the mempool has the other rules. The hash is given only when the
/// transaction is in the journal, and so is "already known": a client takes both for the same.
pub(in crate::rpc) fn raw_transaction(rpc: &RpcCall, raw: &Bytes) -> Answer {
    let spec = rpc.chain().spec();
    let tx = Transaction::decode(raw, spec.chain.id).map_err(refused)?;
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
    let (tx, mempool) = (Arc::new(tx), &rpc.context.mempool);
    let hash = tx.hash();
    match mempool.add(Arc::clone(&tx), Origin::Local, sender, next_fee(rpc, &head)) {
        Ok(_) => (rpc.context.submit)(tx),
        Err(MempoolError::AlreadyKnown) => {
            mempool.flush().map_err(|failure| not_kept(&failure))?;
            return Err(RpcError::Server(MempoolError::AlreadyKnown.to_string()));
        }
        Err(MempoolError::Invalid(error)) => return Err(refused(error)),
        Err(error) => return Err(RpcError::Server(error.to_string())),
    }
    mempool.flush().map_err(|failure| not_kept(&failure))?;
    rpc.json(&hash)
}

/// The transaction is in the pool, and gossiped, and not in the journal: no hash is given for that.
fn not_kept(failure: &JournalFailure) -> RpcError {
    RpcError::Server(format!(
        "transaction not accepted: this node's journal of accepted transactions cannot be written: \
         {failure}; it was passed on and may still be mined: ask for it by its hash, or send the same \
         transaction to another node"
    ))
}

/// The words of geth's transaction pool, where they differ from those of its block processing, which
/// [`TransactionError`] has: clients match on the former.
fn refused(error: TransactionError) -> RpcError {
    RpcError::Server(match error {
        TransactionError::WrongChain { .. } => format!("invalid sender: {error}"),
        TransactionError::IntrinsicGas { have, want } => {
            format!("intrinsic gas too low: gas {have}, minimum needed {want}")
        }
        TransactionError::FloorDataGas { have, want } => {
            format!("insufficient gas for floor data gas cost: gas {have}, minimum needed {want}")
        }
        TransactionError::EmptyAuthorizationList { .. } => {
            "set code tx must have at least one authorization tuple".to_owned()
        }
        error => error.to_string(),
    })
}
