//! Wrong tokens are slowed down: for each address with exponentially growing pauses, and for all together.
//!
//! While an address is held back its tokens are not looked at, so waiting is the only way on. An address whose
//! token was right not long ago is exempt from the common limit: strangers cannot lock the operator's scripts out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

/// A person mistypes or pastes the wrong thing a few times; nobody does it more often.
const FREE_TRIES: u32 = 5;
/// The longest pause; longer ones only hurt people behind a shared address.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// An address without a wrong try for this long starts afresh.
const FORGET: Duration = Duration::from_secs(900);
/// Addresses remembered, about 100 bytes each. The oldest goes first.
const ADDRESSES: usize = 4096;
/// Wrong tries of all addresses in one window before the common limit holds.
const COMMON_TRIES: u32 = 200;
const COMMON_WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Throttle {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<IpAddr, Record>,
    window_started: Option<Timestamp>,
    window_tries: u32,
}

#[derive(Debug)]
struct Record {
    failures: u32,
    good: bool,
    last: Timestamp,
    until: Timestamp,
}

impl Throttle {
    /// How long this address has to wait before a token of it is looked at, in whole seconds.
    pub fn wait(&self, address: IpAddr, now: Timestamp) -> Option<u64> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let record = table.addresses.get(&address);
        if let Some(record) = record
            && record.until > now
        {
            return Some(seconds_up(now, record.until));
        }
        let exempt = record.is_some_and(|record| record.good);
        match table.window_started {
            Some(started) if !exempt && table.window_tries >= COMMON_TRIES && started + COMMON_WINDOW > now => {
                Some(seconds_up(now, started + COMMON_WINDOW))
            }
            Some(_) | None => None,
        }
    }

    pub fn wrong(&self, address: IpAddr, now: Timestamp) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.window_started.is_none_or(|started| started + COMMON_WINDOW <= now) {
            table.window_started = Some(now);
            table.window_tries = 0;
        }
        table.window_tries += 1;
        let record = table.record(address, now);
        record.failures = record.failures.saturating_add(1);
        if record.failures > FREE_TRIES {
            let doublings = (record.failures - FREE_TRIES - 1).min(6);
            record.until = now + Duration::from_secs(1 << doublings).min(MAX_PAUSE);
        }
    }

    /// A right token does not wipe out wrong ones: behind a shared address they are somebody else's.
    pub fn right(&self, address: IpAddr, now: Timestamp) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).record(address, now).good = true;
    }
}

impl Table {
    fn record(&mut self, address: IpAddr, now: Timestamp) -> &mut Record {
        if self.addresses.len() >= ADDRESSES && !self.addresses.contains_key(&address) {
            self.addresses.retain(|_, record| record.last + FORGET > now);
            if self.addresses.len() >= ADDRESSES
                && let Some(oldest) = self.addresses.iter().min_by_key(|(_, record)| record.last).map(|(key, _)| *key)
            {
                self.addresses.remove(&oldest);
            }
        }
        let record =
            self.addresses.entry(address).or_insert(Record { failures: 0, good: false, last: now, until: now });
        if record.last + FORGET <= now {
            record.failures = 0;
            record.good = false;
        }
        record.last = now;
        record
    }
}

fn seconds_up(now: Timestamp, until: Timestamp) -> u64 {
    u64::try_from(until.duration_since(now).as_millis()).unwrap_or(0).div_ceil(1000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn pauses_grow_and_are_forgotten() {
        let throttle = Throttle::default();
        for _ in 0..FREE_TRIES {
            throttle.wrong(address(1), at(0));
            assert_eq!(throttle.wait(address(1), at(0)), None);
        }
        throttle.wrong(address(1), at(0));
        assert_eq!(throttle.wait(address(1), at(0)), Some(1));
        throttle.wrong(address(1), at(1));
        assert_eq!(throttle.wait(address(1), at(1)), Some(2));
        assert_eq!(throttle.wait(address(2), at(1)), None, "another address is not held back");
        for _ in 0..40 {
            throttle.wrong(address(1), at(2));
        }
        assert_eq!(throttle.wait(address(1), at(2)), Some(60));
        throttle.wrong(address(1), at(2000));
        assert_eq!(throttle.wait(address(1), at(2000)), None);
    }

    #[test]
    fn the_common_limit_spares_who_was_right() {
        let throttle = Throttle::default();
        throttle.right(address(250), at(0));
        for n in 0..COMMON_TRIES {
            throttle.wrong(IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]), at(0));
        }
        assert_eq!(throttle.wait(address(1), at(1)), Some(59));
        assert_eq!(throttle.wait(address(250), at(1)), None);
        assert_eq!(throttle.wait(address(1), at(61)), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let throttle = Throttle::default();
        for n in 0..u32::try_from(ADDRESSES).unwrap() + 50 {
            throttle.wrong(IpAddr::from(n.to_be_bytes()), at(i64::from(n) / 100));
        }
        assert_eq!(throttle.table.lock().unwrap().addresses.len(), ADDRESSES);
    }
}
