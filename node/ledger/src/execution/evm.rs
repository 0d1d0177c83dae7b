//! The EVM at the rules of a block: its environment, transactions, and errors in geth's words.

use alloy_consensus::{Header, Transaction as _};
use alloy_eips::eip2930::AccessList;
use alloy_primitives::{B256, U256};
use revm::{
    context::{
        BlockEnv, CfgEnv, Context, Journal, TxEnv,
        result::{EVMError, HaltReason, InvalidTransaction},
    },
    context_interface::{block::BlobExcessGasAndPrice, cfg::GasParams, either::Either},
    primitives::{
        eip4844::BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE, eip7825::TX_GAS_LIMIT_CAP, hardfork::SpecId,
    },
};

use axolotl_common::limits::TRANSACTION_GAS_CAP;

use super::{
    database::BlockState,
    deadline::{Evm, Meter, TimeLimit, limited_evm},
};
use crate::{
    genesis::ChainSpec,
    rules::Rules,
    state::StateError,
    transaction::{MAX_INITCODE_BYTES, Transaction, TransactionError},
};

const _: () = assert!(TRANSACTION_GAS_CAP == TX_GAS_LIMIT_CAP);
/// How geth names the failure that more gas may cure.
pub(super) const OUT_OF_GAS: &str = "out of gas";

/// An EVM for the block with this header, which stops when `limit` says so.
pub(super) fn evm<'a>(
    cfg: CfgEnv,
    block: BlockEnv,
    state: BlockState<'a>,
    limit: &'a dyn TimeLimit,
) -> Evm<'a> {
    let context =
        Context::<BlockEnv, TxEnv, CfgEnv, _, Journal<BlockState<'a>>, ()>::new(state, cfg.spec);
    limited_evm(
        context
            .with_cfg(cfg)
            .with_block(block)
            .with_chain(Meter::new(limit)),
    )
}

/// The rules of the block with this header.
pub(super) fn cfg(spec: &ChainSpec, header: &Header) -> CfgEnv {
    let rules = spec.rules_at(header.timestamp);
    CfgEnv::new_with_spec(spec_id(rules)).with_chain_id(spec.chain_id())
}

fn spec_id(rules: Rules) -> SpecId {
    match rules {
        Rules::Prague => SpecId::PRAGUE,
        Rules::Osaka => SpecId::OSAKA,
    }
}

pub(super) fn block_env(header: &Header) -> BlockEnv {
    BlockEnv {
        number: U256::from(header.number),
        beneficiary: header.beneficiary,
        timestamp: U256::from(header.timestamp),
        gas_limit: header.gas_limit,
        basefee: header.base_fee_per_gas.unwrap_or_default(),
        difficulty: U256::ZERO,
        prevrandao: Some(header.mix_hash),
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice::new(
            header.excess_blob_gas.unwrap_or_default(),
            BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE,
        )),
        ..BlockEnv::default()
    }
}

pub(super) fn tx_env(tx: &Transaction) -> TxEnv {
    let envelope = tx.envelope();
    let recovered = tx.authorizations().iter().cloned().map(Either::Right);
    TxEnv {
        tx_type: envelope.tx_type().into(),
        caller: tx.sender(),
        gas_limit: envelope.gas_limit(),
        gas_price: envelope.max_fee_per_gas(),
        kind: envelope.kind(),
        value: envelope.value(),
        data: envelope.input().clone(),
        nonce: envelope.nonce(),
        chain_id: envelope.chain_id(),
        access_list: envelope.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: envelope.max_priority_fee_per_gas(),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: recovered.collect(),
    }
}

/// Gas that a transaction needs for being one, and the least that it pays for its data (EIP-7623).
pub(crate) fn intrinsic_gas(tx: &Transaction, rules: Rules) -> (u64, u64) {
    let envelope = tx.envelope();
    let no_list = AccessList::default();
    let list = envelope.access_list().unwrap_or(&no_list);
    let gas = GasParams::new_spec(spec_id(rules)).initial_tx_gas(
        envelope.input(),
        envelope.is_create(),
        list.0.len() as u64,
        list.storage_keys_count() as u64,
        tx.authorizations().len() as u64,
        None,
    );
    (gas.initial_total_gas(), gas.floor_gas())
}

/// Why revm did not execute a transaction.
pub(super) enum Refusal {
    /// It is not valid.
    Transaction(TransactionError),
    /// The store failed.
    State(StateError),
    /// The time was over.
    Interrupted,
    /// The tries of these storages are not in memory, and reading them takes longer than the time left.
    StateNotRead(Vec<B256>),
}

