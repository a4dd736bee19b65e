//! One call of a component: admitted, bounded, classified.
//!
//! Every call has a store of its own, so nothing leaks from one runner to the next and a trap or a timeout, which
//! poison a store, harm one call. Two clocks bound it: the deadline counts what it waits, epochs what it computes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use futures::future::BoxFuture;
use secrecy::SecretString;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};
use wasmtime::{Store, Trap};

use super::{
    bindings::{Backend, pacer::backend::model as wire},
    breaker::Breaker,
    cache::Cache,
    convert,
    egress::{CallEgress, Egress},
    load::Linked,
    log::CallLog,
    model::{BackendError, ErrorKind},
    state::{Budget, CallParts, Exceeded, HOSTCALL_BYTES, State},
};
use crate::{
    clock::SharedClock,
    config::PluginLimits,
    routing::{BackendName, shown_up_to},
};

/// Stores alive at once. Each costs about seven of the kernel's 65,530 memory maps (measured).
const LIVE_STORES: usize = 2_000;
/// Of standard error in a message.
const SHOWN_TAIL: usize = 2_000;
/// How the engine says that more passed the wall than [`HOSTCALL_BYTES`].
const HOSTCALL_FUEL: &str = "fuel allocated for hostcalls";
/// Durations kept of each operation, for the quantiles that people see.
const KEPT_DURATIONS: usize = 256;

/// What all calls share.
pub(super) struct Shared {
    pub engine: wasmtime::Engine,
    pub clock: SharedClock,
    pub budget: Arc<Budget>,
    live: Semaphore,
    calls: AtomicU64,
}

impl Shared {
    pub fn new(engine: wasmtime::Engine, clock: SharedClock, total_memory: u64) -> Self {
        Self {
            engine,
            clock,
            budget: Budget::new(total_memory),
            live: Semaphore::new(LIVE_STORES),
            calls: AtomicU64::new(0),
        }
    }
}

/// What the calls of one backend share, whatever component is in force.
pub(super) struct Lane {
    pub name: BackendName,
    pub limits: PluginLimits,
    pub egress: Arc<Egress>,
    cache: Mutex<Arc<Mutex<Cache>>>,
    breaker: Mutex<Breaker>,
    /// Why what is behind its endpoints could not be used, as the last call found. No fault of the component.
    unusable: Mutex<Option<String>>,
    turns: Semaphore,
    stats: Mutex<BTreeMap<&'static str, Durations>>,
}

/// What a call is about.
pub(super) struct About {
    pub operation: &'static str,
    pub runner: Option<String>,
    /// Blanked out of everything the component says, beside what the host adds for it to requests.
    pub secrets: Vec<SecretString>,
    pub deadline: Duration,
}

/// How an operation has been doing.
#[derive(Debug, Clone, Serialize)]
pub struct OperationStats {
    pub operation: &'static str,
    pub calls: u64,
    pub errors: u64,
    /// Of the last calls.
    pub p50_ms: f64,
    pub p99_ms: f64,
}

#[derive(Default)]
struct Durations {
    calls: u64,
    errors: u64,
    last: std::collections::VecDeque<Duration>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    pub fn new(name: BackendName, limits: PluginLimits, egress: Egress) -> Self {
        Self {
            name,
            turns: Semaphore::new(limits.concurrency as usize),
            limits,
            egress: Arc::new(egress),
            cache: Mutex::default(),
            breaker: Mutex::default(),
            unusable: Mutex::default(),
            stats: Mutex::default(),
        }
    }

    /// The last fault of the component, or why what it speaks to could not be used; and whether the circuit is open.
    pub fn trouble(&self) -> Option<(bool, String)> {
        let breaker = locked(&self.breaker);
        match breaker.trouble() {
            Some(fault) => Some((breaker.open_until().is_some(), fault.to_owned())),
            None => locked(&self.unusable).clone().map(|reason| (false, reason)),
        }
    }

    /// Keeps whether the engine can be used, for those who look. What a component says without asking it proves
    /// nothing either way; nor does a refusal of one machine.
    fn remember<R>(&self, operation: &'static str, outcome: &Result<R, BackendError>) {
        if matches!(operation, "describe" | "validate") {
            return;
        }
        match outcome {
            Ok(_) => *locked(&self.unusable) = None,
            Err(error) if error.asked => match error.kind {
                ErrorKind::Unavailable | ErrorKind::Unauthorized | ErrorKind::Quota => {
                    *locked(&self.unusable) = Some(error.message.clone());
                }
                ErrorKind::InvalidRequest
                | ErrorKind::InvalidConfig
                | ErrorKind::NotFound
                | ErrorKind::Conflict
                | ErrorKind::Capacity
                | ErrorKind::RateLimited
                | ErrorKind::Interrupted
                | ErrorKind::Unsupported
                | ErrorKind::Internal
                | ErrorKind::Other => {}
            },
            Err(_) => {}
        }
    }

