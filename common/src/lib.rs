//! What the node and the registry both speak of: identifiers, keys, the quorum function,
//! membership records, certificates, the genesis document, and the types of the registry's HTTP
//! contract.
//!
//! Everything here is plain data with its checks. There is no clock, no randomness but key
//! generation, and no I/O; `tokio`, `axum` and `libp2p` are not dependencies.

pub mod certificate;
pub mod crypto;
pub mod genesis;
pub mod ids;
pub mod limits;
pub mod membership;
pub mod proof;
pub mod quorum;
pub mod recovery;
pub mod registry_api;
pub mod signed_request;
pub mod variables;
pub mod votes;
pub mod words;

pub use certificate::{CommitCertificate, VoteKind};
pub use crypto::{KeyPair, PublicKey, Signature};
pub use ids::{ChainId, ChainRef, Epoch, Hash, Height, NodeId, ProcessId, Round, VolumeId};
pub use membership::{EpochRecord, Member, SignedRecord, ValidatorSet};
pub use proof::BlockProof;
pub use quorum::QuorumRule;
pub use words::in_words;
