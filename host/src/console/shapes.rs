//! The JSON of the API. Fields are only ever added; a field without a value is `null`, never left out.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    config::{Pool, Project},
    fleet::{
        job::{Job, JobStatus},
        runner::{MachinePhase, Runner, RunnerState},
    },
    routing,
    store::{AuditEntry, DeliveryRecord, EventRow, Page},
};

#[derive(Debug, Serialize)]
pub struct List<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

impl<T> List<T> {
    pub fn of<'a, S>(page: &'a Page<S>) -> Self
    where
        T: From<&'a S>,
    {
        Self { items: page.items.iter().map(T::from).collect(), next: page.next.clone() }
    }
}

#[derive(Debug, Serialize)]
pub struct JobShape<'a> {
    id: String,
    github_job_id: i64,
    run_id: i64,
    run_attempt: i32,
    repo: &'a str,
    name: &'a str,
    workflow: Option<&'a str>,
    branch: Option<&'a str>,
    html_url: Option<&'a str>,
    status: JobStatus,
    labels: &'a [String],
    project: Option<&'a str>,
    pool: Option<&'a str>,
    runner: Option<&'a str>,
    reason: Option<&'a str>,
    queued_at: Timestamp,
    claimed_at: Option<Timestamp>,
    starting_at: Option<Timestamp>,
    running_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    conclusion: Option<&'a str>,
}

impl<'a> From<&'a Job> for JobShape<'a> {
    fn from(job: &'a Job) -> Self {
        Self {
            id: job.key.to_string(),
            github_job_id: job.key.id,
            run_id: job.run_id,
            run_attempt: job.key.attempt,
            repo: job.repo.as_str(),
            name: &job.name,
            workflow: job.workflow.as_deref(),
            branch: job.branch.as_deref(),
            html_url: job.html_url.as_deref(),
            status: job.status,
            labels: &job.labels,
            project: job.project.as_ref().map(|name| name.as_str()),
            pool: job.pool.as_ref().map(|name| name.as_str()),
            runner: job.runner.as_ref().map(|name| name.as_str()),
            reason: job.reason.as_deref(),
            queued_at: job.queued_at,
            claimed_at: job.claimed_at,
            starting_at: job.starting_at,
            running_at: job.running_at,
            completed_at: job.completed_at,
            conclusion: job.conclusion.as_deref(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct JobDetail<'a> {
    #[serde(flatten)]
    pub job: JobShape<'a>,
    pub events: Vec<EventShape<'a>>,
    pub explanation: serde_json::Value,
}

#[derive(Debug, Serialize)]
pub struct RunnerShape<'a> {
    name: &'a str,
    state: RunnerState,
    project: &'a str,
    pool: &'a str,
    backend: &'a str,
    target: String,
    handle: Option<&'a str>,
    job: Option<String>,
    created_at: Timestamp,
    deadline: Timestamp,
    /// What its machine costs; of a runner that is over, what it cost.
    cost: Option<CostShape<'a>>,
    /// What its machine said of itself last, where it runs a start script.
    phase: Option<MachinePhase>,
    error: Option<&'a str>,
}

impl<'a> From<&'a Runner> for RunnerShape<'a> {
    fn from(runner: &'a Runner) -> Self {
        Self {
            name: runner.name.as_str(),
            state: runner.state,
            project: runner.project.as_str(),
            pool: runner.pool.as_str(),
            backend: runner.backend.as_str(),
            target: runner.target.to_string(),
            handle: runner.handle.as_deref(),
            job: runner.job.map(|key| key.to_string()),
            created_at: runner.created_at,
            deadline: runner.deadline,
            cost: CostShape::of(runner),
            phase: runner.phase,
            error: runner.error.as_deref(),
        }
    }
}

/// What a machine costs, in millionths of the currency's unit.
#[derive(Debug, Serialize)]
pub struct CostShape<'a> {
    micros_per_hour: u64,
    /// None while it is running up.
    micros: Option<u64>,
    currency: &'a str,
}

impl<'a> CostShape<'a> {
    pub fn of(runner: &'a Runner) -> Option<Self> {
        let rate = runner.rate.as_ref()?;
        Some(Self { micros_per_hour: rate.micros_per_hour, micros: runner.cost_micros, currency: &rate.currency })
    }
}

#[derive(Debug, Serialize)]
pub struct RunnerDetail<'a> {
    #[serde(flatten)]
    pub runner: RunnerShape<'a>,
    pub events: Vec<EventShape<'a>>,
}

#[derive(Debug, Serialize)]
pub struct EventShape<'a> {
    at: Timestamp,
    kind: &'a str,
    job: Option<String>,
    runner: Option<&'a str>,
    detail: Option<&'a str>,
}

impl<'a> From<&'a EventRow> for EventShape<'a> {
    fn from(event: &'a EventRow) -> Self {
        Self {
            at: event.at,
            kind: &event.kind,
            job: event.job.map(|key| key.to_string()),
            runner: event.runner.as_ref().map(|name| name.as_str()),
            detail: event.detail.as_deref(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct DeliveryShape<'a> {
    guid: &'a str,
    received_at: Timestamp,
    event: &'a str,
    action: &'a str,
    result: &'a str,
    /// Why it was ignored, or matched no pool.
    reason: Option<&'a str>,
    job: Option<String>,
    source: &'a str,
}

impl<'a> From<&'a DeliveryRecord> for DeliveryShape<'a> {
    fn from(delivery: &'a DeliveryRecord) -> Self {
        Self {
            guid: &delivery.guid,
            received_at: delivery.received_at,
            event: &delivery.event,
            action: &delivery.action,
            result: &delivery.result,
            reason: delivery.reason.as_deref(),
            job: delivery.job.map(|key| key.to_string()),
            source: &delivery.source,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct AuditShape<'a> {
    at: Timestamp,
    actor: &'a str,
    action: &'a str,
    subject: &'a str,
    detail: Option<&'a str>,
}

impl<'a> From<&'a AuditEntry> for AuditShape<'a> {
    fn from(entry: &'a AuditEntry) -> Self {
        Self {
            at: entry.at,
            actor: &entry.actor,
            action: &entry.action,
            subject: &entry.subject,
            detail: entry.detail.as_deref(),
        }
    }
}

/// A pool without its settings: those may hold what an operator puts into a runner's environment.
#[derive(Debug, Serialize)]
pub struct PoolShape<'a> {
    project: &'a str,
    name: &'a str,
    backend: &'a str,
    enabled: bool,
    default: bool,
    priority: i32,
    /// What its runners have, as GitHub gets them; those of a repository have `owner-name` besides.
    labels: Vec<String>,
    max_runners: u32,
    /// At this moment, by the pool's `warm` windows.
    min_idle: u32,
}

impl<'a> PoolShape<'a> {
    pub fn of(project: &'a Project, pool: &'a Pool, now: Timestamp) -> Self {
        Self {
            project: project.name.as_str(),
            name: pool.name.as_str(),
            backend: pool.backend.as_str(),
            enabled: pool.enabled,
            default: pool.default,
            priority: pool.priority,
            labels: routing::pool_labels(project, pool),
            max_runners: pool.max_runners,
            min_idle: pool.warm.at(now).0,
        }
    }
}
