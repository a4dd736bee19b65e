//! Byte streams to granted endpoints, for protocols that are not HTTP, as [`std::io::Read`] and [`std::io::Write`].

#[cfg(target_family = "wasm")]
pub use crate::wasi::{Reader, Stream, Writer, open};
