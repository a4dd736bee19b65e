//! STUB
use super::{CallLog, ErrorKind, PluginError};
use crate::{config, routing::EndpointName};
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};
pub(super) struct Egress;
impl Egress {
    pub fn new(_: &config::Backend, _: TaskTracker) -> std::result::Result<Self, PluginError> {
        Ok(Self)
    }
    pub fn grants(&self) -> Vec<(EndpointName, String)> {
        vec![]
    }
}
pub(super) struct CallEgress;
pub(super) struct OpenError {
    pub kind: ErrorKind,
    pub message: String,
}
impl CallEgress {
    pub fn new(_: Arc<Egress>, _: tokio::time::Instant, _: Arc<CallLog>) -> Self {
        Self
    }
    pub async fn open(&mut self, _: &str) -> std::result::Result<(DynInputStream, DynOutputStream), OpenError> {
        Err(OpenError { kind: ErrorKind::Other, message: String::new() })
    }
}
impl WasiHttpHooks for CallEgress {
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = std::result::Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<
                Output = Result<(
                    http::Response<WasiBody>,
                    Box<dyn Future<Output = std::result::Result<(), Error>> + Send>,
                )>,
            > + Send,
    > {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}
