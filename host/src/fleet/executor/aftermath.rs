//! What follows when something ended that should not have: a machine, an attempt, the process before this one.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{Executor, Failure, RETRY, SETTLE, Trace, locked};
use crate::{
    fleet::{
        intent,
        job::{Job, JobChange},
        recover, rerun,
        runner::{Runner, RunnerState},
    },
    github::{GitHubErrorKind, Rerun},
    plugins::{BackendError, Instance, InstanceState},
    store::Op,
};

impl Executor {
    /// Writes that a runner failed, what that means for its job, and how long its pool holds back.
    pub async fn fail(&self, runner: &Runner, failure: Failure) {
        let error = failure.to_string();
        warn!(
            runner.name = %runner.name, backend.name = %runner.backend, pool.name = %runner.pool,
            "runner `{}` is lost: {error}", runner.name
        );
        metrics::counter!("pacer_runners_lost_total", "backend" => runner.backend.to_string(), "reason" => failure.word())
            .increment(1);
        let now = self.now();
        let ops = {
            let world = self.world();
            let mut ops = intent::stop_failed(&world, runner, &error, failure.trouble(), now);
            let (trouble, retry_after) = (failure.trouble(), failure.retry_after());
            ops.extend(intent::hold_back(&world, runner, &error, trouble, retry_after, rand::random(), now));
            ops
        };
        self.record(ops).await;
    }

    /// Goes on with a runner that another process, or a task that ended, left where it is.
    pub async fn resume(self: Arc<Self>, runner: Arc<Runner>) {
        match runner.state {
            RunnerState::Planned | RunnerState::Registering | RunnerState::Creating => {
                // Its configuration is lost with the process that asked for it: either the machine has it, or none does.
                let failure = Failure::Restart("its creation was cut off before its machine existed".to_owned());
                let patience = self.timeouts(&runner).create;
                self.settle(&runner, failure, patience).await;
            }
            RunnerState::Stopping => self.take_down_now(&runner.name, Trace::Perhaps).await,
            RunnerState::Booting | RunnerState::Idle | RunnerState::Busy | RunnerState::Gone | RunnerState::Failed => {}
        }
    }

    /// Ends an attempt to make a machine that brought none to light. Where one may have come of it, that is taken up:
    /// it may have a job by now. Only then is the runner given up.
    pub(super) async fn settle(&self, runner: &Runner, failure: Failure, patience: Duration) {
        let trace = failure.trace();
        if trace != Trace::Perhaps {
            self.fail(runner, failure).await;
            return self.take_down_now(&runner.name, trace).await;
        }
        let trace = match self.settled_instance(runner, patience).await {
            Ok(Some(instance)) => {
                info!(runner.name = %runner.name, "runner `{}` is taken over with its machine", runner.name);
                return self.created(runner, instance).await;
            }
            Ok(None) => Trace::Refused,
            Err(_) => Trace::Perhaps,
        };
        self.withdraw(&runner.name, Some(failure), trace).await;
    }

