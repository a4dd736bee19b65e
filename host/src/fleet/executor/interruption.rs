//! Machines that their providers took away, and the jobs that ran on them: GitHub is to run those again.
//!
//! That a machine was taken, that a job ran on it, and that the job failed become known in any order. The taken are
//! remembered here until the last of the three is sure to have come.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{Executor, LOOK, locked};
use crate::{
    fleet::{
        job::{Job, JobChange},
        rerun,
        runner::{Runner, RunnerName},
    },
    plugins::{Instance, InstanceState},
    store::Op,
};

/// Runners whose machines were taken away: when that became known, and what is told of it.
pub(super) type Taken = HashMap<RunnerName, (Timestamp, String)>;

pub(in crate::fleet) fn told(reason: &str) -> String {
    format!("its machine was taken away: {reason}")
}

impl Executor {
    pub(super) async fn note_taken(&self, runner: &Runner, how: &str) {
        let now = self.now();
        {
            let mut taken = locked(&self.taken);
            taken.retain(|_, (at, _)| now.duration_since(*at) < rerun::WINDOW);
            taken.insert(runner.name.clone(), (now, how.to_owned()));
        }
        let Some(key) = runner.job else { return };
        if let Ok(Some(job)) = self.parts.store.job(key).await {
            self.record(self.mark_taken(&job).into_iter().collect()).await;
        }
    }

    /// What is to be written about a job as it now is, if it ran on a machine that was taken away.
    pub(in crate::fleet) fn mark_taken(&self, job: &Job) -> Option<Op> {
        let taken = locked(&self.taken);
        let (_, reason) = taken.get(job.runner.as_ref()?)?;
        Some(Op::Job { key: job.key, change: JobChange::Interrupted { reason: reason.clone() } })
    }

    /// Finds out whether a job failed because its machine was taken, before that is removed: the job's end may come
    /// faster than the next look at the machines.
    pub(super) async fn look_for_interruption(&self, runner: &Runner) {
        let (Some(key), Some(handle)) = (runner.job, &runner.handle) else { return };
        let Ok(Some(job)) = self.parts.store.job(key).await else { return };
        if job.runner.as_ref() != Some(&runner.name) || !rerun::is_lost(&job) || job.interruption.is_some() {
            return;
        }
        let seen = self.parts.backends.get(&runner.backend, handle, LOOK).await;
        if let Ok(Some(Instance { state: InstanceState::Interrupted(reason), .. })) = seen {
            self.note_taken(runner, &told(&reason)).await;
        }
    }
}
