//! From a payload to what is stored: the one place for deliveries, their log and the scans of repositories.

use jiff::Timestamp;

use super::payload::{Payload, PayloadError, clean, parse_workflow_job};
use crate::{
    fleet::{
        could_be_ours,
        job::{Assignment, JobFact, Phase},
    },
    github::MissedDelivery,
    routing::RepoName,
    store::Ingest,
};

/// Says where a job of this repository with these labels belongs, by the configuration in force, or why it is
/// nobody's here. Whether a pool of the project fits is in the assignment.
pub type Route = dyn Fn(&RepoName, &[String]) -> Result<Assignment, String> + Send + Sync;

/// What a payload becomes.
pub(super) fn ingest(
    payload: Payload,
    guid: Option<String>,
    received_at: Timestamp,
    source: &'static str,
    route: &Route,
) -> Ingest {
    let event = "workflow_job".to_owned();
    match payload {
        Payload::UnknownAction(action) => {
            let ignored = Some(format!("the action `{action}` of `workflow_job` is none that pacer knows"));
            Ingest { guid, received_at, event, action, demand: None, ignored, source }
        }
        Payload::Job { action, fact } => {
            let (demand, ignored) = match route(&fact.repo, &fact.labels) {
                Ok(assignment) => (Some((*fact, Some(assignment))), None),
                // GitHub gives a runner any job whose labels it has, also one that does not ask for `self-hosted`.
                Err(reason) if fact.runner.as_deref().is_some_and(could_be_ours) => (Some((*fact, None)), Some(reason)),
                Err(reason) => (None, Some(reason)),
            };
            Ingest { guid, received_at, event, action: action.to_owned(), demand, ignored, source }
        }
    }
}

/// What a delivery of GitHub's log becomes: the same as if it had arrived.
pub fn from_missed(missed: MissedDelivery, now: Timestamp, route: &Route) -> Result<Ingest, PayloadError> {
    Ok(ingest(parse_workflow_job(&missed.payload)?, Some(missed.guid), now, "delivery-log", route))
}

/// What a job found by asking GitHub becomes.
pub fn from_scan(mut fact: JobFact, now: Timestamp, route: &Route) -> Ingest {
    clean(&mut fact);
    let action = match fact.phase {
        Phase::Waiting => "waiting",
        Phase::Queued => "queued",
        Phase::InProgress => "in_progress",
        Phase::Completed { .. } => "completed",
    };
    ingest(Payload::Job { action, fact: Box::new(fact) }, None, now, "repository-scan", route)
}
