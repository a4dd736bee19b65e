//! SIGHUP: the configuration is read again, and what can be replaced while the server runs is.
//!
//! That is who may come in: the webhook's secrets, `auth`, and whose word is taken for where a request comes from. The
//! rest is named, and waits for a restart. A file that is wrong changes nothing.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::{error, info, warn};

use crate::{
    config::{self, Config, ProcessEnvironment},
    ingest::WebhookSecrets,
    telemetry::Telemetry,
};

/// The keys of what is replaced.
const REPLACED: [&str; 4] = ["github.webhook_secret", "auth.token", "auth.disabled", "server.trusted_proxies"];

pub(super) struct Reload {
    /// What the parts were made from that are not replaced.
    pub started_with: Arc<Config>,
    pub current: Arc<ArcSwap<Config>>,
    pub secrets: Arc<ArcSwap<WebhookSecrets>>,
    pub telemetry: Telemetry,
}

impl Reload {
    pub async fn run(&self) {
        let path = self.started_with.path.clone();
        let shown = path.display().to_string();
        let read = tokio::task::spawn_blocking(move || config::load(&path, &ProcessEnvironment)).await;
        let read = match read {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return error!("the configuration in force stays:\n{error}"),
            Err(error) => return error!(%error, "the configuration in force stays: `{shown}` could not be read"),
        };
        super::hide_secrets(&self.telemetry, &read);
        super::announce(&read);
        self.secrets.store(Arc::new(WebhookSecrets::new(&read.github.webhook_secrets)));
        self.current.store(Arc::new(merged(&self.started_with, &read)));
        let waiting = waiting(&self.started_with, &read);
        if waiting.is_empty() {
            info!("`{shown}` is in force");
        } else {
            warn!(
                "`{shown}` was read again: {} are in force; restart pacer for what else changed: {}",
                REPLACED.join(", "),
                waiting.join(", ")
            );
        }
    }
}

fn merged(started_with: &Config, read: &Config) -> Config {
    let mut merged = started_with.clone();
    merged.auth = read.auth.clone();
    merged.server.trusted_proxies.clone_from(&read.server.trusted_proxies);
    merged.github.webhook_secrets.clone_from(&read.github.webhook_secrets);
    merged
}

fn waiting(started_with: &Config, read: &Config) -> Vec<String> {
    let changed = started_with.outline.changed(&read.outline);
    changed.into_iter().filter(|key| !REPLACED.contains(&key.as_str())).collect()
}
