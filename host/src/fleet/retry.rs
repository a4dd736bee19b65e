//! How long to hold back after a failure, and when to give up: by the class of the error, never by its text.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::job::Losses;
use crate::{
    github::GitHubErrorKind,
    plugins::ErrorKind,
    store::{Pause, Proof},
};

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

impl Trouble {
    /// A stable word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Backend(kind) => kind.as_str(),
            Self::GitHub(kind) => match kind {
                GitHubErrorKind::Unauthorized => "github-unauthorized",
                GitHubErrorKind::Forbidden => "github-forbidden",
                GitHubErrorKind::NotFound => "github-not-found",
                GitHubErrorKind::NameTaken => "github-name-taken",
                GitHubErrorKind::Rejected => "github-rejected",
                GitHubErrorKind::RateLimited => "github-rate-limited",
                GitHubErrorKind::Unavailable => "github-unavailable",
            },
            Self::Lost => "lost",
            Self::Restart => "restart",
        }
    }
}

/// How a kind of trouble is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Treatment {
    /// The first wait; it doubles with every failure in a row.
    first: Duration,
    /// The longest wait.
    longest: Duration,
    patience: Patience,
}

/// How long a job puts up with a kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// What passes by itself: for as long as GitHub keeps a job queued.
    Day,
    /// What comes back with every machine: after so many runners lost to it the job is given up, so that it says so.
    Times(u32),
}

const fn treatment(first_ms: u64, longest_s: u64, patience: Patience) -> Treatment {
    Treatment { first: Duration::from_millis(first_ms), longest: Duration::from_secs(longest_s), patience }
}

