//! The checks, one function each. What they make belongs to owners of their own, and is taken down after each.

mod crowds;
mod faults;
mod introduction;
mod life;
mod repetition;

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use pacer::plugins::Instance;

use crate::{
    report::{Outcome, Report},
    stage::{Stage, Wanted},
};

/// Passed, or why the check does not apply.
type Verdict = anyhow::Result<Option<String>>;

/// A stage, as one check uses it.
struct Ground<'s> {
    stage: &'s Stage,
    owners: Mutex<Vec<String>>,
}

impl<'s> Ground<'s> {
    fn new(stage: &'s Stage) -> Self {
        Self { stage, owners: Mutex::default() }
    }

    /// A new owner, whose machines are taken down after the check.
    fn owner(&self) -> String {
        let owner = self.stage.owner();
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).push(owner.clone());
        owner
    }

    /// A machine to be asked for, of a new owner.
    fn wanted(&self) -> Wanted {
        self.stage.wanted(&self.owner())
    }

    /// A machine of a new owner.
    async fn machine(&self) -> anyhow::Result<(Wanted, Instance)> {
        let wanted = self.wanted();
        let made = self.stage.create(&wanted).await.context("creating a machine")?;
        Ok((wanted, made))
    }

    async fn leave(&self) -> anyhow::Result<()> {
        let owners = std::mem::take(&mut *self.owners.lock().unwrap_or_else(PoisonError::into_inner));
        self.stage.clear(&owners).await
    }

    /// The engine has this one machine of the owner and no other.
    fn only(&self, wanted: &Wanted) -> anyhow::Result<()> {
        let there = self.stage.at_the_engine(&wanted.owner)?;
        ensure!(there.len() == 1, "the engine has {} machines of one name: {there:?}", there.len());
        Ok(())
    }
}

/// Makes a check, cleans up after it and writes down what came of it.
macro_rules! check {
    ($stage:expr, $report:expr, $name:expr, $check:expr) => {
        if $stage.wants($name) {
            let began = Instant::now();
            let ground = Ground::new($stage);
            let verdict: Verdict = $check(&ground).await;
            let left = ground.leave().await.context("cleaning up");
            let outcome = match (verdict, left) {
                (Ok(None), Ok(())) => Outcome::Passed,
                (Ok(Some(why)), Ok(())) => Outcome::DoesNotApply(why),
                (Err(error), Ok(())) | (Ok(_), Err(error)) => Outcome::Failed(format!("{error:#}")),
                (Err(error), Err(left)) => Outcome::Failed(format!("{error:#}; and {left:#}")),
            };
            $report.enter($name, outcome, began.elapsed());
        }
    };
}
use check;

/// Makes all of them.
pub(crate) async fn all(stage: &Stage, report: &mut Report) {
    check!(stage, report, "describe is pure", introduction::describe_is_pure);
    check!(stage, report, "what describe says is fit for use", introduction::describe_is_fit);
    check!(stage, report, "the settings fit the schemas", introduction::settings_fit);
    check!(stage, report, "a setting that is unknown is found", introduction::unknown_settings_are_found);

    check!(stage, report, "a machine's life", life::one_machine);
    check!(stage, report, "get of what does not exist is none", life::get_unknown);
    check!(stage, report, "destroy of what does not exist is gone", life::destroy_unknown);
    check!(stage, report, "destroy twice is gone twice", life::destroy_twice);
    check!(stage, report, "a handle that is none leads nowhere", life::malformed_handles);
    check!(stage, report, "destroy is graceful, then forced", life::graceful_then_forced);
    check!(stage, report, "a hold is reported", life::hold);
    check!(stage, report, "a machine does not tell its secret", life::no_secret);
    check!(stage, report, "renew-lease", life::renew_lease);
    check!(stage, report, "console-log is bounded", life::console_log);
    check!(stage, report, "suspend and resume", life::suspend);
    check!(stage, report, "quote", life::quote);
    check!(stage, report, "a bootstrap it does not take is unsupported", life::foreign_bootstrap);

    check!(stage, report, "create twice makes one machine", repetition::create_twice);
    check!(stage, report, "create at once makes one machine", repetition::create_at_once);
    check!(stage, report, "create of another owner's name leaves it alone", repetition::create_of_anothers);
    check!(stage, report, "create after a lost answer makes one machine", repetition::create_after_lost_answer);
    check!(stage, report, "create after a cut connection makes one machine", repetition::create_after_cut);
    check!(stage, report, "destroy after a lost answer is gone", repetition::destroy_after_lost_answer);

    check!(stage, report, "list gives the owner's and nobody else's", crowds::list_by_owner);
    check!(stage, report, "list pages without loss", crowds::list_pages);

    faults::all(stage, report).await;

    check!(stage, report, "no secret in the log", faults::no_secret_in_the_log);
}
