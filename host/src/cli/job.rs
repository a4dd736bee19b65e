//! `pacer explain`: why a job is where it is. Reads the database of the configuration; the server may be running.

use std::{collections::HashSet, io::Write, str::FromStr};

use anyhow::bail;
use jiff::Timestamp;

use super::{ExplainArgs, Outcome, block_on};
use crate::{
    config::Config,
    fleet::{
        explain::{self, Counts, Explanation},
        job::{Job, JobKey, JobStatus},
        runner::{Runner, RunnerState},
    },
    routing::{ProjectName, RepoName, shown},
    store::{JobFilter, MAX_PAGE, RunnerFilter, Store},
};

/// A job as a person names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobReference {
    /// GitHub's id: the latest attempt.
    Latest(i64),
    Attempt(JobKey),
}

/// The text names no job.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidReference {
    #[error(
        "`{0}` is not a job: give GitHub's job id (`52483921877`), id and attempt (`52483921877-2`), or the address of \
         the job's page at GitHub (`https://…/actions/runs/…/job/…`)"
    )]
    NoJob(String),
    #[error("`{0}` is the address of a run, which has many jobs: open the job's page at GitHub and give its address")]
    Run(String),
}

impl FromStr for JobReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let text = text.trim();
        if text.starts_with("https://") || text.starts_with("http://") {
            return by_address(text);
        }
        if let Ok(id) = text.parse::<i64>()
            && id > 0
        {
            return Ok(Self::Latest(id));
        }
        match text.parse::<JobKey>() {
            Ok(key) if key.id > 0 && key.attempt > 0 => Ok(Self::Attempt(key)),
            Ok(_) | Err(_) => Err(InvalidReference::NoJob(shown(text))),
        }
    }
}

/// Reads `…/actions/runs/RUN/job/JOB`, as a browser shows it, and `…/actions/jobs/JOB`, as the API does. The host may
/// be any: companies have a GitHub of their own.
fn by_address(text: &str) -> Result<JobReference, InvalidReference> {
    let path = text.find(['?', '#']).map_or(text, |end| &text[..end]);
    let segments: Vec<&str> = path.split('/').skip(3).collect();
    let after = |words: &[&str]| {
        let at = segments.iter().rposition(|segment| words.contains(segment))?;
        segments.get(at + 1)?.parse::<i64>().ok().filter(|id| *id > 0)
    };
    match (after(&["job", "jobs"]), after(&["runs"])) {
        (Some(id), _) => Ok(JobReference::Latest(id)),
        (None, Some(_)) => Err(InvalidReference::Run(shown(text))),
        (None, None) => Err(InvalidReference::NoJob(shown(text))),
    }
}

pub(super) fn run(config: &Config, args: &ExplainArgs, now: Timestamp, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let explanation = block_on(async {
        let store = Store::open_read_only(&config.database.url).await?;
        let explanation = look_up(&store, config, args.job, now).await;
        store.close().await;
        explanation
    })?;
    print(&explanation, args.json, out)
}

async fn look_up(
    store: &Store,
    config: &Config,
    reference: JobReference,
    now: Timestamp,
) -> anyhow::Result<Explanation> {
    let job = find(store, config, reference).await?;
    let (runners, served) = match &job.project {
        Some(project) => {
            let runners = live_runners(store).await?;
            let served = served(store, project, &job.repo, &runners).await?;
            (runners, served)
        }
        None => (Vec::new(), 0),
    };
    let pauses = store.pauses().await?;
    Ok(explain::explain(&job, config, Counts::of(&job, config, &runners, served), &pauses, now))
}

async fn find(store: &Store, config: &Config, reference: JobReference) -> anyhow::Result<Job> {
    let (found, named, id) = match reference {
        JobReference::Latest(id) => (store.latest_attempt(id).await?, id.to_string(), id),
        JobReference::Attempt(key) => (store.job(key).await?, key.to_string(), key.id),
    };
    if let Some(job) = found {
        return Ok(job);
    }
    if let Some(other) = store.latest_attempt(id).await? {
        bail!("job `{named}` is not known; the latest attempt that is known is `{}`: `pacer explain {id}`", other.key);
    }
    bail!(
        "job `{named}` is not in {}: the delivery has not arrived, its repository is not bound to a project, or it was \
         pruned; a job is named by the last number in the address of its page at GitHub (not by the run's); GitHub \
         shows under the App's settings, \u{201c}Advanced\u{201d}, which deliveries it sent",
        config.database.url
    )
}

/// Every runner that is not over, page by page. What changes between two pages may be missed or counted
/// as it was, which is as good as having asked a moment earlier.
async fn live_runners(store: &Store) -> anyhow::Result<Vec<Runner>> {
    let filter = RunnerFilter {
        state: RunnerState::ALL.into_iter().filter(|state| !state.is_final()).collect(),
        ..RunnerFilter::default()
    };
    let (mut runners, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.runners(&filter, cursor.as_deref(), MAX_PAGE).await?;
        runners.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return Ok(runners);
        }
    }
}

/// How many jobs of a repository have a runner: those that run, and those whose runner may still take them.
async fn served(store: &Store, project: &ProjectName, repo: &RepoName, runners: &[Runner]) -> anyhow::Result<u32> {
    let supply: HashSet<_> =
        runners.iter().filter(|runner| runner.state.is_supply()).map(|runner| &runner.name).collect();
    let filter = JobFilter {
        status: JobStatus::ALL
            .into_iter()
            .filter(|status| status.wants_runner() || *status == JobStatus::Running)
            .collect(),
        project: Some(project.clone()),
        repo: Some(repo.clone()),
    };
    let (mut served, mut cursor) = (0, None);
    loop {
        let page = store.jobs(&filter, cursor.as_deref(), MAX_PAGE).await?;
        for job in &page.items {
            let has_one = job.runner.as_ref().is_some_and(|name| supply.contains(name));
            served += u32::from(job.status == JobStatus::Running || has_one);
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok(served);
        }
    }
}

/// Prints the answer.
fn print(explanation: &Explanation, json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    if json {
        serde_json::to_writer_pretty(&mut *out, explanation)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", explain::render(explanation))?;
    }
    // A job that needs somebody is a problem found; one that waits its turn, runs or is over is not.
    Ok(match explanation.status {
        JobStatus::Unmatched | JobStatus::Failed => Outcome::Problem,
        JobStatus::Waiting
        | JobStatus::Queued
        | JobStatus::Claimed
        | JobStatus::Starting
        | JobStatus::Running
        | JobStatus::Completed
        | JobStatus::Cancelled => Outcome::Fine,
    })
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
