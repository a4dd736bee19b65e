//! What may be asked now: GitHub's limits, kept before GitHub has to say so.
//!
//! One [`Budget`] an account (an installation, or the App itself), plain data with a passed-in `now`. It knows four
//! limits: a time before which nothing may be sent (`retry-after`, secondary limits), the primary quota as the last
//! answers told it, the points of a minute, and the registrations of five minutes and target. Each [`Class`] may use
//! a share of them, so that clean-up is shed first and job starts last.
//!
//! A server that sends no limit headers (an Enterprise Server has limits off by default) is not limited here either.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    time::Duration,
};

use jiff::Timestamp;

/// GitHub's secondary limit for REST, points a minute; a read is 1, a write 5.
const POINTS_PER_MINUTE: u32 = 900;
/// GitHub's limit of runner registrations for one repository or organisation.
const REGISTRATIONS_PER_WINDOW: u32 = 1_500;
const REGISTRATION_WINDOW_S: i64 = 300;
const MINUTE_S: i64 = 60;
/// GitHub asks for at least a minute after a secondary limit that names no time, growing with each one.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// A `retry-after` or `reset` beyond this is not believed: the primary window is an hour.
const LONGEST_BELIEVED: Duration = Duration::from_secs(3_700);

/// What a call is for. The order is the order in which they are kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Mint,
    Jit,
    Delete,
    Reconcile,
    List,
}

impl Class {
    /// The share of every limit, in percent, that this class may use up.
    fn share(self) -> u32 {
        match self {
            Self::Mint => 100,
            // Without a token nothing can be asked at all: the last 18 points of a minute are three of them.
            Self::Jit => 98,
            Self::Delete => 80,
            Self::Reconcile => 60,
            Self::List => 40,
        }
    }

    /// How long a call of this class waits for its turn before it is sent back, if its caller waits as long. The points
    /// are of a minute, so a job start that waits one gets its turn unless something is wrong.
    pub fn patience(self) -> Duration {
        match self {
            Self::Mint | Self::Jit => Duration::from_secs(65),
            Self::Delete | Self::Reconcile | Self::List => Duration::ZERO,
        }
    }
}

/// The limit headers of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quota {
    pub limit: u32,
    pub remaining: u32,
    pub reset: Timestamp,
}

/// Which limit a call has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// GitHub refused a call and said, or did not say, when to come back.
    Asked,
    Quota,
    RegistrationQuota,
    Points,
    Registrations,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("GitHub's rate limit, which it has just refused a call for"),
            Self::Quota => f.write_str("what is left of GitHub's hourly rate limit"),
            Self::RegistrationQuota => {
                f.write_str("what is left of GitHub's hourly rate limit of runner registrations")
            }
            Self::Points => write!(f, "GitHub's rate limit of {POINTS_PER_MINUTE} points a minute"),
            Self::Registrations => {
                write!(f, "GitHub's rate limit of {REGISTRATIONS_PER_WINDOW} registrations in 5 minutes")
            }
        }
    }
}

/// A call that may not be made yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    pub time: Duration,
    pub limit: Limit,
}

impl Wait {
    /// The longer of two.
    fn or(self, time: Duration, limit: Limit) -> Self {
        if time > self.time { Self { time, limit } } else { self }
    }
}

/// The resource of `x-ratelimit-resource` that only registrations spend.
const REGISTRATION: &str = "actions_runner_registration";

/// Counts of the seconds of a window that slides.
#[derive(Debug, Default)]
struct Window(VecDeque<(i64, u32)>);

impl Window {
    fn used(&mut self, now: i64, length: i64) -> u32 {
        while self.0.front().is_some_and(|(second, _)| *second <= now - length) {
            self.0.pop_front();
        }
        self.0.iter().map(|(_, count)| count).sum()
    }

    fn add(&mut self, now: i64, count: u32) {
        match self.0.back_mut() {
            // A clock that was set back must not make the window unordered.
            Some((second, sum)) if *second >= now => *sum += count,
            Some(_) | None => self.0.push_back((now, count)),
        }
    }

    /// Seconds until `count` more fit under `limit`.
    fn wait(&mut self, now: i64, length: i64, count: u32, limit: u32) -> i64 {
        let mut over = (self.used(now, length) + count).saturating_sub(limit);
        for (second, freed) in &self.0 {
            if over == 0 {
                return 0;
            }
            over = over.saturating_sub(*freed);
            if over == 0 {
                return (second + length - now).max(1);
            }
        }
        if over == 0 { 0 } else { length }
    }
}

