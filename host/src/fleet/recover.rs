//! Finds what no webhook told: deliveries that failed, and jobs whose deliveries never were, or that GitHub does not
//! know any more.

mod log;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tracing::{debug, info, warn};

use self::log::{DeliveryLog, Intake, Taken};
use super::{
    executor::Executor,
    job::{Job, JobChange, JobFact, JobKey},
    runner::Target,
};
use crate::{
    config::{Config, Scope},
    github::{GitHubError, MissedDelivery},
    ingest,
    routing::RepoName,
    store::{Ingest, IngestResult, Op, OpOutcome, StoreError},
};

/// The sources, as metrics and messages name them.
const LOG: &str = "delivery-log";
const SCAN: &str = "repository-scan";
/// Every how many looks at the delivery log the repositories with demand are asked.
const SCAN_EVERY: u32 = 3;

/// Says once that something cannot be asked, and once that it can be again.
struct Troubles {
    source: &'static str,
    of: BTreeSet<String>,
}

impl Troubles {
    fn new(source: &'static str) -> Self {
        Self { source, of: BTreeSet::new() }
    }

    fn failed(&mut self, what: &str, error: &GitHubError) {
        metrics::counter!("pacer_recovery_failures_total", "source" => self.source).increment(1);
        if self.of.insert(what.to_owned()) {
            warn!(source = self.source, "{what} cannot be read, so jobs whose webhooks were missed may wait: {error}");
        } else {
            debug!(source = self.source, "{what} still cannot be read: {error}");
        }
    }

    fn worked(&mut self, what: &str) {
        if self.of.remove(what) {
            info!(source = self.source, "{what} can be read again");
        }
    }
}

/// Reads the App's delivery log until the fleet stops.
pub(super) async fn deliveries(executor: Arc<Executor>, every: Duration) {
    let mut log = DeliveryLog::new(executor.now());
    let mut troubles = Troubles::new(LOG);
    let what = "the App's delivery log";
    loop {
        let now = executor.now();
        match log.look(&*executor.parts.github, &*executor, now).await {
            Ok(()) => troubles.worked(what),
            Err(error) => troubles.failed(what, &error),
        }
        if !super::watch::pause(&executor, every).await {
            return;
        }
    }
}

impl Intake for Executor {
    fn take(&self, missed: MissedDelivery) -> BoxFuture<'_, Taken> {
        async move {
            let ingest = match ingest::from_missed(missed, self.now(), &*self.route) {
                Ok(ingest) => ingest,
                Err(error) => return Taken::Unusable(format!("it is not a payload: {error}")),
            };
            match take_in(self, ingest).await {
                Ok(()) => Taken::In,
                Err(error) => {
                    warn!(%error, "what was missed cannot be stored yet");
                    Taken::NotNow
                }
            }
        }
        .boxed()
    }

    fn pause(&self, time: Duration) -> BoxFuture<'_, bool> {
        super::watch::pause(self, time).boxed()
    }
}

/// Asks repositories for their jobs until the fleet stops: at the start all that are bound, since jobs may have come
/// while pacer was away, and later those with demand.
pub(super) async fn repositories(executor: Arc<Executor>, every: Duration) {
    let mut unasked = Unasked::of(&executor.parts.config);
    let mut troubles = Troubles::new(SCAN);
    let mut missing = Missing::default();
    let mut looks = 0u32;
    loop {
        unasked.look_up(&executor, &mut troubles).await;
        let mut repos: BTreeMap<RepoName, Option<i64>> =
            unasked.repos.iter().map(|repo| (repo.clone(), None)).collect();
        if looks.is_multiple_of(SCAN_EVERY) {
            repos.extend(executor.world().jobs().map(|job| (job.repo.clone(), job.installation_id)));
        }
        for (repo, installation) in repos {
            let what = format!("repository `{repo}`");
            match scan(&executor, &repo, installation, &mut missing).await {
                Ok(()) => {
                    unasked.repos.remove(&repo);
                    troubles.worked(&what);
                }
                Err(error) => troubles.failed(&what, &error),
            }
            if executor.stopping.is_cancelled() {
                return;
            }
        }
        missing.0.retain(|key| executor.world().job(*key).is_some());
        looks = looks.wrapping_add(1);
        if !super::watch::pause(&executor, every).await {
            return;
        }
    }
}

/// What is still to be asked since the start.
#[derive(Default)]
struct Unasked {
    repos: BTreeSet<RepoName>,
    /// Of which the App's installation says what repositories they have.
    orgs: BTreeSet<String>,
}

impl Unasked {
    fn of(config: &Config) -> Self {
        let mut unasked = Self::default();
        for project in &config.projects {
            match &project.scope {
                Scope::Repos(bound) => unasked.repos.extend(bound.iter().cloned()),
                Scope::Org { login, .. } => {
                    unasked.orgs.insert(login.to_lowercase());
                }
            }
        }
        unasked
    }

