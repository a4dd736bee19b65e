//! The cloud's HTTP API; see the module above for its contract.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Cloud, Conditions, Machine, MachineState, Start, millis};
use crate::faults::Rule;

/// Machines in a page at most.
const PAGE: usize = 500;
/// The most that a refusal repeats of what could not be read.
const LONGEST_REASON: usize = 4096;

pub fn router(cloud: Cloud) -> Router {
    let machines = Router::new()
        .route("/v1/machines", get(list))
        .route("/v1/machines/{id}", put(create).get(show).delete(remove))
        .route("/v1/machines/{id}/lease", put(lease))
        .route("/v1/machines/{id}/console", get(console))
        .route("/v1/machines/{id}/suspend", post(known))
        .route("/v1/machines/{id}/resume", post(known))
        .route("/v1/quote", get(quote))
        .layer(from_fn_with_state(cloud.clone(), faulty));
    Router::new()
        .merge(machines)
        .route("/_sim/cloud", post(conditions))
        .route("/_sim/faults", post(add_fault).delete(clear_faults))
        .route("/_sim/state", get(all))
        .with_state(cloud)
}

async fn faulty(State(cloud): State<Cloud>, request: Request, next: Next) -> Response {
    let operation = match (request.method().as_str(), request.uri().path()) {
        ("PUT", path) if path.ends_with("/lease") => "lease",
        ("PUT", _) => "create",
        ("DELETE", _) => "destroy",
        (_, "/v1/machines") => "list",
        (_, "/v1/quote") => "quote",
        _ => "get",
    };
    in_the_clouds_words(cloud.faults().around(operation, request, next).await).await
}

/// What cannot be read is refused before a handler sees it, and not in the shape of the contract.
async fn in_the_clouds_words(response: Response) -> Response {
    let unread = matches!(
        response.status(),
        StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE | StatusCode::UNPROCESSABLE_ENTITY
    );
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !unread || json {
        return response;
    }
    let reason = axum::body::to_bytes(response.into_body(), LONGEST_REASON).await.unwrap_or_default();
    invalid(String::from_utf8_lossy(&reason)).into_response()
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message.into())
}

struct Refusal(StatusCode, &'static str, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "code": self.1, "message": self.2 }))).into_response()
    }
}

fn not_found(id: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, "not_found", format!("there is no machine `{id}`"))
}

#[derive(Deserialize)]
struct Create {
    owner: String,
    jit_config: Option<String>,
    start_script: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
    lease_until_ms: u64,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    boot_ms: Option<u64>,
}

async fn create(
    State(cloud): State<Cloud>,
    Path(name): Path<String>,
    Json(request): Json<Create>,
) -> Result<Response, Refusal> {
    if request.owner.is_empty() {
        return Err(invalid("a machine needs an owner"));
    }
    let start = match (request.jit_config, request.start_script) {
        (Some(config), None) => Start::Configured(config),
        (None, Some(script)) => Start::Script(script),
        (Some(_), Some(_)) | (None, None) => return Err(invalid("a machine needs a `jit_config` or a `start_script`")),
    };
    let stop = CancellationToken::new();
    let machine = {
        let state = &mut *cloud.state();
        if let Some(existing) = state.ids.get(&name).and_then(|id| state.machines.get(id)) {
            if existing.owner != request.owner {
                let message = format!("machine `{name}` is somebody else's");
                return Err(Refusal(StatusCode::CONFLICT, "conflict", message));
            }
            return Ok(Json(existing.clone()).into_response());
        }
        if state.conditions.capacity.is_some_and(|capacity| state.machines.len() >= capacity) {
            return Err(Refusal(
                StatusCode::INSUFFICIENT_STORAGE,
                "capacity",
                "there is no room for another machine".to_owned(),
            ));
        }
        state.next_id += 1;
        let id = format!("m-{:08}", state.next_id);
        let machine = Machine {
            id: id.clone(),
            name: name.clone(),
            owner: request.owner,
            state: MachineState::Creating,
            reason: None,
            created_at_ms: crate::github::now_ms(),
            lease_until_ms: request.lease_until_ms,
            hold: request.tags.contains_key("hold"),
            tags: request.tags,
            price_micros_per_hour: 42_000,
            currency: "EUR",
            console: format!("made for {}\n", request.labels.join(", ")),
            stop: stop.clone(),
        };
        *state.made.entry(name.clone()).or_default() += 1;
        state.asked_at_ms.push(machine.created_at_ms);
        if let Start::Script(script) = &start {
            state.scripts.insert(name.clone(), script.clone());
        }
        state.ids.insert(name, id.clone());
        state.machines.insert(id, machine.clone());
        state.peak = state.peak.max(state.machines.len());
        machine
    };
    cloud.boot(machine.id.clone(), start, request.boot_ms.map(Duration::from_millis), stop);
    Ok((StatusCode::CREATED, Json(machine)).into_response())
}

