//! What is put to the test: one module for each kind of engine.

pub mod containers;
mod daemon;
pub mod incus;
pub mod simulated;

use std::path::PathBuf;

/// A built backend of those that come with pacer.
pub fn component(name: &str) -> PathBuf {
    pacer_tests::binaries::source_root().join("plugins").join(format!("{name}.wasm"))
}
