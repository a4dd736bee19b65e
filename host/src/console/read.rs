//! What the console needs from the rest of the program, and nothing more of it.
//!
//! The console only reads, but for its own entries in the audit. Each trait is one source it reads from; a deadline around every call is the console's.

use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::broadcast;

use std::sync::Arc;

use crate::{
    fleet::{
        job::{Job, JobKey, JobStatus},
        runner::{Runner, RunnerName, RunnerState},
    },
    store::{AuditEntry, Changed, DeliveryRecord, EventRow, JobFilter, Page, RunnerFilter, StoreError},
};

/// An answer of the store.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The stored state, for reading. Listings are newest first, histories oldest first.
pub trait Read: Send + Sync {
    fn jobs<'a>(&'a self, filter: &'a JobFilter, cursor: Option<&'a str>, limit: u32) -> Answer<'a, Page<Job>>;
    fn job(&self, key: JobKey) -> Answer<'_, Option<Job>>;
    /// The newest attempt of GitHub's job.
    fn latest_attempt(&self, id: i64) -> Answer<'_, Option<Job>>;
    fn runners<'a>(&'a self, filter: &'a RunnerFilter, cursor: Option<&'a str>, limit: u32)
    -> Answer<'a, Page<Runner>>;
    fn runner<'a>(&'a self, name: &'a RunnerName) -> Answer<'a, Option<Runner>>;
    fn events_of_job(&self, key: JobKey) -> Answer<'_, Vec<EventRow>>;
    fn events_of_runner<'a>(&'a self, name: &'a RunnerName) -> Answer<'a, Vec<EventRow>>;
    /// States without a job may be left out.
    fn job_counts(&self) -> Answer<'_, Vec<(JobStatus, u64)>>;
    fn runner_counts(&self) -> Answer<'_, Vec<(RunnerState, u64)>>;
    fn deliveries<'a>(&'a self, cursor: Option<&'a str>, limit: u32) -> Answer<'a, Page<DeliveryRecord>>;
    fn audit<'a>(&'a self, cursor: Option<&'a str>, limit: u32) -> Answer<'a, Page<AuditEntry>>;
    /// What changes from now on, in commit order. The channel's size is what a slow reader may lag behind.
    fn subscribe(&self) -> broadcast::Receiver<Arc<[Changed]>>;
}

/// The one thing the console writes: who did what.
pub trait Audit: Send + Sync {
    fn record(&self, entry: AuditEntry) -> Answer<'_, ()>;
}

/// A backend of the configuration and how it does.
#[derive(Debug, Clone, Serialize)]
pub struct BackendView {
    pub name: String,
    pub plugin: String,
    /// What the component says of itself; none while it is not loaded.
    pub version: Option<String>,
    pub digest: Option<String>,
    pub grants: Vec<GrantView>,
    pub health: HealthView,
    pub latencies: Vec<LatencyView>,
}

/// An endpoint a backend may reach. The target holds no credential.
#[derive(Debug, Clone, Serialize)]
pub struct GrantView {
    pub name: String,
    pub target: String,
    /// What proves who is asking there, each by its kind, such as `bearer token`.
    pub credentials: Vec<&'static str>,
    /// The proxy on the way there.
    pub proxy: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct HealthView {
    /// `loading`, `ok`, `degraded` or `down`.
    pub status: &'static str,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct LatencyView {
    pub operation: String,
    pub calls: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// The backends as they are now.
pub trait BackendStatus: Send + Sync {
    fn backends(&self) -> Vec<BackendView>;
}

/// One part of being ready: fine, or why not.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    pub name: String,
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether work can be done: database, backends, GitHub.
pub trait Readiness: Send + Sync {
    fn parts(&self) -> BoxFuture<'_, Vec<Part>>;
}

/// Why a job is where it is: for programs and for people.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub json: serde_json::Value,
    /// Lines with their indentation, as `pacer explain` prints them.
    pub text: String,
}

pub trait Explain: Send + Sync {
    fn explain<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Explanation>;
}
