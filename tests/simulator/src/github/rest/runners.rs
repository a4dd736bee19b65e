//! Runners of repositories and organisations, and the configurations that make them.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    super::{
        GitHub,
        permissions::{ADMINISTRATION, Access, Need, ORGANIZATION_RUNNERS},
        runner::Config,
        shapes,
        state::{Runner, Scope},
    },
    Answer, Paging, invalid, not_found, refuse, unprocessable,
};

const READ_RUNNERS: Need = Need(ADMINISTRATION, Access::Read);
const WRITE_RUNNERS: Need = Need(ADMINISTRATION, Access::Write);
const READ_ORG_RUNNERS: Need = Need(ORGANIZATION_RUNNERS, Access::Read);
const WRITE_ORG_RUNNERS: Need = Need(ORGANIZATION_RUNNERS, Access::Write);

/// Of every organisation; at repositories the only one.
const DEFAULT_GROUP: i64 = 1;
/// GitHub: between 1 and 100 labels, names of at most 64 characters.
const MOST_LABELS: usize = 100;
const LONGEST_NAME: usize = 64;
const LONGEST_LABEL: usize = 256;

#[derive(Deserialize)]
struct Jit {
    name: String,
    runner_group_id: i64,
    labels: Vec<String>,
    #[serde(default)]
    work_folder: Option<String>,
}

pub async fn repo_jit(
    State(github): State<GitHub>,
    Path((owner, repo)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let scope = github.on_repo(&headers, &owner, &repo, WRITE_RUNNERS)?;
    jit(&github, scope, &body)
}

pub async fn org_jit(State(github): State<GitHub>, Path(org): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let scope = github.on_org(&headers, &org, WRITE_ORG_RUNNERS)?;
    jit(&github, scope, &body)
}

fn jit(github: &GitHub, scope: Scope, body: &[u8]) -> Answer {
    let request: Jit =
        serde_json::from_slice(body).map_err(|error| unprocessable(format!("Invalid request.\n\n{error}")))?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if request.name.is_empty() || request.name.len() > LONGEST_NAME || !request.name.chars().all(fits) {
        return Err(invalid("name", "must be 1 to 64 letters, digits, dots, underscores or dashes"));
    }
    if request.labels.is_empty() || request.labels.len() > MOST_LABELS {
        return Err(invalid("labels", "must be 1 to 100"));
    }
    if request.labels.iter().any(|label| label.is_empty() || label.chars().count() > LONGEST_LABEL) {
        return Err(invalid("labels", "must each have 1 to 256 characters"));
    }
    let known = match scope {
        Scope::Repo(_) => request.runner_group_id == DEFAULT_GROUP,
        Scope::Org(_) => groups_of(github).any(|(id, _)| id == request.runner_group_id),
    };
    if !known {
        return Err(not_found());
    }
    let _ = request.work_folder;
    let url = github.inner.url.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let mut state = github.inner.state();
    let key = (scope.clone(), request.name.clone());
    if state.names.contains_key(&key) {
        let message = format!("Already exists - A runner with the name {} already exists.", request.name);
        return Err(refuse(StatusCode::CONFLICT, message));
    }
    let (id, secret) = (state.id(), state.dice.hex(48));
    let config = Config { url, name: request.name.clone(), id, secret: secret.clone() }.encode();
    let labels: BTreeSet<String> = request.labels.iter().map(|label| label.to_lowercase()).collect();
    let runner = Runner {
        id,
        name: request.name.clone(),
        scope,
        spelled: labels.iter().cloned().collect(),
        labels: Arc::new(labels),
        group: request.runner_group_id,
        secret,
        online: false,
        connected: false,
        job: None,
        wake: Arc::new(Notify::new()),
    };
    let answer = json!({ "runner": shapes::runner(&runner), "encoded_jit_config": config });
    *state.issued.entry(request.name).or_default() += 1;
    state.names.insert(key, id);
    state.runners.insert(id, runner);
    state.jit_configs.push(config);
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

pub async fn repo_runners(
    State(github): State<GitHub>,
    Path((owner, repo)): Path<(String, String)>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Answer {
    let scope = github.on_repo(&headers, &owner, &repo, READ_RUNNERS)?;
    runners(&github, &scope, &paging)
}

pub async fn org_runners(
    State(github): State<GitHub>,
    Path(org): Path<String>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Answer {
    let scope = github.on_org(&headers, &org, READ_ORG_RUNNERS)?;
    runners(&github, &scope, &paging)
}

fn runners(github: &GitHub, scope: &Scope, paging: &Paging) -> Answer {
    let state = github.inner.state();
    let found: Vec<&Runner> = match &paging.name {
        Some(name) => {
            state.names.get(&(scope.clone(), name.clone())).and_then(|id| state.runners.get(id)).into_iter().collect()
        }
        None => state.runners.values().filter(|runner| runner.scope == *scope).collect(),
    };
    let total = found.len();
    let path = match scope {
        Scope::Repo(repo) => format!("/repos/{repo}/actions/runners"),
        Scope::Org(org) => format!("/orgs/{org}/actions/runners"),
    };
    let (part, headers) = paging.cut(found, &github.at(&path));
    let runners: Vec<Value> = part.into_iter().map(shapes::runner).collect();
    Ok((headers, Json(json!({ "total_count": total, "runners": runners }))).into_response())
}

pub async fn repo_runner(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    let scope = github.on_repo(&headers, &owner, &repo, READ_RUNNERS)?;
    runner(&github, &scope, id)
}

pub async fn org_runner(
    State(github): State<GitHub>,
    Path((org, id)): Path<(String, u64)>,
    headers: HeaderMap,
) -> Answer {
    let scope = github.on_org(&headers, &org, READ_ORG_RUNNERS)?;
    runner(&github, &scope, id)
}

fn runner(github: &GitHub, scope: &Scope, id: u64) -> Answer {
    let state = github.inner.state();
    let runner = state.runners.get(&id).filter(|runner| runner.scope == *scope).ok_or_else(not_found)?;
    Ok(Json(shapes::runner(runner)).into_response())
}

pub async fn repo_delete(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    let scope = github.on_repo(&headers, &owner, &repo, WRITE_RUNNERS)?;
    delete(&github, &scope, id)
}

pub async fn org_delete(
    State(github): State<GitHub>,
    Path((org, id)): Path<(String, u64)>,
    headers: HeaderMap,
) -> Answer {
    let scope = github.on_org(&headers, &org, WRITE_ORG_RUNNERS)?;
    delete(&github, &scope, id)
}

fn delete(github: &GitHub, scope: &Scope, id: u64) -> Answer {
    let mut state = github.inner.state();
    let runner = state.runners.get(&id).filter(|runner| runner.scope == *scope).ok_or_else(not_found)?;
    if runner.job.is_some() {
        let message = format!("Runner \"{}\" is still running a job\"", runner.name);
        return Err(unprocessable(message));
    }
    state.remove(id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub async fn groups(State(github): State<GitHub>, Path(org): Path<String>, headers: HeaderMap) -> Answer {
    github.on_org(&headers, &org, READ_ORG_RUNNERS)?;
    let groups: Vec<Value> = groups_of(&github).map(|(id, name)| shapes::group(&org, id, name)).collect();
    Ok(Json(json!({ "total_count": groups.len(), "runner_groups": groups })).into_response())
}

/// The groups of an organisation: the one that each has, and those of the play.
fn groups_of(github: &GitHub) -> impl Iterator<Item = (i64, &str)> {
    let others = github.settings().runner_groups.iter().map(String::as_str);
    (DEFAULT_GROUP..).zip(std::iter::once("Default").chain(others))
}
