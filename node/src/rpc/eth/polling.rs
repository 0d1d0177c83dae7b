//! Filters that clients install and poll.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Instant,
};

use alloy_primitives::B256;
use tokio::sync::broadcast::error::TryRecvError;

use crate::rpc::{
    Answer, Rpc,
    call::RpcCall,
    error::RpcError,
    eth::logs::Query,
    filters::{Filters, Installed, Kind},
    params::{Params, Price},
};

/// Most hashes in one answer; the rest comes with the next poll.
const MAX_HASHES: usize = 1_000;

fn filters(rpc: &Rpc) -> MutexGuard<'_, Filters> {
    rpc.filters.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of a filter: a quantity of at most 128 bits.
pub(in crate::rpc) fn id(params: &Params<'_>) -> Result<u128, RpcError> {
    params.at_most(1)?;
    let Price(id) = params.required(0)?;
    Ok(id)
}

fn install(rpc: &RpcCall, kind: Kind, next: u64) -> Answer {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(RpcError::internal)?;
    let id = u128::from_be_bytes(bytes);
    let filter = Installed { kind, next };
    filters(rpc).install(Instant::now(), id, filter)?;
    rpc.json(&format!("{id:#x}"))
}

/// `eth_newFilter`.
pub(in crate::rpc) fn new_filter(rpc: &RpcCall, params: &Params<'_>) -> Answer {
    let query = Query::read(params)?;
    let next = query.first_to_report(rpc.head_height());
    install(rpc, Kind::Logs(Box::new(query)), next)
}

/// `eth_newBlockFilter`.
pub(in crate::rpc) fn new_block_filter(rpc: &RpcCall) -> Answer {
    install(rpc, Kind::Blocks, rpc.head_height() + 1)
}

/// `eth_newPendingTransactionFilter`.
pub(in crate::rpc) fn new_transaction_filter(rpc: &RpcCall) -> Answer {
    let receiver = rpc.context.mempool.subscribe_new();
    install(rpc, Kind::Transactions(receiver), 0)
}

/// `eth_uninstallFilter`.
pub(in crate::rpc) fn uninstall(rpc: &RpcCall, id: u128) -> Answer {
    rpc.json(&filters(rpc).remove(Instant::now(), id))
}

/// `eth_getFilterChanges`: what is new since the last poll.
pub(in crate::rpc) fn changes(rpc: &RpcCall, id: u128) -> Answer {
    let filter = filters(rpc).get(Instant::now(), id)?;
    let mut filter = filter.lock().unwrap_or_else(PoisonError::into_inner);
    let Installed { kind, next } = &mut *filter;
    let head = rpc.head_height();
    match kind {
        Kind::Logs(query) => {
            let most = rpc.limits().max_log_blocks;
            let to = query
                .last_to_report(head)
                .min(next.saturating_add(most - 1));
            if *next > to {
                return rpc.json::<[()]>(&[]);
            }
            let found = query.search(rpc, *next, to)?;
            match found.stopped {
                // One block alone is too much: say so, and go on after it with the next poll.
                Some(why) if found.next == *next => {
                    *next += 1;
                    Err(why)
                }
                _ => {
                    let answer = rpc.json(&found.logs)?;
                    *next = found.next;
                    Ok(answer)
                }
            }
        }
        Kind::Blocks => {
            let (mut hashes, mut read_to) = (Vec::new(), *next);
            while read_to <= head && hashes.len() < MAX_HASHES {
                rpc.call_deadline.check()?;
                if let Some(stored) = rpc.block_at(read_to)? {
                    hashes.push(stored.hash);
                }
                read_to += 1;
            }
            let answer = rpc.json(&hashes)?;
            *next = read_to;
            Ok(answer)
        }
        Kind::Transactions(receiver) => {
            let mut hashes: Vec<B256> = Vec::new();
            while hashes.len() < MAX_HASHES {
                match receiver.try_recv() {
                    Ok(tx) => hashes.push(tx.hash()),
                    // A client that polls too seldom misses the oldest ones.
                    Err(TryRecvError::Lagged(_)) => {}
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            rpc.json(&hashes)
        }
    }
}

/// `eth_getFilterLogs`: all logs that match, new or not.
pub(in crate::rpc) fn all_logs(rpc: &RpcCall, id: u128) -> Answer {
    let filter = filters(rpc).get(Instant::now(), id)?;
    let query = match &filter.lock().unwrap_or_else(PoisonError::into_inner).kind {
        Kind::Logs(query) => query.clone(),
        Kind::Blocks | Kind::Transactions(_) => {
            return Err(RpcError::Server("filter not found".into()));
        }
    };
    query.answer(rpc)
}
