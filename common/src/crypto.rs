//! Ed25519 identity: a node's validator key and its libp2p peer id are one key.

use borsh::BorshSerialize;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::ids::{ParseIdError, hex_bytes};

hex_bytes! {
    /// An Ed25519 public key (RFC 8032).
    PublicKey, 32, "public key"
}

hex_bytes! {
    /// An Ed25519 signature (RFC 8032).
    Signature, 64, "signature"
}

/// The bytes before the key in a libp2p peer id: an identity multihash (code 0, length 36) over the
/// protobuf form of an Ed25519 public key (libp2p specs, "Peer Ids and Keys").
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl PublicKey {
    /// Whether `signature` is this key's over `message`. Strict: small-order keys and
    /// non-canonical signatures are refused, so that all nodes judge alike.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
            key.verify_strict(message, &signature).is_ok()
        })
    }

    /// The libp2p peer id of this key, in base58.
    pub fn peer_id(&self) -> String {
        let mut bytes = PEER_ID_PREFIX.to_vec();
        bytes.extend_from_slice(&self.0);
        bs58::encode(bytes).into_string()
    }

    /// The key inside a libp2p peer id.
    ///
    /// # Errors
    /// When the text is not base58 of an Ed25519 peer id.
    pub fn from_peer_id(text: &str) -> Result<Self, ParseIdError> {
        let error = |why: &str| ParseIdError {
            what: "peer id",
            why: why.to_owned(),
        };
        let bytes = bs58::decode(text)
            .into_vec()
            .map_err(|_| error("not base58"))?;
        let key = bytes
            .strip_prefix(&PEER_ID_PREFIX)
            .ok_or_else(|| error("not Ed25519"))?;
        key.try_into().map(Self).map_err(|_| error("wrong length"))
    }
}

/// A secret Ed25519 key. It is wiped from memory on drop and never printed.
#[derive(Clone)]
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// A fresh random key.
    pub fn generate() -> Self {
        Self::from_seed(&Zeroizing::new(random_bytes()))
    }

    /// The key of a 32-byte seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for the key file.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs bytes that begin with their domain (see [`domain`]).
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({})", self.public())
    }
}

/// First bytes of everything that is signed, so that a signature made for one purpose never serves
/// another.
pub mod domain {
    /// Prevotes and precommits.
    pub const VOTE: &[u8] = b"axolotl/vote/1\0";
    /// Proposals.
    pub const PROPOSAL: &[u8] = b"axolotl/proposal/1\0";
    /// Epoch records.
    pub const RECORD: &[u8] = b"axolotl/record/1\0";
    /// A node's calls to the registry.
    pub const REQUEST: &[u8] = b"axolotl/request/1\0";
    /// The registry's orders to a node.
    pub const ORDER: &[u8] = b"axolotl/order/1\0";
    /// The registry's word to a process that another one has its key.
    pub const OTHER_PROCESS: &[u8] = b"axolotl/other-process/1\0";
    /// A sealed validator's statement.
    pub const STATEMENT: &[u8] = b"axolotl/statement/1\0";
    /// A validator's word that it is sealed, alone.
    pub const SEAL: &[u8] = b"axolotl/seal/1\0";
    /// A staged draft of a recovery record.
    pub const ACKNOWLEDGEMENT: &[u8] = b"axolotl/acknowledgement/1\0";
}

/// The bytes that are signed for `value`: the domain, then its borsh form.
pub fn sign_bytes(domain: &[u8], value: &impl BorshSerialize) -> Vec<u8> {
    let mut bytes = domain.to_vec();
    value
        .serialize(&mut bytes)
        .expect("writing to a Vec does not fail");
    bytes
}

/// Random bytes from the operating system.
///
/// # Panics
/// When the system has no randomness: no key may be made then.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has no randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_is_its_key() {
        let key = KeyPair::from_seed(&[7; 32]).public();
        let peer_id = key.peer_id();
        assert!(peer_id.starts_with("12D3KooW"), "{peer_id}");
        assert_eq!(PublicKey::from_peer_id(&peer_id), Ok(key));
        for bad in [
            "",
            "Qm0",
            "12D3KooW",
            "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        ] {
            assert!(
                PublicKey::from_peer_id(bad).is_err(),
                "{bad:?} was accepted"
            );
        }
    }

    #[test]
    fn signatures_hold_for_one_message_and_key() {
        let (one, two) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
        let signature = one.sign(b"message");
        assert!(one.public().verify(b"message", &signature));
        assert!(!one.public().verify(b"massage", &signature));
        assert!(!two.public().verify(b"message", &signature));
        assert!(!PublicKey([0; 32]).verify(b"message", &signature));
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = KeyPair::from_seed(&[1; 32]);
        assert!(!format!("{key:?}").contains(&hex::encode(&key.seed()[..4])));
    }
}
