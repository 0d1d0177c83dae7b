//! One sender's transactions, and the keys by which senders are ordered.

use std::{cmp::Reverse, collections::BTreeMap};

use alloy_primitives::{Address, U256};
use axolotl_ledger::Tx;

use super::limits::SenderState;

/// About what a transaction takes in the pool beside twice its bytes.
pub(super) const TX_OVERHEAD_BYTES: usize = 900;

/// What a transaction pays at a base fee; negative when its fee cap is below.
pub(super) fn price(tx: &Tx, base_fee: u64) -> i128 {
    let cap = i128::try_from(tx.max_fee_per_gas()).unwrap_or(i128::MAX);
    let tip = i128::try_from(tx.max_priority_fee_per_gas()).unwrap_or(i128::MAX);
    tip.min(cap - i128::from(base_fee))
}

/// About what a transaction takes in memory.
pub(super) fn size_of(tx: &Tx) -> usize {
    TX_OVERHEAD_BYTES + 2 * tx.raw().len()
}

/// Place of a sender among those with something executable: ascending is best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HeadKey {
    pub(super) price: Reverse<i128>,
    pub(super) seq: u64,
    pub(super) sender: Address,
}

/// Place of a sender's last transaction: ascending is first to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TailKey {
    pub(super) executable: bool,
    pub(super) price: i128,
    pub(super) seq: Reverse<u64>,
    pub(super) sender: Address,
}

#[derive(Clone, Debug)]
pub(super) struct Pooled {
    pub(super) tx: Tx,
    /// Order of arrival.
    pub(super) seq: u64,
    pub(super) empty_blocks: u32,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) state: SenderState,
    pub(super) txs: BTreeMap<u64, Pooled>,
    /// Most that all of them can cost.
    pub(super) cost: U256,
    /// First nonce that is not executable.
    pub(super) ready: u64,
    pub(super) head: Option<HeadKey>,
    pub(super) tail: Option<TailKey>,
}

impl Queue {
    pub(super) fn advance_ready(&mut self) {
        self.ready = self.ready.max(self.state.nonce);
        while self.txs.contains_key(&self.ready) {
            self.ready += 1;
        }
    }
}
