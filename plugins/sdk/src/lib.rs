//! Write a pacer backend in Rust: implement [`Backend`], name it in [`export!`], build for `wasm32-wasip2`.
//!
//! What holds here:
//! * A backend reaches the world through its [`Call`] only. Its logic therefore runs natively against a scripted
//!   [`http::Transport`], a [`connect::Connector`] or a real engine ([`testing`]), and in the sandbox, unchanged.
//! * Every wait ends by the call's deadline; every body is read up to a stated size.
//! * A request's body is never part of an error, a log line or a `Debug` text: it may hold the bootstrap.

/// The generated words of the contract, `wit/backend.wit`.
#[expect(missing_docs, reason = "generated from the contract, which documents them")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "backend",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_provisioner",
        default_bindings_module: "pacer_backend::bindings",
    });
}

mod backend;
pub mod bootstrap;
mod cache;
mod call;
pub mod connect;
mod error;
pub mod http;
pub mod log;
mod money;
pub mod paging;
pub mod settings;
#[cfg(unix)]
pub mod testing;
pub mod text;
pub mod time;
#[cfg(target_family = "wasm")]
mod wasi;

pub use backend::{Backend, Exported, RunnerRequest, parse};
pub use bindings::pacer::backend::model::{
    Billing, Bootstrap, Context, Description, Destruction, EndpointRequest, Error, ErrorKind, Finding, Instance,
    InstanceState, Page, Price, Severity,
};
pub use cache::Cache;
pub use call::Call;
pub use money::micros;
pub use serde_json;

/// The backend that the guide shows is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/backends/writing.md")]
struct Guide;

/// Makes a type that implements [`Backend`] the component's export. Nothing is exported in a native build.
#[macro_export]
macro_rules! export {
    ($backend:ident) => {
        #[cfg(target_family = "wasm")]
        type PacerExported = $crate::Exported<$backend>;
        #[cfg(target_family = "wasm")]
        $crate::bindings::export_provisioner!(PacerExported with_types_in $crate::bindings);
    };
}
