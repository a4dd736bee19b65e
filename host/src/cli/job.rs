//! `pacer explain`: why a job is where it is. Reads the database of the configuration; the server may be running.

use std::{io::Write, str::FromStr, sync::Arc};

use super::{ExplainArgs, Outcome};
use crate::{
    config::Config,
    fleet::{
        explain::{self, Explanation},
        job::{InvalidJobKey, JobKey, JobStatus},
    },
};

/// A job as a person names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobReference {
    /// GitHub's id: the latest attempt.
    Latest(i64),
    Attempt(JobKey),
}

impl FromStr for JobReference {
    type Err = InvalidJobKey;

    fn from_str(text: &str) -> Result<Self, InvalidJobKey> {
        match text.parse::<i64>() {
            Ok(id) if id > 0 => Ok(Self::Latest(id)),
            Ok(_) | Err(_) => text.parse().map(Self::Attempt),
        }
    }
}

pub(super) fn run(config: &Arc<Config>, args: &ExplainArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let _ = (config, args, out);
    anyhow::bail!("the store is not part of this build")
}

/// Prints the answer.
#[cfg_attr(not(test), expect(dead_code, reason = "`run` calls it as soon as it can read the store"))]
fn print(explanation: &Explanation, json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    if json {
        serde_json::to_writer_pretty(&mut *out, explanation)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", explain::render(explanation))?;
    }
    // A job that needs somebody is a problem found; one that waits its turn, runs or is over is not.
    Ok(match explanation.status {
        JobStatus::Unmatched | JobStatus::Failed => Outcome::Problem,
        JobStatus::Waiting
        | JobStatus::Queued
        | JobStatus::Claimed
        | JobStatus::Starting
        | JobStatus::Running
        | JobStatus::Completed
        | JobStatus::Cancelled => Outcome::Fine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_with_or_without_its_attempt() {
        assert_eq!("12".parse::<JobReference>().unwrap(), JobReference::Latest(12));
        assert_eq!("12-3".parse::<JobReference>().unwrap(), JobReference::Attempt(JobKey { id: 12, attempt: 3 }));
        for wrong in ["", "-1", "x", "1-x", "1-2-3"] {
            assert!(wrong.parse::<JobReference>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_answer_is_printed_for_people_and_for_scripts() {
        let mut explanation = Explanation {
            job: "12-3".to_owned(),
            status: JobStatus::Unmatched,
            headline: "no pool fits".to_owned(),
            since: jiff::Timestamp::UNIX_EPOCH,
            since_seconds: 5,
            facts: Vec::new(),
            unblock: vec!["change `runs-on`".to_owned()],
            routing: None,
        };
        let mut out = Vec::new();
        assert_eq!(print(&explanation, false, &mut out).unwrap(), Outcome::Problem);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "job 12-3: unmatched\n  no pool fits\n  since 1970-01-01T00:00:00Z (5 s)\n\nwhat would unblock it\n  - change `runs-on`\n"
        );
        explanation.status = JobStatus::Running;
        let mut out = Vec::new();
        assert_eq!(print(&explanation, true, &mut out).unwrap(), Outcome::Fine);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap()["status"], "running");
    }
}
