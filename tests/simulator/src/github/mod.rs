//! A stateful fake GitHub: the REST API that a GitHub App uses, webhooks with their delivery log, and the handing out
//! of jobs to any online runner that fits.
//!
//! Paths under `/_runner` are for runners outside of this process, those under `/_sim` for whoever directs the play.

mod auth;
mod control;
pub mod description;
mod limits;
mod manners;
mod payload;
mod permissions;
mod rest;
mod runner;
mod shapes;
mod state;
mod webhooks;

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use axum::Router;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{auth::AppKey, permissions::Installation, state::State, webhooks::Webhooks};
use crate::faults::Faults;

pub use limits::Secondary;
pub use permissions::{Access, Permissions, documented};
pub use runner::{Assigned, ConnectError, Session};
pub(crate) use state::now;
pub use state::{JobId, JobState};
pub use webhooks::Weather;

/// What to play.
#[derive(Debug, Clone)]
pub struct Settings {
    pub app_id: u64,
    /// Where webhooks go; without it they are only logged.
    pub webhook_url: Option<String>,
    pub webhook_secret: String,
    pub seed: u64,
    /// `owner/name`; each owner has an installation.
    pub repos: Vec<String>,
    pub orgs: Vec<String>,
    /// When a runner vanished with its job, the job fails after this.
    pub lost_after: Duration,
    pub weather: Weather,
    /// What every installation grants the App.
    pub permissions: Permissions,
    /// Calls in an hour for each installation; without it there are no limits.
    pub hourly_limit: Option<u32>,
    /// The limits of what is done at once and in a few minutes; without it there are none.
    pub secondary: Option<Secondary>,
    /// Runner groups of every organisation, beside the one that each has.
    pub runner_groups: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            app_id: 123_456,
            webhook_url: None,
            webhook_secret: "secret".to_owned(),
            seed: 1,
            repos: vec!["octocat/hello-world".to_owned()],
            orgs: Vec::new(),
            lost_after: Duration::from_secs(10),
            weather: Weather::default(),
            permissions: documented(),
            hourly_limit: None,
            secondary: None,
            runner_groups: Vec::new(),
        }
    }
}

/// A job to queue.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub repo: String,
    pub labels: Vec<String>,
    pub duration: Duration,
    /// Held for approval this long first.
    pub waiting: Option<Duration>,
    pub conclusion: String,
    /// The job whose run it belongs to; none for a run of its own.
    pub beside: Option<JobId>,
}

impl NewJob {
    pub fn new(repo: &str, labels: &[&str], duration: Duration) -> Self {
        Self {
            repo: repo.to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            duration,
            waiting: None,
            conclusion: "success".to_owned(),
            beside: None,
        }
    }
}

/// A job, as GitHub has it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct JobView {
    pub id: JobId,
    pub repo: String,
    pub status: &'static str,
    pub conclusion: Option<String>,
    /// What its runner reports, if it gets to its end.
    pub planned: String,
    pub runner: Option<String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    /// How often it was handed to a runner.
    pub assigned: u32,
}

/// A registered runner.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RunnerView {
    pub id: u64,
    pub name: String,
    pub group: i64,
    pub online: bool,
    pub job: Option<JobId>,
}

/// The fake GitHub. Cheap to clone.
#[derive(Clone)]
pub struct GitHub {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    key: AppKey,
    state: Mutex<State>,
    webhooks: Webhooks,
    faults: Arc<Faults>,
    /// Where it is served; part of every runner's configuration.
    url: Mutex<String>,
    /// Calls being served.
    under_way: AtomicUsize,
    told: Notify,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and has whatever it tells sent.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = {
            let mut state = self.state();
            let result = change(&mut state);
            self.webhooks.accept(state.told.drain(..));
            result
        };
        self.told.notify_one();
        result
    }
}

