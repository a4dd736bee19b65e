//! The configuration as the rest of the program sees it: parsed, checked, with every secret resolved.
//!
//! Nothing outside this folder knows that it was YAML. What can be wrong with it was found when it was loaded.

mod bootstrap;
mod credential;
mod document;
mod endpoint;
mod environment;
mod github;
mod load;
mod outline;
mod problem;
mod projects;
mod quantity;
mod reader;
mod sections;
mod value;
mod warm;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use secrecy::SecretString;

pub use credential::{AwsRole, AwsSigV4, AwsSource, Credential, OAuth2, OAuth2Url};
pub(crate) use credential::{basic, form_encoded};
pub use environment::{Environment, ProcessEnvironment};
pub use load::load;
pub use outline::Outline;
pub use problem::{ConfigError, Problem};
pub use warm::Warm;

use crate::routing::{BackendName, EndpointName, PoolName, ProjectName, RepoName};

/// Everything an operator can say. Cheap to share: [`Arc`] it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from, for messages.
    pub path: PathBuf,
    /// What is allowed and probably not meant, one sentence each.
    pub warnings: Vec<String>,
    pub outline: Outline,
    pub server: Server,
    pub github: GitHub,
    pub database: Database,
    pub plugins: Plugins,
    pub backends: BTreeMap<BackendName, Arc<Backend>>,
    /// In the order of the file.
    pub projects: Vec<Arc<Project>>,
    pub auth: Auth,
    pub retention: Retention,
    pub telemetry: Telemetry,
}

#[derive(Debug, Clone)]
pub struct Server {
    pub addr: SocketAddr,
    /// Without a trailing slash.
    pub public_url: String,
    /// What machines are tagged with as theirs: this installation. Default `app-<app_id>`.
    pub owner: String,
    /// How long a shutdown waits for work in flight.
    pub shutdown_grace: Duration,
    /// Whose word is taken for where a request comes from.
    pub trusted_proxies: Vec<IpNet>,
}

#[derive(Debug, Clone)]
pub struct GitHub {
    pub app_id: u64,
    /// PEM of the App's RSA key.
    pub private_key: SecretString,
    /// Any of them verifies a delivery; at least one.
    pub webhook_secrets: Vec<SecretString>,
    /// Without a trailing slash. `https://api.github.com` unless it is a GHES.
    pub api_url: String,
    /// PEM of additional roots to trust for `api_url`.
    pub ca: Option<Vec<u8>>,
    /// How often the App's delivery log is read for what was missed.
    pub recovery_interval: Duration,
    /// How often GitHub is asked which booting runners are online.
    pub runner_poll: Duration,
}

#[derive(Debug, Clone)]
pub struct Database {
    /// `sqlite:` with an absolute path.
    pub url: String,
}

#[derive(Debug, Clone)]
pub struct Plugins {
    /// Absolute.
    pub dir: PathBuf,
    /// Compiled code, 0700. Absolute.
    pub cache_dir: PathBuf,
    pub limits: PluginLimits,
}

/// What one call of a component may use, and what all of them together may.
#[derive(Debug, Clone)]
pub struct PluginLimits {
    /// Of a `.wasm` file, in bytes.
    pub file_size: u64,
    /// All linear memories and tables of one call, in bytes.
    pub memory: u64,
    /// Running time on the CPU of one call; waiting is not counted.
    pub cpu: Duration,
    /// Bytes of one HTTP response body.
    pub response_size: u64,
    /// Bytes of one HTTP request body.
    pub request_size: u64,
    /// HTTP requests and connections open at once in one call.
    pub requests: u32,
    /// Bytes of log and output of one call; more is counted and dropped.
    pub log_size: u64,
    /// Calls of one backend at once.
    pub concurrency: u32,
    /// Memory of all calls at once, in bytes.
    pub total_memory: u64,
}

