//! Logs and metrics: set up once, at start.
//!
//! Logs go to stderr, one line an event, with RFC 3339 times. Field names are dotted and part of the interface:
//! `job.id`, `runner.name`, `delivery.id`, `backend.name`; units are in names (`duration_ms`). What was named with
//! [`Telemetry::hide`] never reaches them, whoever writes it.

mod access;
mod metrics;
mod redact;

use std::io::IsTerminal;

use secrecy::SecretString;
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use access::access_log;
pub use metrics::Metrics;
pub use redact::Redactor;

use crate::config::{self, LogFormat};

/// What was set up.
#[derive(Debug, Clone)]
pub struct Telemetry {
    metrics: Metrics,
    redactor: Redactor,
}

impl Telemetry {
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Blanks a secret out of every line from now on.
    pub fn hide(&self, secret: &SecretString) {
        self.redactor.hide(secret);
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`telemetry.log` is `{filter}`, which is not a filter: {reason}; write for instance `info,pacer=debug`")]
    Filter { filter: String, reason: String },
    #[error("logs or metrics are set up already")]
    Twice,
    #[error("the metrics cannot be set up: {0}")]
    Metrics(String),
}

/// Sets logs and metrics up for the whole process.
pub fn init(config: &config::Telemetry) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| TelemetryError::Filter { filter: config.log.clone(), reason: error.to_string() })?;
    let redactor = Redactor::default();
    let lines = match config.format {
        LogFormat::Text => {
            fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(redactor.clone()).boxed()
        }
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(redactor.clone()).boxed(),
    };
    let lines = lines.with_filter(filter_fn(is_discreet));
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|_| TelemetryError::Twice)?;
    Ok(Telemetry { metrics: Metrics::install()?, redactor })
}

/// Whether an event may be written, whatever `telemetry.log` asks for: below `info`, AWS's crates tell the keys that
/// they are given, in answers nobody else sees.
fn is_discreet(event: &Metadata<'_>) -> bool {
    !event.target().starts_with("aws_") || *event.level() <= Level::INFO
}
