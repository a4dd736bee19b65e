//! Where the checks are made: pacer's plugin host with the component in it, the proxy, and the engine.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use pacer::{
    clock::{Clock as _, SystemClock},
    config::{self, Config, ProcessEnvironment},
    fleet::runner::RunnerName,
    plugins::{
        BackendError, Backends as _, Compiler, Description, Destruction, Health, Host, Inspection, Instance,
        RunnerRequest, inspect,
    },
    routing::BackendName,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    logs,
    proxy::{Protocol, Proxy, Target},
    subject::{BootstrapKind, Subject},
};

/// A configuration needs the key of an App, which nothing here uses.
const KEY: &str = include_str!("../../../host/src/config/testdata/rsa.pem");
/// Between two looks at what is to become true.
const LOOK: Duration = Duration::from_millis(50);
/// How long machines of the checks are leased.
const LEASE: Duration = Duration::from_secs(3600);
/// Bytes of a secret that nobody may see.
const PIECE: usize = 16;
/// What names and owners begin with, so that an operator knows whose they are.
const PREFIX: &str = "contract";
/// What the host writes in place of a secret that a component tells.
pub(crate) const BLANK: &str = "[secret]";

/// The stage of one run.
pub(crate) struct Stage {
    pub subject: Subject,
    pub host: Arc<Host>,
    pub backend: BackendName,
    pub proxy: Proxy,
    pub description: Arc<Description>,
    /// What no message, log or field may hold.
    pub canary: String,
    wanted: Box<dyn Fn(&str) -> bool + Send + Sync>,
    config: Arc<Config>,
    folder: TempDir,
    count: AtomicUsize,
}

/// A machine that is asked for.
pub(crate) struct Wanted {
    pub name: String,
    pub owner: String,
    pub lease_until: Timestamp,
    pub tags: Vec<(String, String)>,
}

impl Stage {
    pub async fn set(subject: Subject, wanted: Box<dyn Fn(&str) -> bool + Send + Sync>) -> anyhow::Result<Self> {
        logs::collect();
        ensure!(
            subject.component.is_file(),
            "`{}` is not there; build it, for the backends that come with pacer with `make plugins`",
            subject.component.display()
        );
        let folder = tempfile::Builder::new().prefix("pacer-contract-").tempdir()?;
        // In its own words in the log of a program that has others on stage as well.
        static STAGES: AtomicUsize = AtomicUsize::new(0);
        let backend: BackendName = format!("subject-{}", STAGES.fetch_add(1, Ordering::Relaxed)).parse()?;
        let proxy = Proxy::start(subject.endpoint.target.clone(), subject.endpoint.protocol, folder.path())
            .await
            .context("the proxy does not start")?;
        let at = folder.path();
        fs::create_dir(at.join("plugins"))?;
        fs::copy(&subject.component, at.join("plugins/subject.wasm"))?;
        fs::write(at.join("key.pem"), KEY)?;
        fs::set_permissions(at.join("key.pem"), fs::Permissions::from_mode(0o600))?;
        let config = Arc::new(load(&subject, &backend, &proxy, &folder, &subject.pool)?);
        let host = Host::start_with(&config, Arc::new(SystemClock), Compiler::InProcess).await?;
        host.settled().await;
        let status = host.status().into_iter().next().context("the host has no backend")?;
        ensure!(status.health == Health::Ok, "the component is not ready: {:?}", status.health);
        let description = host.described(&backend, subject.patience).await?;
        // Unlike anything else in the log, and long enough to be found in parts.
        let canary = format!("CanaryOfTheContract{:08x}{:016x}", std::process::id(), nanos());
        let count = AtomicUsize::new(0);
        Ok(Self { subject, host, backend, proxy, description, canary, wanted, config, folder, count })
    }

    /// Whether the check of this name is to be made.
    pub fn wants(&self, check: &str) -> bool {
        (self.wanted)(check)
    }

    pub async fn strike(self) {
        drop(self.proxy);
    }

    /// The configuration with these settings for its pool.
    pub fn config(&self, pool: &Value) -> anyhow::Result<Config> {
        load(&self.subject, &self.backend, &self.proxy, &self.folder, pool)
    }

    /// The component, looked at without a grant.
    pub async fn inspect(&self) -> anyhow::Result<Inspection> {
        let plugins = &self.config.plugins;
        Ok(inspect(&self.subject.component, &plugins.limits, &plugins.cache_dir, Compiler::InProcess).await?)
    }

    /// Whether a text has a part of the secret in it that is long enough to be of use.
    pub fn holds_secret(&self, text: &str) -> bool {
        let mut pieces = self.canary.as_bytes().windows(PIECE);
        pieces.any(|piece| text.as_bytes().windows(PIECE).any(|window| window == piece))
    }

    /// Whether a text that came through the host shows that the component told the secret: the host blanks it out.
    pub fn tells_secret(&self, text: &str) -> bool {
        text.contains(BLANK) || self.holds_secret(text)
    }

    pub fn can(&self, capability: &str) -> bool {
        self.description.capabilities.iter().any(|one| one == capability)
    }

    /// A name for a machine that no other run has.
    pub fn name(&self) -> String {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{PREFIX}-{}-{number}", std::process::id())
    }

    /// An owner that no other check has.
    pub fn owner(&self) -> String {
        format!("{}-owner", self.name())
    }

    pub fn wanted(&self, owner: &str) -> Wanted {
        // Engines keep times in milliseconds, some in seconds.
        let now = Timestamp::from_second(SystemClock.now().as_second()).unwrap_or_default();
        let lease_until = now.checked_add(LEASE).unwrap_or(Timestamp::MAX);
        let tags = [("project", "contract"), ("pool", "small"), ("target", "repo:octocat/hello-world")];
        let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Wanted { name: self.name(), owner: owner.to_owned(), lease_until, tags }
    }

