//! Runs and jobs of repositories.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use serde_json::{Value, json};

use super::{
    super::{
        GitHub, payload,
        permissions::{ACTIONS, Access, Need},
        shapes,
        state::{self, JobState},
    },
    Answer, Paging, Refusal, not_found, refuse,
};

const READ_JOBS: Need = Need(ACTIONS, Access::Read);
const RERUN: Need = Need(ACTIONS, Access::Write);

/// The jobs of a run in their latest attempts, oldest first, and what they make of the run.
struct Run {
    jobs: Vec<state::Job>,
}

impl Run {
    fn state(&self) -> JobState {
        let is = |state: JobState| self.jobs.iter().any(|job| job.state == state);
        match (is(JobState::Waiting), is(JobState::Queued), is(JobState::InProgress), is(JobState::Completed)) {
            (false, false, false, _) => JobState::Completed,
            // What has begun goes on, also while the next of its jobs are queued.
            (_, _, true, _) | (_, _, _, true) => JobState::InProgress,
            (_, true, false, false) => JobState::Queued,
            (true, false, false, false) => JobState::Waiting,
        }
    }

    /// What GitHub shows of it: that of the job that says most.
    fn shown(&self) -> Option<state::Job> {
        let state = self.state();
        let failed = self.jobs.iter().find(|job| job.conclusion.as_deref().is_some_and(|word| word != "success"));
        let job = failed.filter(|_| state == JobState::Completed).or(self.jobs.first())?;
        let conclusion = job.conclusion.clone().filter(|_| state == JobState::Completed);
        Some(state::Job { state, conclusion, ..job.clone() })
    }
}

/// The runs of a repository, newest first.
fn runs_of(github: &GitHub, full: &str) -> Vec<Run> {
    let state = github.inner.state();
    let mut runs: BTreeMap<u64, BTreeMap<u64, state::Job>> = BTreeMap::new();
    for job in state.jobs.values().filter(|job| job.repo.eq_ignore_ascii_case(full)) {
        // A later attempt has a later id.
        runs.entry(job.run_id).or_default().insert(job.number, job.clone());
    }
    runs.into_values().rev().map(|jobs| Run { jobs: jobs.into_values().collect() }).collect()
}

pub async fn runs(
    State(github): State<GitHub>,
    Path((owner, repo)): Path<(String, String)>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Answer {
    github.on_repo(&headers, &owner, &repo, READ_JOBS)?;
    let full = format!("{owner}/{repo}");
    let organization = github.knows_org(&owner);
    let asked = |run: &state::Job| {
        let status = paging.status.as_deref();
        status.is_none_or(|status| status == run.state.word() || run.conclusion.as_deref() == Some(status))
    };
    let found: Vec<state::Job> =
        runs_of(&github, &full).iter().filter_map(Run::shown).filter(|run| asked(run)).collect();
    let total = found.len();
    let (part, links) = paging.cut(found, &github.at(&format!("/repos/{full}/actions/runs")));
    let runs: Vec<Value> = part.iter().map(|run| shapes::run(run, organization)).collect();
    Ok((links, Json(json!({ "total_count": total, "workflow_runs": runs }))).into_response())
}

pub async fn run_jobs(
    State(github): State<GitHub>,
    Path((owner, repo, run)): Path<(String, String, u64)>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Answer {
    github.on_repo(&headers, &owner, &repo, READ_JOBS)?;
    let full = format!("{owner}/{repo}");
    let jobs: Vec<state::Job> = match paging.filter.as_deref() {
        Some("all") => {
            let state = github.inner.state();
            let jobs = state.jobs.values();
            jobs.filter(|job| job.run_id == run && job.repo.eq_ignore_ascii_case(&full)).cloned().collect()
        }
        _ => runs_of(&github, &full)
            .into_iter()
            .find(|known| known.jobs.iter().any(|job| job.run_id == run))
            .map(|run| run.jobs)
            .unwrap_or_default(),
    };
    if jobs.is_empty() {
        return Err(not_found());
    }
    let total = jobs.len();
    let (part, links) = paging.cut(jobs, &github.at(&format!("/repos/{full}/actions/runs/{run}/jobs")));
    let jobs: Vec<Value> = part.iter().map(|job| payload::job(job, shapes::API)).collect();
    Ok((links, Json(json!({ "total_count": total, "jobs": jobs }))).into_response())
}

pub async fn job(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    github.on_repo(&headers, &owner, &repo, READ_JOBS)?;
    let job = find_job(&github, &owner, &repo, id)?;
    Ok(Json(payload::job(&job, shapes::API)).into_response())
}

/// The job's run begins anew, as another attempt with a job of its own.
pub async fn rerun(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    github.on_repo(&headers, &owner, &repo, RERUN)?;
    let job = find_job(&github, &owner, &repo, id)?;
    let goes_on = |other: &state::Job| other.run_id == job.run_id && other.conclusion.is_none();
    if github.inner.state().jobs.values().any(goes_on) {
        return Err(refuse(StatusCode::FORBIDDEN, "The workflow run containing this job is already running"));
    }
    github.rerun(&job);
    Ok((StatusCode::CREATED, Json(json!({}))).into_response())
}

fn find_job(github: &GitHub, owner: &str, repo: &str, id: u64) -> Result<state::Job, Refusal> {
    let full = format!("{owner}/{repo}");
    let state = github.inner.state();
    let job = state.jobs.get(&id).filter(|job| job.repo.eq_ignore_ascii_case(&full));
    job.cloned().ok_or_else(not_found)
}
