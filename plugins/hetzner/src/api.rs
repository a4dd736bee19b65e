//! Hetzner's API, as far as servers go. Facts from its published description: paths, error codes, paging, limits.

use std::time::Duration;

use pacer_backend::{
    Error, ErrorKind,
    http::{Request, encode, kind_of},
    time,
};
use serde_json::Value;

use crate::{
    C,
    server::{OWNER, Server},
};

pub const ENDPOINT: &str = "hetzner";
/// The most that one page gives.
const PAGE: u32 = 50;
/// The longest that an empty limit is waited for. It says when it is full again, up to an hour; it fills by one request a
/// second, so that this is a minute's worth.
const LIMIT_WAIT: Duration = Duration::from_secs(60);

/// A refusal, and its code; without one it is none of Hetzner's.
pub struct Refused {
    pub error: Error,
    pub code: String,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, code: String::new() }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

fn kind(code: &str, status: u16) -> ErrorKind {
    match code {
        "resource_unavailable" | "placement_error" | "no_space_left_in_location" => ErrorKind::Capacity,
        "no_subnet_available" | "ip_not_available" => ErrorKind::Capacity,
        "resource_limit_exceeded" => ErrorKind::Quota,
        "rate_limit_exceeded" => ErrorKind::RateLimited,
        "unauthorized" | "forbidden" | "token_readonly" => ErrorKind::Unauthorized,
        "invalid_input" | "invalid_server_type" | "unsupported_error" | "json_error" => ErrorKind::InvalidConfig,
        "not_found" => ErrorKind::NotFound,
        "uniqueness_error" | "protected" => ErrorKind::Conflict,
        // Another action of the same server is under way, or they are at work on it: it passes.
        "locked" | "conflict" | "maintenance" | "service_error" | "server_error" | "timeout" | "unavailable" => {
            ErrorKind::Unavailable
        }
        _ => kind_of(status),
    }
}

pub struct Api<'a, 'c>(pub &'a C<'c>);

impl Api<'_, '_> {
    pub fn ask(&self, request: Request) -> Result<Value, Refused> {
        let response = request.send(self.0)?;
        if response.is_success() {
            return Ok(response.json()?);
        }
        let (status, mut code) = (response.status, String::new());
        let full_again = response.header("ratelimit-reset").and_then(|at| at.trim().parse::<u64>().ok());
        let error = response.into_error_by(|body| {
            code = body["error"]["code"].as_str().unwrap_or_default().to_owned();
            kind(&code, status)
        });
        let wait = full_again.map(|at| Duration::from_secs(at.saturating_sub(time::now() / 1000)).min(LIMIT_WAIT));
        match wait.filter(|_| error.kind == ErrorKind::RateLimited && error.retry_after_ms.is_none()) {
            Some(wait) => Err(Refused { error: error.retry_after(wait), code }),
            None => Err(Refused { error, code }),
        }
    }

    /// The same, where a server may be gone.
    pub fn ask_if_there(&self, request: Request) -> Result<Option<Value>, Error> {
        match self.ask(request) {
            Err(refused) if refused.code == "not_found" => Ok(None),
            answer => Ok(Some(answer?)),
        }
    }

    /// The server behind a handle, if it is one of pacer's.
    pub fn ours(&self, handle: &str) -> Result<Option<Server>, Error> {
        if handle.is_empty() || !handle.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(None);
        }
        let found = self.ask_if_there(Request::get(ENDPOINT, path(handle)))?;
        let server = found.map(|answer| Server::read(&answer["server"])).transpose()?;
        Ok(server.filter(|server| server.labels.contains_key(OWNER)))
    }

    /// Servers, and the number of the next page.
    pub fn find(&self, query: &str, cursor: Option<&str>) -> Result<(Vec<Server>, Option<String>), Error> {
        let page: u32 = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(1);
        let path = format!("/v1/servers?{query}&per_page={PAGE}&page={page}&sort=id:asc");
        let answer = self.ask(Request::get(ENDPOINT, path))?;
        let next = answer["meta"]["pagination"]["next_page"].as_u64().map(|page| page.to_string());
        Ok((list(&answer, "servers")?.iter().map(Server::read).collect::<Result<_, _>>()?, next))
    }

    /// A server type as it is described.
    pub fn server_type(&self, name: &str) -> Result<Option<Value>, Error> {
        let answer = self.ask(Request::get(ENDPOINT, format!("/v1/server_types?name={}", encode(name))))?;
        Ok(list(&answer, "server_types")?.iter().find(|kind| kind["name"] == name).cloned())
    }
}

pub fn path(handle: &str) -> String {
    format!("/v1/servers/{handle}")
}

fn list<'a>(answer: &'a Value, key: &str) -> Result<&'a Vec<Value>, Error> {
    answer[key].as_array().ok_or_else(|| not_the_api(key))
}

/// What is JSON and something else must not be taken for an empty answer.
pub fn not_the_api(what: &str) -> Error {
    Error::unavailable(format!("the answer of the endpoint `{ENDPOINT}` has no `{what}`; is it Hetzner's API?"))
}
