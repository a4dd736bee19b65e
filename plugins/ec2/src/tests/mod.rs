//! Against scripts of what EC2 answers, and against moto, a server that behaves as EC2 does.

mod double;
mod moto;
mod scripted;

use std::time::Duration;

use pacer_backend::{
    Bootstrap, Call, RunnerRequest,
    http::Transport,
    testing::{Memory, context},
};
use serde_json::{Value, json};

use crate::settings::{Pool, Settings};

/// No single thing takes a healthy endpoint longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn with<T>(transport: &dyn Transport, run: impl FnOnce(&Call<'_, Settings>) -> T) -> T {
    remembering(transport, &Memory::default(), run)
}

fn remembering<T>(transport: &dyn Transport, memory: &Memory, run: impl FnOnce(&Call<'_, Settings>) -> T) -> T {
    run(&Call::new(context("{}", PATIENCE), transport, memory).unwrap())
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
