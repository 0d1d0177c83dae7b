//! A request as it came, and the checks on it.

use axolotl_common::{
    registry_api::{MAX_ANSWER_BYTES, MAX_BODY_BYTES, problem},
    signed_request::{HEADER_JOIN_TOKEN, HEADER_KEY, RequestSignature},
};
use axum::{
    Extension,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use futures::StreamExt;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Api,
    admission::{Caller, FREE_BODY_BYTES, Place},
    connections::{Busy, Handle},
    error::ApiError,
};
use crate::registry::{Signed, wall_ms};

/// What is read of a body that is too large, and not kept: little more than the largest that any call may
/// have. It takes time of its connection, which is bounded, and no memory.
const DISCARDED_MAX_BYTES: usize = MAX_ANSWER_BYTES + (1 << 20);

/// Largest body of a call, where it is not [`MAX_BODY_BYTES`].
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimit(usize);

/// Lets the bodies of answers to orders have [`MAX_ANSWER_BYTES`].
pub(super) fn answer_limit() -> Extension<BodyLimit> {
    Extension(BodyLimit(MAX_ANSWER_BYTES))
}

/// A request that has arrived whole, and its place.
#[derive(Debug)]
pub(super) struct Call {
    parts: Parts,
    body: Body,
    /// The signer, or why there is none; `None` where none is claimed.
    signed: Option<Result<Signed, ApiError>>,
    _place: Place,
}

/// A body, and the bytes of the budget that it takes.
#[derive(Debug, Default)]
struct Body {
    bytes: Vec<u8>,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Body {
    /// Reads a body of at most `most` bytes. What it holds beyond [`FREE_BODY_BYTES`] is paid for when it
    /// comes.
    async fn read(
        body: axum::body::Body,
        most: usize,
        api: &Api,
        connection: Option<&Handle>,
    ) -> Result<Self, ApiError> {
        let too_large = || {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is larger than this call may have",
            )
        };
        let announced = body.size_hint().lower();
        let mut chunks = body.into_data_stream();
        if usize::try_from(announced).is_ok_and(|length| length > most) {
            // A client that is cut off while it writes does not read the answer.
            let mut discarded = 0;
            while discarded < DISCARDED_MAX_BYTES
                && let Some(Ok(chunk)) = chunks.next().await
            {
                discarded += chunk.len();
            }
            return Err(too_large());
        }
        let mut read = Self::default();
        let mut reading = None;
        let mut paid = FREE_BODY_BYTES;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| {
                ApiError::new(StatusCode::BAD_REQUEST, "the body could not be read")
            })?;
            let length = read.bytes.len() + chunk.len();
            if length > most {
                return Err(too_large());
            }
            if length > paid {
                reading = reading.or_else(|| connection.map(Handle::reading_body));
                // The buffer may grow to twice what it holds, so twice is paid for.
                let permit = api
                    .admission
                    .body_bytes(2 * length - paid, connection)
                    .await?;
                read.permits.push(permit);
                paid = 2 * length;
            }
            read.bytes.extend_from_slice(&chunk);
        }
        drop(reading);
        Ok(read)
    }
}

/// Reads a request whole, sees who signed it, and takes a place for it.
async fn arrived(request: Request, api: &Api, caller: Option<Caller>) -> Result<Call, ApiError> {
    let (parts, body) = request.into_parts();
    let connection = parts.extensions.get::<Handle>();
    let most = parts.extensions.get::<BodyLimit>();
    let most = most.map_or(MAX_BODY_BYTES, |limit| limit.0);
    let body = Body::read(body, most, api, connection).await?;
    let signed = parts
        .headers
        .contains_key(HEADER_KEY)
        .then(|| verify(&parts, &body.bytes, api));
    let signer = signed.as_ref().and_then(|signed| signed.as_ref().ok());
    if let (Some(connection), Some(signer)) = (connection, signer) {
        connection.slot.set_signer(signer.key);
    }
    let caller = caller.unwrap_or_else(|| match signer {
        Some(signer) if api.registry.knows(&signer.key) => Caller::Known,
        _ => Caller::Stranger,
    });
    let place = api.admission.place(caller, connection)?;
    Ok(Call {
        parts,
        body,
        signed,
        _place: place,
    })
}

/// Checks the signature of a request. The counter is checked by the registry.
fn verify(parts: &Parts, body: &[u8], api: &Api) -> Result<Signed, ApiError> {
    let signature = RequestSignature::from_headers(|name| text(&parts.headers, name))?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let now_ms = wall_ms();
    signature.verify(parts.method.as_str(), path, body, now_ms)?;
    let started_ms = api.registry.started_ms();
    if signature.timestamp_ms < started_ms {
        // It may have been taken by the process before this one, whose counters are gone.
        return Err(ApiError::of_kind(
            StatusCode::UNAUTHORIZED,
            problem::CLOCK,
            format!(
                "time stamp {} is before this registry's start at {started_ms}; the server's \
                 time is {now_ms}; try again",
                signature.timestamp_ms
            ),
        ));
    }
    Ok(Signed {
        key: signature.key,
        counter: signature.counter,
    })
}

