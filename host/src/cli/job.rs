//! `pacer explain`: why a job is where it is. Reads the database of the configuration; the server may be running.

use std::{io::Write, str::FromStr, sync::Arc};

use super::{ExplainArgs, Outcome};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    fleet::{
        explain::{self, Explanation},
        job::{InvalidJobKey, JobKey, JobStatus},
        runner::RunnerState,
    },
    store::{MAX_PAGE, RunnerFilter, Store},
};

/// A job as a person names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobReference {
    /// GitHub's id: the latest attempt.
    Latest(i64),
    Attempt(JobKey),
}

impl std::fmt::Display for JobReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latest(id) => write!(f, "job {id}"),
            Self::Attempt(key) => write!(f, "job {key}"),
        }
    }
}

impl FromStr for JobReference {
    type Err = InvalidJobKey;

    fn from_str(text: &str) -> Result<Self, InvalidJobKey> {
        // The address of a job's page ends with `/job/` and its id.
        let text = text.rsplit_once("/job/").map_or(text, |(_, id)| id);
        let text = text.split(['?', '#']).next().unwrap_or(text);
        match text.parse::<i64>() {
            Ok(id) if id > 0 => Ok(Self::Latest(id)),
            Ok(_) | Err(_) => text.parse().map(Self::Attempt),
        }
    }
}

pub(super) fn run(config: &Arc<Config>, args: &ExplainArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let explanation = super::block_on(explained(config, args.job))?;
    print(&explanation, args.json, out)
}

async fn explained(config: &Arc<Config>, reference: JobReference) -> anyhow::Result<Explanation> {
    let store = Store::open_read_only(&config.database.url).await?;
    let found = match reference {
        JobReference::Latest(id) => store.latest_attempt(id).await?,
        JobReference::Attempt(key) => store.job(key).await?,
    };
    let Some(job) = found else {
        anyhow::bail!(
            "{reference} is not in {}: the delivery has not arrived, its repository is not bound to a project, or it \
             was pruned; GitHub shows under the App's settings, \u{201c}Advanced\u{201d}, which deliveries it sent",
            config.database.url
        );
    };
    let alive = RunnerFilter {
        state: RunnerState::ALL.into_iter().filter(|state| !state.is_final()).collect(),
        project: job.project.clone(),
        repo: None,
    };
    let (mut runners, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.runners(&alive, cursor.as_deref(), MAX_PAGE).await?;
        runners.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let counts = explain::Counts::of(&job, &runners);
    let pauses = store.pauses().await?;
    Ok(explain::explain(&job, config, counts, &pauses, SystemClock.now()))
}

/// Prints the answer.
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
