//! Judges settings: against the schemas a component gives, then by the component itself.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use serde::Serialize;

use super::{
    Host,
    bindings::pacer::backend::model as wire,
    call::{About, Answer, Lane, Shared},
    load::Loaded,
    model::{BackendError, Description, ErrorKind},
    schema::Schema,
};
use crate::{
    config::{self, BootstrapMode, Config},
    fleet::{self, Way},
    routing::{BackendName, shown_up_to},
};

/// How long a component may take over settings. It needs no endpoint for that.
const VALIDATE: Duration = Duration::from_secs(30);
/// Findings that are taken of one component.
const FINDINGS: usize = 100;
/// Of a finding, in characters.
const MESSAGE: usize = 500;

/// Something that is wrong, or probably not meant, with the settings of a backend or a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub error: bool,
    /// The key in the configuration: `projects[my-app].pools[small].settings.image`.
    pub key: String,
    pub message: String,
}

impl Finding {
    pub fn is_error(&self) -> bool {
        self.error
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl Host {
    /// Judges the settings of every backend and pool. Waits for components that are still loading; a backend that
    /// could not be loaded is a finding itself.
    pub async fn validate(&self, config: &Config) -> Vec<Finding> {
        self.settled().await;
        let mut findings = Vec::new();
        for (name, backend) in &config.backends {
            match self.loaded(name) {
                Ok((lane, loaded)) => findings.extend(self.judge(lane, &loaded, config, backend).await),
                Err(reason) => findings.push(error(format!("backends.{name}"), reason)),
            }
        }
        findings
    }

    /// Judges the settings of a backend and of its pools by a component.
    pub(super) async fn judge(
        &self,
        lane: &Lane,
        loaded: &Loaded,
        config: &Config,
        backend: &config::Backend,
    ) -> Vec<Finding> {
        let judge = Judge { shared: self.shared(), lane, loaded, settings: &backend.settings };
        let key = format!("backends.{}.settings", backend.name);
        let mut findings = judge.settings(&key, VALIDATE).await.unwrap_or_else(|failed| vec![unjudged(&key, failed)]);
        for (project, pool) in pools_of(config, backend) {
            let key = format!("projects[{project}].pools[{}]", pool.name);
            findings.extend(bootstrap(config, pool, &loaded.description, &key));
            let key = format!("{key}.settings");
            let judged = judge.pool(&pool.settings, &key, VALIDATE).await;
            findings.extend(judged.unwrap_or_else(|failed| vec![unjudged(&key, failed)]));
        }
        findings
    }

    /// What the component in force says of itself, if it takes its settings and those of a pool.
    pub(super) async fn judge_pool(
        &self,
        backend: &BackendName,
        pool: &serde_json::Value,
        deadline: Duration,
    ) -> Result<Arc<Description>, BackendError> {
        let (lane, settings, loaded) = self.in_force(backend, deadline).await?;
        let text = pool.to_string();
        let known = || loaded.fit.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&text) {
            return Ok(loaded.description.clone());
        }
        let judge = Judge { shared: self.shared(), lane, loaded: &loaded, settings };
        let failed = |failed: BackendError| BackendError { asked: false, ..failed };
        let limit = deadline.min(VALIDATE);
        let mut findings = judge.settings(&format!("backends.{backend}.settings"), limit).await.map_err(failed)?;
        findings.extend(judge.pool(pool, "settings", limit).await.map_err(failed)?);
        let refusals: Vec<String> = findings.iter().filter(|one| one.is_error()).map(ToString::to_string).collect();
        if refusals.is_empty() {
            known().insert(text);
            return Ok(loaded.description.clone());
        }
        Err(BackendError {
            kind: ErrorKind::InvalidConfig,
            message: format!("backend `{backend}` refuses the settings: {}", refusals.join("; ")),
            retry_after: None,
            asked: false,
        })
    }
}

/// One component, and the settings of its backend.
struct Judge<'a> {
    shared: &'a Shared,
    lane: &'a Lane,
    loaded: &'a Loaded,
    settings: &'a serde_json::Value,
}

impl Judge<'_> {
    async fn settings(&self, key: &str, limit: Duration) -> Result<Vec<Finding>, BackendError> {
        let findings = by_schema(&self.loaded.description.settings_schema, self.settings, key);
        if findings.is_empty() { self.ask(None, key, limit).await } else { Ok(findings) }
    }

    async fn pool(&self, pool: &serde_json::Value, key: &str, limit: Duration) -> Result<Vec<Finding>, BackendError> {
        let findings = by_schema(&self.loaded.description.pool_schema, pool, key);
        if findings.is_empty() { self.ask(Some(pool), key, limit).await } else { Ok(findings) }
    }

    /// Asks the component. `key` is where the pool's settings are, or without one the backend's.
    async fn ask(
        &self,
        pool: Option<&serde_json::Value>,
        key: &str,
        deadline: Duration,
    ) -> Result<Vec<Finding>, BackendError> {
        let (settings, pool) = (self.settings.to_string(), pool.map(ToString::to_string));
        let about_pool = pool.is_some();
        let about = About { operation: "validate", runner: None, secrets: Vec::new(), deadline };
        let judged = self.lane.call(self.shared, &self.loaded.linked, about, move |instance, store, _| {
            async move {
                let provisioner = instance.pacer_backend_provisioner();
                let mut findings = provisioner.call_validate(&mut *store, &settings, pool.as_deref()).await?;
                // What is wrong with the backend's own settings was found without the pool already.
                findings.retain(|finding| !(about_pool && of_backend(&finding.path)));
                findings.truncate(FINDINGS);
                for wire::Finding { path, message, .. } in &mut findings {
                    *path = store.data().redact(path, MESSAGE);
                    *message = store.data().redact(message, 4 * MESSAGE);
                }
                Ok(Answer::Fine(findings))
            }
            .boxed()
        });
        Ok(judged.await?.iter().map(|finding| translate(finding, key)).collect())
    }
}

