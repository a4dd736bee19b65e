//! The REST API that a GitHub App uses, with GitHub's own refusals.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::Notify;

use super::{
    GitHub, auth, limits, payload,
    permissions::{ACTIONS, ADMINISTRATION, Access, Installation, Narrowing, Need, ORGANIZATION_RUNNERS},
    runner::Config,
    shapes,
    state::{self, Runner, Scope, Token},
};

const READ_RUNNERS: Need = Need(ADMINISTRATION, Access::Read);
const WRITE_RUNNERS: Need = Need(ADMINISTRATION, Access::Write);
const READ_ORG_RUNNERS: Need = Need(ORGANIZATION_RUNNERS, Access::Read);
const WRITE_ORG_RUNNERS: Need = Need(ORGANIZATION_RUNNERS, Access::Write);
const READ_JOBS: Need = Need(ACTIONS, Access::Read);

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
        .method_not_allowed_fallback(nowhere)
        .fallback(nowhere)
        .layer(from_fn_with_state(github.clone(), limits::around))
        .with_state(github)
}

async fn nowhere() -> Refusal {
    not_found()
}

/// A refusal in GitHub's words.
pub struct Refusal(StatusCode, String, Option<Value>);

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

pub fn refuse(status: StatusCode, message: impl Into<String>) -> Refusal {
    Refusal(status, message.into(), None)
}

fn not_found() -> Refusal {
    refuse(StatusCode::NOT_FOUND, "Not Found")
}

/// What is wrong with one field of a runner, in the shape that GitHub calls simple.
fn invalid(field: &str, message: &str) -> Refusal {
    let errors = json!([format!("{field} {message}")]);
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("Validation Failed: {field} {message}"), Some(errors))
}

fn unprocessable(message: impl Into<String>) -> Refusal {
    refuse(StatusCode::UNPROCESSABLE_ENTITY, message)
}

type Answer = Result<Response, Refusal>;

impl GitHub {
    fn as_app(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        self.inner.key.verify(headers, self.settings().app_id).map_err(|reason| {
            self.inner.state().unauthorised += 1;
            refuse(StatusCode::UNAUTHORIZED, reason)
        })
    }

    /// The token must be one of the owner's installation, and have what the call needs. What the installation does
    /// not reach looks as if it did not exist.
    fn as_installation(&self, headers: &HeaderMap, owner: &str, need: Need) -> Result<(), Refusal> {
        let mut state = self.inner.state();
        let Some(token) = auth::bearer(headers).and_then(|token| state.tokens.get(token)) else {
            state.unauthorised += 1;
            return Err(refuse(StatusCode::UNAUTHORIZED, "Bad credentials"));
        };
        let installation = state.installations.get(&token.owner);
        let installation = installation.ok_or_else(|| refuse(StatusCode::UNAUTHORIZED, "Bad credentials"))?;
        if token.expires_at <= state::now() {
            Err(refuse(StatusCode::UNAUTHORIZED, "Bad credentials"))
        } else if installation.suspended {
            Err(suspended())
        } else if token.owner != owner.to_lowercase() {
            Err(not_found())
        } else if need.met_by(&token.permissions) && need.met_by(&installation.permissions) {
            Ok(())
        } else {
            Err(refuse(StatusCode::FORBIDDEN, "Resource not accessible by integration"))
        }
    }

    /// Like [`as_installation`](Self::as_installation), for a repository that the token reaches.
    fn on_repo(&self, headers: &HeaderMap, owner: &str, repo: &str, need: Need) -> Result<Scope, Refusal> {
        self.as_installation(headers, owner, need)?;
        let full = format!("{owner}/{repo}").to_lowercase();
        let state = self.inner.state();
        let token = auth::bearer(headers).and_then(|token| state.tokens.get(token));
        let reached = token.and_then(|token| token.repositories.as_ref()).is_none_or(|only| only.contains(&full));
        if reached && self.knows_repo(owner, repo) { Ok(Scope::Repo(full)) } else { Err(not_found()) }
    }

    fn on_org(&self, headers: &HeaderMap, org: &str, need: Need) -> Result<Scope, Refusal> {
        self.as_installation(headers, org, need)?;
        if self.knows_org(org) { Ok(Scope::Org(org.to_lowercase())) } else { Err(not_found()) }
    }

    fn knows_repo(&self, owner: &str, repo: &str) -> bool {
        let wanted = format!("{owner}/{repo}").to_lowercase();
        self.settings().repos.iter().any(|known| known.to_lowercase() == wanted) || self.knows_org(owner)
    }

    pub fn knows_org(&self, org: &str) -> bool {
        self.settings().orgs.iter().any(|known| known.eq_ignore_ascii_case(org))
    }

    fn installation_of(&self, owner: &str) -> Result<Installation, Refusal> {
        self.inner.state().installations.get(&owner.to_lowercase()).cloned().ok_or_else(not_found)
    }

    fn installation(&self, id: u64) -> Result<Installation, Refusal> {
        let state = self.inner.state();
        let found = state.installations.values().find(|known| payload::owner_id(&known.owner) == id);
        found.cloned().ok_or_else(not_found)
    }
}

