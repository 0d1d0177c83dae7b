//! How a node proves to the registry who it is: an Ed25519 signature over the request.
//!
//! Signed are method, path with query, SHA-256 of the body, time stamp and counter. The time stamp
//! bounds how long a request can be kept back; the counter, which only grows within one incarnation
//! of a node, makes each request count once.

use crate::{
    crypto::{KeyPair, PublicKey, Signature, domain, sign_bytes},
    ids::Hash,
};

/// Header with the caller's public key.
pub const HEADER_KEY: &str = "x-axolotl-key";
/// Header with the time of signing, milliseconds since 1970.
pub const HEADER_TIMESTAMP: &str = "x-axolotl-timestamp";
/// Header with the counter.
pub const HEADER_COUNTER: &str = "x-axolotl-counter";
/// Header with the signature.
pub const HEADER_SIGNATURE: &str = "x-axolotl-signature";
/// Header with the join token, asked of keys that the registry does not know.
pub const HEADER_JOIN_TOKEN: &str = "x-axolotl-join-token";

/// How far the caller's clock may be from the registry's, milliseconds.
pub const MAX_CLOCK_SKEW_MS: u64 = 30_000;

/// The signed part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSignature {
    /// Who signed.
    pub key: PublicKey,
    /// When, milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Larger than that of every earlier request of this node.
    pub counter: u64,
    /// The signature.
    pub signature: Signature,
}

/// Why a request is not its claimed sender's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestSignatureError {
    /// A header is missing or unreadable.
    #[error("header {0} is missing or malformed; node calls are signed")]
    Header(&'static str),
    /// The clocks differ too much.
    #[error(
        "time stamp {timestamp_ms} is more than 30 s from the server's time {now_ms}; set the clock"
    )]
    Clock {
        /// Time stamp of the request.
        timestamp_ms: u64,
        /// Time of the server.
        now_ms: u64,
    },
    /// The signature does not hold.
    #[error("the signature does not hold for this method, path and body")]
    Signature,
}

fn request_sign_bytes(
    method: &str,
    path: &str,
    body: &[u8],
    timestamp_ms: u64,
    counter: u64,
) -> Vec<u8> {
    sign_bytes(
        domain::REQUEST,
        &(method, path, Hash::sha256(body), timestamp_ms, counter),
    )
}

impl RequestSignature {
    /// Signs a request.
    pub fn new(
        key: &KeyPair,
        method: &str,
        path: &str,
        body: &[u8],
        timestamp_ms: u64,
        counter: u64,
    ) -> Self {
        let signature = key.sign(&request_sign_bytes(
            method,
            path,
            body,
            timestamp_ms,
            counter,
        ));
        Self {
            key: key.public(),
            timestamp_ms,
            counter,
            signature,
        }
    }

    /// The headers that carry the signature.
    pub fn headers(&self) -> [(&'static str, String); 4] {
        [
            (HEADER_KEY, self.key.to_string()),
            (HEADER_TIMESTAMP, self.timestamp_ms.to_string()),
            (HEADER_COUNTER, self.counter.to_string()),
            (HEADER_SIGNATURE, self.signature.to_string()),
        ]
    }

    /// Reads the headers; `get` looks one up by its lower-case name.
    ///
    /// # Errors
    /// Names the first header that is missing or malformed.
    pub fn from_headers<'a>(
        get: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Result<Self, RequestSignatureError> {
        fn read<T: std::str::FromStr>(
            name: &'static str,
            text: Option<&str>,
        ) -> Result<T, RequestSignatureError> {
            text.and_then(|text| text.parse().ok())
                .ok_or(RequestSignatureError::Header(name))
        }
        Ok(Self {
            key: read(HEADER_KEY, get(HEADER_KEY))?,
            timestamp_ms: read(HEADER_TIMESTAMP, get(HEADER_TIMESTAMP))?,
            counter: read(HEADER_COUNTER, get(HEADER_COUNTER))?,
            signature: read(HEADER_SIGNATURE, get(HEADER_SIGNATURE))?,
        })
    }

    /// Checks time and signature. The caller checks the counter against the highest it has met.
    ///
    /// # Errors
    /// When the clocks differ by more than [`MAX_CLOCK_SKEW_MS`] or the signature does not hold.
    pub fn verify(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        now_ms: u64,
    ) -> Result<(), RequestSignatureError> {
        if self.timestamp_ms.abs_diff(now_ms) > MAX_CLOCK_SKEW_MS {
            return Err(RequestSignatureError::Clock {
                timestamp_ms: self.timestamp_ms,
                now_ms,
            });
        }
        let message = request_sign_bytes(method, path, body, self.timestamp_ms, self.counter);
        if self.key.verify(&message, &self.signature) {
            Ok(())
        } else {
            Err(RequestSignatureError::Signature)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_breaks_the_signature() {
        let key = KeyPair::from_seed(&[3; 32]);
        let signed = RequestSignature::new(&key, "POST", "/health", b"{}", 1_000, 7);
        assert_eq!(signed.verify("POST", "/health", b"{}", 1_000), Ok(()));
        let wrong = Err(RequestSignatureError::Signature);
        assert_eq!(signed.verify("GET", "/health", b"{}", 1_000), wrong);
        assert_eq!(signed.verify("POST", "/register", b"{}", 1_000), wrong);
        assert_eq!(signed.verify("POST", "/health", b"{ }", 1_000), wrong);
        assert_eq!(
            RequestSignature {
                counter: 8,
                ..signed
            }
            .verify("POST", "/health", b"{}", 1_000),
            wrong
        );
        assert!(matches!(
            signed.verify("POST", "/health", b"{}", 1_001 + MAX_CLOCK_SKEW_MS),
            Err(RequestSignatureError::Clock { .. })
        ));
    }

    #[test]
    fn headers_carry_the_signature() {
        let key = KeyPair::from_seed(&[3; 32]);
        let signed = RequestSignature::new(&key, "POST", "/health", b"{}", 1_000, 7);
        let headers = signed.headers();
        let get = |name| {
            headers
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(RequestSignature::from_headers(get), Ok(signed));
        assert_eq!(
            RequestSignature::from_headers(|_| None),
            Err(RequestSignatureError::Header(HEADER_KEY))
        );
    }
}
