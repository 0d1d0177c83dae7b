//! Errors of the registry and the node: RFC 9457 problem documents, and the kinds that programs act on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    crypto::{KeyPair, PublicKey, Signature, domain, sign_bytes},
    ids::ProcessId,
};

/// The registry does not know the calling key: register (again).
pub const UNKNOWN_NODE: &str = "/problems/unknown-node";
/// A key that the registry does not know needs the join token.
pub const JOIN_TOKEN: &str = "/problems/join-token";
/// The clocks differ too much.
pub const CLOCK: &str = "/problems/clock";
/// The caller's request was seen before, or is older than one that was.
pub const REPLAY: &str = "/problems/replay";
/// Another process has the caller's key: it lives, or its directory was started more often. The
/// authority signs for it.
pub const OTHER_PROCESS: &str = "/problems/other-process";
/// The caller belongs to another chain than the registry's.
pub const OTHER_CHAIN: &str = "/problems/other-chain";
/// The registry's store is empty although a chain exists.
pub const STORE_LOST: &str = "/problems/store-lost";
/// The wished label belongs to a living node.
pub const LABEL_TAKEN: &str = "/problems/label-taken";
/// A number outside of the limits.
pub const LIMITS: &str = "/problems/limits";
/// The change would leave fewer living validators than their quorum.
pub const QUORUM: &str = "/problems/quorum";
/// The genesis is not formed yet.
pub const FORMING: &str = "/problems/forming";

/// RFC 9457 problem document: the body of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// URI reference that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short name of the kind.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong with this request, and what to do.
    pub detail: String,
    /// With `/problems/other-process`: the authority's signature over chain id, key and process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Box<Signature>>,
}

fn refusal_sign_bytes(chain_id: u64, key: &PublicKey, process: &ProcessId) -> Vec<u8> {
    sign_bytes(domain::OTHER_PROCESS, &(chain_id, key, process))
}

/// Signs the authority's word to a process that registers with `key`: another one has that key, and it must
/// not act. A node believes it from nobody else, since it ends for it.
pub fn refuse_process(
    authority: &KeyPair,
    chain_id: u64,
    key: &PublicKey,
    process: &ProcessId,
) -> Signature {
    authority.sign(&refusal_sign_bytes(chain_id, key, process))
}

impl Problem {
    /// Whether the authority says that another process has the key of this one.
    pub fn refuses_process(
        &self,
        authority: &PublicKey,
        chain_id: u64,
        key: &PublicKey,
        process: &ProcessId,
    ) -> bool {
        let bytes = refusal_sign_bytes(chain_id, key, process);
        self.kind == OTHER_PROCESS
            && (self.proof.as_ref()).is_some_and(|proof| authority.verify(&bytes, proof))
    }
}
