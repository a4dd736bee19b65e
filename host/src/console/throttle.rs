//! Wrong tokens are slowed down: for each network with exponentially growing pauses, and for all together.
//!
//! Only a wrong answer is ever held back. Comparing a token is quick, takes the same time for all, and a token of 32
//! characters is not found by trying; so a right one is taken at once, and nobody can lock anybody else out by being
//! wrong from the same address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

/// A person mistypes or pastes the wrong thing a few times; nobody does it more often.
const FREE_TRIES: u32 = 5;
/// The longest pause; longer ones only hurt people behind a shared address.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// A network without a wrong try for this long starts afresh.
const FORGET: Duration = Duration::from_secs(900);
/// Networks remembered, about 100 bytes each. The oldest goes first.
const NETWORKS: usize = 4096;
/// Wrong tries of all networks in one window before the common limit holds.
const COMMON_TRIES: u32 = 200;
const COMMON_WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Throttle {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    networks: HashMap<IpAddr, Record>,
    window_started: Option<Timestamp>,
    window_tries: u32,
}

#[derive(Debug)]
struct Record {
    failures: u32,
    last: Timestamp,
    until: Timestamp,
}

impl Throttle {
    /// Takes note of a wrong token. `Err` is for one that came too early, which counts for nothing: how long to wait,
    /// in whole seconds.
    pub fn wrong(&self, address: IpAddr, now: Timestamp) -> Result<(), u64> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let until = table.held_until(address, now);
        if until > now {
            return Err(seconds_up(now, until));
        }
        table.window_tries += 1;
        let record = table.record(address, now);
        record.failures = record.failures.saturating_add(1);
        if record.failures > FREE_TRIES {
            let doublings = (record.failures - FREE_TRIES - 1).min(6);
            record.until = now + Duration::from_secs(1 << doublings).min(MAX_PAUSE);
        }
        Ok(())
    }
}

impl Table {
    fn held_until(&mut self, address: IpAddr, now: Timestamp) -> Timestamp {
        let started = *self.window_started.get_or_insert(now);
        if started + COMMON_WINDOW <= now {
            self.window_started = Some(now);
            self.window_tries = 0;
        }
        let common = if self.window_tries >= COMMON_TRIES { started + COMMON_WINDOW } else { now };
        self.networks.get(&network(address)).map_or(common, |record| record.until.max(common))
    }

    fn record(&mut self, address: IpAddr, now: Timestamp) -> &mut Record {
        let network = network(address);
        if self.networks.len() >= NETWORKS && !self.networks.contains_key(&network) {
            self.networks.retain(|_, record| record.last + FORGET > now);
            if self.networks.len() >= NETWORKS
                && let Some(oldest) = self.networks.iter().min_by_key(|(_, record)| record.last).map(|(key, _)| *key)
            {
                self.networks.remove(&oldest);
            }
        }
        let record = self.networks.entry(network).or_insert(Record { failures: 0, last: now, until: now });
        if record.last + FORGET <= now {
            record.failures = 0;
        }
        record.last = now;
        record
    }
}

/// Whom an address belongs to: of IPv6 everybody has at least a /64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
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
        for _ in 0..=FREE_TRIES {
            assert_eq!(throttle.wrong(address(1), at(0)), Ok(()));
        }
        assert_eq!(throttle.wrong(address(1), at(0)), Err(1));
        assert_eq!(throttle.wrong(address(1), at(1)), Ok(()));
        assert_eq!(throttle.wrong(address(1), at(1)), Err(2), "twice as long");
        assert_eq!(throttle.wrong(address(2), at(1)), Ok(()), "another address is not held back");
        let mut second = 3;
        for pause in [4, 8, 16, 32, 60, 60] {
            assert_eq!(throttle.wrong(address(1), at(second)), Ok(()));
            assert_eq!(throttle.wrong(address(1), at(second)), Err(pause));
            second += i64::try_from(pause).unwrap();
        }
        for _ in 0..=FREE_TRIES {
            assert_eq!(throttle.wrong(address(1), at(second + 900)), Ok(()), "after a while it is forgotten");
        }
    }

    #[test]
    fn all_together_are_limited_too() {
        let throttle = Throttle::default();
        for n in 0..COMMON_TRIES {
            assert_eq!(throttle.wrong(IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]), at(0)), Ok(()));
        }
        assert_eq!(throttle.wrong(address(1), at(1)), Err(59));
        assert_eq!(throttle.wrong(address(1), at(60)), Ok(()));
    }

    #[test]
    fn a_network_of_ipv6_is_one_caller() {
        let throttle = Throttle::default();
        let of = |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
        for host in 0..=u16::try_from(FREE_TRIES).unwrap() {
            assert_eq!(throttle.wrong(of(1, host), at(0)), Ok(()));
        }
        assert_eq!(throttle.wrong(of(1, 99), at(0)), Err(1));
        assert_eq!(throttle.wrong(of(2, 99), at(0)), Ok(()));
    }

    #[test]
    fn the_table_is_bounded() {
        let throttle = Throttle::default();
        for n in 0..u32::try_from(NETWORKS).unwrap() + 50 {
            assert_eq!(throttle.wrong(IpAddr::from(n.to_be_bytes()), at(i64::from(n))), Ok(()));
        }
        assert!(throttle.table.lock().unwrap().networks.len() <= NETWORKS);
    }
}
