//! The wall: runs backends as sandboxed components and lets them reach what they were granted, and nothing else.
//!
//! Nothing outside this folder knows wasmtime. To the rest of the host a backend is [`Backends`].

mod bindings;
mod breaker;
mod cache;
mod call;
mod compile;
mod connect;
mod convert;
mod egress;
mod engine;
mod error;
mod grant;
mod held;
mod host;
mod inspect;
mod judge;
mod load;
mod log;
mod memory;
mod meter;
mod model;
mod optional;
mod redact;
mod schema;
mod state;
mod stats;

pub use bindings::CONTRACT;
pub use compile::{Compiler, compile_child_main};
pub use error::PluginError;
pub use grant::{Grant, granted};
pub use host::{BackendStatus, Health, Host};
pub use inspect::{AvailablePlugin, Inspection, available, inspect};
pub use judge::Finding;
use log::CallLog;
pub use model::{
    BackendError, Backends, Billing, Bootstrap, Description, Destruction, EndpointRequest, ErrorKind, Instance,
    InstanceState, Price, RunnerRequest,
};
pub use schema::Schema;
pub use stats::OperationStats;
