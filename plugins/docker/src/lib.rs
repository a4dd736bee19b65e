//! Runners as containers of a Docker engine (API 1.40 and later) or of Podman's compatible API.
//!
//! A container's name is the runner's, which makes `create` idempotent; labels say whose it is. The bootstrap goes
//! into the environment and nowhere else. Labels cannot change, so a lease is fixed at creation.

mod settings;

use std::{io::Read, time::Duration};

use pacer_backend::{
    Backend, Billing, Bootstrap, Call, Description, Destruction, EndpointRequest, Error, ErrorKind, Finding, Instance,
    InstanceState, Page, RunnerRequest,
    http::{Request, Response, encode, kind_of},
    paging,
};
use serde_json::{Value, json};
use settings::{Pool, Pull, Settings};

/// Containers in one page of a listing.
const PAGE: usize = 500;
/// The API spoken; every engine since 19.03 and Podman's compatible API answer it.
const API: &str = "/v1.40";
/// What is read of a pull's progress and of a log.
const STREAM_MAX: usize = 8 * 1024 * 1024;
/// Kept for the removal that follows a stop.
const REMOVAL: Duration = Duration::from_secs(5);

struct Docker;
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
            settings_schema: json!({ "type": "object", "additionalProperties": false }).to_string(),
            pool_schema: settings::schema().to_string(),
            endpoints: vec![EndpointRequest {
                name: "engine".into(),
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
        let mut labels = request.pool.labels.clone();
        labels.extend(request.tags.iter().map(|(k, v)| (format!("pacer.{k}"), v.clone())));
        labels.insert("pacer.owner".into(), request.owner.clone());
        labels.insert("pacer.runner".into(), request.name.clone());
        labels.insert("pacer.lease-until".into(), request.lease_until_ms.to_string());
        let body = request.pool.body(jit, &labels)?;
        if request.pool.pull == Pull::Always && inspect(call, &request.name)?.is_none() {
            pull(call, &request.pool)?;
        }
        let mut response = post_create(call, &request, &body)?;
        if response.status == 404 && request.pool.pull == Pull::Missing {
            pull(call, &request.pool)?;
            response = post_create(call, &request, &body)?;
        }
        let fresh = response.is_success();
        let id = if fresh {
            let made: Value = response.json()?;
            made["Id"].as_str().unwrap_or(&request.name).to_owned()
        } else if response.status == 409 {
            // The name is taken: by an earlier try of ours, or by somebody else.
            let Some(held) = inspect(call, &request.name)? else {
                return Err(response.into_error(ErrorKind::Conflict));
            };
            if held.owner != request.owner {
                return Err(Error::conflict(format!("the container `{}` belongs to another owner", request.name)));
            }
            if !matches!(held.state, InstanceState::Creating) {
                return Ok(held);
            }
            held.handle
        } else {
            return Err(fail(response));
        };
        let started = Request::post("engine", container(&id) + "/start").send(call)?;
        if started.status != 304 && !started.is_success() {
            let error = fail(started);
            if fresh {
                // Not the answer to give if this fails too: the sweep finds it by its labels.
                let _ = remove(call, &id);
            }
            return Err(error);
        }
        inspect(call, &id)?.ok_or_else(|| Error::not_found(format!("the container `{}` vanished", request.name)))
    }

    fn get(call: &C<'_>, handle: &str) -> Result<Option<Instance>, Error> {
        inspect(call, handle)
    }

    fn list(call: &C<'_>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        let filters = json!({ "label": [format!("pacer.owner={owner}")] }).to_string();
        let path = format!("{API}/containers/json?all=1&filters={}", encode(&filters));
        let listed: Vec<Value> = Request::get("engine", path).send(call)?.success()?.json()?;
        let all = listed.iter().map(from_list).filter(|i| i.owner == owner).collect();
        Ok(paging::by_name(all, cursor, PAGE))
    }

    fn destroy(call: &C<'_>, handle: &str, grace_ms: u64) -> Result<Destruction, Error> {
        // The engine kills when `t` is over, so `t` never exceeds what is left; a longer grace continues next call.
        let room = call.remaining().saturating_sub(REMOVAL).as_secs();
        let grace = grace_ms.div_ceil(1000);
        if grace > room {
            let signalled = Request::post("engine", container(handle) + "/kill?signal=SIGTERM").send(call)?;
            return match signalled.status {
                404 => Ok(Destruction::Gone),
                // Not running: nothing to wait for.
                409 => remove(call, handle),
                _ => signalled.success().map(|_| Destruction::Stopping),
            };
        }
        let stopped = Request::post("engine", format!("{}/stop?t={grace}", container(handle))).send(call)?;
        match stopped.status {
            404 => Ok(Destruction::Gone),
            _ if stopped.is_success() || stopped.status == 304 => remove(call, handle),
            _ => Err(fail(stopped)),
        }
    }

    fn console_log(call: &C<'_>, handle: &str, max_bytes: u32) -> Result<String, Error> {
        let path = container(handle) + "/logs?stdout=1&stderr=1&tail=2000";
        let raw = Request::get("engine", path).send(call)?.success()?.bytes(STREAM_MAX)?;
        let text = demultiplex(&raw);
        let start = text.len().saturating_sub(max_bytes as usize);
        Ok(String::from_utf8_lossy(&text[start..]).trim_start_matches('\u{FFFD}').to_owned())
    }

    fn suspend(call: &C<'_>, handle: &str) -> Result<(), Error> {
        Request::post("engine", container(handle) + "/pause").send(call)?.success().map(drop)
    }

    fn resume(call: &C<'_>, handle: &str) -> Result<Instance, Error> {
        Request::post("engine", container(handle) + "/unpause").send(call)?.success()?;
        inspect(call, handle)?.ok_or_else(|| Error::not_found("the container is gone"))
    }
}

