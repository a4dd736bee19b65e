//! What the App itself asks for: its installations and their tokens, and the log of its deliveries.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use serde_json::{Value, json};

use super::{
    super::{
        GitHub, auth, payload,
        permissions::{Installation, Narrowing},
        shapes,
        state::{self, Token},
    },
    Answer, Paging, not_found, refuse, suspended, unprocessable,
};

/// The length of GitHub's newer installation tokens.
const TOKEN: usize = 520;

pub async fn app(State(github): State<GitHub>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let count = github.inner.state().installations.len();
    Ok(Json(shapes::app(&github, &github.settings().permissions, count)).into_response())
}

pub async fn installations(State(github): State<GitHub>, Query(paging): Query<Paging>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let all: Vec<Installation> = github.inner.state().installations.values().cloned().collect();
    let (part, links) = paging.cut(all, &github.at("/app/installations"));
    let part: Vec<Value> = part.iter().map(|known| shapes::installation(&github, known)).collect();
    Ok((links, Json(part)).into_response())
}

pub async fn installation(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    Ok(Json(shapes::installation(&github, &github.installation(id)?)).into_response())
}

pub async fn repo_installation(
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

pub async fn org_installation(State(github): State<GitHub>, Path(org): Path<String>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    if !github.knows_org(&org) {
        return Err(not_found());
    }
    Ok(Json(shapes::installation(&github, &github.installation_of(&org)?)).into_response())
}

pub async fn access_token(
    State(github): State<GitHub>,
    Path(id): Path<u64>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
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
        "expires_at": payload::written(expires_at), "permissions": permissions, "repository_selection": "selected",
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

/// What the installation of a token reaches.
pub async fn repositories(State(github): State<GitHub>, Query(paging): Query<Paging>, headers: HeaderMap) -> Answer {
    let owner = {
        let state = github.inner.state();
        let token = auth::bearer(&headers).and_then(|token| state.tokens.get(token));
        token.map(|token| token.owner.clone()).ok_or_else(|| refuse(StatusCode::UNAUTHORIZED, "Bad credentials"))?
    };
    let known = github.settings().repos.iter();
    let its: Vec<&String> =
        known.filter(|full| full.split('/').next().is_some_and(|known| known.eq_ignore_ascii_case(&owner))).collect();
    let total = its.len();
    let (part, links) = paging.cut(its, &github.at("/installation/repositories"));
    let organization = github.knows_org(&owner);
    let part: Vec<Value> = part.into_iter().map(|full| payload::repository(full, shapes::API, organization)).collect();
    Ok((links, Json(json!({ "total_count": total, "repositories": part }))).into_response())
}

/// What the App's webhook is set to; its secret is never shown.
pub async fn hook_config(State(github): State<GitHub>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let url = github.inner.webhooks.url().unwrap_or_default();
    let config = json!({ "content_type": "json", "insecure_ssl": "0", "secret": "********", "url": url });
    Ok(Json(config).into_response())
}

pub async fn deliveries(State(github): State<GitHub>, Query(paging): Query<Paging>, headers: HeaderMap) -> Answer {
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
            links = paging.next(&github.at("/app/hook/deliveries"), "cursor", last.id);
        }
    }
    let part: Vec<Value> = part.iter().map(shapes::delivery).collect();
    Ok((links, Json(part)).into_response())
}

pub async fn delivery(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
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

pub async fn redeliver(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Answer {
    github.as_app(&headers)?;
    let attempt = github.inner.webhooks.attempt(id).ok_or_else(not_found)?;
    let again = github.clone();
    github.inner.tracker.spawn(async move {
        let sending = again.inner.webhooks.send(&again, &attempt.guid, &attempt.told, true);
        again.inner.stopping.run_until_cancelled(sending).await;
    });
    Ok((StatusCode::ACCEPTED, Json(json!({}))).into_response())
}
