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

use api::{Api, ENDPOINT, code};
use labels::LEASE;
use pacer_backend::{
    Backend, Billing, Bootstrap, Call, Description, Destruction, EndpointRequest, Error, ErrorKind, Finding, Instance,
    Page, Price, RunnerRequest, settings::refuse, text,
};
use server::Server;
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
        let (Bootstrap::StartScript(data) | Bootstrap::CloudInit(data)) = &request.bootstrap else {
            return Err(Error::unsupported("servers take the bootstraps `cloud-init` and `start-script` only"));
        };
        if data.len() > USER_DATA_MAX {
            return Err(Error::invalid_request(format!(
                "the bootstrap has {} bytes and Hetzner takes {USER_DATA_MAX}; have it download what is large",
                data.len()
            )));
        }
        let server = create(&Api(call), &request, data).map_err(|error| text::without(data, error))?;
        Ok(server.into_instance(&call.settings))
    }

    fn get(call: &C<'_>, handle: &str) -> Result<Option<Instance>, Error> {
        Ok(Api(call).ours(handle)?.map(|server| server.into_instance(&call.settings)))
    }

    fn list(call: &C<'_>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        let (servers, next) = Api(call).list(&labels::encode_owner(owner)?, cursor)?;
        let mine = servers.into_iter().map(|server| server.into_instance(&call.settings));
        Ok(Page { instances: mine.filter(|one| one.owner == owner).collect(), next })
    }

    fn destroy(call: &C<'_>, handle: &str, grace_ms: u64) -> Result<Destruction, Error> {
        let api = Api(call);
        let Some(server) = api.ours(handle)? else { return Ok(Destruction::Gone) };
        if server.is_being_deleted() || (server.is_up() && !shut_down(&api, handle, grace_ms)?) {
            return Ok(Destruction::Stopping);
        }
        api.delete(handle)
    }

    fn renew_lease(call: &C<'_>, handle: &str, until_ms: u64) -> Result<(), Error> {
        let api = Api(call);
        let absent = || Error::not_found(format!("the server `{handle}` does not exist"));
        let mut labels = api.ours(handle)?.ok_or_else(absent)?.labels;
        labels.insert(LEASE.into(), until_ms.to_string());
        api.relabel(handle, &labels)
    }

    fn quote(call: &C<'_>, pool: Pool) -> Result<Option<Price>, Error> {
        refuse(&pool.findings())?;
        let Some(first) = pool.server_types.first() else { return Ok(None) };
        let kind = Api(call).server_type(first)?;
        Ok(kind.and_then(|kind| kind.highest_price(&pool.locations, &call.settings)))
    }
}

/// Asks for the server where there is room for it: each type in each location, in their order.
fn create(api: &Api<'_, '_>, request: &RunnerRequest<Pool>, data: &str) -> Result<Server, Error> {
    let mut refused = Error::capacity("no server type was asked for");
    for (kind, location) in request.pool.places() {
        let body = request.pool.body(request, data, kind, location)?;
        let response = api.create(&body)?;
        if response.is_success() {
            return Ok(response.json::<server::Made>()?.server);
        }
        let (error, code) = api::fail(response);
        let place = location.map_or_else(|| format!("`{kind}`"), |location| format!("`{kind}` in `{location}`"));
        match code.as_str() {
            code::UNIQUENESS => return adopt(api, request, error),
            // The same answer is given for settings that are wrong and for a type that a location does not have, so
            // the next place decides; that there was no room anywhere is worth more than that one was impossible.
            code::INVALID_INPUT if refused.kind == ErrorKind::Capacity && refused.attributes.is_empty() => {
                refused = Error { message: format!("{place}: {}", error.message), ..error };
            }
            code::INVALID_INPUT => {}
            code::UNAVAILABLE | code::PLACEMENT => {
                refused = Error::capacity(format!("{place}: {}", error.message));
            }
            _ => return Err(error),
        }
    }
    Err(refused)
}

/// What an earlier call made, or another one is making.
fn adopt(api: &Api<'_, '_>, request: &RunnerRequest<Pool>, refused: Error) -> Result<Server, Error> {
    match api.by_name(&request.name)? {
        Some(server) if server.owner() == Some(request.owner.as_str()) => Ok(server),
        Some(_) => Err(Error::conflict(format!(
            "the project has a server `{0}` of somebody else; delete it, or give this pacer a project of its own",
            request.name
        ))),
        // It was deleted between the two questions, or a name is still held: the next try decides.
        None => Err(Error::unavailable(refused.message)),
    }
}

/// Asks a server to shut down and waits for it, as far as the grace and the call reach: whether it is off.
fn shut_down(api: &Api<'_, '_>, handle: &str, grace_ms: u64) -> Result<bool, Error> {
    let grace = Duration::from_millis(grace_ms).min(api.0.remaining().saturating_sub(DELETION));
    if grace.is_zero() {
        return Ok(true);
    }
    let until = Instant::now() + grace;
    api.shutdown(handle)?;
    let mut wait = FIRST_POLL;
    loop {
        match api.ours(handle)? {
            Some(server) if server.is_up() => {}
            Some(_) | None => return Ok(true),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // It had its grace; a deletion ends it.
            return Ok(true);
        }
        std::thread::sleep(wait.min(left));
        wait = (wait * 2).min(LONGEST_POLL);
    }
}
