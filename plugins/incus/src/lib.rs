//! Runners as instances of Incus: containers, or virtual machines.
//!
//! What holds here:
//! * An instance's name is the runner's, unique in its project, which makes `create` idempotent.
//! * `user.pacer.*` in an instance's own configuration says whose it is. Instances without it are never touched.
//! * A just-in-time configuration goes into a file of the machine and nowhere else: what is in an instance's
//!   configuration can be read by everybody who may look at the project.
//! * Operations are waited for until they end or the call does; the engine's sentences decide nothing.

mod engine;
mod instance;
mod settings;
#[cfg(test)]
mod tests;

use engine::{BUSY, ENDPOINT, Incus, POLL};
use instance::{LEASE, Seen};
use pacer_backend::{
    Backend, Billing, Bootstrap, Call, Description, Destruction, EndpointRequest, Error, ErrorKind, Finding, Instance,
    Page, RunnerRequest, bootstrap::user_data, paging, settings::refuse, text,
};
use serde_json::json;
use settings::{Kind, Pool, Settings, USER_DATA};

/// Instances in one page of a listing.
const PAGE: usize = 500;

/// The backend.
pub struct IncusBackend;
pacer_backend::export!(IncusBackend);
type C<'a> = Call<'a, Settings>;

impl Backend for IncusBackend {
    type Settings = Settings;
    type Pool = Pool;

    fn describe() -> Description {
        Description {
            name: "incus".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "runners in containers or virtual machines of Incus".into(),
            settings_schema: settings::backend_schema(),
            pool_schema: settings::pool_schema(),
            endpoints: vec![EndpointRequest {
                name: ENDPOINT.into(),
                purpose: "the Incus server that runs the instances".into(),
                required: true,
                example: "unix:///var/lib/incus/unix.socket".into(),
            }],
            capabilities: ["renew-lease", "console-log", "suspend"].map(String::from).into(),
            bootstraps: ["jit-config", "start-script", "cloud-init"].map(String::from).into(),
            billing: Billing { granularity_seconds: 0, minimum_seconds: 0 },
            attributes: vec![],
        }
    }

    fn validate(settings: &Settings, pool: Option<&Pool>) -> Vec<Finding> {
        settings.findings().into_iter().chain(pool.iter().flat_map(|pool| pool.findings())).collect()
    }

    fn create(call: &C<'_>, request: RunnerRequest<Pool>) -> Result<Instance, Error> {
        refuse(&request.pool.findings())?;
        if request.pool.kind == Kind::VirtualMachine {
            // It takes no files before its start.
            user_data(&request.bootstrap)?;
        }
        create(&Incus(call), &request)
    }

    fn get(call: &C<'_>, handle: &str) -> Result<Option<Instance>, Error> {
        let incus = Incus(call);
        let Some(seen) = incus.ours(handle)? else { return Ok(None) };
        let addresses = if seen.is_up() { incus.addresses(handle) } else { vec![] };
        Ok(Some(Instance { addresses, ..seen.into_instance() }))
    }

    fn list(call: &C<'_>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        let mine = Incus(call).list(owner)?.into_iter().filter(|seen| seen.owner() == owner);
        Ok(paging::by_name(mine.map(Seen::into_instance).collect(), cursor, PAGE))
    }

    fn destroy(call: &C<'_>, handle: &str, grace_ms: u64) -> Result<Destruction, Error> {
        let incus = Incus(call);
        let Some(seen) = incus.ours(handle)? else { return Ok(Destruction::Gone) };
        if seen.is_up() && !incus.stop(&seen, grace_ms)? {
            return Ok(Destruction::Stopping);
        }
        incus.remove(handle)
    }

    fn renew_lease(call: &C<'_>, handle: &str, until_ms: u64) -> Result<(), Error> {
        let incus = Incus(call);
        incus.ours(handle)?.ok_or_else(|| absent(handle))?;
        incus.configure(handle, &json!({ LEASE: until_ms.to_string() }))
    }

    fn console_log(call: &C<'_>, handle: &str, max_bytes: u32) -> Result<String, Error> {
        let stream = Incus(call).console(handle)?;
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        text::tail(stream, max)
            .map_err(|e| Error::unavailable(format!("reading the console of `{handle}` from incus: {e}")))
    }

