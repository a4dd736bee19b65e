//! The wall: runs backends as sandboxed components and lets them reach what they were granted, and nothing else.
//!
//! Nothing outside this folder knows wasmtime. To the rest of the host a backend is [`Backends`].

mod model;

pub use model::{
    BackendError, Backends, Billing, Bootstrap, Description, Destruction, EndpointRequest, ErrorKind, Instance,
    InstanceState, Price, RunnerRequest,
};
