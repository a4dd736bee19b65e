//! The REST API that a GitHub App uses, with GitHub's own refusals.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::Notify;

use super::{
    GitHub, auth, payload,
    runner::Config,
    state::{self, Runner, Scope, Token},
};
use crate::faults;

/// The length of GitHub's newer installation tokens.
const TOKEN: usize = 520;
/// GitHub: between 1 and 100 labels, names of at most 64 characters.
const MOST_LABELS: usize = 100;
const LONGEST_NAME: usize = 64;
const LONGEST_LABEL: usize = 256;

pub fn router(github: GitHub) -> Router {
    Router::new()
        .route("/app", get(app))
        .route("/app/installations", get(installations))
        .route("/app/installations/{id}", get(installation))
        .route("/app/installations/{id}/access_tokens", post(access_token))
        .route("/app/hook/deliveries", get(deliveries))
        .route("/app/hook/deliveries/{id}", get(delivery))
        .route("/app/hook/deliveries/{id}/attempts", post(redeliver))
        .route("/repos/{owner}/{repo}/installation", get(repo_installation))
        .route("/orgs/{org}/installation", get(org_installation))
        .route("/repos/{owner}/{repo}/actions/runners/generate-jitconfig", post(repo_jit))
        .route("/orgs/{org}/actions/runners/generate-jitconfig", post(org_jit))
        .route("/repos/{owner}/{repo}/actions/runners", get(repo_runners))
        .route("/orgs/{org}/actions/runners", get(org_runners))
        .route("/repos/{owner}/{repo}/actions/runners/{id}", get(repo_runner).delete(repo_delete))
        .route("/orgs/{org}/actions/runners/{id}", get(org_runner).delete(org_delete))
        .route("/orgs/{org}/actions/runner-groups", get(groups))
        .route("/repos/{owner}/{repo}/actions/runs", get(runs))
        .route("/repos/{owner}/{repo}/actions/runs/{run}/jobs", get(run_jobs))
        .route("/repos/{owner}/{repo}/actions/jobs/{job}", get(job))
        .route("/rate_limit", get(rate_limit))
        .layer(from_fn_with_state(github.clone(), faulty))
        .with_state(github)
}

async fn faulty(State(github): State<GitHub>, request: Request, next: Next) -> Response {
    let operation = faults::operation(request.method(), request.uri().path());
    github.faults().around(operation, request, next).await
}

/// A refusal in GitHub's words.
struct Refusal(StatusCode, String, Option<Value>);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({
            "message": self.1, "documentation_url": "https://docs.github.com/rest", "status": self.0.as_str(),
        });
        if let Some(errors) = self.2 {
            body["errors"] = errors;
        }
        (self.0, Json(body)).into_response()
    }
}

fn refuse(status: StatusCode, message: impl Into<String>) -> Refusal {
    Refusal(status, message.into(), None)
}

fn not_found() -> Refusal {
    refuse(StatusCode::NOT_FOUND, "Not Found")
}

fn invalid(field: &str, message: &str) -> Refusal {
    let errors = json!([format!("{field} {message}")]);
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, "Validation Failed".to_owned(), Some(errors))
}

type Answer = Result<Response, Refusal>;

impl GitHub {
    fn as_app(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.inner.key.verify(headers, self.settings().app_id).map_err(|reason| {
            self.inner.state().unauthorised += 1;
            refuse(StatusCode::UNAUTHORIZED, reason)
        })
    }

    /// The token must be one of the owner's installation.
    fn as_installation(&self, headers: &HeaderMap, owner: &str) -> Result<(), Refusal> {
        let mut state = self.inner.state();
        let token = auth::bearer(headers).and_then(|token| state.tokens.get(token));
        match token {
            Some(token) if token.expires_at <= state::now() => Err(refuse(StatusCode::UNAUTHORIZED, "Bad credentials")),
            Some(token) if token.owner == owner.to_lowercase() => Ok(()),
            Some(_) => Err(refuse(StatusCode::FORBIDDEN, "Resource not accessible by integration")),
            None => {
                state.unauthorised += 1;
                Err(refuse(StatusCode::UNAUTHORIZED, "Bad credentials"))
            }
        }
    }

    fn knows_repo(&self, owner: &str, repo: &str) -> bool {
        let wanted = format!("{owner}/{repo}").to_lowercase();
        self.settings().repos.iter().any(|known| known.to_lowercase() == wanted) || self.knows_org(owner)
    }