    pub fn stats(&self) -> Vec<OperationStats> {
        let stats = locked(&self.stats);
        stats.iter().map(|(operation, durations)| durations.summary(operation)).collect()
    }

    /// Calls of this backend under way.
    pub fn under_way(&self) -> usize {
        (self.limits.concurrency as usize).saturating_sub(self.turns.available_permits())
    }

    fn error(&self, kind: ErrorKind, message: impl std::fmt::Display) -> BackendError {
        BackendError { kind, message: format!("backend `{}`: {message}", self.name), retry_after: None, asked: true }
    }

    /// Calls the component. `work` is given the instance and its store; its outer error is a fault of the component.
    pub async fn call<R, W>(&self, shared: &Shared, linked: &Linked, about: About, work: W) -> Result<R, BackendError>
    where
        R: Send,
        W: for<'a> FnOnce(&'a Backend, &'a mut Store<State>, CallInfo) -> BoxFuture<'a, wasmtime::Result<Answer<R>>>
            + Send,
    {
        let started = Instant::now();
        let outcome = self.admitted(shared, linked, &about, started, work).await;
        let took = started.elapsed();
        metrics::histogram!("pacer_backend_call_seconds",
            "backend" => self.name.to_string(), "operation" => about.operation)
        .record(took.as_secs_f64());
        if let Err(error) = &outcome {
            metrics::counter!("pacer_backend_errors_total", "backend" => self.name.to_string(),
                "operation" => about.operation, "kind" => error.kind.as_str())
            .increment(1);
        }
        self.remember(about.operation, &outcome);
        locked(&self.stats).entry(about.operation).or_default().record(took, outcome.is_err());
        outcome
    }

    async fn admitted<R, W>(
        &self,
        shared: &Shared,
        linked: &Linked,
        about: &About,
        started: Instant,
        work: W,
    ) -> Result<R, BackendError>
    where
        R: Send,
        W: for<'a> FnOnce(&'a Backend, &'a mut Store<State>, CallInfo) -> BoxFuture<'a, wasmtime::Result<Answer<R>>>
            + Send,
    {
        let deadline = started + about.deadline;
        let wait = locked(&self.breaker).admit(shared.clock.now());
        if let Err(wait) = wait {
            let trouble = self.trouble().map(|(_, trouble)| trouble).unwrap_or_default();
            let mut error = self.error(
                ErrorKind::Unavailable,
                format!("it is not called for {} s because it keeps breaking: {trouble}", wait.as_secs().max(1)),
            );
            error.retry_after = Some(wait);
            error.asked = false;
            return Err(error);
        }
        let permits = self.permits(shared, deadline).await;
        let _permits = permits.map_err(|error| BackendError { asked: false, ..error })?;
        let number = shared.calls.fetch_add(1, Ordering::Relaxed);
        let info = CallInfo {
            operation_id: format!("{:x}-{number}", std::process::id()),
            backend: self.name.to_string(),
            deadline_ms: u64::try_from(deadline.duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX),
        };
        let log = CallLog::new(
            self.name.to_string(),
            about.operation,
            info.operation_id.clone(),
            about.runner.clone(),
            about.secrets.clone(),
            self.limits.log_size,
        );
        let cache = locked(&self.cache).clone();
        let egress = CallEgress::new(self.egress.clone(), deadline, log.clone());
        let parts = CallParts { egress, log: log.clone(), cache, budget: shared.budget.clone() };
        let mut store = State::store(&shared.engine, &self.limits, parts);
        let whole = async {
            let backend = linked.pre.instantiate_async(&mut store).await?;
            work(&backend, &mut store, info).await
        };
        let outcome = timeout_at(deadline, whole).await;
        store.data().finish_output();
        if log.dropped() > 0 {
            tracing::info!(
                backend.name = %self.name, operation = about.operation, dropped = log.dropped(),
                "{} lines of its log were dropped: a call may write {} bytes (`backends.{}.limits.log`) in {} lines",
                log.dropped(), self.limits.log_size, self.name, super::log::LINES
            );
        }
        self.judge(shared, about, &store, &log, outcome)
    }

