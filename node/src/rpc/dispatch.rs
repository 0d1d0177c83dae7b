//! The table of methods.
//!
//! Cheap reads are answered at once. What reads blocks or checks signatures runs on blocking
//! threads (`read`), what runs the EVM or searches logs on fewer of them (`heavy`).

use alloy_primitives::{U64, U256};
use serde_json::Value;

use super::{
    Answer,
    call::RpcCall,
    envelope,
    error::RpcError,
    eth::{accounts, blocks, calls, fees, logs, polling, send},
    own,
    params::{BlockParam, Data, HashParam, Params, Quantity},
};

/// Carries out one call.
pub(super) async fn call(rpc: &RpcCall, method: &str, params: &Params<'_>) -> Answer {
    match method {
        "web3_clientVersion" => own::client_version(rpc),
        "web3_sha3" => own::sha3(rpc, params),
        "net_version" => rpc.json(&rpc.chain().spec().chain_id().to_string()),
        "net_listening" => rpc.json(&true),
        "net_peerCount" => own::peer_count(rpc),
        "rpc_modules" => own::modules(rpc),

        "axolotl_status" => own::status(rpc),
        "axolotl_getMembership" => own::membership(rpc),
        "axolotl_getCommitCertificate" => {
            params.at_most(1)?;
            let block: BlockParam = params.optional(0)?.unwrap_or_default();
            rpc.read(move |rpc| own::commit_certificate(rpc, block))
                .await
        }

        "eth_chainId" => rpc.json(&U64::from(rpc.chain().spec().chain_id())),
        "eth_blockNumber" => rpc.json(&U64::from(rpc.head_height())),
        "eth_syncing" => own::syncing(rpc),
        "eth_accounts" => rpc.json::<[()]>(&[]),
        "eth_mining" => rpc.json(&false),
        "eth_hashrate" => rpc.json(&U64::ZERO),
        "eth_getBalance" => accounts::balance(rpc, params),
        "eth_getTransactionCount" => accounts::transaction_count(rpc, params),
        "eth_getCode" => accounts::code(rpc, params),
        "eth_getStorageAt" => accounts::storage(rpc, params),

        "eth_gasPrice" => rpc.read(fees::gas_price).await,
        "eth_maxPriorityFeePerGas" => rpc.read(fees::priority_fee).await,
        "eth_blobBaseFee" => fees::blob_base_fee(rpc),
        "eth_feeHistory" => {
            let history = fees::History::read(params)?;
            rpc.heavy(move |rpc| history.answer(rpc)).await
        }
        "eth_call" => {
            let call = calls::Call::read(rpc, params)?;
            rpc.heavy(move |rpc| call.call(rpc)).await
        }
        "eth_estimateGas" => {
            let call = calls::Call::read(rpc, params)?;
            rpc.heavy(move |rpc| call.estimate(rpc)).await
        }
        "eth_sendRawTransaction" => {
            params.at_most(1)?;
            let Data(raw) = params.required(0)?;
            rpc.read(move |rpc| send::raw_transaction(rpc, &raw)).await
        }

        "eth_getTransactionByHash" => {
            let hash = one_hash(params)?;
            rpc.read(move |rpc| blocks::transaction(rpc, &hash)).await
        }
        "eth_getRawTransactionByHash" => {
            let hash = one_hash(params)?;
            rpc.read(move |rpc| blocks::raw_transaction(rpc, &hash))
                .await
        }
        "eth_getTransactionReceipt" => {
            // Clients poll for it: that it is not there yet is told without a block read.
            match rpc.final_transaction(&one_hash(params)?)? {
                Some((height, index)) => {
                    rpc.read(move |rpc| blocks::receipt(rpc, height, index))
                        .await
                }
                None => rpc.json(&Value::Null),
            }
        }
        "eth_getLogs" => {
            let query = logs::Query::read(params)?;
            rpc.heavy(move |rpc| query.answer(rpc)).await
        }
        "eth_newFilter" => polling::new_filter(rpc, params),
        "eth_newBlockFilter" => polling::new_block_filter(rpc),
        "eth_newPendingTransactionFilter" => polling::new_transaction_filter(rpc),
        "eth_uninstallFilter" => polling::uninstall(rpc, polling::id(params)?),
        "eth_getFilterChanges" => {
            let id = polling::id(params)?;
            rpc.heavy(move |rpc| polling::changes(rpc, id)).await
        }
        "eth_getFilterLogs" => {
            let id = polling::id(params)?;
            rpc.heavy(move |rpc| polling::all_logs(rpc, id)).await
        }
        _ => of_block(rpc, method, params).await,
    }
}

/// The methods that name a block by number or by hash.
async fn of_block(rpc: &RpcCall, method: &str, params: &Params<'_>) -> Answer {
    let block = || match method {
        "eth_getBlockReceipts" => params.required(0),
        name if name.contains("Hash") => blocks::by_hash(params, 0),
        _ => blocks::by_number(params, 0),
    };
    match method {
        "eth_getBlockByNumber" | "eth_getBlockByHash" => {
            params.at_most(2)?;
            let (block, full) = (block()?, params.optional(1)?.unwrap_or(false));
            rpc.read(move |rpc| blocks::block(rpc, block, full)).await
        }
        "eth_getBlockReceipts" => {
            params.at_most(1)?;
            let block = block()?;
            rpc.read(move |rpc| blocks::receipts(rpc, block)).await
        }
        "eth_getBlockTransactionCountByNumber" | "eth_getBlockTransactionCountByHash" => {
            params.at_most(1)?;
            let block = block()?;
            rpc.read(move |rpc| blocks::transaction_count(rpc, block))
                .await
        }
        "eth_getUncleCountByBlockNumber" | "eth_getUncleCountByBlockHash" => {
            params.at_most(1)?;
            blocks::uncle_count(rpc, block()?)
        }
        "eth_getUncleByBlockNumberAndIndex" | "eth_getUncleByBlockHashAndIndex" => {
            params.at_most(2)?;
            block()?;
            rpc.json(&None::<U256>)
        }
        "eth_getTransactionByBlockNumberAndIndex" | "eth_getTransactionByBlockHashAndIndex" => {
            params.at_most(2)?;
            let (block, index): (_, Quantity) = (block()?, params.required(1)?);
            rpc.read(move |rpc| blocks::transaction_at(rpc, block, index))
                .await
        }
        _ => Err(envelope::unknown_method(method)),
    }
}

/// The hash that is the only parameter.
fn one_hash(params: &Params<'_>) -> Result<alloy_primitives::B256, RpcError> {
    params.at_most(1)?;
    let HashParam(hash) = params.required(0)?;
    Ok(hash)
}
