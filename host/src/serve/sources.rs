//! What the console reads, from where it is.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::broadcast;

use crate::{
    clock::SharedClock,
    config::Config,
    console::{
        Answer, Audit, BackendStatus, BackendView, Explain, Explanation, GrantView, HealthView, LatencyView, Part,
        Read, Readiness, Sources,
    },
    fleet::{
        Fleet, explain,
        job::{Job, JobKey, JobStatus},
        runner::{Runner, RunnerName, RunnerState},
    },
    github::GitHubApi,
    plugins,
    store::{AuditEntry, Changed, DeliveryRecord, EventRow, JobFilter, Op, Page, RunnerFilter, Store},
};

pub fn sources(
    config: &Arc<Config>,
    store: &Store,
    fleet: &Arc<Fleet>,
    backends: &Arc<plugins::Host>,
    github: Arc<dyn GitHubApi>,
    clock: &SharedClock,
) -> Sources {
    Sources {
        read: Arc::new(FromStore(store.clone())),
        audit: Arc::new(FromStore(store.clone())),
        backends: Arc::new(HostStatus(backends.clone())),
        readiness: Arc::new(Parts { store: store.clone(), backends: backends.clone(), github }),
        explain: Arc::new(Explainer {
            config: config.clone(),
            store: store.clone(),
            fleet: fleet.clone(),
            clock: clock.clone(),
        }),
    }
}

struct FromStore(Store);

impl Read for FromStore {
    fn jobs<'a>(&'a self, filter: &'a JobFilter, cursor: Option<&'a str>, limit: u32) -> Answer<'a, Page<Job>> {
        self.0.jobs(filter, cursor, limit).boxed()
    }

    fn job(&self, key: JobKey) -> Answer<'_, Option<Job>> {
        self.0.job(key).boxed()
    }

    fn latest_attempt(&self, id: i64) -> Answer<'_, Option<Job>> {
        self.0.latest_attempt(id).boxed()
    }

    fn runners<'a>(
        &'a self,
        filter: &'a RunnerFilter,
        cursor: Option<&'a str>,
        limit: u32,
    ) -> Answer<'a, Page<Runner>> {
        self.0.runners(filter, cursor, limit).boxed()
    }

    fn runner<'a>(&'a self, name: &'a RunnerName) -> Answer<'a, Option<Runner>> {
        self.0.runner(name).boxed()
    }

    fn events_of_job(&self, key: JobKey) -> Answer<'_, Vec<EventRow>> {
        self.0.events_of_job(key).boxed()
    }

    fn events_of_runner<'a>(&'a self, name: &'a RunnerName) -> Answer<'a, Vec<EventRow>> {
        self.0.events_of_runner(name).boxed()
    }

    fn job_counts(&self) -> Answer<'_, Vec<(JobStatus, u64)>> {
        self.0.job_counts().boxed()
    }

    fn runner_counts(&self) -> Answer<'_, Vec<(RunnerState, u64)>> {
        self.0.runner_counts().boxed()
    }

    fn deliveries<'a>(&'a self, cursor: Option<&'a str>, limit: u32) -> Answer<'a, Page<DeliveryRecord>> {
        self.0.deliveries(cursor, limit).boxed()
    }

    fn audit<'a>(&'a self, cursor: Option<&'a str>, limit: u32) -> Answer<'a, Page<AuditEntry>> {
        self.0.audit(cursor, limit).boxed()
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<[Changed]>> {
        self.0.subscribe()
    }
}

impl Audit for FromStore {
    fn record(&self, entry: AuditEntry) -> Answer<'_, ()> {
        async { self.0.write(vec![Op::Audit(entry)]).await.map(drop) }.boxed()
    }
}

struct Parts {
    store: Store,
    backends: Arc<plugins::Host>,
    github: Arc<dyn GitHubApi>,
}

fn part<E: std::fmt::Display>(name: impl Into<String>, outcome: Result<(), E>) -> Part {
    let reason = outcome.err().map(|error| error.to_string());
    Part { name: name.into(), ok: reason.is_none(), reason }
}

impl Readiness for Parts {
    fn parts(&self) -> BoxFuture<'_, Vec<Part>> {
        async {
            let (database, github) = tokio::join!(self.store.ping(), self.github.ping());
            let mut parts = vec![part("database", database), part("github", github)];
            parts.extend(HostStatus(self.backends.clone()).backends().into_iter().map(|backend| {
                let works = backend.health.status == "ok";
                let reason = backend.health.reason.unwrap_or_else(|| backend.health.status.to_owned());
                part(format!("backend {}", backend.name), if works { Ok(()) } else { Err(reason) })
            }));
            parts
        }
        .boxed()
    }
}

struct Explainer {
    config: Arc<Config>,
    store: Store,
    fleet: Arc<Fleet>,
    clock: SharedClock,
}

impl Explain for Explainer {
    fn explain<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Explanation> {
        async {
            let counts = self.fleet.counts(job);
            // Without its pauses the explanation says less, and is still right.
            let pauses = self.store.pauses().await.unwrap_or_default();
            let explanation = explain::explain(job, &self.config, counts, &pauses, self.clock.now());
            let json = serde_json::to_value(&explanation).unwrap_or_default();
            Explanation { json, text: explain::render(&explanation) }
        }
        .boxed()
    }
}

struct HostStatus(Arc<plugins::Host>);

impl BackendStatus for HostStatus {
    fn backends(&self) -> Vec<BackendView> {
        self.0.status().into_iter().map(view).collect()
    }
}

fn view(backend: plugins::BackendStatus) -> BackendView {
    let (status, reason) = match backend.health {
        plugins::Health::Ok => ("ok", None),
        plugins::Health::Loading => ("loading", Some("it is being loaded".to_owned())),
        plugins::Health::Degraded(reason) => ("degraded", Some(reason)),
        plugins::Health::Down(reason) => ("down", Some(reason)),
    };
    BackendView {
        name: backend.name.to_string(),
        plugin: backend.plugin,
        version: backend.version,
        digest: backend.digest,
        grants: backend
            .grants
            .into_iter()
            .filter_map(|grant| {
                let plugins::Grant { endpoint, target, credentials, proxy, .. } = grant;
                Some(GrantView { name: endpoint, target: target?, credentials, proxy })
            })
            .collect(),
        health: HealthView { status, reason },
        latencies: backend
            .operations
            .into_iter()
            .map(|operation| LatencyView {
                operation: operation.operation.to_owned(),
                calls: operation.calls,
                p50_ms: operation.p50_ms,
                p99_ms: operation.p99_ms,
            })
            .collect(),
    }
}
