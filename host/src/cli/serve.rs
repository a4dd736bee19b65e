//! `pacer serve`.

use std::sync::Arc;

use super::Outcome;
use crate::config::Config;

pub(super) fn run(config: Arc<Config>) -> anyhow::Result<Outcome> {
    let _ = config;
    anyhow::bail!("the server is not part of this build")
}