/// Whether a path leads into the settings of the backend. Any other is of what was asked about.
fn of_backend(path: &str) -> bool {
    path.strip_prefix("/settings").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn unjudged(key: &str, failed: BackendError) -> Finding {
    error(key.to_owned(), failed.message)
}

fn error(key: String, message: String) -> Finding {
    Finding { error: true, key, message }
}

fn pools_of<'a>(
    config: &'a Config,
    backend: &'a config::Backend,
) -> impl Iterator<Item = (&'a crate::routing::ProjectName, &'a config::Pool)> {
    config
        .projects
        .iter()
        .flat_map(|project| project.pools.iter().map(|pool| (&project.name, pool.as_ref())))
        .filter(|(_, pool)| pool.backend == backend.name)
}

/// Whether a pool's machines can be given a configuration in a way that the backend takes.
fn bootstrap(config: &Config, pool: &config::Pool, description: &Description, key: &str) -> Option<Finding> {
    let key = format!("{key}.bootstrap");
    match fleet::way(&pool.bootstrap, &description.bootstraps) {
        Err(wrong) => Some(error(key, wrong)),
        Ok(Way::Script(_, BootstrapMode::Callback)) if leads_nowhere(&config.server.public_url) => Some(Finding {
            error: false,
            key,
            message: format!(
                "the machines fetch their configuration from `server.public_url`, and {} leads each of them to itself; \
                 set an address they can reach, or `mode: inline`",
                config.server.public_url
            ),
        }),
        Ok(_) => None,
    }
}

/// Whether an address means the machine it is used on.
fn leads_nowhere(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| url.host().is_some_and(config::is_loopback))
}

/// Validation by schema alone, as pure as it gets.
fn by_schema(schema: &Schema, settings: &serde_json::Value, key: &str) -> Vec<Finding> {
    schema
        .validator()
        .iter_errors(settings)
        .take(FINDINGS)
        .map(|wrong| error(dotted(key, &wrong.instance_path().to_string()), shown_up_to(&wrong.to_string(), MESSAGE)))
        .collect()
}

/// A JSON pointer as the configuration writes keys.
fn dotted(key: &str, pointer: &str) -> String {
    let steps = pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"));
    steps.fold(key.to_owned(), |key, step| {
        if step.bytes().all(|b| b.is_ascii_digit()) { format!("{key}[{step}]") } else { format!("{key}.{step}") }
    })
}

fn translate(finding: &wire::Finding, key: &str) -> Finding {
    let pointer = ["/pool", "/settings"].iter().find_map(|root| finding.path.strip_prefix(root));
    Finding {
        error: match finding.severity {
            wire::Severity::Error => true,
            wire::Severity::Warning => false,
        },
        key: dotted(key, &shown_up_to(pointer.filter(|rest| rest.starts_with('/')).unwrap_or_default(), MESSAGE)),
        message: shown_up_to(&finding.message, MESSAGE),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_schema_refuses_is_named_by_its_key() {
        let schema = json!({
            "type": "object", "additionalProperties": false,
            "properties": { "image": { "type": "string" }, "volumes": { "type": "array", "items": { "type": "string" } } },
        });
        let check = |settings: serde_json::Value| -> Vec<String> {
            let schema = Schema::new(&schema.to_string(), &|text, _| text.to_owned()).unwrap();
            by_schema(&schema, &settings, "p.settings").iter().map(ToString::to_string).collect()
        };
        assert_eq!(check(json!({ "image": "x" })), Vec::<String>::new());
        assert!(check(json!({ "image": 7 }))[0].starts_with("p.settings.image: 7 is not of type"));
        assert!(check(json!({ "imagee": "x" }))[0].contains("imagee"));
        assert!(check(json!({ "volumes": ["a", 1] }))[0].starts_with("p.settings.volumes[1]: "));
    }

    #[test]
    fn what_a_component_finds_is_named_by_its_key() {
        let finding = wire::Finding {
            severity: wire::Severity::Warning,
            path: "/pool/volumes/0".to_owned(),
            message: "a\u{7}b".to_owned(),
        };
        let told = translate(&finding, "p.settings");
        assert_eq!(told.key, "p.settings.volumes[0]");
        assert!(!told.message.contains('\u{7}'));
        for path in ["", "/", "/pools", "volumes"] {
            let finding = wire::Finding { path: path.to_owned(), ..finding.clone() };
            assert_eq!(translate(&finding, "p.settings").key, "p.settings", "{path}");
            assert!(!of_backend(path));
        }
        assert!(of_backend("/settings") && of_backend("/settings/a") && !of_backend("/settingsless"));
    }
}
