//! Who may connect: members of the epoch and those before them, nodes that the authority's signed list
//! names, and those that the configuration names. What nobody signed adds addresses, never a key.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context;
use axolotl_common::{PublicKey, registry_api::PeerEntry};
use tokio::sync::watch;

use super::peer_list::{Addresses, Registered};
use crate::{
    config::Config,
    network::{Network, limits::MAX_ALLOWED_PEERS},
    storage::Chain,
};

/// The list is made anew this often even when nothing seems to have changed.
const INTERVAL: Duration = Duration::from_secs(30);
/// Most former validators that stay admitted; the first by key stay.
const FORMER_MAX: usize = 256;

/// What the list is made of.
pub(super) struct Admission {
    pub(super) chain: Chain,
    pub(super) network: Network,
    /// What the registry last said; stays as it was while the registry is away.
    pub(super) registered: watch::Receiver<Registered>,
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
            let list = allow_list(
                &members.collect::<Vec<_>>(),
                &admission.configured,
                &admission.registered.borrow_and_update(),
                &former,
            );
            admission.network.set_allowed(list).await;
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

/// Keys to let in with their addresses, best first. Where there are more than the network takes, members come
/// first, then what the configuration names, then registered nodes, then former members: whoever registers many
/// keys displaces no validator.
fn allow_list(
    members: &[PublicKey],
    configured: &[PeerEntry],
    registered: &Registered,
    former: &BTreeSet<PublicKey>,
) -> Addresses {
    let mut list = Addresses::new();
    let mut left_out = 0_usize;
    let named = configured.iter().map(|entry| &entry.public_key);
    let admitted = registered.admitted.keys();
    for key in members.iter().chain(named).chain(admitted).chain(former) {
        if list.len() < MAX_ALLOWED_PEERS {
            list.entry(*key).or_default();
        } else if !list.contains_key(key) {
            left_out += 1;
        }
    }
    if left_out > 0 {
        tracing::warn!(
            left_out,
            max = MAX_ALLOWED_PEERS,
            "more peers are admitted than may connect; the rest is left out"
        );
    }
    let configured = configured
        .iter()
        .map(|entry| (&entry.public_key, &entry.multiaddrs));
    let sources = configured
        .chain(&registered.admitted)
        .chain(&registered.hints);
    for (key, addresses) in sources {
        let Some(known) = list.get_mut(key) else {
            continue;
        };
        for address in addresses {
            if !known.contains(address) {
                known.push(address.clone());
            }
        }
    }
    list
}

#[cfg(test)]
mod tests;
