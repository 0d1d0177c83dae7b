//! Orders of the registry to its nodes, and what became of them.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    crypto::{KeyPair, PublicKey, Signature, domain, sign_bytes},
    ids::{Epoch, NodeId},
    membership::{EpochRecord, SignedRecord},
    recovery::{Acknowledgement, Ballot, RegistryStart, SignedStatement, Statement},
};

/// An order of the registry to a node, on the node's control stream.
#[derive(
    Clone, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize, ToSchema,
)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Order {
    /// The nodes that may be let in, with their addresses (`…/p2p/…`). The list is complete and replaces the
    /// one before it; it is sent when a stream is opened and whenever it changes.
    Peers {
        /// Every registered node, at most [`MAX_LISTED_PEERS`].
        peers: Vec<PeerEntry>,
    },
    /// Shut down for good: the registry will not start it again.
    Stop {
        /// In words, for the log.
        reason: String,
    },
    /// A planned record, to be carried in one of the next blocks.
    EpochRecord {
        /// The record, signed.
        record: SignedRecord,
    },
    /// Send a heartbeat now: the registry looks whether a quorum lives.
    Probe,
    /// This start of the registry introduces itself; comes first on every stream. A node that has met a
    /// start which is not in the list takes no order of this one; of [`Order::Peers`] it takes addresses of
    /// nodes that it admits already.
    Meet {
        /// All starts of the store, oldest first; the last one speaks.
        starts: Vec<RegistryStart>,
        /// On an operator's word: the starts that the node has met are forgotten, and this one is taken.
        #[serde(default)]
        take_over: bool,
    },
    /// What would the node say if it were sealed? Nothing is promised.
    Survey {
        /// The attempt.
        ballot: Ballot,
        /// All epochs up to this one are to be sealed.
        epoch: Epoch,
    },
    /// Seal every epoch up to this one, durably, and say what is held. There is no way back.
    Seal {
        /// The attempt; the node takes no order of a lower one any more.
        ballot: Ballot,
        /// All epochs up to this one.
        epoch: Epoch,
        /// On an operator's word ([`RecordKind::Forced`](crate::membership::RecordKind)): the chain may
        /// have to go on without a quorum's knowledge.
        #[serde(default)]
        forced: bool,
    },
    /// Execute the adopted block and keep it with the draft, durably; acknowledge.
    Stage {
        /// The attempt.
        ballot: Ballot,
        /// The record, but for acknowledgements and the authority's signature.
        draft: Box<EpochRecord>,
        /// Who holds the adopted block.
        holders: Vec<PublicKey>,
    },
}

/// One entry of [`Order::Peers`].
#[derive(
    Clone, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize, ToSchema,
)]
pub struct PeerEntry {
    /// Key of the peer.
    pub public_key: PublicKey,
    /// Full libp2p addresses.
    pub multiaddrs: Vec<String>,
}

/// Most entries of [`Order::Peers`]: as many nodes as a registry keeps on record, and as many peers as a node
/// admits. A node leaves further ones out.
pub const MAX_LISTED_PEERS: usize = 1_024;
/// Most addresses of one [`PeerEntry`]: as many as a registration may name. A node leaves further ones out.
pub const MAX_PEER_ADDRESSES: usize = 8;
/// Longest address of a [`PeerEntry`], bytes: 256 of a registration and 57 of `/p2p/…`, rounded up. A node
/// leaves longer ones out.
pub const MAX_PEER_ADDRESS_BYTES: usize = 320;
/// Longest signed order with a list of peers, bytes of JSON: all entries and addresses at their bounds, quoted,
/// and 128 bytes for the rest of each entry.
pub const MAX_PEERS_ORDER_BYTES: usize =
    MAX_LISTED_PEERS * (MAX_PEER_ADDRESSES * (MAX_PEER_ADDRESS_BYTES + 3) + 128) + (4 << 10);

/// Highest number of an order that a node may say it took: so far below overflow that no registry
/// gets there from it.
pub const MAX_ORDER_NUMBER: u64 = 1 << 62;

/// Path and query with which a node opens its control stream. `after` is the number of the last order that
/// it took: the registry's copy of the store may be older than that, and its orders would not count.
/// The query is part of what is signed.
pub fn control_path(after: u64) -> String {
    format!("/control?after={after}")
}

/// An order with its number and the authority's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedOrder {
    /// Chain: its id, 0 before the genesis is formed.
    pub chain_id: u64,
    /// Addressee.
    pub to: PublicKey,
    /// Durable and increasing; a node takes no order whose number is not above the last one's.
    pub number: u64,
    /// The order.
    pub order: Order,
    /// The authority's signature.
    pub signature: Signature,
}

impl SignedOrder {
    fn order_sign_bytes(chain_id: u64, to: &PublicKey, number: u64, order: &Order) -> Vec<u8> {
        sign_bytes(domain::ORDER, &(chain_id, to, number, order))
    }

    /// Signs an order.
    pub fn new(
        authority: &KeyPair,
        chain_id: u64,
        to: PublicKey,
        number: u64,
        order: Order,
    ) -> Self {
        let signature = authority.sign(&Self::order_sign_bytes(chain_id, &to, number, &order));
        Self {
            chain_id,
            to,
            number,
            order,
            signature,
        }
    }

    /// Whether it is the authority's.
    pub fn verify(&self, authority: &PublicKey) -> bool {
        let bytes = Self::order_sign_bytes(self.chain_id, &self.to, self.number, &self.order);
        authority.verify(&bytes, &self.signature)
    }
}

/// `POST /control/answers`, signed by the node's key: what became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControlAnswer {
    /// Label; must be the label of the signing key.
    pub node_id: NodeId,
    /// Number of the order.
    pub number: u64,
    /// Whether the node did as it was told.
    pub done: bool,
    /// In words, where there is something to say.
    #[serde(default)]
    pub detail: String,
    /// What it says of a recovery, where the order was about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Box<RecoveryAnswer>>,
}

/// What a node says of a recovery: the facts that a registry may lack, and what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryAnswer {
    /// The newest start of a registry that it has met.
    pub met: Option<RegistryStart>,
    /// The highest ballot that it has answered.
    pub promised: Option<Ballot>,
    /// It is sealed in all epochs up to this one.
    pub sealed: Option<Epoch>,
    /// What it has staged, with the ballot of the order that it obeyed.
    pub staged: Option<StagedDraft>,
    /// The record of the newest epoch that it knows of, when it is newer than the order's.
    pub record: Option<Box<SignedRecord>>,
    /// To [`Order::Survey`]: what it would state.
    pub survey: Option<Box<Survey>>,
    /// To [`Order::Seal`]: what it states.
    pub statement: Option<Box<SignedStatement>>,
    /// To [`Order::Stage`]: it has staged the draft.
    pub acknowledgement: Option<Acknowledgement>,
}

/// A draft that a node has staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StagedDraft {
    /// The ballot under which it was staged.
    pub ballot: Ballot,
    /// The draft.
    pub draft: Box<EpochRecord>,
}

/// What a node would state, and whether it would seal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Survey {
    /// As [`Order::Seal`] would have it, unsigned.
    pub statement: Statement,
    /// Why it would not seal now, in words: the chain is alive as far as it sees.
    pub veto: Option<String>,
}

#[cfg(test)]
mod tests;
