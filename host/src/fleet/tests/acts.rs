//! What the outside does, for tests of single rules.

use super::{super::Intent, *};
use crate::fleet::{retry::Trouble, runner::RunnerChange};

pub const SMALL: (&str, &str) = ("app", "small");

pub fn plain() -> Sim {
    Sim::new(config(|_, _| {}))
}

pub fn started(intents: &[Intent]) -> Vec<RunnerName> {
    intents
        .iter()
        .filter_map(|intent| match intent {
            Intent::Start { runner, .. } => Some(runner.name.clone()),
            Intent::Pair { .. }
            | Intent::Unpair { .. }
            | Intent::Busy { .. }
            | Intent::Assign { .. }
            | Intent::Retire { .. }
            | Intent::Stop { .. }
            | Intent::Extend { .. }
            | Intent::Rerun { .. }
            | Intent::Resume { .. } => None,
        })
        .collect()
}

impl Sim {
    pub fn queue(&mut self, id: i64) {
        self.deliver(id, "octocat/app", SMALL, Phase::Queued, None);
    }

    pub fn change(&mut self, name: &RunnerName, change: RunnerChange) {
        self.commit(vec![Op::Runner { name: name.clone(), change }]);
    }

    pub fn created(&mut self, name: &RunnerName) {
        let deadline = self.now + Duration::from_secs(300);
        self.change(name, RunnerChange::Creating { github_runner_id: Some(1), deadline });
        self.change(name, RunnerChange::Created { handle: name.to_string(), digest: "d".to_owned(), deadline });
        let job = self.world.wanted_by(name).map(|job| job.key);
        let mut ops: Vec<Op> = job.map(|key| Op::Job { key, change: job::JobChange::Starting }).into_iter().collect();
        let runner = &self.runners[name];
        ops.extend(intent::let_go(&self.world, runner, Proof::Machine));
        self.commit(ops);
    }

    /// Its machine ends before it has a job.
    pub fn dies(&mut self, name: &RunnerName) {
        let (runner, why) = (&self.runners[name], "its machine stopped");
        let mut ops = intent::stop_failed(&self.world, runner, why, Trouble::Lost, self.now);
        ops.extend(intent::hold_back(&self.world, runner, why, Trouble::Lost, None, 0.5, self.now));
        self.commit(ops);
        self.change(name, RunnerChange::Gone);
    }

    pub fn online(&mut self, name: &RunnerName) {
        self.created(name);
        let deadline = self.now + Duration::from_secs(600);
        let mut ops = vec![Op::Runner { name: name.clone(), change: RunnerChange::Idle { deadline } }];
        ops.extend(intent::let_go(&self.world, &self.runners[name], Proof::Runner));
        self.commit(ops);
    }
}
