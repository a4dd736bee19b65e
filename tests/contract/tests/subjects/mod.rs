//! What is put to the test: one module for each kind of engine.

pub mod containers;
pub mod ec2;
pub mod hetzner;
pub mod incus;
mod instance;
pub mod libvirt;
pub mod simulated;

use std::path::PathBuf;

use pacer_tests::binaries;

/// A built backend of those that come with pacer. `PACER_PLUGINS` names another folder of them.
pub fn component(name: &str) -> PathBuf {
    let folder =
        binaries::variable("PACER_PLUGINS").map_or_else(|| binaries::source_root().join("plugins"), Into::into);
    folder.join(format!("{name}.wasm"))
}
