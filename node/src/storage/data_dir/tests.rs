use std::fs;

use axolotl_common::{
    Member,
    genesis::{AxolotlGenesis, dev_genesis},
};

use super::*;

fn genesis(timestamp: u64) -> Vec<u8> {
    let member = Member {
        node_id: NodeId::numbered(1),
        public_key: KeyPair::from_seed(&[1; 32]).public(),
        volume_id: VolumeId([1; 16]),
    };
    let axolotl: AxolotlGenesis =
        serde_json::from_value(serde_json::json!({ "validators": [member] })).unwrap();
    serde_json::to_vec_pretty(&dev_genesis(&axolotl, timestamp)).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_directory_keeps_who_it_is() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep/data");
    let mut first = DataDir::open(&path).unwrap();
    assert_eq!(
        (first.incarnation(), first.label(), first.was_stopped()),
        (1, None, false)
    );
    assert!(first.log_matches_volume());
    assert_eq!((mode(&path), mode(&path.join("node.key"))), (0o700, 0o600));
    first.set_label(NodeId::numbered(7)).unwrap();
    first.write_record("seal", b"one").unwrap();
    first.write_record("seal", b"two").unwrap();
    first.mark_stopped().unwrap();
    let (key, volume) = (first.key().public(), first.volume_id());
    drop(first);

    let second = DataDir::open(&path).unwrap();
    assert_eq!((second.key().public(), second.volume_id()), (key, volume));
    assert_eq!((second.incarnation(), second.was_stopped()), (2, true));
    assert_eq!(second.label(), Some(&NodeId::numbered(7)));
    assert_eq!(second.record("seal").unwrap(), Some(b"two".to_vec()));
    assert_eq!(second.record("ballot").unwrap(), None);
    assert!(second.remove_record("seal").unwrap());
    assert!(second.record("../node.key").is_err());
    assert_eq!(DataDir::identity(&path).unwrap().volume_id, volume);
    drop(second);
    assert!(!DataDir::open(&path).unwrap().was_stopped());
}

#[test]
fn a_second_process_is_told_who_has_it() {
    let root = tempfile::tempdir().unwrap();
    let _first = DataDir::open(root.path()).unwrap();
    let error = DataDir::open(root.path()).unwrap_err().to_string();
    let pid = format!("process {}", std::process::id());
    assert!(error.contains(&pid), "{error}");
}

#[test]
fn faults_are_named() {
    let cases: [(&str, Option<&[u8]>, &str); 7] = [
        ("version", Some(b"2\n"), "newer program"),
        ("version", Some(b"x"), "not a number"),
        ("node.key", None, "missing"),
        ("node.key", Some(b"abcd"), "64 hexadecimal"),
        ("node.key", Some(&[b'1'; 64]), "belongs to"),
        ("volume.json", Some(b"{}"), "volume.json is damaged"),
        ("incarnation", Some(b"many"), "larger than all"),
    ];
    for (name, bytes, expected) in cases {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path()).unwrap());
        match bytes {
            Some(bytes) => fs::write(root.path().join(name), bytes).unwrap(),
            None => fs::remove_file(root.path().join(name)).unwrap(),
        }
        let error = DataDir::open(root.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_lost_log_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    drop(DataDir::open(root.path()).unwrap());
    fs::remove_dir_all(root.path().join("consensus")).unwrap();
    assert!(!DataDir::open(root.path()).unwrap().log_matches_volume());
    // A log that was made anew belongs to no volume.
    let log = super::super::consensus_log::ConsensusLog::open(&root.path().join("consensus"));
    drop(log.unwrap());
    assert!(!DataDir::open(root.path()).unwrap().log_matches_volume());
}

#[test]
fn an_interrupted_first_use_begins_again() {
    let root = tempfile::tempdir().unwrap();
    let key = DataDir::open(root.path()).unwrap().key().public();
    fs::remove_file(root.path().join("version")).unwrap();
    assert_ne!(DataDir::open(root.path()).unwrap().key().public(), key);
    fs::create_dir(root.path().join("blocks")).unwrap();
    fs::remove_file(root.path().join("version")).unwrap();
    let error = DataDir::open(root.path()).unwrap_err().to_string();
    assert!(error.contains("there are blocks"), "{error}");
}

#[test]
fn a_damaged_record_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path()).unwrap();
    dir.write_record("seal", b"sealed").unwrap();
    let path = root.path().join("records/seal");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(dir.record("seal").is_err(), "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(dir.record("seal").is_err(), "cut at {at}");
    }
}

#[test]
fn another_chain_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::open(root.path()).unwrap();
    assert_eq!(dir.genesis().unwrap(), None);
    let document = dir.set_genesis(&genesis(1)).unwrap();
    assert_eq!(dir.genesis().unwrap(), Some(document));
    assert_eq!(
        fs::read(root.path().join("genesis.json")).unwrap(),
        genesis(1)
    );
    dir.set_genesis(&genesis(1)).unwrap();
    let error = dir.set_genesis(&genesis(2)).unwrap_err().to_string();
    assert!(error.contains("wipe"), "{error}");
    assert!(matches!(
        dir.set_genesis(b"{}"),
        Err(DataDirError::Genesis { .. })
    ));
}