    async fn look_up(&mut self, executor: &Executor, troubles: &mut Troubles) {
        for org in self.orgs.clone() {
            let what = format!("the list of repositories of organisation `{org}`");
            match executor.parts.github.repositories(&Target::Org(org.clone())).await {
                Ok(repos) => {
                    self.repos.extend(repos);
                    self.orgs.remove(&org);
                    troubles.worked(&what);
                }
                Err(error) => troubles.failed(&what, &error),
            }
        }
    }
}

/// Open jobs that GitHub did not know at the last look at their repository.
#[derive(Default)]
pub(super) struct Missing(HashSet<JobKey>);

impl Missing {
    /// Takes in what a look found; true when it is the second in a row that did not find the job.
    fn again(&mut self, key: JobKey, known: Known) -> bool {
        match known {
            Known::No => !self.0.insert(key),
            Known::Yes => {
                self.0.remove(&key);
                false
            }
            Known::Unclear => false,
        }
    }
}

/// Whether GitHub knows a job.
#[derive(Clone, Copy)]
pub(super) enum Known {
    Yes,
    No,
    Unclear,
}

/// Asks for the open jobs of a repository. One that GitHub hides altogether cannot be listed, so what is said here to be
/// unknown is the job alone.
pub(super) async fn scan(
    executor: &Executor,
    repo: &RepoName,
    installation: Option<i64>,
    missing: &mut Missing,
) -> Result<(), GitHubError> {
    let open: Vec<Arc<Job>> = executor.world().jobs().filter(|job| job.repo == *repo).cloned().collect();
    let facts = executor.parts.github.open_jobs(repo, installation).await?;
    let listed: HashSet<_> = facts.iter().map(|fact| fact.key).collect();
    missing.0.retain(|key| !listed.contains(key));
    for fact in facts {
        // What is known as it is would only cost a commit.
        let known = executor.world().job(fact.key).is_some_and(|job| !says_more(job, &fact));
        if !known {
            take_fact(executor, fact).await;
        }
    }
    for job in open.iter().filter(|job| !listed.contains(&job.key)) {
        let known = ask_about(executor, job).await;
        if missing.again(job.key, known) {
            conclude(executor, job).await;
        }
    }
    Ok(())
}

/// A job that GitHub does not know any more gets no end from there; nothing is to wait for it, or be kept for it.
async fn conclude(executor: &Executor, job: &Job) {
    warn!(job.id = %job.key, "GitHub does not know job {} of `{}` any more: it counts as failed", job.key, job.repo);
    let change = JobChange::Vanished { reason: "GitHub does not know this job any more".to_owned() };
    if let Err(error) = executor.parts.store.write(vec![Op::Job { key: job.key, change }]).await {
        warn!(job.id = %job.key, "the end of job {} cannot be stored yet: {error}", job.key);
    }
}

fn says_more(job: &Job, fact: &JobFact) -> bool {
    use super::job::{JobStatus, Phase};
    match &fact.phase {
        Phase::Waiting => false,
        Phase::Queued => job.status == JobStatus::Waiting,
        Phase::InProgress => job.status.rank() < JobStatus::Running.rank(),
        Phase::Completed { .. } => true,
    }
}

/// Asks GitHub for one job and takes in what it says.
pub(super) async fn ask_about(executor: &Executor, job: &Job) -> Known {
    match executor.parts.github.job(&job.repo, job.installation_id, job.key.id).await {
        Ok(Some(fact)) => {
            if says_more(job, &fact) {
                take_fact(executor, fact).await;
            }
            Known::Yes
        }
        Ok(None) => {
            debug!(job.id = %job.key, "GitHub does not know job {} any more", job.key);
            Known::No
        }
        Err(error) => {
            debug!(job.id = %job.key, "GitHub cannot be asked about job {}: {error}", job.key);
            Known::Unclear
        }
    }
}

async fn take_fact(executor: &Executor, fact: JobFact) {
    let ingest = ingest::from_scan(fact, executor.now(), &*executor.route);
    // A job that is nobody's here is no news.
    if ingest.demand.is_some()
        && let Err(error) = take_in(executor, ingest).await
    {
        warn!(%error, "what was missed cannot be stored yet");
    }
}

async fn take_in(executor: &Executor, ingest: Ingest) -> Result<(), StoreError> {
    let source = ingest.source;
    for outcome in executor.parts.store.write(vec![Op::Ingest(Box::new(ingest))]).await? {
        let (OpOutcome::Ingested(IngestResult::Enqueued(key, _)) | OpOutcome::Ingested(IngestResult::Updated(key, _))) =
            outcome
        else {
            continue;
        };
        info!(job.id = %key, source, "job {key} was recovered from the {source}");
        metrics::counter!("pacer_jobs_recovered_total", "source" => source).increment(1);
    }
    Ok(())
}
