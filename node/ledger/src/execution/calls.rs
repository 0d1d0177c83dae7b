//! Calls of clients, which change nothing.

use alloy_consensus::Header;
use alloy_primitives::{TxKind, U256};
use revm::{
    ExecuteEvm,
    context::{TxEnv, result::ExecutionResult},
    context_interface::either::Either,
};

use super::{
    CallError, CallOutcome, CallRequest, StateOverrides,
    database::BlockState,
    deadline::{Evm, TimeLimit},
    evm::{OUT_OF_GAS, Refusal, block_env, cfg, evm, halt_reason, refusal},
};
use crate::{
    genesis::ChainSpec,
    state::{FlatState, StateError},
    transaction::TransactionError,
};

/// Gas of a plain transfer.
const TRANSFER_GAS: u64 = 21_000;
/// What a transfer leaves to the contract that it goes to (geth: `CallStipend`).
const CALL_STIPEND: u64 = 2_300;
/// An estimate may be this many thousandths too high (geth: 1.5 %): the search ends sooner.
const ESTIMATE_ERROR_THOUSANDTHS: u64 = 15;

/// Runs a call on the state after the block of `header`, with that block's environment. The state
/// stays as it is.
///
/// As in geth, the nonce is not checked, an account with code may call, and a call that names no
/// fee pays none and sees a base fee of zero.
///
/// # Errors
/// When the call cannot be tried, or the time that `limit` gives is over; one that reverts is an outcome.
#[allow(clippy::too_many_arguments, reason = "the inputs of a call")]
pub fn call(
    spec: &ChainSpec,
    header: &Header,
    state: &dyn FlatState,
    request: &CallRequest,
    overrides: &StateOverrides,
    gas_cap: u64,
    limit: &dyn TimeLimit,
) -> Result<CallOutcome, CallError> {
    let gas = request.gas.unwrap_or(gas_cap).min(gas_cap);
    let mut session = Session::new(spec, header, state, request, overrides, limit)?;
    match session.run(gas) {
        Ok(tried) => Ok(tried.outcome),
        Err(Refusal::State(error)) => Err(error.into()),
        Err(Refusal::Interrupted | Refusal::StateNotRead(_)) => Err(CallError::Interrupted),
        Err(Refusal::Transaction(why)) => Err(CallError::Transaction { why, gas }),
    }
}

/// The least gas limit with which the call succeeds, or up to 1.5 % more, found by bisection as
/// geth does; or how it ends with all the gas that it may have.
///
/// # Errors
/// When the call cannot be tried, or the time that `limit` gives is over.
#[allow(clippy::too_many_arguments, reason = "the inputs of a call")]
pub fn estimate_gas(
    spec: &ChainSpec,
    header: &Header,
    state: &dyn FlatState,
    request: &CallRequest,
    overrides: &StateOverrides,
    gas_cap: u64,
    limit: &dyn TimeLimit,
) -> Result<Result<u64, CallOutcome>, CallError> {
    let mut session = Session::new(spec, header, state, request, overrides, limit)?;
    let mut high = match request.gas {
        Some(gas) if gas >= TRANSFER_GAS => gas,
        _ => header.gas_limit,
    };
    // A transaction with more gas could be in no block.
    if let Some(cap) = spec.rules_at(header.timestamp).transaction_gas_cap() {
        high = high.min(cap);
    }
    let fee_cap = session.tx.gas_price;
    if fee_cap > 0 {
        let balance = session.state().balance(request.from)?;
        let Some(available) = balance.checked_sub(request.value) else {
            return Err(CallError::InsufficientFundsForTransfer);
        };
        high = high.min((available / U256::from(fee_cap)).saturating_to());
    }
    high = high.min(gas_cap);
    if let Some(to) = request.to.filter(|_| request.input.is_empty())
        && !session.state().has_code(to)?
        && session
            .try_with(TRANSFER_GAS)
            .is_ok_and(|tried| tried.is_some())
    {
        return Ok(Ok(TRANSFER_GAS));
    }
    let spent = match session.try_once(high)? {
        None => return Err(CallError::GasAllowance(high)),
        Some(tried) => match tried.outcome {
            CallOutcome::Success { .. } => tried.spent,
            CallOutcome::Halt { reason, .. } if reason == OUT_OF_GAS => {
                return Err(CallError::GasAllowance(high));
            }
            failed => return Ok(Err(failed)),
        },
    };
    let mut low = spent.used.saturating_sub(1);
    // What the call needs while it runs: refunds come at its end, and each call inside it leaves
    // a 64th behind (EIP-150).
    let likely = (spent.at_most.saturating_add(CALL_STIPEND)).saturating_mul(64) / 63;
    if likely < high {
        match session.try_with(likely)? {
            Some(_) => high = likely,
            None => low = low.max(likely),
        }
    }
    while low + 1 < high {
        if (high - low).saturating_mul(1_000) < high.saturating_mul(ESTIMATE_ERROR_THOUSANDTHS) {
            break;
        }
        // Most calls need little more than they use, so the middle is not sought far above that.
        let middle = (low + (high - low) / 2).min(low.saturating_mul(2).max(1));
        match session.try_with(middle)? {
            Some(_) => high = middle,
            None => low = middle,
        }
    }
    Ok(Ok(high))
}

