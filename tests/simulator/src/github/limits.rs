//! The primary rate limit, and the manners that GitHub asks of every call.
//!
//! Without [`Settings::hourly_limit`](super::Settings::hourly_limit) there are no limits and no headers of them, as on
//! an Enterprise Server. Secondary limits are [faults](crate::faults::Fault::SecondaryLimit).

use std::collections::HashMap;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;

use super::{GitHub, auth, payload, rest::refuse, state};
use crate::faults;

/// Versions of the API that are in use.
const VERSIONS: [&str; 2] = ["2022-11-28", "2026-03-10"];
/// The primary limit counts by the hour.
const WINDOW_S: i64 = 3600;

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

/// Around every call of the API: manners, the limit, and then the faults that were asked for.
pub async fn around(State(github): State<GitHub>, request: Request, next: Next) -> Response {
    if !request.headers().contains_key(header::USER_AGENT) {
        let message =
            "Request forbidden by administrative rules. Please make sure your request has a User-Agent header.";
        return (StatusCode::FORBIDDEN, message).into_response();
    }
    if let Some(version) = request.headers().get("x-github-api-version")
        && !VERSIONS.iter().any(|known| version == known)
    {
        let message = format!("{version:?} is not a supported version of the API");
        return refuse(StatusCode::BAD_REQUEST, message).into_response();
    }
    let counts = request.uri().path() != "/rate_limit";
    let limit = github.settings().hourly_limit.filter(|_| counts).zip(owner(&github, request.headers()));
    let Some((limit, owner)) = limit else { return play(&github, request, next).await };
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
        play(&github, request, next).await
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
