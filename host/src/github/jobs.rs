//! What a repository has open: for jobs whose deliveries never came.

use std::{collections::BTreeSet, sync::Arc};

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    budget::Class,
    client::{Call, Identity, Inner},
    error::{self, shape},
    model::{GitHubError, Rerun},
    runners::PER_PAGE,
};
use crate::{
    fleet::{
        job::{JobFact, JobKey, Phase},
        runner::Target,
    },
    routing::{self, RepoName},
};

/// Runs that can hold an open job: one whose later jobs wait for others is `in_progress`.
const OPEN: [&str; 3] = ["queued", "in_progress", "waiting"];
/// Pages of runs read for each state. GitHub lists at most 1,000 runs; the scan is a safety net, and comes again.
const MAX_RUN_PAGES: usize = 5;
/// Pages of jobs read of a run: a matrix is at most 256 jobs, and a run has seldom more than two.
const MAX_JOB_PAGES: usize = 10;
/// Runs looked into in one scan, the newest: each costs a request.
const MAX_RUNS: usize = 300;

/// What GitHub says to an App that may not do what it asks for, and to one whose installation is suspended.
const NO_PERMISSION: [&str; 2] = ["Resource not accessible by integration", "has been suspended"];

#[derive(Deserialize)]
struct RunPage {
    workflow_runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    id: i64,
}

#[derive(Deserialize)]
struct JobPage {
    jobs: Vec<JobAnswer>,
}

#[derive(Deserialize)]
struct JobAnswer {
    id: i64,
    run_id: i64,
    run_attempt: Option<i32>,
    status: String,
    conclusion: Option<String>,
    name: Option<String>,
    workflow_name: Option<String>,
    head_branch: Option<String>,
    html_url: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    runner_name: Option<String>,
    created_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
}

impl JobAnswer {
    /// None for a job whose state is none that is known.
    fn into_fact(self, repo: &RepoName, installation_id: Option<i64>) -> Option<JobFact> {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let phase = match self.status.as_str() {
            "queued" => Phase::Queued,
            "waiting" | "pending" | "requested" => Phase::Waiting,
            "in_progress" => Phase::InProgress,
            "completed" => Phase::Completed { conclusion: some(self.conclusion) },
            _ => return None,
        };
        Some(JobFact {
            key: JobKey { id: self.id, attempt: self.run_attempt.unwrap_or(1) },
            run_id: self.run_id,
            repo: repo.clone(),
            installation_id,
            name: self.name.unwrap_or_default(),
            workflow: some(self.workflow_name),
            branch: some(self.head_branch),
            html_url: some(self.html_url),
            labels: self.labels,
            phase,
            runner: some(self.runner_name),
            created_at: self.created_at,
            started_at: self.started_at,
            completed_at: self.completed_at,
        })
    }
}

impl Inner {
    pub async fn open_jobs(self: &Arc<Self>, repo: &RepoName, hint: Option<i64>) -> Result<Vec<JobFact>, GitHubError> {
        let target = Target::Repo(repo.clone());
        let identity = Identity::Installation { target: &target, hint };
        let base = format!("repos/{}/{}/actions/runs", repo.owner(), repo.name());
        let call = |endpoint, subject, url| Call {
            permission: Some("actions:read"),
            ..Call::get(endpoint, subject, identity, Class::List, url)
        };
        let mut runs = BTreeSet::new();
        for status in OPEN {
            for page in 1..=MAX_RUN_PAGES {
                let query = [("status", status), ("per_page", "100"), ("page", &page.to_string())];
                let call = call("runs", "run list", self.http.url(&base, &query));
                let (answer, _): (RunPage, _) = self.fetch(&call, "a list of runs").await?;
                let count = answer.workflow_runs.len();
                runs.extend(answer.workflow_runs.into_iter().map(|run| run.id));
                if count < PER_PAGE {
                    break;
                }
            }
        }
        let mut facts = Vec::new();
        for run in runs.into_iter().rev().take(MAX_RUNS) {
            for page in 1..=MAX_JOB_PAGES {
                let query = [("filter", "latest"), ("per_page", "100"), ("page", &page.to_string())];
                let call = call("run_jobs", "job list", self.http.url(&format!("{base}/{run}/jobs"), &query));
                let (answer, _): (JobPage, _) = self.fetch(&call, "a list of jobs").await?;
                let count = answer.jobs.len();
                let open = answer.jobs.into_iter().filter(|job| job.status != "completed");
                facts.extend(open.filter_map(|job| job.into_fact(repo, hint)));
                if count < PER_PAGE {
                    break;
                }
            }
        }
        Ok(facts)
    }

    /// What GitHub says of one job; none if it knows no such job. A state that is not known here is an error.
    pub async fn job(
        self: &Arc<Self>,
        repo: &RepoName,
        hint: Option<i64>,
        id: i64,
    ) -> Result<Option<JobFact>, GitHubError> {
        let target = Target::Repo(repo.clone());
        let identity = Identity::Installation { target: &target, hint };
        let url = self.http.url(&format!("repos/{}/{}/actions/jobs/{id}", repo.owner(), repo.name()), &[]);
        // Only the job's own 404 is an answer; that the App is not installed there is an error.
        let call = Call {
            accept: &[StatusCode::OK, StatusCode::NOT_FOUND],
            permission: Some("actions:read"),
            ..Call::get("job", "job", identity, Class::List, url)
        };
        let answer = self.call(&call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let job: JobAnswer =
            serde_json::from_slice(&answer.body).map_err(|reason| shape(call.subject, "a job", &reason))?;
        let status = routing::shown(&job.status).to_string();
        let fact = job.into_fact(repo, hint);
        fact.map(Some)
            .ok_or_else(|| error::unavailable(call.subject, format_args!("its state `{status}` is not known here")))
    }

    pub async fn rerun_job(
        self: &Arc<Self>,
        repo: &RepoName,
        hint: Option<i64>,
        id: i64,
    ) -> Result<Rerun, GitHubError> {
        let target = Target::Repo(repo.clone());
        let identity = Identity::Installation { target: &target, hint };
        let url = self.http.url(&format!("repos/{}/{}/actions/jobs/{id}/rerun", repo.owner(), repo.name()), &[]);
        let call = Call {
            method: Method::POST,
            accept: &[StatusCode::CREATED, StatusCode::FORBIDDEN],
            permission: Some("actions:write"),
            // Its answer may be what was lost; once more would be one attempt too many.
            repeatable: false,
            // Whoever asks comes again: nothing is held back here.
            deadline: Some(Instant::now()),
            ..Call::get("job_rerun", "job rerun", identity, Class::Jit, url)
        };
        let answer = self.call(&call).await?;
        if answer.status == StatusCode::CREATED {
            return Ok(Rerun::Asked);
        }
        // A run of which something still goes on is refused as a missing permission is, in other words.
        if NO_PERMISSION.iter().any(|words| error::message(&answer).contains(words)) {
            return Err(error::refusal(&call, &answer, "", self.clock.now()));
        }
        Ok(Rerun::RunGoesOn)
    }
}
