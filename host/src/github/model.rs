//! GitHub as the host sees it.

use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use secrecy::SecretString;

use crate::{
    config::RunnerGroup,
    fleet::{
        job::JobFact,
        runner::{RunnerName, Target},
    },
    routing::RepoName,
};

/// What the host asks of GitHub. Implementations wait for their budget; callers bound the wait.
pub trait GitHubApi: Send + Sync {
    /// Registers a just-in-time runner. [`GitHubErrorKind::NameTaken`] when the name exists.
    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<JitRunner, GitHubError>>;

    /// Looks a runner up by its exact name.
    fn find_runner<'a>(
        &'a self,
        target: &'a Target,
        installation_id: Option<i64>,
        name: &'a RunnerName,
    ) -> BoxFuture<'a, Result<Option<GitHubRunner>, GitHubError>>;

    /// Every runner of the target, all pages.
    fn list_runners<'a>(
        &'a self,
        target: &'a Target,
        installation_id: Option<i64>,
    ) -> BoxFuture<'a, Result<Vec<GitHubRunner>, GitHubError>>;

    /// Removes a runner's registration, unless it executes a job.
    fn delete_runner<'a>(
        &'a self,
        target: &'a Target,
        installation_id: Option<i64>,
        id: i64,
    ) -> BoxFuture<'a, Result<Deleted, GitHubError>>;

    /// A page of the App's log of deliveries, newest first; the first one without a cursor.
    fn delivery_log<'a>(&'a self, cursor: Option<&'a str>) -> BoxFuture<'a, Result<DeliveryPage, GitHubError>>;

    /// The payload of a delivery of the log; none when the log has dropped it.
    fn delivery(&self, id: i64) -> BoxFuture<'_, Result<Option<Vec<u8>>, GitHubError>>;

    /// The repositories of an organisation that the App's installation reaches.
    fn repositories<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Vec<RepoName>, GitHubError>>;

    /// What a repository has waiting: its jobs that are queued, waiting or in progress.
    fn open_jobs<'a>(
        &'a self,
        repo: &'a crate::routing::RepoName,
        installation_id: Option<i64>,
    ) -> BoxFuture<'a, Result<Vec<JobFact>, GitHubError>>;

    /// What GitHub says of one job; none if it does not know it.
    fn job<'a>(
        &'a self,
        repo: &'a crate::routing::RepoName,
        installation_id: Option<i64>,
        id: i64,
    ) -> BoxFuture<'a, Result<Option<JobFact>, GitHubError>>;

    /// Has a job that is over run again, once its whole run is. Needs `actions:write`, which the App may not have.
    fn rerun_job<'a>(
        &'a self,
        repo: &'a RepoName,
        installation_id: Option<i64>,
        id: i64,
    ) -> BoxFuture<'a, Result<Rerun, GitHubError>>;

    /// Whether GitHub answers and knows the App.
    fn ping(&self) -> BoxFuture<'_, Result<(), GitHubError>>;
}

/// What came of asking for a job to be run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rerun {
    Asked,
    /// Something of its run still goes on; GitHub takes no request until that is over.
    RunGoesOn,
}

/// An attempt at a delivery, as GitHub's log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryAttempt {
    pub id: i64,
    pub guid: String,
    pub event: String,
    pub delivered_at: Timestamp,
    /// Somebody asked for it, after another attempt.
    pub redelivery: bool,
    pub arrived: bool,
}

/// A part of the log.
#[derive(Debug, Default)]
pub struct DeliveryPage {
    pub attempts: Vec<DeliveryAttempt>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// A delivery that did not arrive.
#[derive(Debug)]
pub struct MissedDelivery {
    pub guid: String,
    pub event: String,
    /// The raw payload.
    pub payload: Vec<u8>,
}

/// A request for a just-in-time configuration.
#[derive(Debug, Clone)]
pub struct Registration {
    pub target: Target,
    pub installation_id: Option<i64>,
    pub name: RunnerName,
    pub labels: Vec<String>,
    pub group: RunnerGroup,
    /// How long the caller waits for it.
    pub within: Duration,
}

/// A registered runner and its configuration, which cannot be had a second time.
#[derive(Debug)]
pub struct JitRunner {
    pub id: i64,
    pub config: SecretString,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitHubRunner {
    pub id: i64,
    pub name: String,
    pub online: bool,
    pub busy: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is not registered (any more).
    Gone,
    /// It executes a job: it stays.
    Busy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GitHubErrorKind {
    /// 401: the key does not fit the App, or the clock is off.
    Unauthorized,
    /// 403 that is not a limit: a permission is missing.
    Forbidden,
    /// 404: not installed there, or no such thing.
    NotFound,
    /// 409 of a registration.
    NameTaken,
    /// 422 and whatever else GitHub finds wrong with a request.
    Rejected,
    /// A primary or secondary limit.
    RateLimited,
    /// Not reached, timed out, or a fault of GitHub's (5xx, an answer of another shape).
    Unavailable,
}

/// A call of GitHub failed. The message names the call and what to do; it holds no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct GitHubError {
    pub kind: GitHubErrorKind,
    pub message: String,
    pub retry_after: Option<Duration>,
}
