use axolotl_common::KeyPair;

use super::*;

const CHAIN: u64 = 7777;

fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

fn authority() -> KeyPair {
    key(99)
}

fn entry(seed: u8, ports: &[u16]) -> PeerEntry {
    let public_key = key(seed).public();
    let address = |port| format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", public_key.peer_id());
    PeerEntry {
        public_key,
        multiaddrs: ports.iter().map(address).collect(),
    }
}

fn of(entries: &[PeerEntry]) -> Addresses {
    let pair = |entry: &PeerEntry| (entry.public_key, entry.multiaddrs.clone());
    entries.iter().map(pair).collect()
}

struct Directory {
    _home: tempfile::TempDir,
    data: Arc<DataDir>,
}

impl Directory {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let data = Arc::new(DataDir::open(home.path()).unwrap());
        Self { _home: home, data }
    }

    fn origin(&self) -> OrderContext {
        OrderContext {
            key: self.data.key().public(),
            authority: authority().public(),
            chain_id: Some(CHAIN),
            last: 0,
        }
    }

    fn signed(&self, number: u64, peers: Vec<PeerEntry>) -> SignedOrder {
        let to = self.data.key().public();
        SignedOrder::new(&authority(), CHAIN, to, number, Order::Peers { peers })
    }

    fn open(&self) -> PeerList {
        PeerList::open(Arc::clone(&self.data), Some(&self.origin()))
    }

    fn kept(&self) -> Addresses {
        self.open().subscribe().borrow().admitted.clone()
    }
}

#[test]
fn the_newest_list_replaces_the_one_before_it_and_outlives_the_process() {
    let directory = Directory::new();
    let list = directory.open();
    let mut shown = list.subscribe();
    assert_eq!(*shown.borrow(), Registered::default());
    let both = [entry(1, &[1]), entry(2, &[2])];
    list.admit(&directory.signed(1, both.to_vec())).unwrap();
    assert!(shown.has_changed().unwrap());
    assert_eq!(shown.borrow_and_update().admitted, of(&both));
    assert_eq!(directory.kept(), of(&both));
    // The same list again, as at the opening of a stream.
    list.admit(&directory.signed(2, both.to_vec())).unwrap();
    assert!(!shown.has_changed().unwrap());
    // Node 1 was revoked, node 2 has moved.
    let moved = [entry(2, &[9])];
    list.admit(&directory.signed(3, moved.to_vec())).unwrap();
    assert_eq!(shown.borrow_and_update().admitted, of(&moved));
    assert_eq!(directory.kept(), of(&moved));
    // Orders about something else say nothing of peers.
    let to = directory.data.key().public();
    let probe = SignedOrder::new(&authority(), CHAIN, to, 4, Order::Probe);
    list.admit(&probe).unwrap();
    assert!(!shown.has_changed().unwrap());
    assert_eq!(directory.kept(), of(&moved));
}

#[test]
fn a_kept_list_counts_only_where_the_authority_signed_it_for_this_node() {
    let peers = || Order::Peers {
        peers: vec![entry(1, &[1])],
    };
    let directory = Directory::new();
    let me = directory.data.key().public();
    let good = SignedOrder::new(&authority(), CHAIN, me, 5, peers());
    let json = |signed: &SignedOrder| serde_json::to_vec(signed).unwrap();
    let more = Order::Peers {
        peers: vec![entry(1, &[1]), entry(2, &[2])],
    };
    let changed = SignedOrder {
        order: more,
        ..good.clone()
    };
    let cases = [
        (
            "another signer",
            json(&SignedOrder::new(&key(98), CHAIN, me, 5, peers())),
        ),
        (
            "another node",
            json(&SignedOrder::new(
                &authority(),
                CHAIN,
                key(3).public(),
                5,
                peers(),
            )),
        ),
        (
            "another chain",
            json(&SignedOrder::new(&authority(), 1, me, 5, peers())),
        ),
        ("a changed list", json(&changed)),
        (
            "another order",
            json(&SignedOrder::new(&authority(), CHAIN, me, 5, Order::Probe)),
        ),
        ("no JSON", b"{".to_vec()),
        ("nothing", Vec::new()),
    ];
    for (case, bytes) in cases {
        directory.data.write_record(RECORD, &bytes).unwrap();
        assert_eq!(directory.kept(), Addresses::new(), "{case}");
    }
    directory.data.write_record(RECORD, &json(&good)).unwrap();
    assert_eq!(directory.kept(), of(&[entry(1, &[1])]));
    // Without a registry nothing would replace it.
    let alone = PeerList::open(Arc::clone(&directory.data), None);
    assert_eq!(*alone.subscribe().borrow(), Registered::default());
    // A damaged file is no reason not to start.
    let path = directory.data.path().join("records").join(RECORD);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(directory.kept(), Addresses::new());
}

#[test]
fn signed_lists_are_bounded() {
    let directory = Directory::new();
    let list = directory.open();
    let admitted = |peers: Vec<PeerEntry>, number| {
        list.admit(&directory.signed(number, peers)).unwrap();
        list.subscribe().borrow().admitted.clone()
    };
    let many = |n: usize| -> Vec<PeerEntry> {
        let entry = |i: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&(i as u64).to_be_bytes());
            PeerEntry {
                public_key: PublicKey(key),
                multiaddrs: Vec::new(),
            }
        };
        (0..n).map(entry).collect()
    };
    let most = of(&many(MAX_LISTED_PEERS));
    assert_eq!(admitted(many(MAX_LISTED_PEERS + 1), 1), most);
    assert_eq!(directory.kept(), most);

    let ports: Vec<u16> = (1..=20).collect();
    let mut wide = entry(1, &ports);
    wide.multiaddrs
        .insert(0, "x".repeat(MAX_PEER_ADDRESS_BYTES + 1));
    // The first entry of a key counts.
    let twice = vec![wide, entry(1, &[99])];
    let first = of(&[entry(1, &ports[..MAX_PEER_ADDRESSES])]);
    assert_eq!(admitted(twice, 2), first);
}

#[test]
fn hints_are_addresses_of_the_newest_answer_and_bounded() {
    let directory = Directory::new();
    let list = directory.open();
    let mut shown = list.subscribe();
    let mut wide = entry(1, &[1, 2, 3, 4]);
    let foreign = entry(2, &[7]).multiaddrs[0].clone();
    wide.multiaddrs.splice(
        0..0,
        [
            "nonsense\u{1b}[2J".to_owned(),
            foreign,
            "x".repeat(MAX_PEER_ADDRESS_BYTES + 1),
        ],
    );
    list.hint(&[wide]);
    let expected = of(&[entry(1, &[1, 2])]);
    assert_eq!(shown.borrow_and_update().hints, expected);
    assert_eq!(shown.borrow().admitted, Addresses::new());
    list.hint(&[entry(1, &[1, 2])]);
    assert!(!shown.has_changed().unwrap(), "nothing was new");
    let many = vec![entry(3, &[1]); MAX_LISTED_PEERS];
    list.hint(&[many, vec![entry(4, &[1])]].concat());
    assert_eq!(shown.borrow_and_update().hints, of(&[entry(3, &[1])]));
    assert_eq!(directory.kept(), Addresses::new(), "hints are not kept");
}
