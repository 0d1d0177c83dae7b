//! Errors as problem documents.

use axolotl_common::{
    Signature,
    registry_api::{Problem, problem},
    signed_request::RequestSignatureError,
};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    cluster::{recovery::Refused, registration::Refusal},
    registry::CallError,
};

/// Kind of problems that need no name of their own.
const BLANK: &str = "about:blank";

/// An error on its way to the caller.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    detail: String,
    proof: Option<Box<Signature>>,
}

impl ApiError {
    /// A problem without a kind of its own.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self::of_kind(status, BLANK, detail)
    }

    /// A problem that programs act on.
    pub fn of_kind(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            detail: detail.into(),
            proof: None,
        }
    }

    /// Too many requests or streams at once.
    pub fn busy() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests at once; try again",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: self.kind.to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            proof: self.proof,
        };
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer, AxolotlSignature"),
            );
        }
        response
    }
}

impl From<RequestSignatureError> for ApiError {
    fn from(error: RequestSignatureError) -> Self {
        let kind = match error {
            RequestSignatureError::Clock { .. } => problem::CLOCK,
            _ => BLANK,
        };
        Self::of_kind(StatusCode::UNAUTHORIZED, kind, error.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (status, kind) = match &refusal {
            Refusal::Invalid { .. } | Refusal::TwoLeaders(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, BLANK)
            }
            Refusal::JoinToken => (StatusCode::UNAUTHORIZED, problem::JOIN_TOKEN),
            Refusal::UnknownKey => (StatusCode::NOT_FOUND, problem::UNKNOWN_NODE),
            Refusal::NotYours { .. } => (StatusCode::UNAUTHORIZED, BLANK),
            Refusal::Replay { .. } => (StatusCode::CONFLICT, problem::REPLAY),
            Refusal::Incarnation { .. }
            | Refusal::OtherStart { .. }
            | Refusal::RunsTwice(_)
            | Refusal::OtherVolume
            | Refusal::VolumeTaken(_) => (StatusCode::CONFLICT, BLANK),
            Refusal::LabelTaken(_) => (StatusCode::CONFLICT, problem::LABEL_TAKEN),
            Refusal::StoreLost(_) => (StatusCode::CONFLICT, problem::STORE_LOST),
            Refusal::OtherChain { .. } => (StatusCode::CONFLICT, problem::OTHER_CHAIN),
            Refusal::Limits { .. } => (StatusCode::UNPROCESSABLE_ENTITY, problem::LIMITS),
            Refusal::StillForming => (StatusCode::CONFLICT, problem::FORMING),
            Refusal::NoSuchNode(_) => (StatusCode::NOT_FOUND, problem::UNKNOWN_NODE),
            Refusal::Quorum(_) => (StatusCode::CONFLICT, problem::QUORUM),
            Refusal::Recovery(Refused::OneThing) => (StatusCode::UNPROCESSABLE_ENTITY, BLANK),
            Refusal::Recovery(Refused::NoChain) => (StatusCode::CONFLICT, problem::FORMING),
            Refusal::Recovery(_) => (StatusCode::CONFLICT, problem::QUORUM),
            Refusal::Full => (StatusCode::SERVICE_UNAVAILABLE, BLANK),
            Refusal::TooMany => (StatusCode::TOO_MANY_REQUESTS, BLANK),
        };
        Self::of_kind(status, kind, refusal.to_string())
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => refusal.into(),
            CallError::OtherProcess { refusal, proof } => Self {
                proof: Some(proof),
                ..Self::of_kind(
                    StatusCode::CONFLICT,
                    problem::OTHER_PROCESS,
                    refusal.to_string(),
                )
            },
            CallError::Ending => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the registry is ending; try again",
            ),
            // The cause is in the log.
            CallError::Store(_) | CallError::Genesis(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the registry failed; its log says why",
            ),
        }
    }
}
