//! `pacer explain`: why a job is where it is. Reads the database of the configuration; the server may be running.

use std::{io::Write, str::FromStr, sync::Arc};

use super::{ExplainArgs, Outcome};
use crate::{
    config::Config,
    fleet::job::{InvalidJobKey, JobKey},
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
}