/// How a call ended with one gas limit.
struct Tried {
    outcome: CallOutcome,
    spent: Spent,
}

/// Gas of a call after and before refunds.
#[derive(Clone, Copy)]
struct Spent {
    used: u64,
    at_most: u64,
}

/// One call that can be tried with several gas limits.
struct Session<'a> {
    evm: Evm<'a>,
    tx: TxEnv,
    base_fee: u64,
}

impl<'a> Session<'a> {
    fn new(
        spec: &ChainSpec,
        header: &Header,
        state: &'a dyn FlatState,
        request: &CallRequest,
        overrides: &StateOverrides,
        limit: &'a dyn TimeLimit,
    ) -> Result<Self, CallError> {
        let tx = tx_env(spec, request)?;
        let mut block = block_env(header);
        if tx.gas_price == 0 && tx.gas_priority_fee.unwrap_or_default() == 0 {
            block.basefee = 0;
        }
        let mut cfg = cfg(spec, header);
        cfg.disable_nonce_check = true;
        // As in geth, a call is not bound by EIP-7825; the node's own cap is.
        cfg.tx_gas_limit_cap = Some(u64::MAX);
        cfg.disable_block_gas_limit = true;
        cfg.disable_eip3607 = true;
        let mut db = BlockState::new(state);
        for (address, pretended) in overrides {
            db.pretend(*address, pretended)?;
        }
        let base_fee = block.basefee;
        let evm = evm(cfg, block, db, limit);
        Ok(Self { evm, tx, base_fee })
    }

    fn state(&mut self) -> &mut BlockState<'a> {
        &mut self.evm.ctx.journaled_state.database
    }

    fn run(&mut self, gas_limit: u64) -> Result<Tried, Refusal> {
        let tx = TxEnv {
            gas_limit,
            ..self.tx.clone()
        };
        let done = self.evm.transact(tx);
        let result = done
            .map_err(|error| refusal(error, &self.evm, self.base_fee))?
            .result;
        let spent = Spent {
            used: result.tx_gas_used(),
            at_most: result.gas().total_gas_spent().max(result.tx_gas_used()),
        };
        let gas_used = spent.used;
        let outcome = match result {
            ExecutionResult::Success { logs, output, .. } => CallOutcome::Success {
                output: output.into_data(),
                gas_used,
                logs,
            },
            ExecutionResult::Revert { output, .. } => CallOutcome::Revert { output, gas_used },
            ExecutionResult::Halt { reason, .. } => CallOutcome::Halt {
                reason: halt_reason(&reason).into(),
                gas_used,
            },
        };
        Ok(Tried { outcome, spent })
    }

    /// Tries a gas limit; `None`: it does not even pay for the bytes of the transaction.
    fn try_once(&mut self, gas: u64) -> Result<Option<Tried>, CallError> {
        match self.run(gas) {
            Ok(tried) => Ok(Some(tried)),
            Err(Refusal::State(error)) => Err(error.into()),
            Err(Refusal::Interrupted | Refusal::StateNotRead(_)) => Err(CallError::Interrupted),
            Err(Refusal::Transaction(
                TransactionError::IntrinsicGas { .. } | TransactionError::FloorDataGas { .. },
            )) => Ok(None),
            Err(Refusal::Transaction(why)) => Err(CallError::Estimate { why, gas }),
        }
    }

    /// Tries a gas limit; `None`: it is not enough.
    fn try_with(&mut self, gas: u64) -> Result<Option<()>, CallError> {
        let tried = self.try_once(gas)?;
        Ok(tried
            .filter(|tried| matches!(tried.outcome, CallOutcome::Success { .. }))
            .map(|_| ()))
    }
}

fn tx_env(spec: &ChainSpec, request: &CallRequest) -> Result<TxEnv, CallError> {
    let CallRequest {
        max_fee_per_gas: fee,
        max_priority_fee_per_gas: tip,
        ..
    } = *request;
    let dynamic = fee.is_some() || tip.is_some();
    if dynamic && request.gas_price.is_some() {
        return Err(CallError::Request(
            "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified".into(),
        ));
    }
    let tx_type = if !request.authorization_list.is_empty() {
        4
    } else if dynamic {
        2
    } else if !request.access_list.0.is_empty() {
        1
    } else {
        0
    };
    let authorizations = request.authorization_list.iter().cloned().map(Either::Left);
    Ok(TxEnv {
        tx_type,
        caller: request.from,
        gas_limit: 0,
        gas_price: request.gas_price.or(fee).unwrap_or_default(),
        kind: request.to.map_or(TxKind::Create, TxKind::Call),
        value: request.value,
        data: request.input.clone(),
        nonce: request.nonce.unwrap_or_default(),
        chain_id: Some(spec.chain_id()),
        access_list: request.access_list.clone(),
        gas_priority_fee: (tx_type == 2 || tx_type == 4).then(|| tip.unwrap_or_default()),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: authorizations.collect(),
    })
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}
