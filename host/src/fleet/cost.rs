//! What a machine costs, and until when it is paid for.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// What a machine costs while it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// In millionths of the currency's unit.
    pub micros_per_hour: u64,
    /// ISO 4217.
    pub currency: String,
    /// The unit that is charged, in seconds; 0 where time is not counted in units.
    pub granularity: u32,
    /// What is charged at least, in seconds.
    pub minimum: u32,
    /// From when on it is charged.
    pub since: Timestamp,
}

impl Rate {
    /// The time that is charged when the machine ends at `until`.
    fn charged(&self, until: Timestamp) -> u64 {
        let millis = until.as_millisecond().saturating_sub(self.since.as_millisecond()).max(0).unsigned_abs();
        let seconds = millis.div_ceil(1000).max(u64::from(self.minimum));
        match u64::from(self.granularity) {
            0 => seconds,
            unit => seconds.div_ceil(unit).saturating_mul(unit),
        }
    }

    /// In millionths of the currency's unit, rounded up.
    pub fn cost(&self, until: Timestamp) -> u64 {
        let whole = u128::from(self.micros_per_hour) * u128::from(self.charged(until));
        u64::try_from(whole.div_ceil(3600)).unwrap_or(u64::MAX)
    }

    /// When to end a machine that is not needed now: shortly before another unit would be charged. What is paid for
    /// may serve a job until then.
    pub fn best_end(&self, now: Timestamp, margin: Duration) -> Timestamp {
        let paid = SignedDuration::from_secs(i64::try_from(self.charged(now)).unwrap_or(i64::MAX));
        let end = self.since.checked_add(paid).unwrap_or(now);
        (end - margin).max(now)
    }
}

/// An amount as people write it: `1.24 EUR`; four places where it is less than a cent.
pub fn shown(micros: u64, currency: &str) -> String {
    let whole = micros / 1_000_000;
    if !micros.is_multiple_of(10_000) && micros < 1_000_000 {
        return format!("{whole}.{:04} {currency}", (micros % 1_000_000).div_ceil(100));
    }
    format!("{whole}.{:02} {currency}", micros % 1_000_000 / 10_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn rate(granularity: u32, minimum: u32) -> Rate {
        Rate { micros_per_hour: 3_600_000, currency: "EUR".to_owned(), granularity, minimum, since: at(0) }
    }

    #[test]
    fn a_machine_costs_what_its_provider_charges() {
        assert_eq!(rate(1, 60).cost(at(5)), 60_000, "a minute at least");
        assert_eq!(rate(1, 60).cost(at(100)), 100_000);
        assert_eq!(rate(3600, 3600).cost(at(1)), 3_600_000, "a whole hour");
        assert_eq!(rate(3600, 3600).cost(at(3601)), 7_200_000);
        assert_eq!(rate(0, 0).cost(at(10)), 10_000);
        assert_eq!(rate(1, 0).cost(at(-5)), 0, "a clock that went back");
        let dear = Rate { micros_per_hour: u64::MAX, ..rate(3600, 3600) };
        assert_eq!(dear.cost(at(100_000)), u64::MAX);
    }

    #[test]
    fn what_is_paid_by_the_hour_is_kept_for_the_hour() {
        let margin = Duration::from_secs(120);
        assert_eq!(rate(3600, 3600).best_end(at(300), margin), at(3480));
        assert_eq!(rate(3600, 3600).best_end(at(3500), margin), at(3500), "too late for the next one");
        assert_eq!(rate(3600, 3600).best_end(at(3700), margin), at(7080));
        assert_eq!(rate(1, 60).best_end(at(300), margin), at(300), "nothing is won by waiting");
        assert_eq!(rate(0, 0).best_end(at(300), margin), at(300));
    }

    #[test]
    fn amounts_are_shown_with_their_currency() {
        for (micros, expected) in [
            (0, "0.00 EUR"),
            (42_000, "0.0420 EUR"),
            (1_240_000, "1.24 EUR"),
            (1, "0.0001 EUR"),
            (10_000, "0.01 EUR"),
            (12_345_678, "12.34 EUR"),
        ] {
            assert_eq!(shown(micros, "EUR"), expected);
        }
    }

    proptest! {
        #[test]
        fn waiting_for_the_best_end_costs_nothing_more(
            lived in 0i64..1_000_000, granularity in 0u32..90_000, minimum in 0u32..90_000, margin in 0u64..600,
        ) {
            let rate = rate(granularity, minimum);
            let end = rate.best_end(at(lived), Duration::from_secs(margin));
            prop_assert!(end >= at(lived));
            prop_assert_eq!(rate.cost(end), rate.cost(at(lived)));
        }
    }
}
