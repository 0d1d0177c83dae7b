use super::*;

#[test]
fn the_largest_list_of_peers_fits_its_bound() {
    let authority = KeyPair::from_seed(&[1; 32]);
    let address = "x".repeat(MAX_PEER_ADDRESS_BYTES);
    let entry = |_| PeerEntry {
        public_key: authority.public(),
        multiaddrs: vec![address.clone(); MAX_PEER_ADDRESSES],
    };
    let order = Order::Peers {
        peers: (0..MAX_LISTED_PEERS).map(entry).collect(),
    };
    let number = MAX_ORDER_NUMBER;
    let signed = SignedOrder::new(&authority, u64::MAX, authority.public(), number, order);
    let bytes = serde_json::to_vec(&signed).unwrap().len();
    assert!(bytes <= MAX_PEERS_ORDER_BYTES, "{bytes}");
    assert!(bytes > MAX_PEERS_ORDER_BYTES * 9 / 10, "{bytes}");
}
