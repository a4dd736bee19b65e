//! A double of Hetzner Cloud: the real one cannot be had without an account.

use std::{collections::BTreeSet, net::SocketAddr, sync::OnceLock, time::Duration};

use anyhow::Context as _;
use pacer::plugins::ErrorKind;
use pacer_contract::{
    BootstrapKind, Endpoint, Engine, Refusal, Subject,
    proxy::{Protocol, Target},
};
use pacer_simulator::hetzner;
use pacer_tests::world::World;
use serde_json::{Value, json};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::instance::{Instances, Records};
use crate::scenarios::Place;

/// No single thing takes it longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A project for one run.
pub struct Hetzner {
    project: hetzner::Hetzner,
    address: SocketAddr,
    _ending: DropGuard,
    instances: OnceLock<Instances>,
}

struct Direct(hetzner::Hetzner);

impl Hetzner {
    pub async fn start() -> Self {
        let (project, ending) = (hetzner::Hetzner::default(), CancellationToken::new());
        let address = project.serve(&TaskTracker::new(), ending.clone()).await.expect("a port is free");
        Self { project, address, _ending: ending.drop_guard(), instances: OnceLock::new() }
    }

    pub fn subject(&self) -> Subject {
        let body = |code: &str| json!({ "error": { "code": code, "message": "so says the double" } }).to_string();
        let mut refusals = Refusal::of_http("application/json", |status| {
            body(match status {
                401 => "unauthorized",
                403 => "forbidden",
                404 => "not_found",
                409 => "uniqueness_error",
                429 => "rate_limit_exceeded",
                _ => "server_error",
            })
        });
        let codes = [
            (403, "resource_limit_exceeded", ErrorKind::Quota),
            // Not of two things: of two changes of one thing, of which the second is to be tried again.
            (409, "conflict", ErrorKind::Unavailable),
            (412, "resource_unavailable", ErrorKind::Capacity),
            (423, "locked", ErrorKind::Unavailable),
        ];
        refusals.extend(
            codes.map(|(status, code, kind)| Refusal::new(status, body(code), "application/json", kind).named(code)),
        );
        Subject {
            name: "hetzner".to_owned(),
            component: super::component("hetzner"),
            settings: json!({}),
            pool: json!({ "server_types": ["cx23"], "image": "debian-12" }),
            endpoint: Endpoint {
                name: "hetzner".to_owned(),
                target: Target::Tcp(self.address),
                protocol: Protocol::Http,
                base_path: String::new(),
                more: json!({ "credential": { "bearer": "a-token-that-the-double-takes" } }),
            },
            bootstrap: BootstrapKind::CloudInit,
            runs: true,
            patience: PATIENCE,
            // One more than a page of its listing has.
            crowd: 51,
            pages: true,
            uses_up_names: false,
            grace: None,
            at_once: 4,
            refusals,
            engine: Box::new(Direct(self.project.clone())),
        }
    }
}

impl Place for Hetzner {
    fn subject(&self) -> Subject {
        Hetzner::subject(self)
    }

    fn pool(&self, _world: &World) -> Value {
        self.instances.get_or_init(|| Instances::start(Direct(self.project.clone())));
        Hetzner::subject(self).pool
    }

    /// One request makes a server.
    fn lost_answers(&self) -> &'static [usize] {
        &[1]
    }

    fn keeps_what_is_paid(&self) -> bool {
        true
    }

    fn pull_the_plug(&self, machine: &str) -> anyhow::Result<()> {
        Direct(self.project.clone()).remove_stranger(machine)
    }
}

impl Direct {
    fn named(&self, name: &str) -> anyhow::Result<u64> {
        let machines = self.0.machines();
        let found = machines.iter().find(|(_, machine)| machine.name == name);
        found.map(|(id, _)| *id).with_context(|| format!("there is no server `{name}`"))
    }
}

impl Engine for Direct {
    fn machines(&self, owner: &str) -> anyhow::Result<Vec<String>> {
        let machines = self.0.machines().into_values();
        let mine = machines.filter(|machine| machine.labels.get("pacer-owner").is_some_and(|one| one == owner));
        Ok(mine.map(|machine| machine.name).collect())
    }

    fn make_stranger(&self, name: &str) -> anyhow::Result<()> {
        self.0.stranger(name);
        Ok(())
    }

    fn remove_stranger(&self, name: &str) -> anyhow::Result<()> {
        self.0.remove(self.named(name)?);
        Ok(())
    }

    fn hold(&self, name: &str) -> anyhow::Result<bool> {
        self.0.label(self.named(name)?, "pacer.hold", "1");
        Ok(true)
    }

    fn inventory(&self) -> anyhow::Result<BTreeSet<String>> {
        Ok(self.0.machines().into_values().map(|machine| format!("instance {}", machine.name)).collect())
    }
}

impl Records for Direct {
    type Id = u64;

    fn ids(&self) -> anyhow::Result<Vec<u64>> {
        let machines = self.0.machines();
        let ours = machines.iter().filter(|(_, machine)| machine.labels.contains_key("pacer-owner"));
        Ok(ours.map(|(id, _)| *id).collect())
    }

    fn user_data(&self, id: &u64) -> anyhow::Result<String> {
        Ok(self.0.machines().remove(id).context("it is gone")?.user_data)
    }

    fn runs(&self, id: &u64) -> anyhow::Result<bool> {
        Ok(self.0.machines().get(id).is_some_and(|machine| matches!(machine.status, "initializing" | "running")))
    }

    fn is_off(&self, id: &u64) {
        self.0.power_off(*id);
    }
}
