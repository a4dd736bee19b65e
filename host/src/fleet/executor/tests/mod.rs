//! The fleet with its real store, and with a GitHub and an engine that do what the test says.

mod fakes;
mod given_up;
mod looks;
mod tasks;
mod vanished;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tempfile::TempDir;

pub use fakes::{Create, FakeEngine, FakeGitHub, backend_error, machine};

use super::*;
use crate::{
    clock::{Clock, SystemClock},
    fleet::{
        Fleet,
        job::{Assignment, Job, JobFact, JobKey, Phase},
        runner::{RunnerChange, RunnerState},
        tests::config,
    },
    store::{Ingest, RunnerFilter},
};

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);

/// The machine's clock, and what a test puts on top.
#[derive(Debug, Default)]
pub struct Later(AtomicU64, AtomicBool);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        assert!(!self.1.load(Ordering::Relaxed), "the test breaks whoever asks");
        SystemClock.now() + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

pub struct Stage {
    pub github: Arc<FakeGitHub>,
    pub engine: Arc<FakeEngine>,
    pub store: Store,
    clock: Arc<Later>,
    _folder: TempDir,
}

impl Stage {
    pub async fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Later::default());
        let url = format!("sqlite:{}", folder.path().join("pacer.db").display());
        let store = Store::open(&url, clock.clone()).await.unwrap();
        Self { github: Arc::default(), engine: Arc::default(), store, clock, _folder: folder }
    }

    pub fn parts(&self) -> Parts {
        let config = config(|_, _| {});
        Parts {
            store: self.store.clone(),
            github: self.github.clone(),
            backends: self.engine.clone(),
            clock: self.clock.clone(),
            tokens: Arc::new(Tokens::new(&"key".into())),
            route: crate::serve::route(&config),
            config,
        }
    }

    pub async fn fleet(&self) -> Fleet {
        Fleet::start(self.parts()).await.unwrap()
    }

    /// Time passes, and the fleet notices.
    pub fn later(&self, fleet: &Fleet, by: Duration) {
        self.clock.0.fetch_add(by.as_secs(), Ordering::Relaxed);
        fleet.executor.wake.notify_one();
    }

    pub fn fact(&self, id: i64, phase: Phase, runner: Option<&RunnerName>) -> JobFact {
        JobFact {
            key: JobKey { id, attempt: 1 },
            run_id: id,
            repo: "octocat/app".parse().unwrap(),
            installation_id: Some(7),
            name: format!("job {id}"),
            workflow: None,
            branch: None,
            html_url: None,
            labels: vec!["self-hosted".to_owned()],
            phase,
            runner: runner.map(ToString::to_string),
            created_at: None,
            started_at: None,
            completed_at: None,
        }
    }

    /// GitHub has the job, and its delivery arrives.
    pub async fn deliver(&self, fact: JobFact) {
        self.github.state().jobs.insert(fact.key.id, fact.clone());
        self.ingest(fact).await;
    }

    pub async fn ingest(&self, fact: JobFact) {
        let assignment =
            Assignment { project: "app".parse().unwrap(), pool: Some("small".parse().unwrap()), reason: None };
        let ingest = Ingest {
            guid: None,
            received_at: self.clock.now(),
            event: "workflow_job".to_owned(),
            action: "queued".to_owned(),
            demand: Some((fact, Some(assignment))),
            ignored: None,
            source: "webhook",
        };
        self.store.write(vec![Op::Ingest(Box::new(ingest))]).await.unwrap();
    }

    pub async fn queue(&self, id: i64) {
        self.deliver(self.fact(id, Phase::Queued, None)).await;
    }

    pub async fn job(&self, id: i64) -> Job {
        self.store.job(JobKey { id, attempt: 1 }).await.unwrap().unwrap()
    }

    pub async fn change(&self, name: &RunnerName, change: RunnerChange) {
        self.store.write(vec![Op::Runner { name: name.clone(), change }]).await.unwrap();
    }

    /// A runner for job 1 that GitHub sees online.
    pub async fn idle(&self) -> RunnerName {
        self.queue(1).await;
        let name = self.runner_in(RunnerState::Booting).await.name;
        self.change(&name, RunnerChange::Idle { deadline: self.clock.now() + 10 * MINUTE }).await;
        name
    }

    pub fn destroyed(&self) -> usize {
        self.engine.state().destroyed.len()
    }

    pub async fn runners(&self) -> Vec<Runner> {
        self.store.runners(&RunnerFilter::default(), None, 100).await.unwrap().items
    }

    /// The only runner that there is, once it is in a state.
    pub async fn runner_in(&self, state: RunnerState) -> Runner {
        eventually(&format!("the runner is {state}"), async || {
            let mut runners = self.runners().await;
            (runners.len() == 1 && runners[0].state == state).then(|| runners.remove(0))
        })
        .await
    }
}

/// Waits for a condition; the bound is for a test that fails.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    waited.unwrap_or_else(|_| panic!("it did not come to pass that {what}"))
}
