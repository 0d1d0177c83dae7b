//! The JSON-RPC 2.0 envelope: bodies taken apart without building a tree, answers put together.
//!
//! A body is first scanned for depth and number of entries, which costs no memory; then calls are
//! cut out as slices of the body, so that what a client sends is held once.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{answers::AnswerBuffer, error::RpcError, params::Params};

/// Deepest nesting of arrays and objects in a body; the deepest honest one, an access list in a
/// batch, has seven levels.
pub(crate) const MAX_DEPTH: usize = 32;
/// Longest `id` that is repeated in an answer, bytes of JSON.
const MAX_ID_BYTES: usize = 1_024;
/// Longest name of a method that is repeated in an error, bytes.
const MAX_METHOD_BYTES: usize = 64;

/// What a body holds.
pub(crate) enum Body<'a> {
    /// One call.
    Single(&'a RawValue),
    /// A list of calls, not empty.
    Batch(Vec<&'a RawValue>),
}

/// Takes a body apart.
pub(crate) fn parse(body: &[u8], max_batch: usize) -> Result<Body<'_>, RpcError> {
    let shape = scan(body);
    if shape.depth > MAX_DEPTH {
        return Err(RpcError::InvalidRequest(format!(
            "invalid request: nested deeper than {MAX_DEPTH} levels"
        )));
    }
    if shape.is_array && shape.separators >= max_batch {
        return Err(RpcError::InvalidRequest(format!(
            "batch too large: at most {max_batch} calls"
        )));
    }
    let parse_error = |e: serde_json::Error| RpcError::Parse(e.to_string());
    if !shape.is_array {
        return serde_json::from_slice(body)
            .map(Body::Single)
            .map_err(parse_error);
    }
    let calls: Vec<&RawValue> = serde_json::from_slice(body).map_err(parse_error)?;
    if calls.is_empty() {
        return Err(RpcError::InvalidRequest("empty batch".into()));
    }
    Ok(Body::Batch(calls))
}

/// Outline of a JSON text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    /// Levels of arrays and objects.
    depth: usize,
    /// Whether the outermost value is an array.
    is_array: bool,
    /// Commas directly inside the outermost value.
    separators: usize,
}

/// Reads the outline of a text that may or may not be JSON.
fn scan(body: &[u8]) -> Shape {
    let mut shape = Shape::default();
    let (mut level, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in body {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => {
                if level == 0 && shape.depth == 0 {
                    shape.is_array = *byte == b'[';
                }
                level += 1;
                shape.depth = shape.depth.max(level);
            }
            b']' | b'}' => level = level.saturating_sub(1),
            b',' if level == 1 => shape.separators += 1,
            _ => {}
        }
    }
    shape
}

/// One call, as far as it could be read.
pub(crate) struct Call<'a> {
    /// Its id; `None` marks a notification, which gets no answer.
    pub(crate) id: Option<&'a str>,
    /// Method and parameters, or what is wrong with the call.
    pub(crate) content: Result<(Cow<'a, str>, Params<'a>), RpcError>,
}

#[derive(Deserialize)]
struct RawCall<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
}

/// A member that is there, be it `null`.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(d).map(Some)
}

