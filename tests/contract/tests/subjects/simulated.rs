//! The simulator's small cloud, in this process.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};
use pacer::plugins::ErrorKind;
use pacer_contract::{
    BootstrapKind, Endpoint, Engine, Refusal, Subject,
    proxy::{Protocol, Target},
};
use pacer_simulator::{Settings, Simulator};
use serde_json::json;

/// No single thing takes it longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// One more than a page of its listing has.
const CROWD: usize = 501;
/// Machines that never come up stay until they are taken down: the runner in them has no GitHub to register with.
const BOOT_MS: u64 = 3_600_000;

/// A cloud for one run.
pub struct Cloud(Simulator);

struct Direct {
    cloud: pacer_simulator::cloud::Cloud,
    address: SocketAddr,
}

impl Cloud {
    pub async fn start() -> Self {
        Self(Simulator::start(Settings::default()).await.expect("the simulator can be served"))
    }

    pub async fn stop(self) {
        assert_eq!(self.0.audit(), Vec::<String>::new());
        self.0.stop().await;
    }

    pub fn subject(&self) -> Subject {
        let address = self.0.cloud_url.trim_start_matches("http://").parse().expect("a socket's address");
        let mut refusals = Refusal::of_json();
        let codes = [
            ("capacity", 507, ErrorKind::Capacity),
            ("quota", 403, ErrorKind::Quota),
            ("invalid", 422, ErrorKind::InvalidRequest),
            ("interrupted", 410, ErrorKind::Interrupted),
        ];
        refusals.extend(codes.map(|(code, status, kind)| {
            let body = json!({ "code": code, "message": "so says the cloud" }).to_string();
            Refusal::new(status, body, "application/json", kind).named(code)
        }));
        Subject {
            name: "simulated".to_owned(),
            component: super::component("simulated"),
            settings: json!({}),
            pool: json!({ "boot_ms": BOOT_MS, "size": "small" }),
            endpoint: Endpoint {
                name: "cloud".to_owned(),
                target: Target::Tcp(address),
                protocol: Protocol::Http,
                base_path: String::new(),
                more: json!({}),
            },
            bootstrap: BootstrapKind::JitConfig,
            runs: false,
            patience: PATIENCE,
            crowd: CROWD,
            pages: true,
            uses_up_names: false,
            grace: None,
            at_once: 8,
            refusals,
            engine: Box::new(Direct { cloud: self.0.cloud.clone(), address }),
        }
    }
}

impl Direct {
    /// One request, without any library that the host uses.
    fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: cloud\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {}", answer.lines().next().unwrap_or_default());
        Ok(answer)
    }
}

impl Engine for Direct {
    fn machines(&self, owner: &str) -> anyhow::Result<Vec<String>> {
        let all = self.cloud.machines().into_iter();
        Ok(all.filter(|machine| machine.owner == owner).map(|machine| machine.name).collect())
    }

    fn make_stranger(&self, name: &str) -> anyhow::Result<()> {
        let body = json!({ "owner": "somebody", "jit_config": "none", "lease_until_ms": 0, "boot_ms": BOOT_MS });
        self.ask("PUT", &format!("/v1/machines/{name}"), &body.to_string()).map(drop)
    }

    fn remove_stranger(&self, name: &str) -> anyhow::Result<()> {
        let machine = self.cloud.machines().into_iter().find(|machine| machine.name == name).context("it is gone")?;
        self.ask("DELETE", &format!("/v1/machines/{}", machine.id), "").map(drop)
    }

    fn inventory(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.cloud.machines().into_iter().map(|machine| machine.name).collect())
    }
}
