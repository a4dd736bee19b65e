//! Runners as servers of Hetzner Cloud (API v1).
//!
//! What holds here:
//! * A server's name is the runner's, unique in its project, which makes `create` idempotent.
//! * Labels say whose a server is. A server without this owner's label is never touched.
//! * The bootstrap goes into a server's user data and nowhere else.
//! * The token is the host's: no request here carries one.
//!
//! Not here: volumes, floating addresses, rescue systems, and the console, which the API does not give as text.

mod api;
mod labels;
mod server;
mod settings;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use api::{Api, ENDPOINT, path};
use pacer_backend::{
    Backend, Billing, Call, Description, Destruction, EndpointRequest, Error, ErrorKind, Finding, Instance, Page,
    Price, RunnerRequest, bootstrap,
    http::{Request, encode},
    settings::refuse,
};
use serde_json::json;
use server::{LEASE, OWNER, Server};
use settings::{Pool, Settings};

/// What Hetzner takes of user data.
const USER_DATA_MAX: usize = 32 * 1024;
/// Between the first two looks at a server that was asked to shut down; then twice as long, up to [`LONGEST_POLL`].
const FIRST_POLL: Duration = Duration::from_secs(1);
/// A project has 3,600 requests an hour, so waiting for one server must not take more than a few a minute.
const LONGEST_POLL: Duration = Duration::from_secs(10);
/// Kept for the deletion that follows the grace.
const DELETION: Duration = Duration::from_secs(6);

/// The backend.
pub struct Hetzner;
pacer_backend::export!(Hetzner);
type C<'a> = Call<'a, Settings>;

impl Backend for Hetzner {
    type Settings = Settings;
    type Pool = Pool;

    fn describe() -> Description {
        Description {
            name: "hetzner".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "runners on servers of Hetzner Cloud".into(),
            settings_schema: settings::backend_schema(),
            pool_schema: settings::pool_schema(),
            endpoints: vec![EndpointRequest {
                name: ENDPOINT.into(),
                purpose: "Hetzner Cloud's API, with a read-write token of one project as `bearer` credential".into(),
                required: true,
                example: "https://api.hetzner.cloud".into(),
            }],
            capabilities: ["renew-lease", "quote"].map(String::from).into(),
            bootstraps: ["cloud-init", "start-script"].map(String::from).into(),
            billing: Billing { granularity_seconds: 3600, minimum_seconds: 3600 },
            attributes: vec![],
        }
    }

    fn validate(_settings: &Settings, pool: Option<&Pool>) -> Vec<Finding> {
        pool.map(Pool::findings).unwrap_or_default()
    }

    fn create(call: &C<'_>, request: RunnerRequest<Pool>) -> Result<Instance, Error> {
        refuse(&request.pool.findings())?;
        check_owner(&request.owner)?;
        let data = bootstrap::user_data_within(USER_DATA_MAX, &request.bootstrap)?;
        Ok(create(&Api(call), &request, &data)?.into_instance(&call.settings))
    }

    fn get(call: &C<'_>, handle: &str) -> Result<Option<Instance>, Error> {
        Ok(Api(call).ours(handle)?.map(|server| server.into_instance(&call.settings)))
    }

    fn list(call: &C<'_>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        check_owner(owner)?;
        let selector = encode(&format!("{OWNER}={owner}"));
        let (servers, next) = Api(call).find(&format!("label_selector={selector}"), cursor)?;
        let mine = servers.into_iter().map(|server| server.into_instance(&call.settings));
        Ok(Page { instances: mine.filter(|one| one.owner == owner).collect(), next })
    }

    fn destroy(call: &C<'_>, handle: &str, grace_ms: u64) -> Result<Destruction, Error> {
        let api = Api(call);
        let Some(server) = api.ours(handle)? else { return Ok(Destruction::Gone) };
        if server.is_being_deleted() {
            return Ok(Destruction::Stopping);
        }
        if server.is_up() {
            shut_down(&api, handle, grace_ms)?;
        }
        // The deletion is an action that goes on after the answer.
        let deleted = api.ask_if_there(Request::delete(ENDPOINT, path(handle)))?;
        Ok(deleted.map_or(Destruction::Gone, |_| Destruction::Stopping))
    }

