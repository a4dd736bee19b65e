//! From a payload to what is stored: the one place for deliveries, their log and the scans of repositories.

use jiff::Timestamp;

use super::payload::{Payload, PayloadError, clean, parse_workflow_job};
use crate::{
    fleet::job::{Assignment, JobFact, Phase},
    github::MissedDelivery,
    routing::RepoName,
    store::Ingest,
};

/// Where a job belongs.
#[derive(Debug, Clone, PartialEq)]
pub enum Routed {
    /// To a project; whether a pool of it fits is in the assignment.
    Ours(Assignment),
    /// It does not ask for a self-hosted runner.
    NotSelfHosted,
    /// No project is bound to its repository.
    Unbound,
}

/// Says where a job of this repository with these labels belongs, by the configuration in force.
pub type Route = dyn Fn(&RepoName, &[String]) -> Routed + Send + Sync;

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
                Routed::Ours(assignment) => (Some((*fact, assignment)), None),
                Routed::NotSelfHosted => (None, Some("not self-hosted".to_owned())),
                Routed::Unbound => (None, Some(unbound(&fact.repo))),
            };
            Ingest { guid, received_at, event, action: action.to_owned(), demand, ignored, source }
        }
    }
}

fn unbound(repo: &RepoName) -> String {
    let owner = repo.owner();
    format!(
        "repository `{repo}` is bound to no project; add it to the `repos` of one, or add a project with `scope: org` and `org: {owner}`"
    )
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