impl<'a> Call<'a> {
    /// Reads one call.
    pub(crate) fn read(raw: &'a RawValue) -> Self {
        let invalid = || RpcError::InvalidRequest("invalid request".into());
        let Some(call) = raw
            .get()
            .starts_with('{')
            .then(|| serde_json::from_str::<RawCall<'a>>(raw.get()).ok())
            .flatten()
        else {
            return Self {
                id: Some("null"),
                content: Err(invalid()),
            };
        };
        let id = call.id.map(RawValue::get);
        if id.is_some_and(|id| id.starts_with(['[', '{', 't', 'f']) || id.len() > MAX_ID_BYTES) {
            return Self {
                id: Some("null"),
                content: Err(invalid()),
            };
        }
        let method = call
            .method
            .and_then(|method| serde_json::from_str::<Text<'a>>(method.get()).ok());
        let content = match (call.jsonrpc.map(RawValue::get), method) {
            (Some("\"2.0\""), Some(Text(method))) => {
                Params::parse(call.params).map(|params| (method, params))
            }
            _ => Err(invalid()),
        };
        // What is no call at all is answered even without an id, as the specification asks.
        let id = match (&content, id) {
            (Err(RpcError::InvalidRequest(_)), None) => Some("null"),
            (_, id) => id,
        };
        Self { id, content }
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Appends the answer to one call.
///
/// # Errors
/// When the budget for answers is in use.
pub(crate) fn write(
    reply: &mut AnswerBuffer,
    id: &str,
    result: Result<AnswerBuffer, RpcError>,
) -> Result<(), RpcError> {
    reply.push(b"{\"jsonrpc\":\"2.0\",\"id\":")?;
    reply.push(id.as_bytes())?;
    match result {
        Ok(result) => {
            reply.push(b",\"result\":")?;
            reply.append(result)?;
        }
        Err(error) => {
            reply.push(b",\"error\":")?;
            reply.push_json(&error.to_json())?;
        }
    }
    reply.push(b"}")
}

/// The answer to a request of which nothing was carried out.
pub(crate) fn failure(error: &RpcError) -> String {
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{}}}",
        error.to_json()
    )
}

/// A method that is not there, with its name cut to a bearable length.
pub(crate) fn unknown_method(name: &str) -> RpcError {
    let end = name.floor_char_boundary(MAX_METHOD_BYTES);
    RpcError::MethodNotFound(name[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rpc::{answers::AnswerBudget, connections::Connections};

    fn read(text: &str) -> (Option<String>, Result<String, i64>) {
        let raw = RawValue::from_string(text.to_owned()).unwrap();
        let call = Call::read(&raw);
        (
            call.id.map(str::to_owned),
            call.content
                .map(|(method, _)| method.into_owned())
                .map_err(|e| e.code()),
        )
    }

    #[test]
    fn calls_are_read_as_geth_reads_them() {
        let some = |id: &str| Some(id.to_owned());
        let table = [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#,
                some("1"),
                Ok("a".to_owned()),
            ),
            (
                r#"{"jsonrpc":"2.0","id":"x","method":"a","params":[1]}"#,
                some("\"x\""),
                Ok("a".into()),
            ),
            (
                r#"{"jsonrpc":"2.0","id":null,"method":"a\u0062"}"#,
                some("null"),
                Ok("ab".into()),
            ),
            (r#"{"jsonrpc":"2.0","method":"a"}"#, None, Ok("a".into())),
            (r#"{"id":1,"method":"a"}"#, some("1"), Err(-32600)),
            (
                r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#,
                some("1"),
                Err(-32600),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":5}"#,
                some("1"),
                Err(-32600),
            ),
            (r#"{"jsonrpc":"2.0","id":1}"#, some("1"), Err(-32600)),
            (r#"{"jsonrpc":"2.0"}"#, some("null"), Err(-32600)),
            (
                r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#,
                some("null"),
                Err(-32600),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"b":1}}"#,
                some("1"),
                Err(-32602),
            ),
            ("1", some("null"), Err(-32600)),
            ("null", some("null"), Err(-32600)),
            ("[]", some("null"), Err(-32600)),
        ];
        for (text, id, content) in table {
            assert_eq!(read(text), (id, content), "{text}");
        }
    }

    #[test]
    fn shapes_are_seen_without_parsing() {
        assert_eq!(scan(b"{\"a\":[1,2,[3]],\"b\":\"[[[[\\\"[\"}").depth, 3);
        let batch = scan(b" [ {\"x\":[1,2,3]}, {}, 3 ]");
        assert_eq!(
            batch,
            Shape {
                depth: 3,
                is_array: true,
                separators: 2
            }
        );
        assert!(!scan(b"nothing [").is_array || scan(b"nothing [").depth == 1);
    }

    #[test]
    fn bodies_are_bounded() {
        let code = |body: &str| match parse(body.as_bytes(), 3) {
            Ok(Body::Single(_)) => 1,
            Ok(Body::Batch(calls)) => 100 + calls.len() as i64,
            Err(error) => error.code(),
        };
        assert_eq!(code("{}"), 1);
        assert_eq!(code("[1,2,3]"), 103);
        assert_eq!(code("[1,2,3,4]"), -32600);
        assert_eq!(code("[]"), -32600);
        assert_eq!(code(""), -32700);
        assert_eq!(code("{\"a\":"), -32700);
        assert_eq!(code("{} {}"), -32700);
        assert_eq!(code("[1,2"), -32700);
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(code(&nested(MAX_DEPTH)), 101);
        assert_eq!(code(&nested(MAX_DEPTH + 1)), -32600);
        assert_eq!(code(&nested(1_000_000)), -32600);
        assert!(matches!(parse(b"\"\xff\"", 3), Err(RpcError::Parse(_))));
    }

    #[test]
    fn answers_are_json() {
        let connections = Arc::new(Connections::new(1));
        let budget = AnswerBudget::new(1 << 20, connections);
        let write = |id: &str, result| {
            let mut reply = AnswerBuffer::reply(&budget);
            super::write(&mut reply, id, result).unwrap();
            reply.text()
        };
        let mut result = AnswerBuffer::reply(&budget);
        result.push_json("0x1").unwrap();
        let fine = write("7", Ok(result));
        assert_eq!(fine, r#"{"jsonrpc":"2.0","id":7,"result":"0x1"}"#);
        let error = write("\"a\"", Err(unknown_method(&"é".repeat(100))));
        let value: serde_json::Value = serde_json::from_str(&error).unwrap();
        assert_eq!(value["id"], "a");
        assert_eq!(value["error"]["code"], -32601);
        assert!(error.len() < 250, "{error}");
        let refused = failure(&RpcError::Limit("limit exceeded".into()));
        let value: serde_json::Value = serde_json::from_str(&refused).unwrap();
        assert_eq!(
            (&value["id"], &value["error"]["code"]),
            (&serde_json::Value::Null, &(-32005).into())
        );
    }
}
