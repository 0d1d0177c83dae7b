//! The nodes that the registry admitted, by the authority's signature, and hints at where they are.
//!
//! A key gets in by [`PeerList::admit`] only: by a list that the authority of the chain signed for this node. Each
//! list is complete and has a higher number than the one before it, so a key that is missing is out, and a list
//! that was replaced never counts again. The newest one is kept in the data directory and counts after a restart
//! until the registry sends a newer one: registered learners find each other while the registry is away, at the
//! price that a key which was revoked meanwhile is still let in.
//!
//! What nobody signed ([`PeerList::hint`]) adds addresses of keys that are admitted anyway.

use std::{collections::BTreeMap, sync::Arc};

use axolotl_common::{
    PublicKey,
    registry_api::{
        MAX_LISTED_PEERS, MAX_PEER_ADDRESS_BYTES, MAX_PEER_ADDRESSES, Order, PeerEntry, SignedOrder,
    },
};
use tokio::sync::watch;

use crate::{
    network::is_address_of,
    registry_client::control::{OrderContext, OrderError},
    storage::{DataDir, DataDirError},
};

/// Name of the small record with the newest signed list.
const RECORD: &str = "peers";
/// Unsigned addresses that count for one key. A node has one or two; a forged answer must not crowd out the others
/// of the eight that libp2p dials at a time.
const MAX_HINTED_ADDRESSES: usize = 2;

/// Keys with their addresses, best first.
pub(super) type Addresses = BTreeMap<PublicKey, Vec<String>>;

/// What the registry said of its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Registered {
    /// The nodes of the newest signed list: these are let in.
    pub(super) admitted: Addresses,
    /// Addresses that nobody signed, of the newest answer. Their keys are let in by nothing of this.
    pub(super) hints: Addresses,
}

/// Why the list that was kept is not used.
#[derive(Debug, thiserror::Error)]
enum KeptError {
    #[error(transparent)]
    File(#[from] DataDirError),
    #[error(transparent)]
    Order(#[from] OrderError),
}

/// Takes lists of peers, and shows what they come to.
pub(super) struct PeerList {
    data: Arc<DataDir>,
    registered: watch::Sender<Registered>,
}

impl PeerList {
    /// Begins with the list that was kept. `origin` says whose list counts; without one, as where no registry
    /// is set, none does: nothing would ever replace it.
    pub(super) fn open(data: Arc<DataDir>, origin: Option<&OrderContext>) -> Self {
        let kept = match origin.map(|origin| kept(&data, origin)) {
            Some(Ok(kept)) => kept,
            None => None,
            Some(Err(error)) => {
                tracing::warn!(
                    %error,
                    "the list of registered nodes that was kept is not usable; they are let in when the registry sends a newer one"
                );
                None
            }
        };
        let registered = Registered {
            admitted: kept.map(|signed| admitted(&signed)).unwrap_or_default(),
            hints: Addresses::new(),
        };
        Self {
            data,
            registered: watch::Sender::new(registered),
        }
    }

    /// What the lists come to, as it changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<Registered> {
        self.registered.subscribe()
    }

    /// Puts a list of peers, whose signature and number were checked, in the place of the one before it; it is
    /// durable before it counts. Other orders change nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn admit(&self, signed: &SignedOrder) -> Result<(), DataDirError> {
        if !matches!(signed.order, Order::Peers { .. }) {
            return Ok(());
        }
        let admitted = admitted(signed);
        // Each new stream begins with the list: the same one is not written again.
        if self.registered.borrow().admitted == admitted {
            return Ok(());
        }
        let json = serde_json::to_vec(signed).expect("it was read from JSON");
        self.data.write_record(RECORD, &json)?;
        self.registered
            .send_modify(|registered| registered.admitted = admitted);
        Ok(())
    }

    /// Puts addresses that nobody signed in the place of those before them.
    pub(super) fn hint(&self, found: &[PeerEntry]) {
        let mut hints = Addresses::new();
        for entry in found.iter().take(MAX_LISTED_PEERS) {
            let key = entry.public_key;
            let addresses: Vec<String> = short(entry)
                .filter(|address| is_address_of(&key, address))
                .take(MAX_HINTED_ADDRESSES)
                .cloned()
                .collect();
            hints.entry(key).or_insert(addresses);
        }
        self.registered.send_if_modified(|registered| {
            let changed = registered.hints != hints;
            registered.hints = hints;
            changed
        });
    }
}

/// The list that was kept, if there is one and the authority signed it for this node.
fn kept(data: &DataDir, origin: &OrderContext) -> Result<Option<SignedOrder>, KeptError> {
    let Some(bytes) = data.record(RECORD)? else {
        return Ok(None);
    };
    let signed: SignedOrder =
        serde_json::from_slice(&bytes).map_err(|e| OrderError::Unreadable(e.to_string()))?;
    origin.check_origin(&signed)?;
    Ok(Some(signed))
}

/// The nodes of a signed list, cut to its bounds.
fn admitted(signed: &SignedOrder) -> Addresses {
    let Order::Peers { peers } = &signed.order else {
        return Addresses::new();
    };
    if peers.len() > MAX_LISTED_PEERS {
        tracing::warn!(
            listed = peers.len(),
            max = MAX_LISTED_PEERS,
            "the registry's list of nodes is too long; the rest is left out"
        );
    }
    let mut admitted = Addresses::new();
    for entry in peers.iter().take(MAX_LISTED_PEERS) {
        let addresses = short(entry).take(MAX_PEER_ADDRESSES).cloned().collect();
        admitted.entry(entry.public_key).or_insert(addresses);
    }
    admitted
}

/// Addresses that are not too long.
fn short(entry: &PeerEntry) -> impl Iterator<Item = &String> {
    let addresses = entry.multiaddrs.iter();
    addresses.filter(|address| address.len() <= MAX_PEER_ADDRESS_BYTES)
}

#[cfg(test)]
mod tests;
