//! `pacer serve`.

use std::sync::Arc;

use anyhow::Context as _;

use super::Outcome;
use crate::{config::Config, serve};

pub(super) fn run(config: Arc<Config>) -> anyhow::Result<Outcome> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(serve::run(config))?;
    Ok(Outcome::Fine)
}
