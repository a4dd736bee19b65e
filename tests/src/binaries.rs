//! Where the built programs are.
//!
//! The tests run what `cargo build` left beside them, in the same profile; `PACER_BIN` names another server to test,
//! a release build for instance. Backends are taken from `plugins/` in the source tree.

use std::path::{Path, PathBuf};

/// The root of the source tree.
pub fn source_root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Where cargo puts what it builds, whatever the profile.
pub fn target() -> PathBuf {
    let us = std::env::current_exe().expect("a running program has a path");
    let profile = us.ancestors().find(|folder| !folder.ends_with("deps") && folder.is_dir());
    profile.and_then(Path::parent).expect("a profile's folder is in cargo's").to_owned()
}

/// The server.
pub fn pacer() -> PathBuf {
    match variable("PACER_BIN") {
        Some(path) => PathBuf::from(path),
        None => beside_us("pacer"),
    }
}

/// The folder of the built backends.
pub fn plugins() -> PathBuf {
    let folder = variable("PACER_PLUGINS").map_or_else(|| source_root().join("plugins"), PathBuf::from);
    for plugin in ["docker.wasm", "simulated.wasm"] {
        let file = folder.join(plugin);
        assert!(file.is_file(), "`{}` is not built; run `make plugins`", file.display());
    }
    folder
}

/// Where cargo puts things.
pub fn target_folder() -> PathBuf {
    profile_folder().parent().expect("a profile's folder is in the target folder").to_owned()
}

/// A program of this workspace. Test programs live in `<profile>/deps`, programs in `<profile>`.
fn beside_us(name: &str) -> PathBuf {
    let path = profile_folder().join(name);
    assert!(path.is_file(), "`{}` is not built; run `cargo build -p {name}`", path.display());
    path
}

fn profile_folder() -> PathBuf {
    let us = std::env::current_exe().expect("a running program has a path");
    let mut folder = us.parent().expect("a program is in a folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("`deps` is in the profile's folder");
    }
    folder.to_owned()
}

/// A variable of the test run's environment.
pub fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the test run is steered by its environment, and only here")]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a missing engine is a failure rather than a reason to say that a test did not run.
pub fn in_ci() -> bool {
    variable("CI").is_some_and(|value| value == "true" || value == "1")
}
