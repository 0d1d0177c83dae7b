//! Errors of the JSON-RPC interface: codes, geth's wording, and the reasons inside reverts.

use alloy_primitives::{Bytes, U256, hex};
use serde_json::{Value, json};

/// Answer to a call that was not carried out.
///
/// Codes are those of JSON-RPC 2.0, EIP-1474 and geth; clients match on codes and on wording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The body is not JSON.
    #[error("parse error: {0}")]
    Parse(String),
    /// JSON, but no call.
    #[error("{0}")]
    InvalidRequest(String),
    /// No such method.
    #[error("the method {0} does not exist/is not available")]
    MethodNotFound(String),
    /// The parameters do not fit the method.
    #[error("{0}")]
    InvalidParams(String),
    /// The EVM reverted.
    #[error("execution reverted{}", reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    Reverted {
        /// Reason that the contract gave, when it is one of Solidity's forms.
        reason: Option<String>,
        /// What the contract returned.
        data: Bytes,
    },
    /// Understood, but cannot be done.
    #[error("{0}")]
    Server(String),
    /// It took longer than the node allows.
    #[error("{0}")]
    Timeout(String),
    /// The answer is larger than the node allows.
    #[error("response too large")]
    ResponseTooLarge,
    /// More was asked for than the node gives.
    #[error("{0}")]
    Limit(String),
    /// The node's own fault; the cause is in its log.
    #[error("internal error")]
    Internal,
}

impl RpcError {
    /// An error of the node itself: the cause goes to the log, the client learns nothing of it.
    pub(crate) fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a JSON-RPC call failed inside the node");
        Self::Internal
    }

    /// A revert with the reason that its data hold.
    pub(crate) fn reverted(data: Bytes) -> Self {
        Self::Reverted {
            reason: revert_reason(&data),
            data,
        }
    }

    /// Code in the error object.
    pub fn code(&self) -> i64 {
        match self {
            Self::Parse(_) => -32700,
            Self::InvalidRequest(_) => -32600,
            Self::MethodNotFound(_) => -32601,
            Self::InvalidParams(_) => -32602,
            Self::Reverted { .. } => 3,
            Self::Server(_) => -32000,
            Self::Timeout(_) => -32002,
            Self::ResponseTooLarge => -32003,
            Self::Limit(_) => -32005,
            Self::Internal => -32603,
        }
    }

    /// The error object of JSON-RPC 2.0.
    pub fn to_json(&self) -> Value {
        let mut object = json!({ "code": self.code(), "message": self.to_string() });
        if let Self::Reverted { data, .. } = self {
            object["data"] = Value::String(hex::encode_prefixed(data));
        }
        object
    }
}

/// Selector of Solidity's `Error(string)`.
const ERROR_SELECTOR: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];
/// Selector of Solidity's `Panic(uint256)`.
const PANIC_SELECTOR: [u8; 4] = [0x4e, 0x48, 0x7b, 0x71];
/// Longest reason that is repeated in a message, bytes; all of it is in `data`.
const MAX_REASON_BYTES: usize = 1_024;

/// The reason in the data of a revert: `Error(string)` as its text, `Panic(uint256)` in geth's words.
pub(crate) fn revert_reason(data: &[u8]) -> Option<String> {
    let (selector, body) = data.split_first_chunk::<4>()?;
    match *selector {
        ERROR_SELECTOR => {
            let offset = word(body, 0)?;
            let length = word(body, offset)?;
            let start = offset.checked_add(32)?;
            let text = body.get(start..start.checked_add(length)?)?;
            let text = &text[..text.len().min(MAX_REASON_BYTES)];
            Some(String::from_utf8_lossy(text).into_owned())
        }
        PANIC_SELECTOR => {
            let code = U256::from_be_slice(body.get(..32)?);
            Some(match panic_reason(code.saturating_to()) {
                Some(reason) => reason.to_owned(),
                None => format!("unknown panic code: {code:#x}"),
            })
        }
        _ => None,
    }
}

