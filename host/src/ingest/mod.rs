//! Takes GitHub's deliveries in: verify, parse, route, store, and only then say yes.
//!
//! A 2xx means that the delivery is on disk. Nothing else happens in the request: whoever acts on the job follows
//! the store. Every outcome has its status and a small JSON body; a refusal says what to do. Names of repositories
//! can be private: they are logged at debug level only.

mod answer;
mod body;
mod payload;
mod route;
mod signature;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::post,
};
use futures::future::BoxFuture;
use http::{HeaderMap, header};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::TaskTracker;

use self::{
    answer::{Outcome, Refusal},
    body::{Bodies, READ_DEADLINE},
    signature::Claimed,
};
use crate::{
    clock::SharedClock,
    store::{Ingest, IngestResult, StoreError},
};

pub use body::MAX_BODY;
pub use payload::{MAX_LABELS, Payload, PayloadError, parse_workflow_job};
pub use route::{Route, from_missed, from_scan};
pub use signature::{SignatureError, WebhookSecrets};

/// Deliveries handled at once; more than this wait at GitHub. GitHub itself opens far fewer connections.
const MAX_IN_FLIGHT: usize = 4_096;
/// GitHub gives up after ten seconds, and reading the body may have taken some of them.
const STORE_DEADLINE: Duration = Duration::from_secs(8);
/// Of GitHub's GUID, which has 36 characters.
const MAX_GUID: usize = 128;
/// Of an event's name.
const MAX_EVENT: usize = 64;

/// Where deliveries go.
pub trait Intake: Send + Sync {
    /// Returns when it is on disk, or will never be.
    fn take(&self, ingest: Ingest) -> BoxFuture<'_, Result<IngestResult, StoreError>>;
}

/// What the webhook needs. Cheap to clone.
#[derive(Clone)]
pub struct IngestState {
    secrets: Arc<ArcSwap<WebhookSecrets>>,
    route: Arc<Route>,
    store: Arc<dyn Intake>,
    clock: SharedClock,
    bodies: Bodies,
    in_flight: Arc<Semaphore>,
}

impl IngestState {
    /// `secrets` may be swapped while it serves; `tasks` is waited for at shutdown.
    pub fn new(
        secrets: Arc<ArcSwap<WebhookSecrets>>,
        route: Arc<Route>,
        store: Arc<dyn Intake>,
        clock: SharedClock,
        tasks: TaskTracker,
    ) -> Self {
        let bodies = Bodies::new(tasks, READ_DEADLINE);
        Self { secrets, route, store, clock, bodies, in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) }
    }
}

/// `POST /api/webhook`.
pub fn router(state: IngestState) -> Router {
    Router::new().route("/api/webhook", post(webhook)).with_state(state)
}

async fn webhook(State(state): State<IngestState>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let outcome = receive(&state, &parts.headers, body, started).await;
    let guid = guid(&parts.headers).unwrap_or("-");
    let event = event(&parts.headers).unwrap_or("-");
    outcome.report(guid, event, started.elapsed());
    outcome.into_response()
}

async fn receive(state: &IngestState, headers: &HeaderMap, body: axum::body::Body, started: Instant) -> Outcome {
    let received_at = state.clock.now();
    let Ok(_slot) = state.in_flight.try_acquire() else {
        state.bodies.drain(body);
        return Refusal::Overloaded.into();
    };
    if stated_length(headers).is_some_and(|length| length > MAX_BODY as u64) {
        state.bodies.drain(body);
        return Refusal::TooLarge.into();
    }
    let claimed = match Claimed::from_headers(headers) {
        Ok(claimed) => claimed,
        Err(reason) => {
            state.bodies.drain(body);
            return Refusal::Signature(reason).into();
        }
    };
    let mut verifier = state.secrets.load().verifier();
    let whole = match state.bodies.read(body, &mut verifier).await {
        Ok(whole) => whole,
        Err(reason) => return Refusal::from(reason).into(),
    };
    if let Err(reason) = verifier.finish(&claimed) {
        return Refusal::Signature(reason).into();
    }
    // From here on it is GitHub's.
    let Some(event) = event(headers) else { return Refusal::Event.into() };
    let Some(guid) = guid(headers) else { return Refusal::Guid.into() };
    // Already the first `ping` says so when the App sends forms.
    if !is_json(headers) {
        return Refusal::ContentType.into();
    }
    let guid = Some(guid.to_owned());
    let ingest = match event {
        "ping" => Ingest {
            guid,
            received_at,
            event: event.to_owned(),
            action: String::new(),
            demand: None,
            ignored: Some("ping".to_owned()),
            source: "webhook",
        },
        "workflow_job" => match parse_workflow_job(&whole.bytes) {
            Ok(payload) => route::ingest(payload, guid, received_at, "webhook", &*state.route),
            Err(reason) => return Refusal::Payload(reason).into(),
        },
        other => return Outcome::dropped_event(other),
    };
    drop(whole);
    let (repo, action) = (ingest.demand.as_ref().map(|(fact, _)| fact.repo.clone()), ingest.action.clone());
    let ping = ingest.event == "ping";
    match tokio::time::timeout(STORE_DEADLINE, state.store.take(ingest)).await {
        Ok(Ok(result)) => {
            metrics::histogram!("pacer_webhook_commit_seconds").record(started.elapsed().as_secs_f64());
            if ping { Outcome::Pong } else { Outcome::Stored { action, repo, result } }
        }
        Ok(Err(reason)) => Refusal::Store(reason).into(),
        Err(_) => Refusal::StoreTooSlow.into(),
    }
}

fn stated_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    let stated = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    stated.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// A header of visible ASCII of bounded length.
fn word<'a>(headers: &'a HeaderMap, name: &str, most: usize) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty() && value.len() <= most && value.bytes().all(|b| b.is_ascii_graphic())).then_some(value)
}

fn guid(headers: &HeaderMap) -> Option<&str> {
    word(headers, "x-github-delivery", MAX_GUID)
}

fn event(headers: &HeaderMap) -> Option<&str> {
    word(headers, "x-github-event", MAX_EVENT)
}