/// The limits of one account.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// Whether the server has limits at all.
    limited: bool,
    blocked_until: Option<Timestamp>,
    /// Secondary limits in a row.
    strikes: u32,
    core: Option<Quota>,
    registration: Option<Quota>,
    points: Window,
    registrations: HashMap<String, Window>,
}

impl Budget {
    pub fn new(limited: bool) -> Self {
        Self { limited, ..Self::default() }
    }

    /// Takes what the call costs, or says how long it would have to wait, and for what.
    pub fn admit(&mut self, class: Class, write: bool, registers: Option<&str>, now: Timestamp) -> Result<(), Wait> {
        let points = if write { 5 } else { 1 };
        let second = now.as_second();
        let blocked = self.blocked_until.map_or(Duration::ZERO, |until| remaining(until, now));
        let mut wait = Wait { time: blocked, limit: Limit::Asked };
        let quotas = [
            Some((&mut self.core, Limit::Quota)),
            registers.map(|_| (&mut self.registration, Limit::RegistrationQuota)),
        ];
        for (known, limit) in quotas.into_iter().flatten() {
            if known.is_some_and(|quota| quota.reset <= now) {
                *known = None;
            }
            if let Some(quota) = known
                && u64::from(quota.remaining) * 100 <= u64::from(quota.limit) * u64::from(100 - class.share())
            {
                wait = wait.or(remaining(quota.reset, now), limit);
            }
        }
        if self.limited {
            let allowed = POINTS_PER_MINUTE * class.share() / 100;
            wait = wait.or(seconds(self.points.wait(second, MINUTE_S, points, allowed)), Limit::Points);
            if let Some(target) = registers
                && let Some(window) = self.registrations.get_mut(target)
            {
                let more = window.wait(second, REGISTRATION_WINDOW_S, 1, REGISTRATIONS_PER_WINDOW);
                wait = wait.or(seconds(more), Limit::Registrations);
            }
        }
        if !wait.time.is_zero() {
            return Err(wait);
        }
        for quota in [Some(&mut self.core), registers.map(|_| &mut self.registration)].into_iter().flatten().flatten() {
            quota.remaining = quota.remaining.saturating_sub(1);
        }
        if self.limited {
            self.points.add(second, points);
            if let Some(target) = registers {
                // Targets that registered nothing lately are forgotten, so the map is bounded by the registrations.
                if !self.registrations.contains_key(target) {
                    self.registrations.retain(|_, window| window.used(second, REGISTRATION_WINDOW_S) > 0);
                }
                self.registrations.entry(target.to_owned()).or_default().add(second, 1);
            }
        }
        Ok(())
    }

    /// Takes note of the limit headers of an answer. Answers overtake each other: of one window the lower counts.
    pub fn note(&mut self, resource: &str, quota: Quota, now: Timestamp) {
        let known = match resource {
            "core" | "" => &mut self.core,
            REGISTRATION => &mut self.registration,
            _ => return,
        };
        self.limited = true;
        let reset = quota.reset.min(later(now, LONGEST_BELIEVED));
        let remaining = match known {
            Some(old) if old.reset == reset => old.remaining.min(quota.remaining),
            Some(old) if old.reset > reset => return,
            Some(_) | None => quota.remaining,
        };
        *known = Some(Quota { limit: quota.limit, remaining, reset });
    }

