//! What is around the server in a story: an App with its key at a GitHub, and where machines come from.

use std::sync::OnceLock;

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::pacer::Builder;

/// The repository that the project of the stories is bound to.
pub const REPO: &str = "octocat/hello-world";

/// The App of the stories.
pub const APP_ID: u64 = 123_456;

/// The surroundings of one story. What runs in them ends with this value.
#[derive(Debug)]
pub struct World {
    github: String,
    cloud: String,
}

impl World {
    /// Surroundings in which nobody answers.
    pub fn silent() -> Self {
        // The discard port: reserved, and nobody listens on it.
        Self { github: "http://127.0.0.1:9".into(), cloud: "http://127.0.0.1:9".into() }
    }

    /// A server for the App in these surroundings: the project `my-app` with one pool `small` on the backend `sim`.
    pub fn pacer(&self) -> Builder {
        let cloud = &self.cloud;
        Builder::new(APP_ID, app_key(), &self.github)
            .backends(&format!("  sim: {{ plugin: simulated, endpoints: {{ cloud: \"{cloud}\" }} }}"))
            .projects(
                "  - name: my-app
    scope: repo
    repos: [octocat/hello-world]
    pools:
      - name: small
        backend: sim
        default: true
        priority: 100
        labels: [linux, x64]
        max_runners: 10",
            )
    }
}

/// The App's private key: made once for a run of the tests, and known to nobody.
pub fn app_key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("the machine has randomness");
        let der: Pkcs8V1Der<'_> = pair.as_der().expect("a new key can be written down");
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is text")).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    })
}
