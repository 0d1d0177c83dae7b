//! Execution: the only user of revm.
//!
//! [`build_block`] fills a block from a source of transactions, [`execute_block`] checks one that
//! another validator built; both give the same [`ExecutedBlock`] for the same block. [`call`] and
//! [`estimate_gas`] run a client's call on a state without changing it.

mod blocks;
mod calls;
mod database;
mod deadline;
mod evm;
mod records;

use std::collections::BTreeMap;

use alloy_eips::{eip2930::AccessList, eip7702::SignedAuthorization};
use alloy_primitives::{Address, B256, Bytes, Log, U256};
use axolotl_common::PublicKey;

use crate::{
    block::Block,
    receipts::Receipt,
    state::{RootDelta, StateDiff, StateError},
    transaction::{TransactionError, Tx},
};

pub use blocks::{build_block, execute_block};
pub use calls::{call, estimate_gas};
pub use deadline::{TimeLimit, Unlimited};
pub use records::{DueRecord, Governance, check_members, check_request};

pub(crate) use evm::intrinsic_gas;

/// What the builder of a block decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockAttributes {
    /// Seconds since 1970; not below the parent's.
    pub timestamp: u64,
    /// Who builds the block.
    pub builder: PublicKey,
    /// EIP-7685 requests. Those that the block may not carry are left out of it.
    pub requests: Vec<Bytes>,
}

/// Where a block's transactions come from, best first.
pub trait TxSource {
    /// The next transaction to try, or `None` when there is none left.
    fn next(&mut self) -> Option<Tx>;

    /// The transaction just handed out does not fit or is invalid: give none of its sender any
    /// more for this block.
    fn skip_sender(&mut self, tx: &Tx, why: &str);

    /// The execution of the transaction just handed out did not end in its time: it is not in the block.
    fn interrupted(&mut self, tx: &Tx, why: Interruption);

    /// The transaction just handed out can be in no block of the chain any more: give none of its sender
    /// for this block, and do not keep it.
    fn discard(&mut self, tx: &Tx, why: &TransactionError) {
        self.skip_sender(tx, &why.to_string());
    }
}

/// Why a transaction was left out of a block for want of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// Its execution did not end.
    Execution,
    /// It changes storage whose trie is not in memory, and reading that takes longer than the time that
    /// was left. What could be read meanwhile is kept, so that the next attempt gets further.
    State,
}

/// A block with everything that follows from it. Nothing of it is stored or applied yet.
#[derive(Clone, Debug)]
pub struct ExecutedBlock {
    /// The block.
    pub block: Block,
    /// Its hash.
    pub hash: B256,
    /// Its encoding.
    pub bytes: Bytes,
    /// What became of its transactions, in their order.
    pub receipts: Vec<Receipt>,
    /// What it changes in the state.
    pub diff: StateDiff,
    /// What it changes in the cache of roots.
    pub roots: RootDelta,
}

/// Why a block is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBlock {
    /// A field of the header is not what it must be.
    #[error("header field `{field}`: found {found}, expected {expected}")]
    Header {
        /// JSON-RPC's name of the field.
        field: &'static str,
        /// What is there.
        found: String,
        /// What must be there.
        expected: String,
    },
    /// It is too long.
    #[error("{size} bytes long, {limit} allowed")]
    TooLong {
        /// Its size without the record that it carries, bytes.
        size: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// Its transactions log too much.
    #[error("{size} bytes of logs up to transaction {index}, {limit} allowed")]
    LogsTooLong {
        /// Place of the transaction that is one too many.
        index: usize,
        /// Bytes of logs up to and with it.
        size: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// One of its requests is not valid.
    #[error("request: {0}")]
    Request(String),
    /// One of its transactions is not valid at its place.
    #[error("transaction {index} ({hash}): {why}")]
    Transaction {
        /// Its place in the block.
        index: usize,
        /// Its hash.
        hash: B256,
        /// What is wrong with it.
        why: Box<TransactionError>,
    },
}

/// Why a block was not executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecutionError {
    /// The block is at fault, and so is who sent it.
    #[error("invalid block: {0}")]
    Invalid(#[from] InvalidBlock),
    /// The store failed: fatal.
    #[error(transparent)]
    State(#[from] StateError),
    /// The time was over. Says nothing about the block.
    #[error("interrupted: the time limit was reached")]
    Interrupted,
}

/// A client's call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRequest {
    /// Caller.
    pub from: Address,
    /// Callee; without one, `input` creates a contract.
    pub to: Option<Address>,
    /// Gas limit; by default, and at most, the cap.
    pub gas: Option<u64>,
    /// Price of types 0 and 1, wei per gas.
    pub gas_price: Option<u128>,
    /// Fee cap, wei per gas.
    pub max_fee_per_gas: Option<u128>,
    /// Tip, wei per gas.
    pub max_priority_fee_per_gas: Option<u128>,
    /// Wei.
    pub value: U256,
    /// Call data, or creation code.
    pub input: Bytes,
    /// Nonce; by default the account's. It is not checked.
    pub nonce: Option<u64>,
    /// EIP-2930 access list.
    pub access_list: AccessList,
    /// EIP-7702 authorizations.
    pub authorization_list: Vec<SignedAuthorization>,
}

/// What a call pretends about an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateOverride {
    /// Balance, wei.
    pub balance: Option<U256>,
    /// Nonce.
    pub nonce: Option<u64>,
    /// Code.
    pub code: Option<Bytes>,
    /// The whole storage: slots that are not in it are zero. Not together with `state_diff`.
    pub state: Option<BTreeMap<B256, B256>>,
    /// Some slots.
    pub state_diff: Option<BTreeMap<B256, B256>>,
}

/// What a call pretends, by account.
pub type StateOverrides = BTreeMap<Address, StateOverride>;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It returned.
    Success {
        /// What it returned; of a creation, the contract's code.
        output: Bytes,
        /// Gas that it used, after refunds.
        gas_used: u64,
        /// What was logged.
        logs: Vec<Log>,
    },
    /// It reverted.
    Revert {
        /// The reason, ABI-encoded if the contract follows the custom.
        output: Bytes,
        /// Gas that it used.
        gas_used: u64,
    },
    /// It failed, and all gas is used.
    Halt {
        /// In geth's words.
        reason: String,
        /// Gas that it used.
        gas_used: u64,
    },
}

/// Why a call could not be tried. The words are geth's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// As a transaction it would not be valid.
    #[error("err: {why} (supplied gas {gas})")]
    Transaction {
        /// What is wrong.
        why: TransactionError,
        /// Gas limit that it was tried with.
        gas: u64,
    },
    /// As a transaction it would not be valid, whatever its gas limit.
    #[error("failed with {gas} gas: {why}")]
    Estimate {
        /// What is wrong.
        why: TransactionError,
        /// Gas limit that it was tried with.
        gas: u64,
    },
    /// No gas limit that caller and node allow is enough.
    #[error("gas required exceeds allowance ({0})")]
    GasAllowance(u64),
    /// The caller has less than it wants to transfer.
    #[error("insufficient funds for transfer")]
    InsufficientFundsForTransfer,
    /// Fields of the request contradict each other.
    #[error("{0}")]
    Request(String),
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The time was over.
    #[error("execution aborted (timeout)")]
    Interrupted,
}
