//! The list of runners, and one of them.

use axum::extract::{Path, Query, State as Extract};
use jiff::Timestamp;
use maud::{Markup, html};

use super::{address, encoded, job::history, page, pill, text};
use crate::{
    config::Auth,
    console::{
        State,
        api::no_runner,
        error::PageError,
        query::{self, Pairs},
    },
    fleet::runner::{Runner, RunnerName, RunnerState},
};

pub async fn list(Extract(state): Extract<State>, Query(pairs): Query<Pairs>) -> Result<Markup, PageError> {
    let listing = query::runners(&pairs)?;
    let runners = state.within(state.read.runners(&listing.filter, listing.cursor.as_deref(), listing.limit)).await?;
    let counts = state.within(state.read.runner_counts()).await?;
    let now = state.clock.now();
    let live = html! {
        ul.counts aria-label="Runners by state" {
            @for state in RunnerState::ALL {
                @let count = counts.iter().find(|(of, _)| *of == state).map_or(0, |(_, count)| *count);
                li { a href=(address("/runners", &pairs, Some(state.as_str()), None)) aria-current=[(listing.filter.state.contains(&state)).then_some("true")] { b { (count) } (pill(state.as_str())) } }
            }
        }
        @if runners.items.is_empty() {
            div.empty { h2 { "No runners" } p { "pacer makes one when a job wants it. " a href="/jobs" { "To the jobs" } } }
        } @else { ul.rows { @for runner in &runners.items { (row(runner, now)) } } }
        nav.pages aria-label="Pages" {
            @if listing.cursor.is_some() { a href=(address("/runners", &pairs, None, None)) { "Newest" } }
            @if let Some(next) = &runners.next { a href=(address("/runners", &pairs, None, Some(next))) { "Older →" } }
        }
    };
    if query::wants_fragment(&pairs) {
        return Ok(live);
    }
    let body = html! { h1 { "Runners" } div #live { (live) } };
    Ok(page("Runners", "/runners", matches!(state.config.load().auth, Auth::Disabled), body))
}

pub async fn show(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    Query(pairs): Query<Pairs>,
) -> Result<Markup, PageError> {
    let name = RunnerName::new(name);
    let runner = state.within(state.read.runner(&name)).await?.ok_or_else(|| no_runner(&name))?;
    let events = state.within(state.read.events_of_runner(&name)).await?;
    let now = state.clock.now();
    let live = html! {
        ul.rows { (row(&runner, now)) }
        section { h2 { "Events" } (history(&events, now)) }
    };
    if query::wants_fragment(&pairs) {
        return Ok(live);
    }
    let title = text::visible(runner.name.as_str());
    let body = html! {
        p.sub { a href="/runners" { "Runners" } }
        h1.mono { (title) }
        div #live { (live) }
    };
    Ok(page(&title, "/runners", matches!(state.config.load().auth, Auth::Disabled), body))
}

fn row(runner: &Runner, now: Timestamp) -> Markup {
    html! {
        li.row {
            div.what {
                a.title.mono href={ "/runners/" (encoded(runner.name.as_str())) } { (text::visible(runner.name.as_str())) }
                p.sub { (runner.target) }
            }
            div.state {
                (pill(runner.state.as_str()))
                @if let Some(error) = &runner.error { p.reason { (text::visible(error)) } }
            }
            div.where {
                p { (runner.project) " / " b { (runner.pool) } " on " (runner.backend) }
                @if let Some(job) = runner.job { p { a href={ "/jobs/" (job) } { "job " (job) } } }
            }
            div.when {
                p { (text::ago(runner.created_at, now)) }
                @if !runner.state.is_final() { p.sub { "deadline " (text::ago(runner.deadline, now)) } }
                @if let Some(cost) = text::cost(runner, now) { p.sub { (cost) } }
            }
        }
    }
}
