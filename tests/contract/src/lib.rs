//! What every backend must do, checked from outside: the built component in pacer's own plugin host, against its real
//! engine, with a proxy in between that breaks what can break on the way.
//!
//! A [`Subject`] says which component, which settings, where its engine is and how to look at that engine past the
//! component. [`run`] does the rest and returns a [`Report`]. Nothing here knows any particular backend, and nothing
//! here looks into a component's sources.
//!
//! Each check has an owner of its own. What a check made is taken down after it, by the backend first and judged at the
//! engine; a machine that is left is a failure of that check.

mod checks;
mod logs;
pub mod proxy;
mod report;
mod stage;
mod subject;

pub use report::{Outcome, Report};
pub use subject::{BootstrapKind, Endpoint, Engine, Grace, Refusal, Subject};

/// The check that is made last.
const LEFT: &str = "nothing is left at the engine";

/// Puts a backend through everything. Fails only where nothing could be checked at all: a component that does not load.
pub async fn run(subject: Subject) -> anyhow::Result<Report> {
    run_only(subject, |_| true).await
}

/// Makes the checks whose names are wanted.
pub async fn run_only(
    subject: Subject,
    wanted: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> anyhow::Result<Report> {
    let stage = stage::Stage::set(subject, Box::new(wanted)).await?;
    let before = stage.inventory()?;
    let mut report = Report::new(&stage.subject.name);
    checks::all(&stage, &mut report).await;
    let left: Vec<String> = stage.inventory()?.difference(&before).cloned().collect();
    if stage.wants(LEFT) {
        report.add(LEFT, || {
            anyhow::ensure!(left.is_empty(), "the engine has what it did not have before: {}", left.join(", "));
            Ok(())
        });
    }
    stage.strike().await;
    Ok(report)
}
