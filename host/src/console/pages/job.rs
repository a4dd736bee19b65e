//! One job: how far it is, why, on what, and what happened.

use axum::extract::{Path, Query, State as Extract};
use jiff::Timestamp;
use maud::{Markup, html};

use super::{encoded, jobs::progress, page, pill, text};
use crate::{
    config::Auth,
    console::{State, api::find_job, error::PageError, query, query::Pairs},
    fleet::{job::Job, runner::Runner},
    store::EventRow,
};

pub async fn show(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Result<Markup, PageError> {
    let job = find_job(&state, &id).await?;
    let events = state.within(state.read.events_of_job(job.key)).await?;
    let runner = match &job.runner {
        Some(name) => state.within(state.read.runner(name)).await?,
        None => None,
    };
    let explanation = state.within(async { Ok(state.explain.explain(&job).await) }).await?;
    let now = state.clock.now();
    let live = html! {
        div.head { (pill(job.status.as_str())) @if let Some(conclusion) = &job.conclusion { span { (text::visible(conclusion)) } } (progress(job.status)) }
        @if let Some(reason) = &job.reason { p.reason { (text::visible(reason)) } }
        div.columns {
            section { h2 { "Timeline" } (timeline(&job, now)) }
            section { h2 { "Runner" } (machine(&job, runner.as_ref(), now)) }
        }
        section { h2 { "Explanation" } pre { @for line in explanation.text.lines() { (text::visible(line)) "\n" } } }
        section { h2 { "Events" } (history(&events, now)) }
    };
    if query::wants_fragment(&pairs) {
        return Ok(live);
    }
    let title = text::visible(&job.name);
    let body = html! {
        p.sub { a href="/jobs" { "Jobs" } " / " (job.key) }
        h1 { bdi { (title) } }
        p.sub {
            bdi { (job.repo) }
            @if let Some(workflow) = &job.workflow { " · " bdi { (text::visible(workflow)) } }
            @if let Some(branch) = &job.branch { " · " bdi { (text::visible(branch)) } }
            @if let Some(url) = job.html_url.as_ref().filter(|url| url.starts_with("https://") || url.starts_with("http://")) {
                " · " a href=(url) rel="noreferrer noopener" { "on GitHub" }
            }
        }
        p.labels { @for label in job.labels.iter().take(100) { code { bdi { (text::visible(label)) } } } }
        div #live { (live) }
    };
    Ok(page(&title, "/jobs", matches!(state.config.load().auth, Auth::Disabled), body))
}

/// What happened, oldest first.
pub fn history(events: &[EventRow], now: Timestamp) -> Markup {
    html! {
        @if events.is_empty() { p.sub { "Nothing yet." } } @else {
            ol.log { @for event in events {
                li { (text::ago(event.at, now)) code { (text::visible(&event.kind)) }
                    span { @if let Some(detail) = &event.detail { (text::visible(detail)) } } }
            } }
        }
    }
}

fn timeline(job: &Job, now: Timestamp) -> Markup {
    let steps = [
        ("queued", Some(job.queued_at)),
        ("claimed", job.claimed_at),
        ("starting", job.starting_at),
        ("running", job.running_at),
        ("completed", job.completed_at),
    ];
    let reached: Vec<_> = steps.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    html! {
        ol.timeline {
            @for (index, (name, at)) in reached.iter().enumerate() {
                @let until = reached.get(index + 1).map(|(_, at)| *at);
                li {
                    b { (name) } (text::ago(*at, now))
                    @if until.is_some() || !job.status.is_final() { span.sub { "for " (text::span(*at, until, now)) } }
                }
            }
        }
    }
}

fn machine(job: &Job, runner: Option<&Runner>, now: Timestamp) -> Markup {
    html! {
        @match (runner, &job.runner) {
            (Some(runner), _) => dl {
                dt { "Name" } dd { a.mono href={ "/runners/" (encoded(runner.name.as_str())) } { (text::visible(runner.name.as_str())) } }
                dt { "State" } dd { (pill(runner.state.as_str())) " since " (text::ago(runner.state_at, now)) }
                @if !runner.state.is_final() { dt { "Deadline" } dd { (text::ago(runner.deadline, now)) } }
                dt { "Pool" } dd { (runner.project) " / " (runner.pool) " on " (runner.backend) }
                @if let Some(cost) = text::cost(runner, now) { dt { "Cost" } dd { (cost) } }
                @if let Some(error) = &runner.error { dt { "Error" } dd.reason { (text::visible(error)) } }
            },
            (None, Some(name)) => p { span.mono { (text::visible(name.as_str())) } ", which pacer did not make." },
            (None, None) => p.sub { "None is paired with it." },
        }
    }
}
