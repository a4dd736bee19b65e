//! `pacer check`: everything that can be known to be wrong before the server starts.

use std::{io::Write, path::Path, sync::Arc};

use serde::Serialize;

use super::{CheckArgs, Outcome, online};
use crate::{
    clock::SystemClock,
    config::{Auth, Config, ConfigError},
    plugins,
    store::Store,
};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub level: Level,
    /// What was looked at: `configuration`, `database`, `backend engine`.
    pub subject: String,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    fn sign(self) -> char {
        match self {
            Self::Ok => '✓',
            Self::Warning => '⚠',
            Self::Error => '✗',
        }
    }
}

pub(super) fn finding(level: Level, subject: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { level, subject: subject.into(), message: message.into() }
}

pub(super) fn run(
    config: Result<Config, ConfigError>,
    args: &CheckArgs,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let config = config.map(Arc::new);
    let mut findings = match &config {
        Ok(config) => {
            let mut findings = offline(config);
            findings.extend(super::block_on(async { Ok(backends(config).await) })?);
            findings
        }
        Err(error) => error
            .problems
            .iter()
            .map(|problem| {
                let one = ConfigError { path: error.path.clone(), problems: vec![problem.clone()] };
                finding(Level::Error, "configuration", one.to_string())
            })
            .collect(),
    };
    if let (true, Ok(config)) = (args.online, &config) {
        findings.extend(super::block_on(async { Ok(online::check(config).await) })?);
    }
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &serde_json::json!({ "findings": findings }))?;
        writeln!(out)?;
    } else {
        table(&findings, out)?;
    }
    let failed = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if failed { Outcome::Problem } else { Outcome::Fine })
}

fn offline(config: &Config) -> Vec<Finding> {
    let pools: usize = config.projects.iter().map(|project| project.pools.len()).sum();
    let mut findings = vec![finding(
        Level::Ok,
        "configuration",
        format!("{} projects, {pools} pools, {} backends", config.projects.len(), config.backends.len()),
    )];
    findings.extend(config.warnings.iter().map(|warning| finding(Level::Warning, "configuration", warning)));
    if matches!(config.auth, Auth::Disabled) {
        findings.push(finding(Level::Warning, "auth", "disabled: whoever reaches the server may do everything"));
    }
    findings.push(finding(Level::Ok, "github key", format!("an RSA key, for App {}", config.github.app_id)));
    findings.push(database(&config.database.url));
    findings.push(finding(Level::Ok, "webhook", format!("{}/api/webhook", config.server.public_url)));
    findings
}

/// Loads every backend and has it judge its settings, without reaching an endpoint.
async fn backends(config: &Arc<Config>) -> Vec<Finding> {
    let host = match plugins::Host::start(config, Arc::new(SystemClock)).await {
        Ok(host) => host,
        Err(error) => return vec![finding(Level::Error, "backends", error.chain())],
    };
    host.settled().await;
    let mut findings = Vec::new();
    for backend in host.status() {
        let subject = format!("backend {}", backend.name);
        let version = backend.version.unwrap_or_default();
        let granted: Vec<_> = backend.grants.iter().filter(|grant| grant.target.is_some()).collect();
        findings.push(match backend.health {
            plugins::Health::Ok | plugins::Health::Loading => {
                let grants: Vec<_> = granted.iter().map(|grant| grant.endpoint.as_str()).collect();
                finding(Level::Ok, &subject, format!("{} {version}, granted: {}", backend.plugin, list(&grants)))
            }
            plugins::Health::Degraded(reason) => finding(Level::Warning, &subject, reason),
            plugins::Health::Down(reason) => finding(Level::Error, &subject, reason),
        });
        for grant in &backend.grants {
            let (endpoint, purpose) = (&grant.endpoint, grant.purpose.as_deref());
            match (&grant.target, purpose) {
                (None, Some(purpose)) if !grant.required => findings.push(finding(
                    Level::Warning,
                    &subject,
                    format!(
                        "wants the endpoint `{endpoint}` ({purpose}), which `backends.{}.endpoints` does not grant",
                        backend.name
                    ),
                )),
                (Some(target), None) => findings.push(finding(
                    Level::Warning,
                    &subject,
                    format!("is granted `{endpoint}` ({target}) and does not ask for it"),
                )),
                (None | Some(_), _) => {}
            }
            if grant.root_equivalent {
                let target = grant.target.as_deref().unwrap_or_default();
                let message = format!("`{endpoint}` ({target}) gives control of that machine, as root");
                findings.push(finding(Level::Warning, &subject, message));
            }
        }
    }
    findings.extend(
        host.validate(config).await.into_iter().filter(|judged| !judged.message.starts_with("it is not loaded")).map(
            |judged| finding(if judged.error { Level::Error } else { Level::Warning }, "settings", judged.to_string()),
        ),
    );
    findings
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

/// Looks without touching: the server creates and migrates.
fn database(url: &str) -> Finding {
    let path = Path::new(url.strip_prefix("sqlite:").unwrap_or(url));
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {
            let opened = super::block_on(async { Ok(Store::open_read_only(url).await?) });
            match opened {
                Ok(_) => finding(Level::Ok, "database", format!("`{shown}` is there, with this pacer's schema")),
                Err(error) => finding(Level::Error, "database", format!("{error:#}")),
            }
        }
        Ok(_) => finding(Level::Error, "database", format!("`{shown}` is not a file: change `database.url`")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if parent.is_dir() => {
                finding(Level::Ok, "database", format!("`{shown}` does not exist yet: it will be created"))
            }
            Some(_) | None => finding(
                Level::Error,
                "database",
                format!(
                    "`{shown}` cannot be created, its directory does not exist: create that, or change `database.url`"
                ),
            ),
        },
        Err(error) => finding(Level::Error, "database", format!("`{shown}`: {error}")),
    }
}

