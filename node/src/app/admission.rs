//! Who may connect: members of the epoch, nodes that the registry knows, and those that the
//! configuration names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axolotl_common::{PublicKey, registry_api::PeerEntry};
use tokio::sync::watch;

use crate::{config::Config, network::Network, storage::Chain};

/// The list is made anew this often even when nothing seems to have changed.
const INTERVAL: Duration = Duration::from_secs(30);
/// Most former validators that stay admitted; the first by key stay.
const FORMER_MAX: usize = 256;

/// What the list is made of.
pub(super) struct Admission {
    pub(super) chain: Chain,
    pub(super) network: Network,
    /// What the registry last said; stays as it was while the registry is away.
    pub(super) registered: watch::Receiver<Vec<PeerEntry>>,
    /// Peers named by the configuration, with their addresses where known.
    pub(super) configured: Vec<PeerEntry>,
}

/// Peers that the configuration names: those to dial, and those to let in.
///
/// # Errors
/// When a peer to dial has no usable peer id.
pub(super) fn configured(config: &Config) -> anyhow::Result<Vec<PeerEntry>> {
    let mut entries: Vec<PeerEntry> = config
        .allow_peers
        .iter()
        .map(|key| PeerEntry {
            public_key: *key,
            multiaddrs: Vec::new(),
        })
        .collect();
    for address in &config.bootstrap_peers {
        let (_, peer_id) = address
            .rsplit_once("/p2p/")
            .context("BOOTSTRAP_PEERS: no /p2p/…")?;
        let public_key = PublicKey::from_peer_id(peer_id)
            .with_context(|| format!("BOOTSTRAP_PEERS={address}"))?;
        entries.push(PeerEntry {
            public_key,
            multiaddrs: vec![address.clone()],
        });
    }
    Ok(entries)
}

/// Keeps the network's allow list true.
pub(super) async fn run(mut admission: Admission) -> anyhow::Result<()> {
    let mut heads = admission.chain.subscribe();
    let mut epoch = None;
    // Whoever has left the set may still fetch the block that says so, and goes on following.
    let mut former = BTreeSet::new();
    let (mut dirty, mut registry_speaks) = (true, true);
    loop {
        let validators = Arc::clone(&heads.borrow_and_update().validators);
        if dirty || epoch != Some(validators.epoch()) {
            epoch = Some(validators.epoch());
            dirty = false;
            former.extend(validators.members().iter().map(|member| member.public_key));
            while former.len() > FORMER_MAX {
                former.pop_last();
            }
            let members = validators.members().iter().map(|member| member.public_key);
            let members = members.chain(former.iter().copied());
            admission.network.set_allowed(admission.list(members)).await;
        }
        tokio::select! {
            changed = heads.changed() => changed?,
            // Without a registry, or after the end of its task, what was said last stays in force.
            changed = admission.registered.changed(), if registry_speaks => {
                registry_speaks = changed.is_ok();
                dirty = true;
            }
            () = tokio::time::sleep(INTERVAL) => dirty = true,
        }
    }
}

impl Admission {
    fn list(&self, members: impl Iterator<Item = PublicKey>) -> BTreeMap<PublicKey, Vec<String>> {
        let mut list: BTreeMap<PublicKey, BTreeSet<String>> =
            members.map(|key| (key, BTreeSet::new())).collect();
        for entry in self.registered.borrow().iter().chain(&self.configured) {
            list.entry(entry.public_key)
                .or_default()
                .extend(entry.multiaddrs.iter().cloned());
        }
        list.into_iter()
            .map(|(key, addresses)| (key, addresses.into_iter().collect()))
            .collect()
    }
}