    /// The machine of a cut-off `create`, if it came to run. One that exists and does not run may lack its start,
    /// unless it boots by itself.
    async fn settled_instance(&self, runner: &Runner, patience: Duration) -> Result<Option<Instance>, BackendError> {
        let until = self.now() + patience;
        let unfetched = self.is_unfetched(runner).await;
        let mut wait = RETRY.0;
        let mut settled = false;
        loop {
            match self.find_instance(runner).await {
                Ok(Some(instance)) if is_underway(&instance.state, unfetched) => return Ok(Some(instance)),
                Ok(_) if settled => return Ok(None),
                Ok(_) => {
                    settled = true;
                    tokio::time::sleep(SETTLE).await;
                }
                Err(error) => {
                    warn!(backend.name = %runner.backend, "cannot look for the machine of `{}`: {error}", runner.name);
                    if self.now() >= until {
                        return Err(error);
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }

    /// GitHub gave a runner a job that is not known to have begun: its delivery is on its way, or it is no job of ours.
    /// The job that was meant for it is served anew, unless it is this one.
    pub(super) async fn has_a_job(&self, runner: &Runner) {
        locked(&self.unanswered).remove(&runner.name);
        self.heal_job(runner).await;
        let ops = intent::taken(&self.world(), runner, self.now());
        self.record(ops).await;
    }

    /// Deals with a runner whose machine ended by itself.
    pub async fn ended(self: Arc<Self>, runner: Arc<Runner>, how: String, interrupted: bool) {
        let Some(runner) = self.runner(&runner.name).filter(|runner| !runner.state.is_final()) else { return };
        if interrupted {
            self.note_taken(&runner, &how).await;
        }
        if runner.state == RunnerState::Busy {
            // GitHub concludes the job, from the runner's last word or from its silence.
            let ops = if interrupted {
                intent::stop(&self.world(), &runner, self.now())
            } else {
                intent::stop_ended(&self.world(), &runner, &how, self.now())
            };
            self.record(ops).await;
            if interrupted {
                // GitHub refuses as long as it takes the runner for busy; then it finds out by itself.
                self.deregister(&runner).await;
            }
            return self.take_down_now(&runner.name, Trace::Perhaps).await;
        }
        // It may have a job, or have done one, of which the webhook is still on its way: then GitHub knows it as busy,
        // or has removed it already.
        let has_or_had_a_job = !self.is_unfetched(&runner).await && {
            let found = self.parts.github.find_runner(&runner.target, runner.installation_id, &runner.name).await;
            found.is_ok_and(|found| found.is_none_or(|found| found.busy))
        };
        if has_or_had_a_job {
            self.heal_job(&runner).await;
        }
        let Some(current) = self.runner(&runner.name) else { return };
        if interrupted {
            self.fail(&current, Failure::Interrupted(how)).await;
        } else if has_or_had_a_job {
            let ops = intent::stop(&self.world(), &current, self.now());
            self.record(ops).await;
        } else {
            self.fail(&current, Failure::Lost(how)).await;
        }
        self.take_down_now(&runner.name, Trace::Perhaps).await;
    }

    /// Has GitHub run a job again. That it was asked is written before: it is not asked twice for want of an answer.
    pub(super) async fn rerun(&self, job: &Job) {
        if self.world().reruns.has_later(job) {
            return;
        }
        let asked = self.parts.github.rerun_job(&job.repo, job.installation_id, job.key.id).await;
        let taken = "its machine was taken away";
        let change = match asked {
            Ok(Rerun::Asked) => {
                info!(job.id = %job.key, "job {} lost its machine and is run again", job.key);
                return;
            }
            Ok(Rerun::RunGoesOn) if !rerun::is_too_late(job, self.now()) => JobChange::RerunPutOff {
                reason: format!("{taken}; GitHub is asked to run it again as soon as the rest of its run is over"),
            },
            Ok(Rerun::RunGoesOn) => JobChange::RerunRefused {
                reason: format!(
                    "{taken}; its run is still going on after {} h, run it again by hand",
                    rerun::WINDOW.as_hours()
                ),
            },
            Err(error) if passes(error.kind) && !rerun::is_too_late(job, self.now()) => {
                JobChange::RerunPutOff { reason: format!("{taken}; GitHub is asked later to run it again: {error}") }
            }
            Err(error) => {
                warn!(job.id = %job.key, %error, "job {} lost its machine and cannot be run again", job.key);
                JobChange::RerunRefused { reason: format!("{taken}, and GitHub did not run it again: {error}") }
            }
        };
        self.record(vec![Op::Job { key: job.key, change }]).await;
    }

    /// Asks GitHub what became of the job a runner was meant for.
    async fn heal_job(&self, runner: &Runner) {
        let job = self.world().wanted_by(&runner.name).cloned();
        if let Some(job) = job {
            recover::ask_about(self, &job).await;
        }
    }
}

/// Whether an error of GitHub's goes by itself.
fn passes(kind: GitHubErrorKind) -> bool {
    match kind {
        GitHubErrorKind::RateLimited | GitHubErrorKind::Unavailable => true,
        GitHubErrorKind::Unauthorized
        | GitHubErrorKind::Forbidden
        | GitHubErrorKind::NotFound
        | GitHubErrorKind::NameTaken
        | GitHubErrorKind::Rejected => false,
    }
}

/// Whether a machine runs, or will without anybody's doing.
fn is_underway(state: &InstanceState, boots_by_itself: bool) -> bool {
    match state {
        InstanceState::Running => true,
        InstanceState::Creating => boots_by_itself,
        InstanceState::Stopping | InstanceState::Stopped | InstanceState::Failed(_) | InstanceState::Interrupted(_) => {
            false
        }
    }
}
