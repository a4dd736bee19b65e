//! Where `${NAME}` comes from. A trait, so that tests pass a map and nothing else reads the process' environment.

use std::collections::{BTreeMap, HashMap};

/// Gives the string for a key.
pub trait Environment {
    fn get(&self, key: &str) -> Option<String>;
}

/// The environment of this process.
#[derive(Debug, Default, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn get(&self, key: &str) -> Option<String> {
        #[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
        std::env::var(key).ok()
    }
}

impl Environment for BTreeMap<String, String> {
    fn get(&self, key: &str) -> Option<String> {
        BTreeMap::get(self, key).cloned()
    }
}

impl Environment for HashMap<String, String> {
    fn get(&self, key: &str) -> Option<String> {
        HashMap::get(self, key).cloned()
    }
}
