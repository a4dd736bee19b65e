//! The wall: runs backends as sandboxed components and lets them reach what they were granted, and nothing else.
//!
//! Nothing outside this folder knows wasmtime. To the rest of the host a backend is [`Backends`].

mod bindings;
mod breaker;
mod cache;
mod compile;
mod connect;
mod engine;
mod error;
mod log;
mod model;

pub use compile::{Compiler, compile_child_main};
pub use error::PluginError;
pub use model::{
    BackendError, Backends, Billing, Bootstrap, Description, Destruction, EndpointRequest, ErrorKind, Instance,
    InstanceState, Price, RunnerRequest,
};