    fn suspend(call: &C<'_>, handle: &str) -> Result<(), Error> {
        settle(&Incus(call), handle, "freeze", true).map(drop)
    }

    fn resume(call: &C<'_>, handle: &str) -> Result<Instance, Error> {
        settle(&Incus(call), handle, "unfreeze", false).map(Seen::into_instance)
    }
}

fn absent(name: &str) -> Error {
    Error::not_found(format!("the instance `{name}` does not exist"))
}

/// Makes the instance, or takes the one that has the name if it is the owner's own, and sees that it starts.
fn create(incus: &Incus<'_, '_>, request: &RunnerRequest<Pool>) -> Result<Instance, Error> {
    let name = &request.name;
    let refused = incus.make(request).err();
    let found = if refused.is_some() { incus.find_settled(name)? } else { incus.find(name)? };
    let seen = match (found, refused) {
        (None, Some(refused)) => return Err(incus.explain(&request.pool, refused)),
        (None, None) => return Err(vanished(name)),
        (Some(seen), _) if seen.owner() != request.owner => {
            return Err(Error::conflict(format!(
                "incus has an instance `{name}` of somebody else; remove it with `incus delete --force {name}`"
            )));
        }
        (Some(seen), None) => {
            match bring_up(incus, request, false) {
                Ok(true) => seen,
                // The next call takes it up.
                Ok(false) => {
                    return Err(Error::unavailable(format!("`{name}` is still starting; raise `timeouts.create`")));
                }
                // So does it where only the answer was lost: the instance runs then, perhaps with a job.
                Err(error) if error.kind == ErrorKind::Unavailable => return Err(error),
                Err(error) => {
                    incus.discard(&seen);
                    return Err(error);
                }
            }
        }
        (Some(seen), Some(_)) => adopt(incus, request, seen)?,
    };
    Ok(incus.find(&seen.name)?.ok_or_else(|| vanished(name))?.into_instance())
}

/// What an earlier call left, or another one is making. One that never ran gets this registration and is started; one
/// that ran is what it is.
fn adopt(incus: &Incus<'_, '_>, request: &RunnerRequest<Pool>, mut seen: Seen) -> Result<Seen, Error> {
    let until = incus.0.remaining().saturating_sub(BUSY);
    while seen.is_new() {
        let started = bring_up(incus, request, true);
        seen = incus.find(&request.name)?.ok_or_else(|| vanished(&request.name))?;
        match started {
            // Nothing tells an instance that is being made from one that cannot start.
            Err(error) if seen.is_new() && incus.0.remaining() <= until.max(POLL) => return Err(error),
            Err(_) if seen.is_new() => std::thread::sleep(POLL),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(seen)
}

/// Hands the bootstrap over where creation could not, and starts the instance: whether it has started.
fn bring_up(incus: &Incus<'_, '_>, request: &RunnerRequest<Pool>, again: bool) -> Result<bool, Error> {
    match &request.bootstrap {
        Bootstrap::JitConfig(jit) => incus.push(&request.name, &request.pool.jit_file, settings::variable(jit))?,
        boots @ (Bootstrap::StartScript(_) | Bootstrap::CloudInit(_)) if again => {
            incus.configure(&request.name, &json!({ USER_DATA: user_data(boots)? }))?;
        }
        Bootstrap::StartScript(_) | Bootstrap::CloudInit(_) => {}
    }
    incus.act(&request.name, &json!({ "action": "start" }))
}

fn vanished(name: &str) -> Error {
    Error::unavailable(format!("the instance `{name}` was removed while it was being created"))
}

/// The instance after a freeze or the end of one. A refusal is none when it is already as it should be: the call may
/// be a repetition.
fn settle(incus: &Incus<'_, '_>, handle: &str, action: &str, frozen: bool) -> Result<Seen, Error> {
    let seen = incus.ours(handle)?.ok_or_else(|| absent(handle))?;
    if seen.is_up() && seen.is_frozen() == frozen {
        return Ok(seen);
    }
    let acted = incus.act(handle, &json!({ "action": action }));
    match incus.ours(handle)? {
        Some(seen) if seen.is_up() && seen.is_frozen() == frozen => Ok(seen),
        Some(_) => Err(acted.err().unwrap_or_else(|| Error::unavailable(format!("`{handle}` is changing; try again")))),
        None => Err(absent(handle)),
    }
}
