//! The server under test: a configuration in a folder of its own, and the real binary running on it.
//!
//! It can be stopped, killed and started again on the same folder and port. When it is dropped it is killed, and a
//! panic in anything it wrote fails the test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use reqwest::StatusCode;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    api::Api,
    binaries,
    process::{Process, Said, free_port, run_with},
    wait::{SOON, eventually, within},
};

/// What the server writes goes here, all starts of it one after the other.
const LOG: &str = "pacer.log";

/// The configuration file; everything else a test hands out is beside it.
const CONFIG: &str = "config.yaml";

/// The webhook's secret unless a test says otherwise.
pub const WEBHOOK_SECRET: &str = "webhook-secret-of-the-tests-0001";

/// A server that is yet to be started.
#[derive(Debug)]
pub struct Builder {
    app_id: u64,
    private_key: String,
    api_url: String,
    webhook_secrets: Vec<String>,
    auth: String,
    backends: String,
    projects: String,
    sections: String,
    environment: Vec<(String, String)>,
    plugins: Option<PathBuf>,
    public_host: String,
}

/// A server with its folder.
#[derive(Debug)]
pub struct TestPacer {
    folder: TempDir,
    port: u16,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    /// Without a token.
    pub api: Api,
}

impl Builder {
    /// A server for this App at this GitHub. Its backends and projects are still to be said.
    pub fn new(app_id: u64, private_key: &str, api_url: &str) -> Self {
        Self {
            app_id,
            private_key: private_key.to_owned(),
            api_url: api_url.to_owned(),
            webhook_secrets: vec![WEBHOOK_SECRET.to_owned()],
            auth: "{ disabled: true }".to_owned(),
            backends: "{}".to_owned(),
            projects: "[]".to_owned(),
            sections: String::new(),
            environment: Vec::new(),
            plugins: None,
            public_host: "127.0.0.1".to_owned(),
        }
    }

    pub fn webhook_secrets(mut self, secrets: &[&str]) -> Self {
        self.webhook_secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
        self
    }

    /// The section `auth`, as YAML.
    pub fn auth(mut self, yaml: &str) -> Self {
        self.auth = yaml.to_owned();
        self
    }

    /// The section `backends`, as YAML in flow style or indented by two.
    pub fn backends(mut self, yaml: &str) -> Self {
        self.backends = yaml.to_owned();
        self
    }

    /// The section `projects`, as YAML in flow style or indented by two.
    pub fn projects(mut self, yaml: &str) -> Self {
        self.projects = yaml.to_owned();
        self
    }

    /// Whole sections more, as YAML.
    pub fn section(mut self, yaml: &str) -> Self {
        self.sections.push_str(yaml);
        self.sections.push('\n');
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another folder of plugins than the built ones.
    pub fn plugins(mut self, folder: &Path) -> Self {
        self.plugins = Some(folder.to_owned());
        self
    }

    /// Where machines find this host.
    pub fn host_of_machines(mut self, host: &str) -> Self {
        host.clone_into(&mut self.public_host);
        self
    }

    /// Writes the folder and starts nothing.
    pub fn prepare(self) -> TestPacer {
        let folder = tempfile::Builder::new().prefix("pacer-test-").tempdir().expect("a folder for the test");
        let port = free_port();
        let plugins = self.plugins.clone().unwrap_or_else(binaries::plugins);
        fs::write(folder.path().join("gh-app.pem"), &self.private_key).expect("the key can be written");
        fs::write(folder.path().join(CONFIG), self.yaml(port, &plugins)).expect("the configuration can be written");
        TestPacer {
            api: Api::new(format!("http://127.0.0.1:{port}")),
            folder,
            port,
            environment: self.environment,
            process: None,
        }
    }

    /// Starts the server and waits until it is ready.
    pub async fn start(self) -> TestPacer {
        let mut pacer = self.prepare();
        pacer.start().await;
        pacer
    }

    fn yaml(&self, port: u16, plugins: &Path) -> String {
        let secrets = serde_json::to_string(&self.webhook_secrets).expect("strings can be written");
        format!(
            r#"server: {{ addr: "127.0.0.1:{port}", public_url: "http://{host}:{port}" }}
github: {{ app_id: {app_id}, private_key_path: gh-app.pem, webhook_secret: {secrets}, api_url: "{api_url}" }}
database: {{ url: "sqlite:pacer.db" }}
plugins: {{ dir: "{plugins}" }}
auth: {auth}
backends: {backends}
projects: {projects}
{sections}"#,
            host = self.public_host,
            app_id = self.app_id,
            api_url = self.api_url,
            plugins = plugins.display(),
            auth = self.auth,
            backends = section(&self.backends),
            projects = section(&self.projects),
            sections = self.sections,
        )
    }
}

/// A block of YAML goes below its key, a flow beside it.
fn section(yaml: &str) -> String {
    match yaml.trim_start().chars().next() {
        Some('{' | '[') => yaml.to_owned(),
        Some(_) | None => format!("\n{}", yaml.trim_matches('\n')),
    }
}

impl TestPacer {
    /// Where its configuration, database and log are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join(CONFIG)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Where GitHub sends deliveries.
    pub fn webhook_url(&self) -> String {
        self.url("/api/webhook")
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the server was started")
    }

