//! Stops calling a backend that breaks at every call: its own faults only, never those of its engine.

use std::time::Duration;

use jiff::Timestamp;

/// Traps and exceeded limits in a row until the circuit opens.
const FAULTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    in_a_row: u32,
    pause: Duration,
    open_until: Option<Timestamp>,
    last: String,
}

impl Breaker {
    /// Whether a call may go ahead, or how long to wait. After a pause one call is let through as a probe, and the
    /// pause begins anew until it has answered.
    pub(super) fn admit(&mut self, now: Timestamp) -> Result<(), Duration> {
        match self.open_until {
            None => Ok(()),
            Some(until) if now < until => Err(Duration::try_from(until.duration_since(now)).unwrap_or(self.pause)),
            Some(_) => {
                self.open_until = Some(later(now, self.pause));
                Ok(())
            }
        }
    }

    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    pub(super) fn broke(&mut self, now: Timestamp, reason: &str) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        reason.clone_into(&mut self.last);
        if self.in_a_row >= FAULTS {
            self.pause = if self.pause.is_zero() { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
            self.open_until = Some(later(now, self.pause));
        }
    }

    pub(super) fn open_until(&self) -> Option<Timestamp> {
        self.open_until
    }

    /// The last fault, while faults come in a row.
    pub(super) fn trouble(&self) -> Option<&str> {
        (self.in_a_row > 0).then_some(self.last.as_str())
    }
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_probes_and_closes() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut breaker = Breaker::default();
        for _ in 1..FAULTS {
            breaker.broke(at(0), "trap");
            assert_eq!(breaker.admit(at(0)), Ok(()));
        }
        breaker.broke(at(0), "trap");
        assert_eq!(breaker.admit(at(1)), Err(Duration::from_secs(4)));
        assert_eq!(breaker.admit(at(5)), Ok(()), "the probe");
        assert!(breaker.admit(at(6)).is_err(), "only one");
        breaker.broke(at(7), "trap");
        assert_eq!(breaker.admit(at(8)), Err(Duration::from_secs(9)), "twice as long");
        assert_eq!(breaker.admit(at(17)), Ok(()));
        breaker.worked();
        assert_eq!(breaker.admit(at(17)), Ok(()));
        assert_eq!(breaker.trouble(), None);
    }
}
