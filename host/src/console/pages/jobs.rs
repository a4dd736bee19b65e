//! The list of jobs.

use axum::extract::{Query, State as Extract};
use jiff::Timestamp;
use maud::{Markup, html};

use super::{address, encoded, page, pill, text};
use crate::{
    config::{Auth, Config, Scope},
    console::{
        State,
        error::PageError,
        query::{self, Listing, Pairs},
    },
    fleet::job::{Job, JobStatus},
    routing::{self, SELF_HOSTED},
    store::{JobFilter, Page},
};

/// The steps of a job that all goes well for.
const STEPS: [JobStatus; 5] =
    [JobStatus::Queued, JobStatus::Claimed, JobStatus::Starting, JobStatus::Running, JobStatus::Completed];
/// Labels shown in a row.
const MAX_LABELS: usize = 6;

pub async fn list(Extract(state): Extract<State>, Query(pairs): Query<Pairs>) -> Result<Markup, PageError> {
    let listing = query::jobs(&pairs)?;
    let jobs = state.within(state.read.jobs(&listing.filter, listing.cursor.as_deref(), listing.limit)).await?;
    let counts = state.within(state.read.job_counts()).await?;
    let config = state.config.load_full();
    let live = live(&config, &pairs, &listing, &jobs, &counts, state.clock.now());
    if query::wants_fragment(&pairs) {
        return Ok(live);
    }
    let body = html! {
        h1 { "Jobs" }
        (filters(&config, &listing.filter))
        div #live { (live) }
    };
    Ok(page("Jobs", "/jobs", matches!(config.auth, Auth::Disabled), body))
}

/// `queued → claimed → starting → running → completed`, with how far it came.
pub fn progress(status: JobStatus) -> Markup {
    let stopped = matches!(status, JobStatus::Failed | JobStatus::Cancelled | JobStatus::Unmatched);
    html! {
        ol.steps.stopped[stopped] aria-label={ "Progress: " (status) } {
            @for step in STEPS {
                @let class = if step == status { "now" } else if !stopped && step.rank() < status.rank() { "done" } else { "" };
                li class=(class) aria-current=[(step == status).then_some("step")] { (step) }
            }
        }
    }
}

fn filters(config: &Config, filter: &JobFilter) -> Markup {
    let project = filter.project.as_ref().map_or("", |name| name.as_str());
    let repo = filter.repo.as_ref().map_or("", |name| name.as_str());
    let repos = config.projects.iter().flat_map(|project| match &project.scope {
        Scope::Repos(repos) => repos.as_slice(),
        Scope::Org { .. } => &[],
    });
    html! {
        form.filters method="get" action="/jobs" role="search" aria-label="Filter jobs" {
            label { "State"
                select name="status" {
                    option value="" { "all" }
                    @for status in JobStatus::ALL {
                        option value=(status) selected[filter.status.first() == Some(&status)] { (status) }
                    }
                }
            }
            label { "Project"
                select name="project" {
                    option value="" { "all" }
                    @for candidate in &config.projects {
                        option value=(candidate.name) selected[candidate.name.as_str() == project] { (candidate.name) }
                    }
                }
            }
            label { "Repository"
                input type="search" name="repo" value=(repo) placeholder="owner/name" list="repos" autocomplete="off";
                datalist id="repos" { @for repo in repos.take(200) { option value=(repo) {} } }
            }
            button.button type="submit" { "Filter" }
            @if !filter.status.is_empty() || filter.project.is_some() || filter.repo.is_some() {
                a.quiet href="/jobs" { "Clear" }
            }
        }
    }
}

fn live(
    config: &Config,
    pairs: &Pairs,
    listing: &Listing<JobFilter>,
    jobs: &Page<Job>,
    counts: &[(JobStatus, u64)],
    now: Timestamp,
) -> Markup {
    html! {
        ul.counts aria-label="Jobs by state" {
            @for status in JobStatus::ALL {
                @let count = counts.iter().find(|(of, _)| *of == status).map_or(0, |(_, count)| *count);
                li { a href=(address("/jobs", pairs, Some(status.as_str()), None)) aria-current=[(listing.filter.status.contains(&status)).then_some("true")] {
                    b { (count) } (pill(status.as_str()))
                } }
            }
        }
        @if jobs.items.is_empty() { (empty(config, listing)) } @else {
            ul.rows { @for job in &jobs.items { (row(job, now)) } }
        }
        nav.pages aria-label="Pages" {
            @if listing.cursor.is_some() { a href=(address("/jobs", pairs, None, None)) { "Newest" } }
            @if let Some(next) = &jobs.next { a href=(address("/jobs", pairs, None, Some(next))) { "Older →" } }
        }
    }
}

fn row(job: &Job, now: Timestamp) -> Markup {
    let wait_end = job.running_at.or(job.completed_at).or(job.status.is_final().then_some(job.updated_at));
    html! {
        li.row {
            div.what {
                a.title href={ "/jobs/" (job.key) } { bdi { (text::visible(&job.name)) } }
                p.sub { bdi { (job.repo) } @if let Some(workflow) = &job.workflow { " · " bdi { (text::visible(workflow)) } } }
                p.labels {
                    @for label in job.labels.iter().take(MAX_LABELS) { code { bdi { (text::visible(label)) } } }
                    @if job.labels.len() > MAX_LABELS { span.sub { "+" (job.labels.len() - MAX_LABELS) } }
                }
            }
            div.state {
                (pill(job.status.as_str()))
                @if let Some(conclusion) = &job.conclusion { " " span.sub { (text::visible(conclusion)) } }
                (progress(job.status))
                @if let Some(reason) = &job.reason { p.reason { (text::visible(reason)) } }
            }
            div.where {
                @match (&job.project, &job.pool) {
                    (Some(project), Some(pool)) => p { (project) " / " b { (pool) } },
                    (Some(project), None) => p { (project) " / " span.sub { "no pool" } },
                    (None, _) => p.sub { "no project" },
                }
                @if let Some(runner) = &job.runner { p { a.mono href={ "/runners/" (encoded(runner.as_str())) } { (text::visible(runner.as_str())) } } }
            }
            div.when {
                p { (text::ago(job.queued_at, now)) }
                p.sub { "waited " (text::span(job.queued_at, wait_end, now)) }
            }
        }
    }
}

fn empty(config: &Config, listing: &Listing<JobFilter>) -> Markup {
    let filtered =
        !listing.filter.status.is_empty() || listing.filter.project.is_some() || listing.filter.repo.is_some();
    let example =
        config.projects.first().and_then(|project| Some(routing::pool_labels(project, project.pools.first()?)));
    let example = example.unwrap_or_else(|| vec![SELF_HOSTED.to_owned()]).join(", ");
    html! {
        div.empty {
            @if filtered || listing.cursor.is_some() {
                h2 { "No job fits this filter" }
                p { a href="/jobs" { "Show all jobs" } }
            } @else {
                h2 { "No jobs yet" }
                p { "Send one here: write this into a workflow of a repository that a project names, and run it." }
                pre { "runs-on: [" (text::visible(&example)) "]" }
                p.sub { "Nothing arrives? The webhook of the GitHub App has to point to " code { (config.server.public_url) "/api/webhook" } "." }
            }
        }
    }
}
