//! Parameters of calls: strict hexadecimal as the execution-apis specification has it, bounded
//! lists, and geth's wording for what is wrong.

use std::{borrow::Cow, fmt, marker::PhantomData};

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::error::RpcError;

/// Most parameters of one call; no method takes as many.
const MAX_PARAMS: usize = 16;

/// Positional parameters of one call, not yet decoded.
pub(crate) struct Params<'a>(Vec<&'a RawValue>);

impl<'a> Params<'a> {
    /// Takes the `params` member apart. Absent and `null` mean none.
    pub(crate) fn parse(raw: Option<&'a RawValue>) -> Result<Self, RpcError> {
        let Some(raw) = raw.map(RawValue::get).filter(|text| *text != "null") else {
            return Ok(Self(Vec::new()));
        };
        if !raw.starts_with('[') {
            return Err(RpcError::InvalidParams("non-array args".into()));
        }
        let values: BoundedVec<&'a RawValue, MAX_PARAMS> = serde_json::from_str(raw)
            .map_err(|_| RpcError::InvalidParams("too many arguments".into()))?;
        Ok(Self(values.0))
    }

    /// Refuses more than `count` parameters.
    pub(crate) fn at_most(&self, count: usize) -> Result<(), RpcError> {
        if self.0.len() > count {
            return Err(RpcError::InvalidParams(format!(
                "too many arguments, want at most {count}"
            )));
        }
        Ok(())
    }

    /// The parameter at `index`, which must be there.
    pub(crate) fn required<T: Deserialize<'a>>(&self, index: usize) -> Result<T, RpcError> {
        self.optional(index)?.ok_or_else(|| {
            RpcError::InvalidParams(format!("missing value for required argument {index}"))
        })
    }

    /// The parameter at `index`; `null` is as good as absent.
    pub(crate) fn optional<T: Deserialize<'a>>(&self, index: usize) -> Result<Option<T>, RpcError> {
        let Some(raw) = self.0.get(index) else {
            return Ok(None);
        };
        serde_json::from_str(raw.get()).map_err(|error| {
            let text = error.to_string();
            let why = text.split(" at line ").next().unwrap_or(&text);
            RpcError::InvalidParams(format!("invalid argument {index}: {why}"))
        })
    }

    /// The parameter at `index`, which must be there and an object.
    pub(crate) fn object<T: Deserialize<'a>>(&self, index: usize) -> Result<T, RpcError> {
        // Serde would take a list for an object with the members in order.
        let raw = self.0.get(index).map(|raw| raw.get());
        if raw.is_some_and(|text| text != "null" && !text.starts_with('{')) {
            return Err(RpcError::InvalidParams(format!(
                "invalid argument {index}: not an object"
            )));
        }
        self.required(index)
    }

    /// Whether the parameter at `index` is there and says something.
    pub(crate) fn is_given(&self, index: usize) -> bool {
        self.0
            .get(index)
            .is_some_and(|raw| !matches!(raw.get(), "null" | "{}"))
    }
}

/// A list of at most `MAX` items: a longer one is refused before it takes memory.
pub(crate) struct BoundedVec<T, const MAX: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for BoundedVec<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut items = Vec::new();
                while items.len() < MAX {
                    match seq.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(items),
                    }
                }
                match seq.next_element::<IgnoredAny>()? {
                    Some(_) => Err(A::Error::custom(format!("more than {MAX} entries"))),
                    None => Ok(items),
                }
            }
        }
        deserializer
            .deserialize_seq(List::<T, MAX>(PhantomData))
            .map(Self)
    }
}

/// Digits of a `0x` string.
fn digits(text: &str) -> Result<&str, &'static str> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => Ok(digits),
        None if text.is_empty() => Err("empty hex string"),
        None => Err("hex string without 0x prefix"),
    }
}

/// Reads a quantity: `0x`, at least one digit, no leading zeros.
fn quantity(text: &str, bits: usize) -> Result<U256, String> {
    let digits = digits(text)?;
    if digits.is_empty() {
        return Err("hex string \"0x\"".into());
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Err("hex number with leading zero digits".into());
    }
    if digits.len() > bits / 4 {
        return Err(format!("hex number > {bits} bits"));
    }
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("invalid hex string".into());
    }
    U256::from_str_radix(digits, 16).map_err(|_| "invalid hex string".into())
}

/// Reads data of exactly `N` bytes.
fn fixed<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let digits = digits(text)?;
    if digits.len() != 2 * N {
        return Err(format!(
            "hex string has length {}, want {}",
            digits.len(),
            2 * N
        ));
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| "invalid hex string")?;
    Ok(bytes)
}

