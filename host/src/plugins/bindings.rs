//! The contract in Rust, generated from `wit/`. Only the modules of this folder name these types.

use wasmtime::component::bindgen;

bindgen!({
    path: "../wit",
    world: "backend",
    imports: { default: async | trappable },
    exports: { default: async },
    with: {
        "wasi:io": wasmtime_wasi::p2::bindings::io,
        "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        "wasi:random": wasmtime_wasi::p2::bindings::random,
        "wasi:http": wasmtime_wasi_http::p2::bindings::http,
        "pacer:backend/connect.connection": crate::plugins::connect::Connection,
    },
    require_store_data_send: true,
});

/// The version of the contract this host speaks.
pub const CONTRACT: &str = "pacer:backend@0.1.0";
