//! A backend for trying things out: it drives the simulator's small cloud, and misbehaves when its pool asks it to.
//!
//! It is also the example to read: one HTTP endpoint, JSON in and out, error kinds from the endpoint's own codes.

use std::{collections::BTreeMap, thread, time::Duration};

use pacer_backend::{
    Backend, Billing, Bootstrap, Call, Description, Destruction, EndpointRequest, Error, ErrorKind, Finding, Instance,
    InstanceState, Page, Price, RunnerRequest,
    http::{Request, Response, encode},
};
use serde::Deserialize;
use serde_json::json;

/// Machines in one page of a listing.
const PAGE: u32 = 500;

/// The backend.
pub struct Simulated;
pacer_backend::export!(Simulated);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    boot_ms: Option<u64>,
    size: Option<String>,
    slow_ms: u64,
    fail: Option<String>,
}

#[derive(Deserialize)]
struct Machine {
    id: String,
    name: String,
    owner: String,
    state: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    created_at_ms: Option<u64>,
    #[serde(default)]
    lease_until_ms: Option<u64>,
    #[serde(default)]
    hold: bool,
    #[serde(default)]
    price_micros_per_hour: Option<u64>,
    #[serde(default)]
    currency: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Listing {
    machines: Vec<Machine>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Quote {
    micros_per_hour: u64,
    currency: String,
}

impl Backend for Simulated {
    type Settings = Settings;
    type Pool = Pool;

    fn describe() -> Description {
        let pool = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": false,
            "properties": {
                "boot_ms": { "type": "integer", "minimum": 0, "description": "How long a machine boots; default: the cloud's own." },
                "size": { "type": "string", "description": "A size of machine; stored as a tag, changes nothing." },
                "slow_ms": { "type": "integer", "minimum": 0, "default": 0, "description": "Waits this long before each create." },
                "fail": { "enum": KINDS.map(|(word, _)| word), "description": "Every create fails with this kind of error." },
            },
        });
        Description {
            name: "simulated".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "machines of the simulator's small cloud, for trying things out".into(),
            settings_schema: json!({ "type": "object", "additionalProperties": false }).to_string(),
            pool_schema: pool.to_string(),
            endpoints: vec![EndpointRequest {
                name: "cloud".into(),
                purpose: "the simulator's small cloud".into(),
                required: true,
                example: "http://127.0.0.1:9000".into(),
            }],
            capabilities: ["renew-lease", "console-log", "suspend", "quote"].map(String::from).into(),
            bootstraps: ["jit-config", "start-script", "cloud-init"].map(String::from).into(),
            billing: Billing { granularity_seconds: 1, minimum_seconds: 60 },
            attributes: vec![],
        }
    }

