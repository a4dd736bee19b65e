//! What the plugin host writes into its log while checks are made, for the search for secrets.

use std::{
    fmt::Write as _,
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

/// Kept of a run; a backend that writes more is searched in its end.
const LINES: usize = 100_000;

static LOG: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

struct Collect;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}

impl<S: Subscriber> Layer<S> for Collect {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !event.metadata().target().starts_with("pacer") {
            return;
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        let mut log = LOG.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LINES {
            log.clear();
        }
        log.push(line.0);
    }
}

/// Starts to collect, for the rest of the program. Where something else takes the log already, nothing is collected.
pub(crate) fn collect() {
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Collect));
}

/// The lines so far that `wanted` says yes to.
pub(crate) fn lines(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let log = LOG.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    log.iter().filter(|line| wanted(line)).cloned().collect()
}
