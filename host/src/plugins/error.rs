//! Why a component cannot be used. What a call can answer is [`BackendError`](super::BackendError).

use std::{io, path::PathBuf};

use crate::routing::{BackendName, EndpointName};

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("cannot {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    #[error("{path} is {size} bytes, more than the {limit} of `plugins.limits.file_size`; raise it or build smaller")]
    TooLarge { path: PathBuf, size: u64, limit: u64 },
    #[error(
        "{path} has the digest {found}, the configuration pins {pinned}; put the pinned file back, or change `digest` \
         once you trust the new one"
    )]
    Digest { path: PathBuf, found: String, pinned: String },
    #[error("{path} is not a WebAssembly component: {reason}")]
    NotAComponent { path: PathBuf, reason: &'static str },
    #[error("{path} does not compile: {reason}")]
    Compile { path: PathBuf, reason: String },
    #[error("{path} does not fit this pacer: {reason}")]
    Link { path: PathBuf, reason: String },
    #[error("{path} does not introduce itself: {reason}")]
    Describe { path: PathBuf, reason: String },
    #[error("endpoint `{endpoint}` of backend `{backend}` cannot be used: {reason}")]
    Endpoint { backend: BackendName, endpoint: EndpointName, reason: String },
    #[error("{path} cannot be used as a cache of compiled code: {reason}")]
    CacheDir { path: PathBuf, reason: String },
}

impl PluginError {
    pub(super) fn engine(error: wasmtime::Error) -> Self {
        Self::Engine(format!("{error:#}"))
    }

    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// The message with its causes, for a place that has one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}