fn suspended() -> Refusal {
    refuse(StatusCode::FORBIDDEN, "This installation has been suspended")
}

async fn app(State(github): State<GitHub>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let count = github.inner.state().installations.len();
    Ok(Json(shapes::app(&github, &github.settings().permissions, count)).into_response())
}

async fn installations(State(github): State<GitHub>, Query(paging): Query<Paging>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let all: Vec<Installation> = github.inner.state().installations.values().cloned().collect();
    let (part, links) = paging.cut(all, "/app/installations");
    let part: Vec<Value> = part.iter().map(|known| shapes::installation(&github, known)).collect();
    Ok((links, Json(part)).into_response())
}

async fn installation(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    Ok(Json(shapes::installation(&github, &github.installation(id)?)).into_response())
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
    Ok(Json(shapes::installation(&github, &github.installation_of(&owner)?)).into_response())
}

async fn org_installation(State(github): State<GitHub>, Path(org): Path<String>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    if !github.knows_org(&org) {
        return Err(not_found());
    }
    Ok(Json(shapes::installation(&github, &github.installation_of(&org)?)).into_response())
}

async fn access_token(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap, body: Bytes) -> Answer {
    github.as_app(&headers)?;
    let installation = github.installation(id)?;
    if installation.suspended {
        return Err(suspended());
    }
    let narrowing: Narrowing = match body.as_ref() {
        b"" => Narrowing::default(),
        body => serde_json::from_slice(body).map_err(|error| unprocessable(format!("Invalid request.\n\n{error}")))?,
    };
    let permissions = narrowing
        .permissions(&installation.permissions)
        .ok_or_else(|| unprocessable("The permissions requested are not granted to this installation."))?;
    let known = |full: &str| full.split_once('/').is_some_and(|(owner, repo)| github.knows_repo(owner, repo));
    let by_id = |id: u64| github.settings().repos.iter().find(|full| payload::owner_id(full) == id).cloned();
    let repositories = narrowing.repositories(&installation.owner, known, by_id).map_err(|()| {
        unprocessable(
            "There is at least one repository that does not exist or is not accessible to the parent installation.",
        )
    })?;
    let expires_at = state::now() + Duration::from_secs(3600);
    let mut answer = json!({
        "expires_at": Timestamped(expires_at).to_string(), "permissions": permissions, "repository_selection": "selected",
    });
    if let Some(repositories) = &repositories {
        let organization = github.knows_org(&installation.owner);
        let full = repositories.iter().map(|full| payload::repository(full, shapes::API, organization));
        answer["repositories"] = full.collect();
    }
    let mut state = github.inner.state();
    let start = format!("ghs_{}_", github.settings().app_id);
    let token = format!("{start}{}", state.dice.hex(TOKEN.saturating_sub(start.len())));
    answer["token"] = token.clone().into();
    let owner = installation.owner.to_lowercase();
    state.tokens.insert(token, Token { owner, expires_at, permissions, repositories });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
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
    let scope = github.on_repo(&headers, &owner, &repo, WRITE_RUNNERS)?;
    jit(&github, scope, &body)
}

