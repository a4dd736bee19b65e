//! What the host holds on behalf of a call beside the component's own memory: resources, requests not sent yet, and
//! what is on its way. Each kind is bounded, and the worst of all of them is set aside before a call begins.

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi_http::{
    Error as Code, WasiHttpView as _,
    p2::{
        bindings::http::types::{ErrorCode, Host as _, HostOutgoingRequest as _, IoError, Method},
        types::HostOutgoingRequest,
    },
};

use super::state::State;
use crate::config::PluginLimits;

/// What a component may pass to the host in one call of an import, and answer in all: a page of a thousand machines.
pub(super) const HOSTCALL_BYTES: usize = 2 << 20;
/// Resources a component may hold. A request has ten with its body, its answer and what waits for them, and
/// `limits.requests` allows 16 of them; a timer has two. A call of a first-party backend holds a dozen.
pub(super) const RESOURCES: usize = 256;
/// Of a body, in one write.
pub(super) const CHUNK: usize = 8 << 10;
/// Chunks of a body that wait to be sent. One, and the one that the channel always has room for.
pub(super) const CHUNKS: usize = 1;
/// Of the header fields of one request, as they lie in memory.
pub(super) const FIELDS: usize = 16 << 10;
/// Of a path with its query; servers refuse more.
const PATH: usize = 8 << 10;
/// Of the name of an endpoint, which has 64 characters at most, or of a method.
const NAME: usize = 256;

/// Of the head of an answer, which stays when its body was read.
pub(super) const HEAD: usize = 32 << 10;

/// Of a request that is not sent: its body, its header fields, its trailers and its address. No other resource is
/// larger.
const RESOURCE: u64 = ((CHUNKS + 1) * CHUNK + 2 * FIELDS + PATH + 2 * NAME) as u64;
/// Of a body that is signed: it is held whole, since its digest comes before it. The largest that EC2 and its like take
/// is user data, 16 KiB.
pub(super) const SIGNED_BODY: u64 = 128 << 10;
/// Of a request or connection under way: its body, and the buffers of both directions.
const UNDER_WAY: u64 = SIGNED_BODY + 2 * HEAD as u64;

/// The most that is held for one call.
pub(super) fn at_most(limits: &PluginLimits) -> u64 {
    HOSTCALL_BYTES as u64 + RESOURCES as u64 * RESOURCE + u64::from(limits.requests) * UNDER_WAY
}

/// The texts of a request, which the engine takes in any length. To the component a longer one is malformed.
pub(super) fn bound_requests(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Set<T> = (Resource<HostOutgoingRequest>, T);
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store: StoreContextMut<'_, State>, (request, text): Set<Option<String>>| {
            if text.as_ref().is_some_and(|text| text.len() > NAME) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_authority(request, text)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut store: StoreContextMut<'_, State>, (request, text): Set<Option<String>>| {
            if text.as_ref().is_some_and(|text| text.len() > PATH) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_path_with_query(request, text)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store: StoreContextMut<'_, State>, (request, method): Set<Method>| {
            if matches!(&method, Method::Other(text) if text.len() > NAME) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_method(request, method)?,))
        },
    )?;
    // The engine knows the codes of requests only, and none of a body that is read.
    types.func_wrap("http-error-code", |mut store: StoreContextMut<'_, State>, (error,): (Resource<IoError>,)| {
        let mut view = store.data_mut().http();
        let limit = view.table.get(&error)?.downcast_ref::<Code>();
        if let Some(Code::HttpResponseBodySize(size)) = limit {
            return Ok((Some(ErrorCode::HttpResponseBodySize(*size)),));
        }
        Ok((view.http_error_code(error)?,))
    })?;
    linker.allow_shadowing(false);
    Ok(())
}
