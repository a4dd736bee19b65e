//! What is put to the test, and how to look at its engine past it.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use pacer::plugins::{Bootstrap, ErrorKind};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::proxy::{Answer, Protocol, Target};

/// The engine, asked directly: over a connection of its own, or by its own client.
pub trait Engine: Send + Sync {
    /// The names of the machines of `owner`, in whatever state.
    fn machines(&self, owner: &str) -> anyhow::Result<Vec<String>>;

    /// Makes a machine that is nobody's of pacer's, with this name.
    fn make_stranger(&self, name: &str) -> anyhow::Result<()>;

    fn remove_stranger(&self, name: &str) -> anyhow::Result<()>;

    /// Marks a machine to be kept, as an operator does. False where a machine can only be made so, with the tag `hold`.
    fn hold(&self, _name: &str) -> anyhow::Result<bool> {
        Ok(false)
    }

    /// Everything that a machine could leave behind: machines, disks, networks, records. Compared before and after.
    fn inventory(&self) -> anyhow::Result<BTreeSet<String>>;
}

/// The endpoint that a component asks for.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// As the component calls it.
    pub name: String,
    /// Where the engine really listens; the component gets a proxy's address instead.
    pub target: Target,
    pub protocol: Protocol,
    /// What follows the address in the granted URL: `/api`, or nothing.
    pub base_path: String,
    /// The other keys of the endpoint in the configuration, such as `credential`.
    pub more: Value,
}

/// Which bootstrap machines are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootstrapKind {
    JitConfig,
    StartScript,
    CloudInit,
}

impl BootstrapKind {
    /// As it is written in a description and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JitConfig => "jit-config",
            Self::StartScript => "start-script",
            Self::CloudInit => "cloud-init",
        }
    }

    /// A bootstrap that does nothing and holds this secret.
    pub(crate) fn holding(self, secret: &str) -> Bootstrap {
        match self {
            Self::JitConfig => Bootstrap::JitConfig(SecretString::from(secret)),
            Self::StartScript => Bootstrap::StartScript(SecretString::from(format!("#!/bin/sh\n: {secret}\n"))),
            Self::CloudInit => {
                Bootstrap::CloudInit(SecretString::from(format!("#cloud-config\nfinal_message: {secret}\n")))
            }
        }
    }
}

/// A refusal in the words of the engine's protocol, and the kind of error it means.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What it is called in the report.
    pub name: String,
    pub answer: Answer,
    pub kind: ErrorKind,
    pub retry_after: Option<Duration>,
    /// What was named does not exist: `get` answers none to it and `destroy` that it is gone.
    pub absent: bool,
}

impl Refusal {
    /// A refusal by status with a body of the engine's making.
    pub fn new(status: u16, body: impl Into<String>, content_type: &str, kind: ErrorKind) -> Self {
        Self {
            name: status.to_string(),
            answer: Answer::new(status, body).header("content-type", content_type),
            kind,
            retry_after: None,
            absent: status == 404,
        }
    }

    /// The refusals that every HTTP API has, each with the body that `body` makes of its status.
    pub fn of_http(content_type: &str, body: impl Fn(u16) -> String) -> Vec<Self> {
        let kinds = [
            (401, ErrorKind::Unauthorized),
            (403, ErrorKind::Unauthorized),
            (404, ErrorKind::NotFound),
            (409, ErrorKind::Conflict),
            (500, ErrorKind::Unavailable),
            (503, ErrorKind::Unavailable),
        ];
        let mut all: Vec<_> =
            kinds.into_iter().map(|(status, kind)| Self::new(status, body(status), content_type, kind)).collect();
        all.push(Self::new(429, body(429), content_type, ErrorKind::RateLimited).retry_after(Duration::from_secs(7)));
        all
    }

    /// [`Refusal::of_http`] with bodies `{"message": …}`.
    pub fn of_json() -> Vec<Self> {
        Self::of_http("application/json", |status| json!({ "message": format!("refused with {status}") }).to_string())
    }

    /// With `Retry-After`, which the backend passes on.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.answer = self.answer.header("retry-after", &wait.as_secs().to_string());
        self.retry_after = Some(wait);
        self
    }

    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }
}

/// Machines that are asked to go down, for the capability `console-log`.
#[derive(Debug, Clone)]
pub struct Grace {
    /// Settings of a pool whose machines go down when they are asked to.
    pub listens: Value,
    /// Settings of a pool whose machines do not.
    pub deaf: Value,
    /// What the log of the one that listens says as soon as it does.
    pub ready: String,
}

/// A backend that is put to the test.
pub struct Subject {
    /// For people.
    pub name: String,
    /// The built `.wasm`.
    pub component: PathBuf,
    /// The backend's own settings.
    pub settings: Value,
    /// A pool's settings. Its machines should stay until they are taken down.
    pub pool: Value,
    pub endpoint: Endpoint,
    pub bootstrap: BootstrapKind,
    /// Whether a machine comes to run with a bootstrap that means nothing.
    pub runs: bool,
    /// The longest that any one call, or a machine's start or end, takes a healthy engine.
    pub patience: Duration,
    /// How many machines are listed at once: more than a page has where machines are cheap.
    pub crowd: usize,
    /// Whether that is more than a page has.
    pub pages: bool,
    /// Machines made at once by the same name.
    pub at_once: usize,
    /// Whether a name whose first `create` lost its answer may be used up: the next one then says that it is over.
    pub uses_up_names: bool,
    /// None where no machine can be made to listen, or none can be made not to.
    pub grace: Option<Grace>,
    /// Empty where the protocol is not HTTP.
    pub refusals: Vec<Refusal>,
    pub engine: Box<dyn Engine>,
}
