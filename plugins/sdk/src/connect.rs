//! Byte streams to granted endpoints, for protocols that are not HTTP.
//!
//! The way out is a [`Connector`]: the sandbox's, or a real engine's socket in a test. A backend opens a stream with
//! [`Call::connect`] and speaks its protocol over [`std::io::Read`] and [`std::io::Write`].

use std::{
    io::{Read, Write},
    time::Duration,
};

use crate::{Call, Error};

#[cfg(target_family = "wasm")]
pub use crate::wasi::{Reader, Stream, Writer, open};

/// An open stream, both ways.
pub trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// What opens streams to endpoints.
pub trait Connector {
    /// Connects. Every read and write fails once `limit` from now is over.
    fn connect(&self, endpoint: &str, limit: Duration) -> Result<Box<dyn Connection>, Error>;
}

/// For calls that were given no connector.
pub(crate) struct Nowhere;

impl Connector for Nowhere {
    fn connect(&self, endpoint: &str, _limit: Duration) -> Result<Box<dyn Connection>, Error> {
        Err(Error::unavailable(format!("this call has no connector that reaches `{endpoint}`")))
    }
}

impl<S> Call<'_, S> {
    /// Connects to a granted endpoint. Reads and writes end with what is left of the call.
    pub fn connect(&self, endpoint: &str) -> Result<Box<dyn Connection>, Error> {
        self.connector.connect(endpoint, self.remaining())
    }
}
