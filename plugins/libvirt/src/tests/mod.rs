//! Against a real daemon (`real`), against a scripted one for what a real one cannot be made to do (`scripted`), and
//! documents and settings by themselves.

mod documents;
mod fixture;
mod real;
mod scripted;
mod settings;

use std::time::Duration;

use pacer_backend::{
    Bootstrap, Call, Exported, RunnerRequest,
    bindings::pacer::backend::model,
    connect::Connector,
    testing::{Memory, Script, context},
};
use serde_json::Value;

use crate::{
    Machines,
    settings::{Pool, Settings},
};

/// Runs with a call over this connector.
fn call<T>(connector: &dyn Connector, settings: &Value, deadline: Duration, act: impl FnOnce(&crate::C<'_>) -> T) -> T {
    let (transport, cache) = (Script::default(), Memory::default());
    let context = context(&settings.to_string(), deadline);
    let call = Call::<Settings>::new(context, &transport, &cache).expect("the settings fit their schema");
    act(&call.with_connector(connector))
}

fn request(name: &str, owner: &str, pool: &Value, bootstrap: Bootstrap) -> RunnerRequest<Pool> {
    Exported::<Machines>::request(model::RunnerRequest {
        name: name.into(),
        owner: owner.into(),
        labels: vec!["linux".into()],
        settings: pool.to_string(),
        bootstrap,
        lease_until_ms: 1_900_000_000_123,
        tags: vec![("project".into(), "my-app".into()), ("pool".into(), "<small> & \"odd\"".into())],
    })
    .expect("the pool's settings fit their schema")
}
