//! Follows the chain over one connection, and checks receipts afterwards.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use tokio::sync::watch;

use super::{load::Tally, plan::Plan};
use crate::cli::json_rpc::JsonRpc;

/// Receipts that are fetched and checked, at most.
const RECEIPT_SAMPLES: usize = 200;
/// Receipts per request.
const RECEIPT_BATCH: usize = 50;
/// Patience with a node that does not answer.
const RETRY: Duration = Duration::from_millis(50);

/// The blocks of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Blocks seen.
    pub(super) count: usize,
    /// Most transfers of ours in one.
    pub(super) transfers_max: usize,
}

/// Takes note of every block from `next` on until told to stop.
pub(super) async fn follow(
    node: JsonRpc,
    plan: Arc<Plan>,
    tally: Arc<Tally>,
    mut next: u64,
    poll: Duration,
    mut stop: watch::Receiver<bool>,
) -> Blocks {
    let mut blocks = Blocks::default();
    loop {
        let pause = match node.block(next).await {
            Ok(Some(block)) => {
                let indices: Vec<usize> = block
                    .transactions
                    .iter()
                    .filter_map(|hash| plan.by_hash.get(hash).copied())
                    .collect();
                tally.block(Instant::now(), &indices);
                blocks.count += 1;
                blocks.transfers_max = blocks.transfers_max.max(indices.len());
                next += 1;
                Duration::ZERO
            }
            Ok(None) => poll,
            Err(_) => RETRY,
        };
        tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => return blocks,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What became of the receipts that were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Receipts {
    /// Looked at.
    pub(super) checked: usize,
    /// Missing, or of a transfer that failed.
    pub(super) bad: usize,
}

/// Fetches an even sample of the finalised transfers' receipts, each from another node than the
/// one before.
pub(super) async fn check_receipts(targets: &[JsonRpc], plan: &Plan, tally: &Tally) -> Receipts {
    let finalised: Vec<B256> = tally
        .seen()
        .iter()
        .zip(&plan.transfers)
        .filter_map(|(seen, transfer)| seen.map(|_| transfer.hash))
        .collect();
    let step = finalised.len().div_ceil(RECEIPT_SAMPLES).max(1);
    let sample: Vec<B256> = finalised.into_iter().step_by(step).collect();
    let mut receipts = Receipts::default();
    for (chunk, target) in sample.chunks(RECEIPT_BATCH).zip(targets.iter().cycle()) {
        receipts.checked += chunk.len();
        receipts.bad += match target.receipts(chunk).await {
            Ok(found) => found
                .iter()
                .filter(|receipt| !receipt.as_ref().is_some_and(|r| r.success))
                .count(),
            Err(_) => chunk.len(),
        };
    }
    receipts
}
