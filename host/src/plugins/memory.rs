//! What outlives the calls of a component: what it wrote down, and how often it broke. It ends with the component.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    breaker::{Breaker, Pass},
    cache::Cache,
};

/// What is kept of a component in one backend across its calls.
#[derive(Clone, Default)]
pub(super) struct Memory {
    pub cache: Arc<Mutex<Cache>>,
    breaker: Arc<Mutex<Breaker>>,
}

impl Memory {
    /// The last fault while faults come in a row, and whether the circuit is open.
    pub fn fault(&self) -> Option<(bool, String)> {
        let breaker = locked(&self.breaker);
        let trouble = breaker.trouble()?.to_owned();
        Some((breaker.is_open(), trouble))
    }

    /// Lets a call go ahead, or says how long to wait.
    pub fn admit(&self, now: Timestamp) -> Result<Turn, Duration> {
        let pass = locked(&self.breaker).admit(now)?;
        Ok(Turn { breaker: self.breaker.clone(), pass })
    }
}

/// A call that the circuit let through. Dropped without a word about the component, it leaves things as they were.
pub(super) struct Turn {
    breaker: Arc<Mutex<Breaker>>,
    pass: Pass,
}

impl Turn {
    pub fn worked(self) {
        locked(&self.breaker).worked(self.pass);
    }

    pub fn broke(self, now: Timestamp, reason: &str) {
        locked(&self.breaker).broke(self.pass, now, reason);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        locked(&self.breaker).ended(self.pass);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