impl GitHub {
    /// Makes a GitHub with an App key of its own. Fails only where the machine has no randomness.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let mut state = State::new(settings.seed);
        let owners = settings.repos.iter().filter_map(|repo| repo.split('/').next());
        for owner in owners.chain(settings.orgs.iter().map(String::as_str)) {
            let (owner, permissions) = (owner.to_owned(), settings.permissions.clone());
            state.installations.insert(owner.to_lowercase(), Installation { owner, permissions, suspended: false });
        }
        let inner = Inner {
            key: AppKey::generate()?,
            state: Mutex::new(state),
            webhooks: Webhooks::new(&settings)?,
            faults: Arc::new(Faults::new(settings.seed ^ 0xfa17)),
            url: Mutex::default(),
            under_way: AtomicUsize::new(0),
            told: Notify::new(),
            tracker: TaskTracker::new(),
            stopping: CancellationToken::new(),
            settings,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// PEM of the App's key, for `github.private_key_path`.
    pub fn private_key_pem(&self) -> &str {
        &self.inner.key.private_pem
    }

    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Tells where it is served.
    pub fn set_url(&self, url: &str) {
        *self.inner.url.lock().unwrap_or_else(PoisonError::into_inner) = url.to_owned();
    }

    /// The address of a path where it is served, as its own answers name it.
    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.inner.url.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The REST API, and the paths of runners and of the play.
    pub fn router(&self) -> Router {
        rest::router(self.clone()).merge(runner::router(self.clone())).merge(control::router(self.clone()))
    }

    /// Starts what goes on by itself: webhooks.
    pub fn start(&self) {
        let github = self.clone();
        self.inner.tracker.spawn(async move { webhooks::deliver(github).await });
    }

    /// Ends it.
    pub async fn stop(&self) {
        self.inner.stopping.cancel();
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
    }

    pub fn queue(&self, job: NewJob) -> JobId {
        let waiting = job.waiting;
        let id = self.inner.change(|state| {
            let id = state.id();
            let beside = job.beside.and_then(|id| state.jobs.get(&id)).map(|job| job.run_id);
            let run_id = beside.unwrap_or_else(|| state.id());
            let wanted = job.labels.iter().map(|label| label.to_lowercase()).collect();
            let job = state::Job {
                id,
                run_id,
                attempt: 1,
                number: id,
                repo: job.repo,
                labels: job.labels,
                wanted: Arc::new(wanted),
                duration: job.duration,
                outcome: job.conclusion,
                state: JobState::Queued,
                conclusion: None,
                runner: None,
                created_at: state::now(),
                started_at: None,
                completed_at: None,
                assigned: 0,
            };
            state.add_job(job, waiting.is_some())
        });
        if let Some(time) = waiting {
            let github = self.clone();
            self.inner.tracker.spawn(async move {
                if github.inner.stopping.run_until_cancelled(tokio::time::sleep(time)).await.is_some() {
                    github.inner.change(|state| state.release(id));
                }
            });
        }
        id
    }

    /// Another attempt at a job that is over.
    fn rerun(&self, job: &state::Job) {
        self.inner.change(|state| {
            let id = state.id();
            let again = state::Job {
                id,
                attempt: job.attempt + 1,
                state: JobState::Queued,
                conclusion: None,
                runner: None,
                created_at: state::now(),
                started_at: None,
                completed_at: None,
                assigned: 0,
                ..job.clone()
            };
            state.add_job(again, false);
        });
    }

    /// Cancels a job that no runner has.
    pub fn cancel(&self, id: JobId) {
        self.inner.change(|state| {
            if state.jobs.get(&id).is_some_and(|job| matches!(job.state, JobState::Waiting | JobState::Queued)) {
                state.conclude(id, "cancelled");
            }
        });
    }

    pub fn jobs(&self) -> Vec<JobView> {
        self.inner.state().jobs.values().map(view).collect()
    }

    pub fn job(&self, id: JobId) -> Option<JobView> {
        self.inner.state().jobs.get(&id).map(view)
    }

    pub fn runners(&self) -> Vec<RunnerView> {
        let state = self.inner.state();
        let runners = state.runners.values();
        runners
            .map(|runner| RunnerView {
                id: runner.id,
                name: runner.name.clone(),
                group: runner.group,
                online: runner.online,
                job: runner.job,
            })
            .collect()
    }

    /// The job that the connected runner of this name does.
    pub fn job_of(&self, runner: &str) -> Option<JobId> {
        let state = self.inner.state();
        state.runners.values().find(|known| known.name == runner && known.online).and_then(|known| known.job)
    }

    /// Suspends the installation on an account, or lets it go on.
    pub fn suspend(&self, owner: &str, suspended: bool) {
        if let Some(installation) = self.inner.state().installations.get_mut(&owner.to_lowercase()) {
            installation.suspended = suspended;
        }
    }

    /// Takes the App off an account: its tokens are worth nothing any more.
    pub fn uninstall(&self, owner: &str) {
        self.inner.state().installations.remove(&owner.to_lowercase());
    }

    /// What an account grants the App from now on.
    pub fn grant(&self, owner: &str, permissions: Permissions) {
        if let Some(installation) = self.inner.state().installations.get_mut(&owner.to_lowercase()) {
            installation.permissions = permissions;
        }
    }

    pub fn faults(&self) -> &Arc<Faults> {
        &self.inner.faults
    }

    /// How well deliveries get through from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.inner.webhooks.set_weather(weather);
    }

