//! The backends: what they are, what they may reach, how they do.

use axum::extract::State as Extract;
use maud::{Markup, html};

use super::{page, pill, text};
use crate::{config::Auth, console::State};

pub async fn list(Extract(state): Extract<State>) -> Markup {
    let backends = state.backends.backends();
    let body = html! {
        h1 { "Backends" }
        @if backends.is_empty() {
            div.empty { h2 { "No backends" } p { "Name one under " code { "backends:" } " in the configuration." } }
        } @else { ul.rows { @for backend in &backends { li.row {
            div.what {
                span.title { (text::visible(&backend.name)) }
                p.sub { (text::visible(&backend.plugin)) " " @if let Some(version) = &backend.version { (text::visible(version)) } }
                @if let Some(digest) = &backend.digest { p.sub.mono title=(digest) { (digest.chars().take(12).collect::<String>()) } }
            }
            div.state {
                (pill(backend.health.status))
                @if let Some(reason) = &backend.health.reason { p.reason { (text::visible(reason)) } }
            }
            div.where { @for grant in &backend.grants {
                p { b { (text::visible(&grant.name)) } " → " span.mono { (text::visible(&grant.target)) } }
                @if !grant.credentials.is_empty() { p.sub { "with " (grant.credentials.join(" and ")) } }
                @if let Some(proxy) = &grant.proxy { p.sub { "through the proxy " span.mono { (proxy) } } }
            } }
            div.when { @for latency in &backend.latencies {
                p.sub title={ "p99 " (format!("{:.1} ms", latency.p99_ms)) ", " (latency.calls) " calls" } {
                    (text::visible(&latency.operation)) " " (format!("{:.1} ms", latency.p50_ms))
                }
            } }
        } } } }
    };
    page("Backends", "/backends", matches!(state.config.load().auth, Auth::Disabled), body)
}
