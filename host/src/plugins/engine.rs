//! The one engine of the process and its clock of epochs.
//!
//! Epochs and compiled code belong to an engine: there is exactly one, and the thread that advances its epochs is
//! made in the same constructor, so that no call can run without a clock.

use std::{thread, time::Duration};

use wasmtime::{Config, Engine};

use super::PluginError;

/// How often a running component is interrupted to let others run and to count its time.
pub(super) const TICK: Duration = Duration::from_millis(10);

pub(super) fn config() -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.concurrency_support(false);
    config
}

pub(super) fn start() -> Result<Engine, PluginError> {
    let engine = Engine::new(&config()).map_err(PluginError::engine)?;
    let weak = engine.weak();
    thread::Builder::new()
        .name("pacer-epochs".into())
        .spawn(move || {
            loop {
                thread::sleep(TICK);
                match weak.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => break,
                }
            }
        })
        .map_err(|source| PluginError::Io { what: "start the epoch thread".into(), source })?;
    Ok(engine)
}
