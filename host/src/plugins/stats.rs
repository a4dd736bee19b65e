//! How the operations of a backend have been doing.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Serialize;

/// Durations kept of each operation, for the quantiles that people see.
const KEPT: usize = 256;

/// How an operation has been doing.
#[derive(Debug, Clone, Serialize)]
pub struct OperationStats {
    pub operation: &'static str,
    pub calls: u64,
    pub errors: u64,
    /// Of the last calls.
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Of one backend, by operation.
#[derive(Default)]
pub(super) struct Stats(BTreeMap<&'static str, Durations>);

#[derive(Default)]
struct Durations {
    calls: u64,
    errors: u64,
    last: VecDeque<Duration>,
}

impl Stats {
    pub fn record(&mut self, operation: &'static str, took: Duration, failed: bool) {
        self.0.entry(operation).or_default().record(took, failed);
    }

    pub fn summaries(&self) -> Vec<OperationStats> {
        self.0.iter().map(|(operation, durations)| durations.summary(operation)).collect()
    }
}

impl Durations {
    fn record(&mut self, took: Duration, failed: bool) {
        self.calls += 1;
        self.errors += u64::from(failed);
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(took);
    }

    fn summary(&self, operation: &'static str) -> OperationStats {
        let mut sorted: Vec<Duration> = self.last.iter().copied().collect();
        sorted.sort_unstable();
        let quantile = |part: f64| {
            let index = ((sorted.len() as f64 - 1.0).max(0.0) * part).round() as usize;
            sorted.get(index).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
        };
        OperationStats {
            operation,
            calls: self.calls,
            errors: self.errors,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}
