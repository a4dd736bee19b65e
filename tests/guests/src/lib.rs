//! A backend that does whatever a backend should not, for the tests of the wall.
//!
//! Its plain operations keep machines in the cache. Everything else is asked for by words: the handle of
//! `console-log` is a behaviour and its arguments, the pool's setting `behaviour` is one of `create`, and some owners
//! make `list` misbehave. What happens in `describe`, which is told nothing, is written into the component by the
//! tests, over `ON_DESCRIBE`.
#![cfg(target_family = "wasm")]

mod behaviour;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    hint::black_box,
    io::{self, Write as _},
    thread,
    time::Duration,
};

use pacer_backend::{
    Backend, Billing, Bootstrap, Call, Description, Destruction, EndpointRequest, Error, Finding, Instance,
    InstanceState, Page, RunnerRequest, log,
};
use serde::Deserialize;
use serde_json::json;

/// Tests put another text of the same length in its place.
static ON_DESCRIBE: &str = "on-describe:answer";

struct Guest;
pacer_backend::export!(Guest);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    doubtful: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Pool {
    behaviour: Option<String>,
    size: Option<u32>,
}

impl Backend for Guest {
    type Settings = Settings;
    type Pool = Pool;

    fn describe() -> Description {
        let asked = black_box(ON_DESCRIBE);
        if asked == "on-describe:panics" {
            panic!("it does not feel like introducing itself");
        }
        let settings = json!({
            "type": "object", "additionalProperties": false, "properties": { "doubtful": { "type": "string" } },
        });
        let pool = json!({
            "type": "object", "additionalProperties": false,
            "properties": { "behaviour": { "type": "string" }, "size": { "type": "integer", "minimum": 1 } },
        });
        if asked == "on-describe:steers" {
            return Description { summary: "\u{1b}[2J".into(), ..described(settings.to_string(), &pool) };
        }
        if asked == "on-describe:varied" {
            let summary = format!("never the same: {}", RandomState::new().hash_one(1));
            return Description { summary, ..described(settings.to_string(), &pool) };
        }
        let schema = if asked == "on-describe:schema" { "{ nonsense".to_owned() } else { settings.to_string() };
        described(schema, &pool)
    }

    fn validate(settings: &Settings, pool: Option<&Pool>) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(doubtful) = &settings.doubtful {
            // As many as it takes to hide another among them.
            let times = if doubtful == "very" { 200 } else { 1 };
            findings.extend((0..times).map(|_| Finding::warning("/settings/doubtful", "nobody needs this")));
        }
        if pool.and_then(|pool| pool.size).is_some_and(|size| size > 100) {
            findings.push(Finding::error("/pool/size", "more than 100 is too much"));
        }
        if pool.and_then(|pool| pool.size).is_some_and(|size| size == 13) {
            findings.push(Finding::error("size", "13 brings bad luck"));
        }
        findings
    }

    fn create(call: &Call<'_, Settings>, request: RunnerRequest<Pool>) -> Result<Instance, Error> {
        let secret = match &request.bootstrap {
            Bootstrap::JitConfig(secret) | Bootstrap::StartScript(secret) | Bootstrap::CloudInit(secret) => secret,
        };
        let mut instance = instance(&request.name, &request.owner);
        match request.pool.behaviour.as_deref() {
            None => {}
            Some("slow") => thread::sleep(Duration::from_secs(60)),
            Some("long-handle") => instance.handle = "h".repeat(1_025),
            Some("other-name") => instance.name.push_str("-other"),
            Some("leak") => {
                log!(Info, "the configuration is {secret}"; "field" => secret);
                let _ = writeln!(io::stdout(), "it is {secret}");
                let (first, second) = secret.split_at(secret.len() / 2);
                eprint!("written in two: {first}");
                eprintln!("{second}");
                return Err(Error::internal(format!("could not use {secret}")));
            }
            Some("leak-and-panic") => {
                eprintln!("{}{secret}", "x".repeat(8_000));
                panic!("could not use {secret}");
            }
            Some("leak-as-state") => instance.state = InstanceState::Failed(format!("could not use {secret}")),
            Some("leak-as-handle") => instance.handle.clone_from(secret),
            Some(other) => return Err(Error::invalid_config(format!("no behaviour `{other}`"))),
        }
        // The same machine for the same name, and how often it was asked for.
        let key = format!("machine/{}/{}", request.owner, request.name);
        let times = call.cache.get(&key).and_then(|value| value.first().copied()).unwrap_or(0) + 1;
        call.cache.set(&key, &[times]);
        instance.attributes.push(("times".into(), times.to_string()));
        Ok(instance)
    }

    fn get(call: &Call<'_, Settings>, handle: &str) -> Result<Option<Instance>, Error> {
        let known = call.cache.get(&format!("machine/{handle}")).is_some();
        Ok(handle.split_once('/').filter(|_| known).map(|(owner, name)| instance(name, owner)))
    }

    fn list(_: &Call<'_, Settings>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        let at: u32 = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let one = |owner: &str| vec![instance(&format!("machine-{at}"), owner)];
        Ok(match owner {
            "circle" => Page { instances: one(owner), next: Some(((at + 1) % 3).to_string()) },
            "endless" => Page { instances: vec![], next: Some((at + 1).to_string()) },
            "crowd" => Page { instances: (0..1_001).flat_map(|_| one(owner)).collect(), next: None },
            "masses" => {
                Page { instances: (0..1_000).flat_map(|_| one(owner)).collect(), next: Some((at + 1).to_string()) }
            }
            "far" => Page { instances: one(owner), next: Some("c".repeat(5_000)) },
            "strangers" => Page { instances: one("somebody-else"), next: None },
            _ => Page { instances: one(owner), next: (at < 4).then(|| (at + 1).to_string()) },
        })
    }

    fn destroy(call: &Call<'_, Settings>, handle: &str, _: u64) -> Result<Destruction, Error> {
        if handle == "stubborn" {
            thread::sleep(Duration::from_secs(600));
        }
        call.cache.delete(&format!("machine/{handle}"));
        Ok(Destruction::Gone)
    }

    fn console_log(call: &Call<'_, Settings>, handle: &str, _: u32) -> Result<String, Error> {
        behaviour::run(call, handle)
    }
}

fn described(settings_schema: String, pool: &serde_json::Value) -> Description {
    Description {
        name: "guest".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "does whatever a backend should not".into(),
        settings_schema,
        pool_schema: pool.to_string(),
        endpoints: vec![EndpointRequest {
            name: "engine".into(),
            purpose: "to have something to ask".into(),
            required: false,
            example: "http://127.0.0.1:9000".into(),
        }],
        capabilities: vec!["console-log".into()],
        bootstraps: vec!["jit-config".into()],
        billing: Billing { granularity_seconds: 0, minimum_seconds: 0 },
        attributes: vec![],
    }
}

fn instance(name: &str, owner: &str) -> Instance {
    Instance {
        handle: format!("{owner}/{name}"),
        name: name.to_owned(),
        owner: owner.to_owned(),
        state: InstanceState::Running,
        addresses: vec![],
        created_at_ms: None,
        lease_until_ms: None,
        hold: false,
        price: None,
        attributes: vec![],
    }
}
