//! A node's validator key and its libp2p identity are one Ed25519 key.

use axolotl_common::{KeyPair, PublicKey};
use libp2p::{Multiaddr, PeerId, identity, multiaddr::Protocol};

/// The bytes before the key in a peer id: an identity multihash (code 0, length 36) over the
/// protobuf form of an Ed25519 public key (libp2p specs, "Peer Ids and Keys").
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The peer id of a key.
pub(crate) fn peer_id(key: &PublicKey) -> PeerId {
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&PREFIX);
    bytes[6..].copy_from_slice(&key.0);
    PeerId::from_bytes(&bytes).expect("an identity multihash of 36 bytes is a peer id")
}

/// The key in a peer id, when it is an Ed25519 one.
pub(crate) fn public_key(peer: &PeerId) -> Option<PublicKey> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PREFIX)?;
    key.try_into().ok().map(PublicKey)
}

/// The libp2p form of a key pair.
pub(crate) fn keypair(key: &KeyPair) -> identity::Keypair {
    identity::Keypair::ed25519_from_bytes(*key.seed())
        .expect("every 32 bytes are the seed of an Ed25519 key")
}

/// Reads a peer's address and takes off `/p2p/…`. `None` when the text is no address, is too long,
/// or names another peer.
pub(crate) fn address_of(key: &PublicKey, text: &str) -> Option<Multiaddr> {
    strip_peer(key, text.parse().ok()?)
}

/// Whether a text is an address under which this peer can be dialled.
pub fn is_address_of(key: &PublicKey, text: &str) -> bool {
    address_of(key, text).is_some()
}

/// Takes `/p2p/…` off an address. `None` when it names another peer, is empty or too long.
pub(crate) fn strip_peer(key: &PublicKey, mut address: Multiaddr) -> Option<Multiaddr> {
    if address.len() > super::limits::MAX_ADDRESS_BYTES {
        return None;
    }
    if let Some(Protocol::P2p(named)) = address.iter().last() {
        if named != peer_id(key) {
            return None;
        }
        address.pop();
    }
    (!address.is_empty()).then_some(address)
}

/// Whether the address begins with a loopback address.
pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Whether the address begins with 0.0.0.0 or ::, which nobody can dial.
pub(crate) fn is_unspecified(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => ip.is_unspecified(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ids_are_keys() {
        let key = KeyPair::from_seed(&[9; 32]);
        let peer = keypair(&key).public().to_peer_id();
        assert_eq!(peer, peer_id(&key.public()));
        assert_eq!(public_key(&peer), Some(key.public()));
        assert_eq!(peer.to_base58(), key.public().peer_id());
        assert_eq!(public_key(&PeerId::random()), None);
    }

    #[test]
    fn addresses_lose_their_own_peer_id_and_no_other() {
        let key = KeyPair::from_seed(&[9; 32]).public();
        let other = KeyPair::from_seed(&[8; 32]).public();
        let plain = "/dns4/node1/tcp/50051";
        let full = format!("{plain}/p2p/{}", key.peer_id());
        let expected: Multiaddr = plain.parse().unwrap();
        assert_eq!(address_of(&key, plain), Some(expected.clone()));
        assert_eq!(address_of(&key, &full), Some(expected));
        assert_eq!(address_of(&other, &full), None);
        for bad in ["", "node1:50051", "/ip4/300.0.0.1/tcp/1"] {
            assert_eq!(address_of(&key, bad), None, "{bad:?}");
        }
    }
}
