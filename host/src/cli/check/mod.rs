//! `pacer check`: everything that can be known to be wrong before the server starts.
//!
//! Looks and changes nothing, except that compiled components are kept in `plugins.cache_dir` for the server to use.
//! Only with `--online` is anybody asked: GitHub, and the endpoints of the backends.

mod backends;
mod database;
mod online;

use std::io::Write;

use serde::Serialize;

use super::{CheckArgs, Outcome, block_on};
use crate::{
    clock::SharedClock,
    config::{self, Auth, Config, ConfigError},
    plugins::Compiler,
};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What was looked at: `configuration`, `database`, `backend engine`.
    subject: String,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
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

fn finding(level: Level, subject: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { level, subject: subject.into(), message: message.into() }
}

/// What a check needs of the process it runs in.
pub(super) struct Tools {
    pub compiler: Compiler,
    pub clock: SharedClock,
}

pub(super) fn run(
    config: Result<Config, ConfigError>,
    args: &CheckArgs,
    tools: Tools,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let findings = match config {
        Ok(config) => block_on(async { Ok(look(config, args.online, tools).await) })?,
        Err(error) if args.json => by_problem(&error),
        // It is all there is to say, and its place is where errors go.
        Err(error) => return Err(error.into()),
    };
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &serde_json::json!({ "findings": findings }))?;
        writeln!(out)?;
    } else {
        table(&findings, out)?;
    }
    let failed = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if failed { Outcome::Problem } else { Outcome::Fine })
}

fn by_problem(error: &ConfigError) -> Vec<Finding> {
    let one = |problem: &config::Problem| ConfigError { path: error.path.clone(), problems: vec![problem.clone()] };
    error.problems.iter().map(|problem| finding(Level::Error, "configuration", one(problem).to_string())).collect()
}

async fn look(config: Config, ask: bool, tools: Tools) -> Vec<Finding> {
    let config = std::sync::Arc::new(config);
    let mut findings = settings(&config);
    findings.extend(database::look(&config.database.url).await);
    findings.extend(backends::look(&config, ask, &tools).await);
    if ask {
        findings.extend(online::look(&config, tools.clock).await);
    }
    findings
}

/// What the file itself says; that it could be read means that its key and its secrets are fine.
fn settings(config: &Config) -> Vec<Finding> {
    let pools: usize = config.projects.iter().map(|project| project.pools.len()).sum();
    let mut findings = vec![finding(
        Level::Ok,
        "configuration",
        format!(
            "{}, {}, {}",
            counted(config.projects.len(), "project"),
            counted(pools, "pool"),
            counted(config.backends.len(), "backend")
        ),
    )];
    findings.extend(config.warnings.iter().map(|warning| finding(Level::Warning, "configuration", warning)));
    if matches!(config.auth, Auth::Disabled) {
        findings.push(finding(
            Level::Warning,
            "auth",
            "disabled: whoever reaches the server may see and do everything; set `auth.token`",
        ));
    }
    findings.push(finding(Level::Ok, "github key", format!("an RSA key, for App {}", config.github.app_id)));
    if config.server.public_url.starts_with("https://")
        && config.server.addr.ip().is_loopback()
        && config.server.trusted_proxies.is_empty()
    {
        findings.push(finding(
            Level::Warning,
            "proxy",
            "`server.public_url` is https and pacer listens on this machine only, so there is a reverse proxy before \
             it: name it in `server.trusted_proxies` (`[\"127.0.0.1\", \"::1\"]`), or everybody behind it counts as one \
             caller",
        ));
    }
    let webhook = format!("{}/api/webhook", config.server.public_url);
    findings.push(if is_here(&config.server.public_url) && !is_here(&config.github.api_url) {
        finding(
            Level::Warning,
            "webhook",
            format!(
                "{webhook}: GitHub cannot reach this machine by that name; set `server.public_url` to an address it can"
            ),
        )
    } else {
        finding(
            Level::Ok,
            "webhook",
            format!("{webhook} belongs into the App's settings at GitHub, as its webhook URL"),
        )
    });
    findings
}

fn is_here(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| url.host().is_some_and(config::is_loopback))
}

