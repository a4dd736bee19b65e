//! Against a real Incus (`real`), and against a script for what a real one cannot be made to do (`scripted`).

mod fixture;
mod real;
mod scripted;
mod settings;

use std::time::Duration;

use pacer_backend::{
    Bootstrap, Call, Exported, RunnerRequest,
    bindings::pacer::backend::model,
    http::Transport,
    testing::{Memory, context},
};
use serde_json::Value;

use crate::{
    IncusBackend,
    settings::{Pool, Settings},
};

/// What must never be seen outside the machine.
const SECRET: &str = "eyJzZWNyZXQiOiJqaXQifQ==";
/// No single thing takes a healthy server longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn call<'a>(transport: &'a dyn Transport, cache: &'a Memory, settings: &str, deadline: Duration) -> Call<'a, Settings> {
    Call::new(context(settings, deadline), transport, cache).expect("the settings fit")
}

fn request(name: &str, owner: &str, pool: &Value, bootstrap: Bootstrap) -> RunnerRequest<Pool> {
    Exported::<IncusBackend>::request(model::RunnerRequest {
        name: name.into(),
        owner: owner.into(),
        labels: vec!["linux".into()],
        settings: pool.to_string(),
        bootstrap,
        lease_until_ms: 1_900_000_000_123,
        tags: vec![("project".into(), "my-app".into()), ("pool".into(), "small".into())],
    })
    .expect("the pool's settings fit their schema")
}
