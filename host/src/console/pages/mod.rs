//! The pages. Rendered here, whole, and usable without script; the script only renews the part named `live`.
//!
//! Everything that came from outside goes through [`text::visible`] and maud's escaping.

pub mod backends;
pub mod job;
pub mod jobs;
pub mod runners;
pub mod sign_in;
mod text;

use maud::{DOCTYPE, Markup, html};

use super::{assets, error::ApiError, query::Pairs};

/// A page with the navigation; `here` is the path of its section.
fn page(title: &str, here: &str, open: bool, body: Markup) -> Markup {
    frame(
        title,
        html! {
            a.skip href="#main" { "Skip to content" }
            header.top {
                a.brand href="/jobs" { img src=(assets::icon_address()) alt="" width="24" height="24"; "pacer" }
                nav aria-label="Sections" {
                    @for (path, name) in [("/jobs", "Jobs"), ("/runners", "Runners"), ("/backends", "Backends")] {
                        a href=(path) aria-current=[(here == path).then_some("page")] { (name) }
                    }
                }
                span #connection .connection role="status" aria-live="polite" {}
                @if !open {
                    form method="post" action="/signout" { button.quiet type="submit" { "Sign out" } }
                }
            }
            main #main tabindex="-1" { (body) }
        },
    )
}

fn frame(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · pacer" }
                link rel="icon" href=(assets::icon_address()) type="image/svg+xml";
                link rel="stylesheet" href=(assets::css_address());
                script type="module" src=(assets::js_address()) {}
            }
            body { (body) }
        }
    }
}

/// What a person sees when a request cannot be answered.
pub fn error(error: &ApiError) -> Markup {
    let title = error.status.canonical_reason().unwrap_or("Error");
    frame(
        title,
        html! {
            main.alone #main {
                p.code { (error.status.as_u16()) }
                h1 { (title) }
                p { (text::visible(&error.message)) }
                p { a.button href="/jobs" { "To the jobs" } }
            }
        },
    )
}

/// The address of a listing with its filters. `status` replaces the states asked for; without it they stay.
fn address(path: &str, pairs: &Pairs, status: Option<&str>, cursor: Option<&str>) -> String {
    let kept = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).filter(|(key, value)| match *key {
        "project" | "repo" | "limit" => !value.is_empty(),
        "status" => !value.is_empty() && status.is_none(),
        _ => false,
    });
    let set = [("status", status), ("cursor", cursor)].into_iter().filter_map(|(key, value)| Some((key, value?)));
    let parts: Vec<_> = set.chain(kept).map(|(key, value)| format!("{key}={}", encoded(value))).collect();
    if parts.is_empty() { path.to_owned() } else { format!("{path}?{}", parts.join("&")) }
}

/// A text as one part of an address.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A state in words and colour.
fn pill(state: &str) -> Markup {
    html! { span class={ "pill s-" (state) } { (state) } }
}
