//! GitHub's rate limits.
//!
//! Without [`Settings::hourly_limit`](super::Settings::hourly_limit) there is no primary limit and no header of it, as on
//! an Enterprise Server; without [`Settings::secondary`](super::Settings::secondary) there are no others, but for those
//! that are asked for as [faults](crate::faults::Fault::SecondaryLimit).

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::Ordering,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;

use super::{GitHub, auth, payload, rest::refuse, state};
use crate::faults;

/// The primary limit counts by the hour.
const WINDOW_S: i64 = 3600;

/// The limits that count minutes and not hours.
#[derive(Debug, Clone)]
pub struct Secondary {
    /// Requests under way.
    pub at_once: usize,
    /// In a minute for each installation: a read is one, anything else five.
    pub points: u32,
    /// In five minutes for each repository or organisation.
    pub registrations: u32,
}

impl Default for Secondary {
    fn default() -> Self {
        Self { at_once: 100, points: 900, registrations: 1_500 }
    }
}

/// What was spent lately, by whom: when, and how much.
#[derive(Debug, Default)]
pub struct Lately(HashMap<String, VecDeque<(i64, u32)>>);

impl Lately {
    /// Takes it, if no more than `limit` are taken within so many seconds.
    fn take(&mut self, whose: String, cost: u32, limit: u32, seconds: i64, now: Timestamp) -> bool {
        let now = now.as_second();
        let spent = self.0.entry(whose).or_default();
        while spent.front().is_some_and(|(then, _)| *then <= now - seconds) {
            spent.pop_front();
        }
        let fits = spent.iter().map(|(_, cost)| cost).sum::<u32>() + cost <= limit;
        if fits {
            spent.push_back((now, cost));
        }
        fits
    }
}

/// What each installation spent.
#[derive(Debug, Default)]
pub struct Spent(HashMap<String, Window>);

#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub used: u32,
    /// Seconds since 1970.
    pub reset: i64,
}

impl Spent {
    pub fn window(&mut self, owner: &str, now: Timestamp) -> &mut Window {
        let now = now.as_second();
        let window = self.0.entry(owner.to_owned()).or_insert(Window { used: 0, reset: now + WINDOW_S });
        if window.reset <= now {
            *window = Window { used: 0, reset: now + WINDOW_S };
        }
        window
    }
}

/// Around every call of the API: the limits, and then the faults that were asked for.
pub async fn around(State(github): State<GitHub>, request: Request, next: Next) -> Response {
    let counts = request.uri().path() != "/rate_limit";
    let limit = github.settings().hourly_limit.filter(|_| counts).zip(owner(&github, request.headers()));
    let Some((limit, owner)) = limit else {
        return match owner(&github, request.headers()) {
            Some(owner) => within_secondary(&github, &owner, request, next).await,
            None => play(&github, request, next).await,
        };
    };
    let window = {
        let mut state = github.inner.state();
        let window = state.spent.window(&owner, state::now());
        window.used = window.used.saturating_add(1);
        *window
    };
    let mut response = if window.used > limit {
        let id = payload::owner_id(&owner);
        refuse(StatusCode::FORBIDDEN, format!("API rate limit exceeded for installation ID {id}.")).into_response()
    } else {
        within_secondary(&github, &owner, request, next).await
    };
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: HeaderValue| headers.insert(HeaderName::from_static(name), value);
    set("x-ratelimit-limit", limit.into());
    set("x-ratelimit-used", window.used.min(limit).into());
    set("x-ratelimit-remaining", limit.saturating_sub(window.used).into());
    set("x-ratelimit-reset", window.reset.into());
    set("x-ratelimit-resource", HeaderValue::from_static("core"));
    response
}

/// Refuses what is too much in a short time, in the words of a secondary limit and without a time to come back.
async fn within_secondary(github: &GitHub, owner: &str, request: Request, next: Next) -> Response {
    let Some(limits) = &github.settings().secondary else { return play(github, request, next).await };
    let under_way = github.inner.under_way.fetch_add(1, Ordering::SeqCst);
    let fits = under_way < limits.at_once && {
        let (now, mut state) = (state::now(), github.inner.state());
        let points = if request.method().is_safe() { 1 } else { 5 };
        let path = request.uri().path();
        state.lately.take(owner.to_owned(), points, limits.points, 60, now)
            && (!path.ends_with("/generate-jitconfig")
                || state.lately.take(path.to_lowercase(), 1, limits.registrations, 300, now))
    };
    let response = if fits {
        play(github, request, next).await
    } else {
        github.inner.state().over_limit += 1;
        let message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
        refuse(StatusCode::FORBIDDEN, message).into_response()
    };
    github.inner.under_way.fetch_sub(1, Ordering::SeqCst);
    response
}

async fn play(github: &GitHub, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let operation = faults::operation(request.method(), &path);
    let response = github.faults().around(operation, request, next).await;
    in_githubs_words(&path, response)
}

/// An id or a query that cannot be read is refused before a handler sees it, and not in GitHub's shape.
fn in_githubs_words(path: &str, response: Response) -> Response {
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if response.status() != StatusCode::BAD_REQUEST || json {
        response
    } else if path.starts_with("/app/hook/") {
        refuse(StatusCode::BAD_REQUEST, "Bad Request").into_response()
    } else {
        refuse(StatusCode::NOT_FOUND, "Not Found").into_response()
    }
}

fn owner(github: &GitHub, headers: &HeaderMap) -> Option<String> {
    let token = auth::bearer(headers)?;
    github.inner.state().tokens.get(token).map(|token| token.owner.clone())
}
