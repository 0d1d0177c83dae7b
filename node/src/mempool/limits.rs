//! Bounds and errors of the pool.

use alloy_primitives::U256;
use axolotl_ledger::TransactionError;

use super::{interrupted::InterruptReason, journal::JournalFailure};

/// Bounds of the pool. Each names what happens beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MempoolLimits {
    /// Transactions in all: the cheapest last one of a sender makes room for a dearer newcomer.
    pub max_count: usize,
    /// Memory in all, bytes, estimated: as above.
    pub max_bytes: usize,
    /// Transactions of one sender: more are refused.
    pub max_per_sender: usize,
    /// How far a nonce may lie above the account's: further ones are refused.
    pub max_nonce_gap: u64,
}

impl Default for MempoolLimits {
    fn default() -> Self {
        Self {
            max_count: 16_384,
            max_bytes: 24 << 20,
            max_per_sender: 2_048,
            max_nonce_gap: 2_048,
        }
    }
}

/// Who brought a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client of this node.
    Local,
    /// Another node.
    Peer,
    /// This node's journal: it was in the pool before. Followers of the pool are not notified again, and
    /// it is not written again.
    Returned,
}

/// What the pool must know of an account: from the state at the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderState {
    /// Next nonce.
    pub nonce: u64,
    /// Balance, wei.
    pub balance: U256,
}

/// Why a transaction was not taken. The words are geth's where geth has them: clients match on them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MempoolError {
    /// It is in the pool.
    #[error("already known")]
    AlreadyKnown,
    /// It can never be in a block.
    #[error(transparent)]
    Invalid(#[from] TransactionError),
    /// The nonce is used.
    #[error("nonce too low: next nonce {next}, tx nonce {nonce}")]
    NonceTooLow {
        /// Next nonce of the account.
        next: u64,
        /// Nonce of the transaction.
        nonce: u64,
    },
    /// The nonce is too far ahead.
    #[error("nonce too high: next nonce {next}, tx nonce {nonce}, at most {gap} ahead")]
    NonceTooHigh {
        /// Next nonce of the account.
        next: u64,
        /// Nonce of the transaction.
        nonce: u64,
        /// How far it may be ahead.
        gap: u64,
    },
    /// The account cannot pay.
    #[error(
        "insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, overshot {}",
        cost.saturating_sub(*balance)
    )]
    InsufficientFunds {
        /// Balance of the account, wei.
        balance: U256,
        /// Most that the transaction can cost, wei.
        cost: U256,
    },
    /// The account cannot pay for all that it has in the pool.
    #[error(
        "insufficient funds for gas * price + value: balance {balance}, queued cost {queued}, tx cost {cost}, overshot {}",
        queued.saturating_add(*cost).saturating_sub(*balance)
    )]
    Overdraft {
        /// Balance of the account, wei.
        balance: U256,
        /// Most that its other transactions can cost, wei.
        queued: U256,
        /// Most that the transaction can cost, wei.
        cost: U256,
    },
    /// The fee cap is below the lowest base fee that the chain ever has.
    #[error("transaction underpriced: max fee per gas {fee_cap}, minimum base fee {floor}")]
    Underpriced {
        /// Its fee cap, wei per gas.
        fee_cap: u128,
        /// Lowest base fee, wei per gas.
        floor: u64,
    },
    /// It pays too little more than the one that it would replace.
    #[error("replacement transaction underpriced")]
    ReplacementUnderpriced,
    /// The sender has too many in the pool.
    #[error("account limit exceeded: {0} transactions of this sender are in the pool")]
    SenderLimit(usize),
    /// The pool is full of transactions that pay no less.
    #[error("txpool is full")]
    Full,
    /// Its execution does not end in time on this node.
    #[error(
        "transaction set aside by this node: {0}; it may still be included by another validator until its nonce is used"
    )]
    SetAside(InterruptReason),
    /// What this node accepts now would not outlive its process.
    #[error(
        "transaction not accepted: this node's journal of accepted transactions cannot be written: {0}; send it to another node, or again later"
    )]
    Journal(#[from] JournalFailure),
}

impl MempoolError {
    /// Whether whoever sent it can be blamed: it can never have been valid.
    pub fn is_senders_fault(&self) -> bool {
        matches!(self, Self::Invalid(_))
    }

    /// Whether another head, or a pool with more room, may take the same transaction.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NonceTooHigh { .. }
                | Self::InsufficientFunds { .. }
                | Self::Overdraft { .. }
                | Self::SenderLimit(_)
                | Self::Full
        )
    }
}