    async fn permits<'a>(
        &'a self,
        shared: &'a Shared,
        deadline: Instant,
    ) -> Result<(SemaphorePermit<'a>, SemaphorePermit<'a>), BackendError> {
        let both =
            async { Ok::<_, tokio::sync::AcquireError>((self.turns.acquire().await?, shared.live.acquire().await?)) };
        match timeout_at(deadline, both).await {
            Ok(Ok(permits)) => Ok(permits),
            Ok(Err(_)) => Err(self.error(ErrorKind::Unavailable, "the server is stopping")),
            Err(_) => Err(self.error(
                ErrorKind::Unavailable,
                format!(
                    "all of its {} calls at once are taken; raise `backends.{}.limits.concurrency` if it can do more",
                    self.limits.concurrency, self.name
                ),
            )),
        }
    }

    /// Tells apart what the component said, what it did wrong, and what it ran into.
    fn judge<R>(
        &self,
        shared: &Shared,
        about: &About,
        store: &Store<State>,
        log: &CallLog,
        outcome: Result<wasmtime::Result<Answer<R>>, tokio::time::error::Elapsed>,
    ) -> Result<R, BackendError> {
        let fault = match outcome {
            Ok(Ok(Answer::Fine(value))) => {
                locked(&self.breaker).worked();
                return Ok(value);
            }
            // Its own word, good or bad, means that the component works.
            Ok(Ok(Answer::Error(error))) => {
                locked(&self.breaker).worked();
                return Err(convert::error(self.name.as_str(), error, |text| log.redact(text)));
            }
            Ok(Ok(Answer::Nonsense(what))) => self.error(
                ErrorKind::Internal,
                format!("`{}` answered nonsense: {}", about.operation, shown_up_to(&log.redact(&what), SHOWN_TAIL)),
            ),
            Ok(Err(trap)) => self.error(ErrorKind::Internal, self.trap(about, store, log, &trap)),
            // An engine that hangs is no fault of the component.
            Err(_) => {
                return Err(self.error(
                    ErrorKind::Unavailable,
                    format!(
                        "`{}` did not answer within {:?}; what it asked its engine for may still happen",
                        about.operation, about.deadline
                    ),
                ));
            }
        };
        locked(&self.breaker).broke(shared.clock.now(), &fault.message);
        Err(fault)
    }

    fn trap(&self, about: &About, store: &Store<State>, log: &CallLog, trap: &wasmtime::Error) -> String {
        // A refused growth ends a component by its own abort; any other trap has another cause.
        let kind = trap.downcast_ref::<Trap>();
        let aborted = kind.is_none_or(|trap| *trap == Trap::UnreachableCodeReached);
        let refused = store.data().exceeded().filter(|_| aborted);
        let exceeded = trap.downcast_ref::<Exceeded>().copied().or(refused);
        let mut text = match (exceeded, kind) {
            (Some(exceeded), _) => {
                format!("`{}` was ended: {}", about.operation, exceeded.told(&self.name))
            }
            (None, Some(trap)) => format!("`{}` broke: {trap}", about.operation),
            (None, None) => {
                let cause = trap.root_cause().to_string();
                let limit = if cause.contains(HOSTCALL_FUEL) {
                    format!(" (at most {HOSTCALL_BYTES} bytes)")
                } else {
                    String::new()
                };
                format!("`{}` broke: {}{limit}", about.operation, log.redact(&cause))
            }
        };
        let tail = log.tail();
        if !tail.is_empty() {
            let _ = write!(text, "; it said: {}", shown_up_to(&tail, SHOWN_TAIL));
        }
        text
    }
}

impl Durations {
    fn record(&mut self, took: Duration, failed: bool) {
        self.calls += 1;
        self.errors += u64::from(failed);
        if self.last.len() == KEPT_DURATIONS {
            self.last.pop_front();
        }
        self.last.push_back(took);
    }

    fn summary(&self, operation: &'static str) -> OperationStats {
        let mut sorted: Vec<Duration> = self.last.iter().copied().collect();
        sorted.sort_unstable();
        let quantile = |part: f64| {
            let index = ((sorted.len() as f64 - 1.0).max(0.0) * part).round() as usize;
            sorted.get(index).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
        };
        OperationStats {
            operation,
            calls: self.calls,
            errors: self.errors,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

/// What a component may know about the call it is in.
pub(super) struct CallInfo {
    pub operation_id: String,
    pub backend: String,
    pub deadline_ms: u64,
}

/// What came of the component's work.
pub(super) enum Answer<R> {
    Fine(R),
    Error(wire::Error),
    /// It answered what the contract does not allow.
    Nonsense(String),
}

impl<R> Answer<R> {
    /// What the contract gives, put in the host's words.
    pub(super) fn of<T>(result: Result<T, wire::Error>, convert: impl FnOnce(T) -> Result<R, String>) -> Self {
        match result.map(convert) {
            Ok(Ok(value)) => Self::Fine(value),
            Ok(Err(what)) => Self::Nonsense(what),
            Err(error) => Self::Error(error),
        }
    }
}
