//! What a transaction of the tool offers for gas.

use super::{
    accounts::Fees,
    json_rpc::{JsonRpc, RpcError},
};

/// The base fee may double before a transaction waits: six full blocks at the steepest rise of
/// EIP-1559.
const BASE_FEE_HEADROOM: u128 = 2;

/// Fees for a transaction that is sent now.
///
/// # Errors
/// When the node cannot be asked.
pub async fn suggest(node: &JsonRpc) -> Result<Fees, RpcError> {
    let base_fee = node.latest_block().await?.base_fee;
    let tip = u128::from(node.priority_fee().await?);
    Ok(Fees {
        max_fee: base_fee
            .saturating_mul(BASE_FEE_HEADROOM)
            .saturating_add(tip),
        tip,
    })
}