fn table(findings: &[Finding], out: &mut dyn Write) -> std::io::Result<()> {
    let width = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or_default();
    for finding in findings {
        // What follows the first line stays below it.
        let message = finding.message.replace('\n', &format!("\n{}", " ".repeat(width + 4)));
        writeln!(out, "{} {:<width$}  {message}", finding.level.sign(), finding.subject)?;
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    writeln!(out, "\n{} errors, {} warnings", count(Level::Error), count(Level::Warning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;

    fn print(config: Result<Config, ConfigError>, json: bool, online: bool) -> (String, Outcome) {
        let mut out = Vec::new();
        let outcome = run(config, &CheckArgs { json, online }, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), outcome)
    }

    fn config(directory: &Path) -> Config {
        let mut config = fixture(Vec::new());
        config.database.url = format!("sqlite:{}/pacer.db", directory.display());
        config
    }

    #[test]
    fn a_table_for_people() {
        let directory = tempfile::tempdir().unwrap();
        let (text, outcome) = print(Ok(config(directory.path())), false, false);
        assert_eq!(outcome, Outcome::Fine, "{text}");
        assert!(
            text.starts_with("✓ configuration  0 projects, 0 pools, 0 backends\n⚠ auth           disabled:"),
            "{text}"
        );
        assert!(text.contains("it will be created"), "{text}");
        assert!(text.ends_with("\n0 errors, 1 warnings\n"), "{text}");
    }

    #[test]
    fn a_database_that_cannot_be_is_an_error() {
        let (text, outcome) = print(Ok(config(Path::new("/nonexistent"))), false, false);
        assert_eq!(outcome, Outcome::Problem);
        assert!(text.contains("✗ database"), "{text}");
    }

    #[test]
    fn each_problem_of_the_file_is_a_finding() {
        let error = ConfigError {
            path: "config.yaml".into(),
            problems: vec![crate::config::Problem {
                key: "github.app_id".to_owned(),
                what: "required".to_owned(),
                at: Some((1, 1)),
                hint: None,
            }],
        };
        let (text, outcome) = print(Err(error), true, false);
        assert_eq!(outcome, Outcome::Problem);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["findings"][0]["level"], "error");
        assert_eq!(json["findings"][0]["message"], "config invalid: github.app_id required\n  at config.yaml:1:1");
    }

    #[test]
    fn a_github_that_does_not_answer_is_a_finding() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        // The discard port: reserved, and nobody listens on it.
        config.github.api_url = "http://127.0.0.1:9".to_owned();
        let (text, outcome) = print(Ok(config), false, true);
        assert_eq!(outcome, Outcome::Problem);
        assert!(text.contains("✗ GitHub"), "{text}");
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("pacer.db"), "this is no database, it is a letter".repeat(100)).unwrap();
        let (text, outcome) = print(Ok(config(directory.path())), false, false);
        assert_eq!(outcome, Outcome::Problem);
        assert!(text.contains("✗ database"), "{text}");
    }
}
