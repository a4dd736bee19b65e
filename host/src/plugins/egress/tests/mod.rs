//! The egress against servers on this machine, without a component.

mod http;
mod proxied;
mod server;
mod signed;
mod sigv4;
mod stream;
mod tls;
mod tokens;

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use ::http::Request;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use wasmtime_wasi_http::{Error as Code, WasiBody};

use super::{CallEgress, Egress};
use crate::{
    clock::{Clock, SharedClock},
    config::{Backend, Credential, Endpoint, EndpointTarget, PluginLimits},
    plugins::{log::CallLog, redact::Secrets},
};

/// Far more than any exchange on this machine takes.
const LONG: Duration = Duration::from_secs(60);
/// For what is meant to run out.
const SHORT: Duration = Duration::from_millis(50);

struct Fixture {
    egress: Arc<Egress>,
    tasks: TaskTracker,
    clock: Arc<Hand>,
}

/// A clock that is moved by hand.
#[derive(Debug)]
struct Hand(Mutex<Timestamp>);

impl Hand {
    fn pass(&self, by: Duration) {
        let mut now = self.0.lock().unwrap();
        *now = now.checked_add(by).unwrap();
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

impl Fixture {
    fn new(endpoints: impl IntoIterator<Item = (&'static str, Endpoint)>) -> Self {
        Self::limited(PluginLimits::default(), endpoints)
    }

    fn limited(limits: PluginLimits, endpoints: impl IntoIterator<Item = (&'static str, Endpoint)>) -> Self {
        let endpoints: BTreeMap<_, _> =
            endpoints.into_iter().map(|(name, endpoint)| (name.parse().unwrap(), endpoint)).collect();
        let backend = Backend {
            name: "main".parse().unwrap(),
            plugin: "docker".to_owned(),
            digest: None,
            endpoints,
            settings: serde_json::json!({}),
            limits,
            poll: LONG,
        };
        let tasks = TaskTracker::new();
        let clock = Arc::new(Hand(Mutex::new("2026-08-30T12:36:00Z".parse().unwrap())));
        let shared: SharedClock = clock.clone();
        Self { egress: Arc::new(Egress::new(&backend, &shared, tasks.clone()).unwrap()), tasks, clock }
    }

    fn call(&self) -> CallEgress {
        self.call_until(LONG)
    }

    /// The component of this call may not log a byte itself.
    fn call_until(&self, deadline: Duration) -> CallEgress {
        let secrets = Secrets::new(self.egress.secrets(), vec!["hunter2-hunter2".into()]);
        let log = CallLog::new("main".into(), "create", "op-1".into(), None, secrets, 0);
        CallEgress::new(self.egress.clone(), Instant::now() + deadline, log)
    }

    fn idle(&self, endpoint: &str) -> usize {
        self.egress.routes[&endpoint.parse().unwrap()].pool.len()
    }
}

fn endpoint(target: EndpointTarget) -> Endpoint {
    Endpoint { target, ca: None, identity: None, credential: None, proxy: None }
}

fn http(port: u16) -> EndpointTarget {
    EndpointTarget::Http { tls: false, host: "127.0.0.1".into(), port, base_path: String::new() }
}

fn guarded(target: EndpointTarget, credential: Credential) -> Endpoint {
    Endpoint { credential: Some(credential), ..endpoint(target) }
}

fn get(uri: &str) -> Request<WasiBody> {
    Request::get(uri).body(empty()).unwrap()
}

fn empty() -> WasiBody {
    Empty::new().map_err(Code::from).boxed_unsync()
}

fn full(bytes: &'static [u8]) -> WasiBody {
    Full::new(Bytes::from_static(bytes)).map_err(Code::from).boxed_unsync()
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let logged = Self::default();
        let writer = logged.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (logged, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
