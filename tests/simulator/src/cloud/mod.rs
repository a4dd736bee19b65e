//! A small cloud with an HTTP API, whose machines run a runner of the fake GitHub in this process.
//!
//! * `PUT /v1/machines/{name}` with `{owner, jit_config | start_script, labels, lease_until_ms, tags, boot_ms?}`: 201, or 200 with the
//!   machine that has this name; 409 if it is another owner's
//! * `GET /v1/machines/{id}`, `GET /v1/machines?owner=&cursor=&limit=` → `{machines, next}`
//! * `DELETE /v1/machines/{id}?grace_ms=`: 200 `{state: "stopping"}`, 204 gone, 404
//! * `PUT /v1/machines/{id}/lease` `{lease_until_ms}`, `GET /v1/machines/{id}/console`,
//!   `POST /v1/machines/{id}/suspend|resume`, `GET /v1/quote` → `{micros_per_hour, currency}`
//! * Refusals are `{"code": "capacity|quota|rate_limited|unauthorized|invalid|conflict|not_found|unavailable|interrupted",
//!   "message"}`
//!
//! `POST /_sim/cloud` changes [`Conditions`], `POST /_sim/faults` adds a fault, `GET /_sim/state` shows the machines.

mod api;
pub mod script;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::Router;
use serde::{Deserialize, Serialize};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{dice::Dice, faults::Faults, github::GitHub};

/// How the cloud is doing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Machines there is room for.
    pub capacity: Option<usize>,
    /// Share of machines that end before their runner connects.
    pub dead_before: f64,
    /// Share that ends while idle.
    pub dead_idle: f64,
    /// Share that ends in the middle of its job.
    pub dead_busy: f64,
    /// Share that never boots.
    pub stuck: f64,
    /// Milliseconds of booting, from and below.
    pub boot_ms: (u64, u64),
    /// Milliseconds a stop takes, from and below; with 0 a delete is done at once.
    pub stop_ms: (u64, u64),
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            capacity: None,
            dead_before: 0.0,
            dead_idle: 0.0,
            dead_busy: 0.0,
            stuck: 0.0,
            boot_ms: (0, 1),
            stop_ms: (0, 0),
        }
    }
}

fn millis(range: (u64, u64)) -> Range<Duration> {
    Duration::from_millis(range.0)..Duration::from_millis(range.1.max(range.0))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    Creating,
    Running,
    Stopping,
    Stopped,
    Failed,
    Interrupted,
}

/// A machine, as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub id: String,
    pub name: String,
    pub owner: String,
    pub state: MachineState,
    pub reason: Option<String>,
    pub created_at_ms: i64,
    pub lease_until_ms: u64,
    pub hold: bool,
    pub tags: BTreeMap<String, String>,
    pub price_micros_per_hour: u64,
    pub currency: &'static str,
    #[serde(skip)]
    console: String,
    #[serde(skip)]
    stop: CancellationToken,
}

/// What a machine is started with.
#[derive(Debug)]
enum Start {
    /// Its runner's configuration.
    Configured(String),
    /// A script, of which the machine does what it says about pacer: it fetches the configuration and reports.
    Script(String),
}

#[derive(Debug)]
struct State {
    machines: BTreeMap<String, Machine>,
    /// By name.
    ids: HashMap<String, String>,
    /// Machines ever made, by name.
    made: HashMap<String, u32>,
    /// When each of them was asked for, in order; milliseconds since the epoch.
    asked_at_ms: Vec<i64>,
    /// What machines were started with, where that was a script, by name.
    scripts: HashMap<String, String>,
    violations: Vec<String>,
    peak: usize,
    next_id: u64,
    conditions: Conditions,
    dice: Dice,
}

