//! A new store for a chain that exists already, from its genesis and its authority key.
//!
//! For when the registry's store is lost but the authority key was backed up. The store must be an
//! empty one: what it would take over is signed by that key, and nothing else may be lost.

use std::{fs, path::Path};

use anyhow::{Context, bail, ensure};
use axolotl_common::genesis::GenesisDocument;

use crate::{
    authority::{load_or_make_key, read_key, write_key},
    cluster::state::NodeRecord,
    store::{self, Store, StoredGenesis},
};

/// Makes a store in `data_dir`, whose key file becomes `key_file`, for the chain of `genesis`.
/// Doing it again with the same files changes nothing.
///
/// # Errors
/// When the files do not belong together, or the store is another chain's.
pub fn adopt(
    data_dir: &Path,
    key_file: &Path,
    genesis: &Path,
    back_up: &Path,
) -> anyhow::Result<GenesisDocument> {
    let text = fs::read(genesis).with_context(|| genesis.display().to_string())?;
    let document = GenesisDocument::parse(&text).with_context(|| genesis.display().to_string())?;
    let key = read_key(back_up)?
        .with_context(|| format!("{}: there is no such file", back_up.display()))?;
    match document.axolotl().authority_key {
        Some(expected) if expected == key.public() => {}
        Some(expected) => bail!(
            "{} holds the key of authority {}, but the chain's is {expected}",
            back_up.display(),
            key.public()
        ),
        None => bail!(
            "the genesis {} names no authority key: its membership is fixed, and no registry can \
             speak for it",
            genesis.display()
        ),
    }
    let mut store = Store::open(&store::directory(data_dir))?;
    if let Some(stored) = store.genesis()? {
        let stored = GenesisDocument::from_value(stored.document)?;
        ensure!(
            stored.hash() == document.hash(),
            "the store in {} belongs to another chain (genesis {}); choose an empty directory",
            data_dir.display(),
            stored.hash()
        );
        return Ok(document);
    }
    ensure!(
        store.authority()?.is_none_or(|known| known == key.public()),
        "the store in {} was begun with another authority key; choose an empty directory",
        data_dir.display()
    );
    write_key(key_file, &key)?;
    // What `serve` will read there.
    load_or_make_key(key_file, Some(key.public()))?;
    if store.authority()?.is_none() {
        store.set_authority(&key.public())?;
    }
    let members = &document.axolotl().validators;
    let records: Vec<NodeRecord> = members
        .iter()
        .zip(1..)
        .map(|(member, place)| NodeRecord::of_member(member, place))
        .collect();
    store.put_nodes(&records.iter().collect::<Vec<_>>())?;
    let record = document.epoch().sign(&document.chain(), &key);
    store.set_genesis(&StoredGenesis {
        document: document.value().clone(),
        record,
    })?;
    Ok(document)
}

#[cfg(test)]
mod tests {
    use axolotl_common::{
        Hash, KeyPair, Member, NodeId, VolumeId,
        genesis::{AxolotlGenesis, dev_genesis},
    };

    use super::*;

    fn files(dir: &Path, authority: &KeyPair) -> Hash {
        let validators: Vec<Member> = (1..=4u8)
            .map(|i| Member {
                node_id: NodeId::numbered(i.into()),
                public_key: KeyPair::from_seed(&[i; 32]).public(),
                volume_id: VolumeId([i; 16]),
            })
            .collect();
        let axolotl: AxolotlGenesis = serde_json::from_value(serde_json::json!({
            "validators": validators, "authorityKey": authority.public(),
        }))
        .unwrap();
        let document = GenesisDocument::from_value(dev_genesis(&axolotl, 1)).unwrap();
        fs::write(dir.join("genesis.json"), document.value().to_string()).unwrap();
        document.hash()
    }

    #[test]
    fn a_lost_store_is_made_again_from_its_back_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (authority, other) = (KeyPair::from_seed(&[9; 32]), KeyPair::from_seed(&[8; 32]));
        let hash = files(dir.path(), &authority);
        write_key(&path("key"), &authority).unwrap();
        write_key(&path("other"), &other).unwrap();

        let wrong = adopt(
            &path("data"),
            &path("data/authority_key"),
            &path("genesis.json"),
            &path("other"),
        );
        let wrong = wrong.unwrap_err().to_string();
        assert!(wrong.contains("the chain's is"), "{wrong}");
        for _ in 0..2 {
            let done = adopt(
                &path("data"),
                &path("data/authority_key"),
                &path("genesis.json"),
                &path("key"),
            );
            assert_eq!(done.unwrap().hash(), hash);
        }
        let store = Store::open(&store::directory(&path("data"))).unwrap();
        assert_eq!(store.authority().unwrap(), Some(authority.public()));
        let labels: Vec<String> = store
            .nodes()
            .unwrap()
            .iter()
            .map(|n| n.label.to_string())
            .collect();
        assert_eq!(labels, ["node1", "node2", "node3", "node4"]);
        assert!(
            store.genesis().unwrap().unwrap().record.verify(
                &GenesisDocument::parse(&fs::read(path("genesis.json")).unwrap())
                    .unwrap()
                    .chain(),
                &authority.public()
            )
        );
        assert_eq!(
            load_or_make_key(&path("data/authority_key"), Some(authority.public()))
                .unwrap()
                .public(),
            authority.public()
        );

        let mut begun = Store::open(&store::directory(&path("begun"))).unwrap();
        begun.set_authority(&other.public()).unwrap();
        drop(begun);
        let refused = adopt(
            &path("begun"),
            &path("begun/authority_key"),
            &path("genesis.json"),
            &path("key"),
        );
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("another authority key")
        );
    }
}
