//! What machines that run a start script say to pacer: `POST /api/runner/config` and `POST /api/runner/phase`.
//!
//! The first hands out the runner's just-in-time configuration, once, for the one-time token of the script; the second
//! takes the phases that the script reports. Both are public and know nothing but the token. A right token is never held
//! up by wrong ones that come from its address: it is looked at first, and 256 bits are not guessed. Wrong tokens and spent
//! ones are slowed down as wrong sign-ins are; the wrong ones are audited as far as they are looked at, the spent ones
//! once for each runner. What the paths take and answer is in
//! `docs/bootstrap.md`, for authors of images.

mod spent;
#[cfg(test)]
mod tests;
mod token;

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::post,
};
use futures::future::BoxFuture;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

pub use spent::Spent;
pub use token::{Purpose, Tokens};

use crate::{
    clock::SharedClock,
    config::Config,
    console::{ApiError, Audit, Throttle, client_address},
    fleet::runner::{MachinePhase, RunnerName},
    store::AuditEntry,
    telemetry,
};

pub const CONFIG_PATH: &str = "/api/runner/config";
pub const PHASE_PATH: &str = "/api/runner/phase";

/// A phase with the tail of a log; the script sends 4 KiB of it.
const MAX_BODY: usize = 16 * 1024;
/// Characters of a reported log that are kept.
const MAX_LOG: usize = 4096;

/// What the fleet does for its machines.
pub trait Machines: Send + Sync {
    /// Registers the runner and hands out its configuration. Works once for each runner.
    fn exchange(&self, runner: RunnerName) -> BoxFuture<'_, Result<SecretString, Refusal>>;

    /// Takes in how far the runner's machine has come. Late and repeated reports change nothing. The one-time token
    /// is good for it until it was used.
    fn report(
        &self,
        runner: RunnerName,
        with: Purpose,
        phase: MachinePhase,
        log: Option<String>,
    ) -> BoxFuture<'_, Result<(), Refusal>>;
}

/// Why a machine does not get what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the configuration was fetched before: a token works once")]
    Used,
    #[error("this runner is over, or is not waited for any more: power the machine off")]
    Over,
    #[error("the configuration is being fetched by another request of this machine")]
    UnderWay,
    #[error("{reason}")]
    Later { reason: String, retry_after: Option<Duration> },
}

impl Refusal {
    pub fn later(reason: &str) -> Self {
        Self::Later { reason: reason.to_owned(), retry_after: None }
    }
}

/// What the callbacks are made from. Cheap to clone.
#[derive(Clone)]
pub struct Callbacks {
    pub config: Arc<ArcSwap<Config>>,
    pub tokens: Arc<Tokens>,
    pub machines: Arc<dyn Machines>,
    pub audit: Arc<dyn Audit>,
    pub clock: SharedClock,
    /// Of machines alone: no sign-in is held up by them.
    pub throttle: Arc<Throttle>,
    pub spent: Arc<Spent>,
}

/// Serve it with connect info, or all machines share one slow-down.
pub fn router(callbacks: Callbacks) -> Router {
    Router::new()
        .route(CONFIG_PATH, post(config))
        .route(PHASE_PATH, post(phase))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(telemetry::access_log))
        .with_state(callbacks)
}