fn container(id: &str) -> String {
    format!("{API}/containers/{}", encode(id))
}

fn post_create(call: &C<'_>, request: &RunnerRequest<Pool>, body: &Value) -> Result<Response, Error> {
    let mut path = format!("{API}/containers/create?name={}", encode(&request.name));
    if let Some(platform) = &request.pool.platform {
        path.push_str(&format!("&platform={}", encode(platform)));
    }
    Request::post("engine", path).json(body)?.send(call)
}

/// A 400 of the engine judges what the pool's settings became.
fn fail(response: Response) -> Error {
    let kind = if response.status == 400 { ErrorKind::InvalidConfig } else { kind_of(response.status) };
    response.into_error(kind)
}

/// Pulls and reads the progress to its end: the engine reports a failed pull inside a 200.
fn pull(call: &C<'_>, pool: &Pool) -> Result<(), Error> {
    let path = format!("{API}/images/create?fromImage={}", encode(&settings::tagged(&pool.image)));
    let mut text = String::new();
    let stream = Request::post("engine", path).send(call)?.success()?.into_reader();
    let read = stream.take(STREAM_MAX as u64).read_to_string(&mut text);
    read.map_err(|e| Error::unavailable(format!("pulling `{}` broke off: {e}", pool.image)))?;
    for line in text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
        if let Some(said) = line["error"].as_str() {
            let status = line["errorDetail"]["code"].as_u64().and_then(|c| u16::try_from(c).ok());
            return Err(Error::new(
                status.map_or(ErrorKind::Unavailable, kind_of),
                format!("pulling `{}`: {said}", pool.image),
            ));
        }
    }
    Ok(())
}

fn remove(call: &C<'_>, id: &str) -> Result<Destruction, Error> {
    let response = Request::delete("engine", container(id) + "?force=1&v=1").send(call)?;
    match response.status {
        404 => Ok(Destruction::Gone),
        // Its removal is in progress.
        409 => Ok(Destruction::Stopping),
        _ => response.success().map(|_| Destruction::Gone),
    }
}

fn inspect(call: &C<'_>, id: &str) -> Result<Option<Instance>, Error> {
    let response = Request::get("engine", container(id) + "/json").send(call)?;
    if response.status == 404 {
        return Ok(None);
    }
    let it: Value = response.success()?.json()?;
    let mut found = labelled(&it["Config"]["Labels"]);
    found.handle = it["Id"].as_str().unwrap_or(id).to_owned();
    let code = it["State"]["ExitCode"].as_i64().unwrap_or(0);
    let oom = it["State"]["OOMKilled"].as_bool().unwrap_or(false);
    found.state = state(it["State"]["Status"].as_str().unwrap_or_default(), code, oom);
    Ok(Some(found))
}

fn from_list(it: &Value) -> Instance {
    let mut found = labelled(&it["Labels"]);
    found.handle = it["Id"].as_str().unwrap_or_default().to_owned();
    found.created_at_ms = it["Created"].as_u64().map(|s| s.saturating_mul(1000));
    // A listing has no exit code; `get` tells failed from stopped.
    found.state = state(it["State"].as_str().unwrap_or_default(), 0, false);
    found
}

fn labelled(labels: &Value) -> Instance {
    let text = |key: &str| labels[key].as_str().unwrap_or_default().to_owned();
    Instance {
        handle: String::new(),
        name: text("pacer.runner"),
        owner: text("pacer.owner"),
        state: InstanceState::Creating,
        addresses: vec![],
        created_at_ms: None,
        lease_until_ms: text("pacer.lease-until").parse().ok(),
        hold: labels.get("pacer.hold").is_some_and(|v| v != "false"),
        price: None,
        attributes: vec![],
    }
}

fn state(word: &str, code: i64, oom: bool) -> InstanceState {
    match word {
        "created" | "configured" | "initialized" => InstanceState::Creating,
        "running" | "paused" | "restarting" => InstanceState::Running,
        "removing" | "stopping" => InstanceState::Stopping,
        "exited" | "stopped" if code == 0 && !oom => InstanceState::Stopped,
        "exited" | "stopped" if oom => InstanceState::Failed(format!("exit code {code}, OOM killed")),
        "exited" | "stopped" => InstanceState::Failed(format!("exit code {code}")),
        other => InstanceState::Failed(format!("the engine says `{other}`")),
    }
}

/// Joins the frames of an engine's log: one byte of stream, three of zero, four of length. A terminal has no frames.
fn demultiplex(mut raw: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    while let [stream @ 0..=2, 0, 0, 0, a, b, c, d, rest @ ..] = raw {
        let _ = stream;
        let length = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).min(rest.len());
        text.extend_from_slice(&rest[..length]);
        raw = &rest[length..];
    }
    text.extend_from_slice(raw);
    text
}
