//! Where the genesis comes from: the data directory, a file, or the registry. The registry's answer is not
//! signed: only GENESIS_HASH tells a first start whether it is the right one.

use std::collections::BTreeSet;

use anyhow::bail;
use axolotl_common::{
    NodeId,
    genesis::{DEV_ACCOUNTS, GenesisDocument},
    limits::check_time,
};
use axolotl_ledger::ChainSpec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::registry::Registry;
use crate::{
    admin::Readiness,
    config::{Config, ConfigError, checks},
    storage::DataDir,
};

/// The genesis document and the label of this node; `None` when asked to stop before they are
/// known.
///
/// A chain that the data directory holds already is never exchanged for another: a file or a
/// registry with another genesis is refused.
pub(super) async fn obtain(
    config: &Config,
    data: &mut DataDir,
    registry: Option<&Registry>,
    readiness: &watch::Sender<Readiness>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<(GenesisDocument, NodeId)>> {
    let known = match &config.genesis_file {
        Some(path) => {
            let fault =
                |why: String| ConfigError(vec![format!("GENESIS_FILE={}: {why}", path.display())]);
            let text = std::fs::read(path).map_err(|e| fault(e.to_string()))?;
            let document = GenesisDocument::parse(&text).map_err(|e| fault(e.to_string()))?;
            // It may have been replaced since the settings were checked.
            let source = format!("GENESIS_FILE={}", path.display());
            check_pinned(config, &source, &document, checks::OTHER_FILE)?;
            // Before it is kept: a document that makes no chain would stay in the way of its
            // corrected version.
            ChainSpec::from_document(document).map_err(|e| fault(e.to_string()))?;
            Some(data.set_genesis(&text)?)
        }
        None => {
            let kept = data.genesis()?;
            if let Some(document) = &kept {
                let source = format!("DATA_DIR={}", config.data_dir.display());
                check_pinned(config, &source, document, checks::OTHER_DIRECTORY)?;
            }
            kept
        }
    };
    let label = data.label().cloned().or_else(|| config.node_id.clone());
    if let (Some(document), Some(label)) = (&known, &label) {
        data.set_label(label.clone())?;
        return Ok(Some((document.clone(), label.clone())));
    }
    let Some(registry) = registry else {
        bail!("no genesis: set GENESIS_FILE, or REGISTRY_URL to get it from a registry");
    };
    let Some((document, label)) = registry
        .await_genesis(known.as_ref(), label, readiness, shutdown)
        .await?
    else {
        return Ok(None);
    };
    // Before anything of it is kept: whoever answers for the registry names the authority with it.
    let source = format!("REGISTRY_URL={}", registry.url());
    let remedy = "set REGISTRY_URL to the registry of that chain";
    check_pinned(config, &source, &document, remedy)?;
    data.set_label(label.clone())?;
    let document = data.set_genesis(document.value().to_string().as_bytes())?;
    Ok(Some((document, label)))
}

/// A genesis other than the pinned one is a fault of the configuration.
fn check_pinned(
    config: &Config,
    source: &str,
    document: &GenesisDocument,
    remedy: &str,
) -> Result<(), ConfigError> {
    let Some(hash) = config.genesis_hash else {
        return Ok(());
    };
    checks::pinned(source, document.hash(), hash, remedy).map_err(|fault| ConfigError(vec![fault]))
}

/// Warns of what a genesis permits and its owner may not want: accounts whose keys everybody has, fixed
/// validators, blocks that take longer than a round.
pub(super) fn warn_about(spec: &ChainSpec) {
    let value = spec.genesis.value();
    let funded: BTreeSet<String> = value
        .get("alloc")
        .and_then(|alloc| alloc.as_object())
        .map(|alloc| alloc.keys().map(|address| address.to_lowercase()).collect())
        .unwrap_or_default();
    if DEV_ACCOUNTS
        .iter()
        .any(|address| funded.contains(&address.to_lowercase()))
    {
        tracing::warn!(
            "DEVELOPMENT GENESIS: its accounts come from the mnemonic \"test test … junk\", whose keys everybody knows; \
             never put value on this chain"
        );
    }
    if let Err(slow) = check_time(spec.gas_limit, &spec.genesis.axolotl().timing) {
        tracing::warn!("genesis: {slow}");
    }
    if spec.genesis.axolotl().authority_key.is_none() {
        tracing::warn!(
            "the genesis names no authority key: the membership of this chain is fixed for ever"
        );
    }
}
