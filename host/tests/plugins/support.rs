//! A plugin host around the guest of `tests/guests`.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use jiff::Timestamp;
use pacer::{
    clock::Clock,
    config::{self, Config, ProcessEnvironment},
    fleet::runner::RunnerName,
    plugins::{BackendError, Backends as _, Bootstrap, Compiler, Health, Host, Instance, RunnerRequest},
    routing::BackendName,
};
use tempfile::TempDir;

/// Long enough for anything that works, on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);
/// What `describe` does, as it stands in the guest.
const ON_DESCRIBE: &str = "on-describe:answer";

pub fn target() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_pacer")).parent().and_then(Path::parent).unwrap();
    beside.to_owned()
}

/// The guest, built once.
pub fn guest() -> &'static [u8] {
    static GUEST: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();
    let built = GUEST.get_or_init(|| {
        let dir = target().join("guests");
        let command = ["build", "--quiet", "--target", "wasm32-wasip2", "-p", "pacer-test-guests", "--target-dir"];
        let built = Command::new(env!("CARGO"))
            .args(command)
            .arg(&dir)
            // What the test itself was built with is not meant for the guest.
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS")
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .unwrap();
        if !built.status.success() {
            return Err(format!(
                "the guest does not build; if its target is missing: rustup target add wasm32-wasip2\n{}",
                String::from_utf8_lossy(&built.stderr)
            ));
        }
        Ok(fs::read(dir.join("wasm32-wasip2/debug/pacer_test_guests.wasm")).unwrap())
    });
    built.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

/// The guest with one text replaced by another of the same length, wherever it occurs.
pub fn altered(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = guest().to_vec();
    let mut found = 0;
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "`{from}` is not in the guest");
    bytes
}

/// The guest with another `describe`.
pub fn describing(what: &str) -> Vec<u8> {
    altered(ON_DESCRIBE, what)
}

/// A configuration in a directory of its own.
pub struct World {
    pub dir: TempDir,
    pub config: Arc<Config>,
}

