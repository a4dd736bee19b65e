//! Against a real engine (`real`), and against a script for what a real one cannot be made to do (`scripted`).

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
    Docker,
    settings::{Pool, Settings},
};

/// What must never be seen outside the container's environment.
const SECRET: &str = "eyJzZWNyZXQiOiJqaXQifQ==";

fn call<'a>(transport: &'a dyn Transport, cache: &'a Memory, deadline: Duration) -> Call<'a, Settings> {
    Call::new(context("{}", deadline), transport, cache).expect("the settings are empty")
}

fn request(name: &str, owner: &str, pool: &Value) -> RunnerRequest<Pool> {
    Exported::<Docker>::request(model::RunnerRequest {
        name: name.into(),
        owner: owner.into(),
        labels: vec!["linux".into()],
        settings: pool.to_string(),
        bootstrap: Bootstrap::JitConfig(SECRET.into()),
        lease_until_ms: 1_900_000_000_123,
        tags: vec![("project".into(), "my-app".into()), ("pool".into(), "small".into())],
    })
    .expect("the pool's settings fit their schema")
}
