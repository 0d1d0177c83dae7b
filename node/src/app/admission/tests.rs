use axolotl_common::KeyPair;

use super::*;

fn key(seed: u8) -> PublicKey {
    KeyPair::from_seed(&[seed; 32]).public()
}

fn addresses(of: &[(u8, &[&str])]) -> Addresses {
    let entry = |(seed, addresses): &(u8, &[&str])| {
        let addresses = addresses.iter().map(|text| (*text).to_owned());
        (key(*seed), addresses.collect())
    };
    of.iter().map(entry).collect()
}

fn entry(seed: u8, addresses: &[&str]) -> PeerEntry {
    PeerEntry {
        public_key: key(seed),
        multiaddrs: addresses.iter().map(|text| (*text).to_owned()).collect(),
    }
}

#[test]
fn keys_come_from_members_settings_and_signed_lists_and_from_nothing_else() {
    let registered = Registered {
        admitted: addresses(&[(1, &["signed1"]), (3, &["signed3"])]),
        hints: addresses(&[
            (1, &["hint1", "signed1"]),
            (2, &["hint2"]),
            (4, &["hint4"]),
            (5, &["hint5"]),
            (66, &["stranger"]),
        ]),
    };
    let configured = [entry(1, &["setting1"]), entry(4, &[])];
    let former = BTreeSet::from([key(5)]);
    let list = allow_list(&[key(1), key(2)], &configured, &registered, &former);
    let expected = addresses(&[
        (1, &["setting1", "signed1", "hint1"]),
        (2, &["hint2"]),
        (3, &["signed3"]),
        (4, &["hint4"]),
        (5, &["hint5"]),
    ]);
    assert_eq!(list, expected);
    let only_hints = Registered {
        admitted: Addresses::new(),
        ..registered
    };
    let list = allow_list(&[key(2)], &[], &only_hints, &BTreeSet::new());
    assert_eq!(list, addresses(&[(2, &["hint2"])]));
}

#[test]
fn registered_keys_displace_neither_members_nor_settings() {
    let numbered = |i: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(i as u64).to_be_bytes());
        PublicKey(key)
    };
    let registered = Registered {
        admitted: (0..MAX_ALLOWED_PEERS)
            .map(|i| (numbered(i), Vec::new()))
            .collect(),
        hints: Addresses::new(),
    };
    let (member, former) = (PublicKey([0xff; 32]), PublicKey([0xfd; 32]));
    let configured = PeerEntry {
        public_key: PublicKey([0xfe; 32]),
        multiaddrs: Vec::new(),
    };
    let list = allow_list(
        &[member],
        std::slice::from_ref(&configured),
        &registered,
        &BTreeSet::from([member, former]),
    );
    assert_eq!(list.len(), MAX_ALLOWED_PEERS);
    assert!(list.contains_key(&member) && list.contains_key(&configured.public_key));
    assert!(!list.contains_key(&former));
    assert!(!list.contains_key(&numbered(MAX_ALLOWED_PEERS - 2)));
}
