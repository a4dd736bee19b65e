//! What the sender gets to read, what the log says, and what is counted, for every outcome of a delivery.

use std::time::Duration;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::{
    body::{BodyError, MAX_BODY},
    payload::PayloadError,
    signature::SignatureError,
};
use crate::{
    routing::RepoName,
    store::{IngestResult, StoreError},
};

/// When whoever delivers by hand should try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("10");

/// What became of a delivery.
pub(super) enum Outcome {
    Stored {
        action: String,
        repo: Option<RepoName>,
        result: IngestResult,
    },
    Pong,
    /// An event that pacer has no use for. Not stored.
    Dropped {
        reason: String,
    },
    Refused(Refusal),
}

/// Why a delivery was not taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Signature(SignatureError),
    #[error("the body is larger than {MAX_BODY} bytes (25 MiB), which is more than GitHub delivers")]
    TooLarge,
    #[error("the body ended before it was complete")]
    Truncated,
    #[error("the body did not come in time")]
    TooSlow,
    #[error("`X-GitHub-Event` is missing or not a word; a proxy may have dropped the header")]
    Event,
    #[error("`X-GitHub-Delivery` is missing or not a GUID; a proxy may have dropped the header")]
    Guid,
    #[error("the content type is not `application/json`; choose it in the webhook settings of the App on GitHub")]
    ContentType,
    #[error("{0}")]
    Payload(PayloadError),
    #[error("too many deliveries at once; redeliver it later")]
    Overloaded,
    #[error("the delivery could not be stored, redeliver it later: {0}")]
    Store(StoreError),
    #[error("the delivery could not be stored in time; redeliver it later")]
    StoreTooSlow,
}

impl From<BodyError> for Refusal {
    fn from(reason: BodyError) -> Self {
        match reason {
            BodyError::TooLarge => Self::TooLarge,
            BodyError::Truncated => Self::Truncated,
            BodyError::TooSlow => Self::TooSlow,
            BodyError::NoMemory => Self::Overloaded,
        }
    }
}

impl Refusal {
    /// The status, and the word it is counted under.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Signature(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::Truncated => (StatusCode::BAD_REQUEST, "truncated"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too_slow"),
            Self::Event | Self::Guid | Self::Payload(_) => (StatusCode::BAD_REQUEST, "malformed"),
            Self::ContentType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "malformed"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Store(_) | Self::StoreTooSlow => (StatusCode::SERVICE_UNAVAILABLE, "not_stored"),
        }
    }

    /// The delivery's own mistakes may quote it, so the log only says what kind they are.
    fn for_log(&self) -> String {
        match self {
            Self::Payload(_) => "the payload is not one of `workflow_job`".to_owned(),
            Self::Signature(_)
            | Self::TooLarge
            | Self::Truncated
            | Self::TooSlow
            | Self::Event
            | Self::Guid
            | Self::ContentType
            | Self::Overloaded
            | Self::Store(_)
            | Self::StoreTooSlow => self.to_string(),
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[derive(Serialize)]
struct Accepted {
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Refused {
    error: String,
}

impl Outcome {
    pub fn dropped_event(event: &str) -> Self {
        Self::Dropped { reason: format!("the event `{event}` is not used; subscribe the App to `Workflow job` only") }
    }

    fn result(&self) -> &'static str {
        match self {
            Self::Stored { result, .. } => match result {
                IngestResult::Enqueued(..) => "enqueued",
                IngestResult::Updated(..) => "updated",
                IngestResult::Duplicate => "duplicate",
                IngestResult::Ignored(_) => "ignored",
                IngestResult::Unmatched(..) => "unmatched",
            },
            Self::Pong => "pong",
            Self::Dropped { .. } => "ignored",
            Self::Refused(refusal) => refusal.kind().1,
        }
    }

    /// The one log line of a delivery, and its count.
    pub fn report(&self, guid: &str, event: &str, took: Duration) {
        let result = self.result();
        metrics::counter!("pacer_webhook_deliveries_total", "result" => result).increment(1);
        let duration_ms = took.as_secs_f64() * 1_000.0;
        match self {
            Self::Stored { action, repo, result: stored } => {
                let job = match stored {
                    IngestResult::Enqueued(key, _)
                    | IngestResult::Updated(key, _)
                    | IngestResult::Unmatched(key, _) => Some(key.to_string()),
                    IngestResult::Duplicate | IngestResult::Ignored(_) => None,
                };
                tracing::info!(
                    delivery.id = guid,
                    github.event = event,
                    github.action = action.as_str(),
                    result,
                    job.id = job,
                    duration_ms,
                    "delivery {guid} taken in: {result}"
                );
                // Whoever is told of a job that nobody serves searches for this word.
                if let IngestResult::Unmatched(key, reason) = stored {
                    tracing::warn!(job.id = %key, "audit.job.no_pool_match: job {key}: {reason}");
                }
                if let Some(repo) = repo {
                    tracing::debug!(delivery.id = guid, repo = %repo, "delivery {guid} is of {repo}");
                }
            }
            Self::Pong | Self::Dropped { .. } => {
                tracing::info!(
                    delivery.id = guid,
                    github.event = event,
                    result,
                    duration_ms,
                    "delivery {guid} answered: {result}"
                );
            }
            Self::Refused(refusal) => {
                let reason = refusal.for_log();
                tracing::warn!(
                    delivery.id = guid,
                    github.event = event,
                    result,
                    duration_ms,
                    "delivery {guid} refused: {reason}"
                );
            }
        }
    }

    pub fn into_response(self) -> Response {
        let result = self.result();
        let body = |job, status, reason| Accepted { result, job, status, reason };
        let (status, body) = match self {
            Self::Refused(refusal) => {
                let (status, _) = refusal.kind();
                let mut response = (status, Json(Refused { error: refusal.to_string() })).into_response();
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
                }
                return response;
            }
            Self::Pong => (StatusCode::OK, body(None, None, None)),
            Self::Dropped { reason } => (StatusCode::OK, body(None, None, Some(reason))),
            Self::Stored { result, .. } => match result {
                IngestResult::Enqueued(key, status) => {
                    (StatusCode::ACCEPTED, body(Some(key.to_string()), Some(status.as_str()), None))
                }
                IngestResult::Updated(key, status) => {
                    (StatusCode::OK, body(Some(key.to_string()), Some(status.as_str()), None))
                }
                IngestResult::Unmatched(key, reason) => {
                    (StatusCode::ACCEPTED, body(Some(key.to_string()), Some("unmatched"), Some(reason)))
                }
                IngestResult::Duplicate => (StatusCode::OK, body(None, None, None)),
                IngestResult::Ignored(reason) => (StatusCode::OK, body(None, None, Some(reason))),
            },
        };
        (status, Json(body)).into_response()
    }
}
