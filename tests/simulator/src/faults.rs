//! Faults on demand, by operation: the next so many calls, or a share of them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{body::Body, extract::Request, http::StatusCode, middleware::Next, response::Response};
use serde::Deserialize;

use crate::dice::Dice;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fault {
    /// This status, without the call having had an effect.
    Status { status: u16 },
    /// 429 with `retry-after`.
    RateLimited { retry_after: u64 },
    /// 403 with the words of a secondary limit; GitHub does not always say when to come back.
    SecondaryLimit { retry_after: Option<u64> },
    /// The call has its effect after this many milliseconds.
    Slow { ms: u64 },
    /// The call has its effect at once, and its answer comes after this many milliseconds.
    Late { ms: u64 },
    /// The call has its effect, and its answer is cut off.
    LostAnswer,
    /// The call has its effect, and its answer is of no use.
    Garbage,
}

/// When it goes wrong.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Rule {
    /// `jit`, `runners`, `delete`, `token`, `connect` (a runner outside of this process), `create`, … see [`operation`]; `*` for all.
    pub operation: String,
    #[serde(flatten)]
    pub fault: Fault,
    /// How many calls; without it as long as it stands.
    pub count: Option<u32>,
    /// Of the calls, from 0 to 1; without it all.
    pub probability: Option<f64>,
}

#[derive(Debug)]
pub struct Faults {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    rules: Vec<Rule>,
    dice: Dice,
    calls: HashMap<&'static str, u64>,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        Self { inner: Mutex::new(Inner { rules: Vec::new(), dice: Dice::new(seed), calls: HashMap::new() }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule; the first that fits a call decides.
    pub fn add(&self, rule: Rule) {
        self.inner().rules.push(rule);
    }

    /// The next `count` calls of an operation go wrong.
    pub fn next(&self, operation: &str, count: u32, fault: Fault) {
        self.add(Rule { operation: operation.to_owned(), fault, count: Some(count), probability: None });
    }

    /// A share of the calls of an operation goes wrong from now on.
    pub fn share(&self, operation: &str, probability: f64, fault: Fault) {
        self.add(Rule { operation: operation.to_owned(), fault, count: None, probability: Some(probability) });
    }

    pub fn clear(&self) {
        self.inner().rules.clear();
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> u64 {
        self.inner().calls.get(operation).copied().unwrap_or(0)
    }

    fn draw(&self, operation: &'static str) -> Option<Fault> {
        let inner = &mut *self.inner();
        *inner.calls.entry(operation).or_default() += 1;
        let mut drawn = None;
        for rule in &mut inner.rules {
            let fits = rule.operation == "*" || rule.operation == operation;
            if fits && rule.count != Some(0) && rule.probability.is_none_or(|share| inner.dice.chance(share)) {
                rule.count = rule.count.map(|left| left - 1);
                drawn = Some(rule.fault.clone());
                break;
            }
        }
        inner.rules.retain(|rule| rule.count != Some(0));
        drawn
    }

    /// Serves a call, or has it go wrong.
    pub async fn around(&self, operation: &'static str, request: Request, next: Next) -> Response {
        let fault = self.draw(operation);
        let refuse = |status: u16, retry_after: Option<u64>, message: &str| {
            let mut response = Response::builder().status(status).header("content-type", "application/json");
            if let Some(seconds) = retry_after {
                response = response.header("retry-after", seconds);
            }
            let body = serde_json::json!({ "message": message, "code": code(status), "documentation_url": "https://docs.github.com/rest" });
            response.body(Body::from(body.to_string())).unwrap_or_default()
        };
        match fault {
            None => next.run(request).await,
            Some(Fault::Status { status }) => refuse(status, None, "a fault that was asked for"),
            Some(Fault::RateLimited { retry_after }) => refuse(429, Some(retry_after), "API rate limit exceeded"),
            Some(Fault::SecondaryLimit { retry_after }) => {
                refuse(403, retry_after, "You have exceeded a secondary rate limit. Please wait a few minutes.")
            }
            Some(Fault::Slow { ms }) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                next.run(request).await
            }
            Some(Fault::Late { ms }) => {
                let response = next.run(request).await;
                tokio::time::sleep(Duration::from_millis(ms)).await;
                response
            }
            Some(Fault::LostAnswer) => {
                let (mut parts, _) = next.run(request).await.into_parts();
                // An answer that has no body by its status would arrive whole.
                if parts.status == StatusCode::NO_CONTENT {
                    parts.status = StatusCode::OK;
                }
                let cut =
                    futures::stream::iter([Ok(bytes::Bytes::from_static(b"{")), Err(std::io::Error::other("cut off"))]);
                Response::from_parts(parts, Body::from_stream(cut))
            }
            Some(Fault::Garbage) => {
                next.run(request).await;
                Response::builder().status(200).body(Body::from("<html>not what you asked for")).unwrap_or_default()
            }
        }
    }
}

/// The cloud's word for a status.
fn code(status: u16) -> &'static str {
    match status {
        401 | 403 => "unauthorized",
        404 => "not_found",
        409 => "conflict",
        422 => "invalid",
        429 => "rate_limited",
        507 => "capacity",
        _ => "unavailable",
    }
}

/// What a call to the fake GitHub is called in rules.
pub fn operation(method: &http::Method, path: &str) -> &'static str {
    let post = method == http::Method::POST;
    if path.ends_with("/generate-jitconfig") {
        "jit"
    } else if path.ends_with("/access_tokens") {
        "token"
    } else if path.ends_with("/installation") {
        "installation"
    } else if path.starts_with("/app/hook/deliveries/") {
        if post { "redeliver" } else { "delivery" }
    } else if path == "/app/hook/deliveries" {
        "deliveries"
    } else if path == "/installation/repositories" {
        "repositories"
    } else if path.ends_with("/actions/runs") {
        "runs"
    } else if path.contains("/actions/runs/") || path.contains("/actions/jobs/") {
        "jobs"
    } else if path.contains("/actions/runners/") && method == http::Method::DELETE {
        "delete"
    } else if path.contains("/actions/runners") {
        "runners"
    } else {
        "other"
    }
}
