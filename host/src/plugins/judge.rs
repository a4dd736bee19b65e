//! Judges settings: against the schemas a component gives, then by the component itself.

use std::{fmt, time::Duration};

use futures::FutureExt as _;
use serde::Serialize;

use super::{
    Health, Host,
    bindings::pacer::backend::model as wire,
    call::Answer,
    model::{BackendError, Description},
};
use crate::{
    config::{self, BootstrapMode, Config},
    fleet::{self, Way},
    routing::shown_up_to,
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
            let key = format!("backends.{name}.settings");
            let Some(description) = self.slot_description(name) else {
                let reason = self.status().into_iter().find(|status| status.name == *name);
                let reason = reason
                    .map_or_else(|| "it is not known to this host".to_owned(), |status| not_loaded(status.health));
                findings.push(error(format!("backends.{name}"), reason));
                continue;
            };
            findings.extend(by_schema(&description.settings_schema, &backend.settings, &key));
            findings.extend(self.by_component(backend, None, &key).await);
            for (project, pool) in pools_of(config, backend) {
                let key = format!("projects[{project}].pools[{}]", pool.name);
                findings.extend(bootstrap(config, pool, &description, &key));
                let key = format!("{key}.settings");
                let wrong = by_schema(&description.pool_schema, &pool.settings, &key);
                if wrong.is_empty() {
                    findings.extend(self.by_component(backend, Some(pool), &key).await);
                }
                findings.extend(wrong);
            }
        }
        findings
    }

    async fn by_component(&self, backend: &config::Backend, pool: Option<&config::Pool>, key: &str) -> Vec<Finding> {
        let (settings, pool) = (backend.settings.to_string(), pool.map(|pool| pool.settings.to_string()));
        let about_pool = pool.is_some();
        let judged = self
            .invoke(&backend.name, "validate", None, Vec::new(), VALIDATE, move |instance, store, _| {
                async move {
                    let provisioner = instance.pacer_backend_provisioner();
                    let mut findings = provisioner.call_validate(&mut *store, &settings, pool.as_deref()).await?;
                    for wire::Finding { path, message, .. } in &mut findings {
                        (*path, *message) = (store.data().redact(path), store.data().redact(message));
                    }
                    Ok(Answer::Fine(findings))
                }
                .boxed()
            })
            .await;
        match judged {
            Ok(findings) => findings
                .into_iter()
                .take(FINDINGS)
                // What is wrong with the backend's own settings was found without the pool already.
                .filter(|finding| finding.path.starts_with("/pool") == about_pool)
                .map(|finding| translate(&finding, key))
                .collect(),
            Err(BackendError { message, .. }) => vec![error(key.to_owned(), message)],
        }
    }
}

/// Why there is no description.
fn not_loaded(health: Health) -> String {
    match health {
        Health::Down(reason) | Health::Degraded(reason) => format!("it cannot be loaded: {reason}"),
        Health::Loading | Health::Ok => "it is not loaded yet".to_owned(),
    }
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
fn by_schema(schema: &serde_json::Value, settings: &serde_json::Value, key: &str) -> Vec<Finding> {
    let validator = match jsonschema::validator_for(schema) {
        Ok(validator) => validator,
        Err(wrong) => return vec![error(key.to_owned(), format!("the backend's schema cannot be used: {wrong}"))],
    };
    validator
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
    let pointer = finding.path.strip_prefix("/pool").or_else(|| finding.path.strip_prefix("/settings"));
    Finding {
        error: match finding.severity {
            wire::Severity::Error => true,
            wire::Severity::Warning => false,
        },
        key: dotted(key, &shown_up_to(pointer.unwrap_or_default(), MESSAGE)),
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
        let finding = translate(&finding, "p.settings");
        assert_eq!(finding.key, "p.settings.volumes[0]");
        assert!(!finding.message.contains('\u{7}'));
    }
}