/// Why `evm` did not execute the transaction that it holds.
pub(super) fn refusal(
    error: EVMError<StateError, InvalidTransaction>,
    evm: &Evm<'_>,
    base_fee: u64,
) -> Refusal {
    if evm.ctx.chain.interrupted {
        return Refusal::Interrupted;
    }
    let tx = &evm.ctx.tx;
    match error {
        EVMError::Database(error) => Refusal::State(error),
        EVMError::Transaction(error) => Refusal::Transaction(in_geths_words(error, tx, base_fee)),
        // Nothing in the environment or in the store can cause these: it is the transaction.
        other => Refusal::Transaction(TransactionError::Other(other.to_string())),
    }
}

fn in_geths_words(error: InvalidTransaction, tx: &TxEnv, base_fee: u64) -> TransactionError {
    use InvalidTransaction as Revm;
    let sender = tx.caller;
    match error {
        Revm::PriorityFeeGreaterThanMaxFee => TransactionError::TipAboveFeeCap {
            sender,
            tip: tx.gas_priority_fee.unwrap_or_default(),
            fee_cap: tx.gas_price,
        },
        Revm::GasPriceLessThanBasefee => TransactionError::FeeCapTooLow {
            sender,
            fee_cap: tx.gas_price,
            base_fee,
        },
        Revm::CallerGasLimitMoreThanBlock => TransactionError::ExceedsBlockGasLimit,
        Revm::TxGasLimitGreaterThanCap { gas_limit, cap } => {
            TransactionError::GasLimitTooHigh { cap, tx: gas_limit }
        }
        Revm::CallGasCostMoreThanGasLimit {
            initial_gas,
            gas_limit,
        } => TransactionError::IntrinsicGas {
            have: gas_limit,
            want: initial_gas,
        },
        Revm::GasFloorMoreThanGasLimit {
            gas_floor,
            gas_limit,
        } => TransactionError::FloorDataGas {
            have: gas_limit,
            want: gas_floor,
        },
        Revm::RejectCallerWithCode => TransactionError::SenderNotEoa { sender },
        Revm::LackOfFundForMaxFee { fee, balance } => TransactionError::InsufficientFunds {
            sender,
            have: *balance,
            want: *fee,
        },
        Revm::OverflowPaymentInTransaction => TransactionError::CostOverflow { sender },
        Revm::NonceOverflowInTransaction => TransactionError::NonceMax {
            sender,
            nonce: tx.nonce,
        },
        Revm::NonceTooHigh { tx, state } => TransactionError::NonceTooHigh { sender, tx, state },
        Revm::NonceTooLow { tx, state } => TransactionError::NonceTooLow { sender, tx, state },
        Revm::CreateInitCodeSizeLimit => TransactionError::InitCodeTooLarge {
            size: tx.data.len(),
            limit: MAX_INITCODE_BYTES,
        },
        Revm::EmptyAuthorizationList => TransactionError::EmptyAuthorizationList { sender },
        other => TransactionError::Other(other.to_string()),
    }
}

/// Why a call failed, in geth's words.
pub(super) fn halt_reason(reason: &HaltReason) -> &'static str {
    match reason {
        HaltReason::OutOfGas(_) => OUT_OF_GAS,
        HaltReason::OpcodeNotFound | HaltReason::NotActivated => "invalid opcode",
        HaltReason::InvalidFEOpcode => "invalid opcode: INVALID",
        HaltReason::InvalidJump => "invalid jump destination",
        HaltReason::StackUnderflow => "stack underflow",
        HaltReason::StackOverflow => "stack limit reached 1024 (1023)",
        HaltReason::OutOfOffset => "return data out of bounds",
        HaltReason::CreateCollision => "contract address collision",
        HaltReason::PrecompileError | HaltReason::PrecompileErrorWithContext(_) => {
            "precompile failed"
        }
        HaltReason::NonceOverflow => "nonce uint64 overflow",
        HaltReason::CreateContractSizeLimit => "max code size exceeded",
        HaltReason::CreateContractStartingWithEF => "invalid code: must not begin with 0xef",
        HaltReason::CreateInitCodeSizeLimit => "max initcode size exceeded",
        HaltReason::OverflowPayment => "gas uint64 overflow",
        HaltReason::StateChangeDuringStaticCall | HaltReason::CallNotAllowedInsideStatic => {
            "write protection"
        }
        HaltReason::OutOfFunds => "insufficient balance for transfer",
        HaltReason::CallTooDeep => "max call depth exceeded",
    }
}
