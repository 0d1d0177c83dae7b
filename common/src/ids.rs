//! Identifiers and their text forms.

use std::{fmt, str::FromStr};

use borsh::{
    BorshDeserialize, BorshSerialize,
    io::{self, Read},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// Highest height, and highest epoch, that is read in any form. No chain comes near it, and what is
/// reckoned from one cannot overflow: a larger one is a lie.
pub const MAX_HEIGHT: u64 = 1 << 60;
/// Highest round that is read, for the same reason.
pub const MAX_ROUND: u32 = 1 << 30;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            BorshSerialize, utoipa::ToSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

/// Reads a number, from text or bytes, and refuses one above its bound.
macro_rules! bounded {
    ($name:ident($inner:ty), $what:literal, $max:expr) => {
        impl $name {
            fn within_bound(number: $inner) -> Result<Self, ParseIdError> {
                if number <= $max {
                    return Ok(Self(number));
                }
                Err(ParseIdError {
                    what: $what,
                    why: format!("{number} is above {}", $max),
                })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let number = <$inner as Deserialize>::deserialize(d)?;
                Self::within_bound(number).map_err(de::Error::custom)
            }
        }

        impl BorshDeserialize for $name {
            fn deserialize_reader<R: Read>(reader: &mut R) -> io::Result<Self> {
                let number = <$inner as BorshDeserialize>::deserialize_reader(reader)?;
                Self::within_bound(number)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    };
}

number! {
    /// EIP-155 chain id.
    #[derive(Deserialize, BorshDeserialize)]
    ChainId(u64)
}
number! {
    /// Height of a block; the genesis has height 0.
    Height(u64)
}
number! {
    /// Round of consensus within one height, from 0.
    Round(u32)
}
number! {
    /// Number of an epoch record: never reused, gaps allowed. The genesis is epoch 0.
    Epoch(u64)
}

bounded!(Height(u64), "height", MAX_HEIGHT);
bounded!(Round(u32), "round", MAX_ROUND);
bounded!(Epoch(u64), "epoch", MAX_HEIGHT);

impl Height {
    /// The height after this one. It cannot overflow: see [`MAX_HEIGHT`].
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Why a text is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct ParseIdError {
    /// What was being read.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// Reads exactly `N` bytes of hexadecimal, with or without `0x`.
pub(crate) fn parse_hex<const N: usize>(
    what: &'static str,
    text: &str,
) -> Result<[u8; N], ParseIdError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParseIdError {
        what,
        why: format!("expected {} hexadecimal digits", 2 * N),
    })?;
    Ok(bytes)
}

/// Text, serde, borsh and OpenAPI forms of a fixed number of bytes: `0x` and lower-case hexadecimal.
macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:expr, $what:expr) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            borsh::BorshSerialize, borsh::BorshDeserialize,
        )]
        pub struct $name(pub [u8; $len]);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "0x{}", hex::encode(self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::ids::ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                crate::ids::parse_hex($what, text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(format!("^(0x)?[0-9a-fA-F]{{{}}}$", 2 * $len)))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}
pub(crate) use hex_bytes;

hex_bytes! {
    /// A 32-byte hash: of a block (keccak-256 of its header) or of a document or record (SHA-256).
    Hash, 32, "hash"
}

impl Hash {
    /// SHA-256 of some bytes.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

hex_bytes! {
    /// Names one data directory. Random, made together with the key and the log on first use: a
    /// wiped or restored directory is another volume, and signs nothing in the epoch of the old one.
    VolumeId, 16, "volume id"
}

impl VolumeId {
    /// A fresh random volume id.
    pub fn generate() -> Self {
        Self(crate::crypto::random_bytes())
    }
}

hex_bytes! {
    /// Names one run of a program. Random, drawn at its start: two processes with one data directory, or
    /// with copies of it, differ in it.
    ProcessId, 16, "process id"
}

impl ProcessId {
    /// A fresh random process id.
    pub fn generate() -> Self {
        Self(crate::crypto::random_bytes())
    }
}

/// Names one chain: its EIP-155 id and the hash of its genesis document. Part of everything signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct ChainRef {
    /// EIP-155 chain id.
    pub id: ChainId,
    /// Hash of the genesis document ([`crate::genesis::GenesisDocument::hash`]).
    pub genesis: Hash,
}

/// Label of a node, such as `node7`. Identity is the key; the label is what people read.
///
/// One to 32 characters of `a-z 0-9 -`, beginning with a letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct NodeId(String);

impl NodeId {
    /// Longest label, in characters: it becomes a host name and a container name.
    pub const MAX_LEN: usize = 32;

    /// The label that the registry gives to its `number`th node.
    pub fn numbered(number: u64) -> Self {
        Self(format!("node{number}"))
    }

    /// The number in a label of the form `node<number>`.
    pub fn number(&self) -> Option<u64> {
        let digits = self.0.strip_prefix("node")?;
        let canonical = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
        if canonical { digits.parse().ok() } else { None }
    }

    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseIdError {
                what: "node id",
                why: format!(
                    "{text:?} is not 1 to {} characters of a-z, 0-9 and -, beginning with a letter",
                    Self::MAX_LEN
                ),
            })
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <String as serde::Deserialize>::deserialize(d)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl utoipa::PartialSchema for NodeId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^[a-z][a-z0-9-]{0,31}$"))
            .into()
    }
}

impl utoipa::ToSchema for NodeId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_host_names() {
        assert_eq!("node12".parse::<NodeId>().unwrap().number(), Some(12));
        assert_eq!("alice".parse::<NodeId>().unwrap().number(), None);
        assert_eq!("node012".parse::<NodeId>().unwrap().number(), None);
        for bad in [
            "",
            "Node1",
            "1node",
            "a_b",
            "a.b",
            &"a".repeat(33),
            "node1\n",
        ] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn no_number_from_outside_is_near_overflow() {
        fn read<T>(number: impl Serialize + BorshSerialize) -> [Result<T, String>; 2]
        where
            T: de::DeserializeOwned + BorshDeserialize,
        {
            let json = serde_json::to_string(&number).unwrap();
            let bytes = borsh::to_vec(&number).unwrap();
            [
                serde_json::from_str(&json).map_err(|error| error.to_string()),
                borsh::from_slice(&bytes).map_err(|error| error.to_string()),
            ]
        }
        assert_eq!(
            read::<Height>(MAX_HEIGHT),
            [Ok(Height(MAX_HEIGHT)), Ok(Height(MAX_HEIGHT))]
        );
        assert_eq!(
            read::<Round>(MAX_ROUND),
            [Ok(Round(MAX_ROUND)), Ok(Round(MAX_ROUND))]
        );
        let id = ChainId(u64::MAX);
        assert_eq!(read::<ChainId>(u64::MAX), [Ok(id), Ok(id)], "a mere name");
        let refused = |found: [Result<(), String>; 2], what: &str| {
            for found in found {
                let why = found.unwrap_err();
                assert!(why.contains(what) && why.contains("is above"), "{why}");
            }
        };
        for number in [MAX_HEIGHT + 1, u64::MAX] {
            refused(read::<Height>(number).map(|r| r.map(drop)), "height");
            refused(read::<Epoch>(number).map(|r| r.map(drop)), "epoch");
        }
        for number in [MAX_ROUND + 1, u32::MAX] {
            refused(read::<Round>(number).map(|r| r.map(drop)), "round");
        }
    }

    #[test]
    fn hashes_read_what_they_print() {
        let hash = Hash::sha256(b"axolotl");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("0x12".parse::<Hash>().is_err());
        assert!("0x".parse::<VolumeId>().is_err());
    }
}
