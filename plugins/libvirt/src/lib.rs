//! Runners as virtual machines of libvirt, over its own remote protocol.
//!
//! What holds here:
//! * A machine is a transient domain: libvirt forgets it when it ends. Its name is the runner's, which makes `create`
//!   idempotent, and its metadata says whose it is and how long its lease lasts.
//! * Its volumes (disk, seed, console log) carry owner and runner in their names. What a machine left behind is listed as
//!   `stopped` and removed by `destroy`.
//! * The bootstrap goes into the seed and nowhere else: no document, name, error or log.
//! * Whatever goes into a document is escaped.
//!
//! Not here: networks and base images, which the operator makes; SASL; machines on several hosts behind one endpoint.

mod api;
mod bootstrap;
mod create;
mod fault;
mod machine;
mod names;
mod record;
mod room;
mod rpc;
mod seed;
mod settings;
mod template;
#[cfg(test)]
mod tests;
mod xdr;

use std::time::Duration;

use api::Libvirt;
use fault::Fault;
use names::Place;
use pacer_backend::{
    Backend, Billing, Call, Description, Destruction, EndpointRequest, Error, Finding, Instance, Page, RunnerRequest,
};
use settings::{Pool, Settings};

/// The name of the endpoint.
const ENDPOINT: &str = "libvirt";

/// The backend.
pub struct Machines;
pacer_backend::export!(Machines);
type C<'a> = Call<'a, Settings>;

impl Backend for Machines {
    type Settings = Settings;
    type Pool = Pool;

    fn describe() -> Description {
        Description {
            name: "libvirt".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "runners in virtual machines of libvirt".into(),
            settings_schema: settings::backend_schema().to_string(),
            pool_schema: settings::pool_schema().to_string(),
            endpoints: vec![EndpointRequest {
                name: ENDPOINT.into(),
                purpose: "the libvirt daemon that runs the machines".into(),
                required: true,
                example: "unix:///var/run/libvirt/libvirt-sock".into(),
            }],
            capabilities: ["renew-lease", "console-log", "suspend"].map(String::from).into(),
            bootstraps: ["cloud-init", "start-script"].map(String::from).into(),
            billing: Billing { granularity_seconds: 0, minimum_seconds: 0 },
            attributes: vec![],
        }
    }

    fn validate(settings: &Settings, pool: Option<&Pool>) -> Vec<Finding> {
        let mut findings = settings.findings();
        findings.extend(pool.map(Pool::findings).unwrap_or_default());
        findings
    }

    fn create(call: &C<'_>, request: RunnerRequest<Pool>) -> Result<Instance, Error> {
        request.pool.check()?;
        with(call, |libvirt| create::create(call, libvirt, &request))
    }

    fn get(call: &C<'_>, handle: &str) -> Result<Option<Instance>, Error> {
        let Some(place) = Place::of_handle(handle) else { return Ok(None) };
        with(call, |libvirt| machine::get(libvirt, &place))
    }

    fn list(call: &C<'_>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        with(call, |libvirt| machine::list(libvirt, owner, cursor))
    }

    fn destroy(call: &C<'_>, handle: &str, grace_ms: u64) -> Result<Destruction, Error> {
        let Some(place) = Place::of_handle(handle) else { return Ok(Destruction::Gone) };
        with(call, |libvirt| machine::destroy(call, libvirt, &place, Duration::from_millis(grace_ms)))
    }

    fn renew_lease(call: &C<'_>, handle: &str, until_ms: u64) -> Result<(), Error> {
        let place = known(handle)?;
        with(call, |libvirt| machine::renew(libvirt, &place, until_ms))
    }

    fn console_log(call: &C<'_>, handle: &str, max_bytes: u32) -> Result<String, Error> {
        let place = known(handle)?;
        with(call, |libvirt| machine::console(libvirt, &place, max_bytes))
    }

    fn suspend(call: &C<'_>, handle: &str) -> Result<(), Error> {
        let place = known(handle)?;
        with(call, |libvirt| machine::pause(libvirt, &place, true).map(drop))
    }

    fn resume(call: &C<'_>, handle: &str) -> Result<Instance, Error> {
        let place = known(handle)?;
        let seen = with(call, |libvirt| machine::pause(libvirt, &place, false))?;
        seen.into_instance().ok_or_else(|| Error::not_found(format!("there is no machine `{handle}`")))
    }
}

fn known(handle: &str) -> Result<Place, Error> {
    Place::of_handle(handle).ok_or_else(|| Error::not_found(format!("there is no machine `{handle}`")))
}

/// A connection for one operation.
fn with<T>(call: &C<'_>, act: impl FnOnce(&mut Libvirt) -> Result<T, Fault>) -> Result<T, Error> {
    let mut libvirt = Libvirt::open(call.connect(ENDPOINT)?, &call.settings.uri)?;
    let done = act(&mut libvirt);
    if !matches!(done, Err(Fault::Lost(_))) {
        libvirt.close();
    }
    Ok(done?)
}
