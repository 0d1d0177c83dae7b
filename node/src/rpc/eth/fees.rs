//! What gas costs, and what to offer.

use alloy_primitives::{B256, U256};
use alloy_rpc_types_eth::FeeHistory;
use axolotl_ledger::next_base_fee;

use crate::{
    rpc::{
        Answer, Rpc,
        call::RpcCall,
        error::RpcError,
        params::{BlockParam, BoundedVec, Count, NumberOrTag, Params},
        state::unknown_block,
    },
    storage::{Head, StoredBlock},
};

/// Most blocks in one answer of `eth_feeHistory` (execution-apis).
const MAX_HISTORY_BLOCKS: u64 = 1_024;
/// Most percentiles that may be asked for.
const MAX_PERCENTILES: usize = 100;
/// Blocks that a suggested tip looks back at.
const SAMPLE_BLOCKS: u64 = 20;
/// The tip that is asked for when the chain is busy is this percentile of those paid.
const SAMPLE_PERCENTILE: usize = 60;
/// Suggested while blocks have room: there is nobody to outbid.
const LEAST_TIP: u128 = 1;
/// Never suggest more, wei per gas: 500 gwei, as geth.
const HIGHEST_TIP: u128 = 500_000_000_000;
/// Base fee per blob gas while no blobs exist (EIP-4844, `MIN_BASE_FEE_PER_BLOB_GAS`).
const BLOB_BASE_FEE: u128 = 1;

/// The tip suggested at one head.
#[derive(Debug, Default)]
pub(in crate::rpc) struct TipCache {
    head: B256,
    tip: Option<u128>,
}

/// Base fee of the block after `head`, wei per gas.
pub(in crate::rpc) fn next_fee(rpc: &Rpc, head: &Head) -> u64 {
    next_base_fee(&head.header, rpc.chain().spec().base_fee_floor)
}

/// `eth_gasPrice`: what a transaction without fee fields should offer.
pub(in crate::rpc) fn gas_price(rpc: &RpcCall) -> Answer {
    let head = rpc.chain().head();
    let price = u128::from(next_fee(rpc, &head)) + suggested_tip(rpc)?;
    rpc.json(&U256::from(price))
}

/// `eth_maxPriorityFeePerGas`.
pub(in crate::rpc) fn priority_fee(rpc: &RpcCall) -> Answer {
    rpc.json(&U256::from(suggested_tip(rpc)?))
}

/// `eth_blobBaseFee`.
pub(in crate::rpc) fn blob_base_fee(rpc: &RpcCall) -> Answer {
    rpc.json(&U256::from(BLOB_BASE_FEE))
}

/// A tip that gets a transaction into the next blocks.
fn suggested_tip(rpc: &Rpc) -> Result<u128, RpcError> {
    let head = rpc.chain().head();
    let cached = {
        let cache = rpc.tips.lock().unwrap_or_else(|e| e.into_inner());
        cache.tip.filter(|_| cache.head == head.hash)
    };
    if let Some(tip) = cached {
        return Ok(tip);
    }
    let newest = head.header.number;
    let (mut used, mut room, mut tips) = (0_u128, 0_u128, Vec::new());
    for height in newest.saturating_sub(SAMPLE_BLOCKS - 1)..=newest {
        let Some(stored) = rpc.block_at(height)? else {
            continue;
        };
        used += u128::from(stored.block.header.gas_used);
        room += u128::from(stored.block.header.gas_limit);
        tips.extend(rewards(&stored).into_iter().map(|(tip, _)| tip));
    }
    tips.sort_unstable();
    let tip = if used * 2 < room || tips.is_empty() {
        LEAST_TIP
    } else {
        tips[(tips.len() - 1) * SAMPLE_PERCENTILE / 100].clamp(LEAST_TIP, HIGHEST_TIP)
    };
    let mut cache = rpc.tips.lock().unwrap_or_else(|e| e.into_inner());
    *cache = TipCache {
        head: head.hash,
        tip: Some(tip),
    };
    Ok(tip)
}

/// Tip and gas of each transaction of a block.
fn rewards(stored: &StoredBlock) -> Vec<(u128, u64)> {
    let base_fee = stored.block.header.base_fee_per_gas.unwrap_or_default();
    let pairs = stored.block.transactions.iter().zip(&stored.receipts);
    pairs
        .map(|(tx, receipt)| (tx.effective_tip(base_fee).unwrap_or(0), receipt.gas_used))
        .collect()
}

