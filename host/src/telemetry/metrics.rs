//! The recorder behind the `metrics` macros, and its text for Prometheus.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::TelemetryError;

/// Seconds: a webhook's commit takes milliseconds, a machine's start minutes.
const BUCKETS: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// The metrics of the process.
#[derive(Debug, Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// What `/metrics` answers.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds recorded samples into the buckets. Call it every few seconds: until then each sample takes memory.
    pub fn run_upkeep(&self) {
        self.0.run_upkeep();
    }

    /// Metrics of nobody, for parts that are tried on their own.
    pub fn detached() -> Result<Self, TelemetryError> {
        Ok(Self(recorder()?.handle()))
    }

    pub(super) fn install() -> Result<Self, TelemetryError> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| TelemetryError::Twice)?;
        Ok(Self(handle))
    }
}

fn recorder() -> Result<PrometheusRecorder, TelemetryError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)
        .map_err(|error| TelemetryError::Metrics(error.to_string()))?;
    Ok(builder.build_recorder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_counted_in_buckets() {
        let recorder = recorder().unwrap();
        let handle = Metrics(recorder.handle());
        metrics::with_local_recorder(&recorder, || metrics::histogram!("pacer_webhook_commit_seconds").record(0.003));
        let text = handle.render();
        assert!(text.contains("pacer_webhook_commit_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("pacer_webhook_commit_seconds_bucket{le=\"0.0025\"} 0"), "{text}");
        assert!(text.contains("le=\"600\""), "{text}");
    }
}
