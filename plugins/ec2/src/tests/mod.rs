//! Against scripts of what EC2 answers, against a double where EC2 does more than any server that can be had, and against
//! moto, a server that behaves as EC2 does.

mod codes;
mod double;
mod fleets;
mod launches;
mod moto;
mod script;
mod scripted;

use std::{collections::HashMap, sync::Mutex, time::Duration};

use pacer_backend::{Bootstrap, Cache, Call, Error, Instance, RunnerRequest, http::Transport, testing::context};
use serde_json::{Value, json};

use crate::settings::{Pool, Settings};

/// No single thing takes a healthy endpoint longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The host's memory for a backend, which calls at the same time share.
#[derive(Default)]
struct Memory(Mutex<HashMap<String, Vec<u8>>>);

impl Cache for Memory {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(key).cloned()
    }
    fn set(&self, key: &str, value: &[u8]) {
        self.0.lock().unwrap().insert(key.to_owned(), value.to_owned());
    }
    fn delete(&self, key: &str) {
        self.0.lock().unwrap().remove(key);
    }
}

fn with<T>(transport: &dyn Transport, run: impl FnOnce(&Call<'_, Settings>) -> T) -> T {
    within(PATIENCE, transport, &Memory::default(), run)
}

fn within<T>(
    deadline: Duration,
    transport: &dyn Transport,
    memory: &Memory,
    run: impl FnOnce(&Call<'_, Settings>) -> T,
) -> T {
    run(&Call::new(context("{}", deadline), transport, memory).unwrap())
}

/// Creates `pacer-a` of `app-1`.
fn create(transport: &dyn Transport, memory: &Memory, more: Value) -> Result<Instance, Error> {
    within(PATIENCE, transport, memory, |call| {
        <crate::Instances as pacer_backend::Backend>::create(call, request("pacer-a", "app-1", pool(more)))
    })
}

fn pool(more: Value) -> Pool {
    let mut whole =
        json!({ "ami": "ami-12c6146b", "instance_types": ["t3.small"], "prices": { "t3.small": "0.0208" } });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

fn request(name: &str, owner: &str, pool: Pool) -> RunnerRequest<Pool> {
    RunnerRequest {
        name: name.into(),
        owner: owner.into(),
        labels: vec![],
        pool,
        bootstrap: Bootstrap::StartScript("echo the-bootstrap".into()),
        lease_until_ms: 1_900_000_000_123,
        tags: vec![("project".into(), "app".into())],
    }
}
