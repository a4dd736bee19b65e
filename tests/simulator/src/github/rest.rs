//! The REST API that a GitHub App uses, with GitHub's own refusals.

mod app;
mod jobs;
mod runners;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    GitHub, auth, limits, manners, payload,
    permissions::{Installation, Need},
    state::{self, Scope},
};

pub fn router(github: GitHub) -> Router {
    Router::new()
        .route("/app", get(app::app))
        .route("/app/installations", get(app::installations))
        .route("/app/installations/{id}", get(app::installation))
        .route("/app/installations/{id}/access_tokens", post(app::access_token))
        .route("/app/hook/config", get(app::hook_config))
        .route("/app/hook/deliveries", get(app::deliveries))
        .route("/app/hook/deliveries/{id}", get(app::delivery))
        .route("/app/hook/deliveries/{id}/attempts", post(app::redeliver))
        .route("/repos/{owner}/{repo}/installation", get(app::repo_installation))
        .route("/orgs/{org}/installation", get(app::org_installation))
        .route("/repos/{owner}/{repo}/actions/runners/generate-jitconfig", post(runners::repo_jit))
        .route("/orgs/{org}/actions/runners/generate-jitconfig", post(runners::org_jit))
        .route("/repos/{owner}/{repo}/actions/runners", get(runners::repo_runners))
        .route("/orgs/{org}/actions/runners", get(runners::org_runners))
        .route("/repos/{owner}/{repo}/actions/runners/{id}", get(runners::repo_runner).delete(runners::repo_delete))
        .route("/orgs/{org}/actions/runners/{id}", get(runners::org_runner).delete(runners::org_delete))
        .route("/orgs/{org}/actions/runner-groups", get(runners::groups))
        .route("/repos/{owner}/{repo}/actions/runs", get(jobs::runs))
        .route("/repos/{owner}/{repo}/actions/runs/{run}/jobs", get(jobs::run_jobs))
        .route("/repos/{owner}/{repo}/actions/jobs/{job}", get(jobs::job))
        .route("/repos/{owner}/{repo}/actions/jobs/{job}/rerun", post(jobs::rerun))
        .route("/installation/repositories", get(app::repositories))
        .route("/rate_limit", get(rate_limit))
        .method_not_allowed_fallback(nowhere)
        .fallback(nowhere)
        .layer(from_fn_with_state(github.clone(), limits::around))
        .layer(from_fn_with_state(github.clone(), manners::around))
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
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, "Validation Failed".to_owned(), Some(errors))
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

    /// The token must be one of the owner's installation, and have what the call needs. What no installation reaches
    /// looks as if it did not exist.
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
        } else if !state.installations.contains_key(&owner.to_lowercase()) {
            Err(not_found())
        } else if token.owner == owner.to_lowercase()
            && need.met_by(&token.permissions)
            && need.met_by(&installation.permissions)
        {
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
#[derive(Deserialize)]
struct Paging {
    per_page: Option<usize>,
    page: Option<usize>,
    name: Option<String>,
    status: Option<String>,
    filter: Option<String>,
    cursor: Option<String>,
}

impl Paging {
    fn per_page(&self) -> usize {
        self.per_page.unwrap_or(30).clamp(1, 100)
    }

    /// A page of `items`, and the `Link` to the next, at the server that was asked.
    fn cut<T>(&self, items: Vec<T>, url: &str) -> (Vec<T>, HeaderMap) {
        let per_page = self.per_page();
        let page = self.page.unwrap_or(1).max(1);
        let total = items.len();
        // A page beyond every number is empty, as any page after the last is.
        let part: Vec<T> = items.into_iter().skip((page - 1).saturating_mul(per_page)).take(per_page).collect();
        let next = page.saturating_mul(per_page) < total;
        (part, if next { self.next(url, "page", page + 1) } else { HeaderMap::new() })
    }

    /// The `Link` to what comes next: what was asked for is asked for again.
    fn next(&self, url: &str, key: &str, value: impl ToString) -> HeaderMap {
        let Ok(mut url) = reqwest::Url::parse(url) else { return HeaderMap::new() };
        url.query_pairs_mut().append_pair("per_page", &self.per_page().to_string());
        if let Some(status) = &self.status {
            url.query_pairs_mut().append_pair("status", status);
        }
        url.query_pairs_mut().append_pair(key, &value.to_string());
        format!("<{url}>; rel=\"next\"").parse().ok().map(|link| (header::LINK, link)).into_iter().collect()
    }
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