/// Reads data of any length.
fn data(text: &str) -> Result<Bytes, String> {
    let digits = digits(text)?;
    if digits.len() % 2 == 1 {
        return Err("hex string of odd length".into());
    }
    let bytes = hex::decode(digits).map_err(|_| "invalid hex string")?;
    Ok(bytes.into())
}

/// Reads a storage slot: up to 32 bytes, as a quantity or as data.
fn slot(text: &str) -> Result<B256, String> {
    let digits = digits(text)?;
    if digits.len() > 64 {
        return Err(format!(
            "storage slot too long (want at most 32 bytes): {} digits",
            digits.len()
        ));
    }
    let padded = format!("{digits:0>64}");
    let mut bytes = [0; 32];
    hex::decode_to_slice(padded, &mut bytes).map_err(|_| "invalid hex string")?;
    Ok(bytes.into())
}

macro_rules! from_text {
    ($(#[$doc:meta])* $name:ident($inner:ty), $read:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $name(pub(crate) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'_, str>::deserialize(deserializer)?;
                let read: fn(&str) -> Result<$inner, String> = $read;
                read(&text).map(Self).map_err(D::Error::custom)
            }
        }
    };
}

from_text! {
    /// Quantity of at most 64 bits.
    Quantity(u64), |text| quantity(text, 64).map(|n| n.saturating_to())
}
from_text! {
    /// Quantity of at most 128 bits: a price of gas.
    Price(u128), |text| quantity(text, 128).map(|n| n.saturating_to())
}
from_text! {
    /// Quantity of at most 256 bits.
    Word(U256), |text| quantity(text, 256)
}
from_text! {
    /// Address, 20 bytes.
    AddressParam(Address), |text| fixed::<20>(text).map(Address::from)
}
from_text! {
    /// Hash, 32 bytes.
    HashParam(B256), |text| fixed::<32>(text).map(B256::from)
}
from_text! {
    /// Any bytes.
    Data(Bytes), data
}
from_text! {
    /// Key of a storage slot.
    Slot(B256), slot
}

/// A quantity, or a plain JSON number: what `eth_feeHistory` takes for its count.
pub(crate) struct Count(pub(crate) u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<u64, E> {
                Ok(value)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u64, E> {
                if text.starts_with("0x") {
                    quantity(text, 64)
                        .map(|n| n.saturating_to())
                        .map_err(E::custom)
                } else {
                    text.parse().map_err(E::custom)
                }
            }
        }
        deserializer.deserialize_any(CountVisitor).map(Self)
    }
}

/// Which block a call is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BlockParam {
    /// The head. `latest`, `safe` and `finalized` are the same: every visible block is final.
    #[default]
    Latest,
    /// The head; only nonces look beyond it.
    Pending,
    /// This height.
    Number(u64),
    /// The block with this hash.
    Hash(B256),
}

impl BlockParam {
    /// Reads a tag or a height, or, where `hash` says so, 32 bytes of hash.
    fn read(text: &str, hash: bool) -> Result<Self, String> {
        Ok(match text {
            "latest" | "safe" | "finalized" => Self::Latest,
            "pending" => Self::Pending,
            "earliest" => Self::Number(0),
            _ if hash && text.len() == 66 => Self::Hash(fixed::<32>(text)?.into()),
            _ => Self::Number(quantity(text, 64)?.saturating_to()),
        })
    }
}

impl<'de> Deserialize<'de> for BlockParam {
    /// EIP-1898: a text, or an object with `blockNumber` or `blockHash`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BlockVisitor;
        impl<'de> Visitor<'de> for BlockVisitor {
            type Value = BlockParam;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a block number, tag or hash")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<BlockParam, E> {
                BlockParam::read(text, true).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BlockParam, A::Error> {
                let (mut number, mut hash) = (None, None);
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    match key.as_ref() {
                        "blockNumber" => number = Some(map.next_value::<NumberOrTag>()?.0),
                        "blockHash" => hash = Some(map.next_value::<HashParam>()?.0),
                        // Every block is canonical here, so `requireCanonical` changes nothing.
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                match (number, hash) {
                    (Some(_), Some(_)) => Err(A::Error::custom(
                        "cannot specify both BlockHash and BlockNumber, choose one or the other",
                    )),
                    (Some(number), None) => Ok(number),
                    (None, Some(hash)) => Ok(BlockParam::Hash(hash)),
                    (None, None) => Err(A::Error::custom("neither blockNumber nor blockHash")),
                }
            }
        }
        deserializer.deserialize_any(BlockVisitor)
    }
}