#[derive(Debug)]
pub struct Backend {
    pub name: BackendName,
    /// The stem of the `.wasm` file in `plugins.dir`.
    pub plugin: String,
    /// Hex SHA-256 the file must have.
    pub digest: Option<String>,
    pub endpoints: BTreeMap<EndpointName, Endpoint>,
    /// JSON object, checked against the component's schema when it is loaded.
    pub settings: serde_json::Value,
    pub limits: PluginLimits,
    /// How often the backend is asked which machines there are.
    pub poll: Duration,
}

/// What a granted name stands for.
#[derive(Debug)]
pub struct Endpoint {
    pub target: EndpointTarget,
    /// PEM of additional roots, for HTTPS and TLS.
    pub ca: Option<Vec<u8>>,
    /// PEM of certificate chain and key.
    pub identity: Option<ClientIdentity>,
    pub credential: Option<Credential>,
    /// What requests and streams go through on their way.
    pub proxy: Option<Proxy>,
}

impl Endpoint {
    /// What must be seen nowhere but on the wire.
    pub fn secrets(&self) -> Vec<SecretString> {
        let mut secrets = self.credential.as_ref().map(Credential::secrets).unwrap_or_default();
        secrets.extend(self.identity.as_ref().map(|identity| identity.key.clone()));
        if let Some((username, password)) = self.proxy.as_ref().and_then(|proxy| proxy.login.as_ref()) {
            secrets.extend([password.clone(), basic(username, password)]);
        }
        secrets
    }
}

/// A forward proxy, spoken to in plain HTTP.
#[derive(Debug)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    pub login: Option<(String, SecretString)>,
}

#[derive(Debug)]
pub struct ClientIdentity {
    pub certificate: Vec<u8>,
    pub key: SecretString,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointTarget {
    Unix(PathBuf),
    /// `http://host:port/base`
    Http {
        tls: bool,
        host: String,
        port: u16,
        base_path: String,
    },
    /// A byte stream for `connect.open`, `tcp://host:port` or `tls://host:port`.
    Stream {
        tls: bool,
        host: String,
        port: u16,
    },
}

/// Groups pools for repositories or an organisation.
#[derive(Debug)]
pub struct Project {
    pub name: ProjectName,
    pub scope: Scope,
    pub max_runners: Option<u32>,
    /// Of each repository.
    pub max_runners_per_repo: Option<u32>,
    /// At least one; at most one is the default.
    pub pools: Vec<Arc<Pool>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Repos(Vec<RepoName>),
    Org { login: String, runner_group: RunnerGroup },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunnerGroup {
    /// GitHub's `Default`, id 1.
    Default,
    Id(i64),
    Name(String),
}

/// One shape of runner.
#[derive(Debug)]
pub struct Pool {
    pub name: PoolName,
    pub backend: BackendName,
    pub enabled: bool,
    pub default: bool,
    /// Lower wins.
    pub priority: i32,
    /// The extra labels, as written.
    pub labels: Vec<String>,
    pub max_runners: u32,
    /// Idle runners to keep; for a repository-scoped project, for each of its repositories.
    pub warm: Warm,
    pub timeouts: Timeouts,
    pub bootstrap: Bootstrap,
    /// JSON object, checked against the component's schema when it is loaded.
    pub settings: serde_json::Value,
}

/// A part of the week in which another number of idle runners is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmWindow {
    /// The days it begins on.
    pub days: Vec<jiff::civil::Weekday>,
    pub from: jiff::civil::Time,
    /// Not after `from`: on the next day.
    pub to: jiff::civil::Time,
    pub min_idle: u32,
}

/// How a machine of a pool becomes a runner, where its backend makes machines that run a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    pub mode: BootstrapMode,
    /// What the backend is given; without it, what the backend names first.
    pub kind: Option<BootstrapKind>,
    /// Runs the jobs. Unprivileged; made if the image has none.
    pub user: String,
    /// When the machine ends itself at the latest, where the pool says so. See [`Pool::max_life`].
    pub max_life: Option<Duration>,
    pub runner: RunnerSoftware,
}

