//! The backends: whether each loads, what it is granted and lacks, and what it thinks of its settings.

use std::{sync::Arc, time::Duration};

use super::{Finding, Level, Tools, counted, finding};
use crate::{
    config::Config,
    plugins::{self, BackendStatus, Backends as _, CONTRACT, Grant, Health, Host},
    routing::{shown, shown_up_to},
};

/// How long a backend may take to list its machines: an engine answers within a second, a busy cloud within ten.
const LIST: Duration = Duration::from_secs(30);

/// Of a reason that a component or an engine gave, in characters.
const REASON: usize = 1_000;

/// With `ask`, every backend lists its machines, which takes it through its endpoints.
pub(super) async fn look(config: &Arc<Config>, ask: bool, tools: &Tools) -> Vec<Finding> {
    let host = match Host::start_with(config, tools.clock.clone(), tools.compiler.clone()).await {
        Ok(host) => host,
        Err(error) => return vec![finding(Level::Error, "backends", error.chain())],
    };
    host.settled().await;
    let mut findings = Vec::new();
    for status in host.status() {
        let subject = format!("backend {}", status.name);
        if let Some(reason) = refused(&status) {
            findings.push(finding(Level::Error, subject, format!("{reason}{}", others(config, &status))));
            continue;
        }
        findings.push(finding(Level::Ok, &subject, introduction(&status)));
        findings.extend(status.grants.iter().map(|grant| granted(&subject, &status, grant)));
        let lacks = status.grants.iter().any(|grant| grant.required && grant.target.is_none());
        if ask && !lacks {
            findings.push(match host.list(&status.name, &config.server.owner, LIST).await {
                Ok(machines) => finding(
                    Level::Ok,
                    &subject,
                    format!("answers; `{}` has {} there", config.server.owner, counted(machines.len(), "machine")),
                ),
                Err(error) => finding(Level::Error, &subject, shown_up_to(&error.to_string(), REASON)),
            });
        }
    }
    // That a backend is not loaded was said of the backend.
    let judged = host.validate(config).await.into_iter();
    let judged = judged.filter(|judged| config.backends.keys().all(|name| judged.key != format!("backends.{name}")));
    findings.extend(judged.map(|judged| {
        let level = if judged.is_error() { Level::Error } else { Level::Warning };
        finding(level, "settings", judged.to_string())
    }));
    findings
}

/// Why there is no component to be called.
fn refused(status: &BackendStatus) -> Option<String> {
    match &status.health {
        Health::Loading => Some("it is still loading".to_owned()),
        Health::Down(reason) if status.version.is_none() => Some(shown_up_to(reason, REASON)),
        // Down for want of an endpoint, which is said with the endpoint.
        Health::Down(_) | Health::Degraded(_) | Health::Ok => None,
    }
}

/// If its file is missing: those that are there, since one of them may be meant.
fn others(config: &Config, status: &BackendStatus) -> String {
    let file = config.plugins.dir.join(&status.file);
    if file.exists() {
        return String::new();
    }
    let way_out = format!("put the component there, or change `backends.{}.plugin` or `plugins.dir`", status.name);
    let there = plugins::available(config).unwrap_or_default();
    if there.is_empty() {
        return format!("; {way_out}");
    }
    let names: Vec<_> = there.iter().map(|plugin| format!("`{}`", plugin.plugin)).collect();
    format!("; {way_out}; there are {}", names.join(", "))
}

fn introduction(status: &BackendStatus) -> String {
    let unknown = || "unknown".to_owned();
    format!(
        "`{}` {} speaks {CONTRACT}, digest {}",
        status.plugin,
        status.version.as_deref().map_or_else(unknown, shown),
        status.digest.clone().unwrap_or_else(unknown)
    )
}

fn granted(subject: &str, status: &BackendStatus, grant: &Grant) -> Finding {
    let key = format!("backends.{}.endpoints.{}", status.name, grant.endpoint);
    let manner = grant.manner();
    let (level, message) = match (&grant.target, &grant.purpose) {
        (Some(target), Some(purpose)) => {
            let root = if grant.root_equivalent { "; it gives control of that machine, as root" } else { "" };
            let level = if grant.root_equivalent { Level::Warning } else { Level::Ok };
            (
                level,
                format!(
                    "endpoint `{}` is granted, {target}{manner}: {}{root}",
                    grant.endpoint,
                    shown_up_to(purpose, REASON)
                ),
            )
        }
        (Some(target), None) => (
            Level::Warning,
            format!("endpoint `{}` is granted, {target}{manner}, and not asked for: remove `{key}`", grant.endpoint),
        ),
        (None, purpose) => {
            let purpose = shown_up_to(purpose.as_deref().unwrap_or_default(), REASON);
            let (level, word) = if grant.required { (Level::Error, "needed") } else { (Level::Warning, "optional") };
            (level, format!("endpoint `{}` is {word} and not granted: {purpose}; add `{key}`", grant.endpoint))
        }
    };
    finding(level, subject, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(grants: Vec<Grant>) -> BackendStatus {
        BackendStatus {
            name: "engine".parse().unwrap(),
            plugin: "docker".to_owned(),
            file: "docker.wasm".to_owned(),
            version: Some("1.2.3".to_owned()),
            summary: None,
            digest: Some("aa".to_owned()),
            capabilities: Vec::new(),
            bootstraps: Vec::new(),
            grants,
            health: Health::Ok,
            under_way: 0,
            operations: Vec::new(),
        }
    }

    fn grant(target: Option<&str>, purpose: Option<&str>, required: bool) -> Grant {
        Grant {
            endpoint: "engine".to_owned(),
            target: target.map(str::to_owned),
            credentials: Vec::new(),
            proxy: None,
            purpose: purpose.map(str::to_owned),
            required,
            root_equivalent: target.is_some_and(|target| target.contains("docker.sock")),
        }
    }

    #[test]
    fn each_endpoint_says_what_it_is_and_what_to_do() {
        let check = |grant: Grant, level: Level, expected: &str| {
            let found = granted("backend engine", &status(Vec::new()), &grant);
            assert_eq!((found.level, found.message.as_str()), (level, expected));
        };
        let purpose = Some("the engine's API");
        check(
            grant(Some("unix:/run/docker.sock"), purpose, true),
            Level::Warning,
            "endpoint `engine` is granted, unix:/run/docker.sock: the engine's API; it gives control of that machine, as root",
        );
        check(
            grant(Some("http://h:80"), None, false),
            Level::Warning,
            "endpoint `engine` is granted, http://h:80, and not asked for: remove `backends.engine.endpoints.engine`",
        );
        let proved = Grant {
            credentials: vec!["bearer token", "client certificate"],
            proxy: Some("http://proxy:3128".to_owned()),
            ..grant(Some("https://h:443"), purpose, true)
        };
        check(
            proved,
            Level::Ok,
            "endpoint `engine` is granted, https://h:443 with bearer token and client certificate through the proxy \
             http://proxy:3128: the engine's API",
        );
        check(
            grant(None, purpose, true),
            Level::Error,
            "endpoint `engine` is needed and not granted: the engine's API; add `backends.engine.endpoints.engine`",
        );
        check(
            grant(None, purpose, false),
            Level::Warning,
            "endpoint `engine` is optional and not granted: the engine's API; add `backends.engine.endpoints.engine`",
        );
    }

    #[test]
    fn only_what_is_not_loaded_is_refused() {
        let mut status = status(Vec::new());
        status.health = Health::Down("an endpoint is missing".to_owned());
        assert_eq!(refused(&status), None);
        status.version = None;
        assert_eq!(refused(&status).as_deref(), Some("an endpoint is missing"));
    }
}