    fn knows_org(&self, org: &str) -> bool {
        self.settings().orgs.iter().any(|known| known.eq_ignore_ascii_case(org))
    }

    fn owners(&self) -> BTreeMap<u64, String> {
        let settings = self.settings();
        let owners = settings
            .repos
            .iter()
            .filter_map(|repo| repo.split('/').next())
            .chain(settings.orgs.iter().map(String::as_str));
        owners.map(|owner| (payload::owner_id(owner), owner.to_owned())).collect()
    }
}

fn permissions() -> Value {
    json!({
        "actions": "read", "administration": "write", "metadata": "read", "organization_self_hosted_runners": "write",
    })
}

fn installation_json(github: &GitHub, id: u64, owner: &str) -> Value {
    let kind = if github.knows_org(owner) { "Organization" } else { "User" };
    let api = "https://api.github.com";
    json!({
        "id": id, "app_id": github.settings().app_id, "app_slug": "pacer", "client_id": "Iv1.0123456789abcdef",
        "target_id": id, "target_type": kind,
        "account": {
            "login": owner, "id": id, "node_id": "MDQ6VXNlcjE=", "avatar_url": "https://avatars.githubusercontent.com/u/1?v=4",
            "gravatar_id": "", "url": format!("{api}/users/{owner}"), "html_url": format!("https://github.com/{owner}"),
            "followers_url": format!("{api}/users/{owner}/followers"), "following_url": format!("{api}/users/{owner}/following"),
            "gists_url": format!("{api}/users/{owner}/gists"), "starred_url": format!("{api}/users/{owner}/starred"),
            "subscriptions_url": format!("{api}/users/{owner}/subscriptions"), "organizations_url": format!("{api}/users/{owner}/orgs"),
            "repos_url": format!("{api}/users/{owner}/repos"), "events_url": format!("{api}/users/{owner}/events"),
            "received_events_url": format!("{api}/users/{owner}/received_events"), "type": kind, "site_admin": false,
        },
        "access_tokens_url": format!("{api}/app/installations/{id}/access_tokens"),
        "repositories_url": format!("{api}/installation/repositories"),
        "html_url": format!("https://github.com/settings/installations/{id}"),
        "repository_selection": "selected", "permissions": permissions(), "events": ["workflow_job"],
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "single_file_name": null,
        "suspended_by": null, "suspended_at": null,
    })
}

async fn app(State(github): State<GitHub>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let app = json!({
        "id": github.settings().app_id, "slug": "pacer", "node_id": "MDExOkludGVncmF0aW9uMQ==", "client_id": "Iv1.0123456789abcdef",
        "owner": installation_json(&github, 1, "octocat")["account"].clone(),
        "name": "pacer", "description": "", "external_url": "https://example.com", "html_url": "https://github.com/apps/pacer",
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "permissions": permissions(),
        "events": ["workflow_job"], "installations_count": github.owners().len(),
    });
    Ok(Json(app).into_response())
}

async fn installations(State(github): State<GitHub>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let all: Vec<Value> = github.owners().iter().map(|(id, owner)| installation_json(&github, *id, owner)).collect();
    Ok(Json(all).into_response())
}

async fn installation(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let owners = github.owners();
    let owner = owners.get(&id).ok_or_else(not_found)?;
    Ok(Json(installation_json(&github, id, owner)).into_response())
}

async fn repo_installation(
    State(github): State<GitHub>,
    Path((owner, repo)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    github.as_app(&headers)?;
    if !github.knows_repo(&owner, &repo) {
        return Err(not_found());
    }
    Ok(Json(installation_json(&github, payload::owner_id(&owner), &owner)).into_response())
}

async fn org_installation(State(github): State<GitHub>, Path(org): Path<String>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    if !github.knows_org(&org) {
        return Err(not_found());
    }
    Ok(Json(installation_json(&github, payload::owner_id(&org), &org)).into_response())
}

async fn access_token(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let owner = github.owners().remove(&id).ok_or_else(not_found)?;
    let expires_at = state::now() + Duration::from_secs(3600);
    let token = {
        let mut state = github.inner.state();
        let token = format!("ghs_{}_{}", github.settings().app_id, state.dice.hex(TOKEN - 12));
        state.tokens.insert(token.clone(), Token { owner: owner.to_lowercase(), expires_at });
        token
    };
    let expires_at = Timestamped(expires_at).to_string();
    let body = json!({
        "token": token, "expires_at": expires_at, "permissions": permissions(), "repository_selection": "selected",
    });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// A time as GitHub writes it: whole seconds.
struct Timestamped(jiff::Timestamp);

impl std::fmt::Display for Timestamped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", jiff::Timestamp::from_second(self.0.as_second()).unwrap_or(self.0))
    }
}