/// The small cloud. Cheap to clone.
#[derive(Clone)]
pub struct Cloud {
    github: GitHub,
    state: Arc<Mutex<State>>,
    faults: Arc<Faults>,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Cloud {
    pub fn new(github: GitHub, seed: u64, conditions: Conditions) -> Self {
        let state = State {
            machines: BTreeMap::new(),
            ids: HashMap::new(),
            made: HashMap::new(),
            asked_at_ms: Vec::new(),
            scripts: HashMap::new(),
            violations: Vec::new(),
            peak: 0,
            next_id: 0,
            conditions,
            dice: Dice::new(seed ^ 0xc10d),
        };
        Self {
            github,
            state: Arc::new(Mutex::new(state)),
            faults: Arc::new(Faults::new(seed ^ 0xfa17_c10d)),
            tracker: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn router(&self) -> Router {
        api::router(self.clone())
    }

    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    pub fn conditions(&self) -> Conditions {
        self.state().conditions.clone()
    }

    pub fn set_conditions(&self, conditions: Conditions) {
        self.state().conditions = conditions;
    }

    /// The machines there are, stopped ones included.
    pub fn machines(&self) -> Vec<Machine> {
        self.state().machines.values().cloned().collect()
    }

    /// How many machines were ever made for each name.
    pub fn made(&self) -> HashMap<String, u32> {
        self.state().made.clone()
    }

    /// When each machine was asked for, in order; milliseconds since the epoch.
    pub fn asked_at_ms(&self) -> Vec<i64> {
        self.state().asked_at_ms.clone()
    }

    /// The start scripts that machines were given, by name.
    pub fn scripts(&self) -> HashMap<String, String> {
        self.state().scripts.clone()
    }

    /// The most machines there ever were at once.
    pub fn peak(&self) -> usize {
        self.state().peak
    }

    /// Takes a machine away, as a provider does with spot machines.
    pub fn interrupt(&self, name: &str) {
        let mut state = self.state();
        if let Some(id) = state.ids.get(name).cloned()
            && let Some(machine) = state.machines.get_mut(&id)
        {
            machine.state = MachineState::Interrupted;
            machine.reason = Some("the provider took it back".to_owned());
            machine.stop.cancel();
        }
    }

    /// Ends a machine of which nothing remains, as of one that powered off where that deletes it.
    pub fn vanish(&self, name: &str) {
        let id = self.state().ids.get(name).cloned();
        if let Some(id) = id {
            self.remove(&id);
        }
    }

    /// What must not have happened.
    pub fn audit(&self) -> Vec<String> {
        let state = self.state();
        let twice = state.made.iter().filter(|(_, times)| **times > 1);
        let twice = twice.map(|(name, times)| format!("machine `{name}` was made {times} times"));
        state.violations.iter().cloned().chain(twice).collect()
    }

    /// A machine's life: it boots, its runner takes a job, it stops.
    fn boot(&self, id: String, start: Start, boot: Option<Duration>, stop: CancellationToken) {
        let cloud = self.clone();
        self.tracker.spawn(async move {
            let stopping = cloud.stopping.clone();
            let life = stop.run_until_cancelled(cloud.live(&id, start, boot));
            if let Some(Some((state, reason))) = stopping.run_until_cancelled(life).await {
                cloud.settle(&id, state, Some(reason));
            }
        });
    }

    async fn live(&self, id: &str, start: Start, boot: Option<Duration>) -> (MachineState, String) {
        let (boot, stuck, before, idle, busy) = {
            let state = &mut *self.state();
            let (conditions, dice) = (state.conditions.clone(), &mut state.dice);
            let boot = boot.unwrap_or_else(|| dice.within(&millis(conditions.boot_ms)));
            let mut fate = |share| dice.chance(share);
            (
                boot,
                fate(conditions.stuck),
                fate(conditions.dead_before),
                fate(conditions.dead_idle),
                fate(conditions.dead_busy),
            )
        };
        tokio::time::sleep(boot).await;
        if stuck {
            std::future::pending::<()>().await;
        }
        self.settle(id, MachineState::Running, None);
        self.say(id, "booted");
        if before {
            return (MachineState::Failed, "the machine crashed while it started".to_owned());
        }
        let (jit_config, reporter) = match start {
            Start::Configured(config) => (config, None),
            Start::Script(script) => match script::run(&script).await {
                Ok(started) => started,
                Err(why) => {
                    self.say(id, &why);
                    return (MachineState::Stopped, why);
                }
            },
        };
        let mut session = match self.github.connect(&jit_config) {
            Ok(session) => session,
            Err(error) => return (MachineState::Stopped, format!("the runner could not connect: {error}")),
        };
        self.say(id, "the runner is online");
        if idle {
            drop(session);
            return (MachineState::Failed, "the machine crashed while it was idle".to_owned());
        }
        let Some(job) = session.job().await else {
            return (MachineState::Stopped, "the runner was removed".to_owned());
        };
        self.say(id, &format!("job {} starts", job.id));
        if busy {
            tokio::time::sleep(job.duration / 2).await;
            drop(session);
            return (MachineState::Failed, "the machine crashed in the middle of its job".to_owned());
        }
        tokio::time::sleep(job.duration).await;
        session.done(&job.conclusion);
        self.say(id, &format!("job {} is over", job.id));
        if let Some(reporter) = reporter {
            reporter.report("job-done").await;
        }
        (MachineState::Stopped, "its runner is done".to_owned())
    }

    fn settle(&self, id: &str, to: MachineState, reason: Option<String>) {
        if let Some(machine) = self.state().machines.get_mut(id)
            && matches!(machine.state, MachineState::Creating | MachineState::Running)
        {
            machine.state = to;
            machine.reason = reason;
        }
    }

    fn say(&self, id: &str, line: &str) {
        if let Some(machine) = self.state().machines.get_mut(id) {
            machine.console.push_str(line);
            machine.console.push('\n');
        }
    }

    fn remove(&self, id: &str) {
        let mut state = self.state();
        if let Some(machine) = state.machines.remove(id) {
            machine.stop.cancel();
            state.ids.remove(&machine.name);
        }
    }
}
