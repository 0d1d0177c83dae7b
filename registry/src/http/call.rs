//! A request as it came, and the checks on it.

use axolotl_common::{
    registry_api::{MAX_BODY_BYTES, problem},
    signed_request::{HEADER_JOIN_TOKEN, HEADER_KEY, RequestSignature},
};
use axum::{
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{Api, error::ApiError};
use crate::registry::{Signed, wall_ms};

/// Limits bodies to [`MAX_BODY_BYTES`].
pub(super) fn body_limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(MAX_BODY_BYTES)
}

/// A request whose body was read whole.
#[derive(Debug)]
pub(super) struct Call {
    parts: Parts,
    body: Bytes,
}

impl FromRequest<Api> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let again = Request::from_parts(parts.clone(), body);
        let body = Bytes::from_request(again, api).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("a body may have {MAX_BODY_BYTES} bytes"),
                )
            } else {
                ApiError::new(StatusCode::BAD_REQUEST, "the body could not be read")
            }
        })?;
        Ok(Self { parts, body })
    }
}

impl Call {
    /// The headers.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    fn text(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// Checks what every call that changes something must be: JSON, and from no foreign web page.
    pub(super) fn mutating(&self) -> Result<(), ApiError> {
        if let Some(origin) = self.text(header::ORIGIN) {
            let own = self.text(header::HOST);
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            if authority.is_none() || authority != own {
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    format!("a page of {origin:?} may not call this"),
                ));
            }
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

    /// Reads the body.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|e| {
            let status = if e.is_data() {
                StatusCode::UNPROCESSABLE_ENTITY
            } else {
                StatusCode::BAD_REQUEST
            };
            ApiError::new(status, format!("the body: {e}"))
        })
    }

    /// Whether the call claims to be a node's.
    pub(super) fn claims_signature(&self) -> bool {
        self.parts.headers.contains_key(HEADER_KEY)
    }

    /// Checks the signature. The counter is checked by the registry.
    pub(super) fn signed(&self, api: &Api) -> Result<Signed, ApiError> {
        let signature = RequestSignature::from_headers(|name| self.text(name))?;
        let path = self
            .parts
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let now_ms = wall_ms();
        signature.verify(self.parts.method.as_str(), path, &self.body, now_ms)?;
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

    /// Whether the call shows the join token.
    pub(super) fn shows_join_token(&self, api: &Api) -> bool {
        let shown = self.text(HEADER_JOIN_TOKEN);
        shown.is_some_and(|shown| api.registry.join_token().matches(shown))
    }

    /// Whether the call carries a bearer token at all.
    pub(super) fn claims_bearer(&self) -> bool {
        self.parts.headers.contains_key(header::AUTHORIZATION)
    }

    /// Checks the admin token.
    pub(super) fn admin(&self, api: &Api) -> Result<(), ApiError> {
        let shown = self
            .text(header::AUTHORIZATION)
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
}
