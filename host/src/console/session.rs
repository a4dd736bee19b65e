//! The door: the check before every closed route, and the form that opens a session.

use std::net::IpAddr;

use axum::{
    Form,
    extract::{Query, Request, State as Extract},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;

use super::{
    State, auth,
    error::{ApiError, PageError},
    pages,
};
use crate::{config::Auth, store::AuditEntry};

/// Lets a request of somebody known through, with the [`auth::Actor`] in its extensions.
pub async fn require(Extract(state): Extract<State>, mut request: Request, next: Next) -> Response {
    let config = state.config.load_full();
    let path = request.uri().path();
    let program = path.starts_with("/api/") || path == "/metrics" || auth::bearer(request.headers()).is_some();
    let address = auth::client_address(&config, request.extensions(), request.headers());
    let who = auth::authenticate(&config, &state.throttle, &state.ended, request.headers(), address, state.clock.now());
    match who {
        Ok(Some(actor)) => {
            if request.method() != Method::GET
                && request.method() != Method::HEAD
                && !auth::from_here(&config, request.headers())
            {
                return foreign().into_response();
            }
            request.extensions_mut().insert(actor);
            let mut response = next.run(request).await;
            response.extensions_mut().insert(actor);
            response
        }
        Ok(None) if program => ApiError::unauthorized().into_response(),
        Ok(None) => {
            // Only what was looked at is gone back to: a form would have to be sent again.
            let asked = request.uri().path_and_query().filter(|_| request.method() == Method::GET);
            let asked = asked.map_or("/jobs", |path| path.as_str());
            let next =
                percent_encoding::utf8_percent_encode(auth::safe_next(asked), percent_encoding::NON_ALPHANUMERIC);
            Redirect::to(&format!("/signin?next={next}")).into_response()
        }
        Err(error) if program => error.into_response(),
        Err(error) => PageError(error).into_response(),
    }
}

#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub struct SignIn {
    #[serde(default)]
    token: String,
    #[serde(default)]
    next: String,
}

pub async fn form(Extract(state): Extract<State>, Query(asked): Query<Asked>) -> Response {
    if matches!(state.config.load().auth, Auth::Disabled) {
        return Redirect::to("/jobs").into_response();
    }
    pages::sign_in::page(auth::safe_next(&asked.next), None).into_response()
}

pub async fn sign_in(
    Extract(state): Extract<State>,
    extensions: Extensions,
    headers: HeaderMap,
    Form(form): Form<SignIn>,
) -> Response {
    let config = state.config.load_full();
    let next = auth::safe_next(&form.next);
    let Auth::Token(token) = &config.auth else { return Redirect::to(next).into_response() };
    if !auth::from_here(&config, &headers) {
        return foreign().into_response();
    }
    let address = auth::client_address(&config, &extensions, &headers);
    let now = state.clock.now();
    match auth::try_token(token, &state.throttle, form.token.trim(), address, now) {
        Ok(true) => {
            tracing::info!(client.address = %address, "somebody signed in from {address}");
            audit(&state, auth::Actor::Token.as_str(), "audit.session.opened", address).await;
            with_cookie(Redirect::to(next), &auth::open_session(&config, token, now))
        }
        Ok(false) => {
            audit(&state, "unknown", "audit.session.refused", address).await;
            let page = pages::sign_in::page(next, Some("This is not the token."));
            (StatusCode::UNAUTHORIZED, page).into_response()
        }
        Err(error) => {
            let wait = error.retry_after.unwrap_or(1).to_string();
            let page = pages::sign_in::page(next, Some(&format!("Too many wrong tokens. Try again in {wait} s.")));
            (error.status, [(header::RETRY_AFTER, wait)], page).into_response()
        }
    }
}

/// Kept for whoever looks at who came and went. A database that cannot be written must not keep people from looking.
async fn audit(state: &State, actor: &str, action: &str, address: IpAddr) {
    let (actor, action, subject) = (actor.to_owned(), action.to_owned(), address.to_string());
    let entry = AuditEntry { at: state.clock.now(), actor, action, subject, detail: None };
    if let Err(error) = state.within(state.audit.record(entry)).await {
        tracing::warn!(client.address = %address, ?error, "a sign-in could not be audited");
    }
}

pub async fn sign_out(Extract(state): Extract<State>, headers: HeaderMap) -> Response {
    let cookie = auth::close_session(&state.config.load(), &state.ended, &headers, state.clock.now());
    with_cookie(Redirect::to("/signin"), &cookie)
}

fn foreign() -> PageError {
    PageError(ApiError::new(
        StatusCode::FORBIDDEN,
        "foreign_origin",
        "this form was sent from another site; open pacer under `server.public_url` and try again",
    ))
}

fn with_cookie(redirect: Redirect, cookie: &str) -> Response {
    let mut response = redirect.into_response();
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}