#[derive(Deserialize)]
struct Jit {
    name: String,
    runner_group_id: i64,
    labels: Vec<String>,
    #[serde(default)]
    work_folder: Option<String>,
}

async fn repo_jit(
    State(github): State<GitHub>,
    Path((owner, repo)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    github.as_installation(&headers, &owner)?;
    if !github.knows_repo(&owner, &repo) {
        return Err(not_found());
    }
    jit(&github, Scope::Repo(format!("{owner}/{repo}").to_lowercase()), &body)
}

async fn org_jit(State(github): State<GitHub>, Path(org): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    github.as_installation(&headers, &org)?;
    if !github.knows_org(&org) {
        return Err(not_found());
    }
    jit(&github, Scope::Org(org.to_lowercase()), &body)
}

fn jit(github: &GitHub, scope: Scope, body: &[u8]) -> Answer {
    let request: Jit = serde_json::from_slice(body)
        .map_err(|error| refuse(StatusCode::UNPROCESSABLE_ENTITY, format!("Invalid request.\n\n{error}")))?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if request.name.is_empty() || request.name.len() > LONGEST_NAME || !request.name.chars().all(fits) {
        return Err(invalid("name", "must be 1 to 64 letters, digits, dots, underscores or dashes"));
    }
    if request.labels.is_empty() || request.labels.len() > MOST_LABELS {
        return Err(invalid("labels", "must be 1 to 100"));
    }
    if request.labels.iter().any(|label| label.is_empty() || label.len() > LONGEST_LABEL) {
        return Err(invalid("labels", "must each have 1 to 256 characters"));
    }
    if request.runner_group_id != 1 {
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
    let labels: std::collections::BTreeSet<String> = request.labels.iter().map(|label| label.to_lowercase()).collect();
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
    let answer = json!({ "runner": runner_json(&runner), "encoded_jit_config": config });
    *state.issued.entry(request.name).or_default() += 1;
    state.names.insert(key, id);
    state.runners.insert(id, runner);
    state.jit_configs.push(config);
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

fn runner_json(runner: &Runner) -> Value {
    let labels: Vec<Value> = runner
        .spelled
        .iter()
        .enumerate()
        .map(|(index, label)| json!({ "id": index + 1, "name": label, "type": "custom" }))
        .collect();
    json!({
        "id": runner.id, "runner_group_id": runner.group, "name": runner.name,
        "os": if runner.connected { "linux" } else { "unknown" },
        "status": if runner.online { "online" } else { "offline" },
        "busy": runner.job.is_some(), "labels": labels, "ephemeral": true,
    })
}

#[derive(Deserialize)]
struct Paging {
    per_page: Option<usize>,
    page: Option<usize>,
    name: Option<String>,
    status: Option<String>,
    cursor: Option<String>,
}

impl Paging {
    /// A page of `items`, and the `Link` to the next.
    fn cut<T>(&self, items: Vec<T>, path: &str) -> (Vec<T>, HeaderMap) {
        let per_page = self.per_page.unwrap_or(30).clamp(1, 100);
        let page = self.page.unwrap_or(1).max(1);
        let total = items.len();
        let part: Vec<T> = items.into_iter().skip((page - 1) * per_page).take(per_page).collect();
        let mut headers = HeaderMap::new();
        if page * per_page < total {
            let link = format!("<https://api.github.com{path}?per_page={per_page}&page={}>; rel=\"next\"", page + 1);
            headers.extend(link.parse().ok().map(|link| (header::LINK, link)));
        }
        (part, headers)
    }
}

async fn repo_runners(
    State(github): State<GitHub>,
    Path((owner, repo)): Path<(String, String)>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Answer {
    github.as_installation(&headers, &owner)?;
    if !github.knows_repo(&owner, &repo) {
        return Err(not_found());
    }
    runners(&github, &Scope::Repo(format!("{owner}/{repo}").to_lowercase()), &paging)
}

async fn org_runners(
    State(github): State<GitHub>,
    Path(org): Path<String>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Answer {
    github.as_installation(&headers, &org)?;
    runners(&github, &Scope::Org(org.to_lowercase()), &paging)
}

fn runners(github: &GitHub, scope: &Scope, paging: &Paging) -> Answer {
    let state = github.inner.state();
    let found: Vec<Value> = match &paging.name {
        Some(name) => state
            .names
            .get(&(scope.clone(), name.clone()))
            .and_then(|id| state.runners.get(id))
            .map(runner_json)
            .into_iter()
            .collect(),
        None => state.runners.values().filter(|runner| runner.scope == *scope).map(runner_json).collect(),
    };
    let total = found.len();
    let (runners, headers) = paging.cut(found, "/actions/runners");
    Ok((headers, Json(json!({ "total_count": total, "runners": runners }))).into_response())
}

async fn repo_runner(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    github.as_installation(&headers, &owner)?;
    runner(&github, &Scope::Repo(format!("{owner}/{repo}").to_lowercase()), id)
}

async fn org_runner(State(github): State<GitHub>, Path((org, id)): Path<(String, u64)>, headers: HeaderMap) -> Answer {
    github.as_installation(&headers, &org)?;
    runner(&github, &Scope::Org(org.to_lowercase()), id)
}

fn runner(github: &GitHub, scope: &Scope, id: u64) -> Answer {
    let state = github.inner.state();
    let runner = state.runners.get(&id).filter(|runner| runner.scope == *scope).ok_or_else(not_found)?;
    Ok(Json(runner_json(runner)).into_response())
}

async fn repo_delete(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    github.as_installation(&headers, &owner)?;
    delete(&github, &Scope::Repo(format!("{owner}/{repo}").to_lowercase()), id)
}

async fn org_delete(State(github): State<GitHub>, Path((org, id)): Path<(String, u64)>, headers: HeaderMap) -> Answer {
    github.as_installation(&headers, &org)?;
    delete(&github, &Scope::Org(org.to_lowercase()), id)
}

fn delete(github: &GitHub, scope: &Scope, id: u64) -> Answer {
    let mut state = github.inner.state();
    let runner = state.runners.get(&id).filter(|runner| runner.scope == *scope).ok_or_else(not_found)?;
    if runner.job.is_some() {
        let message = format!("Runner \"{}\" is still running a job\"", runner.name);
        return Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    state.remove(id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn groups(State(github): State<GitHub>, Path(org): Path<String>, headers: HeaderMap) -> Answer {
    github.as_installation(&headers, &org)?;
    let group = json!({
        "id": 1, "name": "Default", "visibility": "all", "default": true, "inherited": false,
        "runners_url": format!("https://api.github.com/orgs/{org}/actions/runner-groups/1/runners"),
        "allows_public_repositories": false, "restricted_to_workflows": false, "selected_workflows": [],
        "workflow_restrictions_read_only": false,
    });
    Ok(Json(json!({ "total_count": 1, "runner_groups": [group] })).into_response())
}

/// Every run has one job: what the run is, its job is.
async fn runs(
    State(github): State<GitHub>,
    Path((owner, repo)): Path<(String, String)>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Answer {
    github.as_installation(&headers, &owner)?;
    let full = format!("{owner}/{repo}");
    let state = github.inner.state();
    let found: Vec<Value> = state
        .jobs
        .values()
        .rev()
        .filter(|job| job.repo.eq_ignore_ascii_case(&full))
        .filter(|job| paging.status.as_deref().is_none_or(|status| status == job.state.word()))
        .map(run_json)
        .collect();
    let total = found.len();
    let (runs, headers) = paging.cut(found, "/actions/runs");
    Ok((headers, Json(json!({ "total_count": total, "workflow_runs": runs }))).into_response())
}

fn run_json(job: &state::Job) -> Value {
    json!({
        "id": job.run_id, "name": "CI", "run_number": job.run_id, "run_attempt": 1, "event": "push",
        "status": job.state.word(), "conclusion": job.conclusion, "head_branch": "main",
        "head_sha": format!("{:040x}", job.run_id), "created_at": job.created_at, "updated_at": job.created_at,
    })
}

async fn run_jobs(
    State(github): State<GitHub>,
    Path((owner, _repo, run)): Path<(String, String, u64)>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Answer {
    github.as_installation(&headers, &owner)?;
    let state = github.inner.state();
    // A run's only job was made right before it.
    let job = state.jobs.get(&(run - 1)).filter(|job| job.run_id == run).ok_or_else(not_found)?;
    let (jobs, headers) = paging.cut(vec![payload::job(job, "https://api.github.com")], "/jobs");
    Ok((headers, Json(json!({ "total_count": 1, "jobs": jobs }))).into_response())
}

async fn job(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    github.as_installation(&headers, &owner)?;
    let full = format!("{owner}/{repo}");
    let state = github.inner.state();
    let job = state.jobs.get(&id).filter(|job| job.repo.eq_ignore_ascii_case(&full)).ok_or_else(not_found)?;
    Ok(Json(payload::job(job, "https://api.github.com")).into_response())
}

fn attempt_json(attempt: &super::webhooks::Attempt) -> Value {
    json!({
        "id": attempt.id, "guid": attempt.guid, "delivered_at": attempt.delivered_at, "redelivery": attempt.redelivery,
        "duration": attempt.duration, "status": attempt.status, "status_code": attempt.status_code,
        "event": "workflow_job", "action": attempt.action,
        "installation_id": payload::owner_id(attempt.repo.split('/').next().unwrap_or_default()),
        "repository_id": payload::owner_id(&attempt.repo), "throttled_at": null,
    })
}

async fn deliveries(State(github): State<GitHub>, Query(paging): Query<Paging>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let before: u64 = match paging.cursor.as_deref().map(str::parse) {
        None => u64::MAX,
        Some(Ok(before)) => before,
        Some(Err(_)) => return Err(refuse(StatusCode::BAD_REQUEST, "Invalid cursor")),
    };
    let per_page = paging.per_page.unwrap_or(30).clamp(1, 100);
    let log = github.inner.webhooks.log();
    let mut part: Vec<_> = log.iter().filter(|attempt| attempt.id < before).take(per_page + 1).collect();
    let mut links = HeaderMap::new();
    if part.len() > per_page {
        part.truncate(per_page);
        if let Some(last) = part.last() {
            let link = format!(
                "<https://api.github.com/app/hook/deliveries?per_page={per_page}&cursor={}>; rel=\"next\"",
                last.id
            );
            links.extend(link.parse().ok().map(|link| (header::LINK, link)));
        }
    }
    let part: Vec<Value> = part.into_iter().map(attempt_json).collect();
    Ok((links, Json(part)).into_response())
}

async fn delivery(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let attempt = github.inner.webhooks.attempt(id).ok_or_else(not_found)?;
    let mut body = attempt_json(&attempt);
    let payload: Value = serde_json::from_slice(&attempt.body).unwrap_or_default();
    body["url"] = "https://pacer.example.com/api/webhook".into();
    body["request"] = json!({ "headers": { "X-GitHub-Event": "workflow_job", "X-GitHub-Delivery": attempt.guid }, "payload": payload });
    body["response"] = json!({ "headers": {}, "payload": "" });
    Ok(Json(body).into_response())
}

async fn redeliver(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let attempt = github.inner.webhooks.attempt(id).ok_or_else(not_found)?;
    let again = github.clone();
    github.inner.tracker.spawn(async move {
        again.inner.webhooks.send(&attempt.guid, attempt.action, &attempt.repo, attempt.body.clone(), true).await;
    });
    Ok((StatusCode::ACCEPTED, Json(json!({}))).into_response())
}

async fn rate_limit(State(github): State<GitHub>, headers: HeaderMap) -> Answer {
    let known = auth::bearer(&headers).is_some_and(|token| github.inner.state().tokens.contains_key(token));
    if !known {
        return Err(refuse(StatusCode::UNAUTHORIZED, "Bad credentials"));
    }
    let limit =
        |limit: u32| json!({ "limit": limit, "used": 0, "remaining": limit, "reset": state::now().as_second() + 3600 });
    let body = json!({
        "resources": { "core": limit(5000), "search": limit(30), "actions_runner_registration": limit(10_000) },
        "rate": limit(5000),
    });
    Ok(Json(body).into_response())
}
