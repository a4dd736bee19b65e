//! What came of the checks.

use std::{fmt, time::Duration};

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// The backend does not do this and says so.
    DoesNotApply(String),
    Failed(String),
}

/// What came of all of them, in the order they were made.
#[derive(Debug)]
pub struct Report {
    subject: String,
    entries: Vec<(String, Outcome, Duration)>,
}

impl Report {
    pub(crate) fn new(subject: &str) -> Self {
        Self { subject: subject.to_owned(), entries: Vec::new() }
    }

    pub(crate) fn enter(&mut self, check: &str, outcome: Outcome, took: Duration) {
        tracing::info!(target: "pacer_contract", "{}: {check}: {outcome:?} in {took:?}", self.subject);
        self.entries.push((check.to_owned(), outcome, took));
    }

    pub(crate) fn add(&mut self, check: &str, judge: impl FnOnce() -> anyhow::Result<()>) {
        let outcome = match judge() {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        self.enter(check, outcome, Duration::ZERO);
    }

    /// The checks that failed, each with why.
    pub fn failures(&self) -> Vec<(&str, &str)> {
        let failed = self.entries.iter().filter_map(|(check, outcome, _)| match outcome {
            Outcome::Failed(why) => Some((check.as_str(), why.as_str())),
            Outcome::Passed | Outcome::DoesNotApply(_) => None,
        });
        failed.collect()
    }

    /// What was checked.
    pub fn checks(&self) -> Vec<&str> {
        self.entries.iter().map(|(check, _, _)| check.as_str()).collect()
    }

    /// How many checks passed.
    pub fn passed(&self) -> usize {
        self.entries.iter().filter(|(_, outcome, _)| *outcome == Outcome::Passed).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "contract of backends, `{}`:", self.subject)?;
        for (check, outcome, took) in &self.entries {
            let (mark, more) = match outcome {
                Outcome::Passed => ("passed", String::new()),
                Outcome::DoesNotApply(why) => ("  --  ", format!(": {why}")),
                Outcome::Failed(why) => ("FAILED", format!(": {why}")),
            };
            writeln!(f, "  {mark} {:>6} ms  {check}{more}", took.as_millis())?;
        }
        write!(f, "  {} passed, {} failed", self.passed(), self.failures().len())
    }
}