    fn validate(_settings: &Settings, pool: Option<&Pool>) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(word) = pool.and_then(|p| p.fail.as_deref()) {
            findings.push(match kind(word) {
                Some(_) => Finding::warning("/pool/fail", "every create of this pool will fail"),
                None => Finding::error("/pool/fail", format!("`{word}` is no kind of error")),
            });
        }
        findings
    }

    fn create(call: &Call<'_, Settings>, request: RunnerRequest<Pool>) -> Result<Instance, Error> {
        thread::sleep(Duration::from_millis(request.pool.slow_ms).min(call.remaining()));
        if let Some(word) = &request.pool.fail {
            let kind = kind(word).unwrap_or(ErrorKind::InvalidConfig);
            return Err(Error::new(kind, format!("the pool's setting `fail: {word}` asked for this")));
        }
        let (key, start) = match &request.bootstrap {
            Bootstrap::JitConfig(jit_config) => ("jit_config", jit_config),
            // Kept as it is; only scripts are run.
            Bootstrap::StartScript(script) | Bootstrap::CloudInit(script) => ("start_script", script),
        };
        let mut tags: serde_json::Map<_, _> = request.tags.into_iter().map(|(k, v)| (k, v.into())).collect();
        if let Some(size) = request.pool.size {
            tags.insert("size".into(), size.into());
        }
        let mut body = json!({
            "owner": request.owner, key: start, "labels": request.labels,
            "lease_until_ms": request.lease_until_ms, "tags": tags,
        });
        if let Some(boot) = request.pool.boot_ms {
            body["boot_ms"] = boot.into();
        }
        let path = format!("/v1/machines/{}", encode(&request.name));
        let machine: Machine = success(Request::put("cloud", path).json(&body)?.send(call)?)?.json()?;
        if machine.owner != request.owner {
            return Err(Error::conflict(format!("the machine `{}` belongs to another owner", request.name)));
        }
        Ok(instance(machine))
    }

    fn get(call: &Call<'_, Settings>, handle: &str) -> Result<Option<Instance>, Error> {
        let response = Request::get("cloud", machine(handle)).send(call)?;
        if response.status == 404 {
            return Ok(None);
        }
        Ok(Some(instance(success(response)?.json()?)))
    }

    fn list(call: &Call<'_, Settings>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        let mut path = format!("/v1/machines?owner={}&limit={PAGE}", encode(owner));
        if let Some(cursor) = cursor {
            path.push_str(&format!("&cursor={}", encode(cursor)));
        }
        let listing: Listing = success(Request::get("cloud", path).send(call)?)?.json()?;
        let mine = listing.machines.into_iter().filter(|m| m.owner == owner);
        Ok(Page { instances: mine.map(instance).collect(), next: listing.next })
    }

    fn destroy(call: &Call<'_, Settings>, handle: &str, grace_ms: u64) -> Result<Destruction, Error> {
        let path = format!("{}?grace_ms={grace_ms}", machine(handle));
        let response = Request::delete("cloud", path).send(call)?;
        match response.status {
            204 | 404 => Ok(Destruction::Gone),
            _ => success(response).map(|_| Destruction::Stopping),
        }
    }

    fn renew_lease(call: &Call<'_, Settings>, handle: &str, until_ms: u64) -> Result<(), Error> {
        let request = Request::put("cloud", machine(handle) + "/lease").json(&json!({ "lease_until_ms": until_ms }))?;
        success(request.send(call)?).map(drop)
    }

    fn console_log(call: &Call<'_, Settings>, handle: &str, max_bytes: u32) -> Result<String, Error> {
        let response = success(Request::get("cloud", machine(handle) + "/console").send(call)?)?;
        let bytes = response.bytes(pacer_backend::http::JSON_MAX)?;
        let start = bytes.len().saturating_sub(max_bytes as usize);
        // Skips the rest of a character that the cut went through.
        let start = (start..bytes.len()).find(|&i| bytes[i] & 0xC0 != 0x80).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[start..]).into_owned();
        Ok(text)
    }

    fn suspend(call: &Call<'_, Settings>, handle: &str) -> Result<(), Error> {
        success(Request::post("cloud", machine(handle) + "/suspend").send(call)?).map(drop)
    }

    fn resume(call: &Call<'_, Settings>, handle: &str) -> Result<Instance, Error> {
        success(Request::post("cloud", machine(handle) + "/resume").send(call)?)?;
        Self::get(call, handle)?.ok_or_else(|| Error::not_found(format!("the machine `{handle}` is gone")))
    }

    fn quote(call: &Call<'_, Settings>, _pool: Pool) -> Result<Option<Price>, Error> {
        let quote: Quote = success(Request::get("cloud", "/v1/quote").send(call)?)?.json()?;
        Ok(Some(Price { micros_per_hour: quote.micros_per_hour, currency: quote.currency }))
    }
}

fn machine(handle: &str) -> String {
    format!("/v1/machines/{}", encode(handle))
}

/// The cloud's words for what went wrong.
const KINDS: [(&str, ErrorKind); 9] = [
    ("capacity", ErrorKind::Capacity),
    ("quota", ErrorKind::Quota),
    ("rate_limited", ErrorKind::RateLimited),
    ("unauthorized", ErrorKind::Unauthorized),
    ("invalid", ErrorKind::InvalidRequest),
    ("conflict", ErrorKind::Conflict),
    ("not_found", ErrorKind::NotFound),
    ("unavailable", ErrorKind::Unavailable),
    ("interrupted", ErrorKind::Interrupted),
];

fn kind(word: &str) -> Option<ErrorKind> {
    KINDS.iter().find(|(w, _)| *w == word).map(|(_, k)| *k)
}

/// Passes 2xx on. The code in the body says more than the status, which is the fallback.
fn success(response: Response) -> Result<Response, Error> {
    if response.is_success() {
        return Ok(response);
    }
    let fallback = pacer_backend::http::kind_of(response.status);
    Err(response.into_error_by(|body| body["code"].as_str().and_then(kind).unwrap_or(fallback)))
}

fn instance(machine: Machine) -> Instance {
    let reason = machine.reason.unwrap_or_else(|| "no reason given".into());
    let state = match machine.state.as_str() {
        "creating" => InstanceState::Creating,
        "running" => InstanceState::Running,
        "stopping" => InstanceState::Stopping,
        "stopped" => InstanceState::Stopped,
        "interrupted" => InstanceState::Interrupted(reason),
        "failed" => InstanceState::Failed(reason),
        other => InstanceState::Failed(format!("the cloud answered with the unknown state `{other}`")),
    };
    let price = machine.price_micros_per_hour.zip(machine.currency);
    Instance {
        handle: machine.id,
        name: machine.name,
        owner: machine.owner,
        state,
        addresses: vec![],
        created_at_ms: machine.created_at_ms,
        lease_until_ms: machine.lease_until_ms,
        hold: machine.hold,
        price: price.map(|(micros_per_hour, currency)| Price { micros_per_hour, currency }),
        attributes: machine.tags.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