    /// GitHub refused a call for a limit: of this resource, and with this quota, if it said so. Says when the next may be
    /// sent.
    pub fn refused(
        &mut self,
        retry_after: Option<Duration>,
        resource: &str,
        quota: Option<Quota>,
        now: Timestamp,
    ) -> Duration {
        let exhausted = quota.filter(|quota| quota.remaining == 0);
        if let Some(quota) = exhausted.filter(|_| resource == REGISTRATION) {
            let pause = remaining(quota.reset, now).max(retry_after.unwrap_or(Duration::from_secs(1)));
            let pause = pause.min(LONGEST_BELIEVED);
            self.registration = Some(Quota { reset: later(now, pause), ..quota });
            return pause;
        }
        let going_on = self.blocked_until.map(|until| remaining(until, now)).filter(|left| !left.is_zero());
        let pause = match (retry_after, exhausted, going_on) {
            (Some(pause), _, _) => pause,
            (None, Some(quota), _) => remaining(quota.reset, now).max(Duration::from_secs(1)),
            // Calls that were under way when the first was refused are no further offence.
            (None, None, Some(left)) => left,
            (None, None, None) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.strikes.min(8)).min(LONGEST_PAUSE);
                self.strikes += 1;
                pause
            }
        };
        let pause = pause.min(LONGEST_BELIEVED);
        let until = later(now, pause);
        self.blocked_until = Some(self.blocked_until.map_or(until, |known| known.max(until)));
        pause
    }

    /// GitHub took a call: the next secondary limit is a first one again.
    pub fn accepted(&mut self, now: Timestamp) {
        if self.blocked_until.is_none_or(|until| until <= now) {
            self.strikes = 0;
            self.blocked_until = None;
        }
    }

    /// What the account has left of its primary quota, if that is known.
    pub fn remaining(&self) -> Option<u32> {
        self.core.map(|quota| quota.remaining)
    }
}

