//! Finds what no webhook told: deliveries that failed, and jobs whose deliveries never were.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::{
    executor::Executor,
    job::{Job, JobFact},
};
use crate::{
    ingest,
    routing::RepoName,
    store::{Ingest, IngestResult, Op, OpOutcome},
};

/// How far back the first look goes: GitHub keeps deliveries for three days.
const FIRST_LOOK: Duration = Duration::from_secs(3 * 24 * 3600);
/// How much a look overlaps the one before: deliveries are logged when they are over, up to this much later.
const OVERLAP: Duration = Duration::from_secs(120);
/// Every how many looks at the delivery log the repositories with demand are asked.
const SCAN_EVERY: u32 = 3;

/// Reads the App's delivery log and asks repositories with demand, until the fleet stops.
pub(super) async fn missed(executor: Arc<Executor>, every: Duration) {
    let mut since = executor.now() - FIRST_LOOK;
    let mut looks = 0u32;
    loop {
        let asked_at = executor.now();
        if read_log(&executor, since).await {
            since = asked_at - OVERLAP;
        }
        if looks.is_multiple_of(SCAN_EVERY) {
            scan(&executor, looks == 0).await;
        }
        looks = looks.wrapping_add(1);
        if !super::watch::pause(&executor, every).await {
            return;
        }
    }
}

async fn read_log(executor: &Executor, since: Timestamp) -> bool {
    let missed = match executor.parts.github.failed_deliveries(since).await {
        Ok(missed) => missed,
        Err(error) => {
            debug!("the App's delivery log cannot be read: {error}");
            return false;
        }
    };
    for delivery in missed {
        let guid = delivery.guid.clone();
        match ingest::from_missed(delivery, executor.now(), &*executor.route) {
            Ok(ingest) => take_in(executor, ingest).await,
            Err(error) => warn!(delivery.id = %guid, "delivery `{guid}` of the log is not a payload: {error}"),
        }
    }
    true
}

/// Asks the repositories that have demand; at the start all that are bound, since jobs may have come while pacer was away.
async fn scan(executor: &Executor, all: bool) {
    let mut repos: std::collections::BTreeMap<RepoName, Option<i64>> = std::collections::BTreeMap::new();
    if all {
        for project in &executor.parts.config.projects {
            if let crate::config::Scope::Repos(bound) = &project.scope {
                repos.extend(bound.iter().map(|repo| (repo.clone(), None)));
            }
        }
    }
    let open: Vec<Arc<Job>> = executor.world().jobs().cloned().collect();
    repos.extend(open.iter().map(|job| (job.repo.clone(), job.installation_id)));
    for (repo, installation) in repos {
        let facts = match executor.parts.github.open_jobs(&repo, installation).await {
            Ok(facts) => facts,
            Err(error) => {
                debug!("the open jobs of {repo} cannot be listed: {error}");
                continue;
            }
        };
        let listed: std::collections::HashSet<_> = facts.iter().map(|fact| fact.key).collect();
        for fact in facts {
            // What is known as it is would only cost a commit.
            let known = executor.world().job(fact.key).is_some_and(|job| !says_more(job, &fact));
            if !known {
                take_fact(executor, fact).await;
            }
        }
        for job in open.iter().filter(|job| job.repo == repo && !listed.contains(&job.key)) {
            ask_about(executor, job).await;
        }
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
pub(super) async fn ask_about(executor: &Executor, job: &Job) {
    match executor.parts.github.job(&job.repo, job.installation_id, job.key.id).await {
        Ok(Some(fact)) => {
            if says_more(job, &fact) {
                take_fact(executor, fact).await;
            }
        }
        Ok(None) => debug!(job.id = %job.key, "GitHub does not know job {} any more", job.key),
        Err(error) => debug!(job.id = %job.key, "GitHub cannot be asked about job {}: {error}", job.key),
    }
}

async fn take_fact(executor: &Executor, fact: JobFact) {
    let ingest = ingest::from_scan(fact, executor.now(), &*executor.route);
    // A job that is nobody's here is no news.
    if ingest.demand.is_some() {
        take_in(executor, ingest).await;
    }
}

async fn take_in(executor: &Executor, ingest: Ingest) {
    let source = ingest.source;
    match executor.parts.store.write(vec![Op::Ingest(Box::new(ingest))]).await {
        Ok(outcomes) => {
            for outcome in outcomes {
                let (OpOutcome::Ingested(IngestResult::Enqueued(key, _))
                | OpOutcome::Ingested(IngestResult::Updated(key, _))) = outcome
                else {
                    continue;
                };
                info!(job.id = %key, source, "job {key} was recovered from the {source}");
                metrics::counter!("pacer_jobs_recovered_total", "source" => source).increment(1);
            }
        }
        Err(error) => warn!(%error, "what was missed cannot be stored yet"),
    }
}