    /// Replaces text in the configuration file; it must be there.
    pub fn edit_config(&self, from: &str, to: &str) {
        let path = self.config_path();
        let text = fs::read_to_string(&path).expect("the configuration can be read");
        assert!(text.contains(from), "`{from}` is not in the configuration:\n{text}");
        fs::write(path, text.replace(from, to)).expect("the configuration can be written");
    }

    /// Starts the binary without waiting for anything.
    pub fn spawn(&mut self) {
        let mut command = Command::new(binaries::pacer());
        command.args(["serve", "--config"]).arg(self.config_path()).current_dir(self.folder.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let log = self.folder.path().join(LOG);
        self.process = Some(Process::start(command, &log).expect("the server can be started"));
    }

    /// Starts the binary and waits until it says that it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Waits until it says that it is ready; fails at once when it ends instead.
    pub async fn ready(&mut self) {
        let api = self.api.clone();
        let process = self.process.as_mut().expect("the server was started");
        let ended = within(SOON, async || {
            if let Some(status) = process.ended() {
                return Some(Err(format!("the server ended with {status}")));
            }
            let answer = api.try_get("/readyz").await.ok()?;
            (answer.status == StatusCode::OK).then_some(Ok(()))
        });
        match ended.await {
            Some(Ok(())) => {}
            Some(Err(how)) => panic!("{how}:\n{}", self.log()),
            None => panic!("the server did not become ready:\n{}", self.log()),
        }
    }

    /// Waits until it answers at all, ready or not.
    pub async fn alive(&self) {
        eventually("the server answers /healthz", SOON, async || {
            let answer = self.api.try_get("/healthz").await.ok()?;
            (answer.status == StatusCode::OK).then_some(())
        })
        .await;
    }

    /// Ends it between two instructions.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(&mut self, deadline: Duration) -> ExitStatus {
        let mut process = self.process.take().expect("the server was started");
        process.signal(Signal::TERM);
        match process.wait(deadline).await {
            Some(status) => status,
            None => panic!("the server did not end within {deadline:?} of being asked:\n{}", self.log()),
        }
    }

    /// All it wrote, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join(LOG)).unwrap_or_default()).into_owned()
    }

    /// Runs another command of the same binary on the same configuration and environment.
    pub fn command(&self, arguments: &[&str]) -> Said {
        let config = self.config_path();
        let mut all: Vec<&str> = arguments.to_vec();
        all.extend(["--config", config.to_str().expect("temporary folders have plain names")]);
        run_with(binaries::pacer(), &all, self.folder.path(), &self.environment)
    }
}

impl Drop for TestPacer {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- the end of what the server wrote ---\n{end}\n---");
        } else {
            assert!(!log.contains("panicked at"), "the server panicked:\n{log}");
        }
    }
}
