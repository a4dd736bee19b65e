//! A backend as the host sees it; the component bindings convert to and from these.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Serialize;

use super::schema::Schema;
use crate::{fleet::runner::RunnerName, routing::BackendName};

/// The backends of the configuration. Every call is bounded by its `deadline`, counted from now.
pub trait Backends: Send + Sync {
    fn create(
        &self,
        backend: &BackendName,
        request: Arc<RunnerRequest>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Instance, BackendError>>;

    fn get(
        &self,
        backend: &BackendName,
        handle: &str,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Option<Instance>, BackendError>>;

    /// Every machine of `owner`, all pages.
    fn list(
        &self,
        backend: &BackendName,
        owner: &str,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<Instance>, BackendError>>;

    fn destroy(
        &self,
        backend: &BackendName,
        handle: &str,
        grace: Duration,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Destruction, BackendError>>;

    fn renew_lease(
        &self,
        backend: &BackendName,
        handle: &str,
        until: Timestamp,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<(), BackendError>>;

    /// What a machine of these pool settings would cost now. For backends with the capability `quote`.
    fn quote(
        &self,
        backend: &BackendName,
        settings: &serde_json::Value,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Option<Price>, BackendError>>;

    fn console_log(
        &self,
        backend: &BackendName,
        handle: &str,
        max_bytes: u32,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<String, BackendError>>;

    /// SHA-256 of the component in force, if it is loaded.
    fn digest(&self, backend: &BackendName) -> Option<Arc<str>>;

    /// What the component in force says of itself, once it takes its settings and those of a pool: with what it has
    /// against them the pool brings up nothing. Waits for one that is still loading.
    fn fit(
        &self,
        backend: &BackendName,
        pool: &serde_json::Value,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Arc<Description>, BackendError>>;

    /// What the component in force says of itself. Waits for one that is still loading.
    fn described(
        &self,
        backend: &BackendName,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Arc<Description>, BackendError>>;
}

/// What went wrong, as a class; see the WIT package. `Trap`-like faults of a component arrive as `Internal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    InvalidRequest,
    InvalidConfig,
    Unauthorized,
    NotFound,
    Conflict,
    Capacity,
    Quota,
    RateLimited,
    Unavailable,
    Interrupted,
    Unsupported,
    Internal,
    Other,
}

impl ErrorKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::InvalidConfig => "invalid-config",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Capacity => "capacity",
            Self::Quota => "quota",
            Self::RateLimited => "rate-limited",
            Self::Unavailable => "unavailable",
            Self::Interrupted => "interrupted",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call of a backend failed. The message names the backend and what to do; it holds no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} ({kind})")]
pub struct BackendError {
    pub kind: ErrorKind,
    pub message: String,
    pub retry_after: Option<Duration>,
    /// Whether the component was called at all; if not, nothing can have come of it.
    pub asked: bool,
}

#[derive(Debug)]
pub enum Bootstrap {
    JitConfig(SecretString),
    StartScript(SecretString),
    CloudInit(SecretString),
}

#[derive(Debug)]
pub struct RunnerRequest {
    pub name: RunnerName,
    pub owner: String,
    pub labels: Vec<String>,
    /// The pool's settings.
    pub settings: serde_json::Value,
    pub bootstrap: Bootstrap,
    /// Parts of the bootstrap that no message of the backend may repeat.
    pub secrets: Vec<SecretString>,
    pub lease_until: Timestamp,
    pub tags: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceState {
    Creating,
    Running,
    Stopping,
    Stopped,
    Failed(String),
    Interrupted(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Price {
    pub micros_per_hour: u64,
    pub currency: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub handle: String,
    pub name: String,
    pub owner: String,
    pub state: InstanceState,
    pub addresses: Vec<String>,
    pub created_at: Option<Timestamp>,
    pub lease_until: Option<Timestamp>,
    pub hold: bool,
    pub price: Option<Price>,
    pub attributes: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destruction {
    Gone,
    Stopping,
}

#[derive(Debug, Clone, Serialize)]
pub struct EndpointRequest {
    pub name: String,
    pub purpose: String,
    pub required: bool,
    pub example: String,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Billing {
    pub granularity_seconds: u32,
    pub minimum_seconds: u32,
}

#[derive(Debug, Clone, Serialize)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub summary: String,
    pub settings_schema: Schema,
    pub pool_schema: Schema,
    pub endpoints: Vec<EndpointRequest>,
    pub capabilities: Vec<String>,
    pub bootstraps: Vec<String>,
    pub billing: Billing,
    pub attributes: Vec<(String, String)>,
}