/// `1 error`, `2 errors`.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn table(findings: &[Finding], out: &mut dyn Write) -> std::io::Result<()> {
    let width = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or_default();
    for finding in findings {
        // What follows the first line stays below it.
        let message = finding.message.replace('\n', &format!("\n{}", " ".repeat(width + 4)));
        writeln!(out, "{} {:<width$}  {message}", finding.level.sign(), finding.subject)?;
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    writeln!(out, "\n{}, {}", counted(count(Level::Error), "error"), counted(count(Level::Warning), "warning"))
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::{clock::SystemClock, config::fixture};

    fn tools() -> Tools {
        Tools { compiler: Compiler::InProcess, clock: Arc::new(SystemClock) }
    }

    fn print(config: Result<Config, ConfigError>, json: bool) -> (String, Outcome) {
        let mut out = Vec::new();
        let outcome = run(config, &CheckArgs { json, online: false }, tools(), &mut out).unwrap();
        (String::from_utf8(out).unwrap(), outcome)
    }

    fn config(directory: &Path) -> Config {
        let mut config = fixture(Vec::new());
        config.database.url = format!("sqlite:{}/pacer.db", directory.display());
        config
    }

    fn broken() -> ConfigError {
        ConfigError {
            path: "config.yaml".into(),
            problems: vec![crate::config::Problem {
                key: "github.app_id".to_owned(),
                what: "required".to_owned(),
                at: Some((1, 1)),
                hint: None,
            }],
        }
    }

    #[test]
    fn a_table_for_people() {
        let directory = tempfile::tempdir().unwrap();
        let (text, outcome) = print(Ok(config(directory.path())), false);
        assert_eq!(outcome, Outcome::Fine, "{text}");
        assert!(
            text.starts_with("✓ configuration  0 projects, 0 pools, 0 backends\n⚠ auth           disabled:"),
            "{text}"
        );
        assert!(text.contains("✓ webhook        http://127.0.0.1:3000/api/webhook belongs"), "{text}");
        assert!(text.contains("it will be created"), "{text}");
        assert!(text.ends_with("\n0 errors, 1 warning\n"), "{text}");
    }

    #[test]
    fn a_database_that_cannot_be_is_an_error() {
        let (text, outcome) = print(Ok(config(Path::new("/nonexistent"))), false);
        assert_eq!(outcome, Outcome::Problem);
        assert!(text.contains("✗ database"), "{text}");
        assert!(text.contains("\n1 error, "), "{text}");
    }

    #[test]
    fn each_problem_of_the_file_is_a_finding_for_scripts_and_the_error_itself_for_people() {
        let (text, outcome) = print(Err(broken()), true);
        assert_eq!(outcome, Outcome::Problem);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["findings"][0]["level"], "error");
        assert_eq!(json["findings"][0]["message"], "config invalid: github.app_id required\n  at config.yaml:1:1");

        let mut out = Vec::new();
        let error = run(Err(broken()), &CheckArgs { json: false, online: false }, tools(), &mut out).unwrap_err();
        assert!(crate::cli::message(&error).starts_with("config invalid: github.app_id required"));
        assert!(out.is_empty());
    }

    #[test]
    fn a_reverse_proxy_that_is_not_named_is_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let with = |public_url: &str, proxies: &[&str]| {
            let mut config = config(directory.path());
            config.server.public_url = public_url.to_owned();
            config.server.trusted_proxies = proxies.iter().map(|network| network.parse().unwrap()).collect();
            print(Ok(config), false).0
        };
        let text = with("https://pacer.example.com", &[]);
        assert!(text.contains("⚠ proxy") && text.contains("server.trusted_proxies"), "{text}");
        assert!(!with("https://pacer.example.com", &["127.0.0.1/32"]).contains("proxy"));
        assert!(!with("http://127.0.0.1:3000", &[]).contains("proxy"));
    }

    #[test]
    fn an_address_that_github_cannot_reach_is_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        config.github.api_url = "https://api.github.com".to_owned();
        let (text, outcome) = print(Ok(config), false);
        assert_eq!(outcome, Outcome::Fine);
        assert!(text.contains("⚠ webhook        http://127.0.0.1:3000/api/webhook: GitHub cannot reach"), "{text}");
    }
}
