//! Runners as containers of a Docker engine (API 1.40 and later) or of Podman's compatible API.
//!
//! What holds here:
//! * A container's name is the runner's, which makes `create` idempotent: the engine gives a name once.
//! * Labels say whose a container is. The engine cannot change them, so a lease is fixed at creation.
//! * The bootstrap goes into the container's environment and nowhere else: no command line, label, error or log.
//! * `get` and `list` say the same of a container.
//!
//! Not here: credentials of image registries, and attaching to a running container.

mod container;
mod engine;
mod output;
mod settings;
#[cfg(test)]
mod tests;

use std::time::Duration;

use container::{LEASE, OWNER, PREFIX, RUNNER, STOP, Seen};
use engine::{ENDPOINT, Engine, PAGE, fail};
use pacer_backend::{
    Backend, Billing, Bootstrap, Call, Description, Destruction, EndpointRequest, Error, ErrorKind, Finding, Instance,
    Page, RunnerRequest, http::Response,
};
use serde_json::Value;
use settings::{Pool, Pull, Settings};

/// Lines of a log that are asked for; the bytes are cut here.
const LOG_LINES: u32 = 10_000;
/// How long a name may be held by a container that cannot be inspected yet. The engine reserves the name first and
/// makes the container's layers next, which takes a busy disk seconds.
const NAME_HELD: Duration = Duration::from_secs(10);
/// Between two looks at such a name.
const NAME_POLL: Duration = Duration::from_millis(50);

/// The backend.
pub struct Docker;
pacer_backend::export!(Docker);
type C<'a> = Call<'a, Settings>;

impl Backend for Docker {
    type Settings = Settings;
    type Pool = Pool;

    fn describe() -> Description {
        Description {
            name: "docker".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "runners in containers of a Docker or Podman engine".into(),
            settings_schema: settings::backend_schema().to_string(),
            pool_schema: settings::pool_schema().to_string(),
            endpoints: vec![EndpointRequest {
                name: ENDPOINT.into(),
                purpose: "the Docker engine that runs the containers".into(),
                required: true,
                example: "unix:///var/run/docker.sock".into(),
            }],
            capabilities: ["console-log", "suspend"].map(String::from).into(),
            bootstraps: vec!["jit-config".into()],
            billing: Billing { granularity_seconds: 0, minimum_seconds: 0 },
            attributes: vec![],
        }
    }

    fn validate(_settings: &Settings, pool: Option<&Pool>) -> Vec<Finding> {
        pool.map(Pool::findings).unwrap_or_default()
    }

    fn create(call: &C<'_>, request: RunnerRequest<Pool>) -> Result<Instance, Error> {
        let Bootstrap::JitConfig(jit) = &request.bootstrap else {
            return Err(Error::unsupported("containers take the bootstrap `jit-config` only"));
        };
        let body = request.pool.body(jit, labels(&request))?;
        create(&Engine(call), &request, jit, &body)
    }

    fn get(call: &C<'_>, handle: &str) -> Result<Option<Instance>, Error> {
        if !is_id(handle) {
            return Ok(None);
        }
        Ok(Engine(call).inspect(handle)?.map(Seen::into_instance))
    }

    fn list(call: &C<'_>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        Engine(call).list(owner, cursor, PAGE)
    }

    fn destroy(call: &C<'_>, handle: &str, grace_ms: u64) -> Result<Destruction, Error> {
        if !is_id(handle) {
            return Ok(Destruction::Gone);
        }
        Engine(call).destroy(handle, grace_ms)
    }

    fn console_log(call: &C<'_>, handle: &str, max_bytes: u32) -> Result<String, Error> {
        let stream = Engine(call).logs(handle, LOG_LINES)?;
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        output::tail(stream, max).map_err(|e| Error::unavailable(format!("reading the log of `{handle}`: {e}")))
    }

    fn suspend(call: &C<'_>, handle: &str) -> Result<(), Error> {
        let engine = Engine(call);
        let answer = engine.act(handle, "pause")?;
        settle(&engine, handle, answer, true).map(drop)
    }

    fn resume(call: &C<'_>, handle: &str) -> Result<Instance, Error> {
        let engine = Engine(call);
        let answer = engine.act(handle, "unpause")?;
        settle(&engine, handle, answer, false).map(Seen::into_instance)
    }
}

/// What is stored with the container: the tags, and over them what pacer finds it by.
fn labels(request: &RunnerRequest<Pool>) -> settings::Map {
    let mut labels = request.pool.labels.clone();
    labels.extend(request.tags.iter().map(|(key, value)| (format!("{PREFIX}{key}"), value.clone())));
    labels.insert(OWNER.into(), request.owner.clone());
    labels.insert(RUNNER.into(), request.name.clone());
    labels.insert(LEASE.into(), request.lease_until_ms.to_string());
    if let Some(seconds) = request.pool.stop_timeout {
        labels.insert(STOP.into(), seconds.to_string());
    }
    labels
}

