//! The deterministic ledger of Axolotl: blocks, genesis, EVM execution, state roots.
//!
//! A block goes in, and the header that it must have, its receipts and the difference that it
//! makes to the state come out. There is no clock, no randomness and no I/O here: time and state
//! are arguments, and the same arguments give the same block on every validator.
//!
//! Blocks, transactions, receipts and the state trie are Ethereum's at the rules of Prague or Osaka
//! ([`rules`]), so that clients can recompute every hash. The deviations:
//! - Several blocks may bear the same timestamp; it only must not fall.
//! - The base fee never falls below a floor of the chain ([`base_fee`]).
//! - `extraData` holds the builder's Ed25519 key (in block 0 the hash of the genesis document),
//!   and `miner` is derived from it ([`block::beneficiary_of`]).
//! - `mixHash` (PREVRANDAO) is derived from parent hash and number: it is not random.
//! - Blob transactions are refused, and there are no withdrawals.
//! - The bytes of logs in a block have a limit of the chain ([`ChainSpec::max_log_bytes`]).
//! - The only EIP-7685 request is an epoch record of Axolotl ([`block::RECORD_REQUEST_TYPE`]).
//! - The EIP-2935 history contract is part of every genesis: `BLOCKHASH` is answered from it, so
//!   that execution depends on nothing but the parent's header and state.

pub mod base_fee;
pub mod block;
pub mod execution;
pub mod genesis;
mod parts;
pub mod receipts;
pub mod rules;
pub mod state;
pub mod transaction;

pub use base_fee::next_base_fee;
pub use block::{Block, BlockError};
pub use execution::{
    BlockAttributes, CallError, CallOutcome, CallRequest, DueRecord, ExecutedBlock, ExecutionError,
    Governance, Interruption, InvalidBlock, StateOverride, StateOverrides, TimeLimit, TxSource,
    Unlimited, build_block, call, check_members, check_request, estimate_gas, execute_block,
};
pub use genesis::{ChainSpec, FieldFault, GenesisError};
pub use parts::{read_header, read_planned};
pub use receipts::Receipt;
pub use rules::{ForkFault, Rules};
pub use state::{
    Account, FlatState, MemoryState, Overlay, RootCache, RootCost, RootDelta, RootEstimate,
    StateDiff, StateError, state_root_from_scratch,
};
pub use transaction::{Transaction, TransactionError, Tx};
