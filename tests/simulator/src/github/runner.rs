//! A runner's side: with its configuration it connects, takes one job, and leaves.
//!
//! In this process a [`Session`] does it; outside, plain HTTP: `POST /_runner/connect?id=&secret=` answers a session,
//! `GET /_runner/{session}/job` waits for a job (204: none yet; 200: `JOB SECONDS CONCLUSION`),
//! `POST /_runner/{session}/alive` keeps a busy one, `POST …/done?conclusion=` ends the job, `POST …/leave` goes
//! without one. Who is silent for too long has vanished.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, Query, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{GitHub, state::RunnerId};

/// How long a session outside may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a session outside waits for a job in one request.
const LONG_POLL: Duration = Duration::from_secs(10);

/// What a runner's configuration holds: as opaque to everybody else as GitHub's.
#[derive(Debug, Serialize, Deserialize)]
pub struct Config {
    pub url: String,
    pub name: String,
    pub id: RunnerId,
    pub secret: String,
}

impl Config {
    pub fn encode(&self) -> String {
        STANDARD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Option<Self> {
        serde_json::from_slice(&STANDARD.decode(text.trim()).ok()?).ok()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the configuration cannot be read")]
    Garbage,
    #[error("no such runner is registered")]
    Unknown,
    #[error("the configuration was used before")]
    Used,
}

/// A job, as a runner gets it.
#[derive(Debug, Clone)]
pub struct Assigned {
    pub id: u64,
    pub duration: Duration,
    pub conclusion: String,
}

/// A connected runner. Dropped without `done` or `leave` it has vanished.
pub struct Session {
    github: GitHub,
    id: RunnerId,
    name: String,
    wake: Arc<Notify>,
    over: bool,
}

impl GitHub {
    /// Connects a runner with its configuration.
    pub fn connect(&self, encoded: &str) -> Result<Session, ConnectError> {
        let config = Config::decode(encoded).ok_or(ConnectError::Garbage)?;
        self.connect_as(config.id, &config.secret)
    }

    fn connect_as(&self, id: RunnerId, secret: &str) -> Result<Session, ConnectError> {
        let (name, wake) = self.inner.change(|state| {
            let runner = state.runners.get_mut(&id).filter(|runner| runner.secret == secret);
            let runner = runner.ok_or(ConnectError::Unknown)?;
            if runner.connected {
                return Err(ConnectError::Used);
            }
            let found = (runner.name.clone(), runner.wake.clone());
            state.online(id);
            Ok(found)
        })?;
        Ok(Session { github: self.clone(), id, name, wake, over: false })
    }
}

impl Session {
    pub fn runner_name(&self) -> &str {
        &self.name
    }

    /// Waits for a job; none if the runner was removed.
    pub async fn job(&mut self) -> Option<Assigned> {
        loop {
            let known = {
                let state = self.github.inner.state();
                let runner = state.runners.get(&self.id)?;
                runner.job.and_then(|job| state.jobs.get(&job)).map(|job| Assigned {
                    id: job.id,
                    duration: job.duration,
                    conclusion: job.outcome.clone(),
                })
            };
            if known.is_some() {
                return known;
            }
            self.wake.notified().await;
        }
    }

    /// Its job is over, and so is the runner.
    pub fn done(mut self, conclusion: &str) {
        self.over = true;
        self.github.inner.change(|state| state.finish(self.id, conclusion));
    }

    /// Goes without a job.
    pub fn leave(mut self) {
        self.over = true;
        self.github.inner.change(|state| state.offline(self.id));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let had_job = self.github.inner.change(|state| {
            state.offline(self.id);
            state.runners.get(&self.id).is_some_and(|runner| runner.job.is_some())
        });
        if had_job {
            // GitHub notices after a while and concludes the job.
            let (github, id) = (self.github.clone(), self.id);
            self.github.inner.tracker.spawn(async move {
                let time = tokio::time::sleep(github.inner.settings.lost_after);
                if github.inner.stopping.run_until_cancelled(time).await.is_some() {
                    github.inner.change(|state| state.finish(id, "failure"));
                }
            });
        }
    }
}

/// Sessions of runners outside.
#[derive(Clone)]
struct Outside {
    github: GitHub,
    sessions: Arc<Mutex<HashMap<String, Known>>>,
    sweeper: Arc<OnceLock<()>>,
}

#[derive(Clone)]
struct Known {
    session: Arc<tokio::sync::Mutex<Option<Session>>>,
    seen: Instant,
    /// Ends a long poll, so that who leaves does not wait for it.
    ending: CancellationToken,
}

pub fn router(github: GitHub) -> Router {
    let faults = github.faults().clone();
    let around = from_fn(move |request: Request, next: Next| {
        let faults = faults.clone();
        async move { faults.around("connect", request, next).await }
    });
    let outside = Outside { github, sessions: Arc::default(), sweeper: Arc::default() };
    Router::new()
        .route("/_runner/connect", post(connect).layer(around))
        .route("/_runner/{session}/job", get(job))
        .route("/_runner/{session}/alive", post(alive))
        .route("/_runner/{session}/done", post(done))
        .route("/_runner/{session}/leave", post(leave))
        .with_state(outside)
}

#[derive(Deserialize)]
struct Connect {
    id: RunnerId,
    secret: String,
}

async fn connect(State(outside): State<Outside>, Query(query): Query<Connect>) -> Response {
    outside.start_sweeping();
    match outside.github.connect_as(query.id, &query.secret) {
        Ok(session) => {
            let token = outside.github.inner.state().dice.hex(32);
            let known = Known {
                session: Arc::new(tokio::sync::Mutex::new(Some(session))),
                seen: Instant::now(),
                ending: CancellationToken::new(),
            };
            outside.sessions().insert(token.clone(), known);
            token.into_response()
        }
        Err(error @ ConnectError::Used) => (StatusCode::CONFLICT, error.to_string()).into_response(),
        Err(error @ (ConnectError::Unknown | ConnectError::Garbage)) => {
            (StatusCode::NOT_FOUND, error.to_string()).into_response()
        }
    }
}

impl Outside {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self, token: &str) -> Option<Known> {
        let mut sessions = self.sessions();
        let known = sessions.get_mut(token)?;
        known.seen = Instant::now();
        Some(known.clone())
    }

    /// Drops whoever has been silent for too long.
    fn start_sweeping(&self) {
        self.sweeper.get_or_init(|| {
            let outside = self.clone();
            let inner = self.github.inner.clone();
            inner.tracker.clone().spawn(async move {
                while inner.stopping.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await.is_some() {
                    outside.sessions().retain(|_, known| known.seen.elapsed() < SILENCE);
                }
            });
        });
    }
}

async fn job(State(outside): State<Outside>, Path(token): Path<String>) -> Response {
    let Some(known) = outside.seen(&token) else { return StatusCode::NOT_FOUND.into_response() };
    let mut session = known.session.lock().await;
    let Some(session) = session.as_mut() else { return StatusCode::GONE.into_response() };
    let waiting = known.ending.run_until_cancelled(session.job());
    match tokio::time::timeout(LONG_POLL, waiting).await {
        Ok(Some(Some(job))) => {
            format!("{} {} {}\n", job.id, job.duration.as_secs_f64(), job.conclusion).into_response()
        }
        Ok(Some(None) | None) => StatusCode::GONE.into_response(),
        Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn alive(State(outside): State<Outside>, Path(token): Path<String>) -> StatusCode {
    if outside.seen(&token).is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND }
}

#[derive(Deserialize)]
struct Done {
    conclusion: Option<String>,
}

async fn done(State(outside): State<Outside>, Path(token): Path<String>, Query(query): Query<Done>) -> StatusCode {
    end(&outside, &token, |session| session.done(query.conclusion.as_deref().unwrap_or("success"))).await
}

async fn leave(State(outside): State<Outside>, Path(token): Path<String>) -> StatusCode {
    end(&outside, &token, Session::leave).await
}

async fn end(outside: &Outside, token: &str, how: impl FnOnce(Session)) -> StatusCode {
    let Some(known) = outside.seen(token) else { return StatusCode::NOT_FOUND };
    known.ending.cancel();
    let taken = known.session.lock().await.take();
    outside.sessions().remove(token);
    match taken {
        Some(session) => {
            how(session);
            StatusCode::OK
        }
        None => StatusCode::GONE,
    }
}