fn remaining(until: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn told(seconds: u64, limit: Limit) -> Result<(), Wait> {
        Err(Wait { time: Duration::from_secs(seconds), limit })
    }

    #[test]
    fn a_minute_holds_176_registrations_and_the_rest_wait_their_turn() {
        let mut budget = Budget::new(true);
        let mut taken = 0;
        while budget.admit(Class::Jit, true, Some("o/r"), at(taken / 10)).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 176, "98 % of 900 points, 5 each");
        assert_eq!(budget.admit(Class::Jit, true, Some("o/r"), at(17)), told(43, Limit::Points));
        assert_eq!(budget.admit(Class::Mint, true, None, at(17)), Ok(()), "a token is still minted");
        assert_eq!(budget.admit(Class::Jit, true, Some("o/r"), at(61)), Ok(()));
    }

    #[test]
    fn clean_up_is_shed_before_job_starts() {
        let classes = [Class::List, Class::Reconcile, Class::Delete, Class::Jit, Class::Mint];
        // What each class leaves to those above it, of 5,000.
        for (shed, reserved) in [(0, 3_000), (1, 2_000), (2, 1_000), (3, 100), (4, 0)] {
            let over = told(1_000, Limit::Quota);
            for (remaining, outcome) in [(reserved, over), (reserved + 1, Ok(()))] {
                let mut budget = Budget::new(true);
                budget.note("core", Quota { limit: 5_000, remaining, reset: at(1_000) }, at(0));
                assert_eq!(
                    budget.admit(classes[shed], false, None, at(0)),
                    outcome,
                    "{:?}, {remaining}",
                    classes[shed]
                );
            }
            let mut budget = Budget::new(true);
            budget.note("core", Quota { limit: 5_000, remaining: reserved, reset: at(1_000) }, at(0));
            for more_important in &classes[shed + 1..] {
                assert_eq!(budget.admit(*more_important, false, None, at(0)), Ok(()), "{more_important:?}, {reserved}");
            }
            assert_eq!(budget.admit(classes[shed], false, None, at(1_000)), Ok(()), "the window is over");
        }
    }

    #[test]
    fn each_class_has_its_share_of_a_minute() {
        for (class, share) in
            [(Class::List, 360), (Class::Reconcile, 540), (Class::Delete, 720), (Class::Jit, 882), (Class::Mint, 900)]
        {
            let mut budget = Budget::new(true);
            let taken = (0..).take_while(|_| budget.admit(class, false, None, at(0)).is_ok()).count();
            assert_eq!(taken, share, "{class:?}");
        }
    }

    #[test]
    fn a_server_without_limit_headers_is_not_limited() {
        let mut budget = Budget::new(false);
        for _ in 0..10_000 {
            assert_eq!(budget.admit(Class::Jit, true, Some("o/r"), at(0)), Ok(()));
        }
        assert!(budget.registrations.is_empty());
    }

    #[test]
    fn registrations_of_one_target_do_not_hold_back_another() {
        let mut budget = Budget::new(true);
        for n in 0..1_500 {
            assert_eq!(budget.admit(Class::Jit, true, Some("a/a"), at(n / 8)), Ok(()), "{n}");
            budget.points = Window::default();
        }
        assert_eq!(budget.admit(Class::Jit, true, Some("a/a"), at(188)), told(112, Limit::Registrations));
        assert_eq!(budget.admit(Class::Jit, true, Some("b/b"), at(188)), Ok(()));
    }

    #[test]
    fn an_older_answer_does_not_give_quota_back() {
        let mut budget = Budget::new(true);
        budget.note("core", Quota { limit: 10, remaining: 1, reset: at(60) }, at(0));
        budget.note("core", Quota { limit: 10, remaining: 7, reset: at(60) }, at(0));
        assert_eq!(budget.remaining(), Some(1));
        budget.note("search", Quota { limit: 10, remaining: 0, reset: at(60) }, at(0));
        assert_eq!(budget.admit(Class::Mint, true, None, at(0)), Ok(()), "another resource is another quota");
        assert_eq!(budget.admit(Class::Mint, true, None, at(0)), told(60, Limit::Quota));
    }

    #[test]
    fn pauses_grow_with_each_secondary_limit_and_start_anew_after_a_success() {
        let mut budget = Budget::new(true);
        let exhausted = Quota { limit: 5_000, remaining: 0, reset: at(200) };
        assert_eq!(budget.refused(None, "", None, at(0)), Duration::from_secs(60));
        assert_eq!(budget.admit(Class::Mint, true, None, at(59)), told(1, Limit::Asked));
        assert_eq!(budget.refused(None, "", None, at(60)), Duration::from_secs(120));
        assert_eq!(budget.refused(Some(Duration::from_secs(7)), "", None, at(180)), Duration::from_secs(7));
        assert_eq!(budget.refused(None, "core", Some(exhausted), at(190)), Duration::from_secs(10));
        budget.accepted(at(300));
        assert_eq!(budget.refused(None, "", None, at(300)), Duration::from_secs(60));
    }

    #[test]
    fn calls_that_were_under_way_together_are_one_offence() {
        let mut budget = Budget::new(true);
        for second in 0..10 {
            let pause = budget.refused(None, "", None, at(second));
            assert_eq!(at(second) + pause, at(60));
        }
        assert_eq!(budget.refused(None, "", None, at(60)), Duration::from_secs(120), "the second one");
    }

    #[test]
    fn without_registrations_left_everything_else_goes_on() {
        let mut budget = Budget::new(true);
        let exhausted = Quota { limit: 10_000, remaining: 0, reset: at(600) };
        budget.note(REGISTRATION, exhausted, at(0));
        assert_eq!(budget.refused(None, REGISTRATION, Some(exhausted), at(0)), Duration::from_secs(600));
        assert_eq!(budget.admit(Class::List, false, None, at(0)), Ok(()));
        assert_eq!(budget.admit(Class::Jit, true, Some("o/r"), at(0)), told(600, Limit::RegistrationQuota));
        assert_eq!(budget.admit(Class::Jit, true, Some("o/r"), at(600)), Ok(()));
    }

    proptest! {
        #[test]
        fn the_points_of_any_minute_stay_under_the_limit(steps in prop::collection::vec((0i64..3, 0usize..5, any::<bool>()), 1..2_000)) {
            let classes = [Class::Mint, Class::Jit, Class::Delete, Class::Reconcile, Class::List];
            let mut budget = Budget::new(true);
            let (mut now, mut log) = (0, Vec::new());
            for (pass, class, write) in steps {
                now += pass;
                if budget.admit(classes[class], write, None, at(now)).is_ok() {
                    log.push((now, if write { 5 } else { 1 }));
                }
                let minute: u32 = log.iter().filter(|(then, _)| *then > now - 60).map(|(_, points)| points).sum();
                prop_assert!(minute <= POINTS_PER_MINUTE);
            }
        }

        #[test]
        fn whoever_waits_as_told_is_admitted(used in prop::collection::vec(0i64..60, 0..400), write in any::<bool>()) {
            let mut budget = Budget::new(true);
            let mut sorted = used;
            sorted.sort_unstable();
            for second in sorted {
                let _ = budget.admit(Class::Jit, true, Some("o/r"), at(second));
            }
            if let Err(wait) = budget.admit(Class::Reconcile, write, None, at(60)) {
                let then = at(60 + i64::try_from(wait.time.as_secs()).unwrap());
                prop_assert_eq!(budget.admit(Class::Reconcile, write, None, then), Ok(()));
            }
        }
    }
}
