//! Byte streams to granted endpoints, for protocols that are not HTTP.

use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

/// An open connection; each half can be taken once.
pub struct Connection {
    pub(super) input: Option<DynInputStream>,
    pub(super) output: Option<DynOutputStream>,
}
