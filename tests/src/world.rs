//! What is around the server in a story: GitHub with its App, and a cloud where machines come from.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use pacer_simulator::{
    Settings, Simulator,
    github::{self, NewJob},
};

use crate::{
    engine::{Engine, RUNNER_IMAGE},
    libvirt::{self, Libvirtd},
    pacer::{Builder, TestPacer, WEBHOOK_SECRET},
    wait::eventually,
};

/// The repository that the project of the stories is bound to.
pub const REPO: &str = "octocat/hello-world";

/// An organisation, and a repository of it.
pub const ORG: &str = "acme";
pub const ORG_REPO: &str = "acme/widgets";

/// The App of the stories.
pub const APP_ID: u64 = 123_456;

/// How long the jobs of a story may take to be served, and their machines to go.
const SERVED: Duration = Duration::from_secs(60);

/// The surroundings of one story. They end with the test's runtime.
pub struct World {
    pub simulator: Simulator,
}

impl World {
    /// GitHub and a cloud that do as they should.
    pub async fn start() -> Self {
        Self::with_seed(1).await
    }

    /// As [`World::start`], with other random choices.
    pub async fn with_seed(seed: u64) -> Self {
        Self::with(github::Settings { seed, ..github::Settings::default() }).await
    }

    /// As [`World::start`], with the organisation [`ORG`] instead: it has the repository [`ORG_REPO`] and the runner group
    /// `builders`.
    pub async fn with_org() -> Self {
        let settings = github::Settings {
            repos: vec![ORG_REPO.to_owned()],
            orgs: vec![ORG.to_owned()],
            runner_groups: vec!["builders".to_owned()],
            ..github::Settings::default()
        };
        Self::with(settings).await
    }

    async fn with(github: github::Settings) -> Self {
        let github = github::Settings {
            app_id: APP_ID,
            webhook_secret: WEBHOOK_SECRET.to_owned(),
            lost_after: Duration::from_secs(2),
            ..github
        };
        let settings = Settings { github, ..Settings::default() };
        Self { simulator: Simulator::start(settings).await.expect("the simulator can be served") }
    }

    /// A server for the App, without backends and projects.
    pub fn bare(&self) -> Builder {
        Builder::new(APP_ID, self.simulator.github.private_key_pem(), &self.simulator.github_url)
    }

    /// A server with the project `my-app`: one pool, `small`, on the cloud.
    pub fn pacer(&self) -> Builder {
        self.bare().backends(&self.cloud_backend()).projects(&project("sim", "{}"))
    }

    /// A server with the project `my-app` for the whole organisation, in its runner group.
    pub fn pacer_for_org(&self) -> Builder {
        let scope = format!("scope: org\n    org: {ORG}\n    runner_group: builders");
        let project = project("sim", "{}").replace(&format!("scope: repo\n    repos: [{REPO}]"), &scope);
        self.bare().backends(&self.cloud_backend()).projects(&project)
    }

    /// As [`World::pacer`], with machines that fetch their configuration from pacer.
    pub fn pacer_with_scripts(&self) -> Builder {
        let project = project("sim", "{}")
            .replace("        settings:", "        bootstrap: { kind: start-script }\n        settings:");
        self.bare().backends(&self.cloud_backend()).projects(&project)
    }

    /// The backend `sim`, as YAML.
    pub fn cloud_backend(&self) -> String {
        format!("  sim: {{ plugin: simulated, endpoints: {{ cloud: \"{}\" }}, poll: 1s }}", self.simulator.cloud_url)
    }

    /// As [`World::pacer`], with the pool on a real engine.
    pub fn pacer_on(&self, engine: &Engine) -> Builder {
        let backend =
            format!("  engine: {{ plugin: docker, endpoints: {{ engine: \"{}\" }}, poll: 1s }}", engine.endpoint());
        let settings = format!(
            "{{ image: \"{RUNNER_IMAGE}\", pull: never, network: host, command: [\"/bin/sh\", \"/runner.sh\"] }}"
        );
        self.bare().backends(&backend).projects(&project("engine", &settings))
    }

    /// As [`World::pacer`], with the pool on virtual machines that fetch their configuration from pacer.
    pub fn pacer_on_machines(&self, daemon: &Libvirtd) -> Builder {
        let backend = format!(
            "  vm: {{ plugin: libvirt, poll: 1s, endpoints: {{ libvirt: \"{}\" }}, settings: {{ uri: \"qemu:///session\", \
             cpu_overcommit: 100, memory_reserve: 1m }} }}",
            daemon.endpoint()
        );
        let project = project("vm", &daemon.pool().to_string())
            .replace("boot: 20s", "boot: 120s, create: 60s")
            .replace("        settings:", "        bootstrap: { kind: start-script }\n        settings:");
        self.bare().backends(&backend).projects(&project).host_of_machines(libvirt::HOST)
    }

    /// Has GitHub deliver to this server from now on.
    pub fn deliver_to(&self, pacer: &TestPacer) {
        self.simulator.github.set_webhook_url(&pacer.webhook_url());
    }

    /// Queues so many jobs for the pool.
    pub fn queue(&self, count: usize, duration: Duration) -> Vec<u64> {
        (0..count)
            .map(|_| self.simulator.github.queue(NewJob::new(REPO, &["self-hosted", "linux", "x64"], duration)))
            .collect()
    }

    /// Waits until every job that was queued is over, and makes sure that none was cut off in its middle.
    pub async fn served(&self) {
        eventually("every job is over", SERVED, async || (self.simulator.summary().open() == 0).then_some(())).await;
        assert_eq!(
            self.simulator.summary().lost,
            0,
            "jobs were lost with their machines: {:?}",
            self.simulator.audit()
        );
    }

    /// Machines that did no job, and whose making no end of the server cut off: nobody needed them.
    pub async fn unneeded_machines(&self, pacer: &TestPacer) -> Vec<String> {
        let working: HashSet<String> = self.simulator.github.jobs().into_iter().filter_map(|job| job.runner).collect();
        let errors: HashMap<String, Option<String>> =
            pacer.api.runners().await.into_iter().map(|runner| (runner.name, runner.error)).collect();
        let made = self.simulator.cloud.made().into_keys().filter(|name| !working.contains(name));
        made.map(|name| {
            let error = errors.get(&name).cloned().flatten().unwrap_or_else(|| "no error".to_owned());
            (name, error)
        })
        .filter(|(_, error)| !error.contains("pacer was restarted"))
        .map(|(name, error)| format!("machine `{name}` did no job: {error}"))
        .collect()
    }

    /// Waits until nothing is left at GitHub and in the cloud, and makes sure that nothing went wrong on the way.
    pub async fn settled(&self) {
        self.served().await;
        eventually("no machine and no registration is left", SERVED, async || {
            self.simulator.left().is_empty().then_some(())
        })
        .await;
        assert_eq!(self.simulator.audit(), Vec::<String>::new());
    }
}

/// The project `my-app` with one pool, `small`, as YAML.
pub fn project(backend: &str, settings: &str) -> String {
    format!(
        "  - name: my-app
    scope: repo
    repos: [{REPO}]
    pools:
      - name: small
        backend: {backend}
        default: true
        priority: 100
        labels: [linux, x64]
        max_runners: 10
        timeouts: {{ idle: 5s, boot: 20s, stop: 10s }}
        settings: {settings}"
    )
}

/// The simulator's runner for containers.
pub fn runner_script() -> PathBuf {
    crate::binaries::source_root().join("tests/simulator/runner.sh")
}