from_text! {
    /// A tag or a height, never a hash.
    NumberOrTag(BlockParam), |text| BlockParam::read(text, false)
}

/// One value, or a list of at most `MAX`.
pub(crate) enum OneOrMany<T, const MAX: usize> {
    /// One.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T, const MAX: usize> OneOrMany<T, MAX> {
    /// As a list.
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for OneOrMany<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        if raw.starts_with('[') {
            let list: BoundedVec<T, MAX> = serde_json::from_str(raw).map_err(D::Error::custom)?;
            Ok(Self::Many(list.0))
        } else {
            serde_json::from_str(raw)
                .map(Self::One)
                .map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn first<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, String> {
        let raw = params(&format!("[{text}]"));
        Params::parse(Some(&raw))
            .and_then(|p| p.required::<T>(0))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn quantities_are_strict() {
        assert_eq!(first::<Quantity>("\"0x0\""), Ok(Quantity(0)));
        assert_eq!(
            first::<Quantity>("\"0xffffffffffffffff\""),
            Ok(Quantity(u64::MAX))
        );
        let wrong = [
            ("\"0x\"", "hex string \"0x\""),
            ("\"10\"", "hex string without 0x prefix"),
            ("\"\"", "empty hex string"),
            ("\"0x01\"", "hex number with leading zero digits"),
            ("\"0x10000000000000000\"", "hex number > 64 bits"),
            ("\"0xg\"", "invalid hex string"),
            ("\"0x+1\"", "invalid hex string"),
            ("5", "invalid type"),
            ("{}", "invalid type"),
            ("[]", "invalid type"),
        ];
        for (text, why) in wrong {
            let error = first::<Quantity>(text).unwrap_err();
            assert!(
                error.starts_with("invalid argument 0: ") && error.contains(why),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn data_are_strict() {
        assert_eq!(first::<Data>("\"0x\""), Ok(Data(Bytes::new())));
        assert!(first::<Data>("\"0x1\"").unwrap_err().contains("odd length"));
        assert!(
            first::<AddressParam>("\"0x1234\"")
                .unwrap_err()
                .contains("hex string has length 4, want 40")
        );
        let address = format!("\"0x{}\"", "Ab".repeat(20));
        assert_eq!(
            first::<AddressParam>(&address).unwrap().0,
            Address::repeat_byte(0xab)
        );
        assert_eq!(first::<Slot>("\"0x1\"").unwrap().0, B256::with_last_byte(1));
    }

    #[test]
    fn blocks_are_named_in_many_ways() {
        let hash = B256::repeat_byte(7);
        let table = [
            ("\"latest\"".to_owned(), BlockParam::Latest),
            ("\"safe\"".to_owned(), BlockParam::Latest),
            ("\"finalized\"".to_owned(), BlockParam::Latest),
            ("\"pending\"".to_owned(), BlockParam::Pending),
            ("\"earliest\"".to_owned(), BlockParam::Number(0)),
            ("\"0x10\"".to_owned(), BlockParam::Number(16)),
            (format!("\"{hash}\""), BlockParam::Hash(hash)),
            (
                "{\"blockNumber\":\"0x2\"}".to_owned(),
                BlockParam::Number(2),
            ),
            (
                format!("{{\"blockHash\":\"{hash}\",\"requireCanonical\":true}}"),
                BlockParam::Hash(hash),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(first::<BlockParam>(&text), Ok(expected), "{text}");
        }
        for text in ["\"newest\"", "5", "{}", "[]", "true", "\"0x\""] {
            assert!(first::<BlockParam>(text).is_err(), "{text}");
        }
        assert!(
            first::<BlockParam>(&format!(
                "{{\"blockHash\":\"{hash}\",\"blockNumber\":\"0x1\"}}"
            ))
            .unwrap_err()
            .contains("choose one or the other")
        );
    }

    #[test]
    fn argument_lists_are_bounded() {
        let raw = params("[1,2,3]");
        let parsed = Params::parse(Some(&raw)).unwrap();
        assert_eq!(
            parsed.at_most(2).unwrap_err().to_string(),
            "too many arguments, want at most 2"
        );
        assert_eq!(
            parsed.required::<u64>(3).unwrap_err().to_string(),
            "missing value for required argument 3"
        );
        let many = params(&format!("[{}1]", "1,".repeat(MAX_PARAMS)));
        assert!(Params::parse(Some(&many)).is_err());
        let named = params("{\"a\":1}");
        assert_eq!(
            Params::parse(Some(&named)).err().map(|e| e.to_string()),
            Some("non-array args".into())
        );
        assert!(Params::parse(None).unwrap().at_most(0).is_ok());
    }
}