/// How long GitHub keeps a job queued that no runner takes.
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn treat(trouble: Trouble) -> Treatment {
    use Patience::{Day, Times};
    match trouble {
        Trouble::Backend(kind) => match kind {
            ErrorKind::InvalidRequest | ErrorKind::InvalidConfig | ErrorKind::Unsupported => {
                treatment(10_000, 600, Times(5))
            }
            ErrorKind::Unauthorized => treatment(30_000, 900, Times(20)),
            ErrorKind::NotFound => treatment(15_000, 600, Times(20)),
            ErrorKind::Conflict => treatment(500, 60, Day),
            ErrorKind::Capacity => treatment(5_000, 120, Day),
            ErrorKind::Quota => treatment(30_000, 600, Day),
            ErrorKind::RateLimited => treatment(15_000, 600, Day),
            ErrorKind::Unavailable => treatment(1_000, 60, Day),
            ErrorKind::Interrupted => treatment(100, 60, Day),
            ErrorKind::Internal | ErrorKind::Other => treatment(2_000, 300, Times(50)),
        },
        Trouble::GitHub(kind) => match kind {
            GitHubErrorKind::Unauthorized | GitHubErrorKind::Forbidden | GitHubErrorKind::NotFound => {
                treatment(15_000, 600, Times(20))
            }
            // A new name is drawn at once; nothing is wrong with the pool.
            GitHubErrorKind::NameTaken => treatment(0, 0, Day),
            GitHubErrorKind::Rejected => treatment(10_000, 600, Times(5)),
            GitHubErrorKind::RateLimited => treatment(15_000, 600, Day),
            GitHubErrorKind::Unavailable => treatment(1_000, 60, Day),
        },
        Trouble::Lost => treatment(500, 120, Times(10)),
        Trouble::Restart => treatment(0, 0, Day),
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
    // What the endpoint asked for is obeyed, within a bound: an hour is more than any limit's window.
    let asked = retry_after.unwrap_or_default().min(Duration::from_secs(3600));
    // Failures of attempts that were under way together count once; what one of them was asked for holds for all.
    if let Some(previous) = previous
        && previous.until > now
    {
        return Some(Pause { until: previous.until.max(now + asked), ..previous.clone() });
    }
    let failures = previous.map_or(0, |pause| pause.failures).saturating_add(1);
    let doubled = treatment.first.saturating_mul(1 << (failures - 1).min(16));
    let wait = doubled.min(treatment.longest).mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
    let wait = wait.max(asked);
    let proof = match trouble {
        Trouble::Lost => Proof::Runner,
        Trouble::Backend(_) | Trouble::GitHub(_) | Trouble::Restart => Proof::Machine,
    };
    // What an earlier failure of the row needs proved is still to be proved.
    let proof = previous.map_or(proof, |previous| previous.proof.max(proof));
    Some(Pause { until: now + wait, reason: reason.to_owned(), failures, proof })
}

/// Why a job that has just lost a runner to this trouble is given up, if it is. `losses` counts this one too, and the
/// first runner was asked for at `since`.
pub fn gives_up(trouble: Trouble, losses: &Losses, since: Timestamp, now: Timestamp) -> Option<String> {
    let day_is_over = now.duration_since(since) >= DAY;
    let is_lasting = match treat(trouble).patience {
        Patience::Day => false,
        Patience::Times(most) => losses.of(trouble) >= most,
    };
    let lost = || format!("{} lost runners ({losses})", losses.total());
    match (is_lasting, day_is_over) {
        (true, _) => Some(format!("given up after {}", lost())),
        (false, true) => Some(format!("given up after a day and {}: GitHub keeps no job queued for longer", lost())),
        (false, false) => None,
    }
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
    fn refusals_of_a_burst_make_the_pause_as_long_as_was_asked_for_and_no_longer() {
        let limited = Trouble::GitHub(GitHubErrorKind::RateLimited);
        let asked = Some(Duration::from_secs(60));
        let mut pause = None;
        for second in 0..10 {
            pause = pause_after(limited, "429", asked, pause.as_ref(), 0.5, at(second));
        }
        let pause = pause.unwrap();
        assert_eq!((pause.until, pause.failures), (at(69), 1));
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

    /// Loses a runner to one kind of trouble as soon as its pool is tried again, until its job is given up.
    fn lose_until_given_up(trouble: Trouble, mut losses: Losses) -> (Losses, Duration, String) {
        let (mut now, mut pause) = (at(0), None);
        loop {
            // A create takes its time also where it is refused.
            now += Duration::from_secs(1);
            losses.add(trouble);
            if let Some(reason) = gives_up(trouble, &losses, at(0), now) {
                return (losses, now.duration_since(at(0)).unsigned_abs(), reason);
            }
            pause = pause_after(trouble, "x", None, pause.as_ref(), 0.5, now);
            now = pause.as_ref().map_or(now, |pause| pause.until);
        }
    }

    const ALL: [Trouble; 22] = {
        use ErrorKind as B;
        use GitHubErrorKind as G;
        use Trouble::{Backend, GitHub, Lost, Restart};
        [
            Backend(B::InvalidRequest),
            Backend(B::InvalidConfig),
            Backend(B::Unauthorized),
            Backend(B::NotFound),
            Backend(B::Conflict),
            Backend(B::Capacity),
            Backend(B::Quota),
            Backend(B::RateLimited),
            Backend(B::Unavailable),
            Backend(B::Interrupted),
            Backend(B::Unsupported),
            Backend(B::Internal),
            Backend(B::Other),
            GitHub(G::Unauthorized),
            GitHub(G::Forbidden),
            GitHub(G::NotFound),
            GitHub(G::NameTaken),
            GitHub(G::Rejected),
            GitHub(G::RateLimited),
            GitHub(G::Unavailable),
            Lost,
            Restart,
        ]
    };

    #[test]
    fn what_passes_by_itself_is_put_up_with_for_the_day_that_github_keeps_a_job() {
        let day = Duration::from_secs(86_400);
        for trouble in ALL {
            let (losses, patience, reason) = lose_until_given_up(trouble, Losses::default());
            let expected = match trouble.word() {
                "invalid-request" | "invalid-config" | "unsupported" | "github-rejected" => Some(5),
                "lost" => Some(10),
                "unauthorized" | "not-found" | "github-unauthorized" | "github-forbidden" | "github-not-found" => {
                    Some(20)
                }
                "internal" | "other" => Some(50),
                _ => None,
            };
            match expected {
                Some(most) => assert!(losses.total() == most && patience < day, "{trouble:?}: {losses}, {patience:?}"),
                None => {
                    let late = Duration::from_secs(900);
                    assert!((day..day + late).contains(&patience), "{trouble:?}: {losses}, {patience:?}");
                    assert!(reason.contains("after a day"), "{reason}");
                }
            }
            assert!(reason.contains(&format!("{} × {}", losses.total(), trouble.word())), "{reason}");
        }
    }

    #[test]
    fn a_later_failure_of_another_kind_does_not_lower_what_has_to_be_proved() {
        let lost = pause_after(Trouble::Lost, "x", None, None, 0.5, at(0)).unwrap();
        let down =
            pause_after(Trouble::Backend(ErrorKind::Unavailable), "x", None, Some(&lost), 0.5, lost.until).unwrap();
        assert_eq!((lost.proof, down.proof), (Proof::Runner, Proof::Runner));
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

        #[test]
        fn no_other_trouble_uses_up_the_patience_with_one(others in proptest::collection::vec(0..ALL.len(), 0..200), which in 0..ALL.len()) {
            let trouble = ALL[which];
            let mut before = Losses::default();
            for other in others.into_iter().map(|other| ALL[other]).filter(|other| *other != trouble) {
                before.add(other);
            }
            let alone = lose_until_given_up(trouble, Losses::default()).0;
            let after = lose_until_given_up(trouble, before).0;
            proptest::prop_assert_eq!(after.of(trouble), alone.of(trouble));
        }
    }
}