/// Compiled code is shared by the tests that do not ask how it came to be.
fn shared_cache() -> PathBuf {
    let dir = target().join("guests/cache");
    if !dir.exists() {
        fs::create_dir_all(&dir).unwrap();
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

impl World {
    /// `backends` is the YAML of that section, `more` of whatever else.
    pub fn new(backends: &str, more: &str) -> Self {
        Self::with_cache(&shared_cache(), backends, more)
    }

    pub fn with_cache(cache: &Path, backends: &str, more: &str) -> Self {
        Self::with(cache, &[], backends, more)
    }

    /// With these files beside the configuration.
    pub fn with_files(files: &[(&str, &str)], backends: &str, more: &str) -> Self {
        Self::with(&shared_cache(), files, backends, more)
    }

    fn with(cache: &Path, files: &[(&str, &str)], backends: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::create_dir(dir.path().join("plugins")).unwrap();
        let world = dir.path().join("plugins/guest.wasm");
        fs::write(world, guest()).unwrap();
        let config = Arc::new(read(dir.path(), cache, backends, more));
        Self { dir, config }
    }

    pub fn put(&self, plugin: &str, wasm: &[u8]) -> PathBuf {
        let path = self.dir.path().join("plugins").join(format!("{plugin}.wasm"));
        fs::write(&path, wasm).unwrap();
        path
    }

    pub async fn start(&self) -> Arc<Host> {
        self.start_at(Arc::new(TestClock::default())).await
    }

    pub async fn start_at(&self, clock: Arc<TestClock>) -> Arc<Host> {
        collect_log();
        let host = Host::start_with(&self.config, clock, Compiler::InProcess).await.unwrap();
        host.settled().await;
        host
    }
}

fn read(dir: &Path, cache: &Path, backends: &str, more: &str) -> Config {
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/testdata/rsa.pem");
    fs::copy(key, dir.join("key.pem")).unwrap();
    fs::set_permissions(dir.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    let projects = if more.contains("projects:") {
        ""
    } else {
        "projects: [{ name: p, scope: repo, repos: [o/r], pools: [{ name: small, backend: guest }] }]"
    };
    let plugins = if more.contains("plugins:") {
        String::new()
    } else {
        format!("plugins: {{ dir: plugins, cache_dir: \"{}\" }}", cache.display())
    };
    let text = format!(
        r#"
server: {{ addr: "127.0.0.1:3000", public_url: "http://127.0.0.1:3000" }}
github: {{ app_id: 1, private_key_path: key.pem, webhook_secret: s3cret-s3cret-s3cret, api_url: "http://127.0.0.1:9" }}
database: {{ url: "sqlite:pacer.db" }}
auth: {{ disabled: true }}
{plugins}
{projects}
backends:
{backends}
{}
"#,
        more.replace("CACHE", &cache.display().to_string())
    );
    let path = dir.join("config.yaml");
    fs::write(&path, &text).unwrap();
    match config::load(&path, &ProcessEnvironment) {
        Ok(config) => config,
        Err(error) => panic!("{error:#?}\n{text}"),
    }
}

/// A host with one plain backend, `guest`.
pub async fn host() -> (World, Arc<Host>) {
    host_with("").await
}

/// A host with one backend, `guest`, and these keys in its section, as YAML in one line.
pub async fn host_with(keys: &str) -> (World, Arc<Host>) {
    let world = World::new(&format!("  guest: {{ plugin: guest{} }}", comma(keys)), "");
    let host = world.start().await;
    assert_eq!(health(&host, "guest"), Health::Ok);
    (world, host)
}

fn comma(keys: &str) -> String {
    if keys.is_empty() { String::new() } else { format!(", {keys}") }
}

pub fn name(name: &str) -> BackendName {
    name.parse().unwrap()
}

pub fn health(host: &Host, backend: &str) -> Health {
    host.status().into_iter().find(|status| status.name == name(backend)).unwrap().health
}

pub fn down(host: &Host, backend: &str) -> String {
    let health = health(host, backend);
    let Health::Down(reason) = health else { panic!("it is {health:?}") };
    reason
}

/// Has the guest `guest` behave.
pub async fn run(host: &Host, behaviour: &str) -> Result<String, BackendError> {
    run_on(host, "guest", behaviour, LONG).await
}

pub async fn run_on(host: &Host, backend: &str, behaviour: &str, deadline: Duration) -> Result<String, BackendError> {
    host.console_log(&name(backend), behaviour, 1 << 20, deadline).await
}

pub async fn create(host: &Host, runner: &str, pool: serde_json::Value) -> Result<Instance, BackendError> {
    host.create(&name("guest"), request(runner, pool, "the-bootstrap").into(), LONG).await
}

pub fn request(runner: &str, pool: serde_json::Value, bootstrap: &str) -> RunnerRequest {
    RunnerRequest {
        name: RunnerName::new(runner),
        owner: "app-1".into(),
        labels: vec!["self-hosted".into()],
        settings: pool,
        bootstrap: Bootstrap::JitConfig(bootstrap.to_owned().into()),
        secrets: Vec::new(),
        lease_until: Timestamp::from_second(2_000_000_000).unwrap(),
        tags: vec![],
    }
}

/// That the backend is as good as new: what a call did to its store harmed that call alone.
pub async fn assert_works(host: &Host, backend: &str) {
    assert_eq!(run_on(host, backend, "say hello", LONG).await.unwrap(), "hello");
}

/// A clock that is moved by hand.
#[derive(Debug)]
pub struct TestClock(Mutex<Timestamp>);

impl Default for TestClock {
    fn default() -> Self {
        Self(Mutex::new(Timestamp::from_second(1_900_000_000).unwrap()))
    }
}

impl TestClock {
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap();
        *now = now.checked_add(by).unwrap();
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Shared;

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn collect_log() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_env_filter("pacer=trace").with_writer(|| Shared).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// What was logged so far, by all tests of this process.
pub fn log() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned()
}

/// The lines about one backend.
pub fn log_of(backend: &str) -> Vec<String> {
    let field = format!("backend.name={backend} ");
    log().lines().filter(|line| line.contains(&field)).map(str::to_owned).collect()
}
