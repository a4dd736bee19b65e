//! Hetzner's API, as far as servers go. Facts from its published description: paths, error codes, paging.

use std::collections::BTreeMap;

use pacer_backend::{
    Destruction, Error, ErrorKind,
    http::{Request, Response, encode, kind_of},
};
use serde_json::{Value, json};

use crate::{
    C,
    labels::{self, OWNER},
    server::{One, Server, ServerType, Servers, Types},
};

pub const ENDPOINT: &str = "hetzner";
/// The most that one page gives.
const PAGE: u32 = 50;

/// The codes that decide something here.
pub mod code {
    pub const UNIQUENESS: &str = "uniqueness_error";
    pub const INVALID_INPUT: &str = "invalid_input";
    pub const UNAVAILABLE: &str = "resource_unavailable";
    pub const PLACEMENT: &str = "placement_error";
}

fn kind(code: &str, status: u16) -> ErrorKind {
    match code {
        code::UNAVAILABLE | code::PLACEMENT | "no_space_left_in_location" => ErrorKind::Capacity,
        "resource_limit_exceeded" => ErrorKind::Quota,
        "rate_limit_exceeded" => ErrorKind::RateLimited,
        "unauthorized" | "forbidden" | "token_readonly" => ErrorKind::Unauthorized,
        code::INVALID_INPUT | "json_error" | "unsupported_error" => ErrorKind::InvalidConfig,
        "not_found" => ErrorKind::NotFound,
        code::UNIQUENESS | "protected" => ErrorKind::Conflict,
        // Another action of the same server is under way: it passes.
        "locked" | "conflict" | "maintenance" | "service_error" | "server_error" | "timeout" | "unavailable" => {
            ErrorKind::Unavailable
        }
        _ => kind_of(status),
    }
}

/// A refusal, and its code.
pub fn fail(response: Response) -> (Error, String) {
    let status = response.status;
    let mut code = String::new();
    let error = response.into_error_by(|body| {
        code = body["error"]["code"].as_str().unwrap_or_default().to_owned();
        kind(&code, status)
    });
    (error, code)
}

fn success(response: Response) -> Result<Response, Error> {
    if response.is_success() { Ok(response) } else { Err(fail(response).0) }
}

fn server_path(handle: &str) -> Option<String> {
    (!handle.is_empty() && handle.bytes().all(|b| b.is_ascii_digit())).then(|| format!("/v1/servers/{handle}"))
}

pub struct Api<'a, 'c>(pub &'a C<'c>);

impl Api<'_, '_> {
    fn get(&self, path: impl Into<String>) -> Result<Response, Error> {
        Request::get(ENDPOINT, path).send(self.0)
    }

    pub fn create(&self, body: &Value) -> Result<Response, Error> {
        Request::post(ENDPOINT, "/v1/servers").json(body)?.send(self.0)
    }

    /// The server behind a handle, if it is one of pacer's.
    pub fn ours(&self, handle: &str) -> Result<Option<Server>, Error> {
        let Some(path) = server_path(handle) else { return Ok(None) };
        let response = self.get(path)?;
        if response.status == 404 {
            // A proxy's 404 is none of Hetzner's: it has no code.
            let (error, code) = fail(response);
            return if code == "not_found" { Ok(None) } else { Err(error) };
        }
        let server = success(response)?.json::<One>()?.server;
        Ok(Some(server).filter(|server| server.owner().is_some()))
    }

    pub fn by_name(&self, name: &str) -> Result<Option<Server>, Error> {
        let response = success(self.get(format!("/v1/servers?name={}", encode(name)))?)?;
        Ok(response.json::<Servers>()?.servers.into_iter().find(|server| server.name == name))
    }

    /// A page of an owner's servers, and the number of the next one.
    pub fn list(&self, owner: &str, cursor: Option<&str>) -> Result<(Vec<Server>, Option<String>), Error> {
        let page: u32 = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(1);
        let selector = encode(&format!("{OWNER}={owner}"));
        let path = format!("/v1/servers?label_selector={selector}&per_page={PAGE}&page={page}&sort=id:asc");
        let listed: Servers = success(self.get(path)?)?.json()?;
        let next = listed.meta.and_then(|meta| meta.pagination.next_page).map(|page| page.to_string());
        Ok((listed.servers, next))
    }

    pub fn shutdown(&self, handle: &str) -> Result<(), Error> {
        let path = format!("/v1/servers/{handle}/actions/shutdown");
        let response = Request::post(ENDPOINT, path).send(self.0)?;
        if response.status == 404 { Ok(()) } else { success(response).map(drop) }
    }

    pub fn delete(&self, handle: &str) -> Result<Destruction, Error> {
        let Some(path) = server_path(handle) else { return Ok(Destruction::Gone) };
        let response = Request::delete(ENDPOINT, path).send(self.0)?;
        if response.status == 404 {
            let (error, code) = fail(response);
            return if code == "not_found" { Ok(Destruction::Gone) } else { Err(error) };
        }
        // The deletion is an action that goes on after the answer.
        success(response).map(|_| Destruction::Stopping)
    }

    pub fn relabel(&self, handle: &str, all: &BTreeMap<String, String>) -> Result<(), Error> {
        let request = Request::put(ENDPOINT, format!("/v1/servers/{handle}")).json(&json!({ "labels": all }))?;
        success(request.send(self.0)?).map(drop)
    }

    pub fn server_type(&self, name: &str) -> Result<Option<ServerType>, Error> {
        let response = success(self.get(format!("/v1/server_types?name={}", encode(name)))?)?;
        Ok(response.json::<Types>()?.server_types.into_iter().find(|kind| kind.name == name))
    }
}

/// What a request says of the server's labels.
pub fn labels_of(
    owner: &str,
    lease_until_ms: u64,
    tags: &[(String, String)],
) -> Result<BTreeMap<String, String>, Error> {
    let mut all = BTreeMap::from([
        (OWNER.to_owned(), labels::encode_owner(owner)?),
        (labels::LEASE.to_owned(), lease_until_ms.to_string()),
    ]);
    // What is too long for a label stays away.
    let fits = tags.iter().filter(|(key, _)| labels::is_value(key));
    all.extend(fits.filter_map(|(key, value)| Some((format!("{}{key}", labels::TAG), labels::encode(value)?))));
    Ok(all)
}
