//! Bodies on their way, counted while they pass: neither side can make the host hold more than a piece of one.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::header;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep_until},
};
use wasmtime_wasi_http::{Error as Code, WasiBody};

use super::{
    Route,
    call::{Call, Failure},
    http::{Connection, wire},
};

/// What a component sends.
pub(super) struct RequestBody {
    inner: WasiBody,
    left: u64,
    route: Arc<Route>,
    call: Arc<Call>,
}

impl RequestBody {
    pub fn new(inner: WasiBody, route: &Arc<Route>, call: &Arc<Call>) -> Self {
        Self { inner, left: call.limits.request_size, route: route.clone(), call: call.clone() }
    }

    pub fn empty(route: &Arc<Route>, call: &Arc<Call>) -> Self {
        Self::new(Empty::new().map_err(Code::from).boxed_unsync(), route, call)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Code;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let size = frame.data_ref().map_or(0, Bytes::len) as u64;
            match self.left.checked_sub(size) {
                Some(left) => self.left = left,
                None => {
                    let failure = self.call.request_too_large();
                    self.route.tell(&self.call, &failure);
                    return Poll::Ready(Some(Err(failure.code)));
                }
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body whose first piece was waited for: one that has none is known to be empty.
///
/// A component may begin a request before it has written or finished its body, so its length is not known by then.
/// Sent as it is, an empty one would travel as a chunked body, which engines refuse where they expect none.
pub(super) async fn begun(mut body: WasiBody) -> WasiBody {
    match body.frame().await {
        None => Empty::new().map_err(Code::from).boxed_unsync(),
        first @ Some(_) => Begun { first, rest: body }.boxed_unsync(),
    }
}

struct Begun {
    first: Option<Result<Frame<Bytes>, Code>>,
    rest: WasiBody,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = Code;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }
}

/// What a component receives. Gives the connection back when all of it was read.
pub(super) struct ResponseBody {
    inner: Incoming,
    left: u64,
    pause: Duration,
    patience: Pin<Box<Sleep>>,
    under_way: Option<(Connection, OwnedSemaphorePermit)>,
    route: Arc<Route>,
    call: Arc<Call>,
    failed: bool,
}

impl ResponseBody {
    /// `pause` is how long the other side may be silent.
    pub fn new(
        inner: Incoming,
        pause: Duration,
        under_way: (Connection, OwnedSemaphorePermit),
        route: Arc<Route>,
        call: Arc<Call>,
    ) -> Self {
        let patience = Box::pin(sleep_until(call.until(pause)));
        let left = call.limits.response_size;
        let mut body = Self { inner, left, pause, patience, under_way: Some(under_way), route, call, failed: false };
        if body.inner.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some((connection, _slot)) = self.under_way.take() {
            self.route.pool.put(connection);
        }
    }

    fn fail(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        self.failed = true;
        self.under_way = None;
        self.route.tell(&self.call, &failure);
        Poll::Ready(Some(Err(failure.code)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Code;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Pending => {
                if self.patience.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.fail(Failure::unreachable(Code::ConnectionReadTimeout, "the rest of the answer took too long"))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => self.fail(wire(&error, true)),
            Poll::Ready(Some(Ok(mut frame))) => {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.left.checked_sub(size) {
                    Some(left) => self.left = left,
                    None => {
                        let failure = self.call.response_too_large();
                        return self.fail(failure);
                    }
                }
                if let (Some(trailers), Some(_)) = (frame.trailers_mut(), &self.route.proof) {
                    trailers.remove(header::SET_COOKIE);
                }
                let at = self.call.until(self.pause);
                self.patience.as_mut().reset(at);
                if self.inner.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.failed { SizeHint::with_exact(0) } else { self.inner.size_hint() }
    }
}