impl Default for Bootstrap {
    fn default() -> Self {
        bootstrap::default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootstrapMode {
    /// The script fetches its configuration from pacer, once.
    Callback,
    /// The script holds it: for machines without a route to pacer.
    Inline,
}

/// The cases of `bootstrap` in the WIT package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootstrapKind {
    JitConfig,
    StartScript,
    CloudInit,
}

impl BootstrapKind {
    pub const ALL: [BootstrapKind; 3] = [Self::JitConfig, Self::StartScript, Self::CloudInit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::JitConfig => "jit-config",
            Self::StartScript => "start-script",
            Self::CloudInit => "cloud-init",
        }
    }
}

/// Where a machine has GitHub's runner from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerSoftware {
    /// `2.330.0`; the latest release if none. Ignored where the image has a runner.
    pub version: Option<String>,
    /// Hex, of the release archives.
    pub sha256: BTreeMap<Arch, String>,
    //// Stands for `https://github.com/actions/runner/releases`.
    pub mirror: Option<String>,
    /// Where an image has it, or where it is unpacked.
    pub dir: String,
}

/// As GitHub's runner releases name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    X64,
    Arm64,
}

impl Arch {
    pub const ALL: [Arch; 2] = [Self::X64, Self::Arm64];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::X64 => "x64",
            Self::Arm64 => "arm64",
        }
    }
}

/// How long a runner may be in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub register: Duration,
    pub create: Duration,
    pub boot: Duration,
    pub idle: Duration,
    pub run: Duration,
    pub stop: Duration,
}

#[derive(Debug, Clone)]
pub enum Auth {
    Disabled,
    /// At least 32 characters.
    Token(SecretString),
}

/// How long what is over is kept.
#[derive(Debug, Clone)]
pub struct Retention {
    pub jobs: Duration,
    pub deliveries: Duration,
    pub audit: Duration,
}

#[derive(Debug, Clone)]
pub struct Telemetry {
    /// A `tracing` filter, `info,pacer=debug`.
    pub log: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    pub fn project(&self, name: &ProjectName) -> Option<&Arc<Project>> {
        self.projects.iter().find(|project| project.name == *name)
    }

    pub fn pool(&self, project: &ProjectName, pool: &PoolName) -> Option<(&Arc<Project>, &Arc<Pool>)> {
        let project = self.project(project)?;
        Some((project, project.pools.iter().find(|candidate| candidate.name == *pool)?))
    }
}

/// Whether a host is this machine, as written.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A configuration around some projects, for tests of whatever needs one.
#[cfg(test)]
pub(crate) fn fixture(projects: Vec<Arc<Project>>) -> Config {
    let days = |days: u64| Duration::from_secs(days * 86_400);
    Config {
        path: "/etc/pacer/config.yaml".into(),
        server: Server {
            addr: SocketAddr::from(([127, 0, 0, 1], 3000)),
            public_url: "http://127.0.0.1:3000".to_owned(),
            owner: "app-1".to_owned(),
            shutdown_grace: Duration::from_secs(30),
            trusted_proxies: Vec::new(),
        },
        github: GitHub {
            app_id: 1,
            private_key: String::new().into(),
            webhook_secrets: vec!["secret".to_owned().into()],
            api_url: "http://127.0.0.1:9000".to_owned(),
            ca: None,
            recovery_interval: Duration::from_secs(120),
            runner_poll: Duration::from_secs(5),
        },
        database: Database { url: "sqlite:/var/lib/pacer/pacer.db".to_owned() },
        plugins: Plugins { dir: "/p".into(), cache_dir: "/c".into(), limits: PluginLimits::default() },
        backends: BTreeMap::new(),
        projects,
        auth: Auth::Disabled,
        retention: Retention { jobs: days(90), deliveries: days(14), audit: days(365) },
        telemetry: Telemetry { log: "info".to_owned(), format: LogFormat::Text },
        warnings: Vec::new(),
        outline: Outline::default(),
    }
}