    pub async fn create(&self, wanted: &Wanted) -> Result<Instance, BackendError> {
        self.create_within(wanted, self.subject.patience).await
    }

    pub async fn create_within(&self, wanted: &Wanted, deadline: Duration) -> Result<Instance, BackendError> {
        self.create_with(wanted, &self.subject.pool, self.subject.bootstrap, deadline).await
    }

    pub async fn create_with(
        &self,
        wanted: &Wanted,
        pool: &Value,
        bootstrap: BootstrapKind,
        deadline: Duration,
    ) -> Result<Instance, BackendError> {
        let request = RunnerRequest {
            name: RunnerName::new(wanted.name.as_str()),
            owner: wanted.owner.clone(),
            labels: ["self-hosted", "linux"].map(String::from).into(),
            settings: pool.clone(),
            bootstrap: bootstrap.holding(&self.canary),
            secrets: vec![SecretString::from(self.canary.as_str())],
            lease_until: wanted.lease_until,
            tags: wanted.tags.clone(),
        };
        self.host.create(&self.backend, Arc::new(request), deadline).await
    }

    pub async fn get(&self, handle: &str) -> Result<Option<Instance>, BackendError> {
        self.host.get(&self.backend, handle, self.subject.patience).await
    }

    pub async fn list(&self, owner: &str) -> Result<Vec<Instance>, BackendError> {
        self.host.list(&self.backend, owner, self.subject.patience).await
    }

    pub async fn destroy_once(&self, handle: &str, deadline: Duration) -> Result<Destruction, BackendError> {
        self.host.destroy(&self.backend, handle, Duration::ZERO, deadline).await
    }

    /// Takes a machine down for good, as the fleet does: again and again until it is gone.
    pub async fn destroy(&self, handle: &str) -> anyhow::Result<()> {
        let until = Instant::now() + self.subject.patience;
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(LOOK);
            match self.destroy_once(handle, left).await {
                Ok(Destruction::Gone) => return Ok(()),
                Ok(Destruction::Stopping) => {}
                Err(error) if Instant::now() + LOOK >= until => return Err(error.into()),
                Err(error) => tracing::debug!("`{handle}` is not destroyed yet: {error}"),
            }
            ensure!(Instant::now() < until, "`{handle}` is still stopping after {:?}", self.subject.patience);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The names of the owner's machines, as the engine says.
    pub fn at_the_engine(&self, owner: &str) -> anyhow::Result<Vec<String>> {
        tokio::task::block_in_place(|| self.subject.engine.machines(owner)).context("the engine, asked directly")
    }

    pub fn inventory(&self) -> anyhow::Result<BTreeSet<String>> {
        tokio::task::block_in_place(|| self.subject.engine.inventory()).context("the engine, asked directly")
    }

    /// Asks again and again until `look` finds something.
    pub async fn until<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let until = Instant::now() + self.subject.patience;
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            ensure!(Instant::now() < until, "{what} did not come true within {:?}", self.subject.patience);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes down everything of these owners, and sees to it that the engine agrees.
    pub async fn clear(&self, owners: &[String]) -> anyhow::Result<()> {
        self.proxy.disarm();
        for owner in owners {
            for left in self.list(owner).await? {
                self.destroy(&left.handle).await.with_context(|| format!("destroying `{}`", left.name))?;
            }
            self.until("that the engine has no machine of the check left", async || {
                Ok(self.at_the_engine(owner)?.is_empty().then_some(()))
            })
            .await?;
        }
        Ok(())
    }
}

fn nanos() -> i128 {
    SystemClock.now().as_nanosecond()
}

/// The configuration, as an operator would write it.
fn load(
    subject: &Subject,
    name: &BackendName,
    proxy: &Proxy,
    folder: &TempDir,
    pool: &Value,
) -> anyhow::Result<Config> {
    let base = &subject.endpoint.base_path;
    let url = match (proxy.address(), subject.endpoint.protocol) {
        (Target::Unix(path), _) => format!("unix://{}", path.display()),
        (Target::Tcp(address), Protocol::Http) => format!("http://{address}{base}"),
        (Target::Tcp(address), Protocol::Stream) => format!("tcp://{address}"),
    };
    let mut endpoint = subject.endpoint.more.as_object().cloned().unwrap_or_default();
    endpoint.insert("url".to_owned(), url.into());
    let mut backend = json!({ "plugin": "subject", "endpoints": {} });
    backend["endpoints"][&subject.endpoint.name] = endpoint.into();
    // Nothing is said where there is nothing to say: a backend may have no settings at all.
    if subject.settings != json!({}) {
        backend["settings"] = subject.settings.clone();
    }
    let mut small = json!({ "name": "small", "backend": name.as_str(), "settings": pool });
    if subject.bootstrap != BootstrapKind::JitConfig {
        small["bootstrap"] = json!({ "kind": subject.bootstrap.as_str() });
    }
    // Every JSON document is YAML.
    let whole = json!({
        "server": { "addr": "127.0.0.1:3000", "public_url": "https://pacer.example.com" },
        "github": { "app_id": 1, "private_key_path": "key.pem", "webhook_secret": "secret-of-the-contract-suite-0001" },
        "database": { "url": "sqlite:pacer.db" },
        "plugins": { "dir": "plugins", "cache_dir": "cache" },
        "auth": { "disabled": true },
        "backends": { name.as_str(): backend },
        "projects": [{ "name": "contract", "scope": "repo", "repos": ["octocat/hello-world"], "pools": [small] }],
    });
    let path = folder.path().join("config.yaml");
    fs::write(&path, whole.to_string())?;
    Ok(config::load(&path, &ProcessEnvironment)?)
}
