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
    /// Whether the call that tells how it is now is under way.
    probing: bool,
    last: String,
}

/// How a call was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    Ordinary,
    /// The one after a pause: it alone says whether the circuit closes.
    Probe,
}

impl Breaker {
    /// Lets a call go ahead, or says how long to wait.
    pub(super) fn admit(&mut self, now: Timestamp) -> Result<Pass, Duration> {
        match self.open_until {
            None => Ok(Pass::Ordinary),
            Some(until) if now < until => Err(Duration::try_from(until.duration_since(now)).unwrap_or(self.pause)),
            Some(_) if self.probing => Err(FIRST_PAUSE),
            Some(_) => {
                self.probing = true;
                Ok(Pass::Probe)
            }
        }
    }

    pub(super) fn worked(&mut self, pass: Pass) {
        if self.counts(pass) {
            *self = Self::default();
        }
    }

    pub(super) fn broke(&mut self, pass: Pass, now: Timestamp, reason: &str) {
        if !self.counts(pass) {
            return;
        }
        self.probing = false;
        self.in_a_row = self.in_a_row.saturating_add(1);
        reason.clone_into(&mut self.last);
        if self.in_a_row >= FAULTS {
            self.pause = if self.pause.is_zero() { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
            self.open_until = Some(now.checked_add(self.pause).unwrap_or(Timestamp::MAX));
        }
    }

    /// A call ended and told nothing of the component: after a probe, the next call is one.
    pub(super) fn ended(&mut self, pass: Pass) {
        match pass {
            Pass::Ordinary => {}
            Pass::Probe => self.probing = false,
        }
    }

    /// What was under way already when the circuit opened says nothing new.
    fn counts(&self, pass: Pass) -> bool {
        match pass {
            Pass::Ordinary => self.open_until.is_none(),
            Pass::Probe => true,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// The last fault, while faults come in a row.
    pub(super) fn trouble(&self) -> Option<&str> {
        (self.in_a_row > 0).then_some(self.last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// Open until second 5.
    fn open() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..FAULTS {
            breaker.broke(Pass::Ordinary, at(0), "trap");
            assert_eq!(breaker.admit(at(0)), Ok(Pass::Ordinary));
        }
        breaker.broke(Pass::Ordinary, at(0), "trap");
        assert_eq!(breaker.admit(at(1)), Err(Duration::from_secs(4)));
        breaker
    }

    #[test]
    fn it_opens_probes_and_closes() {
        let mut breaker = open();
        assert_eq!(breaker.admit(at(5)), Ok(Pass::Probe));
        assert!(breaker.admit(at(600)).is_err(), "only one");
        breaker.broke(Pass::Probe, at(7), "trap");
        assert_eq!(breaker.admit(at(8)), Err(Duration::from_secs(9)), "twice as long");
        assert_eq!(breaker.admit(at(17)), Ok(Pass::Probe));
        breaker.worked(Pass::Probe);
        assert_eq!(breaker.admit(at(17)), Ok(Pass::Ordinary));
        assert_eq!(breaker.trouble(), None);
    }

    #[test]
    fn calls_that_were_under_way_when_it_opened_change_nothing() {
        let mut breaker = open();
        for _ in 0..100 {
            breaker.broke(Pass::Ordinary, at(1), "trap");
            breaker.worked(Pass::Ordinary);
        }
        assert_eq!(breaker.admit(at(2)), Err(Duration::from_secs(3)));
        assert_eq!(breaker.admit(at(5)), Ok(Pass::Probe));
        breaker.broke(Pass::Ordinary, at(5), "trap");
        assert!(breaker.admit(at(5)).is_err(), "the probe is still under way");
        breaker.broke(Pass::Probe, at(6), "trap");
        assert_eq!(breaker.admit(at(7)), Err(Duration::from_secs(9)), "twice as long, and no more");
    }

    #[test]
    fn a_probe_that_tells_nothing_is_given_back() {
        let mut breaker = open();
        assert_eq!(breaker.admit(at(5)), Ok(Pass::Probe));
        breaker.ended(Pass::Probe);
        assert_eq!(breaker.admit(at(5)), Ok(Pass::Probe));
        breaker.ended(Pass::Ordinary);
        assert!(breaker.admit(at(5)).is_err());
    }
}
