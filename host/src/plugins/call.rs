//! One call of a component: admitted, bounded, classified.
//!
//! Every call has a store of its own, so nothing leaks from one runner to the next and a trap or a timeout, which
//! poison a store, harm one call. Two clocks bound it: the deadline counts what it waits, epochs what it computes.

use std::{
    fmt::Write as _,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};
use wasmtime::{Store, Trap};

use super::{
    bindings::{Backend, pacer::backend::model as wire},
    convert,
    egress::{CallEgress, Egress},
    held::{self, HOSTCALL_BYTES},
    load::Linked,
    log::CallLog,
    memory::{Memory, Turn},
    meter::Meter,
    model::{BackendError, ErrorKind},
    redact::Secrets,
    state::{Budget, CallParts, Exceeded, Reserved, State},
    stats::{OperationStats, Stats},
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
/// The operation that waits for a machine to stop.
pub(super) const DESTROY: &str = "destroy";
/// How the engine says that more passed the wall than [`HOSTCALL_BYTES`].
const HOSTCALL_FUEL: &str = "fuel allocated for hostcalls";

/// What all calls share.
pub(super) struct Shared {
    pub engine: wasmtime::Engine,
    pub clock: SharedClock,
    pub budget: Arc<Budget>,
    total_memory: u64,
    live: Semaphore,
    calls: AtomicU64,
}

impl Shared {
    pub fn new(engine: wasmtime::Engine, clock: SharedClock, total_memory: u64) -> Self {
        Self {
            engine,
            clock,
            budget: Budget::new(total_memory),
            total_memory,
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
    /// Why what is behind its endpoints could not be used, as the last call found. No fault of the component.
    unusable: Mutex<Option<String>>,
    turns: Semaphore,
    /// Waited for by removals alone, before their turn.
    removals: Semaphore,
    stats: Mutex<Stats>,
}

/// A place among the removals of a backend, if it is one, among its calls, and among all calls.
type Permits<'a> = (Option<SemaphorePermit<'a>>, SemaphorePermit<'a>, SemaphorePermit<'a>);

/// What a call is about.
pub(super) struct About {
    pub operation: &'static str,
    pub runner: Option<String>,
    /// Blanked out of everything the component says, beside what the host adds for it to requests.
    pub secrets: Vec<SecretString>,
    pub deadline: Duration,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    pub fn new(name: BackendName, limits: PluginLimits, egress: Arc<Egress>) -> Self {
        Self {
            name,
            turns: Semaphore::new(limits.concurrency as usize),
            removals: Semaphore::new(limits.removals() as usize),
            limits,
            egress,
            unusable: Mutex::default(),
            stats: Mutex::default(),
        }
    }

    /// For a component that is tried: nothing that it does counts for the one in force.
    pub fn beside(&self) -> Self {
        Self::new(self.name.clone(), self.limits.clone(), self.egress.clone())
    }

    /// The last fault of the component, or why what it speaks to could not be used; and whether the circuit is open.
    pub fn trouble(&self, memory: &Memory) -> Option<(bool, String)> {
        memory.fault().or_else(|| locked(&self.unusable).clone().map(|reason| (false, reason)))
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
        locked(&self.stats).summaries()
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
        locked(&self.stats).record(about.operation, took, outcome.is_err());
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
        let turn = self.turn(&linked.memory, shared.clock.now())?;
        let (_permits, reserved) = self.permits(shared, about, deadline).await?;
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
            Secrets::new(self.egress.secrets(), about.secrets.clone()),
            self.limits.log_size,
        );
        let egress = CallEgress::new(self.egress.clone(), deadline, log.clone());
        let meter = Meter::default();
        let cache = linked.memory.cache.clone();
        let parts = CallParts { egress, log: log.clone(), cache, reserved, meter: meter.clone() };
        let mut store = State::store(&shared.engine, &self.limits, parts);
        let outcome = {
            let whole = async {
                let backend = linked.pre.instantiate_async(&mut store).await?;
                work(&backend, &mut store, info).await
            };
            tokio::pin!(whole);
            timeout_at(deadline, poll_fn(|context| meter.drive(|| whole.as_mut().poll(context)))).await
        };
        store.data().finish_output();
        if log.dropped() > 0 {
            tracing::info!(
                backend.name = %self.name, operation = about.operation, dropped = log.dropped(),
                "{} lines of its log were dropped: a call may write {} bytes (`backends.{}.limits.log`) in {} lines",
                log.dropped(), self.limits.log_size, self.name, super::log::LINES
            );
        }
        self.judge(shared, turn, about, &store, &log, outcome)
    }

    /// Unless the circuit is open.
    fn turn(&self, memory: &Memory, now: Timestamp) -> Result<Turn, BackendError> {
        memory.admit(now).map_err(|wait| {
            let trouble = memory.fault().map(|(_, trouble)| trouble).unwrap_or_default();
            let seconds = wait.as_secs().max(1);
            let message = format!("it is not called for {seconds} s because it keeps breaking: {trouble}");
            BackendError { retry_after: Some(wait), asked: false, ..self.error(ErrorKind::Unavailable, message) }
        })
    }

    /// A place among the calls of this backend and of all, and room for what the host may come to hold for it.
    async fn permits<'a>(
        &'a self,
        shared: &'a Shared,
        about: &About,
        deadline: Instant,
    ) -> Result<(Permits<'a>, Reserved), BackendError> {
        let refused = |message: String| {
            let message = format!("`{}` was not begun: {message}", about.operation);
            BackendError { asked: false, ..self.error(ErrorKind::Unavailable, message) }
        };
        let is_removal = about.operation == DESTROY;
        let all = async {
            let removal = if is_removal { Some(self.removals.acquire().await?) } else { None };
            let (turn, live) = (self.turns.acquire().await?, shared.live.acquire().await?);
            Ok::<_, tokio::sync::AcquireError>((removal, turn, live))
        };
        let permits = match timeout_at(deadline, all).await {
            Ok(Ok(permits)) => permits,
            Ok(Err(_)) => return Err(refused("the server is stopping".to_owned())),
            Err(_) => {
                let taken = if is_removal && self.removals.available_permits() == 0 {
                    format!("removals, {} of its {} calls at once,", self.limits.removals(), self.limits.concurrency)
                } else {
                    format!("of its {} calls at once", self.limits.concurrency)
                };
                return Err(refused(format!(
                    "all {taken} are taken; raise `backends.{}.limits.concurrency` if it can do more",
                    self.name
                )));
            }
        };
        let held = held::at_most(&self.limits);
        let exceeded = |_| refused(shared.budget.exceeded().told(&self.name));
        if held > shared.total_memory {
            return Err(exceeded(()));
        }
        let reserved = timeout_at(deadline, shared.budget.reserve(held)).await;
        Ok((permits, reserved.map_err(|_| exceeded(()))?))
    }

    /// Tells apart what the component said, what it did wrong, and what it ran into.
    fn judge<R>(
        &self,
        shared: &Shared,
        turn: Turn,
        about: &About,
        store: &Store<State>,
        log: &CallLog,
        outcome: Result<wasmtime::Result<Answer<R>>, tokio::time::error::Elapsed>,
    ) -> Result<R, BackendError> {
        let fault = match outcome {
            Ok(Ok(Answer::Fine(value))) => {
                turn.worked();
                return Ok(value);
            }
            // Its own word, good or bad, means that the component works.
            Ok(Ok(Answer::Error(error))) => {
                turn.worked();
                return Err(convert::error(self.name.as_str(), &error, &|text, longest| {
                    log.redact_up_to(text, longest)
                }));
            }
            Ok(Ok(Answer::Nonsense(what))) => self.error(
                ErrorKind::Internal,
                format!(
                    "`{}` answered nonsense: {}",
                    about.operation,
                    shown_up_to(&log.redact_up_to(&what, SHOWN_TAIL), SHOWN_TAIL)
                ),
            ),
            Ok(Err(trap)) => {
                let exceeded = exceeded(store, &trap);
                let message = self.trap(about, log, &trap, exceeded);
                match exceeded {
                    // Others took it: the component did nothing wrong, and nothing at all unless it asked somebody.
                    Some(Exceeded::TotalMemory(_)) => {
                        let error = self.error(ErrorKind::Unavailable, message);
                        return Err(BackendError { asked: store.data().reached_out(), ..error });
                    }
                    Some(Exceeded::Memory(_) | Exceeded::Cpu { .. }) | None => self.error(ErrorKind::Internal, message),
                }
            }
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
        turn.broke(shared.clock.now(), &fault.message);
        Err(fault)
    }

    fn trap(&self, about: &About, log: &CallLog, trap: &wasmtime::Error, exceeded: Option<Exceeded>) -> String {
        let kind = trap.downcast_ref::<Trap>();
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
                format!("`{}` broke: {}{limit}", about.operation, log.redact_up_to(&cause, SHOWN_TAIL))
            }
        };
        let tail = log.tail();
        if !tail.is_empty() {
            let _ = write!(text, "; it said: {}", shown_up_to(&tail, SHOWN_TAIL));
        }
        text
    }
}

/// The limit that ended a call, if one did.
fn exceeded(store: &Store<State>, trap: &wasmtime::Error) -> Option<Exceeded> {
    // A refused growth ends a component by its own abort; any other trap has another cause.
    let aborted = trap.downcast_ref::<Trap>().is_none_or(|trap| *trap == Trap::UnreachableCodeReached);
    trap.downcast_ref::<Exceeded>().copied().or(store.data().exceeded().filter(|_| aborted))
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
