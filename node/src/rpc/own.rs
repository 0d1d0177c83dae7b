//! Axolotl's own methods, and those of `net` and `web3`.

use alloy_primitives::{U64, keccak256};
use axolotl_common::{Epoch, Hash, Member, QuorumRule};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Answer,
    call::RpcCall,
    params::{BlockParam, Data, Params},
};

/// `web3_clientVersion`, in the form that clients take apart.
pub(super) fn client_version(rpc: &RpcCall) -> Answer {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let version = env!("CARGO_PKG_VERSION");
    rpc.json(&format!("Axolotl/v{version}/{os}-{arch}"))
}

/// `web3_sha3`: Keccak-256.
pub(super) fn sha3(rpc: &RpcCall, params: &Params<'_>) -> Answer {
    params.at_most(1)?;
    let Data(data) = params.required(0)?;
    rpc.json(&keccak256(data))
}

/// `net_peerCount`.
pub(super) fn peer_count(rpc: &RpcCall) -> Answer {
    rpc.json(&U64::from((rpc.context.status)().peers))
}

/// `eth_syncing`: `false`, or how far the node is.
pub(super) fn syncing(rpc: &RpcCall) -> Answer {
    if !(rpc.context.status)().syncing {
        return rpc.json(&false);
    }
    let current = rpc.head_height();
    let highest = (rpc.context.highest_known)().0.max(current);
    rpc.json(&json!({
        "startingBlock": U64::ZERO,
        "currentBlock": U64::from(current),
        "highestBlock": U64::from(highest),
    }))
}

/// `axolotl_status`: the node's own view of itself, as on its HTTP port.
pub(super) fn status(rpc: &RpcCall) -> Answer {
    rpc.json(&(rpc.context.status)())
}

/// `axolotl_getCommitCertificate`: the votes that make a block final; `null` for block 0, for blocks
/// that are not there, and for one that a recovery or forced record adopted: the block above it carries
/// that record.
pub(super) fn commit_certificate(rpc: &RpcCall, block: BlockParam) -> Answer {
    let stored = rpc.block(block)?;
    rpc.json(&stored.and_then(|stored| stored.proof.as_ref()?.certificate().cloned()))
}

/// The validators of the epoch that decides the next block.
#[derive(Serialize)]
struct Membership<'a> {
    epoch: Epoch,
    record_hash: Hash,
    quorum_rule: QuorumRule,
    quorum: usize,
    validators: &'a [Member],
}

/// `axolotl_getMembership`.
pub(super) fn membership(rpc: &RpcCall) -> Answer {
    let head = rpc.chain().head();
    let set = &head.validators;
    rpc.json(&Membership {
        epoch: set.epoch(),
        record_hash: set.record_hash(),
        quorum_rule: set.rule(),
        quorum: set.quorum(),
        validators: set.members(),
    })
}

/// `rpc_modules`.
pub(super) fn modules(rpc: &RpcCall) -> Answer {
    let version = Value::from("1.0");
    rpc.json(&json!({ "axolotl": version, "eth": version, "net": version, "web3": version }))
}