async fn config(State(callbacks): State<Callbacks>, extensions: Extensions, headers: HeaderMap) -> Response {
    let (runner, address) = match callbacks.caller(&[Purpose::Config], &extensions, &headers).await {
        Ok((_, runner, address)) => (runner, address),
        Err(error) => return error.into_response(),
    };
    if callbacks.spent.contains(&runner) {
        return callbacks.hold_back(address).err().unwrap_or_else(|| refused(&Refusal::Over)).into_response();
    }
    match callbacks.machines.exchange(runner.clone()).await {
        Ok(jit_config) => {
            info!(runner.name = %runner, "the machine of `{runner}` at {address} fetched its configuration");
            let phase_token = callbacks.tokens.issue(Purpose::Phase, &runner);
            let body = Json(json!({
                "jit_config": jit_config.expose_secret(),
                "phase_token": phase_token.expose_secret(),
            }));
            ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], body).into_response()
        }
        Err(refusal) => {
            warn!(runner.name = %runner, "the machine of `{runner}` at {address} got no configuration: {refusal}");
            if matches!(refusal, Refusal::Used | Refusal::Over) && callbacks.spent.insert(&runner) {
                callbacks.audit("audit.runner.config.refused", runner.as_str(), address, refusal.to_string()).await;
            }
            refused(&refusal).into_response()
        }
    }
}

#[derive(Deserialize)]
struct Report {
    phase: MachinePhase,
    log: Option<String>,
}

async fn phase(
    State(callbacks): State<Callbacks>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let purposes = [Purpose::Phase, Purpose::Config];
    let (with, runner, _) = callbacks.caller(&purposes, &extensions, &headers).await?;
    let report: Report = serde_json::from_slice(&body).map_err(|reason| {
        let message = format!("this is no report: {reason}; send `{{\"phase\": \"booted\"}}`, with `log` if it failed");
        ApiError::new(StatusCode::BAD_REQUEST, "bad_report", message)
    })?;
    let log = report.log.map(|log| tail(&log)).filter(|log| !log.is_empty());
    callbacks.machines.report(runner, with, report.phase, log).await.map_err(|refusal| refused(&refusal))?;
    Ok(StatusCode::NO_CONTENT)
}

impl Callbacks {
    /// Whose machine asks, from where, and what its token is for.
    async fn caller(
        &self,
        purposes: &[Purpose],
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> Result<(Purpose, RunnerName, IpAddr), ApiError> {
        let address = client_address(&self.config.load(), extensions, headers);
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let found = token.and_then(|(_, token)| {
            purposes.iter().find_map(|purpose| Some((*purpose, self.tokens.verify(*purpose, token.trim())?)))
        });
        if let Some((purpose, runner)) = found {
            return Ok((purpose, runner, address));
        }
        self.hold_back(address)?;
        warn!(client.address = %address, "a wrong runner token was given from {address}");
        self.audit("audit.runner.token.refused", "-", address, "it is not one of this pacer's".to_owned()).await;
        Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "a runner's own token is needed: send `Authorization: Bearer <token>`",
        ))
    }

    /// Counts a token that is good for nothing; an error says how long its address has to wait before another is counted.
    fn hold_back(&self, address: IpAddr) -> Result<(), ApiError> {
        self.throttle.wrong(address, self.clock.now()).map_err(ApiError::slow_down)
    }

    async fn audit(&self, action: &str, subject: &str, address: IpAddr, detail: String) {
        let entry = AuditEntry {
            at: self.clock.now(),
            actor: format!("machine at {address}"),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail: Some(detail),
        };
        if let Err(error) = self.audit.record(entry).await {
            warn!(%error, "an audit entry cannot be stored");
        }
    }
}

fn refused(refusal: &Refusal) -> ApiError {
    let (status, code, retry_after) = match refusal {
        Refusal::Used => (StatusCode::GONE, "used", None),
        Refusal::Over => (StatusCode::GONE, "over", None),
        Refusal::UnderWay => (StatusCode::CONFLICT, "under_way", Some(1)),
        Refusal::Later { retry_after, .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "later", Some(retry_after.map_or(5, |after| after.as_secs().max(1))))
        }
    };
    ApiError { retry_after, ..ApiError::new(status, code, refusal.to_string()) }
}

/// The end of a log, for people: the last characters, no control characters but line ends.
fn tail(log: &str) -> String {
    let clean: Vec<char> = log.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    clean[clean.len().saturating_sub(MAX_LOG)..].iter().collect::<String>().trim().to_owned()
}
