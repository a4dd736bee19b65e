//! Runs and jobs of repositories.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::HeaderMap,
    response::IntoResponse,
};
use serde_json::{Value, json};

use super::{
    super::{
        GitHub, payload,
        permissions::{ACTIONS, Access, Need},
        shapes, state,
    },
    Answer, Paging, Refusal, not_found,
};

const READ_JOBS: Need = Need(ACTIONS, Access::Read);

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
        let found: Vec<&state::Job> = jobs.filter(asked).collect();
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
    // A run's only job was made right before it.
    let job = find_job(&github, &owner, &repo, run.saturating_sub(1), |job| job.run_id == run)?;
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