/// The 32-byte word at `offset`, when it fits a `usize`.
fn word(body: &[u8], offset: usize) -> Option<usize> {
    let word = body.get(offset..offset.checked_add(32)?)?;
    usize::try_from(U256::from_be_slice(word)).ok()
}

/// Meaning of a panic code (Solidity documentation, "Panic via assert and Error via require").
fn panic_reason(code: u64) -> Option<&'static str> {
    Some(match code {
        0x00 => "generic panic",
        0x01 => "assert(false)",
        0x11 => "arithmetic underflow or overflow",
        0x12 => "division or modulo by zero",
        0x21 => "enum overflow",
        0x22 => "invalid encoded storage byte array accessed",
        0x31 => "out-of-bounds array access; popping on an empty array",
        0x32 => "out-of-bounds access of an array or bytesN",
        0x41 => "out of memory",
        0x51 => "uninitialized function",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode_error(text: &str) -> Vec<u8> {
        let mut data = ERROR_SELECTOR.to_vec();
        data.extend(U256::from(32).to_be_bytes::<32>());
        data.extend(U256::from(text.len()).to_be_bytes::<32>());
        data.extend(text.as_bytes());
        data.resize(4 + 64 + text.len().next_multiple_of(32), 0);
        data
    }

    fn encode_panic(code: u64) -> Vec<u8> {
        let mut data = PANIC_SELECTOR.to_vec();
        data.extend(U256::from(code).to_be_bytes::<32>());
        data
    }

    #[test]
    fn reverts_tell_their_reason() {
        let error = RpcError::reverted(encode_error("insufficient balance").into());
        assert_eq!(error.code(), 3);
        assert_eq!(
            error.to_string(),
            "execution reverted: insufficient balance"
        );
        assert!(
            error.to_json()["data"]
                .as_str()
                .unwrap()
                .starts_with("0x08c379a0")
        );

        let overflow = RpcError::reverted(encode_panic(0x11).into());
        assert_eq!(
            overflow.to_string(),
            "execution reverted: arithmetic underflow or overflow"
        );
        let unknown = RpcError::reverted(encode_panic(0x99).into());
        assert_eq!(
            unknown.to_string(),
            "execution reverted: unknown panic code: 0x99"
        );

        let silent = RpcError::reverted(Bytes::new());
        assert_eq!(silent.to_string(), "execution reverted");
        assert_eq!(silent.to_json()["data"], "0x");
    }

    #[test]
    fn damaged_reasons_are_no_reasons() {
        let whole = encode_error("abc");
        for length in 0..4 + 64 + 3 {
            assert_eq!(revert_reason(&whole[..length]), None, "{length} bytes");
        }
        let mut huge_offset = whole.clone();
        huge_offset[4..36].fill(0xff);
        assert_eq!(revert_reason(&huge_offset), None);
        let mut huge_length = whole;
        huge_length[36..68].fill(0xff);
        assert_eq!(revert_reason(&huge_length), None);
        assert_eq!(revert_reason(&[1, 2, 3, 4, 5]), None);
    }

    #[test]
    fn codes_are_the_standard_ones() {
        let table = [
            (RpcError::Parse(String::new()), -32700),
            (RpcError::InvalidRequest(String::new()), -32600),
            (RpcError::MethodNotFound(String::new()), -32601),
            (RpcError::InvalidParams(String::new()), -32602),
            (RpcError::Internal, -32603),
            (RpcError::Server(String::new()), -32000),
            (RpcError::Timeout(String::new()), -32002),
            (RpcError::ResponseTooLarge, -32003),
            (RpcError::Limit(String::new()), -32005),
        ];
        for (error, code) in table {
            assert_eq!(error.to_json()["code"], code, "{error:?}");
        }
        assert_eq!(
            RpcError::MethodNotFound("eth_x".into()).to_string(),
            "the method eth_x does not exist/is not available"
        );
    }
}
