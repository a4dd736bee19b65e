//! One call of the host: its settings, its deadline, and the way out.

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::{
    Cache, Context, Error,
    connect::{Connector, Nowhere},
    http::Transport,
    parse,
};

/// Kept back from the deadline, so that an error of ours arrives before the host ends the call.
const MARGIN: Duration = Duration::from_millis(250);

/// What an operation gets first.
pub struct Call<'a, S> {
    /// The backend's settings.
    pub settings: S,
    /// Unique for this call.
    pub operation_id: String,
    /// The backend's name in the configuration.
    pub backend: String,
    /// How requests leave.
    pub transport: &'a dyn Transport,
    /// How streams are opened.
    pub connector: &'a dyn Connector,
    /// The memory across calls.
    pub cache: &'a dyn Cache,
    started: Instant,
    limit: Duration,
}

impl<'a, S: DeserializeOwned> Call<'a, S> {
    /// A call over this transport and cache.
    pub fn new(context: Context, transport: &'a dyn Transport, cache: &'a dyn Cache) -> Result<Self, Error> {
        let deadline = Duration::from_millis(context.deadline_ms);
        Ok(Self {
            settings: parse("the backend's settings", &context.settings)?,
            operation_id: context.operation_id,
            backend: context.backend,
            transport,
            connector: &Nowhere,
            cache,
            started: Instant::now(),
            limit: deadline.saturating_sub(MARGIN.min(deadline / 4)),
        })
    }

    /// The same call with a way to open streams.
    #[must_use]
    pub fn with_connector(self, connector: &'a dyn Connector) -> Self {
        Self { connector, ..self }
    }
}

#[cfg(target_family = "wasm")]
impl<S: DeserializeOwned> Call<'static, S> {
    pub(crate) fn from_host(context: Context) -> Result<Self, Error> {
        Ok(Self::new(context, &crate::wasi::Wasi, &crate::wasi::Wasi)?.with_connector(&crate::wasi::Wasi))
    }
}

impl<S> Call<'_, S> {
    /// What is left of the call; zero when it is over.
    pub fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }
}