/// A request for the history of fees.
pub(in crate::rpc) struct History {
    count: u64,
    newest: BlockParam,
    percentiles: Option<Vec<f64>>,
}

impl History {
    /// Reads the parameters of `eth_feeHistory`.
    pub(in crate::rpc) fn read(params: &Params<'_>) -> Result<Self, RpcError> {
        params.at_most(3)?;
        let Count(count) = params.required(0)?;
        let NumberOrTag(newest) = params.required(1)?;
        let percentiles: Option<BoundedVec<f64, MAX_PERCENTILES>> = params.optional(2)?;
        let percentiles = percentiles
            .map(|list| list.0)
            .filter(|list| !list.is_empty());
        for (i, p) in percentiles.iter().flatten().enumerate() {
            if !(0.0..=100.0).contains(p) {
                return Err(RpcError::Server(format!("invalid reward percentile: {p}")));
            }
            let before = percentiles.as_ref().and_then(|l| l.get(i.checked_sub(1)?));
            if let Some(before) = before
                && p < before
            {
                return Err(RpcError::Server(format!(
                    "invalid reward percentile: #{}:{before} > #{i}:{p}",
                    i - 1
                )));
            }
        }
        Ok(Self {
            count: count.min(MAX_HISTORY_BLOCKS),
            newest,
            percentiles,
        })
    }

    /// `eth_feeHistory`: base fees of N blocks and of the one that comes next.
    pub(in crate::rpc) fn answer(&self, rpc: &RpcCall) -> Answer {
        let head = rpc.head_height();
        let newest = match self.newest {
            BlockParam::Number(number) if number > head => {
                return Err(RpcError::Server(format!(
                    "request beyond head block: requested {number}, head {head}"
                )));
            }
            block => rpc.height(block)?.ok_or_else(|| unknown_block(block))?,
        };
        let count = self.count.min(newest + 1);
        let mut history = FeeHistory::default();
        if count == 0 {
            return rpc.json(&history);
        }
        history.oldest_block = newest + 1 - count;
        let mut reward = Vec::new();
        let mut next = 0;
        for height in history.oldest_block..=newest {
            rpc.call_deadline.check()?;
            let stored = rpc.block_at(height)?.ok_or_else(|| {
                RpcError::internal(format!("block {height} is missing from the store"))
            })?;
            let header = &stored.block.header;
            let base_fee = header.base_fee_per_gas.unwrap_or_default();
            history.base_fee_per_gas.push(base_fee.into());
            let ratio = header.gas_used as f64 / header.gas_limit.max(1) as f64;
            history.gas_used_ratio.push(ratio);
            history.base_fee_per_blob_gas.push(BLOB_BASE_FEE);
            history.blob_gas_used_ratio.push(0.0);
            if let Some(percentiles) = &self.percentiles {
                reward.push(at_percentiles(rewards(&stored), percentiles));
            }
            next = next_base_fee(header, rpc.chain().spec().base_fee_floor);
        }
        history.base_fee_per_gas.push(next.into());
        history.base_fee_per_blob_gas.push(BLOB_BASE_FEE);
        history.reward = self.percentiles.as_ref().map(|_| reward);
        rpc.json(&history)
    }
}

/// Tips at ascending percentiles of the gas used, as geth reckons them; zeros for an empty block.
fn at_percentiles(mut rewards: Vec<(u128, u64)>, percentiles: &[f64]) -> Vec<u128> {
    rewards.sort_unstable();
    let total: u64 = rewards.iter().map(|(_, gas)| gas).sum();
    let (mut index, mut reached) = (0, rewards.first().map_or(0, |(_, gas)| *gas));
    let mut tips = Vec::with_capacity(percentiles.len());
    for percentile in percentiles {
        let threshold = (total as f64 * percentile / 100.0) as u64;
        while reached < threshold && index + 1 < rewards.len() {
            index += 1;
            reached += rewards[index].1;
        }
        tips.push(rewards.get(index).map_or(0, |(tip, _)| *tip));
    }
    tips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_weigh_by_gas() {
        let rewards = vec![(30, 50_000), (10, 21_000), (20, 29_000)];
        assert_eq!(
            at_percentiles(rewards, &[0.0, 21.0, 22.0, 50.0, 51.0, 100.0]),
            [10, 10, 20, 20, 30, 30]
        );
        assert_eq!(at_percentiles(Vec::new(), &[10.0, 90.0]), [0, 0]);
    }
}