    /// Where webhooks go from now on.
    pub fn set_webhook_url(&self, url: &str) {
        self.inner.webhooks.set_url(url);
    }

    /// Calls that were refused for a secondary limit.
    pub fn over_limit(&self) -> u64 {
        self.inner.state().over_limit
    }

    /// Deliveries that were attempted, and those that succeeded.
    pub fn deliveries(&self) -> (u64, u64) {
        self.inner.webhooks.counts()
    }

    /// Attempts in the log of deliveries.
    pub fn delivery_log_len(&self) -> usize {
        self.inner.webhooks.log_len()
    }

    /// Every configuration of a runner it ever handed out.
    pub fn jit_configs(&self) -> Vec<String> {
        self.inner.state().jit_configs.clone()
    }

    /// Every token it ever handed out.
    pub fn tokens(&self) -> Vec<String> {
        self.inner.state().tokens.keys().cloned().collect()
    }

    /// What must not have happened.
    pub fn audit(&self) -> Vec<String> {
        let state = self.inner.state();
        let mut violations = state.violations.clone();
        let twice = state.issued.iter().filter(|(_, times)| **times > 1);
        violations.extend(twice.map(|(name, times)| format!("the name `{name}` was registered {times} times")));
        if state.unauthorised > 0 {
            violations.push(format!("{} calls were not authorised", state.unauthorised));
        }
        violations
    }
}

fn view(job: &state::Job) -> JobView {
    JobView {
        id: job.id,
        repo: job.repo.clone(),
        status: job.state.word(),
        conclusion: job.conclusion.clone(),
        planned: job.outcome.clone(),
        runner: job.runner.as_ref().map(|(_, name)| name.clone()),
        created_at: job.created_at,
        started_at: job.started_at,
        completed_at: job.completed_at,
        assigned: job.assigned,
    }
}

/// Milliseconds as people write them: `5..50`.
pub fn parse_range(text: &str) -> Result<Range<Duration>, String> {
    let invalid = || format!("`{text}` is not a range of milliseconds such as `500..2000`");
    let (from, to) = text.split_once("..").ok_or_else(invalid)?;
    let ms = |part: &str| part.trim().parse().map(Duration::from_millis).map_err(|_| invalid());
    let range = ms(from)?..ms(to)?;
    if range.end < range.start { Err(invalid()) } else { Ok(range) }
}

/// Milliseconds since 1970, by the clock of the world outside.
pub(crate) fn now_ms() -> i64 {
    state::now().as_millisecond()
}