fn create(engine: &Engine<'_, '_>, request: &RunnerRequest<Pool>, jit: &str, body: &Value) -> Result<Instance, Error> {
    let pool = &request.pool;
    if pool.pull == Pull::Always && engine.inspect(&request.name)?.is_none() {
        engine.pull(pool)?;
    }
    let mut response = engine.create(&request.name, pool, body)?;
    if response.status == 404 {
        response = supply(engine, request, body, response)?;
    }
    if !response.is_success() {
        if let Some(held) = adopt(engine, request, jit, response)? {
            return Ok(held);
        }
        response = engine.create(&request.name, pool, body)?;
        if !response.is_success() {
            return Err(fail(response));
        }
    }
    let made: Value = response.json()?;
    let id =
        made["Id"].as_str().ok_or_else(|| Error::unavailable("the engine made a container and did not name it"))?;
    if let Err(error) = start(engine, id, pool) {
        // Where only the answer was lost it runs, perhaps with a job: the next call takes it up.
        if error.kind != ErrorKind::Unavailable {
            // If this fails too, the sweep finds it by its labels; why it did not start is the answer to give.
            let _ = engine.remove(id);
        }
        return Err(error);
    }
    engine.inspect(id)?.map(Seen::into_instance).ok_or_else(|| vanished(&request.name))
}

/// After a 404: pulls the image if it is what is missing, and asks again. A network, a volume driver or a runtime
/// that is missing answers the same.
fn supply(
    engine: &Engine<'_, '_>,
    request: &RunnerRequest<Pool>,
    body: &Value,
    refused: Response,
) -> Result<Response, Error> {
    let pool = &request.pool;
    // An image that is there for another platform is as good as missing, where it may be pulled for this one.
    if (pool.platform.is_none() || pool.pull == Pull::Never) && engine.has_image(&pool.image)? {
        return Ok(refused);
    }
    match pool.pull {
        Pull::Missing => {
            engine.pull(pool)?;
            engine.create(&request.name, pool, body)
        }
        Pull::Never => Err(Error::not_found(format!(
            "the engine has no image `{}`, and `pull` is `never`; pull it there or set `pull: missing`",
            pool.image
        ))),
        // It was pulled a moment ago and somebody removed it.
        Pull::Always => Ok(refused),
    }
}

/// After a refusal: the container that already has the name, if it is the owner's own. An earlier try may have ended
/// before the start, so one that never ran is started. It is removed instead, and nothing returned, when it has the
/// bootstrap of another registration: the name was registered anew meanwhile, and the old one is worth nothing.
fn adopt(
    engine: &Engine<'_, '_>,
    request: &RunnerRequest<Pool>,
    jit: &str,
    refused: Response,
) -> Result<Option<Instance>, Error> {
    let name = &request.name;
    let taken = refused.status == 409;
    let until = engine.0.remaining().saturating_sub(NAME_HELD);
    let held = loop {
        match engine.inspect(name)? {
            Some(held) => break held,
            None if !taken => return Err(fail(refused)),
            None if engine.0.remaining() <= until.max(NAME_POLL) => {
                return Err(Error::unavailable(format!("the name `{name}` is held by a container that is not there")));
            }
            None => std::thread::sleep(NAME_POLL),
        }
    };
    if held.owner() != request.owner {
        return Err(Error::conflict(format!(
            "the engine has a container `{name}` of somebody else; remove it with `docker rm -f {name}`"
        )));
    }
    if !held.is_new() {
        return Ok(Some(held.into_instance()));
    }
    if !held.has_variable(&settings::bootstrap(jit)) {
        engine.remove(&held.id)?;
        return Ok(None);
    }
    start(engine, &held.id, &request.pool)?;
    engine.inspect(&held.id)?.map(Seen::into_instance).map(Some).ok_or_else(|| vanished(name))
}

/// Starts it, unless the engine left out the isolation that was asked for.
fn start(engine: &Engine<'_, '_>, id: &str, pool: &Pool) -> Result<(), Error> {
    if let Some(runtime) = &pool.runtime {
        // Podman's compatible API takes the field and ignores it.
        let seen = engine.inspect(id)?.ok_or_else(|| vanished(id))?;
        if seen.runtime() != runtime {
            return Err(Error::invalid_config(format!(
                "the engine ignores `runtime: {runtime}` and would use `{}`; configure the runtime in the engine itself",
                seen.runtime()
            )));
        }
    }
    let started = engine.act(id, "start")?;
    if started.status == 304 || started.is_success() {
        return Ok(());
    }
    if started.status == 404 && engine.inspect(id)?.is_none() {
        return Err(vanished(id));
    }
    Err(fail(started))
}

/// Whether a container could have this id or name. What could not leads the engine elsewhere, however it is encoded.
fn is_id(handle: &str) -> bool {
    handle.starts_with(|c: char| c.is_ascii_alphanumeric())
        && handle.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn vanished(name: &str) -> Error {
    Error::unavailable(format!("the container `{name}` was removed while it was being created"))
}

/// The container after a (un)pause. A refusal is none when it is already as it should be: the call may be a repetition.
fn settle(engine: &Engine<'_, '_>, handle: &str, answer: Response, paused: bool) -> Result<Seen, Error> {
    match engine.inspect(handle)? {
        Some(seen) if seen.is_up() && seen.is_paused() == paused => Ok(seen),
        Some(_) if !answer.is_success() => Err(fail(answer)),
        Some(_) => Err(Error::unavailable(format!("the container `{handle}` is changing; try again"))),
        None => Err(Error::not_found(format!("the container `{handle}` does not exist"))),
    }
}
