//! One call's view of the egress: its deadline, how many requests it may hold open, and what it is told of in the log.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use secrecy::SecretString;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use wasmtime_wasi_http::Error as Code;

use super::{super::log::CallLog, grants::Refused};
use crate::{
    config::PluginLimits,
    plugins::ErrorKind,
    routing::{BackendName, shown},
};

/// Different warnings of one call. Its own log has another budget, so that a chatty component cannot hide these.
const WARNINGS: usize = 16;

/// Of the name that was asked for, and of what is told of it, in bytes.
const ASKED: usize = 256;
const REFUSED: usize = 2_000;

/// A request that came to nothing: what the component is told, and what a person is.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Failure {
    pub code: Code,
    pub class: Class,
    pub reason: String,
}

/// Who has to do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The operator grants it, or the component is not to be trusted.
    Denied,
    /// The operator raises a limit, or the component is wasteful.
    Limit,
    /// Nobody: what is out of reach comes back.
    Unreachable,
}

impl Failure {
    pub fn denied(reason: impl Into<String>) -> Self {
        Self { code: Code::HttpRequestDenied, class: Class::Denied, reason: reason.into() }
    }

    pub fn limit(code: Code, reason: impl Into<String>) -> Self {
        Self { code, class: Class::Limit, reason: reason.into() }
    }

    pub fn unreachable(code: Code, reason: impl Into<String>) -> Self {
        Self { code, class: Class::Unreachable, reason: reason.into() }
    }

    /// The class for a component that opened a stream.
    pub fn kind(&self) -> ErrorKind {
        match self.class {
            Class::Denied => ErrorKind::Unauthorized,
            Class::Limit => ErrorKind::Internal,
            Class::Unreachable => ErrorKind::Unavailable,
        }
    }
}

/// Shared by everything that one call has under way.
pub(super) struct Call {
    pub deadline: Instant,
    pub limits: PluginLimits,
    backend: BackendName,
    log: Arc<CallLog>,
    slots: Arc<Semaphore>,
    reached_out: AtomicBool,
    warned: Mutex<BTreeSet<String>>,
}

impl Call {
    pub fn new(backend: BackendName, limits: PluginLimits, deadline: Instant, log: Arc<CallLog>) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(limits.requests as usize));
        Arc::new(Self {
            deadline,
            limits,
            backend,
            log,
            slots,
            reached_out: AtomicBool::new(false),
            warned: Mutex::default(),
        })
    }

    /// Held as long as a request or a connection is under way.
    pub fn slot(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.reached_out.store(true, Ordering::Relaxed);
        self.slots.clone().try_acquire_owned().map_err(|_| {
            let backend = &self.backend;
            let reason = format!(
                "it has {} requests and connections open, as many as `backends.{backend}.limits.requests` allows",
                self.limits.requests
            );
            Failure::limit(Code::ConnectionLimitReached, reason)
        })
    }

    /// Whether a request or a connection was begun.
    pub fn reached_out(&self) -> bool {
        self.reached_out.load(Ordering::Relaxed)
    }

    /// At the latest so long from now.
    pub fn until(&self, timeout: Duration) -> Instant {
        Instant::now().checked_add(timeout).map_or(self.deadline, |at| at.min(self.deadline))
    }

    pub fn response_too_large(&self) -> Failure {
        let (backend, limit) = (&self.backend, self.limits.response_size);
        let reason =
            format!("the answer is larger than the {limit} bytes that `backends.{backend}.limits.response` allows");
        Failure::limit(Code::HttpResponseBodySize(Some(limit)), reason)
    }

    pub fn request_too_large(&self) -> Failure {
        let (backend, limit) = (&self.backend, self.limits.request_size);
        let reason =
            format!("the request is larger than the {limit} bytes that `backends.{backend}.limits.request` allows");
        Failure::limit(Code::HttpRequestBodySize(Some(limit)), reason)
    }

    /// Has what the component says from now on cleared of a secret.
    pub fn hide(&self, secret: SecretString) {
        self.log.hide(secret);
    }

    /// What was refused, told under the name that was asked for.
    pub fn refused(&self, asked: &str, refused: &Refused) -> Failure {
        let failure = Failure::denied(self.log.redact_up_to(&refused.told(&self.backend), REFUSED));
        // Blanked out before it is cut, or half a secret would pass.
        self.tell(&shown(&self.log.redact_up_to(asked, ASKED)), "", &failure);
        failure
    }

    /// Tells the log; a component that sent a request gets the code alone.
    pub fn tell(&self, endpoint: &str, target: &str, failure: &Failure) {
        let Failure { class, reason, .. } = failure;
        let log = &self.log;
        match class {
            Class::Denied | Class::Limit => {
                let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
                if warned.len() >= WARNINGS || !warned.insert(format!("{endpoint}\n{reason}")) {
                    return;
                }
                drop(warned);
                tracing::warn!(
                    backend.name = %self.backend, endpoint, target, operation = log.operation,
                    operation.id = %log.operation_id,
                    "{reason}"
                );
            }
            Class::Unreachable => tracing::debug!(
                backend.name = %self.backend, endpoint, target, operation = log.operation,
                operation.id = %log.operation_id,
                "{reason}"
            ),
        }
    }
}
