//! How long to hold back after a failure, and when to give up: by the class of the error, never by its text.

use std::time::Duration;

use crate::{
    github::GitHubErrorKind,
    plugins::ErrorKind,
    store::{Pause, Proof},
};

use jiff::Timestamp;

/// What kind of trouble kept a runner from coming up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Backend(ErrorKind),
    GitHub(GitHubErrorKind),
    /// It came up and ended before it took a job, or never came online.
    Lost,
    /// pacer was restarted in the middle: nothing is wrong with the pool.
    Restart,
}

/// How a kind of trouble is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Treatment {
    /// The first wait; it doubles with every failure in a row.
    first: Duration,
    /// The longest wait.
    longest: Duration,
    /// After how many lost runners a job is given up. What an operator must mend is given up early, so that the job
    /// says so; what passes by itself is tried for as long as GitHub keeps the job (a day).
    attempts: u32,
}

const fn treatment(first_ms: u64, longest_s: u64, attempts: u32) -> Treatment {
    Treatment { first: Duration::from_millis(first_ms), longest: Duration::from_secs(longest_s), attempts }
}

/// No job is tried more often than this, whatever the trouble: at the longest wait of 5 minutes it is more than the
/// day GitHub keeps a job queued.
const PATIENT: u32 = 500;

fn treat(trouble: Trouble) -> Treatment {
    match trouble {
        Trouble::Backend(kind) => match kind {
            ErrorKind::InvalidRequest | ErrorKind::InvalidConfig | ErrorKind::Unsupported => treatment(10_000, 600, 5),
            ErrorKind::Unauthorized => treatment(30_000, 900, 20),
            ErrorKind::NotFound => treatment(15_000, 600, 20),
            ErrorKind::Conflict => treatment(500, 60, PATIENT),
            ErrorKind::Capacity => treatment(5_000, 120, PATIENT),
            ErrorKind::Quota => treatment(30_000, 600, PATIENT),
            ErrorKind::RateLimited => treatment(15_000, 600, PATIENT),
            ErrorKind::Unavailable => treatment(1_000, 60, PATIENT),
            ErrorKind::Interrupted => treatment(100, 60, PATIENT),
            ErrorKind::Internal | ErrorKind::Other => treatment(2_000, 300, 50),
        },
        Trouble::GitHub(kind) => match kind {
            GitHubErrorKind::Unauthorized | GitHubErrorKind::Forbidden | GitHubErrorKind::NotFound => {
                treatment(15_000, 600, 20)
            }
            // A new name is drawn at once; nothing is wrong with the pool.
            GitHubErrorKind::NameTaken => treatment(0, 0, PATIENT),
            GitHubErrorKind::Rejected => treatment(10_000, 600, 5),
            GitHubErrorKind::RateLimited => treatment(15_000, 600, PATIENT),
            GitHubErrorKind::Unavailable => treatment(1_000, 60, PATIENT),
        },
        Trouble::Lost => treatment(500, 120, 10),
        Trouble::Restart => treatment(0, 0, PATIENT),
    }
}

/// The pause a pool takes after a failure, or none. `jitter` is in 0..1 and spreads the wait over 75 to 125 %.
pub fn pause_after(
    trouble: Trouble,
    reason: &str,
    retry_after: Option<Duration>,
    previous: Option<&Pause>,
    jitter: f64,
    now: Timestamp,
) -> Option<Pause> {
    let treatment = treat(trouble);
    if treatment.first.is_zero() {
        return None;
    }
    // Failures of attempts that were under way together count once.
    if let Some(previous) = previous
        && previous.until > now
        && retry_after.is_none()
    {
        return Some(previous.clone());
    }
    let failures = previous.map_or(0, |pause| pause.failures).saturating_add(1);
    let doubled = treatment.first.saturating_mul(1 << (failures - 1).min(16));
    let wait = doubled.min(treatment.longest).mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
    // What the endpoint asked for is obeyed, within a bound: an hour is more than any limit's window.
    let wait = wait.max(retry_after.unwrap_or_default().min(Duration::from_secs(3600)));
    let proof = match trouble {
        Trouble::Lost => Proof::Runner,
        Trouble::Backend(_) | Trouble::GitHub(_) | Trouble::Restart => Proof::Machine,
    };
    Some(Pause { until: now + wait, reason: reason.to_owned(), failures, proof })
}

/// Whether a job that has now lost this many runners is given up.
pub fn gives_up(trouble: Trouble, losses: u32) -> bool {
    losses >= treat(trouble).attempts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let capacity = Trouble::Backend(ErrorKind::Capacity);
        let mut pause = None;
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let next = pause_after(capacity, "full", None, pause.as_ref(), 0.5, now).unwrap();
            waits.push(next.until.as_second() - now.as_second());
            now = next.until;
            pause = Some(next);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 120, 120]);
    }

    #[test]
    fn failures_under_way_together_count_once() {
        let down = Trouble::Backend(ErrorKind::Unavailable);
        let first = pause_after(down, "down", None, None, 0.5, at(0)).unwrap();
        let second = pause_after(down, "down", None, Some(&first), 0.5, at(0)).unwrap();
        assert_eq!(first, second);
        assert_eq!(second.failures, 1);
    }

    #[test]
    fn what_the_endpoint_asks_for_is_obeyed_within_an_hour() {
        let limited = Trouble::Backend(ErrorKind::RateLimited);
        let asked = |seconds| {
            let pause = pause_after(limited, "x", Some(Duration::from_secs(seconds)), None, 0.5, at(0)).unwrap();
            pause.until.as_second() - at(0).as_second()
        };
        assert_eq!(asked(90), 90);
        assert_eq!(asked(1_000_000), 3600);
    }

    #[test]
    fn only_what_an_operator_must_mend_is_given_up_early() {
        assert!(gives_up(Trouble::Backend(ErrorKind::InvalidConfig), 5));
        assert!(!gives_up(Trouble::Backend(ErrorKind::InvalidConfig), 4));
        assert!(!gives_up(Trouble::Backend(ErrorKind::Capacity), 200));
        assert!(gives_up(Trouble::Lost, 10));
    }

    #[test]
    fn a_taken_name_pauses_nothing() {
        assert_eq!(pause_after(Trouble::GitHub(GitHubErrorKind::NameTaken), "x", None, None, 0.5, at(0)), None);
    }

    proptest::proptest! {
        #[test]
        fn a_pause_never_exceeds_its_bounds(failures in 0u32..100_000, jitter in -1.0f64..2.0, asked in proptest::option::of(0u64..u64::MAX / 2)) {
            let previous = Pause { until: at(-1), reason: String::new(), failures, proof: Proof::Runner };
            let pause = pause_after(Trouble::Lost, "x", asked.map(Duration::from_secs), Some(&previous), jitter, at(0)).unwrap();
            let wait = pause.until.as_second() - at(0).as_second();
            proptest::prop_assert!((0..=3600).contains(&wait));
        }
    }
}