    fn renew_lease(call: &C<'_>, handle: &str, until_ms: u64) -> Result<(), Error> {
        let api = Api(call);
        let absent = || Error::not_found(format!("Hetzner has no server `{handle}`"));
        let mut labels = api.ours(handle)?.ok_or_else(absent)?.labels;
        labels.insert(LEASE.into(), until_ms.to_string());
        let request = Request::put(ENDPOINT, path(handle)).json(&json!({ "labels": labels }))?;
        api.ask_if_there(request)?.map(drop).ok_or_else(absent)
    }

    fn quote(call: &C<'_>, pool: Pool) -> Result<Option<Price>, Error> {
        refuse(&pool.findings())?;
        let Some(first) = pool.server_types.first() else { return Ok(None) };
        let fits = |location: &str| pool.locations.is_empty() || pool.locations.iter().any(|one| one == location);
        Ok(Api(call).server_type(first)?.and_then(|kind| server::price(&kind, &call.settings, fits)))
    }
}

/// Another owner has another label, so what does not fit is refused, never bent.
fn check_owner(owner: &str) -> Result<(), Error> {
    if labels::is_value(owner) {
        return Ok(());
    }
    Err(Error::invalid_config(format!(
        "`server.owner` is `{owner}`, which is no label of Hetzner's; use at most 63 letters, digits, `.`, `_` and `-`"
    )))
}

/// Asks for the server where there is room for it: each type in each location, in their order.
fn create(api: &Api<'_, '_>, request: &RunnerRequest<Pool>, data: &str) -> Result<Server, Error> {
    let (mut full, mut impossible) = (None, None);
    for (kind, location) in request.pool.places() {
        let body = request.pool.body(request, data, kind, location);
        let refused = match api.ask(Request::post(ENDPOINT, "/v1/servers").json(&body)?) {
            Ok(answer) => return Server::read(&answer["server"]),
            Err(refused) => refused,
        };
        if refused.code == "uniqueness_error" {
            return adopt(api, request, refused.error);
        }
        let place = location.map_or_else(|| format!("`{kind}`"), |location| format!("`{kind}` in `{location}`"));
        let error = Error { message: format!("{place}: {}", refused.error.message), ..refused.error };
        if error.kind == ErrorKind::Capacity {
            full = Some(error);
        } else if error.kind == ErrorKind::InvalidConfig {
            // The same answer is given for settings that are wrong and for a type that a location does not have: the next
            // place decides.
            impossible = impossible.or(Some(error));
        } else {
            return Err(error);
        }
    }
    // Room comes back; what is impossible stays so.
    Err(full.or(impossible).unwrap_or_else(|| Error::invalid_config("`server_types` is empty")))
}

/// What an earlier call made, or another one is making.
fn adopt(api: &Api<'_, '_>, request: &RunnerRequest<Pool>, refused: Error) -> Result<Server, Error> {
    let (found, _) = api.find(&format!("name={}", encode(&request.name)), None)?;
    match found.into_iter().find(|server| server.name == request.name) {
        Some(server) if server.labels.get(OWNER) == Some(&request.owner) => Ok(server),
        Some(_) => Err(Error::conflict(format!(
            "the project of the endpoint `{ENDPOINT}` has a server `{}` of somebody else; delete it, or give this pacer a project of its own",
            request.name
        ))),
        // It was deleted between the two questions, or a name is still held: the next try decides.
        None => Err(Error::unavailable(refused.message)),
    }
}

/// Asks a server to shut down and waits for it, as far as the grace and the call reach.
fn shut_down(api: &Api<'_, '_>, handle: &str, grace_ms: u64) -> Result<(), Error> {
    let grace = Duration::from_millis(grace_ms).min(api.0.remaining().saturating_sub(DELETION));
    let until = Instant::now() + grace;
    if grace.is_zero() || api.ask_if_there(Request::post(ENDPOINT, path(handle) + "/actions/shutdown"))?.is_none() {
        return Ok(());
    }
    let mut wait = FIRST_POLL;
    while api.ours(handle)?.is_some_and(|server| server.is_up()) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // It had its grace; a deletion ends it.
            break;
        }
        std::thread::sleep(wait.min(left));
        wait = (wait * 2).min(LONGEST_POLL);
    }
    Ok(())
}
