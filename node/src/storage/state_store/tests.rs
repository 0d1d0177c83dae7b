//! The numbers of slots that the store keeps beside them.

use std::collections::BTreeMap;

use super::*;

fn key(n: u64) -> B256 {
    alloy_primitives::keccak256(n.to_be_bytes())
}

fn checkpoint(height: u64) -> Checkpoint {
    let header = alloy_consensus::Header {
        number: height,
        ..Default::default()
    };
    Checkpoint {
        genesis: B256::ZERO,
        hash: header.hash_slow(),
        header,
        log_position: 0,
        sets: Default::default(),
        begins: false,
        due: None,
    }
}

/// Slots of one account from a number on, all with the same value.
fn slots(account: u64, numbers: std::ops::Range<u64>, value: u64) -> Pending {
    let slots = numbers.map(|n| (key(n), U256::from(value))).collect();
    let mut pending = Pending::default();
    pending.add(StateDiff {
        storage: BTreeMap::from([(key(account), slots)]),
        ..StateDiff::default()
    });
    pending
}

fn counts(store: &StateStore) -> Vec<u64> {
    let (_, base) = store.base().unwrap();
    (0..3)
        .map(|account| base.slot_count(&key(account)).unwrap())
        .collect()
}

#[test]
fn slots_are_counted_as_they_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let store = StateStore::open(&path, 1 << 20).unwrap();
    let steps = [
        (slots(0, 0..100, 1), [100, 0, 0]),
        (slots(0, 50..150, 2), [150, 0, 0]),
        (slots(1, 0..7, 1), [150, 7, 0]),
        // Some of these were never there.
        (slots(0, 140..160, 0), [140, 7, 0]),
        (slots(1, 0..7, 0), [140, 0, 0]),
        (slots(2, 3..4, 9), [140, 0, 1]),
        (slots(2, 3..4, 8), [140, 0, 1]),
    ];
    for (height, (pending, expected)) in (1..).zip(steps) {
        store.commit(&pending, &checkpoint(height)).unwrap();
        assert_eq!(counts(&store), expected, "after step {height}");
    }
    drop(store);
    let store = StateStore::open(&path, 1 << 20).unwrap();
    assert_eq!(counts(&store), [140, 0, 1]);
}

#[test]
fn a_store_without_right_numbers_is_counted_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let store = StateStore::open(&path, 1 << 20).unwrap();
    store.commit(&slots(0, 0..100, 1), &checkpoint(1)).unwrap();
    store.commit(&slots(2, 0..5, 1), &checkpoint(2)).unwrap();
    // As a program writes that does not know of them.
    let write = store.database.begin_write().unwrap();
    write
        .open_table(META)
        .unwrap()
        .insert(CHECKPOINT, checkpoint(3).encode().as_slice())
        .unwrap();
    write
        .open_table(SLOTS)
        .unwrap()
        .insert(&key(1).0, 77)
        .unwrap();
    write.open_table(SLOTS).unwrap().remove(&key(0).0).unwrap();
    write.commit().unwrap();
    assert_eq!(counts(&store), [0, 77, 5]);
    drop(store);
    let store = StateStore::open(&path, 1 << 20).unwrap();
    assert_eq!(counts(&store), [100, 0, 5]);
    // Before there was such a table.
    let write = store.database.begin_write().unwrap();
    write.delete_table(SLOTS).unwrap();
    write.open_table(META).unwrap().remove(COUNTED).unwrap();
    write.commit().unwrap();
    drop(store);
    let store = StateStore::open(&path, 1 << 20).unwrap();
    assert_eq!(counts(&store), [100, 0, 5]);
}
