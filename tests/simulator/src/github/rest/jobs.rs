//! Runs and jobs of repositories.

use std::collections::HashSet;

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
        shapes, state,
    },
    Answer, Paging, Refusal, not_found, refuse,
};

const READ_JOBS: Need = Need(ACTIONS, Access::Read);
const RERUN: Need = Need(ACTIONS, Access::Write);

/// Every run has one job.
pub async fn runs(
    State(github): State<GitHub>,
    Path((owner, repo)): Path<(String, String)>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Answer {
    github.on_repo(&headers, &owner, &repo, READ_JOBS)?;
    let full = format!("{owner}/{repo}");
    let organization = github.knows_org(&owner);
    let (total, runs, links) = {
        let state = github.inner.state();
        let jobs = state.jobs.values().rev().filter(|job| job.repo.eq_ignore_ascii_case(&full));
        let asked = |job: &&state::Job| {
            let status = paging.status.as_deref();
            status.is_none_or(|status| status == job.state.word() || job.conclusion.as_deref() == Some(status))
        };
        // A run is what its latest attempt is.
        let mut runs = HashSet::new();
        let found: Vec<&state::Job> = jobs.filter(|job| runs.insert(job.run_id)).filter(asked).collect();
        let total = found.len();
        let (part, links) = paging.cut(found, &github.at(&format!("/repos/{full}/actions/runs")));
        (total, part.into_iter().cloned().collect::<Vec<_>>(), links)
    };
    let runs: Vec<Value> = runs.iter().map(|job| shapes::run(job, organization)).collect();
    Ok((links, Json(json!({ "total_count": total, "workflow_runs": runs }))).into_response())
}

pub async fn run_jobs(
    State(github): State<GitHub>,
    Path((owner, repo, run)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    github.on_repo(&headers, &owner, &repo, READ_JOBS)?;
    let latest = github.inner.state().jobs.values().rev().find(|job| job.run_id == run).map(|job| job.id);
    let job = find_job(&github, &owner, &repo, latest.unwrap_or_default(), |_| true)?;
    let jobs = [payload::job(&job, shapes::API)];
    Ok(Json(json!({ "total_count": 1, "jobs": jobs })).into_response())
}

pub async fn job(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    github.on_repo(&headers, &owner, &repo, READ_JOBS)?;
    let job = find_job(&github, &owner, &repo, id, |_| true)?;
    Ok(Json(payload::job(&job, shapes::API)).into_response())
}

/// The job's run begins anew, as another attempt with a job of its own.
pub async fn rerun(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    github.on_repo(&headers, &owner, &repo, RERUN)?;
    let job = find_job(&github, &owner, &repo, id, |_| true)?;
    let goes_on = |other: &state::Job| other.run_id == job.run_id && other.conclusion.is_none();
    if github.inner.state().jobs.values().any(goes_on) {
        return Err(refuse(StatusCode::FORBIDDEN, "The workflow run containing this job is already running"));
    }
    github.rerun(&job);
    Ok((StatusCode::CREATED, Json(json!({}))).into_response())
}

fn find_job(
    github: &GitHub,
    owner: &str,
    repo: &str,
    id: u64,
    fits: impl Fn(&state::Job) -> bool,
) -> Result<state::Job, Refusal> {
    let full = format!("{owner}/{repo}");
    let state = github.inner.state();
    let job = state.jobs.get(&id).filter(|job| job.repo.eq_ignore_ascii_case(&full) && fits(job));
    job.cloned().ok_or_else(not_found)
}
