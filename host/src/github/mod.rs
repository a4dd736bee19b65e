//! GitHub's API as the fleet needs it: one budgeted client per App.
//!
//! Nothing outside this folder knows how GitHub is asked. To the rest of the host it is [`GitHubApi`]; [`Client`] is
//! the one that asks GitHub. No token, key or configuration of a runner reaches an error, a log or a `Debug`.

mod app;
mod auth;
mod budget;
mod client;
mod deliveries;
mod error;
mod http;
mod installations;
mod jobs;
mod model;
mod runners;
#[cfg(test)]
mod tests;

use crate::{
    fleet::{
        job::JobFact,
        runner::{RunnerName, Target},
    },
    routing::RepoName,
};
use futures::{FutureExt, future::BoxFuture};

pub use app::{Account, App, Installation};
pub use client::Client;
pub use model::{
    Deleted, DeliveryAttempt, DeliveryPage, GitHubApi, GitHubError, GitHubErrorKind, GitHubRunner, JitRunner,
    MissedDelivery, Registration, Rerun,
};

impl GitHubApi for Client {
    fn register<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<JitRunner, GitHubError>> {
        self.inner.register(registration).boxed()
    }

    fn find_runner<'a>(
        &'a self,
        target: &'a Target,
        installation_id: Option<i64>,
        name: &'a RunnerName,
    ) -> BoxFuture<'a, Result<Option<GitHubRunner>, GitHubError>> {
        self.inner.find_runner(target, installation_id, name).boxed()
    }

    fn list_runners<'a>(
        &'a self,
        target: &'a Target,
        installation_id: Option<i64>,
    ) -> BoxFuture<'a, Result<Vec<GitHubRunner>, GitHubError>> {
        self.inner.list_runners(target, installation_id).boxed()
    }

    fn delete_runner<'a>(
        &'a self,
        target: &'a Target,
        installation_id: Option<i64>,
        id: i64,
    ) -> BoxFuture<'a, Result<Deleted, GitHubError>> {
        self.inner.delete_runner(target, installation_id, id).boxed()
    }

    fn delivery_log<'a>(&'a self, cursor: Option<&'a str>) -> BoxFuture<'a, Result<DeliveryPage, GitHubError>> {
        self.inner.delivery_log(cursor).boxed()
    }

    fn delivery(&self, id: i64) -> BoxFuture<'_, Result<Option<Vec<u8>>, GitHubError>> {
        self.inner.delivery(id).boxed()
    }

    fn repositories<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Vec<RepoName>, GitHubError>> {
        self.inner.repositories(target).boxed()
    }

    fn open_jobs<'a>(
        &'a self,
        repo: &'a RepoName,
        installation_id: Option<i64>,
    ) -> BoxFuture<'a, Result<Vec<JobFact>, GitHubError>> {
        self.inner.open_jobs(repo, installation_id).boxed()
    }

    fn job<'a>(
        &'a self,
        repo: &'a RepoName,
        installation_id: Option<i64>,
        id: i64,
    ) -> BoxFuture<'a, Result<Option<JobFact>, GitHubError>> {
        self.inner.job(repo, installation_id, id).boxed()
    }

    fn rerun_job<'a>(
        &'a self,
        repo: &'a RepoName,
        installation_id: Option<i64>,
        id: i64,
    ) -> BoxFuture<'a, Result<Rerun, GitHubError>> {
        self.inner.rerun_job(repo, installation_id, id).boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), GitHubError>> {
        self.inner.ping().boxed()
    }
}