async fn show(State(cloud): State<Cloud>, Path(id): Path<String>) -> Result<Json<Machine>, Refusal> {
    cloud.state().machines.get(&id).cloned().map(Json).ok_or_else(|| not_found(&id))
}

#[derive(Deserialize)]
struct Listing {
    owner: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

async fn list(State(cloud): State<Cloud>, Query(query): Query<Listing>) -> Response {
    let limit = query.limit.unwrap_or(100).clamp(1, PAGE);
    let after = query.cursor.unwrap_or_default();
    let mut machines: Vec<Machine> = {
        let state = cloud.state();
        state
            .machines
            .range::<String, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(_, machine)| machine)
            .filter(|machine| query.owner.as_ref().is_none_or(|owner| *owner == machine.owner))
            .take(limit + 1)
            .cloned()
            .collect()
    };
    let more = machines.len() > limit;
    machines.truncate(limit);
    let next = machines.last().filter(|_| more).map(|machine| machine.id.clone());
    Json(json!({ "machines": machines, "next": next })).into_response()
}

async fn remove(State(cloud): State<Cloud>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let stopping = {
        let state = &mut *cloud.state();
        let machine = state.machines.get_mut(&id).ok_or_else(|| not_found(&id))?;
        if let Some(job) = cloud.github.job_of(&machine.name) {
            state.violations.push(format!("machine `{}` was deleted in the middle of job {job}", machine.name));
        }
        let time = state.dice.within(&millis(state.conditions.stop_ms));
        if time.is_zero() || machine.state == MachineState::Stopped {
            None
        } else {
            let first = machine.state != MachineState::Stopping;
            machine.state = MachineState::Stopping;
            machine.stop.cancel();
            Some((time, first))
        }
    };
    match stopping {
        None => {
            cloud.remove(&id);
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Some((time, first)) => {
            if first {
                let later = cloud.clone();
                cloud.tracker.spawn(async move {
                    if later.stopping.run_until_cancelled(tokio::time::sleep(time)).await.is_some() {
                        later.remove(&id);
                    }
                });
            }
            Ok(Json(json!({ "state": "stopping" })).into_response())
        }
    }
}

#[derive(Deserialize)]
struct Lease {
    lease_until_ms: u64,
}

async fn lease(
    State(cloud): State<Cloud>,
    Path(id): Path<String>,
    Json(lease): Json<Lease>,
) -> Result<Json<Machine>, Refusal> {
    let mut state = cloud.state();
    let machine = state.machines.get_mut(&id).ok_or_else(|| not_found(&id))?;
    machine.lease_until_ms = lease.lease_until_ms;
    Ok(Json(machine.clone()))
}

async fn console(State(cloud): State<Cloud>, Path(id): Path<String>) -> Result<String, Refusal> {
    cloud.state().machines.get(&id).map(|machine| machine.console.clone()).ok_or_else(|| not_found(&id))
}

async fn known(State(cloud): State<Cloud>, Path(id): Path<String>) -> Result<Json<Machine>, Refusal> {
    show(State(cloud), Path(id)).await
}

async fn quote() -> Response {
    Json(json!({ "micros_per_hour": 42_000, "currency": "EUR" })).into_response()
}

/// What is not named stays as it is.
async fn conditions(
    State(cloud): State<Cloud>,
    Json(changes): Json<serde_json::Map<String, serde_json::Value>>,
) -> Result<(), Refusal> {
    let unread = |error: serde_json::Error| invalid(error.to_string());
    let mut conditions = serde_json::to_value(cloud.conditions()).map_err(unread)?;
    if let Some(conditions) = conditions.as_object_mut() {
        conditions.extend(changes);
    }
    cloud.set_conditions(serde_json::from_value::<Conditions>(conditions).map_err(unread)?);
    Ok(())
}

async fn add_fault(State(cloud): State<Cloud>, Json(rule): Json<Rule>) {
    cloud.faults().add(rule);
}

async fn clear_faults(State(cloud): State<Cloud>) {
    cloud.faults().clear();
}

async fn all(State(cloud): State<Cloud>) -> Response {
    Json(json!({ "machines": cloud.machines(), "peak": cloud.peak() })).into_response()
}