impl FromRequest<Api> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        arrived(request, api, None).await
    }
}

/// A call of an operator: who does not show the admin token has no body read.
#[derive(Debug)]
pub(super) struct OperatorCall(Call);

impl FromRequest<Api> for OperatorCall {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        own_page(request.headers())?;
        admin(request.headers(), api)?;
        let call = arrived(request, api, Some(Caller::Known)).await?;
        call.mutating()?;
        Ok(Self(call))
    }
}

impl OperatorCall {
    /// Reads the body.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        self.0.json()
    }
}

/// A report of a node, or of an operator: the latter shows the admin token instead of a signature.
#[derive(Debug)]
pub(super) enum ReportCall {
    /// Whoever showed the admin token.
    Operator(OperatorCall),
    /// Whoever signs.
    Node(Call),
}

impl FromRequest<Api> for ReportCall {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        if request.headers().contains_key(header::AUTHORIZATION) {
            return Ok(Self::Operator(
                OperatorCall::from_request(request, api).await?,
            ));
        }
        let call = Call::from_request(request, api).await?;
        call.mutating()?;
        Ok(Self::Node(call))
    }
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Writes whole numbers without a fraction. The depth of `value` is bounded by who read it.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            // Negative ones fit no field, with a fraction or without one.
            if let Some(whole) = number.as_f64()
                && whole.fract() == 0.0
                && (0.0..u64::MAX as f64).contains(&whole)
            {
                *number = (whole as u64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// Refuses what a foreign web page makes a browser send.
fn own_page(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = text(headers, header::ORIGIN) else {
        return Ok(());
    };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    if authority.is_some() && authority == text(headers, header::HOST) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        format!("a page of {origin:?} may not call this"),
    ))
}

/// Checks the admin token.
fn admin(headers: &HeaderMap, api: &Api) -> Result<(), ApiError> {
    let shown = text(headers, header::AUTHORIZATION)
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    if shown.is_some_and(|shown| api.registry.admin_token().matches(shown)) {
        Ok(())
    } else {
        Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "this call needs `Authorization: Bearer <admin token>`; whoever may read the \
             registry's data directory prints the token with `axolotl-registry admin-token` \
             (in Docker: `docker exec registry axolotl-registry admin-token`)",
        ))
    }
}

impl Call {
    /// The headers.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    fn text(&self, name: impl header::AsHeaderName) -> Option<&str> {
        text(&self.parts.headers, name)
    }

    /// Checks what every call that changes something must be: from no foreign web page, and JSON
    /// where it has a body.
    pub(super) fn mutating(&self) -> Result<(), ApiError> {
        own_page(&self.parts.headers)?;
        if self.body.bytes.is_empty() {
            return Ok(());
        }
        let kind = self.text(header::CONTENT_TYPE).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Ok(())
        } else {
            Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("expected Content-Type: application/json, got {kind:?}"),
            ))
        }
    }

    /// Reads the body: an object, in which 5.0 is the number 5 as JSON Schema has it.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let fault = |status, why: String| ApiError::new(status, format!("the body: {why}"));
        let mut value: Value = serde_json::from_slice(&self.body.bytes)
            .map_err(|e| fault(StatusCode::BAD_REQUEST, e.to_string()))?;
        if !value.is_object() {
            let why = "expected an object".to_owned();
            return Err(fault(StatusCode::UNPROCESSABLE_ENTITY, why));
        }
        whole_numbers(&mut value);
        serde_json::from_value(value)
            .map_err(|e| fault(StatusCode::UNPROCESSABLE_ENTITY, e.to_string()))
    }

    /// Whether the call claims to be a node's.
    pub(super) fn claims_signature(&self) -> bool {
        self.signed.is_some()
    }

    /// Marks the connection busy for as long as a stream is open on it.
    pub(super) fn streaming(&self) -> Option<Busy> {
        self.parts.extensions.get::<Handle>().map(Handle::busy)
    }

    /// The signer, whose signature was checked.
    pub(super) fn signed(&self, api: &Api) -> Result<Signed, ApiError> {
        match &self.signed {
            Some(signed) => signed.clone(),
            None => verify(&self.parts, &self.body.bytes, api),
        }
    }

    /// Whether the call shows the join token.
    pub(super) fn shows_join_token(&self, api: &Api) -> bool {
        let shown = self.text(HEADER_JOIN_TOKEN);
        shown.is_some_and(|shown| api.registry.join_token().matches(shown))
    }
}