async fn org_jit(State(github): State<GitHub>, Path(org): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
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

#[derive(Deserialize)]
struct Paging {
    per_page: Option<usize>,
    page: Option<usize>,
    name: Option<String>,
    status: Option<String>,
    cursor: Option<String>,
}

impl Paging {
    fn per_page(&self) -> usize {
        self.per_page.unwrap_or(30).clamp(1, 100)
    }

    /// A page of `items`, and the `Link` to the next.
    fn cut<T>(&self, items: Vec<T>, path: &str) -> (Vec<T>, HeaderMap) {
        let per_page = self.per_page();
        let page = self.page.unwrap_or(1).max(1);
        let total = items.len();
        let part: Vec<T> = items.into_iter().skip((page - 1) * per_page).take(per_page).collect();
        let mut headers = HeaderMap::new();
        if page * per_page < total {
            let link = format!("<{}{path}?per_page={per_page}&page={}>; rel=\"next\"", shapes::API, page + 1);
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
    let scope = github.on_repo(&headers, &owner, &repo, READ_RUNNERS)?;
    runners(&github, &scope, &paging)
}

async fn org_runners(
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
    let found: Vec<Value> = match &paging.name {
        Some(name) => state
            .names
            .get(&(scope.clone(), name.clone()))
            .and_then(|id| state.runners.get(id))
            .map(shapes::runner)
            .into_iter()
            .collect(),
        None => state.runners.values().filter(|runner| runner.scope == *scope).map(shapes::runner).collect(),
    };
    let total = found.len();
    let path = match scope {
        Scope::Repo(repo) => format!("/repos/{repo}/actions/runners"),
        Scope::Org(org) => format!("/orgs/{org}/actions/runners"),
    };
    let (runners, headers) = paging.cut(found, &path);
    Ok((headers, Json(json!({ "total_count": total, "runners": runners }))).into_response())
}

async fn repo_runner(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    let scope = github.on_repo(&headers, &owner, &repo, READ_RUNNERS)?;
    runner(&github, &scope, id)
}

async fn org_runner(State(github): State<GitHub>, Path((org, id)): Path<(String, u64)>, headers: HeaderMap) -> Answer {
    let scope = github.on_org(&headers, &org, READ_ORG_RUNNERS)?;
    runner(&github, &scope, id)
}

fn runner(github: &GitHub, scope: &Scope, id: u64) -> Answer {
    let state = github.inner.state();
    let runner = state.runners.get(&id).filter(|runner| runner.scope == *scope).ok_or_else(not_found)?;
    Ok(Json(shapes::runner(runner)).into_response())
}

async fn repo_delete(
    State(github): State<GitHub>,
    Path((owner, repo, id)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Answer {
    let scope = github.on_repo(&headers, &owner, &repo, WRITE_RUNNERS)?;
    delete(&github, &scope, id)
}

async fn org_delete(State(github): State<GitHub>, Path((org, id)): Path<(String, u64)>, headers: HeaderMap) -> Answer {
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

async fn groups(State(github): State<GitHub>, Path(org): Path<String>, headers: HeaderMap) -> Answer {
    github.on_org(&headers, &org, READ_ORG_RUNNERS)?;
    Ok(Json(json!({ "total_count": 1, "runner_groups": [shapes::group(&org)] })).into_response())
}

/// Every run has one job.
async fn runs(
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
        let (part, links) = paging.cut(found, &format!("/repos/{full}/actions/runs"));
        (total, part.into_iter().cloned().collect::<Vec<_>>(), links)
    };
    let runs: Vec<Value> = runs.iter().map(|job| shapes::run(job, organization)).collect();
    Ok((links, Json(json!({ "total_count": total, "workflow_runs": runs }))).into_response())
}

async fn run_jobs(
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

async fn job(
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

async fn deliveries(State(github): State<GitHub>, Query(paging): Query<Paging>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let before: u64 = match paging.cursor.as_deref().map(str::parse) {
        None => u64::MAX,
        Some(Ok(before)) => before,
        Some(Err(_)) => return Err(refuse(StatusCode::BAD_REQUEST, "Invalid cursor")),
    };
    let succeeded = match paging.status.as_deref() {
        None => None,
        Some("success") => Some(true),
        Some("failure") => Some(false),
        Some(_) => return Err(unprocessable("status must be `success` or `failure`")),
    };
    let per_page = paging.per_page();
    let mut part = github.inner.webhooks.log(before, succeeded, per_page + 1);
    let mut links = HeaderMap::new();
    if part.len() > per_page {
        part.truncate(per_page);
        if let Some(last) = part.last() {
            let status = paging.status.as_ref().map(|status| format!("&status={status}")).unwrap_or_default();
            let link = format!(
                "<{}/app/hook/deliveries?per_page={per_page}{status}&cursor={}>; rel=\"next\"",
                shapes::API,
                last.id
            );
            links.extend(link.parse().ok().map(|link| (header::LINK, link)));
        }
    }
    let part: Vec<Value> = part.iter().map(shapes::delivery).collect();
    Ok((links, Json(part)).into_response())
}

async fn delivery(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let attempt = github.inner.webhooks.attempt(id).ok_or_else(not_found)?;
    let sent = attempt.told.body(&github);
    let mut answer = shapes::delivery(&attempt);
    let headers: serde_json::Map<String, Value> = github
        .inner
        .webhooks
        .headers(&attempt.guid, &sent)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    answer["url"] = attempt.url.clone().into();
    answer["request"] =
        json!({ "headers": headers, "payload": serde_json::from_slice::<Value>(&sent).unwrap_or_default() });
    answer["response"] = json!({ "headers": {}, "payload": "" });
    Ok(Json(answer).into_response())
}

async fn redeliver(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let attempt = github.inner.webhooks.attempt(id).ok_or_else(not_found)?;
    let again = github.clone();
    github.inner.tracker.spawn(async move {
        let sending = again.inner.webhooks.send(&again, &attempt.guid, &attempt.told, true);
        again.inner.stopping.run_until_cancelled(sending).await;
    });
    Ok((StatusCode::ACCEPTED, Json(json!({}))).into_response())
}

/// Asking costs nothing.
async fn rate_limit(State(github): State<GitHub>, headers: HeaderMap) -> Answer {
    let mut state = github.inner.state();
    let owner = auth::bearer(&headers).and_then(|token| state.tokens.get(token)).map(|token| token.owner.clone());
    let owner = owner.ok_or_else(|| refuse(StatusCode::UNAUTHORIZED, "Bad credentials"))?;
    let window = *state.spent.window(&owner, state::now());
    let limit = |limit: u32, used: u32| {
        let used = used.min(limit);
        json!({ "limit": limit, "used": used, "remaining": limit - used, "reset": window.reset })
    };
    let core = github.settings().hourly_limit.map_or_else(|| limit(5000, 0), |most| limit(most, window.used));
    let body = json!({
        "resources": { "core": core, "search": limit(30, 0), "actions_runner_registration": limit(10_000, 0) },
        "rate": core,
    });
    Ok(Json(body).into_response())
}
