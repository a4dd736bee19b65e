//! Directing the play from outside: `POST /_sim/jobs`, `POST /_sim/jobs/{id}/cancel`, `POST /_sim/faults` (a rule;
//! `DELETE` clears), `POST /_sim/weather` (how deliveries get through; what is not named is fair), `GET /_sim/state`, `GET /_sim/audit`.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{GitHub, NewJob, Weather};
use crate::faults::Rule;

pub fn router(github: GitHub) -> Router {
    Router::new()
        .route("/_sim/jobs", post(queue))
        .route("/_sim/jobs/{id}/cancel", post(cancel))
        .route("/_sim/faults", post(add_fault).delete(clear_faults))
        .route("/_sim/weather", post(weather))
        .route("/_sim/state", get(show))
        .route("/_sim/audit", get(audit))
        .with_state(github)
}

#[derive(Deserialize)]
struct Queue {
    repo: String,
    labels: Vec<String>,
    #[serde(default = "a_second")]
    duration_ms: u64,
    waiting_ms: Option<u64>,
    conclusion: Option<String>,
    count: Option<u32>,
    /// The job whose run they belong to.
    beside: Option<u64>,
}

fn a_second() -> u64 {
    1_000
}

async fn queue(State(github): State<GitHub>, Json(queue): Json<Queue>) -> Json<Value> {
    let job = NewJob {
        repo: queue.repo,
        labels: queue.labels,
        duration: Duration::from_millis(queue.duration_ms),
        waiting: queue.waiting_ms.map(Duration::from_millis),
        conclusion: queue.conclusion.unwrap_or_else(|| "success".to_owned()),
        beside: queue.beside,
    };
    let ids: Vec<u64> = (0..queue.count.unwrap_or(1)).map(|_| github.queue(job.clone())).collect();
    Json(json!({ "ids": ids }))
}

async fn cancel(State(github): State<GitHub>, Path(id): Path<u64>) {
    github.cancel(id);
}

async fn add_fault(State(github): State<GitHub>, Json(rule): Json<Rule>) {
    github.faults().add(rule);
}

async fn clear_faults(State(github): State<GitHub>) {
    github.faults().clear();
}

/// Shares from 0 to 1, and milliseconds from and below.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Sky {
    lost: f64,
    forgotten: f64,
    doubled: f64,
    delay_ms: (u64, u64),
}

async fn weather(State(github): State<GitHub>, Json(sky): Json<Sky>) {
    let Sky { lost, forgotten, doubled, delay_ms: (from, below) } = sky;
    let delay = Duration::from_millis(from)..Duration::from_millis(below.max(from));
    github.set_weather(Weather { lost, forgotten, doubled, delay });
}

async fn show(State(github): State<GitHub>) -> Json<Value> {
    Json(json!({ "jobs": github.jobs(), "runners": github.runners() }))
}

async fn audit(State(github): State<GitHub>) -> Json<Value> {
    Json(json!({ "violations": github.audit() }))
}
