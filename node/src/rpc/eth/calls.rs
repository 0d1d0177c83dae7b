//! Calls of the EVM that change nothing.

use std::collections::BTreeMap;

use alloy_eips::{eip2930::AccessList, eip7702::SignedAuthorization};
use alloy_primitives::{Address, B256, Bytes, U64};
use axolotl_ledger::{
    CallError, CallOutcome, CallRequest, StateOverride, StateOverrides, call, estimate_gas,
};
use serde::Deserialize;

use crate::rpc::{
    Answer, Rpc,
    call::RpcCall,
    error::RpcError,
    params::{AddressParam, BlockParam, Data, Params, Price, Quantity, Word},
};

/// A call as clients describe it; unknown members are ignored, as geth does.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Description {
    from: Option<AddressParam>,
    to: Option<AddressParam>,
    gas: Option<Quantity>,
    gas_price: Option<Price>,
    max_fee_per_gas: Option<Price>,
    max_priority_fee_per_gas: Option<Price>,
    value: Option<Word>,
    nonce: Option<Quantity>,
    data: Option<Data>,
    input: Option<Data>,
    chain_id: Option<Quantity>,
    access_list: Option<AccessList>,
    authorization_list: Option<Vec<SignedAuthorization>>,
    blob_versioned_hashes: Option<Vec<B256>>,
}

impl Description {
    fn into_request(self, chain_id: u64) -> Result<CallRequest, RpcError> {
        let wrong = |text: String| Err(RpcError::Server(text));
        if self.gas_price.is_some()
            && (self.max_fee_per_gas.is_some() || self.max_priority_fee_per_gas.is_some())
        {
            return wrong(
                "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified".into(),
            );
        }
        if let (Some(fee), Some(tip)) = (&self.max_fee_per_gas, &self.max_priority_fee_per_gas)
            && fee < tip
        {
            return wrong(format!(
                "maxFeePerGas ({:#x}) < maxPriorityFeePerGas ({:#x})",
                fee.0, tip.0
            ));
        }
        if let Some(Quantity(have)) = self.chain_id
            && have != chain_id
        {
            return wrong(format!(
                "chainId does not match node's (have={have}, want={chain_id})"
            ));
        }
        if self.blob_versioned_hashes.is_some_and(|h| !h.is_empty()) {
            return wrong("transaction type not supported".into());
        }
        if let (Some(data), Some(input)) = (&self.data, &self.input)
            && data != input
        {
            return wrong(
                "both \"data\" and \"input\" are set and not equal. Please use \"input\" to pass transaction call data"
                    .into(),
            );
        }
        let price = |price: Option<Price>| price.map(|price| price.0);
        Ok(CallRequest {
            from: self.from.map_or(Address::ZERO, |from| from.0),
            to: self.to.map(|to| to.0),
            gas: self.gas.map(|gas| gas.0),
            gas_price: price(self.gas_price),
            max_fee_per_gas: price(self.max_fee_per_gas),
            max_priority_fee_per_gas: price(self.max_priority_fee_per_gas),
            value: self.value.map_or_else(Default::default, |value| value.0),
            input: self
                .input
                .or(self.data)
                .map_or_else(Bytes::new, |data| data.0),
            nonce: self.nonce.map(|nonce| nonce.0),
            access_list: self.access_list.unwrap_or_default(),
            authorization_list: self.authorization_list.unwrap_or_default(),
        })
    }
}

/// What a call pretends about one account. An unknown member is refused: ignoring it would give
/// an answer to another question.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Pretended {
    balance: Option<Word>,
    nonce: Option<Quantity>,
    code: Option<Data>,
    state: Option<BTreeMap<B256, B256>>,
    state_diff: Option<BTreeMap<B256, B256>>,
}

/// A call that was read but not run.
pub(in crate::rpc) struct Call {
    request: CallRequest,
    overrides: StateOverrides,
    block: BlockParam,
}

impl Call {
    /// Reads the parameters of `eth_call` and `eth_estimateGas`.
    pub(in crate::rpc) fn read(rpc: &Rpc, params: &Params<'_>) -> Result<Self, RpcError> {
        params.at_most(4)?;
        let description: Description = params.object(0)?;
        let block = params.optional(1)?.unwrap_or_default();
        let pretended: BTreeMap<Address, Pretended> = params.optional(2)?.unwrap_or_default();
        if params.is_given(3) {
            return Err(RpcError::InvalidParams(
                "invalid argument 3: block overrides are not supported".into(),
            ));
        }
        let mut overrides = StateOverrides::new();
        for (address, account) in pretended {
            if account.state.is_some() && account.state_diff.is_some() {
                return Err(RpcError::Server(format!(
                    "account {address} has both 'state' and 'stateDiff'"
                )));
            }
            let account = StateOverride {
                balance: account.balance.map(|balance| balance.0),
                nonce: account.nonce.map(|nonce| nonce.0),
                code: account.code.map(|code| code.0),
                state: account.state,
                state_diff: account.state_diff,
            };
            overrides.insert(address, account);
        }
        Ok(Self {
            request: description.into_request(rpc.chain().spec().chain_id())?,
            overrides,
            block,
        })
    }

    /// `eth_call`.
    pub(in crate::rpc) fn call(&self, rpc: &RpcCall) -> Answer {
        let view = rpc.view(self.block)?;
        let outcome = call(
            rpc.chain().spec(),
            &view.header,
            view.state.as_ref(),
            &self.request,
            &self.overrides,
            rpc.limits().call_gas_cap,
            &rpc.call_deadline,
        );
        match outcome.map_err(|error| refused(rpc, error))? {
            CallOutcome::Success { output, .. } => {
                bounded(rpc, &output)?;
                rpc.json(&output)
            }
            failed => Err(ended_badly(rpc, failed)),
        }
    }

    /// `eth_estimateGas`.
    pub(in crate::rpc) fn estimate(&self, rpc: &RpcCall) -> Answer {
        let view = rpc.view(self.block)?;
        let estimate = estimate_gas(
            rpc.chain().spec(),
            &view.header,
            view.state.as_ref(),
            &self.request,
            &self.overrides,
            rpc.limits().call_gas_cap,
            &rpc.call_deadline,
        );
        match estimate.map_err(|error| refused(rpc, error))? {
            Ok(gas) => rpc.json(&U64::from(gas)),
            Err(outcome) => Err(ended_badly(rpc, outcome)),
        }
    }
}

fn refused(rpc: &Rpc, error: CallError) -> RpcError {
    match error {
        CallError::State(cause) => RpcError::internal(cause),
        // geth's words.
        CallError::Interrupted => RpcError::Server(format!(
            "execution aborted (timeout = {:?})",
            rpc.limits().call_timeout
        )),
        error => RpcError::Server(error.to_string()),
    }
}

/// Refuses output that is larger than a call may return.
fn bounded(rpc: &Rpc, output: &Bytes) -> Result<(), RpcError> {
    let most = rpc.limits().max_call_output_bytes;
    if output.len() > most {
        return Err(RpcError::Limit(format!(
            "limit exceeded: the call returned {} bytes, the most are {most}; ask for less at once",
            output.len()
        )));
    }
    Ok(())
}

fn ended_badly(rpc: &Rpc, outcome: CallOutcome) -> RpcError {
    match outcome {
        CallOutcome::Revert { output, .. } => match bounded(rpc, &output) {
            Ok(()) => RpcError::reverted(output),
            Err(error) => error,
        },
        CallOutcome::Halt { reason, .. } => RpcError::Server(reason),
        CallOutcome::Success { .. } => RpcError::internal("a success was taken for a failure"),
    }
}
