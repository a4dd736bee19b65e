//! `/api/v1`, health and metrics.

use axum::{
    Json,
    extract::{Path, Query, Request, State as Extract},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde_json::json;

use super::{
    READ_TIMEOUT, State, auth,
    error::ApiError,
    query::{self, JobAddress, Pairs},
    read::Part,
    shapes::{AuditShape, DeliveryShape, EventShape, JobDetail, JobShape, List, PoolShape, RunnerDetail, RunnerShape},
};
use crate::fleet::{job::Job, runner::RunnerName};

type Answer = Result<Response, ApiError>;

pub async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Whether to send work here. Only somebody known is told what is wrong.
pub async fn readyz(Extract(state): Extract<State>, request: Request) -> Answer {
    let config = state.config.load_full();
    let address = auth::client_address(&config, request.extensions(), request.headers());
    let who =
        auth::authenticate(&config, &state.throttle, &state.ended, request.headers(), address, state.clock.now())?;
    let parts = tokio::time::timeout(READ_TIMEOUT, state.readiness.parts()).await.unwrap_or_else(|_| {
        vec![Part { name: "readiness".into(), ok: false, reason: Some("the checks did not end in time".into()) }]
    });
    let ready = parts.iter().all(|part| part.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if ready { "ready" } else { "not ready" };
    let body = match who {
        Some(_) => json!({ "status": word, "parts": parts }),
        None => json!({ "status": word }),
    };
    Ok((status, Json(body)).into_response())
}

pub async fn metrics(Extract(state): Extract<State>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render()).into_response()
}

pub async fn jobs(Extract(state): Extract<State>, Query(pairs): Query<Pairs>) -> Answer {
    let listing = query::jobs(&pairs)?;
    let page = state.within(state.read.jobs(&listing.filter, listing.cursor.as_deref(), listing.limit)).await?;
    Ok(Json(List::<JobShape>::of(&page)).into_response())
}

pub async fn job(Extract(state): Extract<State>, Path(id): Path<String>) -> Answer {
    let job = find_job(&state, &id).await?;
    let events = state.within(state.read.events_of_job(job.key)).await?;
    let explanation = state.within(async { Ok(state.explain.explain(&job).await) }).await?;
    let events = events.iter().map(EventShape::from).collect();
    Ok(Json(JobDetail { job: JobShape::from(&job), events, explanation: explanation.json }).into_response())
}

pub async fn runners(Extract(state): Extract<State>, Query(pairs): Query<Pairs>) -> Answer {
    let listing = query::runners(&pairs)?;
    let page = state.within(state.read.runners(&listing.filter, listing.cursor.as_deref(), listing.limit)).await?;
    Ok(Json(List::<RunnerShape>::of(&page)).into_response())
}

pub async fn runner(Extract(state): Extract<State>, Path(name): Path<String>) -> Answer {
    let name = RunnerName::new(name);
    let runner = state.within(state.read.runner(&name)).await?.ok_or_else(|| no_runner(&name))?;
    let events = state.within(state.read.events_of_runner(&name)).await?;
    let events = events.iter().map(EventShape::from).collect();
    Ok(Json(RunnerDetail { runner: RunnerShape::from(&runner), events }).into_response())
}

pub async fn backends(Extract(state): Extract<State>) -> Response {
    Json(List { items: state.backends.backends(), next: None }).into_response()
}

pub async fn pools(Extract(state): Extract<State>) -> Response {
    let (config, now) = (state.config.load_full(), state.clock.now());
    let items: Vec<_> = config
        .projects
        .iter()
        .flat_map(|project| project.pools.iter().map(|pool| PoolShape::of(project, pool, now)))
        .collect();
    Json(List { items, next: None }).into_response()
}

pub async fn deliveries(Extract(state): Extract<State>, Query(pairs): Query<Pairs>) -> Answer {
    let listing = query::plain(&pairs)?;
    let page = state.within(state.read.deliveries(listing.cursor.as_deref(), listing.limit)).await?;
    Ok(Json(List::<DeliveryShape>::of(&page)).into_response())
}

pub async fn audit(Extract(state): Extract<State>, Query(pairs): Query<Pairs>) -> Answer {
    let listing = query::plain(&pairs)?;
    let page = state.within(state.read.audit(listing.cursor.as_deref(), listing.limit)).await?;
    Ok(Json(List::<AuditShape>::of(&page)).into_response())
}

/// The job an address names.
pub async fn find_job(state: &State, id: &str) -> Result<Job, ApiError> {
    let found = match id.parse()? {
        JobAddress::Key(key) => state.within(state.read.job(key)).await?,
        JobAddress::Latest(id) => state.within(state.read.latest_attempt(id)).await?,
    };
    found.ok_or_else(|| ApiError::not_found(format!("there is no job `{id}`; it may be older than `retention.jobs`")))
}

pub fn no_runner(name: &RunnerName) -> ApiError {
    let name: String = name.as_str().chars().take(64).collect();
    ApiError::not_found(format!("there is no runner `{name}`; it may be older than `retention.jobs`"))
}
